"""Finding the device: one clear error for each thing that can be wrong with a machine."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from profiles.collect import devices
from profiles.collect.devices import find_device
from profiles.collect.sensors import Silent
from profiles.errors import InputError, UnknownName, Unsupported


def a_torch(names: list[str], *, cuda: str | None = "12.8", version: str = "2.9.0", init: str = "") -> Any:
    """A torch that sees GPUs of these names, or whose CUDA fails to start with the words ``init``."""

    def start() -> None:
        if init:
            raise RuntimeError(init)

    properties = SimpleNamespace(
        major=9, minor=0, multi_processor_count=132, total_memory=150 * 10**9, L2_cache_size=2**26, uuid="abc"
    )
    return SimpleNamespace(
        __version__=version,
        version=SimpleNamespace(cuda=cuda, hip=None),
        cuda=SimpleNamespace(
            init=start,
            device_count=lambda: len(names),
            get_device_name=lambda i: names[i],
            get_device_properties=lambda i: properties,
            nccl=SimpleNamespace(version=lambda: (2, 27, 3)),
            synchronize=lambda i: None,
            empty_cache=lambda: None,
        ),
        distributed=SimpleNamespace(is_available=lambda: True, is_nccl_available=lambda: True),
        device=lambda *where: where,
    )


class Ones:
    """A tensor that can be added to and read, or not."""

    def __init__(self, error: str = "") -> None:
        self.error = error

    def __add__(self, _: int) -> Ones:
        return self

    def item(self) -> float:
        if self.error:
            raise RuntimeError(self.error)
        return 1.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "gpu_sensors", lambda uuid, index: Silent())

    def put(*names: str, error: str = "", **changes: Any) -> None:
        torch = a_torch(list(names), **changes)
        torch.zeros = lambda *_, **__: Ones(error)
        monkeypatch.setitem(sys.modules, "torch", torch)

    return put


def test_a_gpu_is_described_by_its_driver(machine: Any) -> None:
    machine("NVIDIA H200", "NVIDIA H200")
    device = find_device("cuda")
    assert (device.name, device.count, device.indices, device.capability) == ("NVIDIA H200", 2, (0, 1), (9, 0))
    assert device.versions == {"torch": "2.9.0", "cuda": "12.8", "driver": None, "nccl": "2.27.3"}
    assert device.memory_bytes == 150 * 10**9
    assert device.describe()["sensors"] == "none"
    assert device.torch == ("cuda", 0)


def test_two_types_of_gpu_are_refused_with_the_way_out(machine: Any) -> None:
    machine("NVIDIA H200", "NVIDIA L40S", "NVIDIA L40S")
    with pytest.raises(InputError, match="0: NVIDIA H200, 1: NVIDIA L40S") as caught:
        find_device("cuda")
    assert "--gpu-index" in caught.value.hint
    assert "CUDA_VISIBLE_DEVICES" in caught.value.hint
    chosen = find_device("cuda", index=2)
    assert (chosen.name, chosen.index, chosen.indices) == ("NVIDIA L40S", 2, (2, 1))


def test_numbers_that_are_not_there_are_refused(machine: Any) -> None:
    machine("NVIDIA H200")
    with pytest.raises(InputError, match="there is no GPU 1"):
        find_device("cuda", index=1)
    with pytest.raises(InputError, match="--gpus: 2 asked for, there are 1"):
        find_device("cuda", gpus=2)
    with pytest.raises(InputError, match="--gpus: 0 asked for"):
        find_device("cuda", gpus=0)


def test_fewer_gpus_than_there_are_may_take_part(machine: Any) -> None:
    machine(*["NVIDIA H200"] * 8)
    assert find_device("cuda", gpus=4).indices == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040).", "update the NVIDIA driver"),
        ("Found no NVIDIA driver on your system.", "run where nvidia-smi works"),
        ("No CUDA GPUs are available", "run where nvidia-smi lists a GPU"),
    ],
)
def test_a_cuda_that_cannot_start_says_why(machine: Any, said: str, hint: str) -> None:
    machine(init=f"{said}\nmore words")
    with pytest.raises(InputError) as caught:
        find_device("cuda")
    assert said in caught.value.message
    assert "more words" not in caught.value.message
    assert hint in caught.value.hint


def test_no_gpu_at_all_and_one_that_is_hidden(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    with pytest.raises(InputError, match="no GPU is visible"):
        find_device("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError) as caught:
        find_device("cuda")
    assert "CUDA_VISIBLE_DEVICES is ''" in caught.value.hint


def test_a_torch_without_cuda_or_without_kernels_for_the_gpu_is_refused(machine: Any) -> None:
    machine("NVIDIA H200", cuda=None)
    with pytest.raises(Unsupported, match="built without CUDA"):
        find_device("cuda")
    machine("NVIDIA H200", error="CUDA error: no kernel image is available\nmore")
    with pytest.raises(Unsupported, match=r"compute capability 9\.0.*no kernel image"):
        find_device("cuda")


def test_torch_is_asked_for_where_it_is_missing_or_old(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("NVIDIA H200", version="2.3.1")
    with pytest.raises(Unsupported, match=r"older than 2\.4"):
        find_device("cuda")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError) as caught:
        find_device("cpu")
    assert "shardwright[collect]" in caught.value.hint


def test_unknown_kinds_of_device_are_refused(machine: Any) -> None:
    with pytest.raises(UnknownName, match="--device"):
        find_device("tpu")
    machine()
    with pytest.raises(InputError, match="--gpu-index"):
        find_device("cpu", index=0)


def test_this_machines_cpu_is_found() -> None:
    pytest.importorskip("torch")
    device = find_device("cpu", gpus=1)
    assert (device.kind, device.count, device.capability) == ("cpu", 1, None)
    assert device.name
    assert device.memory_bytes > 2**28
    assert device.sm_count >= 1
    device.synchronize()
    device.release()
