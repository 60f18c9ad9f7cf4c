"""Where the experts of the chosen engines live, from statistics that the user recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import Architecture
from costmodels.operations.exchanges import BALANCES
from costmodels.operations.layouts import Layouts
from costmodels.operations.wide_moe import balance_facts
from planner.contract.engine import NOTHING
from planner.contract.expert_placement import ExpertBalance, ExpertPlacement
from planner.experts.balance import balance, checked_counts
from planner.experts.inputs import read_loads
from planner.experts.model import MoeModel, moe_model
from planner.experts.pack import pack
from planner.experts.placement import Loads, Placement, Topology
from planner.experts.placing import default_placement
from planner.experts.replicate import replicate_for
from planner.serving.engines.groups import Group
from profiles.errors import InputError


def read_expert_loads(paths: Sequence[Path], architecture: Architecture) -> Loads:
    """The statistics in files of the formats of :mod:`planner.experts.inputs`, each a window or several.

    Raises:
        InputError: a model without routed experts; what :func:`planner.experts.inputs.read_loads` raises.
        Unsupported: a model whose expert layers differ, or what the reader raises.
    """
    return read_loads(paths, _moe(architecture))


def check_expert_loads(loads: Loads, architecture: Architecture) -> None:
    """Raises InputError where ``loads`` are not counts of this model's experts, and as :func:`read_expert_loads`."""
    model = _moe(architecture)
    checked_counts(loads)
    if loads.experts != model.experts or not np.array_equal(loads.layer_index, model.layer_index):
        raise InputError(
            f"--expert-loads: counts of {loads.layers} layers with {loads.experts} experts are another model's",
            model.words,
        )


def _moe(architecture: Architecture) -> MoeModel:
    if not architecture.is_moe:
        raise InputError(
            f"--expert-loads: {architecture.name} has no routed experts to place",
            "leave it out, or name a mixture-of-experts model (`plan models` lists all)",
        )
    return moe_model(architecture)


def busier_with(architecture: Architecture, loads: Loads) -> Callable[[Layouts], Floats]:
    """For :attr:`costmodels.serving.served_model.ServedModel.busier`: how busy the busiest GPU is under ``loads``, with
    experts in order where they are left alone, else copied and packed as EPLB does (a fast bound of what `plan experts`
    finds), mean over layers and windows."""
    model, known = _moe(architecture), {}
    weight = np.tensordot(loads.weights, loads.counts, axes=1)

    def left(ep: int, copies: int, balanced: bool) -> float:
        topology = Topology.uniform(ep, (model.experts + copies) // ep)
        placement = default_placement(topology, model)
        if balanced:
            slots = pack(weight, replicate_for(weight, topology.slots), topology.slots, topology.speed)
            rows = slots.reshape(len(weight), -1)
            placement = Placement(topology, rows, model.experts, model.layer_index)
        return float(1 / np.maximum(placement.balancedness(loads.counts), 1e-3).mean())

    def busier(layouts: Layouts) -> Floats:
        facts, out = balance_facts(), np.ones(len(layouts))
        for i in np.flatnonzero(layouts.wide & (layouts.eplb != BALANCES.index("perfect"))).tolist():
            key = int(layouts.ep[i]), int(layouts.redundant[i]), bool(layouts.eplb[i] != BALANCES.index("off"))
            if key not in known:
                known[key] = left(*key)
            out[i] = known[key] / facts.leaves[layouts.eplb[i]]
        return out

    return busier


def placements_of(
    groups: Sequence[Group], loads: Loads, routing: str, time_limit_s: float
) -> tuple[dict[str, ExpertPlacement], tuple[str, ...]]:
    """The placement for each group with expert parallelism, by the group's id, and notes for the reader.

    A layout's ep divides the experts and their copies, so that every rank has equally many: there always is a
    placement. GPUs of a group are alike, so balance does not depend on which node they are in.

    Args:
        routing: the spread of tokens over experts that times were predicted with.
        time_limit_s: for the search of each different ep.
    """
    found = {
        (ep, copies): _placed(groups[0].job.served.model, loads, ep, copies, time_limit_s)
        for ep, copies in sorted({_shares(group) for group in groups if group.layout.ep > 1})
    }
    if not found:
        return {}, (
            "expert loads were given, but no chosen engine shares out its experts (ep 1): there is nothing to place",
        )
    notes = []
    if any(group.layout.exchange == NOTHING for group in groups):
        notes.append(
            f"experts are placed for the loads given; predicted times take tokens as spread as {routing}, "
            "before as after that placement"
        )
    if any(group.layout.exchange != NOTHING for group in groups):
        notes.append(
            "experts are placed for the loads given, and the busiest GPU under them sets the time of experts and of "
            "their exchange where an all-to-all reaches them"
        )
    if any(stopped for _, stopped in found.values()):
        notes.append(f"the search for expert placements was ended by the time limit of {time_limit_s:g} s")
    return {group.id: found[_shares(group)][0] for group in groups if group.layout.ep > 1}, tuple(notes)


def _shares(group: Group) -> tuple[int, int]:
    return group.layout.ep, group.layout.redundant


def _placed(
    architecture: Architecture, loads: Loads, ep: int, copies: int, time_limit_s: float
) -> tuple[ExpertPlacement, bool]:
    """The placement on ``ep`` ranks with so many ``copies``, and whether the time limit ended its search."""
    model = moe_model(architecture)
    topology = Topology.uniform(ep, (model.experts + copies) // ep)
    made = balance(loads, topology, time_limit_s=time_limit_s)
    certificate = made.certificate
    scores = (
        default_placement(topology, model).balancedness(loads.counts),
        certificate.balancedness,
        certificate.mean / certificate.bound,
    )
    balancedness = tuple(
        ExpertBalance(window=name, before=before, after=after, bound=bound)
        for name, before, after, bound in zip(
            loads.names, *(np.minimum(score, 1.0).mean(axis=1).tolist() for score in scores), strict=True
        )
    )
    document = ExpertPlacement(
        slots_per_rank=(model.experts + copies) // ep,
        layer_index=model.moe_layers,
        physical_to_logical_map=tuple(map(tuple, made.placement.physical_to_logical.tolist())),
        balancedness=balancedness,
        gap=float(certificate.gap.mean()),
    )
    return document, made.stopped
