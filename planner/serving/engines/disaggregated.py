"""Engines that prefill and engines that decode: what each layout can do in either role, and which of them go together.

A request sees a pair: its TTFT holds the prefill engine's queue, the transfer and the decode engine's first steps. A
fleet of several kinds on either side is kept within the SLO by judging every engine beside the slowest partner that is
allowed: :class:`PairingLimits` bound how long a transfer and a decode cycle may take, and :func:`candidates` lists the
engines that keep them, each with the highest rate at which it meets the SLO beside such a partner. Several limits are
tried (:func:`pairing_limits`); the fleet's programme is solved for each that may be the best.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from costmodels.arrays import concatenate_rows
from costmodels.estimates import Estimates, Floats, Ints
from costmodels.operations.exchanges import OVERLAPS
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.connector import KvConnector
from costmodels.serving.steady.disaggregated import (
    Decoding,
    Prefilling,
    PrefillSteps,
    decoding,
    joint,
    prefill_steps,
    prefilling,
)
from costmodels.serving.steady.kv_transfer import (
    Link,
    copies,
    received_bytes,
    sent_bytes,
    with_queue,
)
from planner.serving.operating_points import (
    GRID,
    IDLE,
    REFINEMENTS,
    Job,
    LayoutSearch,
    at_confidence,
    has_room,
    peak_sequences,
    percentile_ms,
    sequences_that_fit,
)
from planner.serving.wide_layouts import PREFILL_BUDGETS

_BUSY = np.concatenate([np.linspace(0.02, 0.9, 45), [0.92, 0.94, 0.96, 0.98]])

UTILISATIONS = np.concatenate([[IDLE, 1e-4, 1e-3, 3e-3, 0.01], _BUSY])
"""Loads at which prefill engines are judged, as shares of what they can do at most: above, a queue has no end."""

NONE, FEW, MANY = np.zeros(0, np.int64), np.arange(5, len(UTILISATIONS), 6), np.arange(5, len(UTILISATIONS), 2)
"""Of these the loads that are candidates beside the highest: where latency counts few, where watts do many."""

SLACK = 1.05
"""By how much waiting for the link may lengthen a transfer before terms with longer transfers are needed."""

CROWDED = 3.0
"""The longest transfer with its wait ÷ the transfer alone: a link that is 80 % busy (M/D/1)."""


@dataclass(frozen=True)
class DisaggregatedEngines:
    """One pool's engines in either role.

    Attributes:
        layouts, budget, room: [k], prefill engines: layout, tokens a step, prompts of which a rank's memory holds the
            cache.
        steps: [k], their steps.
        decode, most: [m], decode engines: over their concurrencies, and the sequences that fit.
        link: what their GPUs send and receive over.
    """

    job: Job
    link: Link
    kv_connector: KvConnector
    layouts: Layouts
    budget: Ints
    room: Ints
    steps: PrefillSteps
    decode: Decoding
    most: Ints

    def over(self, link: Link) -> DisaggregatedEngines:
        """The same engines with another link."""
        return replace(self, link=link)

    @cached_property
    def loaded(self) -> tuple[Ints, Prefilling]:
        """The prefill engines at each of :data:`UTILISATIONS`: which engine each is of, and its queue."""
        kinds = np.repeat(np.arange(len(self.layouts)), len(UTILISATIONS))
        return kinds, prefilling(self.steps.take(kinds), np.tile(UTILISATIONS, len(self.layouts)))

    def send_us(self, layouts: Layouts, times: Floats | float) -> Floats:
        """Transfer time at the sending end of one prompt, of which ``times`` copies are needed, [n]."""
        return self.link.seconds_us(sent_bytes(self.job.served, layouts, self.job.shape.isl, times))

    def receive_us(self, layouts: Layouts) -> Floats:
        """Transfer time at the receiving end, [n]."""
        return self.link.seconds_us(received_bytes(self.job.served, layouts, self.job.shape.isl))

    def decode_cycles(self, layouts: Layouts) -> Floats:
        """Decode cycles in a request's time after the transfer, on average, [n]."""
        first = 1.0 if self.kv_connector.first_token == "decode_step" else 0.0
        return np.asarray(0.5 / layouts.pp + first + self.decode.tokens * self.decode.steps_per_token)

    def copies(self, layouts: Layouts) -> Floats:
        return copies(self.job.served, layouts, self.job.shape.isl)


def fabric_link(job: Job) -> Link:
    """The way between nodes."""
    fabric = job.served.network.fabric
    return Link(fabric.name, fabric.bytes_per_s_per_gpu, fabric.latency_us, fabric.shared_by_gpus)


def scale_up_link(job: Job) -> Link:
    """The way between GPUs of one node."""
    gpu = job.served.gpu
    return Link(gpu.scale_up_link, gpu.scale_up_bytes_per_s, 0.0)


def find_disaggregated_engines(search: LayoutSearch, *, within: bool = True) -> DisaggregatedEngines | None:
    """What the layouts of ``search`` do in either role; None where no layout can take one of them. Decode engines are
    those ``within`` the SLO's bounds on TPOT, or all."""
    job = search.job
    kv_connector = job.served.framework.kv_connector
    budgets = np.array(job.served.framework.limits.token_budgets)
    alone = np.flatnonzero((search.layouts.pp == 1) | ("prefill" in kv_connector.pipeline))
    if search.wide.asked and len(search.wide.prefill):
        alone = alone[:0]
    which = np.repeat(alone, len(budgets))
    wide = search.wide.prefill
    some = np.repeat(np.arange(len(wide)), len(PREFILL_BUDGETS))
    layouts = concatenate_rows([search.layouts.take(which), wide.take(some)])
    budget = np.concatenate([np.tile(budgets, len(alone)), np.tile(PREFILL_BUDGETS, len(wide))]).astype(np.int64)
    room = sequences_that_fit(job, layouts, budget, prompts=True)
    fits = np.flatnonzero(room >= 2 * layouts.pp)  # one is computed while another leaves
    only_wide = search.wide.asked and len(search.wide.decode) > 0
    gathering = None if only_wide else _decode(search, kv_connector, within)
    kinds = (gathering, _wide_decode(search, kv_connector, within))
    decodes = [each for each in kinds if each is not None]
    if not len(fits) or not decodes:
        return None
    decode = concatenate_rows([each for each, _ in decodes]), np.concatenate([most for _, most in decodes])
    layouts, budget, room = layouts.take(fits), budget[fits], room[fits]
    steps = prefill_steps(job.served, job.shape, layouts, budget, room // 2)
    return DisaggregatedEngines(job, fabric_link(job), kv_connector, layouts, budget, room, steps, *decode)


def _decode(search: LayoutSearch, kv_connector: KvConnector, within_slo: bool) -> tuple[Decoding, Ints] | None:
    """Decode engines over their concurrencies. The decode steps of the aggregated search are the same steps."""
    points = search.coarse
    if points is None or search.job.workload.osl < 2:
        return None
    pipelined = (points.layouts.pp == 1) | ("decode" in kv_connector.pipeline)
    least = points.budget == min(search.job.served.framework.limits.token_budgets)
    rows = np.flatnonzero(pipelined & least)
    if not len(rows):
        return None
    served, shape, steps = search.job.served, search.job.shape, points.steady.decode.take(rows)
    found = decoding(served, shape, points.layouts.take(rows), points.concurrency[rows], kv_connector, steps)
    return _within_slo(search.job, found, points.most[rows], kv_connector) if within_slo else (found, points.most[rows])


def _wide_decode(search: LayoutSearch, kv_connector: KvConnector, within_slo: bool) -> tuple[Decoding, Ints] | None:
    """The same of engines whose experts are reached by an all-to-all; each concurrency with the smallest buffers that
    hold its sequences."""
    job, layouts, queries = search.job, search.wide.decode, search.job.shape.queries
    if not len(layouts) or job.workload.osl < 2:
        return None
    limit = job.served.framework.limits.max_sequences
    held = np.where(layouts.dispatch_tokens > 0, layouts.dispatch_tokens * layouts.tp // queries, limit)
    # Many sequences at every age are in the cache, none of which outgrows it: as the engine admits them.
    tokens = float(job.served.framework.scheduler.held_tokens(job.workload.mean_isl, job.workload.mean_osl))
    most = np.minimum(sequences_that_fit(job, layouts, held * queries, mean_tokens=tokens), held)
    fullest = np.floor((np.sqrt(np.maximum(most, 1)) - 1) ** 2)  # of which the peak is what cache and buffers hold
    smaller = np.where(layouts.dispatch_tokens > layouts.dispatch_tokens.min(), held // 2, 0)
    tried = np.unique(np.concatenate([GRID, fullest[fullest >= 1]]))
    fits = has_room(tried[None, :], most[:, None]) & (peak_sequences(tried)[None, :] > smaller[:, None])
    halves = layouts.overlap == OVERLAPS.index("two_batch")
    fits &= ~halves[:, None] | (tried[None, :] >= 2)
    rows, columns = np.nonzero(fits)
    if not len(rows):
        return None
    found = decoding(job.served, job.shape, layouts.take(rows), tried[columns].astype(np.float64), kv_connector)
    return _within_slo(job, found, most[rows], kv_connector) if within_slo else (found, most[rows])


def _within_slo(job: Job, found: Decoding, most: Ints, kv_connector: KvConnector) -> tuple[Decoding, Ints] | None:
    """Engines of ``found`` that keep the bounds on TPOT, and others between the best of each layout and the next."""
    within = _tpot_within(job, found)
    extra_rows, extra = _between(found, most, within)
    if len(extra):
        layouts = found.layouts.take(extra_rows)
        finer = decoding(job.served, job.shape, layouts, extra, kv_connector)
        found, most = concatenate_rows([found, finer]), np.concatenate([most, most[extra_rows]])
        within = np.concatenate([within, _tpot_within(job, finer)])
    keep = np.flatnonzero(within)
    return (found.take(keep), most[keep]) if len(keep) else None


def _tpot_within(job: Job, decode: Decoding) -> np.ndarray:
    """Whether the bounds on TPOT hold, [n]; they are the decode engine's alone."""
    within = np.ones(len(decode), np.bool_)
    for bound in job.slo.bounds:
        if bound.metric == "tpot":
            quantile = decode.tpot_percentile_us(bound.percentile / 100)
            within &= at_confidence(quantile, decode.tpot_us, job.confidence) <= bound.limit_ms
    return within


def _between(decode: Decoding, most: Ints, within: np.ndarray) -> tuple[Ints, Floats]:
    """(row, concurrency) between each layout's highest concurrency within the SLO and the next that was tried."""
    key = decode.layouts.rows
    rows: list[int] = []
    values: list[float] = []
    for each in np.unique(key, axis=0):
        mine = np.flatnonzero((key == each).all(axis=1))
        mine = mine[np.argsort(decode.concurrency[mine])]
        inside = np.flatnonzero(within[mine])
        if not len(inside) or inside[-1] + 1 == len(mine):
            continue
        best, after = mine[inside[-1]], mine[inside[-1] + 1]
        low, high = decode.concurrency[best], decode.concurrency[after]
        for value in np.unique(np.floor(np.linspace(low, high, REFINEMENTS + 2))).tolist():
            if low < value < high and peak_sequences(value) <= most[best]:
                rows.append(int(best))
                values.append(value)
    return np.array(rows, np.int64), np.array(values)


# ------------------------------------------------------------------ who goes with whom


@dataclass(frozen=True)
class PairingLimits:
    """What engines of a fleet may count on from each other: no transfer longer than ``transfer_us``, no more than
    ``copies`` of a prompt's cache to send, no decode cycle longer than ``cycle_us``."""

    transfer_us: float
    copies: float
    cycle_us: float


@dataclass(frozen=True)
class EnginesWithinLimits:
    """Engines that keep the terms: prefill engines [k] at the highest load within the SLO, decode engines [m]; which
    rows of the roles they are, and what of the longest transfer a prefill leaves exposed."""

    roles: DisaggregatedEngines
    prefill: Prefilling
    exposed_us: Floats
    prefill_rows: Ints
    decode: Decoding
    decode_rows: Ints


def pairing_limits(pools: list[DisaggregatedEngines]) -> Iterator[PairingLimits]:
    """The terms to try, the loosest first."""
    sends: set[float] = set()
    wanted = {round(float(c), 6) for r in pools for c in r.copies(r.decode.layouts)}
    cycles = np.concatenate([r.decode.cycle_us.value for r in pools])
    bounds = pools[0].job.slo.bounds
    levels = [float(cycles.max())]
    if any(bound.metric == "e2e" for bound in bounds):
        levels = np.geomspace(cycles.max(), cycles.min(), 8).tolist()
    elif any(bound.metric == "ttft" for bound in bounds):
        levels = [level for level in (levels[0], levels[0] / 2, levels[0] / 4) if level >= cycles.min()]
    for times in sorted(wanted, reverse=True):
        sends = {round(float(t), 3) for r in pools for t in r.send_us(r.layouts, times)}
        sends |= {round(float(t), 3) for r in pools for t in r.receive_us(r.decode.layouts)}
        for longest in [CROWDED * max(sends), *(SLACK * t for t in sorted(sends, reverse=True))]:
            for level in levels:
                yield PairingLimits(longest, times, level)


def candidates(
    roles: DisaggregatedEngines, on: PairingLimits, slowest: Decoding, also: Ints = NONE
) -> EnginesWithinLimits:
    """The engines of one pool that keep the terms ``on``.

    Args:
        slowest: one decode engine that is as slow as any that the terms allow.
        also: of :data:`UTILISATIONS` the loads at which prefill engines are candidates, beside the highest of each.
    """
    job, decode = roles.job, roles.decode
    per_us = decode.rate_rps.value / decode.layouts.dp / 1e6
    receiving, _ = with_queue(roles.receive_us(decode.layouts), per_us)
    # Cache of sequences that are on their way is held, too.
    held = peak_sequences(decode.concurrency + per_us * receiving)
    fine = (receiving <= on.transfer_us) & (roles.copies(decode.layouts) <= on.copies * (1 + 1e-6))
    fine &= (decode.cycle_us.value <= on.cycle_us * (1 + 1e-9)) & (held <= roles.most)
    kept = np.flatnonzero(fine)

    kinds, loads = roles.loaded
    per_us = loads.rate_rps.value / loads.steps.layouts.dp / 1e6
    sending, _ = with_queue(roles.send_us(loads.steps.layouts, on.copies), per_us)
    held = peak_sequences(per_us * (loads.service_us + np.minimum(sending, 1e12)))
    fine = (sending <= on.transfer_us) & (held <= roles.room[kinds])
    n = len(kinds)
    partner, transfer = slowest.take(np.zeros(n, np.int64)), np.full(n, on.transfer_us)
    pairs = joint(job.served, job.shape.isl, loads, partner, transfer, roles.link, roles.kv_connector)
    for bound in job.slo.bounds:
        if bound.metric != "tpot":
            fine &= percentile_ms(pairs, bound, job.confidence) <= bound.limit_ms
    rows = np.flatnonzero(fine)
    if len(rows):
        # Loads rise within each kind, so the last is the highest.
        highest = np.append(np.diff(kinds[rows]) > 0, True)
        rows = rows[highest | np.isin(rows % len(UTILISATIONS), also)]
    return EnginesWithinLimits(
        roles, loads.take(rows), pairs.exposed_us.value[rows], kinds[rows], decode.take(kept), kept
    )


def slowest_decode(pools: list[DisaggregatedEngines], on: PairingLimits) -> Decoding | None:
    """One decode engine as slow as any that the terms allow, in every respect that a partner sees; None where they
    allow none."""
    allowed = [r.decode.take(np.flatnonzero(r.decode.cycle_us.value <= on.cycle_us * (1 + 1e-9))) for r in pools]
    allowed = [decode for decode in allowed if len(decode)]
    if not allowed:
        return None
    cycle = np.concatenate([decode.cycle_us.value for decode in allowed])
    low, high = (np.concatenate([getattr(decode.cycle_us, end) for decode in allowed]) for end in ("low", "high"))
    one = allowed[0].take(np.zeros(1, np.int64))
    worst = cycle.max()
    # The widest interval upwards and the narrowest downwards: whatever the confidence, no partner is surer.
    times = Estimates(
        np.array([worst]),
        np.array([worst * (low / cycle).max()]),
        np.array([worst * (high / cycle).max()]),
        one.cycle_us.how,
        one.cycle_us.inside,
    )
    return replace(
        one,
        layouts=Layouts.of([(1, 1, 1, 1, 1)]),
        cycle_us=times,
        tpot_us=times.scaled(one.steps_per_token),
        batch_size_deviation_us=np.array([max(float(decode.batch_size_deviation_us.max()) for decode in allowed)]),
    )
