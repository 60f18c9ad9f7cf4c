"""Recorded expert loads, checked against the model they were recorded on.

Accepted (one window each unless they hold several):

* JSON ``{"logical_count": [layers][experts]}`` or ``[windows][layers][experts]``; also the bare table.
* ``.npy``, or ``.npz`` with ``logical_count``, of the same shapes.
* CSV with the header ``layer,expert,count`` and optionally ``window``; layers counted in the model.
* SGLang's recorder dumps (``.pt``, or the same as JSON): their passes are added up to one window.
* A folder of TensorRT-LLM statistics: ``meta_info.json`` and ``rank*.safetensors``.

Dumps of single ranks, in which each counts the experts that the others leave at zero, are added up to one window.

A table with as many rows as the model has hidden layers has one for each, dense ones included (their rows must be
zero); one with as many rows as there are MoE layers has one for each of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner.experts.formats import RawCounts, read_counts
from planner.experts.model import MoeModel
from planner.experts.placement import Floats, Loads
from profiles.errors import InputError
from profiles.files import is_folder


def read_loads(paths: Sequence[Path], model: MoeModel) -> Loads:
    """All windows of all files, in order, weighted alike.

    Raises:
        InputError, Unsupported: what :func:`planner.experts.formats.read_counts` raises; NaN, infinite or negative
            counts; a layer without any token; layers or experts that are not the model's.
    """
    if not paths:
        raise InputError("loads: no file is given", "give a file of expert counts, or --synthetic sigma=0.7")
    named = [(path.name if is_folder(path) else path.stem, read_counts(path)) for path in paths]
    return loads_from(named, model)


def loads_from(recorded: Sequence[tuple[str, RawCounts]], model: MoeModel) -> Loads:
    """All windows of the ``recorded`` counts, each with its name, in order, weighted alike. Raises as
    :func:`fitted`."""
    windows, names = [], []
    for name, raw in _whole(recorded):
        counts = fitted(raw, model)
        windows.append(counts)
        names += [name] if len(counts) == 1 else [f"{name}[{i}]" for i in range(len(counts))]
    return loads_of(np.concatenate(windows), model, names)


def _whole(recorded: Sequence[tuple[str, RawCounts]]) -> Sequence[tuple[str, RawCounts]]:
    """``recorded`` as it is, or where each holds only what the others leave at zero, their sum: the counts of one
    rank each, of the same window."""
    first = recorded[0][1]
    alike = all(
        raw.counts.shape == first.counts.shape and len(raw.counts) == 1 and raw.layers is None for _, raw in recorded
    )
    if len(recorded) < 2 or not alike:
        return recorded
    counted = np.sum([raw.counts > 0 for _, raw in recorded], axis=0)
    if counted.max() > 1 or not all(raw.counts.any() for _, raw in recorded):
        return recorded
    names = [name for name, _ in recorded]
    total = np.sum([raw.counts for _, raw in recorded], axis=0)
    return [(f"{names[0]} to {names[-1]} ({len(names)} ranks added up)", RawCounts(first.where, total))]


def loads_of(counts: Floats, model: MoeModel, names: Sequence[str]) -> Loads:
    """``counts``: shape [windows, MoE layers, experts]; windows weigh alike."""
    windows = len(counts)
    return Loads(counts, model.layer_index, tuple(names), np.full(windows, 1 / windows))


def fitted(raw: RawCounts, model: MoeModel) -> Floats:
    """The rows of the model's MoE layers, in order, shape [windows, MoE layers, experts].

    Raises:
        InputError: naming what is wrong and what the model has.
    """
    counts, where = raw.counts, raw.where
    if counts.shape[2] != model.experts and not (raw.layers is not None and counts.shape[2] < model.experts):
        raise InputError(f"{where}: has counts of {counts.shape[2]} experts per layer", f"{model.words}")
    missing = model.experts - counts.shape[2]
    if missing:  # a list of entries that leaves zeros out: the last experts were never used
        counts = np.pad(counts, ((0, 0), (0, 0), (0, missing)))
    index = _rows(raw, model)
    for what, wrong in (("NaN", np.isnan(counts)), ("infinite", np.isinf(counts)), ("negative", counts < 0)):
        if wrong.any():
            window, row, expert = (int(i) for i in np.argwhere(wrong)[0])
            raise InputError(
                f"{where}: the count of layer {_layer(raw, model, row)}, expert {expert}"
                f"{f', window {window}' if len(counts) > 1 else ''} is {what} ({counts[window, row, expert]:g})",
                "counts are numbers of tokens, 0 or more",
            )
    chosen = counts[:, index]
    others = np.delete(counts, index, axis=1).sum(axis=(0, 2))
    if others.any():
        dense = np.delete(np.arange(counts.shape[1]), index)[np.flatnonzero(others)[0]]
        raise InputError(
            f"{where}: layer {dense} has counts but is dense", f"{model.words}; check that this is the model"
        )
    empty = np.argwhere(chosen.sum(axis=2) == 0)
    if len(empty):
        window, row = (int(i) for i in empty[0])
        raise InputError(
            f"{where}: layer {model.moe_layers[row]} has no token at all"
            f"{f' in window {window}' if len(counts) > 1 else ''}",
            "record longer; a layer that was never used cannot be balanced",
        )
    return chosen


def _rows(raw: RawCounts, model: MoeModel) -> list[int]:
    """Which row of the table each MoE layer has."""
    rows = raw.counts.shape[1]
    if raw.layers is None:
        if rows == model.layers:
            return list(model.moe_layers)
        if rows == len(model.moe_layers):
            return list(range(rows))
        raise InputError(f"{raw.where}: has {rows} layers", f"{model.words}: give {_expected(model)}")
    row_of = {int(layer): row for row, layer in enumerate(raw.layers)}
    strange = sorted(set(row_of) - set(range(model.layers)))
    if strange:
        raise InputError(f"{raw.where}: has layer {strange[0]}", f"{model.words}, counted from 0; leave others out")
    missing = [layer for layer in model.moe_layers if layer not in row_of]
    if missing:
        raise InputError(f"{raw.where}: has no counts of layer {missing[0]}", f"{model.words}; all are needed")
    return [row_of[layer] for layer in model.moe_layers]


def _expected(model: MoeModel) -> str:
    if len(model.moe_layers) == model.layers:
        return f"{model.layers} rows"
    return f"{model.layers} rows (dense layers zero) or {len(model.moe_layers)}"


def _layer(raw: RawCounts, model: MoeModel, row: int) -> int:
    if raw.layers is not None:
        return int(raw.layers[row])
    return row if raw.counts.shape[1] == model.layers else model.moe_layers[row]
