"""Every layout of a small instance, its stages and its recomputation, evaluated one and all: the twin of the search."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from costmodels.training.exchanges import Links
from costmodels.training.iteration import iteration_times, pooled_iterations
from costmodels.training.layouts import RECOMPUTED, ZERO_BUBBLE, TrainingLayouts, default_split, stage_kinds
from costmodels.training.memory import training_memory
from costmodels.training.pools import pooled_times
from costmodels.training.setting import Setting
from planner.training.lines import StagePool
from planner.training.request import TrainingRequest
from planner.training.space import LayoutCandidates, candidates


def best_of_all(
    setting: Setting, request: TrainingRequest, links: Links, gpus: int, capacity: float, selective: list[int]
) -> tuple[float, int]:
    """(least time of an iteration in µs, infinite where nothing fits; layouts evaluated)."""
    found, _, _ = candidates(setting, request, gpus, links.network.gpus_per_node)
    best, evaluated = np.inf, 0
    for layouts, possible in _all(setting, request, found, selective):
        time = iteration_times(setting, links, layouts).total.value
        fits = possible & (training_memory(setting, layouts).used() <= capacity).all(axis=1)
        evaluated += len(layouts)
        if fits.any():
            best = min(best, float(time[fits].min()))
    return best, evaluated


def best_across(
    setting: Setting, request: TrainingRequest, pools: tuple[StagePool, ...], selective: list[int]
) -> float:
    """The least time of an iteration, µs, of pipelines whose stages are in two of ``pools`` or more, in one block of
    neighbours each."""
    per_node = min(pool.links.network.gpus_per_node for pool in pools)
    found, _, _ = candidates(setting, request, sum(pool.gpus for pool in pools), per_node)
    best = np.inf
    for row in range(len(found)):
        one = found.take(np.array([row]))
        pp = int(one.pp[0])
        ranks = int(one.gpus[0]) // pp
        lines = []
        for line in itertools.product(range(len(pools)), repeat=pp):
            blocks = [pool for pool, _ in itertools.groupby(line)]
            room = all(line.count(index) * ranks <= pool.gpus for index, pool in enumerate(pools))
            if room and len(blocks) > 1 and len(set(blocks)) == len(blocks):
                lines.append(line)
        if not lines:
            continue
        for layouts, possible in _all(setting, request, one, selective):
            used = training_memory(setting, layouts).used()
            for line in lines:
                where = np.tile(np.array(line), (len(layouts), 1))
                times = pooled_times(setting, [pool.links for pool in pools], layouts, where)
                time = pooled_iterations(setting, layouts, times).total.value
                fits = possible & (used <= np.array([pools[index].capacity for index in line])).all(axis=1)
                if fits.any():
                    best = min(best, float(time[fits].min()))
    return best


def _all(
    setting: Setting, request: TrainingRequest, found: LayoutCandidates, selective: list[int]
) -> Iterator[tuple[TrainingLayouts, np.ndarray]]:
    """All choices of stages and recomputation of each combination; whether the framework has a flag for them."""
    for row in range(len(found)):
        one = found.take(np.array([row]))
        rows = list(_stages(setting, request, one))
        ranks = int(one.dp[0] * one.cp[0])
        shardings = [s for s in setting.framework.shardings if request.sharding is None or s in request.sharding]
        for sharding in shardings:
            if int(one.pp[0]) > 1 and sharding not in setting.framework.sharding_with_pp:
                continue
            if ranks == 1 and sharding != min(shardings):
                continue
            for bits in selective:
                layers = np.array([layer for layer, _ in rows])
                recomputed = np.array([again for _, again in rows], dtype=np.float64)
                n = len(rows)

                def full(value: int, n: int = n) -> np.ndarray:
                    return np.full(n, value, dtype=np.int64)

                layouts = TrainingLayouts(
                    **{name: full(int(getattr(one, name)[0])) for name in ("tp", "pp", "vpp", "dp", "cp", "ep", "etp")},
                    sharding=full(sharding),
                    shard_ranks=full(ranks),
                    micro_batch=full(int(one.micro_batch[0])),
                    microbatches=full(request.global_batch // int(one.dp[0] * one.micro_batch[0])),
                    sequence_parallel=np.full(n, int(one.tp[0]) > 1),
                    schedule=full(int(one.schedule[0])),
                    selective=full(bits),
                    recomputed=recomputed,
                    attention=full(4 if setting.framework.name == "megatron" else 1),
                    layers=layers,
                )
                yield layouts, np.array([_has_a_flag(setting, bits, layer, again) for layer, again in rows])


def _stages(setting: Setting, request: TrainingRequest, one: object) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """(layers of each kind in each stage, layers recomputed in each stage) of all choices for one combination."""
    model = setting.model
    pp, vpp = int(one.pp[0]), int(one.vpp[0])  # type: ignore[attr-defined]
    mixed = vpp > 1 and len(model.kinds) > 1
    if pp == 1 or mixed or pp * vpp > model.layers or not request.uneven or setting.mtp:
        splits = [default_split(model.layers, pp * vpp)]
    else:
        splits = list(_compositions(model.layers, pp, vpp))
    may_recompute = request.recompute and int(one.schedule[0]) != ZERO_BUBBLE  # type: ignore[attr-defined]
    for split in splits:
        kinds = stage_kinds(model, split, pp, setting.mtp)
        most = kinds.sum(axis=1).astype(int)
        choices = [range(count + 1) if may_recompute else range(1) for count in most]
        for again in itertools.product(*choices):
            yield kinds, again


def _has_a_flag(setting: Setting, selective: int, layers: np.ndarray, again: tuple[int, ...]) -> bool:
    """Layers are recomputed whole, or parts of each: torchtitan's every n-th layer whole, others' as many of each stage
    as asked."""
    if selective:
        return not any(again)
    held = layers.sum(axis=1).astype(int).tolist()
    every = setting.framework.name == "torchtitan"
    return all(
        r == 0 or not every or r in {n // each for each in range(1, n + 1)} for n, r in zip(held, again, strict=True)
    )


def _compositions(layers: int, pp: int, vpp: int) -> Iterator[tuple[int, ...]]:
    """All ways to give ``layers`` to ``pp`` stages, each run of a stage at least one; runs as even as possible."""
    for cuts in itertools.combinations(range(1, layers), pp - 1):
        counts = [b - a for a, b in zip((0, *cuts), (*cuts, layers), strict=True)]
        if min(counts) < vpp:
            continue
        runs = np.zeros((vpp, pp), np.int64)
        for stage, count in enumerate(counts):
            for turn in range(vpp):
                runs[turn, stage] = count // vpp + (1 if turn >= vpp - count % vpp else 0)
        yield tuple(int(each) for each in runs.ravel())


def selective_sets(setting: Setting) -> list[int]:
    """As the search takes them, where it may recompute."""
    facts = setting.framework
    sets: list[tuple[str, ...]] = [()]
    if "op" in facts.recompute:
        sets.append(("op",))
    if "layernorm" in facts.recompute:
        sets += [("layernorm",), ("layernorm", "moe_act" if setting.model.experts is not None else "mlp")]
    return [sum(1 << RECOMPUTED.index(part) for part in parts) for parts in sets]
