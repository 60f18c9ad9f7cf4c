from __future__ import annotations

import dataclasses

import pytest

from profiles.collect.devices import Device, find_device

pytest.importorskip("torch")


@pytest.fixture(scope="session")
def cpu() -> Device:
    return find_device("cpu", gpus=1)


@pytest.fixture(scope="session")
def hopper(cpu: Device) -> Device:
    """What an H200 says of itself; nothing can be run on it."""
    return dataclasses.replace(
        cpu, kind="cuda", name="NVIDIA H200", capability=(9, 0), indices=tuple(range(8)), memory_bytes=150_754_820_096
    )


@pytest.fixture(scope="session")
def ampere(hopper: Device) -> Device:
    return dataclasses.replace(hopper, name="NVIDIA A100-SXM4-80GB", capability=(8, 0), memory_bytes=85_899_345_920)
