"""Replays a load against a plan: every engine is simulated with its own queue behind the plan's gateway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.arrivals import Requests, closed_loop
from costmodels.serving.simulator.capacity import keeps_up
from costmodels.serving.simulator.engine import Engine
from costmodels.serving.simulator.events import simulate
from costmodels.serving.simulator.filling import carries
from costmodels.serving.simulator.outcome import TIMELINE, Metric, Outcome
from costmodels.serving.simulator.step_table import End
from planner.contract.engine import EngineGroup, Replica
from planner.contract.progress import Step
from planner.replay.planned_engines import PlannedEngine
from planner.serving.confirmation.simulated_engine import ENDS

LIFETIMES = 3
"""Times that a request takes, after which an engine counts as filled up."""

SAMPLES = 200
"""Samples of the timeline of one engine, at least."""

FINE_US = 5e4
"""Between samples, where windows of a quarter of a second are asked for."""


def sample_us(span_us: float, *, fine: bool) -> float:
    """Between the samples of a load's timeline."""
    return max(min(span_us / SAMPLES, FINE_US if fine else np.inf), 1e4)


@dataclass(frozen=True)
class Replay:
    """One engine and what became of the requests that it was sent (``rows`` of its stage's load). ``engine``: where
    they came at their own times, at about one rate."""

    group: EngineGroup
    rows: Ints
    outcome: Outcome
    engine: Engine | None = None

    @cached_property
    def keeps_up(self) -> bool:
        """Whether the engine answers as fast as requests come."""
        return keeps_up(self.outcome) if self.engine is None else carries(self.engine, self.outcome)


@dataclass(frozen=True)
class FleetOutcome:
    """The load as the users saw it, and what each engine did.

    Attributes:
        requests: as one engine would show them, in the order of the load.
        replays: one for each engine that was sent any.
    """

    requests: Outcome
    replays: list[Replay]


def route(weights: Floats, requests: int, seed: int) -> Ints:
    """The engine that each request is sent to: the gateway draws one by weight."""
    edges = np.cumsum(weights) / np.sum(weights)
    drawn = np.random.default_rng(seed).random(requests)
    return np.minimum(np.searchsorted(edges, drawn, side="right"), len(weights) - 1)


def simulating(requests: int, end: End, done: int, ends: int) -> Step:
    """What is said before ``requests`` are simulated at one of so many ``ends``."""
    steps = {"value": "as predicted", "low": "at the low end", "high": "at the high end"}[end]
    return Step(f"simulating {requests:,} requests, steps {steps}", done, ends)


def replay(
    engines: list[PlannedEngine],
    load: Requests,
    seed: int,
    transfer_us: dict[End, Floats] | None = None,
    progress: Callable[[str], None] | None = None,
    ends: Sequence[End] = ENDS,
    fine: bool = False,
) -> dict[End, FleetOutcome]:
    """Sends ``load`` to the plan's engines, at each of the ``ends`` of the step times' interval: all see the same
    requests at the same engines.

    Args:
        seed: of the gateway's draws.
        transfer_us: of each request's cache from its prefill to its decode engine, as far as it comes after the
            prefill; only where the plan has both.
        fine: timelines show quarters of a second.
    """
    out = {}
    for done, end in enumerate(ends):
        if progress is not None:
            progress(simulating(len(load), end, done, len(ends)))
        out[end] = _fleet(engines, load, seed, end, None if transfer_us is None else transfer_us[end], fine)
    return out


def _fleet(
    engines: list[PlannedEngine], load: Requests, seed: int, end: End, transfer_us: Floats | None, fine: bool
) -> FleetOutcome:
    entry = _stage([e for e in engines if e.group.role != "decode"], load, seed, end, fine)
    outcome = _merged(load, entry)
    behind = [e for e in engines if e.group.role == "decode"]
    if not behind or transfer_us is None:
        return FleetOutcome(outcome, entry)
    passed = np.flatnonzero(outcome.served)
    if not len(passed):
        return FleetOutcome(outcome, entry)
    arrival_us = outcome.finish_us[passed] + transfer_us[passed]
    order = np.argsort(arrival_us, kind="stable")
    passed = passed[order]
    handed = Requests(load.isl[passed], load.osl[passed], arrival_us[order])
    decode = _stage(behind, handed, seed + 1, end, fine)
    return FleetOutcome(_handed_on(outcome, load, passed, _merged(handed, decode)), entry + decode)


def _handed_on(prefill: Outcome, load: Requests, passed: Ints, decode: Outcome) -> Outcome:
    """Requests ``passed`` from the prefill to the decode engines, as their users saw them: the decode engine streams
    all tokens."""

    def then(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        out = before.copy()
        out[passed] = after
        return out

    never = np.full(len(load), np.nan)
    return replace(
        prefill,
        osl=load.osl,
        first_us=then(never, decode.first_us),
        finish_us=then(never, decode.finish_us),
        preemptions=then(prefill.preemptions, prefill.preemptions[passed] + decode.preemptions),
        rank=then(prefill.rank, decode.rank),
        refused=then(prefill.refused, decode.refused),
        end_us=max(prefill.end_us, decode.end_us),
        busy_us=prefill.busy_us + decode.busy_us,
        steps=prefill.steps + decode.steps,
    )


def _stage(engines: list[PlannedEngine], load: Requests, seed: int, end: End, fine: bool) -> list[Replay]:
    """The engines of one stage, each with its share of ``load``."""
    replicas = [(planned, replica) for planned in engines for replica in planned.group.replicas]
    weights = np.array([replica.weight for _, replica in replicas])
    if load.concurrency is not None:
        return _users(replicas, weights, load, end, FINE_US if fine else 1e5)
    target = route(weights, len(load), seed)
    between_us = sample_us(float(load.arrival_us[-1]), fine=fine)
    replays = []
    for number, (planned, _) in enumerate(replicas):
        mine = np.flatnonzero(target == number)
        if len(mine):
            engine = planned.engines[end]
            outcome = simulate(engine, load.take(mine), sample_us=between_us)
            replays.append(Replay(planned.group, mine, outcome, engine))
    return replays


def _users(
    replicas: Sequence[tuple[PlannedEngine, Replica]], weights: Floats, load: Requests, end: End, between_us: float
) -> list[Replay]:
    """Users at once, each at one engine, as many at each as its weight says."""
    assert load.concurrency is not None
    exact = np.cumsum(weights) / weights.sum()
    users = np.diff(np.rint(exact * load.concurrency).astype(np.int64), prepend=0)
    # The requests of an engine are as many as its users ask in the same time.
    edges = np.rint(np.cumsum(users) / load.concurrency * len(load)).astype(np.int64)
    replays = []
    for (planned, _), many, first, last in zip(replicas, users, [0, *edges[:-1]], edges, strict=True):
        if many and last > first:
            mine = np.arange(first, last)
            own = closed_loop(load.isl[mine], load.osl[mine], int(many))
            replays.append(Replay(planned.group, mine, _of_users(planned.engines[end], own, between_us)))
    return replays


def _of_users(engine: Engine, load: Requests, between_us: float) -> Outcome:
    """Users at once at one engine. Only where lengths are all alike does the way to it decide who is let in together;
    elsewhere ends scatter by more, and the constants of the frameworks were fitted to such runs without it (as in
    :class:`costmodels.serving.closed_loop.load.Load`)."""
    if np.ptp(load.isl) == 0 and np.ptp(load.osl) == 0:
        return simulate(engine, load, sample_us=between_us)
    front_us = engine.overheads.request_us
    there = replace(engine, overheads=replace(engine.overheads, request_us=0.0))
    seen = simulate(there, load, sample_us=between_us)
    before_us = _asked_before(seen, load) * front_us
    answered = replace(
        seen,
        arrival_us=seen.arrival_us + before_us,
        first_us=seen.first_us + before_us + front_us,
        finish_us=seen.finish_us + before_us + front_us,
    )
    return replace(answered, end_us=float(np.nanmax(answered.finish_us, initial=seen.end_us)))


def _asked_before(seen: Outcome, load: Requests) -> Floats:
    """How many requests the user had sent before each, [n]: who is answered asks next."""
    assert load.concurrency is not None
    ends = np.where(seen.served, seen.finish_us, seen.arrival_us)
    before = [0] * len(load)
    for following, user in enumerate(np.argsort(ends, kind="stable").tolist(), load.concurrency):
        if following == len(load):
            break
        before[following] = before[user] + 1
    return np.array(before, np.float64)


def _merged(load: Requests, replays: list[Replay]) -> Outcome:
    """All requests in the order of the load."""
    order = np.argsort(np.concatenate([each.rows for each in replays]))

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(each.outcome, name) for each in replays])[order]

    return Outcome(
        isl=load.isl,
        osl=load.osl,
        arrival_us=load.arrival_us if load.concurrency is None else joined("arrival_us"),
        first_us=joined("first_us"),
        finish_us=joined("finish_us"),
        preemptions=joined("preemptions"),
        rank=joined("rank"),
        refused=joined("refused"),
        end_us=max(each.outcome.end_us for each in replays),
        busy_us=sum(each.outcome.busy_us for each in replays),
        steps=sum(each.outcome.steps for each in replays),
        timeline=np.zeros((0, len(TIMELINE))),
    )


def capacity_seen_rps(fleet: FleetOutcome, rate_rps: float) -> float | None:
    """About what a fleet that falls behind carries, requests per second; None where it keeps up.

    The gateway's shares are fixed, so the plan carries what its worst engine does: the offered rate × answers per
    arrival in the second half of the time, when the queue feeds that engine without a pause.
    """
    behind = [each.outcome for each in fleet.replays if not each.keeps_up]
    if not behind:
        return None
    return rate_rps * min(_answered_share(outcome) for outcome in behind)


def _answered_share(outcome: Outcome) -> float:
    arrivals = outcome.arrival_us[outcome.served]
    first, last = arrivals.min(), arrivals.max()
    half = (first + last) / 2
    finish = outcome.finish_us[outcome.served]
    if last - half < LIFETIMES * outcome.mean_us("e2e"):
        # Too short a load for answers to come as its requests do: all that it took, to the last answer.
        return float((last - first) / (finish.max() - first))
    return float(((finish > half) & (finish <= last)).sum() / (arrivals > half).sum())


def warm_up(outcome: Outcome) -> Ints:
    """The requests that count, in the order of the load: without those of the first lifetimes, while the engines fill;
    half of the load where that is no longer than these."""
    begins = outcome.arrival_us.min() + LIFETIMES * np.nanmean(outcome.e2e_us)
    order = np.argsort(outcome.arrival_us, kind="stable")
    left_out = min(int((outcome.arrival_us < begins).sum()), len(outcome) // 2)
    return np.sort(order[left_out:])


def limits_us(bounds: list[tuple[Metric, float]]) -> dict[Metric, float]:
    """The tightest limit of each metric, µs, of (metric, limit in ms)."""
    out: dict[Metric, float] = {}
    for metric, limit_ms in bounds:
        out[metric] = min(out.get(metric, np.inf), limit_ms * 1e3)
    return out
