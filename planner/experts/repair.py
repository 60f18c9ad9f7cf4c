"""After GPUs are lost: the copies that remain, and every expert somewhere again."""

from __future__ import annotations

import numpy as np

from planner.experts.placement import Floats, Placement, Topology
from profiles.errors import Infeasible, InputError


def without(placement: Placement, lost: tuple[int, ...]) -> Placement:
    """What the GPUs that remain hold. Experts may be missing. Raises InputError for GPUs that are not there."""
    topology = placement.topology
    wrong = [gpu for gpu in lost if not 0 <= gpu < topology.gpus]
    if wrong or len(set(lost)) < len(lost):
        raise InputError(
            f"lost_gpus: {', '.join(map(str, wrong or lost))}: not distinct GPUs of 0…{topology.gpus - 1}",
            "name each lost GPU once",
        )
    if len(lost) == topology.gpus:
        raise Infeasible("lost_gpus: every GPU is lost", "keep at least one GPU")
    stays = np.setdiff1d(np.arange(topology.gpus), lost)
    left = Topology(topology.slots[stays], topology.node[stays], topology.domain[stays], topology.speed[stays])
    slots = np.isin(topology.gpu_of_slot, stays)
    return Placement(left, placement.physical_to_logical[:, slots], placement.experts, placement.layer_index)


def restored(placement: Placement, counts: Floats) -> Placement:
    """``placement`` with a copy of every expert: each missing one, heaviest first, takes the slot of a spare copy on
    the GPU that is then least loaded. Moves as many copies as experts are missing, which is the least.

    counts: [layers, experts]. Raises Infeasible where there are fewer slots than experts.
    """
    topology = placement.topology
    short = placement.experts - topology.total_slots
    if short > 0:
        raise Infeasible(
            f"slots: {topology.total_slots} remain for {placement.experts} experts: {short} are missing in every layer",
            f"add {short} slots (more slots per GPU, or a GPU in place of a lost one)",
        )
    out = placement.physical_to_logical.copy()
    gpu = topology.gpu_of_slot
    for physical, load in zip(out, counts, strict=True):
        copies = np.bincount(physical, minlength=placement.experts)
        missing = np.flatnonzero(copies == 0)
        for expert in missing[np.argsort(-load[missing], kind="stable")]:
            share = (load / np.maximum(copies, 1))[physical]
            gpu_load = np.bincount(gpu, share, topology.gpus)
            after = (gpu_load[gpu] - share + load[expert]) / topology.speed[gpu]
            slot = np.where(copies[physical] > 1, after, np.inf).argmin()
            copies[physical[slot]] -= 1
            physical[slot] = expert
            copies[expert] = 1
    return Placement(topology, out, placement.experts, placement.layer_index)
