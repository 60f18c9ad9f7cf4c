"""What no stages of a layout can be faster than: from the work of its layers alone, and from how many layers each
stage can hold within a time and its memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.training.layouts import ZERO_BUBBLE, TrainingLayouts
from costmodels.training.memory import expert_shards, training_memory
from costmodels.training.pools import PooledTimes, filling, idle_of, pooled_costs
from costmodels.training.setting import Setting, parameters
from costmodels.training.stage_costs import selective_us, stage_costs
from planner.training.lines import StagePool
from planner.training.request import TrainingRequest
from planner.training.stages import whole_layers


@dataclass(frozen=True)
class Bounds:
    """Bounds of layouts whose stages run in ``pools``."""

    setting: Setting
    request: TrainingRequest
    pools: tuple[StagePool, ...]

    @cached_property
    def _capacities(self) -> Floats:
        return np.array([pool.capacity for pool in self.pools])

    def capacity(self, layouts: TrainingLayouts, times: PooledTimes) -> Floats:
        """Bytes of a GPU of each stage, shape [n or 1, stages or 1]."""
        if times.pool is None:
            return np.asarray(self._capacities[:, None])
        return np.asarray(self._capacities[times.pool[:, : int(layouts.pp.max())]])

    def quickest(self, layouts: TrainingLayouts, times: PooledTimes) -> Floats:
        """Time of a layer of each kind, both passes, in the quickest of the pools that a layout runs in, [kinds, n]."""
        each = [layers.passes.sum(axis=0) for layers in times.layers]
        if times.pool is None:
            return np.asarray(each[0])
        there = [places.any(axis=1) for places in times.places(layouts)]
        return np.asarray(np.min([np.where(here, one, np.inf) for here, one in zip(there, each, strict=True)], axis=0))

    @cached_property
    def counts(self) -> Floats:
        """Layers of each kind."""
        counts = np.array([kind.count for kind in self.setting.model.kinds], dtype=np.float64)
        counts[self.setting.model.order[-1]] += self.setting.mtp
        return counts

    def of_all(self, layouts: TrainingLayouts, each: PooledTimes, held: Ints) -> Floats:
        """Least time of an iteration of each layout, whatever its stages, shape [n]: all layers' work spread evenly,
        and once through all stages; a stage has at least ⌈L ÷ pp⌉ layers of the shortest kind. ``held``: stages in each
        pool, shape [pools, n]."""
        layers = [one.passes.sum(axis=0) for one in each.layers]
        tau, work = self._spread(layers, [one.ends.sum(axis=1) for one in each.layers], held)
        shortest = np.min([one.min(axis=0) for one in layers], axis=0)
        fullest = -(-int(self.counts.sum()) // layouts.pp) * shortest
        idle = np.where(layouts.schedule == ZERO_BUBBLE, 0.0, 1.0 / layouts.vpp)
        return np.asarray((layouts.microbatches - idle) * np.maximum(tau, fullest) + idle * work)

    def held_at_best(self, layouts: TrainingLayouts, each: PooledTimes, ranks: Ints) -> Ints:
        """Stages in each pool where all stages are in the quickest pools that hold them, shape [pools, n]: of
        :meth:`of_all`, a bound for every line of pools."""
        if len(self.pools) == 1:
            return layouts.pp[None]
        quick = np.array(
            self._ratios([one.passes.sum(axis=0) for one in each.layers], [one.ends.sum(axis=1) for one in each.layers])
        )
        left, held = layouts.pp.copy(), np.zeros(quick.shape, np.int64)
        columns = np.arange(len(layouts))
        room = np.stack([pool.gpus // ranks for pool in self.pools])
        for place in np.argsort(quick, axis=0):
            held[place, columns] = np.minimum(left, room[place, columns])
            left -= held[place, columns]
        return held

    def _spread(self, each: list[Floats], ends: list[Floats], held: Ints) -> tuple[Floats, Floats]:
        """(least time of the slowest stage, least time of all stages together), shape [n] each, where layers may be cut
        as anyone likes: what a layer of each kind takes in each pool, [kinds, n], and each end of the model, [2, n];
        ``held``: stages in each pool, [pools, n]."""
        counts = self.counts[:, None]
        if len(each) == 1:
            work = (counts * each[0]).sum(axis=0) + ends[0].sum(axis=0)
            return work / held[0], work
        ratios = self._ratios(each, ends)
        rate = (held / np.array(ratios)).sum(axis=0)
        work = (counts * each[0]).sum(axis=0) + ends[0].sum(axis=0)
        return work / rate, (counts * np.min(each, axis=0)).sum(axis=0) + np.min(ends, axis=0).sum(axis=0)

    def _ratios(self, each: list[Floats], ends: list[Floats]) -> list[Floats]:
        """The least part that each pool takes of what the first takes, for a layer or an end of the model, [n] each."""
        reference = np.concatenate([each[0], ends[0]])
        known = reference > 0
        whole = [np.concatenate([layers, end]) for layers, end in zip(each, ends, strict=True)]
        return [np.where(known, one / np.where(known, reference, 1.0), np.inf).min(axis=0) for one in whole]

    def may_fit(self, layouts: TrainingLayouts, times: PooledTimes) -> NDArray[np.bool_]:
        """Whether the states of all stages together fit beside nothing but the block inputs of recomputed layers."""
        held = parameters(self.setting, layouts)
        counts = self.counts
        facts, trained = self.setting.framework, self.setting.trained_share
        total = np.zeros(len(layouts))
        for per_layer, ends, shards in (
            (held.dense, held.embedding + held.head, layouts.shard_ranks.astype(np.float64)),
            (held.experts, 0.0, expert_shards(layouts)),
        ):
            count = (per_layer * counts).sum(axis=1) + ends
            split = [np.where(layouts.sharding >= stage, shards, 1.0) for stage in (1, 2, 3)]
            if facts.flat_states:
                states = (facts.master + trained * (self.setting.moments + facts.gradients)) / split[0]
            else:
                states = facts.weights / split[2] + trained * (2.0 / split[1])
                states = states + trained * (facts.master + self.setting.moments) / split[0]
            total += count * states
        return np.asarray(
            total <= self._capacities @ np.stack([places.sum(axis=1) for places in times.places(layouts)])
        )

    def of_stages(self, layouts: TrainingLayouts, times: PooledTimes) -> Floats:
        """Least time of each, shape [n]: the least τ at which the stages, each holding no more layers than τ and its
        memory allow, hold the whole model. Of several kinds, of the most frequent alone. Infinite where none does."""
        counts = self.counts
        kind = int(counts.argmax())
        most = int(layouts.pp.max())
        n = len(layouts)

        there = np.arange(most) < layouts.pp[:, None]

        def holding(held: int | Ints, again: int = 0) -> TrainingLayouts:
            layers = np.zeros((n, most, len(counts)))
            layers[:, :, kind] = np.where(there, np.reshape(held, (-1, 1)), 0)
            return layouts.with_stages(layers, np.full((n, most), float(again)))

        def measured(held: int, again: int) -> tuple[Floats, Floats]:
            row = holding(held, again)
            costs = pooled_costs(self.setting, row, times, once=False)
            return costs.time, training_memory(self.setting, row).used()

        (t1, m1), (t2, m2), (t3, m3), (t4, m4) = (measured(*each) for each in ((1, 0), (2, 0), (3, 0), (3, 1)))
        each_t, each_m = t2 - t1, m2 - m1
        end_t, end_m = t1 - each_t, m1 - each_m
        again_t, again_m = t4 - t3, np.maximum(m3 - m4, 0.0)  # what recomputing one more costs, and frees
        if not self.request.recompute:
            again_m = np.zeros_like(again_m)
        again_m = np.where(whole_layers(layouts)[:, None], again_m, 0.0)
        need = counts[kind]
        room = self.capacity(layouts, times) - end_m
        with np.errstate(divide="ignore", invalid="ignore"):
            held = np.floor(np.maximum(room, 0.0) / np.maximum(each_m - again_m, 1.0) + 1e-9)
        held = np.where(there & (room > 0), held, 0.0)
        possible = held.sum(axis=1) >= need
        low = np.zeros(n)
        high = np.where(there, end_t + need * (each_t + again_t), 0.0).max(axis=1)

        each_t, each_m = np.maximum(each_t, 1e-9), np.maximum(each_m, 1e-9)  # of stages that are not there

        def enough(tau: Floats) -> NDArray[np.bool_]:
            spare = tau[:, None] - end_t
            without = spare / each_t
            # With recomputation: n·t + r·(n·m − room) ÷ freed ≤ τ.
            rate = np.where(again_m > 0, again_t / np.maximum(again_m, 1.0), np.inf)
            with np.errstate(invalid="ignore"):
                several = (spare + rate * room) / (each_t + rate * each_m)
            several = np.where(np.isfinite(rate), several, room / each_m)
            count = np.floor(np.minimum(np.minimum(without, np.where(room > 0, several, -1.0)), held) + 1e-9)
            return np.asarray(np.where(there, np.maximum(count, 0.0), 0.0).sum(axis=1) >= need)

        for _ in range(30):
            middle = (low + high) / 2
            fine = enough(middle)
            low, high = np.where(fine, low, middle), np.where(fine, middle, high)
        each = [layers.passes.sum(axis=0) + selective_us(layers, layouts) for layers in times.layers]
        stages = np.stack([places.sum(axis=1) for places in times.places(layouts)])
        least, work = self._spread(each, [layers.ends.sum(axis=1) for layers in times.layers], stages)
        tau = np.maximum(low, least)
        idle = idle_of(self.setting, layouts, times)
        bound = (layouts.microbatches - idle) * tau + idle * work + self._once(layouts, times)
        return np.where(possible, bound, np.inf)

    def _once(self, layouts: TrainingLayouts, times: PooledTimes) -> Floats:
        """Least time of what is done once an iteration, and of filling the pipeline, shape [n]. Some stage has at least
        ⌈L ÷ pp⌉ layers of the most frequent kind, and what they exchange once grows with them but for latencies, for
        which a thousandth is let go; an end of the model beside them only adds to it, and the more of them are
        recomputed, the less of it is left. Layers of several kinds may hide each other's exchanges, but for what any
        computation leaves of them."""
        counts = self.counts
        kind = int(counts.argmax())
        layers = np.zeros((len(layouts), 3, len(counts)))
        layers[:, :, kind] = -(-int(counts[kind]) // layouts.pp)[:, None]
        inner = replace(layouts, pp=np.where(layouts.pp > 1, 3, 1)).with_stages(layers, np.zeros(layers.shape[:2]))
        least = np.full(len(layouts), np.inf)
        ways = [inner]
        if len(counts) == 1 and self.request.recompute:  # more hides behind a backward pass that recomputes
            again = np.where(whole_layers(layouts)[:, None], layers.sum(axis=2), 0.0)
            ways.append(inner.with_stages(layers, again))
        for links, own, there in zip(times.links, times.layers, times.places(layouts), strict=True):
            for way in ways:
                costs = stage_costs(self.setting, links, way, own)
                rest = costs.rest if len(counts) == 1 else costs.least
                once = np.where(layouts.pp > 1, rest[:, 1], rest[:, 0]) * 0.999
                least = np.where(there.any(axis=1), np.minimum(least, once), least)
        return np.asarray(least + filling(self.setting, layouts, times))
