"""The loop: next points → measured → journal, until the time is over or there is nothing left to ask."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from profiles.collect.conditions import Conditions
from profiles.collect.devices import Device, current, is_out_of_memory
from profiles.collect.journal import Journal
from profiles.collect.points import Benchmark, Outcome, Point, Prepared, Settings, Timing
from profiles.collect.power import PowerPlan
from profiles.collect.timing import FEWEST, TooLong, measure
from profiles.errors import ShardwrightError, Unsupported

FOLD_EVERY_S = 15.0
_NOT_SIZES = frozenset({"moe_tp", "moe_ep", "window_tokens", "gated"})
"""Shape columns in which more does not mean more memory."""


class Proposer(Protocol):
    """Says what to measure next."""

    def next(self) -> list[Point]:
        """The next points, best first, none of them measured before; empty when there is nothing left."""
        ...

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """What became of points: of earlier runs first, then of each batch."""
        ...

    def expected_error(self) -> Mapping[str, float]:
        """Mean relative error expected of the cost model by operation, as of now; empty where nobody says."""
        ...


class InOrder:
    """Points as they are listed, without those that are measured."""

    def __init__(self, points: Iterable[Point]) -> None:
        self._points = iter(points)
        self._measured: set[str] = set()

    def next(self) -> list[Point]:
        return next(([point] for point in self._points if point.key not in self._measured), [])

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        self._measured |= {outcome.point.key for outcome in outcomes if outcome.status == "measured"}

    def expected_error(self) -> Mapping[str, float]:
        return {}


class Grids:
    """The benchmarks' plain grids side by side: the next point is of the one that took the least time so far."""

    def __init__(self, grids: Mapping[str, Iterable[Point]]) -> None:
        self._grids = {name: InOrder(grid) for name, grid in grids.items()}
        self._seconds = dict.fromkeys(grids, 0.0)

    def next(self) -> list[Point]:
        for name in sorted(self._grids, key=lambda name: self._seconds[name]):
            points = self._grids[name].next()
            if points:
                return points
        return []

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            name = outcome.point.operation
            if name in self._grids:
                self._grids[name].learn([outcome])
                self._seconds[name] += outcome.seconds

    def expected_error(self) -> Mapping[str, float]:
        return {}


@dataclass
class Report:
    """How a run ended.

    Attributes:
        outcomes: of this run, in order.
        kept: points that earlier runs had measured on such a device.
        ended: ``complete`` (nothing left to ask), ``budget``, ``interrupted``, or ``device_lost``.
        reason: of the last, what the device said.
        error_before, error_after: expected relative error of the cost model by operation.
        idle_watts: power at rest, where it was measured.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    kept: int = 0
    ended: Literal["complete", "budget", "interrupted", "device_lost"] = "complete"
    reason: str = ""
    error_before: Mapping[str, float] = field(default_factory=dict)
    error_after: Mapping[str, float] = field(default_factory=dict)
    idle_watts: float | None = None
    power_seconds: float = 0.0
    seconds: float = 0.0


class DeviceLost(Exception):
    """The device no longer answers: nothing further can be measured by this process."""


class BudgetOver(Exception):
    """The time ended within a point."""


class Runner:
    """Measures points on one device.

    Args:
        benchmarks: by operation.
        journal: open, its run begun.
        ends: monotonic seconds at which the budget is over.
        power: measures power too, on some of the points.
        on_outcome: told of each outcome (progress).
        fold: called every :data:`FOLD_EVERY_S` and at the end, to take the journal over into a store.
    """

    def __init__(
        self,
        device: Device,
        benchmarks: Mapping[str, Benchmark],
        journal: Journal,
        settings: Settings,
        ends: float,
        *,
        power: PowerPlan | None = None,
        on_outcome: Callable[[Outcome], None] = lambda _: None,
        fold: Callable[[], None] = lambda: None,
    ) -> None:
        self.device = device
        self.benchmarks = benchmarks
        self.journal = journal
        self.settings = settings
        self.ends = ends
        self._power = power
        self._on_outcome = on_outcome
        self._fold = fold
        self._folded_s = time.monotonic()
        self._too_large: list[tuple[Point, str]] = []

    def run(self, proposer: Proposer) -> Report:
        """Asks ``proposer`` and measures until it has nothing left, the time is over, or Ctrl-C is pressed (the
        point in flight is then dropped). Every outcome is in the journal before the next point begins.

        Raises:
            DataError: the journal or the store cannot be written. What was measured before is in the journal.
        """
        began = time.monotonic()
        report = Report()
        earlier = [e.outcome for e in self.journal.entries if e.header.device.get("name") == self.device.name]
        report.kept = len({outcome.point.key for outcome in earlier if outcome.status == "measured"})
        try:
            try:
                proposer.learn(earlier)
                report.error_before = dict(proposer.expected_error())
                if self._power is not None and self._power.meter.method is not None:
                    idle = self._power.meter.idle()
                    report.idle_watts = None if idle is None else idle.watts
                report.ended = self._loop(proposer, report)
            except BudgetOver:
                report.ended = "budget"
            except DeviceLost as lost:
                report.ended, report.reason = "device_lost", str(lost)
            except KeyboardInterrupt:
                report.ended = "interrupted"
            finally:
                for benchmark in self.benchmarks.values():
                    benchmark.close()
        finally:
            self._fold()
        report.error_after = dict(proposer.expected_error())
        report.power_seconds = self._power_s()
        report.seconds = time.monotonic() - began
        return report

    def _loop(self, proposer: Proposer, report: Report) -> Literal["complete", "budget"]:
        asked: set[str] = set()
        while True:
            if time.monotonic() >= self.ends:
                return "budget"
            batch = [point for point in proposer.next() if point.key not in asked]
            if not batch:
                return "complete"
            asked |= {point.key for point in batch}
            fresh = []
            for point in batch:
                if time.monotonic() >= self.ends:
                    break
                outcome = self.outcome(point)
                self.journal.add(outcome)
                fresh.append(outcome)
                report.outcomes.append(outcome)
                self._on_outcome(outcome)
                self._check(outcome)
                if time.monotonic() - self._folded_s > FOLD_EVERY_S:
                    self._fold()
                    self._folded_s = time.monotonic()
            proposer.learn(fresh)

    def _check(self, outcome: Outcome) -> None:
        """After a failure: does the device still answer? (An illegal access ends CUDA for the whole process.)"""
        if outcome.status == "failed":
            try:
                self.device.synchronize()
            except Exception as error:
                raise DeviceLost(_said(error)) from error

    def outcome(self, point: Point) -> Outcome:
        """Measures one point; whatever goes wrong with it is its outcome.

        Raises:
            BudgetOver: too little time is left for it; it is as if it had not begun.
        """
        began, power_s = time.monotonic(), self._power_s()
        with current(self.device):
            outcome = self._outcome(point)
        self._release()  # operands are out of scope only now
        # Power is waited for far longer than a time, and of some points alone: it is no cost of the operation.
        return dataclasses.replace(outcome, seconds=time.monotonic() - began - (self._power_s() - power_s))

    def _power_s(self) -> float:
        return 0.0 if self._power is None else self._power.spent_s

    def _outcome(self, point: Point) -> Outcome:
        benchmark = self.benchmarks.get(point.operation)
        if benchmark is None:
            return Outcome(point, "skipped", f"operation {point.operation} was not asked for")
        try:
            why = benchmark.unsupported(self.device, point) or self._too_large_before(point)
            if why:
                return Outcome(point, "skipped", why)
            prepared = benchmark.prepare(self.device, point)
            if prepared.takes_s > self.ends - time.monotonic():
                raise BudgetOver
            try:
                return self._measured(point, prepared)
            finally:
                if prepared.close is not None:
                    prepared.close()
        except BudgetOver:
            raise
        except TooLong as error:
            if FEWEST * error.run_s <= self.settings.cap_s:
                raise BudgetOver from error
            self._too_large.append((point, "took too long"))
            return Outcome(point, "skipped", f"{error}: {FEWEST} do not fit the {self.settings.cap_s:g} s of a point")
        except Unsupported as error:
            return Outcome(point, "skipped", error.message)
        except ShardwrightError as error:
            return Outcome(point, "failed", error.message)
        except Exception as error:
            if is_out_of_memory(error):
                self._too_large.append((point, "ran out of memory"))
                return Outcome(point, "skipped", f"out of memory: {_said(error)}")
            return Outcome(point, "failed", f"{type(error).__name__}: {_said(error)}")

    def _release(self) -> None:
        try:
            self.device.release()
        except Exception:
            return  # a lost device shows in _check

    def _measured(self, point: Point, prepared: Prepared) -> Outcome:
        timing, conditions = self._timed(prepared)
        facts: dict[str, Any] = {}
        if first := conditions.disturbance():
            facts["remeasured"] = first
            timing, conditions = self._timed(prepared)
            if again := conditions.disturbance():
                facts["disturbed"] = again
        watts = None
        if self._power is not None:
            bucket = _bucket(point, prepared, timing)
            power = self._power.measure(bucket, prepared, timing.median_us, self.ends - time.monotonic())
            if power is not None:
                watts = power.watts
                facts["power"] = dataclasses.asdict(power)
        return Outcome(
            point,
            "measured",
            timing=timing,
            kernel=prepared.kernel,
            framework=prepared.framework,
            framework_version=prepared.framework_version,
            power_watts=watts,
            clock_mhz=conditions.clock_mhz,
            facts={**conditions.facts(), **facts},
        )

    def _timed(self, prepared: Prepared) -> tuple[Timing, Conditions]:
        conditions = Conditions(self.device.sensors)
        cap_s = max(0.0, min(self.settings.cap_s, self.ends - time.monotonic()))
        settings = dataclasses.replace(self.settings, cap_s=cap_s)
        return measure(self.device, prepared, settings, conditions), conditions

    def _too_large_before(self, point: Point) -> str | None:
        """A shape that is nowhere smaller than one that was too large is not tried."""
        for large, why in self._too_large:
            if _nowhere_smaller(point, large):
                return f"at least as large as a shape that {why}"
        return None


def _nowhere_smaller(point: Point, other: Point) -> bool:
    if (point.operation, point.dtype, point.num_gpus) != (other.operation, other.dtype, other.num_gpus):
        return False
    for name, bound in other.shape.items():
        value = point.shape.get(name)
        if isinstance(value, int) and isinstance(bound, int) and name not in _NOT_SIZES:
            if value < bound:
                return False
        elif value != bound:
            return False
    return True


def _bucket(point: Point, prepared: Prepared, timing: Timing) -> tuple[object, ...]:
    """Points of one bucket draw much the same power: see :class:`~profiles.collect.power.PowerPlan`."""
    intensity = prepared.flops / prepared.moved_bytes if prepared.moved_bytes > 0 else 0.0
    return (
        point.operation,
        point.dtype,
        round(math.log2(intensity)) if intensity > 0 else None,
        round(math.log2(timing.median_us)),
    )


def _said(error: BaseException) -> str:
    """The first line of what ``error`` says: torch appends pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
