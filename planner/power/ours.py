"""Our policy: thresholds from how fast the row rises within the control delay, clocks of each level and class by an
integer programme, and the simulator as the judge of both; what it finds wrong comes back as a tighter constraint."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from costmodels.estimates import Floats
from planner.power.judge import MOST_UNANSWERED, Judge, Verdict
from planner.power.policy import Level, Policy
from planner.power.reference import UNCAPPED
from planner.power.row import clock_at
from planner.power.simulator import RowModel
from planner.power.tails import YEAR_DAYS
from profiles.errors import DataError

LEVELS = 6
CLOCK_SHARES = (1.0, 0.96, 0.925, 0.88, 0.83, 0.787, 0.72, 0.65, 0.57, 0.5, 0.43)
"""Of the highest clock: what the programme chooses from, snapped to settable steps."""

ROUNDS = 5


_SCALE = 10_000


@dataclass(frozen=True)
class RowShape:
    """What is known of the row at work, uncapped: ``demand`` [seconds] watts ÷ budget with one server, ``dynamic``:
    share of them that clocks act on, of which ``prefill`` is prefill's; ``rise``: at the stated probability, within
    the time that a cap takes, with one server."""

    demand: Floats
    dynamic: float
    prefill: float
    rise: float


def shape_of(judge: Judge, delay_s: float) -> RowShape:
    """From uncapped days."""
    row, n, days = judge.row, judge.most, judge.uncapped()
    base = float(row.servers(n).base_watts.sum())
    watts = np.concatenate([each.watts[600:] for each in days])
    lag = lag_of(judge, delay_s)
    top = float(np.quantile(watts, 0.999))
    rises = np.concatenate([_rises(each.watts[600:], each.watts[600:], lag) for each in days])
    at_work = np.concatenate([(each.watts[600:] > np.median(watts))[:-lag] for each in days])
    rise = float(np.quantile(rises[at_work], judge.request.probability))
    kind = row.main
    work = sum(each.totals[2] for each in days) / (86_400 * len(days))  # prefill seconds a second
    prefill = work / kind.engines * kind.prefill_watts
    return RowShape(
        demand=watts / row.budget_watts / n,
        dynamic=1.0 - (base + row.other_watts) / top,
        prefill=float(
            np.clip((prefill + 0.5 * (top - watts.mean())) / max(top - base - row.other_watts, 1.0), 0.02, 0.98)
        ),
        rise=rise / row.budget_watts / n,
    )


def lag_of(judge: Judge, delay_s: float) -> int:
    """Seconds from a change until a cap answers it: a reading, and the control's delay."""
    return max(int(np.ceil(delay_s + judge.row.timing.period_s)), 1)


def foreseeing(judge: Judge, shape: RowShape, lag: int) -> RowShape:
    """``shape`` where readings are told what waits in the engines' queues: a rise is what goes beyond that."""
    days = list(judge.whole_days(replace(UNCAPPED, foresight_s=float(lag)), judge.most))
    rises = np.concatenate([_rises(each.watts[600:], each.foreseen[600:], lag) for each in days])
    at_work = np.concatenate([(each.watts[600:] > np.median(each.watts[600:]))[:-lag] for each in days])
    rise = float(np.quantile(rises[at_work], judge.request.probability))
    return replace(shape, rise=rise / judge.row.budget_watts / judge.most)


def _rises(watts: Floats, known: Floats, lag: int) -> Floats:
    """[seconds − lag] how far watts rise at most, above what is ``known``, within ``lag`` seconds."""
    highest = np.max(np.lib.stride_tricks.sliding_window_view(watts[1:], lag), axis=1)
    return np.asarray(highest - known[:-lag])


@dataclass(frozen=True)
class Tightened:
    """What the simulator taught: ``keep``: share of each class's limit that the programme may use; ``below``: how much
    lower the last threshold is than derived; ``spread``: from the first threshold to the last; ``margin``: how far a
    reading must fall below what a level gains before the level is left."""

    keep: tuple[float, ...]
    below: float = 0.0
    spread: float = 0.03
    margin: float = 0.012


def policy_for(judge: Judge, shape: RowShape, n: int, tight: Tightened) -> Policy:
    """The levels for ``n`` servers."""
    last = 1.0 - shape.rise * n - tight.below  # here the deepest caps must act
    first = last - tight.spread
    demand = shape.demand * n
    top = max(float(demand.max()) * 1.03, last + 0.02)
    # Readings climb from the first threshold to the last while demand climbs from there to its highest.
    ups = np.linspace(first, last, LEVELS)
    edges = np.linspace(first, top, LEVELS + 1)
    weights = np.array([np.mean((demand > low) & (demand <= high)) for low, high in itertools.pairwise(edges)])
    savings = np.maximum(1.0 - np.append(ups[1:], last) / edges[1:], 0.002)
    clocks, saved = choose_clocks(judge, shape, savings, weights, tight)
    levels = []
    for index in range(LEVELS):
        gained = (float(saved[index]) - (float(saved[index - 1]) if index else 0.0)) * top
        levels.append(Level(clocks[index], float(ups[index]), None, float(ups[index]) - gained - tight.margin, index))
    return Policy("ours", tuple(levels), in_band=True)


def choose_clocks(
    judge: Judge, shape: RowShape, savings: Floats, weights: Floats, tight: Tightened
) -> tuple[list[tuple[int | None, ...]], Floats]:
    """(MHz of each level and class, share of the row's watts that each level saves): the least slowdown, weighted by
    time and priority, of those that keep the limits and save ``savings``, or as near to it as the limits let. Where
    prefill and decode have GPUs of their own a class has two clocks, and decode is capped before prefill.

    Args:
        savings, weights: [levels] share of watts to save, share of time.
    """
    row = judge.row
    mhz = [clock_at(row, share) for share in CLOCK_SHARES]
    share = np.array(mhz, np.float64) / row.main.highest_mhz
    roles = effects_by_role(row, shape, share) if row.columns > len(row.groups) else [effects(row, shape, share)]
    groups, levels, clocks, columns = len(row.groups), len(savings), len(mhz), row.columns
    shares = row.group_shares / row.group_shares.sum()
    model = cp_model.CpModel()
    pick = [[[model.new_bool_var("") for _ in range(clocks)] for _ in range(columns)] for _ in range(levels)]
    short = [model.new_int_var(0, _SCALE, "") for _ in range(levels)]
    column_slow = [np.round(roles[column // groups][0] * _SCALE).astype(int) for column in range(columns)]
    column_saved = [shares[column % groups] * roles[column // groups][1] for column in range(columns)]

    def depth(level: int, column: int) -> Any:
        return sum(c * var for c, var in enumerate(pick[level][column]))

    def slowed(level: int, group: int) -> Any:
        """By all clocks of a class."""
        mine = range(group, columns, groups)
        return sum(int(column_slow[column][c]) * pick[level][column][c] for column in mine for c in range(clocks))

    for level in range(levels):
        for column in range(columns):
            model.add_exactly_one(pick[level][column])
            if level:  # deeper levels are not faster
                model.add(depth(level, column) >= depth(level - 1, column))
            if column % groups:  # a lower priority is not faster
                model.add(depth(level, column) >= depth(level, column - 1))
            if column >= groups:  # prefill is not slower than decode
                model.add(depth(level, column) <= depth(level, column - groups))
        model.add(
            sum(
                round(column_saved[column][c] * _SCALE) * pick[level][column][c]
                for column in range(columns)
                for c in range(clocks)
            )
            + short[level]
            >= int(np.ceil(savings[level] * _SCALE))
        )
    # Time at or above each level; what is rarer than a percentile sees may be slow.
    beyond = np.cumsum(weights[::-1])[::-1]
    for limit in judge.request.slo_impact:
        group = row.groups.index(limit.priority)
        allowed = limit.limit * tight.keep[group]
        tail = 1.0 - limit.percentile / 100.0
        if limit.percentile <= 75:
            model.add(
                sum(round(weights[level] * _SCALE) * slowed(level, group) for level in range(levels))
                <= int(allowed * _SCALE * _SCALE)
            )
            continue
        for level in range(levels):
            most = allowed * (1.0 if beyond[level] > 2 * tail else 2.0 if beyond[level] > tail / 2 else np.inf)
            if np.isfinite(most):
                model.add(slowed(level, group) <= int(most * _SCALE + 1e-6))
    weight_of = [4.0 ** (groups - 1 - group) for group in range(groups)]
    model.minimize(
        sum(
            round(
                (weights[level] + 1e-3)
                * weight_of[column % groups]
                * shares[column % groups]
                * 1e3
                * roles[column // groups][0][c]
                * 100
            )
            * pick[level][column][c]
            for level in range(levels)
            for column in range(columns)
            for c in range(clocks)
        )
        + 10_000 * sum(short)
    )
    solver = cp_model.CpSolver()
    solver.parameters.num_workers, solver.parameters.random_seed = 1, 1
    solver.parameters.max_deterministic_time = 5.0
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):  # no caps at all is always a solution
        raise DataError("power: the programme of the levels has no solution", "report this as a defect")
    index = [
        [next(c for c in range(clocks) if solver.value(pick[level][g][c])) for g in range(columns)]
        for level in range(levels)
    ]
    gains = np.array([sum(column_saved[g][index[level][g]] for g in range(columns)) for level in range(levels)])
    return [tuple(None if c == 0 else mhz[c] for c in level) for level in index], gains


def effects(row: RowModel, shape: RowShape, shares: Floats) -> tuple[Floats, Floats]:
    """([clocks] how much longer a request takes, [clocks] share of a server's watts saved) at clocks that are
    ``shares`` of the highest.
    """
    (slow_decode, saved_decode), (slow_prefill, saved_prefill) = effects_by_role(row, shape, shares)
    return slow_decode + slow_prefill, saved_decode + saved_prefill


def effects_by_role(row: RowModel, shape: RowShape, shares: Floats) -> list[tuple[Floats, Floats]]:
    """The same of decode and of prefill, each at the clocks while the other is not capped."""
    response = row.main.response
    parts = ((response.decode, 0.9, 1 - shape.prefill), (response.prefill, 0.1, shape.prefill))
    return [
        (
            np.asarray(part * (phase.slowdown(shares) - 1.0)),
            np.asarray(drawn * (1 - phase.watts(shares)) * shape.dynamic),
        )
        for phase, part, drawn in parts
    ]


def tuned(judge: Judge, shape: RowShape, n: int, form: Policy) -> Policy | None:
    """A policy that holds every promise with ``n`` servers on the judge's days, after some rounds of cuts; None:
    none was found. ``form``: name and way of its commands."""
    tight = Tightened(keep=(0.95,) * len(judge.row.groups), margin=0.03 if form.immediate else 0.012)
    both, most = 0, int(_TRAINED_BRAKES * judge.request.max_brakes_per_year * judge.days.screened / YEAR_DAYS)
    for _ in range(ROUNDS):
        policy = replace(form, levels=policy_for(judge, shape, n, tight).levels)
        verdict, brakes = judge.verdict_until(policy, n, most)
        over = [_over(judge, verdict, name) for name in judge.row.groups]
        slow = max(over) > 1
        if not brakes and not slow and verdict.unanswered <= MOST_UNANSWERED:
            return policy
        if brakes and slow:
            both += 1
            if both == 2:
                return None
        keep = tuple(k * (max(0.9 / each, 0.5) if each > 1 else 1.0) for k, each in zip(tight.keep, over, strict=True))
        if brakes:
            wider = tight.spread < 0.055
            tight = replace(
                tight,
                keep=keep,
                spread=tight.spread + 0.015 if wider else tight.spread,
                below=tight.below if wider else tight.below + 0.01,
            )
        else:
            tight = replace(tight, keep=keep, below=tight.below - 0.005, spread=max(tight.spread - 0.005, 0.015))
    return None


_TRAINED_BRAKES = 0.3
"""Share of the brakes that may be, which the thresholds may cause on the days that they are chosen on."""


def _over(judge: Judge, verdict: Verdict, name: str) -> float:
    """Impact on a class ÷ its limit, the worst percentile."""
    return max(
        (
            verdict.impact[name][limit.percentile] / max(limit.limit, 1e-6)
            for limit in judge.request.slo_impact
            if limit.priority == name
        ),
        default=0.0,
    )


@dataclass(frozen=True)
class ChosenLevels:
    """A policy, the servers that it was chosen for, and what is known of the row. ``plainer``: the best that does not
    look into queues, where the policy does."""

    policy: Policy
    servers: int
    shape: RowShape
    plainer: ChosenLevels | None = None


def best(judge: Judge, guess: int) -> ChosenLevels | None:
    """The policy for the most servers that one was found for on the judge's days; None: for none.

    Args:
        guess: number of servers to begin with.
    """
    timing = judge.row.timing
    delay = timing.delay_s if timing.in_band_s is None else timing.in_band_s
    shape, form = shape_of(judge, delay), Policy("ours", in_band=True)
    low, high, found = 0, judge.most + 1, None
    n = min(max(guess, 1), judge.most)
    while high - low > 1:
        made = tuned(judge, shape, n, form)
        if made is None:
            high, n = n, max(n - judge.stride, low + 1) if not low else (low + n) // 2
        else:
            low, found = n, ChosenLevels(made, n, shape)
            n = min(n + judge.stride, high - 1) if high > judge.most else (n + high) // 2
    if found is None or found.servers >= judge.most:
        return found
    # What waits in the engines' queues is known before it is drawn: with it one server more may do.
    lag, plain = lag_of(judge, delay), found
    ahead, form = foreseeing(judge, shape, lag), replace(form, foresight_s=float(lag))
    step = judge.stride
    while step:
        n = found.servers + step
        if n <= judge.most and (made := tuned(judge, ahead, n, form)) is not None:
            found = ChosenLevels(made, n, ahead, plain)
        else:
            step //= 2
    return found
