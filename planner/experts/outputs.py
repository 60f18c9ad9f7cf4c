"""A placement as serving engines read it, and back.

========================  ==========================================================================================
sglang                    ``--init-expert-location`` JSON: ``physical_to_logical_map`` [hidden layers][slots]. SGLang
                          numbers all hidden layers (``num_layers=config.num_hidden_layers``); rows of dense layers
                          are never used and hold its trivial map.
trtllm                    load-balancer YAML: ``initial_global_assignments`` by index in the model, ``num_slots``,
                          ``layer_updates_per_iter: 0`` (static).
vllm-ascend               expert map JSON: ``layer_id`` counts MoE layers from 0; experts of each device in order.
eplb                      npz of DeepSeek's EPLB arrays: ``phy2log`` [MoE layers, slots], ``log2phy`` [MoE layers,
                          experts, most copies] padded with −1, ``logcnt``; and ``layer_index``.
========================  ==========================================================================================

All four take the GPU of a slot to be slot ÷ (slots per GPU), so GPUs must have equally many.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from planner.contract.published import check_not_edited
from planner.experts.arrays import read_arrays
from planner.experts.document import KIND, KIND_1_0, parse_placement
from planner.experts.eplb import logical_to_physical
from planner.experts.model import MoeModel
from planner.experts.placement import Ints, Placement, Topology
from profiles.errors import InputError, Unsupported
from profiles.files import MIB, Source
from profiles.markup import read_json
from profiles.values import shown
from profiles.yaml_markup import read_yaml


def sglang(placement: Placement, model: MoeModel) -> bytes:
    slots = placement.topology.total_slots
    rows = np.tile(np.arange(slots) % placement.experts, (model.layers, 1))
    rows[placement.layer_index] = placement.physical_to_logical
    return _json({"physical_to_logical_map": rows.tolist()})


def trtllm(placement: Placement, model: MoeModel) -> bytes:
    rows = zip(placement.layer_index.tolist(), placement.physical_to_logical.tolist(), strict=True)
    lines = [f"num_slots: {placement.topology.total_slots}", "initial_global_assignments:"]
    lines += [f"  {layer}: [{', '.join(map(str, row))}]" for layer, row in rows]
    return ("\n".join([*lines, "layer_updates_per_iter: 0"]) + "\n").encode()


def vllm_ascend(placement: Placement, model: MoeModel) -> bytes:
    gpus = placement.topology.gpus
    layers = [
        {
            "layer_id": layer,
            "device_count": gpus,
            "device_list": [
                {"device_id": gpu, "device_expert": experts}
                for gpu, experts in enumerate(row.reshape(gpus, -1).tolist())
            ],
        }
        for layer, row in enumerate(placement.physical_to_logical)
    ]
    return _json({"moe_layer_count": placement.layers, "layer_list": layers})


def eplb(placement: Placement, model: MoeModel) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        phy2log=placement.physical_to_logical,
        log2phy=logical_to_physical(placement),
        logcnt=placement.copies(),
        layer_index=placement.layer_index,
    )
    return buffer.getvalue()


def _json(document: Any) -> bytes:
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()


WRITERS: dict[str, Callable[[Placement, MoeModel], bytes]] = {
    "sglang": sglang,
    "trtllm": trtllm,
    "vllm-ascend": vllm_ascend,
    "eplb": eplb,
}
FORMATS = ("shardwright", *WRITERS)


def check_slots(slots: Ints, form: str) -> None:
    """Raises Unsupported where GPUs have different numbers of slots, which no engine takes."""
    if form in WRITERS and len(set(slots.tolist())) > 1:
        raise Unsupported(
            f"format: {form} needs equally many slots on every GPU, not {slots.min()} to {slots.max()}",
            "give --slots-per-gpu, or a --redundant that divides evenly",
        )


def written(placement: Placement, model: MoeModel, form: str) -> bytes:
    """``placement`` as engine ``form`` (a key of :data:`WRITERS`) reads it. Raises as :func:`check_slots`."""
    check_slots(placement.topology.slots, form)
    return WRITERS[form](placement, model)


# ------------------------------------------------------------------ the way back

LARGEST_PLACEMENT = 256 * MIB  # bytes of a file; 61 layers of 320 slots take 0.1

_HINT = f"give a file that `plan experts` wrote, in any --format ({', '.join(FORMATS)})"


def read_current(path: Path, model: MoeModel, topology: Topology, *, edited: bool = False) -> Placement:
    """A placement in any of the formats, for the GPUs of ``topology``.

    Args:
        edited: take a document of ours that was edited since it was made, too.

    Raises:
        InputError: unreadable, or edited; and what :func:`placement_of` raises.
    """
    source = Source(path, "current", _HINT, LARGEST_PLACEMENT)
    return placement_of(_arrays(source, model, edited), source.where, model, topology)


def placement_of(rows: Ints, where: str, model: MoeModel, topology: Topology) -> Placement:
    """The placement of a map [MoE layers, slots], for the GPUs of ``topology``.

    Raises:
        InputError: another number of layers, slots or experts; an expert without a copy or twice on a GPU.
    """
    layers, slots = len(model.moe_layers), topology.total_slots
    if rows.shape != (layers, slots):
        raise InputError(
            f"{where}: has {rows.shape[0]} MoE layers of {rows.shape[1]} slots, not {layers} of {slots}",
            f"{model.words}; {topology.gpus} GPUs hold {slots} slots: change --cluster or --slots-per-gpu",
        )
    if rows.min() < 0 or rows.max() >= model.experts:
        row, slot = (int(i) for i in np.argwhere((rows < 0) | (rows >= model.experts))[0])
        raise InputError(
            f"{where}: layer {model.moe_layers[row]}, slot {slot}: expert {rows[row, slot]} does not exist", model.words
        )
    placement = Placement(topology, rows, model.experts, model.layer_index)
    missing = np.argwhere(placement.copies() == 0)
    if len(missing):
        row, expert = (int(i) for i in missing[0])
        raise InputError(f"{where}: expert {expert} has no copy in layer {model.moe_layers[row]}", _HINT)
    key = np.sort(topology.gpu_of_slot * model.experts + rows, axis=1)
    twice = np.argwhere(key[:, 1:] == key[:, :-1])
    if len(twice):
        row, at = (int(i) for i in twice[0])
        gpu, expert = divmod(int(key[row, at]), model.experts)
        raise InputError(f"{where}: layer {model.moe_layers[row]}: expert {expert} is twice on GPU {gpu}", _HINT)
    return placement


def _arrays(source: Source, model: MoeModel, edited: bool) -> Ints:
    """Expert in each slot, shape [MoE layers, slots], not yet checked."""
    where, suffix = source.where, source.path.suffix.casefold()
    if suffix == ".npz":
        arrays = read_arrays(source)
        if "phy2log" not in arrays:
            raise source.wrong("holds no array phy2log")
        return _integers(arrays["phy2log"], where)
    document = read_yaml(source) if suffix in (".yaml", ".yml") else read_json(source)
    try:
        if "initial_global_assignments" in document:
            return _integers([document["initial_global_assignments"][layer] for layer in model.moe_layers], where)
        if "layer_list" in document:
            devices = [layer["device_list"] for layer in document["layer_list"]]
            return _integers([[e for device in row for e in device["device_expert"]] for row in devices], where)
        if document.get("kind") in (KIND, KIND_1_0):
            if not edited:
                check_not_edited(parse_placement(json.dumps(document), where), where)
            return _integers(document["decision"]["physical_to_logical_map"], where)
        rows = _integers(document["physical_to_logical_map"], where)
        return rows[model.layer_index] if len(rows) == model.layers else rows
    except KeyError as error:
        raise InputError(f"{where}: is not a placement ({shown(error.args[0])} is missing)", _HINT) from error
    except (TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{where}: is not a placement (keys or lists are missing)", _HINT) from error


def _integers(value: Any, where: str) -> Ints:
    try:
        rows = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: layers have different numbers of slots", _HINT) from error
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or rows.size == 0:
        raise InputError(f"{where}: the map is not a table of expert numbers", _HINT)
    return rows.astype(np.int64)
