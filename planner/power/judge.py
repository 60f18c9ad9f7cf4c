"""Policies judged on replicate-days: brakes a year with their bound, and what caps cost each class."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from costmodels.estimates import Floats
from planner.power.arrays import MOST_WATTS, TOKENS_IN, TOKENS_LEFT, Requests
from planner.power.drawn import DayOfRequests, Packed
from planner.power.policy import Policy
from planner.power.reference import UNCAPPED
from planner.power.request import PowerRequest
from planner.power.simulator import Outcome, RowModel, chance_of, simulate
from planner.power.tails import BEYOND, YEAR_DAYS, Rate, counted
from planner.power.threads import in_order
from planner.power.traffic import (
    SLOT_S,
    WARM_S,
    Load,
    Tail,
    busiest,
    stretch,
    whole_day,
)
from profiles.errors import InputError

SMALL_ROW = 40
"""Engines from which on bursts decide: of the slots that come nearest to the budget in a day, the first are then among
the busiest. (A measured server is one.)"""

LARGE_ROW = 160
"""Servers from which on fewer slots will do, where few brakes are allowed."""

MOST_EXTRA = 0.7
"""Servers beyond today's that are tried, as a share of them."""

_KEPT_BYTES = 600e6

_TELL_S = 15.0
"""Seconds after which, and between which, one is told how far a number of stretches is."""

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Verdict:
    """Of a policy with ``servers``: brakes a year, growth of percentiles by class (``impact[class][percentile]``),
    highest reading of each node of the supply tree (share of its budget), how far its breaker was on its way to trip
    (``wear``; 1: it tripped), share of time at each level, mean watts, most watts within a second, and tokens that were
    not answered, as a share of those asked."""

    servers: int
    brakes: Rate
    impact: dict[str, dict[float, float]]
    peaks: Floats
    wear: Floats
    levels: Floats
    mean_watts: float
    most_watts: float
    unanswered: float


@dataclass
class _Screened:
    """Of the busiest slots: in how many the brake was pulled, and the highest readings and wear of each node."""

    braked: int
    peaks: Floats
    wear: Floats


@dataclass(frozen=True)
class _Quiet:
    """A busy slot as it runs without control: whatever policy does nothing at its highest ``readings`` (with their
    errors, and without) runs the same, and need not be run."""

    readings: tuple[float, float]
    peaks: Floats
    wear: Floats


@dataclass(frozen=True)
class Days:
    """Which replicate-days a judge looks at: ``screened`` for brakes, of which the busiest slots are simulated (as many
    as days), and of these ``whole`` from beginning to end, for latency. ``first``: number of the first."""

    screened: int
    whole: int
    first: int = 0


@dataclass
class Judge:
    """Runs policies on the same days for every policy and number of servers.

    Attributes:
        by_value: brakes are held against the limit by their number, not by its upper bound.
        strict: a limit on a percentile beyond the 99th that too few requests show is refused.
        at_most: servers that are tried at most; default: today's and :data:`MOST_EXTRA` more.
        every_slot: of a large row, too, as many slots as days: where many may brake, fewer would not count them.
    """

    row: RowModel
    request: PowerRequest
    days: Days
    tail: Tail = "exponential"
    by_value: bool = False
    strict: bool = False
    at_most: int | None = None
    every_slot: bool = False
    progress: Callable[[str], None] | None = None
    _drawn: dict[int, DayOfRequests] = field(default_factory=dict)
    _whole: dict[int, Requests] = field(default_factory=dict)
    _slots: list[tuple[int, int]] = field(default_factory=list)
    _stretches: dict[tuple[int, int], Packed] = field(default_factory=dict)
    _quiet: dict[tuple[tuple[int, int], int], _Quiet] = field(default_factory=dict)
    _free: list[Outcome] = field(default_factory=list)
    _known: dict[tuple[Policy, int], Verdict] = field(default_factory=dict)
    _failed: set[tuple[Policy, int]] = field(default_factory=set)
    _said: list[str] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Servers that are tried at most."""
        if self.at_most is not None:
            return self.at_most
        by_extra = max(int(np.floor(self.row.today * (1 + MOST_EXTRA))), self.row.today + 1)
        places = self.row.tree.most
        return by_extra if places is None else min(by_extra, places)

    @property
    def load(self) -> Load:
        assert self.row.load is not None
        return self.row.load

    def whole_days(self, policy: Policy, n: int) -> Iterator[Outcome]:
        """Every day from beginning to end."""

        def simulated(index: int) -> Outcome:
            day = self.days.first + index
            if index not in self._whole:
                self._whole[index] = self.row.requests(self._drawn_day(day))
            return simulate(self.row, policy, n, self._whole[index], chance_of(self.request.seed, day))

        return in_order(simulated, range(self.days.whole))

    def _drawn_day(self, day: int) -> DayOfRequests:
        if day not in self._drawn:
            self._drawn[day] = whole_day(self.load, self.most, self.request.seed, day, self.tail)
        return self._drawn[day]

    @property
    def stride(self) -> int:
        """Servers by which a search goes on: one, and of large rows a fortieth of today's."""
        return self.row.today // 40 if self.row.today >= LARGE_ROW else 1

    def like(self, row: RowModel) -> Judge:
        """One of another row under the same load, that need not draw its days and busy slots again."""
        self.slots()
        self._keep_stretches()
        return replace(self, row=row, _whole={}, _quiet={}, _free=[], _known={}, _failed=set())

    def slots(self) -> list[tuple[int, int]]:
        """(day, second) of the busiest slots, as many as days are screened; more of a small row, where engines that
        happen to prefill together count for more than bursts do, and fewer of a large one, where they count for
        nothing: of 200 servers the 40 slots that come nearest to the budget are among the busiest 92 of 1,100."""
        if not self._slots:
            days = range(self.days.first, self.days.first + self.days.screened)
            more = SMALL_ROW / self.row.engines
            few = not self.every_slot and self.row.today >= LARGE_ROW and self.most_brakes < 0.05 * self.days.screened
            count = round(self.days.screened * min(max(more, 0.2 if few else 1.0), 8.0))
            self._slots = busiest(self.load, self.request.seed, days, count, self.tail)
        return self._slots

    def busy_slot(self, policy: Policy, n: int, slot: tuple[int, int]) -> Outcome:
        """One of the busiest slots, with what comes before; no request is followed."""
        kept = self._stretches.get(slot)
        requests = self.row.requests(self._stretch(slot) if kept is None else kept.day(), followed=False)
        return simulate(self.row, policy, n, requests, chance_of(self.request.seed, sum(slot)), WARM_S + SLOT_S)

    def _stretch(self, slot: tuple[int, int]) -> DayOfRequests:
        return stretch(self.load, self.most, self.request.seed, *slot, self.tail)

    def _keep_stretches(self) -> None:
        """As many as memory may hold, the busiest: they are run for most policies."""
        slots = self.slots()
        if self._stretches:
            return
        each = Packed(self._stretch(slots[0])).nbytes
        kept = sorted(slots[: max(int(_KEPT_BYTES / max(each, 1)), 1)])
        drawn = self._watched(lambda slot: Packed(self._stretch(slot)), kept, "busy stretches are drawn")
        self._stretches.update(zip(kept, drawn, strict=True))

    def _watched(
        self, make: Callable[[tuple[int, int]], _Made], slots: Sequence[tuple[int, int]], doing: str
    ) -> Iterator[_Made]:
        """``make`` of each; of what takes long it is said how long that is likely to be."""
        began = told = time.monotonic()
        for done, each in enumerate(in_order(make, slots), 1):
            yield each
            now = time.monotonic()
            if self.progress is not None and now - told >= _TELL_S:
                told, left = now, (now - began) / done * (len(slots) - done)
                self.progress(f"{doing}: {done:,} of {len(slots):,}, some {left:,.0f} s left")

    def uncapped(self) -> list[Outcome]:
        """Whole days of as many servers as are tried, without caps and without a brake."""
        if not self._free:
            self._free = list(self.whole_days(UNCAPPED, self.most))
        return self._free

    def verdict(self, policy: Policy, n: int) -> Verdict:
        return self.verdict_until(policy, n, self.days.screened * 8)[0]

    def verdict_until(self, policy: Policy, n: int, most_brakes: int) -> tuple[Verdict, bool]:
        """(verdict, whether it brakes more often than that on the screened days: then its brakes and peaks are those of
        whole days alone)."""
        if (policy, n) in self._known:
            known = self._known[policy, n]
            return known, known.brakes.value * self.days.screened / YEAR_DAYS > most_brakes + 0.5
        self._say(policy, n)
        found = self._screened(policy, n, most_brakes)
        if found is None:
            nothing = np.zeros(len(self.row.tree.budgets))
            return self._verdict(policy, n, _Screened(most_brakes + 1, nothing, nothing)), True
        self._known[policy, n] = self._verdict(policy, n, found)
        return self._known[policy, n], False

    def _screened(self, policy: Policy, n: int, most_brakes: int) -> _Screened | None:
        """The busiest slots; None as soon as they brake more often than that."""
        found = _Screened(0, np.zeros(len(self.row.tree.budgets)), np.zeros(len(self.row.tree.budgets)))
        self._keep_stretches()

        def run(slot: tuple[int, int]) -> _Quiet | Outcome:
            quiet = self._quiet.get((slot, n))
            if quiet is not None and quiet.readings[policy.immediate] <= policy.idle_below:
                return quiet
            return self.busy_slot(policy, n, slot)

        slots, doing = self.slots(), f"{policy.name} with {self.row.told(n)} servers: stretches"
        for slot, outcome in zip(slots, self._watched(run, slots, doing), strict=True):
            if isinstance(outcome, _Quiet):
                peaks, wear = outcome.peaks, outcome.wear
            else:
                found.braked += bool(outcome.braked[1:].any()) or outcome.level_steps[-1] >= SLOT_S
                if found.braked > most_brakes:
                    return None
                peaks, wear = outcome.peak[1:].max(axis=0), outcome.wear[1:].max(axis=0)
                if outcome.most_reading <= policy.idle_below:
                    read = np.inf if policy.immediate else outcome.most_reading
                    self._quiet[slot, n] = _Quiet((read, float(outcome.peak.max())), peaks, wear)
            found.peaks, found.wear = np.maximum(found.peaks, peaks), np.maximum(found.wear, wear)
        return found

    def _verdict(self, policy: Policy, n: int, found: _Screened) -> Verdict:
        whole = list(self.whole_days(policy, n))
        peaks, wear = (np.max([getattr(each, name) for each in whole], axis=(0, 1)) for name in ("peak", "wear"))
        brakes = counted(found.braked, self.days.screened)
        return self._judged(n, whole, brakes, np.maximum(peaks, found.peaks), np.maximum(wear, found.wear))

    def _say(self, policy: Policy, n: int) -> None:
        words = f"{policy.name} with {self.row.told(n)} servers"
        if self.progress is not None and self._said[-1:] != [words]:  # levels that are tried have one name
            self._said[:] = [words]
            self.progress(words)

    def _judged(self, n: int, whole: list[Outcome], brakes: Rate, peaks: Floats, wear: Floats) -> Verdict:
        totals = np.sum([outcome.totals for outcome in whole], axis=0)
        steps = np.sum([outcome.level_steps for outcome in whole], axis=0)
        return Verdict(
            servers=n,
            brakes=brakes,
            impact=self._impact(n, whole),
            peaks=peaks,
            wear=wear,
            levels=np.asarray(steps / steps.sum()),
            mean_watts=float(np.mean([outcome.watts.mean() for outcome in whole])),
            most_watts=float(max(outcome.totals[MOST_WATTS] for outcome in whole)),
            unanswered=float(totals[TOKENS_LEFT] / max(totals[TOKENS_IN], 1.0)),
        )

    @cached_property
    def most_brakes(self) -> int:
        """On the screened days, of which the bound is still within the limit; −1: not even none."""
        found = -1
        while self.too_often(counted(found + 1, self.days.screened)) is False:
            found += 1
        return found

    def too_often(self, brakes: Rate) -> bool:
        return (brakes.value if self.by_value else brakes.high) > self.request.max_brakes_per_year

    def known(self, policy: Policy, n: int) -> Verdict | None:
        return self._known.get((policy, n))

    def verdicts(self) -> dict[tuple[Policy, int], Verdict]:
        """All that were made."""
        return dict(self._known)

    def holds(self, policy: Policy, n: int) -> bool:
        """Whether every promise does; a policy that brakes too often is left as soon as that is sure."""
        if (policy, n) in self._known:
            return self.misses(self._known[policy, n]) is None
        if (policy, n) in self._failed:
            return False
        self._say(policy, n)
        found = self._screened(policy, n, self.most_brakes)
        if found is None:
            self._failed.add((policy, n))
            return False
        self._known[policy, n] = self._verdict(policy, n, found)
        return self.misses(self._known[policy, n]) is None

    def percentiles(self) -> dict[str, list[float]]:
        asked = {name: {50.0, 99.0} for name in self.row.groups}
        for limit in self.request.slo_impact:
            asked[limit.priority].add(limit.percentile)
        return {name: sorted(each) for name, each in asked.items()}

    def _impact(self, n: int, outcomes: list[Outcome]) -> dict[str, dict[float, float]]:
        group = self.row.servers(self.most).group
        free = self.uncapped()
        out: dict[str, dict[float, float]] = {}
        for index, (name, percentiles) in enumerate(self.percentiles().items()):
            mine = [each.latency_s[(group[each.latency_server] == index)] for each in outcomes]
            theirs = [
                each.latency_s[(group[each.latency_server] == index) & (each.latency_server < n)] for each in free
            ]
            capped, usual = np.concatenate(mine), np.concatenate(theirs)
            self._enough(name, min(len(capped), len(usual)))
            if not len(capped) or not len(usual):
                out[name] = dict.fromkeys(percentiles, 0.0)
                continue
            growth = np.percentile(capped, percentiles) / np.maximum(np.percentile(usual, percentiles), 1e-9) - 1.0
            out[name] = {p: float(max(g, 0.0)) for p, g in zip(percentiles, growth, strict=True)}
        return out

    def _enough(self, name: str, requests: int) -> None:
        """Raises InputError where a limit is on a percentile that so many requests of a class do not show."""
        for limit in self.request.slo_impact:
            needed = BEYOND / (1 - limit.percentile / 100)
            if self.strict and limit.percentile > 99 and limit.priority == name and requests < needed:
                raise InputError(
                    f"slo_impact: {name}_p{limit.percentile:g}: {requests:,} requests of {name} are followed in the "
                    "days that are simulated, too few for that",
                    f"{needed:,.0f} are needed; limit a lower percentile",
                )

    def misses(self, verdict: Verdict) -> str | None:
        """The first promise that a verdict breaks, in words; None: all hold."""
        for limit in self.request.slo_impact:
            if verdict.impact[limit.priority][limit.percentile] > limit.limit + 1e-9:
                return f"{limit.priority}_p{limit.percentile:g}"
        if verdict.unanswered > MOST_UNANSWERED:
            return "load"
        if verdict.wear.max() >= 1:
            return "breaker"
        return "brakes" if self.too_often(verdict.brakes) else None

    def largest(self, policy: Policy, guess: int) -> int:
        """The most servers with which every promise holds, by bisection outwards from ``guess``; 0: with none."""
        low, high, step = 0, self.most + 1, 1
        n = min(max(guess, 1), self.most)
        while high - low > 1:
            if self.holds(policy, n):
                low, n = n, min(n + step, high - 1)
            else:
                high, n = n, max(n - step, low + 1)
            step *= 2
            if low and high <= self.most:
                n = (low + high) // 2
        return low


MOST_UNANSWERED = 0.005
"""Share of a day's tokens that may be left at its end: more, and the row does not keep up with its load."""
