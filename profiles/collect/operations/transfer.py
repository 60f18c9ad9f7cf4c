"""Memory copies and the cost of launching a kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from profiles.collect.operations.grids import memcpy_shapes, points
from profiles.collect.operations.tensors import random_bytes, require
from profiles.collect.operations.work import work
from profiles.collect.points import Point, Prepared, Settings, Timing
from profiles.collect.timing import repeat

if TYPE_CHECKING:
    from profiles.collect.devices import Device

COPY_KINDS = ("device_to_device", "host_to_device", "device_to_host")
LAUNCH_KINDS = ("kernel", "graph_kernel")
_LAUNCHES = 200  # a sample; the launch queue of a GPU holds about a thousand


class Memcpy:
    """Copies of ``copied_bytes``. ``device_to_device``: within the device's memory (on CPUs: the host's), read and
    written. Host sides are pinned. ``dtype`` is int8 by convention."""

    operation = "memcpy"

    def unsupported(self, device: Device, point: Point) -> str | None:
        if point.dtype != "int8":
            return f"a copy has no precision: its dtype is int8, not {point.dtype}"
        if device.kind == "cpu" and point.shape["kind"] != "device_to_device":
            return "a CPU's memory is the host's: device_to_device is its only copy"
        return None

    def prepare(self, device: Device, point: Point) -> Prepared:
        size, kind = int(point.shape["copied_bytes"]), str(point.shape["kind"])
        on_device = 2 if kind == "device_to_device" else 1
        require(device, on_device * size, f"memcpy of {size:,} bytes")

        source = random_bytes(device, size, pinned=kind == "host_to_device")
        target = random_bytes(device, size, pinned=kind == "device_to_host")
        flops, moved_bytes = work(point)
        return Prepared(
            lambda: target.copy_(source, non_blocking=True),
            kernel="cpu_copy" if device.kind == "cpu" else "cuda_memcpy",
            framework="torch",
            framework_version=torch.__version__,
            flops=flops,
            moved_bytes=moved_bytes,
            capturable=kind == "device_to_device",
        )

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        """``precisions`` do not matter: bytes are copied."""
        kinds = COPY_KINDS if device.kind == "cuda" else COPY_KINDS[:1]
        yield from points(device, self.operation, memcpy_shapes(kinds), ["int8"])

    def close(self) -> None:
        """Nothing outlives a point."""


class Launch:
    """An addition to one number: nothing to compute, so what it takes is its launch.

    ``kernel``: launched one after the other from Python through torch, per launch, until all have run: what an eager
    engine pays when its GPU is faster than its host. ``graph_kernel``: the same kernels in a CUDA graph. On CPUs:
    the call of a torch operator.
    """

    operation = "launch"

    def unsupported(self, device: Device, point: Point) -> str | None:
        if point.dtype != "int8":
            return f"a launch has no precision: its dtype is int8, not {point.dtype}"
        if device.kind == "cpu" and point.shape["kind"] != "kernel":
            return "CPUs have no CUDA graphs"
        return None

    def prepare(self, device: Device, point: Point) -> Prepared:
        number = torch.zeros(1, dtype=torch.float32, device=device.torch)
        flops, moved_bytes = work(point)

        def run() -> torch.Tensor:
            return number.add_(1)

        def launches(count: int) -> list[float]:
            samples = []
            for _ in range(count):
                device.synchronize()
                began = time.perf_counter_ns()
                for _ in range(_LAUNCHES):
                    run()
                device.synchronize()
                samples.append((time.perf_counter_ns() - began) / 1e3 / _LAUNCHES)
            return samples

        def timed(settings: Settings) -> Timing:
            launches(3)
            return repeat(launches, "host_clock", settings, time.monotonic() + settings.cap_s, size=10)

        return Prepared(
            run,
            kernel="add_one",
            framework="torch",
            framework_version=torch.__version__,
            flops=flops,
            moved_bytes=moved_bytes,
            rotate=False,
            timed=timed if point.shape["kind"] == "kernel" else None,
        )

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        for kind in LAUNCH_KINDS if device.kind == "cuda" else LAUNCH_KINDS[:1]:
            yield Point(self.operation, "int8", {"kind": kind})

    def close(self) -> None:
        """Nothing outlives a point."""
