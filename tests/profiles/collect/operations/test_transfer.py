from __future__ import annotations

import pytest

from profiles.collect.devices import Device
from profiles.collect.operations.transfer import Launch, Memcpy
from profiles.collect.points import Point, Settings
from profiles.collect.timing import measure
from profiles.errors import Unsupported

torch = pytest.importorskip("torch")


def test_a_copy_copies(cpu: Device) -> None:
    prepared = Memcpy().prepare(cpu, Point("memcpy", "int8", {"kind": "device_to_device", "copied_bytes": 1000}))
    first, second = prepared.run(), prepared.run()
    assert first.shape == (1000,)
    assert torch.equal(first, second)
    assert len(first.unique()) > 100, "random bytes"
    assert prepared.moved_bytes == 2000


def test_a_cpu_has_one_kind_of_copy_and_of_launch(cpu: Device, hopper: Device) -> None:
    to_device = Point("memcpy", "int8", {"kind": "host_to_device", "copied_bytes": 1000})
    graph = Point("launch", "int8", {"kind": "graph_kernel"})
    assert "device_to_device" in str(Memcpy().unsupported(cpu, to_device))
    assert "CUDA graphs" in str(Launch().unsupported(cpu, graph))
    assert Memcpy().unsupported(hopper, to_device) is None
    assert Launch().unsupported(hopper, graph) is None


@pytest.mark.parametrize("operation", [Memcpy(), Launch()])
def test_bytes_have_no_precision(cpu: Device, operation: Memcpy | Launch) -> None:
    point = next(iter(operation.grid(cpu, ("bf16",))))
    assert point.dtype == "int8"
    assert "not bf16" in str(operation.unsupported(cpu, Point(point.operation, "bf16", point.shape)))


def test_a_launch_is_timed_per_launch(cpu: Device) -> None:
    prepared = Launch().prepare(cpu, Point("launch", "int8", {"kind": "kernel"}))
    timing = measure(cpu, prepared, Settings(cap_s=0.2))
    assert timing.repeats >= 10
    assert timing.median_us < 1e5
    assert prepared.run().item() > 200 * timing.repeats, "each repeat is of many launches"


def test_a_copy_that_does_not_fit_is_refused(cpu: Device) -> None:
    with pytest.raises(Unsupported, match="memcpy of 1,000,000,000,000,000 bytes: 2,000,000,000,000,000 bytes are"):
        Memcpy().prepare(cpu, Point("memcpy", "int8", {"kind": "device_to_device", "copied_bytes": 10**15}))
