"""The best training layout: degrees by enumeration with bounds, stages by an exact dynamic programme.

For each combination of degrees a lower bound of the iteration's time comes from its layers alone; then one from how
many layers each stage can hold within a time and its memory. Combinations are looked into in the order of their bounds
until none is left that could be among the best, which proves that nothing considered is better.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.training.exchanges import Links
from costmodels.training.iteration import idle_part, selective_us, stage_costs, total_us
from costmodels.training.layer_time import LayerTimes, distinct_layers, layer_times
from costmodels.training.layouts import (
    ATTENTION,
    RECOMPUTED,
    ZERO_BUBBLE,
    TrainingLayouts,
    default_split,
    stage_kinds,
)
from costmodels.training.memory import expert_shards, training_memory
from costmodels.training.setting import Setting, parameters
from planner.training.request import TrainingRequest
from planner.training.space import LayoutCandidates, RefusedLayouts, candidates
from planner.training.stages import Split, best_split, stage_table
from profiles.errors import InputError
from profiles.hardware import Gpu

KEPT = 4
"""Distinct meshes that are kept, the best and its alternatives: each is exact."""

BLOCK = 64
"""Combinations that are bounded together."""


@dataclass(frozen=True)
class Found:
    """One layout with its stages."""

    total_us: float
    layout: TrainingLayouts  # n = 1
    split: tuple[int, ...]  # layers of each virtual stage, in the order of the model

    @property
    def mesh(self) -> tuple[int, ...]:
        return tuple(int(getattr(self.layout, name)[0]) for name in ("tp", "pp", "dp", "cp", "ep", "etp"))


@dataclass
class Search:
    """What a search found.

    Attributes:
        best: of each mesh, best first; empty where nothing fits.
        bound_us: no combination that was not looked into can be faster than this.
        looked_at, legal, bounded, solved: combinations of degrees; within the rules; bounded with their memory; solved
            exactly.
    """

    best: list[Found] = field(default_factory=list)
    bound_us: float = np.inf
    refused: RefusedLayouts = field(default_factory=RefusedLayouts)
    looked_at: int = 0
    legal: int = 0
    bounded: int = 0
    solved: int = 0
    out_of_time: bool = False

    def cutoff_us(self) -> float:
        """Slower than this is not kept."""
        return self.best[KEPT - 1].total_us if len(self.best) >= KEPT else np.inf

    def keep(self, found: Found) -> None:
        same = next((each for each in self.best if each.mesh == found.mesh), None)
        if same is not None:
            if found.total_us >= same.total_us:
                return
            self.best.remove(same)
        self.best.append(found)
        self.best.sort(key=lambda each: each.total_us)
        del self.best[KEPT:]


def search(
    setting: Setting, request: TrainingRequest, links: Links, gpu: Gpu, gpus: int, *, capacity: float | None = None
) -> Search:
    """The fastest layouts on at most ``gpus`` GPUs that fit into ``capacity`` bytes of each (default: its memory)."""
    return _Searching(setting, request, links, gpus, capacity or float(gpu.memory_bytes)).run()


class _Searching:
    def __init__(self, setting: Setting, request: TrainingRequest, links: Links, gpus: int, capacity: float) -> None:
        self.setting, self.request, self.links, self.capacity = setting, request, links, capacity
        self.out = Search()
        per_node = links.network.gpus_per_node
        self.found, self.out.refused, self.out.looked_at = candidates(setting, request, gpus, per_node)
        self.out.legal = len(self.found)
        self.attention = self._attention()
        self.selective = self._selective() if request.recompute else [0]
        self.even: dict[tuple[int, int], tuple[tuple[int, ...], Floats]] = {}

    def run(self) -> Search:
        if not len(self.found):
            return self.out
        layer_times(self.setting, self.links, self._plain(self.found.take(np.array([0]))))
        # Only now the clock runs: what was asked first may have had to fit forests, once for this machine.
        ends_at = time.monotonic() + self.request.time_limit_s
        bounds = self._bounds()
        order = np.argsort(bounds, kind="stable")
        for start in range(0, len(order), BLOCK):
            rows = order[start : start + BLOCK]
            rows = rows[bounds[rows] < self.out.cutoff_us()]
            if not len(rows):
                break
            if time.monotonic() > ends_at:
                self.out.out_of_time = True
                self.out.bound_us = float(bounds[rows].min())
                break
            self._look_into(rows, bounds[rows])
        if self.out.best and not self.out.out_of_time:
            self.out.bound_us = self.out.best[0].total_us
        return self.out

    # -------------------------------------------------------------- what there is to choose

    def _attention(self) -> int:
        facts = self.setting.framework
        name = self.request.attention or str(facts.defaults["attention"])
        if name not in facts.attention:
            raise InputError(
                f"attention: {facts.full_name} has no {name!r}", f"choose from {', '.join(facts.attention)}"
            )
        return ATTENTION.index(name)

    def _plain(self, c: LayoutCandidates) -> TrainingLayouts:
        """``c`` without sharding, recomputation or stages."""
        n = len(c)
        return TrainingLayouts(
            tp=c.tp, pp=c.pp, vpp=c.vpp, dp=c.dp, cp=c.cp, ep=c.ep, etp=c.etp, sharding=np.zeros(n, np.int64),
            shard_ranks=c.dp * c.cp, micro_batch=c.micro_batch,
            microbatches=self.request.global_batch // (c.dp * c.micro_batch), sequence_parallel=c.tp > 1,
            schedule=c.schedule, selective=np.zeros(n, np.int64), recomputed=np.zeros((n, 1)),
            attention=np.full(n, self.attention), layers=np.zeros((n, 1, len(self.setting.model.kinds))),
        )  # fmt: skip

    def _expanded(self, layouts: TrainingLayouts) -> tuple[TrainingLayouts, Ints]:
        """(each layout with each sharding and selective recomputation, the row that it is from)."""
        facts = self.setting.framework
        shardings = [each for each in facts.shardings if self.request.sharding is None or each in self.request.sharding]
        if not shardings:
            raise InputError(
                f"sharding: {facts.full_name} has no {' or '.join(map(str, self.request.sharding or ()))}",
                f"choose from {', '.join(map(str, facts.shardings))}",
            )
        rows, sharding, bits = (
            each.ravel() for each in np.meshgrid(np.arange(len(layouts)), shardings, self.selective, indexing="ij")
        )
        pp, ranks = layouts.pp[rows], layouts.shard_ranks[rows]
        allowed = (pp == 1) | np.isin(sharding, facts.sharding_with_pp)
        allowed &= (ranks > 1) | (sharding == min(shardings, default=0))  # one rank has nobody to share with
        # In a pipeline gradients add up whole, so that stage 2 is as 1, or with gathered weights as 3.
        twin = 3 if facts.keeps_weights_gathered else 1
        allowed &= (pp == 1) | (ranks == 1) | (sharding != 2) | (twin not in shardings)
        index = np.flatnonzero(allowed)
        found = replace(layouts.take(rows[index]), sharding=sharding[index], selective=bits[index])
        return found, rows[index]

    def _selective(self) -> list[int]:
        """Sets of parts that are worth recomputing, by what they cost."""
        facts, model = self.setting.framework, self.setting.model
        sets: list[tuple[str, ...]] = [()]
        if "op" in facts.recompute:
            sets.append(("op",))
        if "core_attn" in facts.recompute and self.attention == 0:
            sets.append(("core_attn",))
        if "layernorm" in facts.recompute:
            sets.append(("layernorm",))
            sets.append(("layernorm", "moe_act") if model.experts is not None else ("layernorm", "mlp"))
        if model.architecture.is_latent and "mla_up_proj" in facts.recompute:
            sets.append(("layernorm", "moe_act", "mla_up_proj"))
        return [sum(1 << RECOMPUTED.index(part) for part in parts) for parts in sets]

    # -------------------------------------------------------------- bounds

    def _bounds(self) -> Floats:
        """Least time of an iteration of each combination, whatever its stages: all layers' work spread evenly, and
        once through all stages; a stage has at least ⌈L ÷ pp⌉ layers of the shortest kind."""
        layouts = self._plain(self.found)
        first, self.kind_of_layer = distinct_layers(layouts)
        self.layer_times = layer_times(self.setting, self.links, layouts.take(first))
        each = self.layer_times.passes.sum(axis=0)
        counts, back = self._counts(), self.kind_of_layer
        work = ((counts[:, None] * each).sum(axis=0) + self.layer_times.ends.sum(axis=(0, 1)))[back]
        fullest = -(-int(counts.sum()) // layouts.pp) * each.min(axis=0)[back]
        idle = np.where(layouts.schedule == ZERO_BUBBLE, 0.0, 1.0 / layouts.vpp)
        return np.asarray((layouts.microbatches - idle) * np.maximum(work / layouts.pp, fullest) + idle * work)

    def _counts(self) -> Floats:
        counts = np.array([kind.count for kind in self.setting.model.kinds], dtype=np.float64)
        counts[self.setting.model.order[-1]] += self.setting.mtp
        return counts

    def _again(self, layers: LayerTimes, layouts: TrainingLayouts) -> Floats:
        """Selective recomputation of one layer, shape [kinds, n]."""
        return selective_us(layers, layouts)

    def _idle(self, layouts: TrainingLayouts, layers: LayerTimes) -> Floats:
        return idle_part(self.setting, layers, layouts)

    def _may_fit(self, layouts: TrainingLayouts) -> NDArray[np.bool_]:
        """Whether the states of an average stage fit beside nothing but the block inputs of recomputed layers."""
        held = parameters(self.setting, layouts)
        counts = self._counts()
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
        return np.asarray(total / layouts.pp <= self.capacity)

    # -------------------------------------------------------------- one block

    def _look_into(self, rows: Ints, least: Floats) -> None:
        layouts, origin = self._expanded(self._plain(self.found.take(rows)))
        self.out.bounded += len(layouts)
        fits = self._may_fit(layouts)
        self._refuse(layouts, np.flatnonzero(~fits), "weights and optimizer states alone do not fit")
        layouts, origin = layouts.take(np.flatnonzero(fits)), origin[fits]
        if not len(layouts):
            return
        times = self.layer_times.take(self.kind_of_layer[rows][origin])
        bounds = np.maximum(self._stage_bounds(layouts, times), least[origin])
        self._refuse(layouts, np.flatnonzero(~np.isfinite(bounds)), "does not fit, whatever is recomputed")
        near = np.flatnonzero(bounds < self.out.cutoff_us())
        layouts, times, bounds = layouts.take(near), times.take(near), bounds[near]
        fixed = np.flatnonzero(self._is_fixed(layouts))
        if len(fixed):
            bounds[fixed] = np.maximum(bounds[fixed], self._even_bounds(layouts.take(fixed), times.take(fixed)))
        for place in np.argsort(bounds, kind="stable").tolist():
            if not bounds[place] < self.out.cutoff_us():
                break
            one = np.array([place])
            self.out.solved += 1
            found = self._solved(layouts.take(one), times.take(one))
            if found is not None:
                self.out.keep(found)

    def _is_fixed(self, layouts: TrainingLayouts) -> NDArray[np.bool_]:
        """Whether a layout's stages are as even as possible and not chosen: where nobody wants others, with one stage,
        with virtual stages of layers of several kinds or of the ends alone, and with multi-token prediction."""
        mixed = (layouts.vpp > 1) & (len(self.setting.model.kinds) > 1)
        alone = layouts.pp * layouts.vpp > self.setting.model.layers  # the ends are stages of their own
        return np.asarray((layouts.pp == 1) | mixed | alone | (not self.request.uneven) | (self.setting.mtp > 0))

    def _even_bounds(self, layouts: TrainingLayouts, times: LayerTimes) -> Floats:
        """Time of each with stages as even as possible and nothing recomputed, shape [n]: recomputing only adds."""
        most = int(layouts.pp.max())
        layers = np.zeros((len(layouts), most, len(self.setting.model.kinds)))
        for row, (pp, vpp) in enumerate(zip(layouts.pp.tolist(), layouts.vpp.tolist(), strict=True)):
            layers[row, :pp] = self._even_kinds(pp, vpp)[1]
        rows = layouts.with_stages(layers, np.zeros(layers.shape[:2]))
        return total_us(rows, stage_costs(self.setting, self.links, rows, times))

    def _even_kinds(self, pp: int, vpp: int) -> tuple[tuple[int, ...], Floats]:
        """(layers of each virtual stage, layers of each kind in each stage), as even as possible; kept."""
        if (pp, vpp) not in self.even:
            runs = default_split(self.setting.model.layers, pp * vpp)
            self.even[pp, vpp] = runs, stage_kinds(self.setting.model, runs, pp, self.setting.mtp)
        return self.even[pp, vpp]

    def _refuse(self, layouts: TrainingLayouts, rows: Ints, reason: str) -> None:
        if len(rows):
            self.out.refused.add(reason, len(rows), _label(layouts, int(rows[0])))

    def _stage_bounds(self, layouts: TrainingLayouts, times: LayerTimes) -> Floats:
        """Least time of each, shape [n]: the least τ at which the stages, each holding no more layers than τ and its
        memory allow, hold the whole model. Of several kinds, of the most frequent alone. Infinite where none does."""
        counts = self._counts()
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
            costs = stage_costs(self.setting, self.links, row, times)
            return costs.time, training_memory(self.setting, row).used()

        (t1, m1), (t2, m2), (t3, m3), (t4, m4) = (measured(*each) for each in ((1, 0), (2, 0), (3, 0), (3, 1)))
        each_t, each_m = t2 - t1, m2 - m1
        end_t, end_m = t1 - each_t, m1 - each_m
        again_t, again_m = t4 - t3, np.maximum(m3 - m4, 0.0)  # what recomputing one more costs, and frees
        if not self.request.recompute:
            again_m = np.zeros_like(again_m)
        again_m = np.where((layouts.schedule == ZERO_BUBBLE)[:, None], 0.0, again_m)
        need = counts[kind]
        room = self.capacity - end_m
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
        work = (counts[:, None] * (times.passes.sum(axis=0) + self._again(times, layouts))).sum(axis=0)
        work = work + times.ends.sum(axis=(0, 1))
        tau = np.maximum(low, work / layouts.pp)
        idle = self._idle(layouts, times)
        bound = (layouts.microbatches - idle) * tau + idle * work + self._once(layouts, times)
        return np.where(possible, bound, np.inf)

    def _once(self, layouts: TrainingLayouts, times: LayerTimes) -> Floats:
        """Least time of what is done once an iteration, and of filling the pipeline, shape [n]. Some stage has at least
        ⌈L ÷ pp⌉ layers of the most frequent kind, and what they exchange once grows with them but for latencies, for
        which a thousandth is let go; an end of the model beside them only adds to it. Layers of several kinds may hide
        each other's exchanges, but for what any computation leaves of them."""
        counts = self._counts()
        kind = int(counts.argmax())
        layers = np.zeros((len(layouts), 3, len(counts)))
        layers[:, :, kind] = -(-int(counts[kind]) // layouts.pp)[:, None]
        inner = replace(layouts, pp=np.where(layouts.pp > 1, 3, 1)).with_stages(layers, np.zeros(layers.shape[:2]))
        costs = stage_costs(self.setting, self.links, inner, times)
        rest = costs.rest if len(counts) == 1 else costs.least
        least = np.where(layouts.pp > 1, rest[:, 1], rest[:, 0]) * 0.999
        hop = stage_costs(self.setting, self.links, layouts, times).hop
        return np.asarray(least + 2.0 * (layouts.pp - 1) * hop)

    # -------------------------------------------------------------- one combination, exactly

    def _solved(self, layout: TrainingLayouts, times: LayerTimes) -> Found | None:
        pp, vpp = int(layout.pp[0]), int(layout.vpp[0])
        recompute = self.request.recompute and int(layout.schedule[0]) != ZERO_BUBBLE
        layout = layout.with_stages(np.zeros((1, pp, len(self.setting.model.kinds))), np.zeros((1, pp)))
        fixed = bool(self._is_fixed(layout)[0])
        cutoff = self.out.cutoff_us()
        even = self._even(layout, times, recompute=recompute) if fixed or not np.isfinite(cutoff) else None
        if fixed:
            return even
        split = self._uneven(
            layout, times, min(cutoff, even.total_us if even is not None else np.inf), recompute=recompute
        )
        if split is None:
            return even
        runs = _spread_over(split.layers, vpp)
        chosen = layout.with_stages(
            stage_kinds(self.setting.model, runs, pp)[None], np.array([split.recomputed], dtype=np.float64)
        )
        return Found(split.total_us, chosen, runs)

    def _even(self, layout: TrainingLayouts, times: LayerTimes, *, recompute: bool) -> Found | None:
        """The split that is as even as possible, with the least recomputation that fits in each stage."""
        pp, vpp = int(layout.pp[0]), int(layout.vpp[0])
        runs, contents = self._even_kinds(pp, vpp)
        distinct, which = np.unique(contents, axis=0, return_inverse=True)
        table = stage_table(self.setting, self.links, layout, times, distinct, self.capacity, recompute=recompute)
        column = np.arange(pp)
        which = which.reshape(-1)
        if not np.isfinite(table.time[which, column]).all():
            return None
        chosen = layout.with_stages(contents[None], table.recomputed[which, column][None])
        total = total_us(chosen, stage_costs(self.setting, self.links, chosen, times))
        return Found(float(total[0]), chosen, runs)

    def _uneven(self, layout: TrainingLayouts, times: LayerTimes, cutoff: float, *, recompute: bool) -> Split | None:
        """The best of all splits that beat ``cutoff``, or None."""
        model = self.setting.model
        pp, vpp, m = int(layout.pp[0]), int(layout.vpp[0]), int(layout.microbatches[0])
        layers = model.layers
        # No stage may take longer than the whole may.
        each = times.passes.sum(axis=0)[:, 0]
        idle = float(self._idle(layout, times)[0])
        work = float((self._counts() * each).sum())
        longest = (cutoff - idle * work) / max(m - idle, 1e-9) if np.isfinite(cutoff) else np.inf
        most = min(layers - (pp - 1) * vpp, int(longest / float(each.min()) + 1e-9) if np.isfinite(longest) else layers)
        fewest = max(vpp, layers - (pp - 1) * most)
        if most < fewest:
            return None
        contents: dict[tuple[int, ...], int] = {}
        index = np.full((layers + 1, layers + 1), -1, dtype=np.int64)
        before = np.zeros((layers + 1, len(model.kinds)), np.int64)
        for place, kind in enumerate(model.order):
            before[place + 1] = before[place]
            before[place + 1, kind] += 1
        for start in range(layers):
            for end in range(start + fewest, min(start + most, layers) + 1):
                key = tuple((before[end] - before[start]).tolist())
                index[start, end] = contents.setdefault(key, len(contents))
        table = stage_table(
            self.setting, self.links, layout, times, np.array(list(contents), dtype=np.float64), self.capacity,
            recompute=recompute,
        )  # fmt: skip
        return best_split(table, index, layers, m, cutoff)


def _spread_over(layers: tuple[int, ...], vpp: int) -> tuple[int, ...]:
    """Layers of each virtual stage, in the order of the model, where stages hold ``layers``: each stage's as even as
    possible over its runs."""
    pp = len(layers)
    runs = np.zeros((vpp, pp), np.int64)
    for stage, count in enumerate(layers):
        whole, more = divmod(count, vpp)
        runs[:, stage] = whole
        runs[vpp - more :, stage] += 1
    return tuple(int(each) for each in runs.ravel())


def _label(layouts: TrainingLayouts, row: int) -> str:
    names = (("TP", "tp"), ("PP", "pp"), ("VPP", "vpp"), ("DP", "dp"), ("CP", "cp"), ("EP", "ep"), ("MoE-TP", "etp"))
    words = [f"{word}{int(getattr(layouts, name)[row])}" for word, name in names if getattr(layouts, name)[row] > 1]
    return " ".join([*words, f"ZeRO-{int(layouts.sharding[row])}", f"micro-batch {int(layouts.micro_batch[row])}"])
