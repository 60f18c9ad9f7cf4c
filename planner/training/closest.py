"""Where nothing fits: the layout that comes closest, and the stage and the part of memory that keep it from fitting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.training.layouts import ATTENTION, TrainingLayouts, default_split, stage_kinds
from costmodels.training.memory import PARTS, training_memory
from costmodels.training.setting import Setting
from planner.training.request import TrainingRequest
from planner.training.space import LayoutCandidates, candidates


@dataclass(frozen=True)
class Closest:
    """The layout whose fullest GPU holds least, and of that GPU the stage and the largest part."""

    label: str
    stage: int
    part: str
    bytes: float


def closest(setting: Setting, request: TrainingRequest, gpus: int, gpus_per_node: int) -> Closest | None:
    """Among the legal layouts on at most ``gpus`` GPUs, sharded and recomputed as far as is allowed, their stages as
    even as possible; None where no layout is legal."""
    found, _, _ = candidates(setting, request, gpus, gpus_per_node)
    shardings = set(setting.framework.sharding_with_pp) & set(request.sharding or setting.framework.shardings)
    staged = (found.pp == 1) | bool(shardings)
    found = found.take(np.flatnonzero((found.vpp == 1) & staged))  # virtual stages only hold more
    if not len(found):
        return None
    layouts = _leanest(setting, request, found)
    memory = training_memory(setting, layouts)
    used = memory.used()
    row = int(used.max(axis=1).argmin())
    stage = int(used[row].argmax())
    part = max(PARTS, key=lambda name: getattr(memory, name)[row, stage])
    return Closest(f"{found.label(row)}, ZeRO-{int(layouts.sharding[row])}", stage, part, float(used[row, stage]))


def _leanest(setting: Setting, request: TrainingRequest, found: LayoutCandidates) -> TrainingLayouts:
    n, model, facts = len(found), setting.model, setting.framework
    allowed = [each for each in facts.shardings if request.sharding is None or each in request.sharding]
    with_pp = [each for each in allowed if each in facts.sharding_with_pp] or [min(allowed)]
    layers = np.zeros((n, int(found.pp.max()), len(model.kinds)))
    for pp in np.unique(found.pp).tolist():
        layers[found.pp == pp, :pp] = stage_kinds(model, default_split(model.layers, pp), pp, setting.mtp)
    attention = request.attention or str(facts.defaults["attention"])
    return TrainingLayouts(
        tp=found.tp, pp=found.pp, vpp=found.vpp, dp=found.dp, cp=found.cp, ep=found.ep, etp=found.etp,
        sharding=np.where(found.pp > 1, max(with_pp), max(allowed)), shard_ranks=found.dp * found.cp,
        micro_batch=found.micro_batch, microbatches=request.global_batch // (found.dp * found.micro_batch),
        sequence_parallel=found.tp > 1, schedule=found.schedule, selective=np.zeros(n, np.int64),
        recomputed=layers.sum(axis=2) if request.recompute else np.zeros(layers.shape[:2]),
        attention=np.full(n, ATTENTION.index(attention)), layers=layers,
    )  # fmt: skip
