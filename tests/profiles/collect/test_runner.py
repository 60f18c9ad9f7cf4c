"""The loop: every point ends as an outcome, and a run ends well however it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from machines import FakeBenchmark, FakeSensors, a_device, gemm

from profiles.collect import runner
from profiles.collect.devices import Device, is_out_of_memory
from profiles.collect.journal import FILE, Header, Journal, read
from profiles.collect.points import Outcome, Point, Prepared, Settings
from profiles.collect.power import PowerMeter, PowerPlan
from profiles.collect.runner import Grids, InOrder, Report, Runner
from profiles.collect.sensors import Reading
from profiles.collect.timing import TooLong
from profiles.errors import DataError, ShardwrightError, Unsupported

QUICK = Settings(target_error=0.5, cap_s=0.5, least=3)


def run(
    folder: Path,
    benchmark: FakeBenchmark,
    points: Sequence[Point],
    *,
    device: Device | None = None,
    seconds: float = 20.0,
    **options: Any,
) -> Report:
    device = device or a_device()
    with Journal(folder) as journal:
        journal.begin(Header("a test", "2026-11-21", "", device.describe(), device.versions))
        ends = time.monotonic() + seconds
        return Runner(device, {"gemm": benchmark}, journal, QUICK, ends, **options).run(InOrder(points))


def outcomes(folder: Path) -> list[Outcome]:
    return [entry.outcome for entry in read(folder / FILE)]


def test_every_point_is_measured_and_in_the_journal(tmp_path: Path) -> None:
    benchmark = FakeBenchmark()
    report = run(tmp_path, benchmark, [gemm(1), gemm(2)])
    assert report.ended == "complete"
    assert [o.point for o in outcomes(tmp_path)] == [gemm(1), gemm(2)]
    assert all(o.timing is not None and o.timing.median_us > 0 and o.seconds > 0 for o in outcomes(tmp_path))
    assert benchmark.closed == 1


def test_what_is_measured_is_kept_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    def broken(point: Point) -> None:
        if point == gemm(2):
            raise RuntimeError("broken\nwith a long story")

    run(tmp_path, FakeBenchmark(broken), [gemm(1), gemm(2)])
    again = FakeBenchmark()
    report = run(tmp_path, again, [gemm(1), gemm(2), gemm(3)])
    assert again.prepared == [gemm(2), gemm(3)]
    assert report.kept == 1
    assert [o.status for o in outcomes(tmp_path)] == ["measured", "failed", "measured", "measured"]
    assert outcomes(tmp_path)[1].reason == "RuntimeError: broken"


def test_another_device_keeps_nothing_of_the_first(tmp_path: Path) -> None:
    run(tmp_path, FakeBenchmark(), [gemm(1)])
    again = FakeBenchmark()
    report = run(tmp_path, again, [gemm(1)], device=a_device(name="Another CPU"))
    assert report.kept == 0
    assert again.prepared == [gemm(1)]


def test_the_budget_ends_a_run(tmp_path: Path) -> None:
    report = run(tmp_path, FakeBenchmark(), [gemm(m) for m in range(1, 10_000)], seconds=0.5)
    assert report.ended == "budget"
    assert 0 < len(report.outcomes) < 9_999
    assert report.seconds < 2


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


def test_larger_shapes_than_one_that_ran_out_of_memory_are_not_tried(tmp_path: Path) -> None:
    def hungry(point: Point) -> None:
        if int(point.shape["m"]) * int(point.shape["n"]) >= 64:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.\nGPU 0 has ...")

    benchmark = FakeBenchmark(hungry)
    points = [gemm(8, 8), gemm(16, 8), gemm(4, 8), gemm(16, 4), gemm(8, 8, dtype="fp16")]
    run(tmp_path, benchmark, points)
    assert benchmark.prepared == [gemm(8, 8), gemm(4, 8), gemm(16, 4), gemm(8, 8, dtype="fp16")]
    first, larger, *rest = outcomes(tmp_path)
    assert (first.status, first.reason) == (
        "skipped",
        "out of memory: CUDA out of memory. Tried to allocate 1 TiB.",
    )
    assert (larger.status, larger.reason) == ("skipped", "at least as large as a shape that ran out of memory")
    assert [o.status for o in rest] == ["measured", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("x"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_by_type_and_text(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


def test_refusals_and_typed_errors_are_told_apart(tmp_path: Path) -> None:
    class Picky(FakeBenchmark):
        def prepare(self, device: Device, point: Point) -> Prepared:
            if point == gemm(2):
                raise Unsupported("no kernel for 2", "none")
            if point == gemm(3):
                raise ShardwrightError("rank 1 died by signal 9", "again")
            return super().prepare(device, point)

    other = Point("moe", "bf16", {})
    run(tmp_path, Picky(refuses=("fp8",)), [gemm(1, dtype="fp8"), gemm(2), gemm(3), other, gemm(4)])
    assert [(o.status, o.reason) for o in outcomes(tmp_path)] == [
        ("skipped", "no fp8 here"),
        ("skipped", "no kernel for 2"),
        ("failed", "rank 1 died by signal 9"),
        ("skipped", "operation moe was not asked for"),
        ("measured", ""),
    ]


def test_ctrl_c_drops_the_point_in_flight_and_keeps_the_rest(tmp_path: Path) -> None:
    def stop(point: Point) -> None:
        if point == gemm(2):
            raise KeyboardInterrupt

    benchmark = FakeBenchmark(stop)
    folded: list[int] = []
    report = run(tmp_path, benchmark, [gemm(1), gemm(2), gemm(3)], fold=lambda: folded.append(1))
    assert report.ended == "interrupted"
    assert [o.point for o in outcomes(tmp_path)] == [gemm(1)]
    assert (benchmark.closed, folded) == (1, [1])


def test_a_lost_device_ends_the_run_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(_: Point) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def gone(_: Device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(Device, "synchronize", gone)
    report = run(tmp_path, FakeBenchmark(fault), [gemm(1), gemm(2)])
    assert (report.ended, report.reason) == (
        "device_lost",
        "CUDA error: an illegal memory access was encountered",
    )
    assert [o.status for o in outcomes(tmp_path)] == ["failed"]


def test_a_full_disk_ends_the_run_with_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = FakeBenchmark()

    def full(self: Journal, outcome: Outcome) -> None:
        raise DataError("journal: cannot be written (No space left on device)", "make room")

    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(DataError, match="No space left"):
        run(tmp_path, benchmark, [gemm(1)])
    assert benchmark.closed == 1


def hot(clock: float) -> Reading:
    return Reading(clock, 85.0, 600.0, ("hw_thermal_slowdown",))


COOL = Reading(1900.0, 60.0, 500.0)


def a_slow(_: Point) -> None:
    time.sleep(0.02)


def test_a_point_that_throttled_once_is_timed_again(tmp_path: Path) -> None:
    device = a_device(FakeSensors(COOL, hot(1900.0), COOL))
    monitored = run(tmp_path, FakeBenchmark(a_slow), [gemm(1)], device=device)
    (outcome,) = monitored.outcomes
    assert outcome.facts["remeasured"] == "throttled: hw_thermal_slowdown"
    assert "disturbed" not in outcome.facts
    assert outcome.clock_mhz == 1900.0


def test_a_point_that_throttles_again_is_marked(tmp_path: Path) -> None:
    device = a_device(FakeSensors(COOL, hot(1200.0)))
    (outcome,) = run(tmp_path, FakeBenchmark(a_slow), [gemm(1)], device=device).outcomes
    assert outcome.status == "measured"
    assert outcome.facts["disturbed"] == "throttled: hw_thermal_slowdown"
    assert outcome.facts["throttle"] == ["hw_thermal_slowdown"]
    assert outcome.facts["temperature_c"] == 85.0


def test_a_run_that_takes_too_long_is_skipped_and_so_are_larger_ones(tmp_path: Path) -> None:
    benchmark = FakeBenchmark(lambda point: time.sleep(0.2))
    run(tmp_path, benchmark, [gemm(1), gemm(2)])
    first, second = outcomes(tmp_path)
    assert (first.status, second.status) == ("skipped", "skipped")
    assert "3 do not fit the 0.5 s of a point" in first.reason
    assert second.reason == "at least as large as a shape that took too long"


def test_a_point_that_the_end_of_the_budget_cuts_short_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(*_: Any) -> None:
        raise TooLong(0.1)  # three of them fit a point's time, but not what is left of the budget

    monkeypatch.setattr(runner, "measure", too_long)
    report = run(tmp_path, FakeBenchmark(), [gemm(1)])
    assert (report.ended, report.outcomes, outcomes(tmp_path)) == ("budget", [], [])


def test_a_proposer_that_repeats_itself_ends_the_run(tmp_path: Path) -> None:
    class Parrot(InOrder):
        def next(self) -> list[Point]:
            return [gemm(1)]

    benchmark = FakeBenchmark()
    with Journal(tmp_path) as journal:
        journal.begin(Header("a test", "2026-11-21", "", a_device().describe(), {}))
        report = Runner(a_device(), {"gemm": benchmark}, journal, QUICK, time.monotonic() + 20).run(Parrot([]))
    assert report.ended == "complete"
    assert benchmark.prepared == [gemm(1)]


def test_grids_share_the_time_evenly() -> None:
    def grid(operation: str) -> Iterator[Point]:
        return (Point(operation, "bf16", {"m": m}) for m in range(100))

    grids = Grids({"slow": grid("slow"), "fast": grid("fast")})
    counts = {"slow": 0, "fast": 0}
    for _ in range(44):
        (point,) = grids.next()
        counts[point.operation] += 1
        seconds = 1.0 if point.operation == "slow" else 0.1
        grids.learn([Outcome(point, "failed", seconds=seconds)])
    assert counts == {"slow": 4, "fast": 40}


def test_waiting_for_power_is_no_cost_of_the_operation(tmp_path: Path) -> None:
    class Patient(PowerPlan):
        def measure(self, *_: Any) -> None:
            self.spent_s += 1000.0  # as if it had waited

    run(tmp_path, FakeBenchmark(), [gemm(1)], power=Patient(PowerMeter(a_device())))
    (outcome,) = outcomes(tmp_path)
    assert outcome.status == "measured"
    assert outcome.seconds < 0


def test_grids_leave_out_what_is_measured_and_end() -> None:
    timing_free = Outcome(gemm(1), "measured")
    grids = Grids({"gemm": [gemm(1), gemm(2)]})
    grids.learn([timing_free])
    assert grids.next() == [gemm(2)]
    assert grids.next() == []
    assert grids.expected_error() == {}
