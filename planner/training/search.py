"""The best training layout: degrees by enumeration with bounds, stages by an exact dynamic programme.

For each combination of degrees a lower bound of the iteration's time comes from its layers alone; then one from how
many layers each stage can hold within a time and its memory. Combinations are looked into in the order of their bounds
until none is left that could be among the best, which proves that nothing considered is better.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.training.exchanges import Links
from costmodels.training.iteration import total_us
from costmodels.training.layer_time import distinct_layers, layer_times
from costmodels.training.layouts import (
    ATTENTION,
    RECOMPUTED,
    TrainingLayouts,
    default_split,
    stage_kinds,
)
from costmodels.training.pools import PooledTimes, idle_of, pooled_costs, pooled_times
from costmodels.training.setting import Setting
from costmodels.training.stage_costs import StageCosts
from planner.training.bounds import Bounds
from planner.training.lines import StagePool, joinable, spread
from planner.training.request import TrainingRequest
from planner.training.space import LayoutCandidates, RefusedLayouts, candidates
from planner.training.stages import Split, best_split, stage_table, whole_layers
from profiles.errors import InputError
from profiles.hardware import Gpu

KEPT = 4
"""Distinct meshes that are kept, the best and its alternatives: each is exact."""

BLOCK = 64
"""Combinations that are bounded together; four times as many of pipelines across pools, of which there are more."""


CHUNK = 512
"""Combinations whose lines of pools are written out together."""


@dataclass(frozen=True)
class Found:
    """One layout with its stages."""

    total_us: float
    layout: TrainingLayouts  # n = 1
    split: tuple[int, ...]  # layers of each virtual stage, in the order of the model
    line: tuple[int, ...]  # the pool of each stage

    @property
    def pools(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.line)))

    @property
    def kind(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of several of a kind the best is kept: the mesh, and the pools that it runs on."""
        return mesh_of(self.layout), self.pools


def mesh_of(layout: TrainingLayouts) -> tuple[int, ...]:
    """Degrees of one layout."""
    return tuple(int(getattr(layout, name)[0]) for name in ("tp", "pp", "dp", "cp", "ep", "etp"))


@dataclass
class Search:
    """What a search found.

    Attributes:
        best: of each mesh and the pools that it runs on, best first; empty where nothing fits.
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
    seconds: float = 0.0

    def cutoff_us(self, kind: tuple[tuple[int, ...], tuple[int, ...]] | None = None) -> float:
        """Slower than this is not kept, and of a ``kind`` not what is slower than the one that is kept."""
        slowest = self.best[KEPT - 1].total_us if len(self.best) >= KEPT else np.inf
        return min([slowest, *(each.total_us for each in self.best if each.kind == kind)])

    def keep(self, found: Found) -> None:
        same = next((each for each in self.best if each.kind == found.kind), None)
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
    """The fastest layouts on at most ``gpus`` GPUs of one type that fit into ``capacity`` bytes of each (default: its
    memory)."""
    return search_pools(setting, request, (StagePool(links, gpu, gpus, capacity or float(gpu.memory_bytes)),), gpus)


def search_pools(
    setting: Setting, request: TrainingRequest, pools: tuple[StagePool, ...], most: int, known: Search | None = None
) -> Search:
    """The fastest layouts on at most ``most`` GPUs of ``pools``: each alone, and pipelines across several of them where
    the request allows it. What is slower than the best of ``known`` is not looked for; it is added to."""
    out = known or Search()
    for index, pool in enumerate(pools):
        _Searching(setting, request, (pool,), min(most, pool.gpus), out, (index,)).run()
    if request.pp_across_pools:
        for names in joinable(pools):
            several = tuple(pools[name] for name in names)
            _Searching(setting, request, several, min(most, sum(pool.gpus for pool in several)), out, names).run()
        makers = {pool.gpu.vendor for pool in pools}
        if len(makers) > 1:
            out.refused.add(
                "a pipeline across GPUs of two makers, whose libraries do not talk", 1, " + ".join(sorted(makers))
            )
    if out.best and not out.out_of_time:
        out.bound_us = out.best[0].total_us
    return out


class _Searching:
    """One search: in a pool alone, or of pipelines that span several. ``names``: of the pools, in what is found."""

    def __init__(
        self,
        setting: Setting,
        request: TrainingRequest,
        pools: tuple[StagePool, ...],
        gpus: int,
        out: Search,
        names: Sequence[int],
    ) -> None:
        self.setting, self.request, self.pools, self.out, self.names = setting, request, pools, out, names
        self.alone = len(pools) == 1
        self.bounds = Bounds(setting, request, pools)
        per_node = min(pool.links.network.gpus_per_node for pool in pools)
        self.found, refused, looked_at = candidates(setting, request, gpus, per_node)
        if not self.alone:
            stages = self.found.pp
            room = sum((pool.gpus // (self.found.gpus // stages) for pool in pools), np.zeros_like(stages))
            self.found = self.found.take(np.flatnonzero((stages > 1) & (room >= stages)))
        self.out.refused.join(refused)
        self.out.looked_at += looked_at
        self.out.legal += len(self.found)
        self.attention = self._attention()
        self.selective = self._selective() if request.recompute else [0]
        self.even: dict[tuple[int, int], tuple[tuple[int, ...], Floats]] = {}

    def run(self) -> None:
        if not len(self.found):
            return
        for pool in self.pools:
            layer_times(self.setting, pool.links, self._plain(self.found.take(np.array([0]))))
        # Only now the clock runs: what was asked first may have had to fit forests, once for this machine.
        started = time.monotonic()
        ends_at = started + self.request.time_limit_s - self.out.seconds
        layouts = self._plain(self.found)
        first, self.kind_of_layer = distinct_layers(self.setting, layouts)
        self.times = pooled_times(self.setting, [pool.links for pool in self.pools], layouts.take(first))
        ranks = self.found.gpus // self.found.pp
        bounds = self.bounds
        placed = self._placed(np.arange(len(layouts)))
        least = bounds.of_all(layouts, placed, bounds.held_at_best(layouts, placed, ranks))
        order = np.argsort(least, kind="stable")
        step = len(order) if self.alone else CHUNK
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            if not least[chosen[0]] < self.out.cutoff_us():
                break
            later = float(least[order[start + step]]) if start + step < len(order) else np.inf
            if not self._look_through(chosen, least[chosen], ends_at, later):
                break
        self.out.seconds += time.monotonic() - started

    def _look_through(self, chosen: Ints, least: Floats, ends_at: float, later: float) -> bool:
        """Looks into the combinations ``chosen``, each in all its lines of pools, in the order of their bounds; whether
        there was time. No other can be faster than ``later``."""
        rows, pool = chosen, None
        if not self.alone:
            chosen = chosen[least < self.out.cutoff_us()]
            kept, pool = spread(self.found.pp[chosen], (self.found.gpus // self.found.pp)[chosen], self.pools)
            rows = chosen[kept]
            if not len(rows):
                return True
            layouts = self._plain(self.found.take(rows))
            held = np.stack([places.sum(axis=1) for places in self._placed(rows, pool).places(layouts)])
            least = self.bounds.of_all(layouts, self._placed(rows), held)
        order = np.argsort(least, kind="stable")
        block = BLOCK if self.alone else 4 * BLOCK
        for start in range(0, len(order), block):
            part = order[start : start + block]
            part = part[least[part] < self.out.cutoff_us()]
            if not len(part):
                break
            if time.monotonic() > ends_at:
                self.out.out_of_time = True
                self.out.bound_us = min(self.out.bound_us, float(least[part].min()), later)
                return False
            self._look_into(rows[part], None if pool is None else pool[part], least[part])
        return True

    # -------------------------------------------------------------- where stages run

    def _placed(self, rows: Ints, pool: Ints | None = None) -> PooledTimes:
        """Layer times of the combinations ``rows``, and where their stages run."""
        return replace(self.times.take(self.kind_of_layer[rows]), pool=pool)

    def _costs(self, layouts: TrainingLayouts, times: PooledTimes) -> StageCosts:
        return pooled_costs(self.setting, layouts, times)

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

    # -------------------------------------------------------------- one block

    def _look_into(self, rows: Ints, pool: Ints | None, least: Floats) -> None:
        layouts, origin = self._expanded(self._plain(self.found.take(rows)))
        self.out.bounded += len(layouts)
        times = self._placed(rows[origin], None if pool is None else pool[origin])
        fits = self.bounds.may_fit(layouts, times)
        self._refuse(layouts, np.flatnonzero(~fits), "weights and optimizer states alone do not fit")
        there = np.flatnonzero(fits)
        layouts, times, origin = layouts.take(there), times.take(there), origin[there]
        if not len(layouts):
            return
        bounds = np.maximum(self.bounds.of_stages(layouts, times), least[origin])
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
            layout, its = layouts.take(one), times.take(one)
            line = self._line_of(its, int(layout.pp[0]))
            cutoff = self.out.cutoff_us((mesh_of(layout), tuple(sorted(set(line)))))
            if not bounds[place] < cutoff:
                continue
            self.out.solved += 1
            found = self._solved(layout, its, cutoff)
            if found is not None:
                self.out.keep(found)

    def _is_fixed(self, layouts: TrainingLayouts) -> NDArray[np.bool_]:
        """Whether a layout's stages are as even as possible and not chosen: where nobody wants others or can, with one
        stage, with virtual stages of layers of several kinds or of the ends alone, and with multi-token prediction."""
        mixed = (layouts.vpp > 1) & (len(self.setting.model.kinds) > 1)
        alone = layouts.pp * layouts.vpp > self.setting.model.layers  # the ends are stages of their own
        nobody = not self.request.uneven or self.setting.framework.even_stages or self.setting.mtp > 0
        return np.asarray((layouts.pp == 1) | mixed | alone | nobody)

    def _even_bounds(self, layouts: TrainingLayouts, times: PooledTimes) -> Floats:
        """Time of each with stages as even as possible and nothing recomputed, shape [n]: recomputing only adds."""
        most = int(layouts.pp.max())
        layers = np.zeros((len(layouts), most, len(self.setting.model.kinds)))
        for row, (pp, vpp) in enumerate(zip(layouts.pp.tolist(), layouts.vpp.tolist(), strict=True)):
            layers[row, :pp] = self._even_kinds(pp, vpp)[1]
        rows = layouts.with_stages(layers, np.zeros(layers.shape[:2]))
        return total_us(rows, pooled_costs(self.setting, rows, times))

    def _even_kinds(self, pp: int, vpp: int) -> tuple[tuple[int, ...], Floats]:
        """(layers of each virtual stage, layers of each kind in each stage), as even as possible; kept."""
        if (pp, vpp) not in self.even:
            runs = default_split(self.setting.model.layers, pp * vpp)
            self.even[pp, vpp] = runs, stage_kinds(self.setting.model, runs, pp, self.setting.mtp)
        return self.even[pp, vpp]

    def _refuse(self, layouts: TrainingLayouts, rows: Ints, reason: str) -> None:
        if len(rows):
            self.out.refused.add(reason, len(rows), _label(layouts, int(rows[0])))

    # -------------------------------------------------------------- one combination, exactly

    def _solved(self, layout: TrainingLayouts, times: PooledTimes, cutoff: float) -> Found | None:
        pp, vpp = int(layout.pp[0]), int(layout.vpp[0])
        recompute = self.request.recompute and bool(whole_layers(layout)[0])
        layout = layout.with_stages(np.zeros((1, pp, len(self.setting.model.kinds))), np.zeros((1, pp)))
        fixed = bool(self._is_fixed(layout)[0])
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
        return Found(split.total_us, chosen, runs, self._line_of(times, pp))

    def _even(self, layout: TrainingLayouts, times: PooledTimes, *, recompute: bool) -> Found | None:
        """The split that is as even as possible, with the least recomputation that fits in each stage."""
        pp, vpp = int(layout.pp[0]), int(layout.vpp[0])
        runs, contents = self._even_kinds(pp, vpp)
        distinct, which = np.unique(contents, axis=0, return_inverse=True)
        capacity = self.bounds.capacity(layout, times)
        table = stage_table(self.setting, layout, times, distinct, capacity, recompute=recompute)
        column = np.arange(pp)
        which = which.reshape(-1)
        if not np.isfinite(table.time[which, column]).all():
            return None
        chosen = layout.with_stages(contents[None], table.recomputed[which, column][None])
        total = total_us(chosen, pooled_costs(self.setting, chosen, times))
        return Found(float(total[0]), chosen, runs, self._line_of(times, pp))

    def _line_of(self, times: PooledTimes, pp: int) -> tuple[int, ...]:
        return tuple(self.names[pool] for pool in ([0] * pp if times.pool is None else times.pool[0, :pp].tolist()))

    def _uneven(self, layout: TrainingLayouts, times: PooledTimes, cutoff: float, *, recompute: bool) -> Split | None:
        """The best of all splits that beat ``cutoff``, or None."""
        model = self.setting.model
        pp, vpp, m = int(layout.pp[0]), int(layout.vpp[0]), int(layout.microbatches[0])
        layers = model.layers
        # No stage may take longer than the whole may.
        each = self.bounds.quickest(layout, times)[:, 0]
        idle = float(idle_of(self.setting, layout, times)[0])
        work = float((self.bounds.counts * each).sum())
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
        distinct, capacity = np.array(list(contents), dtype=np.float64), self.bounds.capacity(layout, times)
        table = stage_table(self.setting, layout, times, distinct, capacity, recompute=recompute)
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
