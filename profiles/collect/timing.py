"""How long one run takes, cold, and how sure that is.

Every run finds the last cache flushed by a read of a buffer larger than it; the flush is not timed. (A flush that
writes would leave dirty lines behind, and a memory-bound run would pay for writing them back.) Operands are random,
which :class:`~profiles.collect.points.Benchmark` sees to: zeros draw less power, so clocks stay higher.

- **CUDA graphs** where the run can be captured: a graph of R times [flush, run] and one of R flushes take turns, and
  a sample is their difference ÷ R: what one run adds to a graph, launch gaps included, as in an engine's decode step.
  R is such that a graph takes about a millisecond, so that the events' own resolution does not count. For small R·t,
  p10 and p90 are of means over R runs.
- **CUDA events** around each run otherwise. While the GPU flushes, the host queues the run behind it.
- **The host's clock** on CPUs.

Runs are repeated until the median is known to the target, or the time for the point is over.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from profiles.collect.devices import Device, import_torch, is_out_of_memory
from profiles.collect.points import Prepared, Settings, Timing

GRAPH_US = 1000.0  # a graph is about this long, so that half a microsecond of event resolution is below 0.1 %
MOST_RUNS_PER_GRAPH = 32
WARM_RUNS_US = 200.0  # without a flush: so many runs a sample that the clock's resolution does not count
BLOCK_S = 0.02
LEAST_CACHE_BYTES = 32 * 2**20  # flushed at least, where a device does not tell its cache
FEWEST = 3
"""Repeats at least: a point of which so many do not fit its time is not measured."""


class TooLong(Exception):
    """One run takes ``run_s`` seconds: too long for the point's time."""

    def __init__(self, run_s: float) -> None:
        super().__init__(f"one run takes {run_s:.3g} s")
        self.run_s = run_s


class _Sampler(Protocol):
    method: str

    def block(self, count: int) -> list[float]:
        """``count`` timings of one run, µs."""
        ...


def measure(
    device: Device, prepared: Prepared, settings: Settings, watch: Callable[[], object] = lambda: None
) -> Timing:
    """Times ``prepared`` on ``device``. ``watch`` is called while the device works: sensors are read there.

    Raises:
        TooLong: :data:`FEWEST` repeats do not fit ``settings.cap_s``.
        ArithmeticError: the run is shorter than the clock resolves.
        Exception: whatever the run raises (out of memory, an unsupported shape).
    """
    if prepared.timed is not None:
        watch()
        timing = prepared.timed(settings)
        watch()
        return timing
    ends = time.monotonic() + settings.cap_s
    with _sampler(device, prepared, watch) as sampler:
        size = _warm_up(sampler, settings, ends)
        return repeat(sampler.block, sampler.method, settings, ends, size)


def repeat(block: Callable[[int], list[float]], method: str, settings: Settings, ends: float, size: int = 1) -> Timing:
    """Blocks of ``size`` samples until the median is known to the target, or ``ends`` (monotonic s) is over."""
    samples: list[float] = []
    while True:
        samples += block(size)
        timing = summarise(samples, method)
        enough = len(samples) >= settings.least and timing.relative_error <= settings.target_error
        late = len(samples) >= FEWEST and (time.monotonic() >= ends or len(samples) >= settings.most)
        if enough or late:
            return timing


def summarise(samples_us: Sequence[float], method: str) -> Timing:
    """The median of ``samples_us``, its 95 % interval from order statistics (ranks n/2 ∓ 0.98·√n; Le Boudec,
    Performance Evaluation of Computer and Communication Systems, 2010, §2.2.2), p10, p90 and outliers.

    Below 6 samples the interval is their range, which holds the median less surely (3 samples: 75 %).

    Raises:
        ArithmeticError: the median is not positive: shorter than the clock resolves.
    """
    ordered = sorted(samples_us)
    n = len(ordered)
    median = _quantile(ordered, 0.5)
    if not median > 0:
        raise ArithmeticError(f"the run is shorter than {method} resolves (median {median:.3g} µs)")
    reach = 0.98 * math.sqrt(n)
    low = ordered[max(math.floor(n / 2 - reach), 1) - 1]
    high = ordered[min(math.ceil(n / 2 + 1 + reach), n) - 1]
    q1, q3 = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
    fence = 3 * (q3 - q1)
    return Timing(
        median_us=median,
        p10_us=_quantile(ordered, 0.1),
        p90_us=_quantile(ordered, 0.9),
        repeats=n,
        relative_error=(high - low) / 2 / median if n > 1 else 1.0,
        outliers=sum(1 for x in ordered if x < q1 - fence or x > q3 + fence),
        method=method,
    )


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _warm_up(sampler: _Sampler, settings: Settings, ends: float) -> int:
    """Runs until two blocks agree within 2 % or a third of the time is over; returns the size of a block."""
    started = time.monotonic()
    until = started + (ends - started) / 3
    sampler.block(1)  # compiles, loads kernels
    began = time.monotonic()
    before = sampler.block(1)[0]
    took = time.monotonic() - began
    if FEWEST * took > settings.cap_s:
        raise TooLong(took)
    size = max(1, min(50, round(BLOCK_S / max(took, 1e-6))))
    while time.monotonic() < until:
        now = _quantile(sorted(sampler.block(max(size, 2))), 0.5)
        if abs(now - before) <= 0.02 * abs(now):
            break
        before = now
    return size


@contextlib.contextmanager
def _sampler(device: Device, prepared: Prepared, watch: Callable[[], object]) -> Iterator[_Sampler]:
    flush = flusher(device) if prepared.rotate else None
    if device.kind == "cpu":
        yield _HostClock(prepared.run, flush, watch)
        return
    events = _Events(device, prepared.run, flush, watch)
    if not prepared.capturable:
        yield events
        return
    for _ in range(3):  # loads kernels and libraries, which a capture may not do
        events.block(1)
    runs = _runs(_quantile(sorted(events.block(3)), 0.5), flush)
    try:
        graphs = _Graphs(device, prepared.run, flush, watch, runs)
    except RuntimeError as error:  # a library that synchronises or allocates within the run; the method is in the row
        if is_out_of_memory(error):
            raise
        device.synchronize()
        yield events
        return
    try:
        yield graphs
    finally:
        graphs.close()


def _runs(run_us: float, flush: Callable[[], object] | None) -> int:
    """Runs a graph: as many as take :data:`GRAPH_US`; a flush takes about as long as a short run."""
    most = MOST_RUNS_PER_GRAPH if flush else 8 * MOST_RUNS_PER_GRAPH
    return max(1, min(most, round(GRAPH_US / max(run_us, 1.0))))


@functools.lru_cache(maxsize=1)
def _flush_buffer(kind: str, index: int, size: int) -> Any:
    torch = import_torch()
    return torch.ones(size // 4, dtype=torch.float32, device=f"{kind}:{index}" if kind == "cuda" else kind)


def flusher(device: Device) -> Callable[[], object]:
    """Reads twice the last cache of a GPU, once that of a CPU: asynchronous on a GPU, capturable."""
    cache = max(device.l2_bytes, LEAST_CACHE_BYTES)
    buffer = _flush_buffer(device.kind, device.index, cache * (2 if device.kind == "cuda" else 1))
    return lambda: buffer.sum()


class _HostClock:
    method = "host_clock"

    def __init__(
        self, run: Callable[[], object], flush: Callable[[], object] | None, watch: Callable[[], object]
    ) -> None:
        self._run, self._flush, self._watch = run, flush, watch
        self._runs = 1

    def block(self, count: int) -> list[float]:
        samples = []
        for _ in range(count):
            if self._flush is not None:  # only the first run after it is cold: one run a sample
                self._flush()
            samples.append(self._time())
        if self._flush is None:
            self._runs = max(1, min(1000, round(WARM_RUNS_US / samples[-1])))
        self._watch()
        return samples

    def _time(self) -> float:
        run, runs = self._run, range(self._runs)
        began = time.perf_counter_ns()
        for _ in runs:
            run()
        return (time.perf_counter_ns() - began) / 1e3 / len(runs)


@dataclass
class _OnGpu:
    """What runs there; ``flush``: before each run."""

    device: Device
    run: Callable[[], object]
    flush: Callable[[], object] | None
    watch: Callable[[], object]


class _Events(_OnGpu):
    method = "cuda_events"

    def block(self, count: int) -> list[float]:
        pairs = [(cuda_event(), cuda_event()) for _ in range(count)]
        for start, end in pairs:
            if self.flush is not None:
                self.flush()
            start.record()
            self.run()
            end.record()
        self.watch()
        self.device.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in pairs]


@dataclass
class _Graphs(_OnGpu):
    runs: int
    method = "cuda_graph"

    def __post_init__(self) -> None:
        self._work = captured(self.runs, self.flush, self.run)
        self._idle = None if self.flush is None else captured(self.runs, self.flush, None)

    def block(self, count: int) -> list[float]:
        triples = [(cuda_event(), cuda_event(), cuda_event()) for _ in range(count)]
        for start, middle, end in triples:
            start.record()
            self._work.replay()
            middle.record()
            if self._idle is not None:
                self._idle.replay()
                end.record()
        self.watch()
        self.device.synchronize()
        flush_ms = 0.0
        if self._idle is not None:
            flush_ms = _quantile(sorted(middle.elapsed_time(end) for _, middle, end in triples), 0.5)
        return [(start.elapsed_time(middle) - flush_ms) * 1e3 / self.runs for start, middle, _ in triples]

    def close(self) -> None:
        self.device.synchronize()
        self._work.reset()
        if self._idle is not None:
            self._idle.reset()


def captured(runs: int, flush: Callable[[], object] | None, run: Callable[[], object] | None) -> Any:
    """A CUDA graph of ``runs`` times what is given."""
    torch = import_torch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(runs):
            if flush is not None:
                flush()
            if run is not None:
                run()
    return graph


def cuda_event() -> Any:
    return import_torch().cuda.Event(enable_timing=True)
