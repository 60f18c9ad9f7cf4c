"""Many replicates of a row, each by :mod:`planner.power.kernel`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.native.kept import Loop
from planner.power.arrays import (
    BLOCK_STEPS,
    BRAKES,
    MOST_READING,
    TOTALS,
    Control,
    Ladder,
    Log,
    Requests,
    Servers,
    Supply,
    Tables,
    fresh,
)
from planner.power.drawn import DayOfRequests
from planner.power.policy import BRAKE_AT, Policy
from planner.power.readings import worn
from planner.power.server import ServerKind, clock_shares, tables_of
from planner.power.traffic import DAY_S, OCTET, Load


def _kernel() -> Callable[..., int]:
    from planner.power.kernel import run  # deferred: the compiler

    return run


_KERNEL = Loop("row", [Path(__file__).parent / f"{name}.py" for name in ("arrays", "kernel", "readings")], _kernel)

FOLLOWED = 29
"""One request in so many is followed until it is answered."""


@dataclass(frozen=True)
class Tree:
    """A supply tree: ``names`` and ``budgets`` [nodes], from the root; ``below`` [nodes, leaves]; ``places`` [leaves],
    servers of today (or places) of each leaf. ``own_budgets``: those that ``budgets`` were before they were lowered for
    nodes that stand for more of their like."""

    names: tuple[str, ...]
    budgets: Floats
    below: np.ndarray
    places: Ints
    most: int | None = None  # servers, where the places are counted
    curves: tuple[tuple[tuple[float, float], ...], ...] = ()  # of each node's breaker: load and the seconds it holds it
    own_budgets: Floats | None = None

    @property
    def watched(self) -> bool:
        """Whether the curve of any breaker is known."""
        return any(self.curves)

    def breakers(self) -> tuple[Floats, Floats, Ints]:
        """Logarithms of loads and of seconds [nodes, points], and how many points each has (0: no curve)."""
        curves = self.curves or ((),) * len(self.names)
        points = np.array([len(curve) for curve in curves], np.int64)
        out = np.zeros((2, len(curves), max(int(points.max()), 1)))
        for node, curve in enumerate(curves):
            if curve:
                out[:, node, : len(curve)] = np.log(np.array(curve)).T
        return out[0], out[1], points


def held_for(curve: Sequence[tuple[float, float]], seconds: float) -> float | None:
    """The highest load, to a part in a thousand, that a breaker with this curve holds for so long; None: not even the
    lowest of its curve."""
    low = curve[0][0]
    if held_s(curve, low) < seconds * (1 - 1e-9):
        return None
    while low < _MOST_LOAD and held_s(curve, low * 1.001) >= seconds * (1 - 1e-9):
        low *= 1.001
    return low


def held_s(curve: Sequence[tuple[float, float]], load: float) -> float:
    """Seconds that a cold breaker holds a load; infinite below its curve."""
    wear = float(worn(0.0, load, *(np.log(np.array(each)) for each in zip(*curve, strict=True))))
    return 1.0 / wear if wear > 0 else np.inf


_MOST_LOAD = 100.0
"""Of its budget, that a breaker is asked about."""


@dataclass(frozen=True)
class Timing:
    """Seconds: between readings, until a cap acts out of band and in band (None: there is no such way), until the brake
    acts; ``error``: standard deviation of a reading, relative; ``failure_rate``: of commands."""

    period_s: float
    delay_s: float
    in_band_s: float | None
    brake_s: float
    error: float
    failure_rate: float
    by_breaker: bool = False  # the brake waits for the breaker's curve
    dead: tuple[int, ...] = ()  # the groups whose commands are all lost


@dataclass(frozen=True)
class RowModel:
    """A row as it is simulated. ``groups``: names of the classes that are capped alike (priorities), and the share of
    servers in each; ``mix``: share of servers of each kind."""

    kinds: list[ServerKind]
    mix: Floats
    groups: tuple[str, ...]
    group_shares: Floats
    tree: Tree
    timing: Timing
    load: Load | None = None
    other_watts: float = 0.0
    other_dip: float = 0.0
    other_dip_s: float = 0.0
    block: float = 1.0  # servers that each stands for, of a large row

    @property
    def today(self) -> int:
        """Servers of today that are simulated."""
        return int(self.mix.sum())

    @property
    def engines(self) -> float:
        """Of today's servers that are simulated."""
        return float(self.mix @ np.array([kind.engines for kind in self.kinds]))

    def told(self, n: int) -> int:
        """How many servers ``n`` of those that are simulated stand for."""
        return int(n * self.block + 1e-6)

    @cached_property
    def _known(self) -> dict[Any, Any]:
        """What is the same in every replicate."""
        return {}

    def servers(self, n: int) -> Servers:
        """The first ``n`` servers: the same ones whatever ``n``, kinds and groups spread evenly, also over leaves."""
        if (n,) not in self._known:
            self._known[n,] = self._servers(n)
        found: Servers = self._known[n,]
        return found

    def under_policy(self, policy: Policy, seconds: int) -> tuple[Tables, Ladder, Supply]:
        """What the kernel is told of kinds, policy and supply."""
        if (policy, seconds) not in self._known:
            self._known[policy, seconds] = (
                tables_of(
                    self.kinds, clock_shares(self.kinds, policy.clocks_mhz, None if policy.same_mhz else self.main)
                ),
                policy.ladder(len(self.groups), self.columns),
                self._supply(seconds),
            )
        found: tuple[Tables, Ladder, Supply] = self._known[policy, seconds]
        return found

    def _supply(self, seconds: int) -> Supply:
        """One for all policies: it is as long as what is simulated."""
        if ("supply", seconds) not in self._known:
            other = self._other(seconds)
            self._known["supply", seconds] = Supply(self.tree.budgets, self.tree.below, other, *self.tree.breakers())
        found: Supply = self._known["supply", seconds]
        return found

    def _other(self, seconds: int) -> Floats:
        """[seconds] watts of training: high, with a dip in every iteration."""
        out = np.full(seconds, self.other_watts)
        if self.other_dip_s > 0:
            out[np.arange(seconds) % max(round(self.other_dip_s), 2) == 0] *= 1 - self.other_dip
        return out

    def _servers(self, n: int) -> Servers:
        leaf, kind, group = self._spread(n)
        apart = np.array([each.apart for each in self.kinds])[kind]
        return Servers(
            kind=kind,
            group=group,
            prefill_group=group + np.where(apart, len(self.groups), 0),
            leaf=leaf,
            base_watts=np.array([each.idle_watts for each in self.kinds])[kind],
            engines=np.array([each.engines for each in self.kinds], np.float64)[kind],
            most_sequences=np.array([each.most_sequences for each in self.kinds], np.float64)[kind],
        )

    def _spread(self, n: int) -> Ints:
        """[leaf, kind and group; n], the beginning of the longest that was asked for."""
        found: Ints | None = self._known.get("spread")
        if found is None or found.shape[1] < n:
            many = max(n, 2 * self.today)
            found = self._known["spread"] = _spread([self.tree.places, self.mix, self.group_shares], many)
        return found[:, :n]

    def requests(self, day: DayOfRequests, *, followed: bool = True) -> Requests:
        """A day's requests as the kernel takes them; ``followed``: whether latencies are of interest."""
        work = np.empty(len(day.isl))
        of = self.servers(int(day.server.max(initial=0)) + 1).kind[day.server]
        for index, each in enumerate(self.kinds):
            mine = of == index
            square = None if day.square is None else day.square[mine]
            work[mine] = each.prompt_seconds(day.isl[mine].astype(np.float64), square) * day.count[mine]
        return Requests(
            step=day.second,
            server=day.server,
            work_s=work,
            tokens=np.maximum(day.osl - 1.0, 1.0),
            merged=day.count,
            # The same whoever else is there.
            followed=(day.second.astype(np.int64) * 7919 + day.server * 104_729) % FOLLOWED == 0
            if followed
            else np.zeros(len(day.isl), np.bool_),
        )

    def under(self, load: Load) -> RowModel:
        """With a load that servers of several kinds share by what they can take."""
        if len(self.kinds) == 1:
            return replace(self, load=load)
        can = np.array([kind.capacity_rps(*load.mean_lengths) for kind in self.kinds])
        of = self.servers(max(2 * int(self.mix.sum()), self.tree.most or 0) + OCTET).kind
        weights = can[of] / np.average(can, weights=self.mix)
        return replace(self, load=replace(load, weights=tuple(weights.tolist())))

    @property
    def main(self) -> ServerKind:
        """The commonest kind: clocks are chosen from its settable ones."""
        return self.kinds[int(np.argmax(self.mix))]

    @property
    def columns(self) -> int:
        """Classes whose clocks are set: priorities, or each one's decode and then each one's prefill where any kind of
        server has GPUs for either."""
        return len(self.groups) * (2 if any(kind.apart for kind in self.kinds) else 1)

    @property
    def budget_watts(self) -> float:
        return float(self.tree.budgets[0])


def _spread(parts: Sequence[Floats | Ints], n: int) -> Ints:
    """[parts, n] which of each part's shares a server gets. Every beginning of the list is as near to the shares as can
    be, of the first part above all, and so are those with the same place in the parts before: priorities are mixed on
    every rack, not a rack each."""
    shares = [np.asarray(each, np.float64) / np.sum(each) for each in parts]
    # What was given of a part, among all and among those with the same choice of some of the parts before.
    given: dict[tuple[Any, ...], Floats] = {}
    out = np.empty((len(parts), n), np.int64)
    for i in range(n):
        for part, share in enumerate(shares):
            among = [
                given.setdefault((part, *((each, out[each, i]) for each in some)), np.zeros(len(share)))
                for many in range(part + 1)
                for some in itertools.combinations(range(part), many)
            ]
            wants = [share * (each.sum() + 1) - each for each in among]
            # Nothing gets more than its share of all.
            wanted = np.where(wants[0] > 1e-9, np.sum(wants, axis=0), -np.inf)
            out[part, i] = int(np.argmax(wanted))
            for each in among:
                each[out[part, i]] += 1
    return out


@dataclass(frozen=True)
class Outcome:
    """Of one replicate-day under one policy with ``n`` servers. ``braked`` [blocks]: whether it was braked; where
    the brake goes by readings, whether one of any node was above its budget."""

    watts: Floats
    foreseen: Floats
    peak: Floats
    wear: Floats
    totals: Floats
    level_steps: Ints
    latency_s: Floats
    latency_of: Ints
    latency_server: Ints
    braked: Floats

    @property
    def brakes(self) -> int:
        return int(self.totals[BRAKES])

    @property
    def most_reading(self) -> float:
        """The highest, with its error."""
        return float(self.totals[MOST_READING])


def simulate(
    row: RowModel, policy: Policy, n: int, requests: Requests, chance: np.random.SeedSequence, seconds: int = DAY_S
) -> Outcome:
    """One replicate of ``n`` servers under ``policy``; of ``requests`` those count whose server is there.

    Args:
        chance: of sensor errors, delays and failures.
    """
    servers = row.servers(n)
    timing, columns = row.timing, row.columns
    period = max(round(timing.period_s), 1)
    readings = seconds // period
    draw = np.random.default_rng(chance)
    delay = (
        0.0
        if policy.immediate
        else timing.in_band_s
        if policy.in_band and timing.in_band_s is not None
        else timing.delay_s
    )
    control = Control(
        period=period,
        delay=int(np.ceil(delay)),
        brake=int(np.ceil(timing.brake_s)),
        error=1.0 + (0.0 if policy.immediate else timing.error) * draw.standard_normal(readings),
        late=draw.uniform(0.5, 1.0, (readings, columns)),
        fails=draw.uniform(size=(readings, columns)) < (0.0 if policy.immediate else timing.failure_rate),
        by_breaker=timing.by_breaker,
    )
    for group in () if policy.immediate else timing.dead:
        control.fails[:, group :: len(row.groups)] = True
    log = Log(
        watts=np.zeros(seconds),
        foreseen=np.zeros(seconds if policy.foresight_s > 0 and not policy.levels else 0),
        peak=np.zeros((-(-seconds // BLOCK_STEPS), len(row.tree.budgets))),
        wear=np.zeros((-(-seconds // BLOCK_STEPS), len(row.tree.budgets))),
        level_steps=np.zeros(len(policy.levels) + 2, np.int64),
        totals=np.zeros(TOTALS),
        latency_s=np.zeros(int(requests.followed.sum()), np.float32),
        latency_of=np.zeros(int(requests.followed.sum()), np.int64),
        followed=np.zeros(1, np.int64),
        braked=np.zeros(-(-seconds // BLOCK_STEPS)),
    )
    tables, ladder, supply = row.under_policy(policy, seconds)
    _KERNEL(servers, tables, requests, ladder, control, supply, fresh(servers, tables, ladder, supply), log)
    followed = int(log.followed[0])
    order = np.argsort(log.latency_of[:followed], kind="stable")
    of = log.latency_of[:followed][order]
    return Outcome(
        log.watts,
        log.foreseen,
        log.peak,
        log.wear,
        log.totals,
        log.level_steps,
        log.latency_s[:followed][order],
        of,
        requests.server[of],
        log.braked if timing.by_breaker else (log.peak.max(axis=1) > BRAKE_AT).astype(np.float64),
    )


def chance_of(seed: int, day: int) -> np.random.SeedSequence:
    return np.random.SeedSequence((seed, day, 99))
