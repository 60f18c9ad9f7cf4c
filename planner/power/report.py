"""From a request to the power plan: every policy with the most servers it holds, and the best one as the decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.contract.progress import Step
from planner.power.arrays import TOKENS_IN, TOKENS_LEFT
from planner.power.judge import MOST_UNANSWERED, Days, Judge, Verdict
from planner.power.ours import CLOCK_SHARES, ChosenLevels, RowShape, best, effects, tuned
from planner.power.policy import NAMES, Policy, none, static, threshold
from planner.power.reference import Met
from planner.power.request import PowerRequest, check
from planner.power.row import clock_at, polca_for, row_of, threshold_for, today_caps
from planner.power.simulator import RowModel, chance_of, simulate
from planner.power.traffic import RecordedLoad, whole_day
from profiles.descriptions import catalogue_with
from profiles.errors import Infeasible, InputError
from profiles.store import ProfileStore

TRAINED = Days(screened=400, whole=3, first=1_000_000)
"""Days that thresholds are chosen on: others than those that policies are judged on."""

JUDGED_WHOLE = 4
SIMPLEST = ("none", "static", "threshold", "polca", "ours")
WITHOUT_CLOCKS = ("nameplate", "none")
"""Policies that set none, which are all that is judged where no clock is known."""


@dataclass(frozen=True)
class Judged:
    """A policy at the most servers that it holds; ``limited_by``: what one more would break."""

    policy: Policy
    verdict: Verdict
    limited_by: str


@dataclass(frozen=True)
class Solved:
    """A row with its policies judged."""

    request: PowerRequest
    row: RowModel
    met: Met | None
    judge: Judge
    results: dict[str, Judged]
    chosen: ChosenLevels | None

    def policy(self, name: str) -> Policy:
        """The policy of a name.

        Raises:
            InputError: it holds no number of servers.
        """
        if name not in self.results:
            raise InputError(f"--policy: {name} holds no number of servers here", "choose another")
        return self.results[name].policy


def solved(
    request: PowerRequest,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
    last: str = NAMES[-1],
) -> Solved:
    """The row, and its policies judged: all, or those that ``last`` needs and it.

    Raises:
        InputError, Unsupported: the row contradicts itself, or ``last`` sets clocks that are not known of its GPUs.
        Infeasible: no number of servers keeps the promises.
    """
    check(request)
    row, met = row_of(request, catalogue_with(each.path for each in measured), measured)
    names = _needed(last)
    if row.main.settable is None:
        if last != NAMES[-1] and last not in WITHOUT_CLOCKS:
            polca_for(row)  # says what is not known, before anything is simulated
        names = tuple(name for name in names if name in WITHOUT_CLOCKS)
    _check_today(request, row)
    judge = Judge(row, request, Days(request.days, JUDGED_WHOLE), strict=True, progress=progress)
    _check_keeps_up(judge)
    results: dict[str, Judged] = {}
    chosen: ChosenLevels | None = None
    trainer = Judge(row, request, TRAINED, progress=progress)
    guess = int(row.today * 1.25)
    for done, name in enumerate(names):
        if progress is not None:
            progress(Step(f"policy {name}", done, len(names)))
        if name == "nameplate":
            policy, servers = none(), min(_by_nameplate(row), judge.most)
        elif name == "ours":
            chosen, policy, servers = _ours(judge, best(trainer, guess + 2))
            simple = _most_held(results)
            if simple is not None and simple.verdict.servers > servers:  # levels of our own add nothing
                policy, servers = replace(simple.policy, name="ours"), simple.verdict.servers
        elif name == "oracle":
            policy, servers = _oracle(judge, trainer, chosen, results)
        else:
            free = results["none"].verdict.servers if "none" in results else 0
            policy, servers = _holding(judge, _candidates(name, row, request), free, guess)
            guess = servers or guess
        if servers:
            results[name] = Judged(policy, judge.verdict(policy, servers), _limit(judge, policy, servers, name))
    if not any(name in results for name in SIMPLEST) and last == NAMES[-1]:
        raise Infeasible(
            f"supply: {request.supply.name}: no number of servers keeps the limits of slo_impact and "
            f"{request.max_brakes_per_year:g} brakes a year",
            f"by nameplate it holds {row.told(_by_nameplate(row))} servers; allow more impact, or more brakes",
        )
    return Solved(request, row, met, judge, results, chosen)


def _needed(last: str) -> tuple[str, ...]:
    """The policies without which ``last`` is not chosen, and it: ours and the oracle are chosen against all others, two
    of them against no control."""
    if last in ("ours", "oracle"):
        return NAMES[: NAMES.index(last) + 1]
    return ("none", last) if last in ("static", "threshold") else (last,)


def _most_held(results: Mapping[str, Judged]) -> Judged | None:
    """The policy that holds most servers; how many nameplates allow is no promise that they hold."""
    held = (each for name, each in results.items() if name != "nameplate")
    return max(held, key=lambda each: each.verdict.servers, default=None)


def _ours(judge: Judge, chosen: ChosenLevels | None) -> tuple[ChosenLevels | None, Policy, int]:
    """What was chosen on other days, with as many servers as it holds on those that are judged; levels that look into
    queues where they hold more than those that do not."""
    most: tuple[ChosenLevels | None, Policy, int] = (chosen, none(), 0)
    while chosen is not None:
        servers = chosen.servers
        while servers > most[2] and not judge.holds(chosen.policy, servers):
            servers -= max(judge.stride // 2, 1)
        while most[2] < servers < chosen.servers and judge.holds(chosen.policy, servers + 1):
            servers += 1
        if servers > most[2]:
            most = chosen, chosen.policy, servers
        chosen = chosen.plainer
    return most


def _oracle(
    judge: Judge, trainer: Judge, chosen: ChosenLevels | None, results: dict[str, Judged]
) -> tuple[Policy, int]:
    """Levels for exact readings and caps that act at once; what ours holds, it holds at least."""
    held = results.get("ours")
    policy = replace(none() if held is None else held.policy, name="oracle")
    servers, form = 0 if held is None else held.verdict.servers, Policy("oracle", immediate=True)
    if chosen is None:
        return policy, servers
    shape = replace(chosen.shape, rise=chosen.shape.rise / 3)
    step = judge.stride
    while step:
        n = servers + step
        better = tuned(trainer, shape, n, form) if n <= judge.most else None
        if better is not None and judge.holds(better, n):
            policy, servers = better, n
        else:
            step //= 2
    return policy, servers


def _holding(judge: Judge, candidates: list[Policy], free: int, guess: int) -> tuple[Policy, int]:
    """The first of ``candidates`` that holds as many servers as no control does (``free``), else the last; and how
    many it holds."""
    for policy in candidates[:-1]:
        if judge.holds(policy, max(free, 1)):
            return policy, judge.largest(policy, guess)
    return candidates[-1], judge.largest(candidates[-1], guess)


def _candidates(name: str, row: RowModel, request: PowerRequest) -> list[Policy]:
    """Of a policy, the deepest caps first; the last of those that are free to choose has none. Caps that are set today
    are what is always set."""
    if name == "none":
        return [none()]
    if name == "polca":
        return [polca_for(row)]
    mhz = [clock_at(row, share) for share in CLOCK_SHARES[1:]]
    if name == "threshold":
        deepest = threshold_for(row)
        milder = [
            threshold(len(row.groups), each)
            for each in mhz
            if each > min(filter(None, deepest.clocks_mhz), default=np.inf)
        ]
        return [deepest, *reversed(milder), replace(none(), name=name)]
    if request.caps:
        return [today_caps(request, row)]
    depths = _static_depths(row, request, mhz)
    return [static(tuple(mhz[d - 1 - less] if d > less else None for d in depths)) for less in range(max(depths))] + [
        replace(none(), name=name)
    ]


def _static_depths(row: RowModel, request: PowerRequest, mhz: list[int]) -> list[int]:
    """[classes] how many of the clocks ``mhz`` are within all limits of a class when they are set always, by the
    formula."""
    shape = RowShape(np.zeros(1), 0.5, 0.5, 0.0)
    slow, _ = effects(row, shape, np.array(mhz, np.float64) / row.main.highest_mhz)
    limits = [[each.limit for each in request.slo_impact if each.priority == name] for name in row.groups]
    return [int(np.sum(slow <= 0.9 * min(of, default=0.0))) for of in limits]


def _by_nameplate(row: RowModel) -> int:
    """Servers whose nameplates the budgets hold, at every node."""
    watts = np.array([kind.nameplate_watts for kind in row.kinds])
    most = int(row.budget_watts / watts.min()) + 1
    servers = row.servers(most)
    of_leaf = np.zeros((len(row.tree.places), most))
    of_leaf[servers.leaf, np.arange(most)] = watts[servers.kind]
    load = row.tree.below @ np.cumsum(of_leaf, axis=1)
    load[0] += row.other_watts
    budgets = row.tree.budgets if row.tree.own_budgets is None else row.tree.own_budgets
    above = (load > budgets[:, None] * (1 + 1e-9)).any(axis=0)
    fits = int(np.argmax(above)) if above.any() else most
    return fits if row.tree.most is None else min(fits, row.tree.most)


def _limit(judge: Judge, policy: Policy, servers: int, name: str) -> str:
    if servers >= judge.most:
        return "places" if judge.row.tree.most == servers else "tried"
    if name == "nameplate":
        return "nameplate"
    if judge.holds(policy, servers + 1):
        return "chosen"
    known = judge.known(policy, servers + 1)
    return "brakes" if known is None else judge.misses(known) or "brakes"


def _check_keeps_up(judge: Judge) -> None:
    """Refuses a load that the servers cannot answer, capped or not: no number of servers would do."""
    totals = np.sum([each.totals for each in judge.uncapped()], axis=0)
    left = float(totals[TOKENS_LEFT] / max(totals[TOKENS_IN], 1.0))
    if left > MOST_UNANSWERED:
        raise InputError(
            f"servers: today's {judge.request.today} do not keep up with their load: without any caps {left:.1%} of a "
            "day's tokens are left at its end",
            "correct today, the plans or the trace",
        )


def _check_today(request: PowerRequest, row: RowModel) -> None:
    """Refuses a row that is above its budget as it is."""
    load = row.load
    assert load is not None
    policy = replace(today_caps(request, row), brakes=False)
    if isinstance(load, RecordedLoad):
        day, seconds = load.as_recorded(request.seed), int(np.ceil(load.span_s)) + 1
    else:
        day, seconds = whole_day(load, row.today, request.seed, 0), 86_400
    watts = simulate(row, policy, row.today, row.requests(day), chance_of(request.seed, 0), seconds).watts
    above = float(np.mean(watts > row.budget_watts))
    if above > 0.001:
        raise InputError(
            f"servers: today's {request.today} draw more than the {request.supply.budget_watts:,.0f} W of "
            f"{request.supply.name} in {above:.1%} of the time, {watts.max() * row.block:,.0f} W at most",
            "correct today, the trace or budget_watts; a row above its budget holds fewer servers, not more",
        )
