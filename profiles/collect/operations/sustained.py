"""A layer's products and attention back to back: right after a rest, and once clocks have settled.

Rows of a pack are short bursts. A GPU under load draws its power limit after a second or so and lowers its clock, and
what multiplies then takes longer (an H200 at 700 W: 16-bit products by 16 %, from 1,980 to 1,440 MHz); what waits for
memory does not. The ratio of the two states is a fact of the part, its power limit and its cooling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from profiles.collect.devices import current
from profiles.collect.operations.attention import Attention
from profiles.collect.operations.gemm import Gemm
from profiles.collect.operations.grids import FLOATS
from profiles.collect.points import Point, Prepared, Settings, Timing
from profiles.collect.timing import cuda_event, summarise

if TYPE_CHECKING:
    from profiles.collect.devices import Device

STATES = ("rested", "sustained")
DEFAULT_S = 30.0
REST_S = 3.0
_BURSTS = 5  # each after a rest
_BURST_S = 0.01
_LAST = 0.25  # of the sustained time, which counts
_LAYERS = {  # Llama-3.1-8B's: enough tokens that products compute; on CPUs a small one
    "cuda": {"tokens": 8192, "hidden": 4096, "intermediate": 14336, "heads": 32, "kv_heads": 8, "head_dim": 128},
    "cpu": {"tokens": 128, "hidden": 512, "intermediate": 1024, "heads": 8, "kv_heads": 2, "head_dim": 64},
}


class Sustained:
    """``seconds``: how long a layer is repeated before it counts."""

    operation = "sustained"

    def __init__(self, seconds: float = DEFAULT_S) -> None:
        self.seconds = seconds
        self._gemm, self._attention = Gemm(), Attention(decode=False)

    def _parts(self, point: Point) -> list[tuple[Gemm | Attention, Point]]:
        size = {name: int(value) for name, value in point.shape.items() if name != "state"}
        tokens, hidden, wide = size["tokens"], size["hidden"], size["intermediate"]
        inner, width = size["heads"] * size["head_dim"], (size["heads"] + 2 * size["kv_heads"]) * size["head_dim"]
        products = [(width, hidden), (hidden, inner), (2 * wide, hidden), (hidden, wide)]
        in_16_bits = point.dtype if point.dtype in FLOATS else "bf16"
        shape: dict[str, int | str] = {name: size[name] for name in ("heads", "kv_heads", "head_dim")}
        shape |= {"batch": 1, "query_tokens": tokens, "prefix_tokens": 0, "window_tokens": 0, "kv_dtype": in_16_bits}
        parts: list[tuple[Gemm | Attention, Point]] = [
            (self._gemm, Point("gemm", point.dtype, {"m": tokens, "n": n, "k": k})) for n, k in products
        ]
        return [*parts, (self._attention, Point("attention_prefill", in_16_bits, shape))]

    def unsupported(self, device: Device, point: Point) -> str | None:
        reasons = (benchmark.unsupported(device, part) for benchmark, part in self._parts(point))
        return next((reason for reason in reasons if reason), None)

    def prepare(self, device: Device, point: Point) -> Prepared:
        parts = [benchmark.prepare(device, part) for benchmark, part in self._parts(point)]

        def run() -> None:
            for part in parts:
                part.run()

        rested = point.shape["state"] == "rested"

        def timed(_: Settings) -> Timing:
            return _rested(device, run) if rested else _sustained(device, run, self.seconds)

        return Prepared(
            run,
            kernel="+".join(dict.fromkeys(part.kernel for part in parts)),
            framework="torch",
            framework_version=torch.__version__,
            flops=sum(part.flops for part in parts),
            moved_bytes=sum(part.moved_bytes for part in parts),
            timed=timed,
            takes_s=(REST_S + 1) * _BURSTS if rested else self.seconds + 1,
        )

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        for dtype in precisions:
            for state in STATES:
                point = Point(self.operation, dtype, {"state": state, **_LAYERS[device.kind]})
                if self.unsupported(device, point) is None:
                    yield point

    def close(self) -> None:
        """Nothing outlives a point."""


def _rested(device: Device, run: Callable[[], object]) -> Timing:
    with current(device):
        batch = _Batch(device, run)
        samples = []
        for _ in range(_BURSTS):
            time.sleep(REST_S)
            samples.append(batch.once())
    return summarise(samples, batch.method)


def _sustained(device: Device, run: Callable[[], object], seconds: float) -> Timing:
    with current(device):
        batch = _Batch(device, run)
        began, samples = time.monotonic(), []
        while (now := time.monotonic() - began) < seconds:
            samples.append((now, batch.once()))
    counted = [us for at, us in samples if at >= (1 - _LAST) * seconds] or [samples[-1][1]]
    return summarise(counted, batch.method)


class _Batch:
    """Runs for about :data:`_BURST_S` at a time; the gap between two is microseconds."""

    def __init__(self, device: Device, run: Callable[[], object]) -> None:
        self.method = "host_clock" if device.kind == "cpu" else "cuda_events"
        self._run, self._count = run, 1
        run()  # loads kernels
        device.synchronize()
        self._count = max(1, round(_BURST_S * 1e6 / max(self.once(), 1.0)))

    def once(self) -> float:
        """µs a run."""
        if self.method == "host_clock":
            began = time.perf_counter_ns()
            self._runs()
            return (time.perf_counter_ns() - began) / 1e3 / self._count
        start, end = cuda_event(), cuda_event()
        start.record()
        self._runs()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3 / self._count

    def _runs(self) -> None:
        for _ in range(self._count):
            self._run()
