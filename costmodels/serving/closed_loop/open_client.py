"""What requests that come at random at a rate see of one configuration: the event simulator, calibrated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from costmodels.estimates import SIGMAS, Estimates, Floats, Ints
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.power.board import Activity, mean_watts
from costmodels.serving.closed_loop.client import Answers, Latency, itl_percentiles
from costmodels.serving.recipe import Started
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.arrivals import open_loop as requests_at
from costmodels.serving.simulator.capacity import (
    HARDLY_MEET,
    LONG,
    MANY,
    between_modes,
    keeps_up,
    once_settled,
    over_us,
    share_error,
)
from costmodels.serving.simulator.engine import Engine
from costmodels.serving.simulator.events import simulate
from costmodels.serving.simulator.outcome import Metric, Outcome
from costmodels.serving.simulator.step_table import End, step_tables_at
from costmodels.serving.step import StepTimes
from profiles.errors import InputError

ENDS: tuple[End, End] = ("low", "high")

REQUESTS, MOST_REQUESTS = 5000, 20_000
"""Sent where nobody says how many: enough for a p99, as many as ``plan simulate`` sends; and at most."""
LIFETIMES = 6
"""The run must last so many times as long as a request, or it ends before the engine has filled up."""

SETTLED = 0.4  # share of the requests after which the engine counts as filled up; those before are left out


TOLD = (0.5, 0.99)
"""Percentiles that are told."""

LEFT_POINTS = 513
"""Times at which it is asked whether all requests are answered."""


@dataclass(frozen=True)
class DrawnRequests:
    """Requests whose lengths are drawn.

    Attributes:
        shape: of a request of mean length.
        drawn: prompt and output lengths of so many requests, shape [n] each.
        longest_tokens: of a request, prompt and output.
    """

    shape: RequestShape
    drawn: Callable[[int], tuple[Ints, Ints]]
    longest_tokens: int


@dataclass(frozen=True)
class OpenLoad(DrawnRequests):
    """Requests that come at random, whatever the engine does.

    Attributes:
        requests: how many to send; None: as many as it takes.
        ran: a run of just so many ``requests`` is told of, all of which its client counted, be the engine keeping up or
            not; else what they see who come once it has filled up.
    """

    rate_rps: float
    requests: int | None = None
    ran: bool = False

    @property
    def settling(self) -> float:
        """Share of the requests that are not counted, because they came while the engine filled up."""
        return 0.0 if self.whole else SETTLED

    @property
    def whole(self) -> bool:
        """Whether all requests are counted, and there are no others."""
        return self.ran and self.requests is not None


def engines_of(
    served: ServedModel,
    layout: Layouts,
    load: DrawnRequests,
    kv_tokens: int,
    started: Started,
    ends: Sequence[End] = get_args(End),
) -> dict[End, Engine]:
    """The engine to simulate (``layout`` of length 1), with steps at each of ``ends`` of their interval.

    Args:
        kv_tokens: of the cache of one attention rank.
        started: what the engine is started with.
    """
    shape = load.shape
    sequences, budget = started.max_num_seqs, started.max_num_batched_tokens
    (tables,) = step_tables_at(
        ends,
        served,
        layout,
        shape.routing,
        most_tokens=budget,
        most_sequences=sequences,
        longest_tokens=load.longest_tokens,
        queries=shape.queries,
    )
    return {
        end: Engine(
            table,
            served.framework.scheduler.model_copy(update={"chunked": started.chunked_prefill}),
            kv_tokens=kv_tokens,
            token_budget=budget,
            max_sequences=sequences,
            cached_share=shape.cached_tokens / shape.isl,
            tokens_per_step=shape.tokens_per_step,
            draft_share=shape.share_of_step(served.model.layers),
        )
        for end, table in tables.items()
    }


def played(engine: Engine, load: OpenLoad) -> tuple[Outcome, bool]:
    """(What so many requests see as are sent, or as it takes for the engine to fill up; whether it keeps up)."""
    count, rate_rps = load.requests or REQUESTS, load.rate_rps
    while True:
        outcome = simulate(engine, requests_at(*load.drawn(count), rate_rps, seed=0))
        needed = math.ceil(LIFETIMES * rate_rps * outcome.mean_us("e2e") / 1e6)
        if needed <= count or count == MOST_REQUESTS or load.requests is not None:
            break
        count = min(max(needed, 2 * count), MOST_REQUESTS)
    # A run that is cut short at MOST_REQUESTS is one whose requests stay ever longer.
    return outcome, (needed <= count or load.requests is not None) and keeps_up(outcome)


class TooFast(InputError):
    """Requests come faster than an engine serves them."""


def open_loop(served: ServedModel, layout: Layouts, load: OpenLoad, kv_tokens: int, started: Started) -> Answers:
    """Poisson arrivals on one configuration; arguments as those of :func:`engines_of`.

    Raises:
        TooFast: the engine does not keep up with the rate.
    """
    shape, rate_rps = load.shape, load.rate_rps
    engines = engines_of(served, layout, load, kv_tokens, started)
    outcome, holds = played(engines["value"], load)
    count = len(outcome)
    if not holds and not load.whole:
        raise TooFast(
            f"rate: {rate_rps:g} requests/s is more than this engine serves (about {outcome.rate_rps:.3g})",
            "lower the rate, or use more or larger engines",
        )
    warm = outcome.trimmed(load.settling, 0.0)
    if load.requests is None and _unsure(warm, rate_rps):
        count = MANY
        warm = simulate(engines["value"], requests_at(*load.drawn(count), rate_rps, seed=0)).trimmed(SETTLED, 0.0)
    calibration = served.calibration
    in_flight = (len(outcome) / outcome.span_s if load.whole else rate_rps) * warm.mean_us("e2e") / 1e6
    tpot = 0.0 if load.shape.osl == 1 else warm.mean_us("tpot")  # an answer of one token has none
    prompt, users = np.array([float(shape.isl)]), np.array([in_flight])
    coming, outputs = np.array([rate_rps / 1e6]), float(shape.osl)
    front = calibration.front_us(prompt, users, np.array([tpot]), layout.dp, outputs, coming_per_us=coming)[0]
    fronts = {end: front * factor for end, factor in calibration.front_ends.items()}
    requests = requests_at(*load.drawn(count), rate_rps, seed=0)
    seen: dict[End, Outcome] = {"value": warm}
    for end in ENDS:
        seen[end] = once_settled(simulate(engines[end], requests), load.settling)
    sees = count if load.whole else LONG
    steps, watts = running(served, layout, shape, rate_rps, in_flight, outcome.busy_us / max(outcome.end_us, 1.0))
    chunks, (itl_p50, itl_p90) = between_tokens(steps, layout, shape, started, (rate_rps, in_flight, tpot))
    how, inside = itl_p50.how, itl_p50.inside

    def latency(metric: Metric, before: Mapping[End, float]) -> Latency:
        """With steps and front end at the ends of their intervals, the engine played again."""

        def estimates(p: float | None) -> Estimates:
            if p is not None and between_modes(warm, metric, p):  # the higher one, as long as it may be
                p = min(p + share_error(warm, metric, p), 1.0)
            value, low, high = (
                np.array([over_us(seen[end], metric, p, sees) + before[end]]) for end in ("value", *ENDS)
            )
            return Estimates(value, np.minimum(low, value), np.maximum(high, value), how, inside)

        median, tail = TOLD
        return Latency(estimates(None), estimates(median), estimates(tail).value)

    return Answers(
        latency("ttft", fronts),
        latency("tpot", dict.fromkeys(fronts, 0.0)),
        latency("e2e", fronts),
        itl_p50,
        itl_p90,
        Estimates.exact(np.array([rate_rps * shape.osl])),
        watts,
        np.array([shape.isl / shape.osl]),
        falls_behind=np.array([not load.whole and not keeps_up(seen["high"])]),
        tpot_parts=tpot_parts(steps, tpot, (1 + engines["value"].draft_share) / shape.tokens_per_step),
        ttft_parts=ttft_parts(float(steps.latency.value[1]) * chunks, warm.mean_us("ttft"), float(front)),
        counted_tokens_per_s=None if load.requests is None else counted(load, seen),
    )


def between_tokens(
    steps: StepTimes, layout: Layouts, shape: RequestShape, started: Started, load: tuple[float, float, float]
) -> tuple[int, tuple[Estimates, Estimates]]:
    """(Steps that a prompt takes; times between two tokens that half and nine tenths of them stay below).

    Args:
        steps: without prompts, and with one (:func:`running`).
        load: requests a second, how many of them are in flight, and their mean time per output token, µs.
    """
    rate_rps, in_flight, tpot_us = load
    chunks = math.ceil(shape.new_tokens / max(started.max_num_batched_tokens - in_flight / float(layout.dp[0]), 1.0))
    coming = rate_rps / layout.dp * chunks * tpot_us * shape.tokens_per_step / 1e6
    most = max(started.max_num_batched_tokens / shape.new_tokens, 1.0)

    def at(time_us: Floats) -> Floats:
        """[2, 1], from the times of both steps, [2]."""
        return itl_percentiles(time_us[:1], np.maximum(time_us[1:] / chunks, time_us[:1]), coming, most)

    latency, plain = steps.latency, steps.take(np.zeros(1, np.int64)).latency
    value, low, high = (at(each) for each in (latency.value, latency.low, latency.high))
    p50, p90 = (Estimates(value[k], low[k], high[k], plain.how, plain.inside) for k in range(2))
    return chunks, (p50, p90)


def tpot_parts(steps: StepTimes, tpot_us: float, per_token: float) -> dict[str, Floats]:
    """The time per token by cause: a step without prompts as it is made up (``per_token`` of one), and what steps with
    prompts add."""
    plain = {name: values[:1] * per_token for name, values in steps.parts.items()}
    whole = float(sum(values[0] for values in plain.values()))
    kept = min(tpot_us / max(whole, 1e-9), 1.0)
    parts = {name: values * kept for name, values in plain.items()}
    return {**parts, "steps with prompts": np.array([max(tpot_us - whole, 0.0)])}


def ttft_parts(own_us: float, engine_us: float, front_us: float) -> dict[str, Floats]:
    """The time to the first token: its own prompt's steps, the wait for others' and for the step in progress, and the
    front end."""
    own = min(own_us, engine_us)
    parts = {"own prompt": own, "queue and steps in progress": engine_us - own, "front end": front_us}
    return {name: np.array([us]) for name, us in parts.items()}


def counted(load: OpenLoad, seen: Mapping[End, Outcome]) -> Estimates:
    """Output tokens/s ([1]) that a client reports of ``load.requests``: over its time from the first request to the
    last answer. Gaps at random, n of them, sum to n ÷ rate · (1 ± 1/√n); the last answer is the latest of
    all, which is seldom that of the last request where a few are long.

    Args:
        seen: by requests like those, with steps as they are told and at both ends of their interval.
    """
    assert load.requests is not None
    sending = load.requests / load.rate_rps * (1 + SIGMAS / math.sqrt(load.requests) * np.array([0.0, 1.0, -1.0]))
    seconds = sending + _left_us(load, seen["value"].of("e2e")) / 1e6
    if load.whole and not keeps_up(seen["value"]):  # the queue is what is left
        seconds = np.array([seen[end].span_s for end in ("value", "high", "low")])
    value, low, high = (load.requests * load.shape.osl / seconds)[:, None]
    return replace(Estimates.exact(value), low=np.minimum(low, value), high=np.maximum(high, value))


def _left_us(load: OpenLoad, e2e_us: Floats) -> Floats:
    """What is left after the last request is sent until all are answered: its mean and the ends of its 80 % interval,
    the later first. It is over by t where the last is answered within t, the one before within t and a gap, and so on.
    """
    assert load.requests is not None
    gap_us, longest = 1e6 / load.rate_rps, float(e2e_us.max())
    left = np.linspace(0.0, longest, LEFT_POINTS)
    sent_before = gap_us * np.arange(min(load.requests, math.ceil(longest / gap_us) + 1))
    answered = np.searchsorted(np.sort(e2e_us), left[:, None] + sent_before, side="right") / len(e2e_us)
    over = answered.prod(axis=1)
    late, early = left[np.searchsorted(over, (0.9, 0.1))]
    return np.array([float(np.trapezoid(1 - over, left)), late, early])


def _unsure(warm: Outcome, rate_rps: float) -> bool:
    """Whether a percentile that is told lies between two modes, and only more requests tell at which."""
    return rate_rps * warm.mean_us("e2e") / 1e6 <= HARDLY_MEET and any(
        between_modes(warm, metric, p) for metric in get_args(Metric) for p in TOLD
    )


def running(
    served: ServedModel, layout: Layouts, shape: RequestShape, rate_rps: float, in_flight: float, busy: float
) -> tuple[StepTimes, Estimates]:
    """(Steps with ``in_flight`` requests, without prompts and with one; watts of one GPU over time).

    Args:
        busy: share of the time in steps.
    """
    ranks = float(layout.dp[0])
    decodes = max(round(in_flight / ranks), 1)
    nobody, decoding = np.zeros(2, np.int64), np.array([decodes, decodes])
    prompts = np.array([0, 1])
    batch = Batch(
        prompts,
        prompts * shape.new_tokens,
        nobody,
        decoding,
        np.full(2, shape.context),
        (decoding + prompts * shape.new_tokens).astype(np.float64),
    )
    both = served.step(layout.take(np.zeros(2, np.int64)), batch.verifying(shape.queries), shape.routing)
    plain, first = both.take(np.zeros(1, np.int64)), both.take(np.ones(1, np.int64))
    share = np.minimum(rate_rps / ranks * first.latency.value / 1e6, max(busy, 1e-9))
    activity = Activity.mixed([(Activity.of(plain), max(busy, 1e-9) - share), (Activity.of(first), share)])
    return both, mean_watts(served.gpu, activity, np.array([min(busy, 1.0)]))
