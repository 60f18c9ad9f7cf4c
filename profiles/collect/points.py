"""What is measured, and what comes of it: points, timings, outcomes. Plain data, no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from profiles.collect.devices import Device


@dataclass(frozen=True)
class Settings:
    """How well a point is to be known.

    Attributes:
        target_error: half-width of the median's 95 % interval ÷ median at which repeating ends.
        cap_s: seconds after which it ends in any case (after :data:`profiles.collect.timing.FEWEST` repeats).
        least: repeats before the interval is believed.
        most: repeats at most.
    """

    target_error: float = 0.01
    cap_s: float = 2.0
    least: int = 10
    most: int = 2000


@dataclass(frozen=True)
class Point:
    """One question to the machine: an operation at one shape.

    Attributes:
        operation: a name of :data:`profiles.measurements.OPERATIONS`.
        dtype: precision, of :data:`profiles.measurements.DTYPES`.
        shape: the operation's shape columns by name, as its rows have them.
        num_gpus: ranks that take part.
    """

    operation: str
    dtype: str
    shape: Mapping[str, int | str]
    num_gpus: int = 1

    @property
    def key(self) -> str:
        """The same text for the same question: how a resumed run knows what it has."""
        return json.dumps(
            {"operation": self.operation, "dtype": self.dtype, "num_gpus": self.num_gpus, **self.shape}, sort_keys=True
        )


@dataclass(frozen=True)
class Timing:
    """Repeated timings of one point, µs. ``relative_error``: half-width of the median's 95 % interval ÷ median.
    ``outliers``: repeats beyond 3 interquartile ranges, counted, not removed. ``method``: how it was timed
    (``cuda_graph``, ``cuda_events``, ``host_clock``)."""

    median_us: float
    p10_us: float
    p90_us: float
    repeats: int
    relative_error: float
    outliers: int
    method: str


@dataclass(frozen=True)
class Prepared:
    """A point ready to run.

    Attributes:
        run: does the operation once, asynchronously on a GPU; must be safe to capture into a CUDA graph
            where ``capturable``.
        kernel: the library path that runs (``cublas``, ``sdpa_flash``, ``grouped_mm``, ...), for the row.
        framework: what the row's ``framework`` column says (``torch``, ``nccl``, ``gloo``, ``flashinfer``).
        framework_version: its version.
        flops, moved_bytes: of one run, for plausibility checks and cost estimates.
        rotate: operands are rotated over copies, or the L2 is flushed, between runs by the timer unless False.
        timed: set where the operation times itself (ranks of a collective): called in place of
            :func:`profiles.collect.timing.measure`.
        takes_s: seconds that it takes whatever the settings: it is not begun when less is left.
        close: frees what ``run`` holds beyond its operands.
    """

    run: Callable[[], Any]
    kernel: str
    framework: str
    framework_version: str
    flops: float
    moved_bytes: float
    capturable: bool = True
    rotate: bool = True
    timed: Callable[[Settings], Timing] | None = None
    takes_s: float = 0.0
    close: Callable[[], None] | None = None


class Benchmark(Protocol):
    """How one operation is measured on one machine. Implementations declare; the runner asks no types."""

    operation: str

    def unsupported(self, device: Device, point: Point) -> str | None:
        """Why this machine cannot measure ``point`` (precision, missing library), or None."""
        ...

    def prepare(self, device: Device, point: Point) -> Prepared:
        """Allocates random operands and returns the call.

        Raises:
            Unsupported: it turns out that ``point`` cannot be measured here; the runner records why.
            torch.OutOfMemoryError: likewise.
        """
        ...

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        """The plain exhaustive grid, most useful points first."""
        ...

    def close(self) -> None:
        """Ends what outlives a point (rank processes). Called once, however the run ends."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of a point: measured (``timing``), or ``skipped`` / ``failed`` with the ``reason``."""

    point: Point
    status: Literal["measured", "skipped", "failed"]
    reason: str = ""
    timing: Timing | None = None
    kernel: str = ""
    framework: str = ""
    framework_version: str = ""
    power_watts: float | None = None
    clock_mhz: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # temperature, throttle reasons, ... of the block
    seconds: float = 0.0  # of the budget that it took, power apart
