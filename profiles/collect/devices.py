"""The device that is measured, as its driver describes it. Found once; every refusal says the way out."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from profiles.collect.sensors import CpuSensors, Sensors, gpu_sensors
from profiles.errors import InputError, UnknownName, Unsupported

KINDS = ("cuda", "cpu")
OLDEST_TORCH = (2, 4)
_INSTALL = "pip install 'shardwright[collect]', or use a Python that has torch 2.4 or newer"


@dataclass(frozen=True)
class Device:
    """One GPU (or the CPUs of this host, taken as one device) and what is known of it.

    Attributes:
        indices: CUDA numbers of the GPUs of this type that may take part, the measured one first; on CPUs the
            numbers of the ranks that may be launched.
        name: what the driver calls it.
        sm_count: streaming multiprocessors; CPU cores that this process may use.
        l2_bytes: the last cache before memory, flushed for a cold run; 0 where nobody tells.
        versions: ``torch``, ``cuda``, ``driver``, ``nccl``; None where there is none or nobody tells.
        facts: further things that the driver reports: limits, highest clocks, MIG.
        measured: of a type that nobody has listed, what :mod:`profiles.collect.detection` found.
    """

    kind: Literal["cuda", "cpu"]
    indices: tuple[int, ...]
    name: str
    capability: tuple[int, int] | None
    sm_count: int
    memory_bytes: int
    l2_bytes: int
    versions: Mapping[str, str | None]
    facts: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    sensors: Sensors = field(default_factory=CpuSensors, compare=False, repr=False)

    @property
    def index(self) -> int:
        return self.indices[0] if self.kind == "cuda" else 0

    @property
    def count(self) -> int:
        """Devices of this type that may take part in a collective."""
        return len(self.indices)

    @property
    def torch(self) -> Any:
        """The ``torch.device``."""
        return import_torch().device(self.kind, self.index) if self.kind == "cuda" else import_torch().device("cpu")

    def synchronize(self) -> None:
        """Waits until everything that was started has finished."""
        if self.kind == "cuda":
            import_torch().cuda.synchronize(self.index)

    def release(self) -> None:
        """Gives cached memory back, after an operation that ran out of it."""
        if self.kind == "cuda":
            import_torch().cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        """Everything known, as JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "count": self.count,
            "capability": None if self.capability is None else list(self.capability),
            "sm_count": self.sm_count,
            "memory_bytes": self.memory_bytes,
            "l2_bytes": self.l2_bytes,
            "sensors": self.sensors.name,
            "facts": dict(self.facts),
            **({"measured": {name: list(fact) for name, fact in self.measured.items()}} if self.measured else {}),
        }


def import_torch() -> Any:
    """torch, or the one error that says how to get it."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise InputError(f"torch cannot be imported ({error}): nothing can be measured without it", _INSTALL) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        raise Unsupported(f"torch {torch.__version__} is older than 2.4, the oldest that is supported", _INSTALL)
    return torch


def find_device(kind: str, *, index: int | None = None, gpus: int | None = None) -> Device:
    """The device to measure.

    Args:
        kind: ``cuda`` or ``cpu``.
        index: CUDA's number of the GPU; needed where the machine has several types.
        gpus: how many may take part in collectives; default all GPUs of the type, two ranks on CPUs (one where
            there is one core).

    Raises:
        UnknownName: ``kind`` is neither.
        InputError: no torch, no CUDA in it, no driver or one that is too old, no GPU, several types of GPU,
            fewer GPUs than asked for.
        Unsupported: torch is too old, built for another vendor, or has no kernels for this GPU.
    """
    if kind not in KINDS:
        raise UnknownName("--device", kind, KINDS)
    torch = import_torch()
    if kind == "cpu":
        if index is not None:
            raise InputError("--gpu-index: has no meaning with --device cpu", "leave it out")
        return _cpu(torch, gpus)
    return _cuda(torch, index, gpus)


def _cuda(torch: Any, index: int | None, gpus: int | None) -> Device:
    _check_cuda(torch)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    listing = ", ".join(f"{i}: {name}" for i, name in enumerate(names))
    if index is None:
        if len(set(names)) > 1:
            raise InputError(
                f"--device cuda: this machine has GPUs of several types ({listing}), and rows are of one",
                "choose with --gpu-index, or show only one type with CUDA_VISIBLE_DEVICES",
            )
        index = 0
    if not 0 <= index < len(names):
        raise InputError(f"--gpu-index: there is no GPU {index}", f"there is {listing}")
    peers = [i for i, name in enumerate(names) if name == names[index] and i != index]
    indices = _limited([index, *peers], gpus, f"{names[index]}")
    properties = torch.cuda.get_device_properties(index)
    _check_kernels(torch, index, names[index], properties)
    sensors = gpu_sensors(_uuid(properties), index)
    facts = sensors.facts()
    has_nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    nccl = torch.cuda.nccl.version() if has_nccl else None
    return Device(
        kind="cuda",
        indices=indices,
        name=names[index],
        capability=(properties.major, properties.minor),
        sm_count=properties.multi_processor_count,
        memory_bytes=facts.pop("memory_bytes", None) or properties.total_memory,
        l2_bytes=getattr(properties, "L2_cache_size", 0),
        versions={
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "driver": facts.pop("driver", None),
            "nccl": None if nccl is None else ".".join(map(str, nccl)),
        },
        facts=facts,
        sensors=sensors,
    )


def _limited(indices: list[int], gpus: int | None, what: str) -> tuple[int, ...]:
    if gpus is not None and not 1 <= gpus <= len(indices):
        raise InputError(f"--gpus: {gpus} asked for, there are {len(indices)} ({what})", "ask for as many as there are")
    return tuple(indices[: gpus or len(indices)])


def _check_cuda(torch: Any) -> None:
    if torch.version.cuda is None:
        built = "for ROCm" if getattr(torch.version, "hip", None) else "without CUDA"
        raise Unsupported(
            f"--device cuda: torch {torch.__version__} was built {built}",
            "install a CUDA build of torch (pytorch.org, Get Started), or take --device cpu",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says the same as a warning, then raises
            torch.cuda.init()
            count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:
        raise _no_cuda(torch, str(error).strip().splitlines()[0]) from error
    if count == 0:
        raise _no_cuda(torch, "no GPU is visible")


def _no_cuda(torch: Any, said: str) -> InputError:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "too old" in said or "insufficient" in said:
        hint = f"update the NVIDIA driver, or install a torch for it (this one wants CUDA {torch.version.cuda})"
    elif "no NVIDIA driver" in said:
        hint = "run where nvidia-smi works, or take --device cpu"
    elif visible is not None:
        hint = f"CUDA_VISIBLE_DEVICES is {visible!r}: unset it, or name a GPU that nvidia-smi lists"
    else:
        hint = "run where nvidia-smi lists a GPU, or take --device cpu"
    return InputError(f"--device cuda: CUDA cannot start ({said})", hint)


def _check_kernels(torch: Any, index: int, name: str, properties: Any) -> None:
    try:
        (torch.zeros(1, device=f"cuda:{index}") + 1).item()
    except RuntimeError as error:
        raise Unsupported(
            f"--device cuda: torch {torch.__version__} cannot run on {name} (compute capability "
            f"{properties.major}.{properties.minor}): {str(error).splitlines()[0]}",
            "install a torch that was built for this GPU, and see that no other process holds it exclusively",
        ) from error


def _uuid(properties: Any) -> str | None:
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else str(uuid)


def _cpu(torch: Any, gpus: int | None) -> Device:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    ranks = _limited(list(range(cores)), gpus or min(2, cores), "cores, one a rank at least")
    sensors = CpuSensors()
    return Device(
        kind="cpu",
        indices=ranks,
        name=cpu_info("model name") or platform.processor() or platform.machine(),
        capability=None,
        sm_count=cores,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        l2_bytes=_last_cache_bytes(),
        versions={"torch": str(torch.__version__), "cuda": None, "driver": None, "nccl": None},
        facts={
            **sensors.facts(),
            "threads": torch.get_num_threads(),
            "vendor": {"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(cpu_info("vendor_id"), "other"),
        },
        sensors=sensors,
    )


def cpu_info(field: str) -> str:
    """What Linux says of the first processor under ``field`` (``/proc/cpuinfo``); empty where it says nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{field}\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _last_cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the highest cache level that Linux lists; 0 where it lists none."""
    sizes = {}
    for folder in root.glob("index*"):
        size = (folder / "size").read_text(encoding="ascii").strip()
        level = int((folder / "level").read_text(encoding="ascii"))
        sizes[level] = int(size.rstrip("KM")) * (2**20 if size.endswith("M") else 2**10)
    return sizes[max(sizes)] if sizes else 0


def current(device: Device) -> contextlib.AbstractContextManager[Any]:
    """``device`` as the current one of CUDA: libraries launch and allocate there."""
    if device.kind == "cpu":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = import_torch().cuda.device(device.index)
    return context


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch (or Python) ran out of memory: torch names it by type on GPUs, by text on CPUs."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
