"""Timing: medians with intervals that hold, cold caches that are not timed, and an end to every point."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import a_device

from profiles.collect import timing
from profiles.collect.points import Prepared, Settings, Timing
from profiles.collect.timing import FEWEST, TooLong, measure, repeat, summarise


def prepared(run: Callable[[], Any], **changes: Any) -> Prepared:
    return Prepared(run, "fake", "torch", "2.9", 1.0, 1.0, **changes)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=300))
def test_the_summary_is_ordered_and_counts_everything(samples: list[float]) -> None:
    found = summarise(samples, "host_clock")
    assert min(samples) <= found.p10_us <= found.median_us <= found.p90_us <= max(samples)
    assert found.repeats == len(samples)
    assert 0 <= found.outliers <= len(samples) / 2
    assert found.relative_error >= 0


def test_the_interval_of_the_median_holds_95_percent_of_the_time() -> None:
    source = random.Random(0)
    inside = 0
    for _ in range(1000):
        samples = [math.exp(source.gauss(0, 0.3)) for _ in range(40)]  # its true median is 1
        found = summarise(samples, "host_clock")
        ordered = sorted(samples)
        reach = 0.98 * math.sqrt(40)
        low, high = ordered[math.floor(20 - reach) - 1], ordered[math.ceil(21 + reach) - 1]
        assert found.relative_error == pytest.approx((high - low) / 2 / found.median_us)
        inside += low <= 1 <= high
    assert inside >= 940


def test_outliers_are_counted_and_not_removed() -> None:
    found = summarise([10.0, 10.1, 10.2, 10.3, 10.4] * 4 + [500.0], "host_clock")
    assert (found.outliers, found.repeats) == (1, 21)


def test_a_run_that_the_clock_cannot_see_is_an_error() -> None:
    with pytest.raises(ArithmeticError, match="shorter than cuda_graph resolves"):
        summarise([-0.1, 0.0, 0.0], "cuda_graph")


def test_repeating_ends_at_the_target() -> None:
    source = random.Random(1)
    found = repeat(
        lambda count: [source.gauss(100, 5) for _ in range(count)],
        "host_clock",
        Settings(target_error=0.01),
        time.monotonic() + 60,
    )
    assert found.relative_error <= 0.01
    assert 10 < found.repeats < 1000


def test_repeating_ends_with_the_time_and_says_how_sure_it_is() -> None:
    found = repeat(lambda count: [1.0, 2.0][:count], "host_clock", Settings(), time.monotonic() - 1, size=2)
    assert found.repeats == 4 > FEWEST
    assert found.relative_error > 0.01


def test_what_times_itself_is_asked() -> None:
    own = Timing(1.0, 1.0, 1.0, 5, 0.0, 0, "ranks")
    looked: list[int] = []
    found = measure(a_device(), prepared(lambda: 0, timed=lambda settings: own), Settings(), lambda: looked.append(1))
    assert found is own
    assert len(looked) == 2


def test_on_a_cpu_every_run_is_preceded_by_a_flush_that_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def flush() -> None:
        calls.append("flush")
        time.sleep(0.005)

    monkeypatch.setattr(timing, "flusher", lambda _: flush)
    settings = Settings(target_error=0.5, cap_s=1.0)
    found = measure(a_device(), prepared(lambda: calls.append("run")), settings)
    assert calls == ["flush", "run"] * (len(calls) // 2)
    assert found.median_us < 2000
    assert found.method == "host_clock"


def test_tiny_runs_without_a_flush_are_timed_many_at_once() -> None:
    count = 0

    def run() -> None:
        nonlocal count
        count += 1

    found = measure(a_device(), prepared(run, rotate=False), Settings(target_error=0.5, cap_s=1.0))
    assert count > 20 * found.repeats
    assert found.median_us < 100


def test_runs_of_which_too_few_fit_are_refused() -> None:
    with pytest.raises(TooLong) as caught:
        measure(a_device(), prepared(lambda: time.sleep(0.05), rotate=False), Settings(cap_s=0.1))
    assert caught.value.run_s >= 0.05


def test_a_real_product_on_this_cpu_is_timed() -> None:
    torch = pytest.importorskip("torch")
    a = torch.randn(64, 64)
    found = measure(a_device(), prepared(lambda: a @ a), Settings(target_error=0.5, cap_s=1.0))
    assert 0 < found.p10_us <= found.median_us <= found.p90_us
    assert found.repeats >= 10


class FakeCuda:
    """A GPU's clock: work takes the time that it says, in a stream and in graphs."""

    def __init__(self) -> None:
        self.now_us = 0.0
        self.captured: list[float] | None = None
        self.flushes = self.replays = 0

    def spend(self, us: float) -> None:
        if self.captured is None:
            self.now_us += us
        else:
            self.captured.append(us)

    # what timing.py asks of torch
    @property
    def cuda(self) -> FakeCuda:
        return self

    def synchronize(self, *_: Any) -> None:
        assert self.captured is None, "a capture must not wait"

    def device(self, _: int) -> Any:
        return timing.contextlib.nullcontext()

    def Event(self, **_: Any) -> Any:  # noqa: N802
        cuda = self

        class Event:
            at = 0.0

            def record(self) -> None:
                assert cuda.captured is None
                self.at = cuda.now_us

            def elapsed_time(self, end: Any) -> float:
                return (end.at - self.at) / 1e3

        return Event()

    def CUDAGraph(self) -> Any:  # noqa: N802
        cuda = self

        class Graph:
            content: tuple[float, ...] = ()

            def replay(self) -> None:
                cuda.replays += 1
                cuda.now_us += sum(self.content)

            def reset(self) -> None: ...

        return Graph()

    def graph(self, graph: Any) -> Any:
        @timing.contextlib.contextmanager
        def capture() -> Iterator[None]:
            self.captured = []
            yield
            graph.content, self.captured = tuple(self.captured), None

        return capture()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(timing, "import_torch", lambda: fake)
    monkeypatch.setattr(timing.Device, "synchronize", fake.synchronize)
    monkeypatch.setattr(timing, "flusher", lambda _: lambda: fake.spend(35.0))
    return fake


GPU = a_device(kind="cuda", indices=(0,), capability=(9, 0))


@pytest.mark.parametrize("run_us", [2.5, 300.0, 20_000.0])
def test_on_a_gpu_a_graph_gives_what_one_run_adds_without_its_flush(cuda: FakeCuda, run_us: float) -> None:
    found = measure(GPU, prepared(lambda: cuda.spend(run_us)), Settings())
    assert found.method == "cuda_graph"
    assert found.median_us == pytest.approx(run_us)
    assert cuda.replays > 0


def test_what_cannot_be_captured_is_timed_by_events(cuda: FakeCuda) -> None:
    found = measure(GPU, prepared(lambda: cuda.spend(50.0), capturable=False), Settings())
    assert found.method == "cuda_events"
    assert found.median_us == pytest.approx(50.0)
    assert cuda.replays == 0


def test_a_capture_that_a_library_refuses_falls_back_to_events(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(timing, "captured", refused)
    found = measure(GPU, prepared(lambda: cuda.spend(50.0)), Settings())
    assert (found.method, found.median_us) == ("cuda_events", pytest.approx(50.0))


def test_a_capture_that_runs_out_of_memory_is_not_hidden(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(timing, "captured", exhausted)
    with pytest.raises(RuntimeError, match="out of memory"):
        measure(GPU, prepared(lambda: cuda.spend(50.0)), Settings())


def test_without_a_flush_a_graph_holds_runs_alone(cuda: FakeCuda) -> None:
    found = measure(GPU, prepared(lambda: cuda.spend(3.0), rotate=False), Settings())
    assert (found.method, found.median_us) == ("cuda_graph", pytest.approx(3.0))
