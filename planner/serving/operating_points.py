"""Operating points: every legal layout × batch limit × concurrency, predicted and judged against the SLO."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from costmodels.arrays import concatenate_rows
from costmodels.estimates import SIGMAS, Estimates, Floats, Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from costmodels.power.state import OperatingState
from costmodels.serving.frameworks.framework import Framework
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.served_model import ServedModel
from costmodels.serving.steady.steady_state import Steady, steady_state
from costmodels.step.communication import Network
from planner.contract.clusters import Pool
from planner.contract.engine import Layout
from planner.contract.workload.slo import Bound, Slo
from planner.contract.workload.workload import Workload
from planner.serving.images import prompt_images
from planner.serving.layouts import Rejected, Restrictions, layout_at, legal_layouts
from planner.serving.wide_layouts import WideLayouts, no_wide_layouts, wide_layouts
from profiles.hardware import find_fabric

IDLE = 2.0**-20
"""Mean concurrency of an engine that hardly anything is asked of: nothing that it does gets faster below."""

BELOW_ONE = np.append(IDLE, 2.0 ** -np.arange(19, 0, -1))
"""Mean concurrencies of engines in which most of the time nobody decodes: at low load, or where prefill is most of what
they do."""

GRID = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024])
"""Concurrencies tried first; the best one's neighbourhood is then searched more finely."""

CONCURRENCIES = np.concatenate([BELOW_ONE, GRID])

FAST = 1.01
"""Latency ÷ that of an idle engine below which less load makes nothing faster that anyone would notice."""

LENIENT = {"ttft": 4.0, "tpot": 2.0, "e2e": 2.0}
"""Factors by which a bound may be exceeded, by the formulas, and an engine still be simulated. Of 180 engines at 2 to
90 % of what they carry, drawn like the requests of ``tests.benchmarks.promises``, the formulas put a p99 of TTFT up to
4.2, a p90 of TTFT up to 2.6 and a percentile of TPOT up to 1.9 times above the simulation's."""

MORE = 1.2
"""What such an engine is said to carry ÷ what the formulas say: they may put saturation too low, too."""

REFINEMENTS = 7
"""Concurrencies tried between the best of the grid and the next."""


def peak_sequences(concurrency: NDArray[np.generic] | float) -> Floats:
    """Sequences that are in the engine but for rare moments, when ``concurrency`` are on average: Poisson's mean
    plus two standard deviations, and the one that is being prefilled."""
    mean = np.asarray(concurrency, dtype=np.float64)
    most: Floats = mean + 2 * np.sqrt(mean) + 1
    return most


FEW_PLACES = int(peak_sequences(1))
"""Sequences below which a cache has no room for the moments when more are in the engine than on average."""


def has_room(concurrency: Floats | float, most: Ints) -> NDArray[np.bool_]:
    """Whether a cache of ``most`` sequences lets ``concurrency`` decode on average, broadcast: with the margin of
    :func:`peak_sequences`, or, where there are :data:`FEW_PLACES`, with three of four of them free on average. (What
    waits for a place then is for the simulation to tell.)"""
    few = (most < FEW_PLACES) & (np.asarray(concurrency) * FEW_PLACES <= most)
    return np.asarray((peak_sequences(concurrency) <= most) | few)


@dataclass(frozen=True)
class Job:
    """What is common to all candidates of one pool in one state of its GPUs.

    Attributes:
        lenient: candidates may miss the SLO by the formulas (:data:`LENIENT`), and fill the cache to the last place: a
            simulation is to judge them.
    """

    pool_index: int
    pool: Pool
    served: ServedModel
    workload: Workload
    slo: Slo
    confidence: float
    lenient: bool = False

    @property
    def state_key(self) -> tuple[int, ...]:
        """What makes its engines others than those of the same pool: nothing, or the state of their GPUs."""
        return () if self.served.state is None else self.served.state.key

    @cached_property
    def shape(self) -> RequestShape:
        """The workload's requests, as the cost model knows them."""
        return self.workload.shape


def served_on(
    pool: Pool,
    model: Architecture,
    precision: Precision,
    framework: Framework,
    cost: CostModel,
    workload: Workload | None = None,
    state: OperatingState | None = None,
) -> ServedModel:
    """A model on the GPUs of a pool; ``cost``: of their type; ``workload``: whose images are encoded, and for whose
    drafts the model's own module is loaded; ``state``: of the GPUs."""
    topology = cost.catalogue.topology(cost.gpu, pool.fabric)
    network = Network(min(pool.gpus_per_node, pool.gpus), find_fabric(pool.fabric), topology)
    drafting = workload is not None and workload.speculation is not None and model.draft is not None
    images = None if workload is None else prompt_images(workload, model)
    framework = framework.serving(model.max_context_tokens, latent=model.is_latent)
    return ServedModel(model, precision, framework, cost, network, images, drafting, state=state)


@dataclass(frozen=True)
class OperatingPoints:
    """``n`` operating points of one pool; arrays of shape [n].

    Attributes:
        budget: most tokens in one step.
        concurrency: decoding sequences per attention rank, on average.
        most: sequences per attention rank that memory and framework allow.
        within: whether every bound of the SLO holds.
    """

    job: Job
    layouts: Layouts
    budget: Ints
    concurrency: Floats
    most: Ints
    steady: Steady
    within: NDArray[np.bool_]

    def take(self, index: Ints) -> OperatingPoints:
        """The points ``index`` (k,)."""
        return OperatingPoints(
            self.job,
            self.layouts.take(index),
            self.budget[index],
            self.concurrency[index],
            self.most[index],
            self.steady.take(index),
            self.within[index],
        )

    def __len__(self) -> int:
        return len(self.budget)

    def layout(self, i: int) -> Layout:
        return layout_at(self.layouts, i)

    def key(self, i: int) -> tuple[int, ...]:
        """Pool, degrees and state of the GPUs: what makes two points ones of the same layout."""
        return self.job.pool_index, *self.layouts.row(i), *self.job.state_key

    @property
    def output_tokens_per_gpu_s(self) -> Floats:
        return self.steady.rate_rps.value * self.job.shape.osl / self.layouts.gpus


def concatenate_points(parts: list[OperatingPoints]) -> OperatingPoints:
    """The points of several, all of one job, one after the other."""
    return OperatingPoints(
        parts[0].job,
        concatenate_rows([part.layouts for part in parts]),
        np.concatenate([part.budget for part in parts]),
        np.concatenate([part.concurrency for part in parts]),
        np.concatenate([part.most for part in parts]),
        concatenate_rows([part.steady for part in parts]),
        np.concatenate([part.within for part in parts]),
    )


class Served(Protocol):
    """What requests see, over ``n`` operating points: :class:`Steady` and :class:`Joint`."""

    @property
    def ttft_us(self) -> Estimates: ...
    @property
    def tpot_us(self) -> Estimates: ...
    @property
    def e2e_us(self) -> Estimates: ...
    @property
    def ttft_parts_us(self) -> dict[str, Floats]: ...
    def ttft_percentile_us(self, p: float) -> Floats: ...
    def tpot_percentile_us(self, p: float) -> Floats: ...
    def e2e_percentile_us(self, p: float) -> Floats: ...


def percentile_ms(steady: Served, bound: Bound, confidence: float = 0.5) -> Floats:
    """The bounded quantity at its percentile, ms, shape [n]: a value that the truth stays below with probability
    ``confidence``, the prediction taken as lognormal with its 80 % interval."""
    p = bound.percentile / 100
    quantile, mean = {
        "ttft": (steady.ttft_percentile_us, steady.ttft_us),
        "tpot": (steady.tpot_percentile_us, steady.tpot_us),
        "e2e": (steady.e2e_percentile_us, steady.e2e_us),
    }[bound.metric]
    return at_confidence(quantile(p), mean, confidence)


def at_confidence(quantile_us: Floats, mean: Estimates, confidence: float) -> Floats:
    """``quantile_us`` in ms, moved to where the truth is with probability ``confidence`` at most, [n]: lognormal, with
    the relative interval of its ``mean``."""
    z = NormalDist().inv_cdf(confidence) / SIGMAS
    end = mean.high if z > 0 else mean.value
    side = end / np.maximum(mean.value if z > 0 else mean.low, 1e-9)
    moved: Floats = quantile_us / 1e3 * side**z
    return moved


def rate_at_confidence(rate: Estimates, confidence: float) -> Floats:
    """Requests per second that a rate is at least with probability ``confidence``, [n]. Steps that are all slower by a
    factor are in balance at a rate lower by it, with latencies longer by it: an engine of uncertain steps keeps a
    promise on latency only at the rate that goes with it."""
    z = NormalDist().inv_cdf(confidence) / SIGMAS
    side = rate.low if z > 0 else rate.high
    return np.asarray(rate.value * (side / np.maximum(rate.value, 1e-300)) ** abs(z))


def predict(job: Job, layouts: Layouts, budget: Ints, concurrency: Floats, most: Ints) -> OperatingPoints:
    """Predicts the given operating points."""
    steady = steady_state(job.served, job.shape, layouts, budget, concurrency)
    within = steady.stable.copy()
    for bound in job.slo.bounds:
        most_ms = bound.limit_ms * (LENIENT[bound.metric] if job.lenient else 1.0)
        within &= percentile_ms(steady, bound, job.confidence) <= most_ms
    if job.lenient:  # where requests hardly meet, a formula's tail is of meetings that are rarer than the percentile
        within |= steady.stable & (concurrency > IDLE) & (concurrency < 1)
    return OperatingPoints(job, layouts, budget, concurrency, most, steady, within)


def sequences_that_fit(
    job: Job, layouts: Layouts, budget: Ints, *, prompts: bool = False, mean_tokens: float | None = None
) -> Ints:
    """Sequences of mean length (``prompts``: of which only the prompt is kept) whose KV cache fits, per attention rank:
    the largest batch that an engine can be started for and still have the cache of (a larger one leaves less). None
    where the cache does not hold the workload's longest sequence. ``mean_tokens``: of a sequence in the cache, where
    that is not a whole one of mean length."""
    served, work = job.served, job.workload
    whole: tuple[float, int] = (work.mean_isl, work.longest_isl) if prompts else (job.shape.tokens, work.longest_tokens)
    mean, longest = whole[0] if mean_tokens is None else mean_tokens, whole[1]
    admitted = served.framework.limits.max_model_len
    if admitted is not None and served.framework.memory.holds_longest:
        longest = max(longest, admitted)
    each, largest = served.kv_bytes(layouts, mean), served.kv_bytes(layouts, longest)
    least = np.zeros(len(layouts), np.int64)
    most = np.full(len(layouts), served.framework.limits.max_sequences)
    while (least < most).any():
        middle = (least + most + 1) // 2
        left = served.memory(layouts, budget, sequences=middle)
        holds = (left.sequences(each) >= middle) & (left.sequences(largest) >= 1)
        least, most = np.where(holds, middle, least), np.where(holds, most, middle - 1)
    return least


@dataclass(frozen=True)
class LayoutSearch:
    """All that was tried on one pool. ``coarse`` is the grid (None: nothing fits), ``fine`` what of it is within the
    SLO with a finer search around the highest rate of each layout and batch limit (None: nothing is). ``layouts``:
    those that the rules allow, memory aside; ``wide``: those of one role alone. ``allowed``, ``fastest``: as it was
    asked for."""

    job: Job
    allowed: Restrictions
    layouts: Layouts
    considered: int
    legal: int
    rejected: list[Rejected]
    coarse: OperatingPoints | None
    fine: OperatingPoints | None
    wide: WideLayouts = field(default_factory=no_wide_layouts)
    fastest: bool = False

    @cached_property
    def lenient(self) -> LayoutSearch:
        """The same search of what the formulas exclude by little, too."""
        return search(replace(self.job, lenient=True), self.allowed, fastest=self.fastest)


@dataclass(frozen=True)
class _Engines:
    """Every layout that holds a sequence with every token budget, [k]: ``most`` sequences fit."""

    job: Job
    layouts: Layouts
    budget: Ints
    most: Ints

    def at(self, rows: Ints, concurrency: Floats) -> OperatingPoints:
        """The engines ``rows`` (n,) at ``concurrency`` (n,)."""
        return predict(self.job, self.layouts.take(rows), self.budget[rows], concurrency, self.most[rows])

    def room(self, concurrency: Floats | float, most: Ints) -> NDArray[np.bool_]:
        """See :func:`has_room`."""
        return np.asarray(concurrency <= most) if self.job.lenient else has_room(concurrency, most)

    def usable(self, concurrency: Floats) -> tuple[Ints, Ints]:
        """(row, index of the concurrency) of all that fit."""
        fits = self.room(concurrency[None, :], self.most[:, None])
        # A budget that cannot hold the decodes of a step leaves nothing for prompts.
        decodes = np.ceil(concurrency[None, :] / self.layouts.pp[:, None]) * self.job.shape.queries
        rows, columns = np.nonzero(fits & (decodes < self.budget[:, None]))
        return rows, columns


def search(job: Job, allowed: Restrictions, *, fastest: bool = False) -> LayoutSearch:
    """Predicts every legal layout of ``job`` over batch limits and concurrencies.

    Engines decode one sequence or more on average; where nothing of that is within the SLO, fewer, down to an engine
    that is idle but for the request that is asked about. ``fastest``: fewer in any case, as long as it makes requests
    faster.
    """
    gathering, rejected, considered = legal_layouts(
        job.served.model, job.served.precision, job.served.framework, allowed
    )
    wide = wide_layouts(job.served, job.served.precision, allowed)
    layouts = concatenate_rows([gathering, wide.aggregated]) if len(wide.aggregated) else gathering
    considered += len(wide.aggregated)
    budgets = job.served.framework.limits.token_budgets
    pair = np.arange(len(layouts) * len(budgets))
    which, budget = pair // len(budgets), np.array(budgets)[pair % len(budgets)]
    most = sequences_that_fit(job, layouts.take(which), budget)
    enough = most >= 1
    too_big = np.setdiff1d(which, which[enough])
    if len(too_big):
        weights = job.served.memory(layouts, np.full(len(layouts), min(budgets)), sequences=1)
        no_room = too_big[weights.kv_bytes[too_big] <= 0]
        no_cache = np.setdiff1d(too_big, no_room)
        rejected += _memory_rejections(job, layouts, no_room, no_cache)
    engines = _Engines(job, layouts.take(which[enough]), budget[enough], most[enough])
    legal = len(np.unique(which[enough]))
    if not legal:
        return LayoutSearch(job, allowed, gathering, considered, legal, rejected, None, None, wide, fastest)
    coarse, rows = _coarse(engines, fastest=fastest)
    fine = _refine(engines, coarse, rows)
    return LayoutSearch(job, allowed, gathering, considered, legal, rejected, coarse, fine, wide, fastest)


def points_of(job: Job, layouts: Layouts, budget: int) -> list[OperatingPoints]:
    """What :func:`search` finds of the one engine of ``layouts`` (1,) with one ``budget``, without a look at others:
    its points within the SLO, if there are any, and those of the grid; nothing where memory does not hold its
    requests."""
    budgets = np.array([budget])
    most = sequences_that_fit(job, layouts, budgets)
    if most[0] < 1:
        return []
    engines = _Engines(job, layouts, budgets, most)
    coarse, rows = _coarse(engines, fastest=False)
    fine = _refine(engines, coarse, rows)
    return [coarse] if fine is None else [fine, coarse]


def _coarse(engines: _Engines, *, fastest: bool) -> tuple[OperatingPoints, Ints]:
    """(points of the grid, the engine of each)."""
    every = np.arange(len(engines.budget))
    rows, columns = engines.usable(GRID)
    tried = [engines.at(rows, GRID[columns])] if len(rows) else []
    busy = np.unique(rows[tried[0].within]) if tried else rows
    # Latencies rise with the load: what an idle engine does not keep, none does.
    asked = every if fastest else np.setdiff1d(every, busy)
    if not len(asked):
        return tried[0], rows
    idle = engines.at(asked, np.full(len(asked), IDLE))
    low = asked[idle.within]
    between = BELOW_ONE[BELOW_ONE > IDLE]
    low_rows, low_columns = np.repeat(low, len(between)), np.tile(np.arange(len(between)), len(low))
    fits = engines.room(between[low_columns], engines.most[low_rows])
    low_rows, low_columns = low_rows[fits], low_columns[fits]
    tried.append(idle)
    rows = np.concatenate([rows, asked])
    if len(low_rows):
        tried.append(engines.at(low_rows, between[low_columns]))
        rows = np.concatenate([rows, low_rows])
    points = concatenate_points(tried)
    if fastest:
        kept = np.flatnonzero(_faster(points, rows, busy))
        points, rows = points.take(kept), rows[kept]
    return points, rows


def _faster(points: OperatingPoints, rows: Ints, busy: Ints) -> NDArray[np.bool_]:
    """Which points are no less loaded than makes their requests faster, [n]: all of engines that are not ``busy``,
    which the SLO lets carry less than one sequence at most."""
    e2e, concurrency = points.steady.e2e_us.value, points.concurrency
    kept = np.ones(len(points), np.bool_)
    for row in busy.tolist():
        mine = np.flatnonzero(rows == row)
        fast = mine[e2e[mine] <= FAST * e2e[mine].min()]
        kept[mine] = concurrency[mine] >= min(float(concurrency[fast].max()), 1.0)
    return kept


def _memory_rejections(job: Job, layouts: Layouts, no_room: Ints, no_cache: Ints) -> list[Rejected]:
    out = []
    gpu = job.served.gpu
    if len(no_room):
        reason = f"weights and buffers do not fit into {gpu.memory_bytes / 1e9:.0f} GB of {gpu.name}"
        out.append(Rejected(reason, len(no_room), layout_at(layouts, int(no_room[0])).label, of_memory=True))
    if len(no_cache):
        longest = job.workload.longest_tokens
        reason = f"KV cache left holds no sequence of {longest} tokens"
        out.append(Rejected(reason, len(no_cache), layout_at(layouts, int(no_cache[0])).label, of_memory=True))
    return out


def _refine(engines: _Engines, coarse: OperatingPoints, rows: Ints) -> OperatingPoints | None:
    """The grid's points within the SLO, and finer concurrencies between the best of each engine and the next of the
    grid."""
    inside = np.flatnonzero(coarse.within)
    if not len(inside):
        return None
    rate = coarse.steady.rate_rps.value
    order = inside[np.argsort(rate[inside], kind="stable")]
    best_of: dict[int, float] = {int(rows[i]): float(coarse.concurrency[i]) for i in order}  # the highest rate wins
    extra_rows: list[int] = []
    extra_concurrency: list[float] = []
    for row, low in sorted(best_of.items()):
        high = float(np.min(CONCURRENCIES[low < CONCURRENCIES], initial=np.inf))
        if high == np.inf:
            continue
        finer = np.linspace(low, high, REFINEMENTS + 2)
        for value in np.unique(finer if high <= 1 else np.floor(finer)).tolist():
            if low < value < high and engines.room(value, engines.most[row]):
                extra_rows.append(row)
                extra_concurrency.append(value)
    kept = coarse.take(inside)
    if not extra_rows:
        return kept
    return concatenate_points([kept, engines.at(np.array(extra_rows, np.int64), np.array(extra_concurrency))])
