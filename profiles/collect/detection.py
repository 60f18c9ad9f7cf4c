"""The facts of a device that nobody has listed: what the system and its driver tell, and the rest measured.

Seconds of work, with torch alone, so that any machine can be measured at once. Each fact says where it is from:
reported, measured (with the date), or assumed where nothing here tells and nothing can be timed. A data sheet knows
better: ``--describe FILE`` writes these facts to be corrected, and ``--gpu-facts FILE`` takes them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from profiles.collect.devices import Device, cpu_info, import_torch, is_out_of_memory
from profiles.collect.points import Point, Prepared, Settings
from profiles.collect.timing import TooLong, measure
from profiles.errors import InputError, Unsupported
from profiles.pcie import pcie_fact

Facts = dict[str, tuple[Any, str]]
"""Field of :class:`profiles.hardware.Gpu` (``peak_flops.bf16`` for one precision) → (value, source)."""

QUICK = Settings(target_error=0.02, cap_s=0.3, least=5)
_PRODUCTS = {"cuda": (2048, 4096, 8192), "cpu": (512, 1024)}
_PRECISIONS = {"cuda": ("bf16", "fp16", "fp8", "int8"), "cpu": ("bf16",)}
_COPY_BYTES = {"cuda": 2**29, "cpu": 2**26}
_CACHES = [2**power for power in range(20, 28)]
_WATTS = {"cuda": 300.0, "cpu": 5.0}  # of a board, of a core
_IDLE_SHARE = 0.2
_FASTER_THAN_PCIE = 1.3
_CHAIN = 2**14  # doubles: within a core's own cache
_CYCLES_PER_ADDITION = 3.0  # two to four on the server cores of today, so that the clock is known to a third


def detect(device: Device, today: str) -> Facts:
    """Everything that a description of ``device`` needs, ``today`` (ISO) on what is measured.

    Raises:
        InputError: not even a product or a copy can be timed: the facts have to be stated.
    """
    facts = {**_power(device, today), **_reported(device)}  # at rest first
    facts |= {name: (value, f"measured on {today}: {how}") for name, value, how in _timed(device)}
    facts |= {name: fact for name, fact in _links(device, facts, today).items() if name not in facts}
    if "boost_clock_mhz" not in facts:
        facts["boost_clock_mhz"] = _clock(device, today)
    if "l2_bytes" not in facts:
        size = _cache_bytes(device, facts["memory_bandwidth_bytes_per_s"][0])
        facts["l2_bytes"] = (size, f"measured on {today}: largest copy, a power of two, that outruns the memory")
    return facts


# ------------------------------------------------------------------------------------------------------ reported


def _reported(device: Device) -> Facts:
    facts: Facts = {}
    told = device.facts
    if device.kind == "cpu":
        facts["sm_count"] = (device.sm_count, "reported by Linux: cores that the process may use")
        facts["memory_bytes"] = (device.memory_bytes, "reported by Linux")
        facts["generation"] = (_cpu_generation(), "reported by Linux: family and model of the processor")
        megahertz = told.get("max_sm_clock_mhz")
        if megahertz or (megahertz := _cpuinfo_mhz()):
            facts["boost_clock_mhz"] = (megahertz, "reported by Linux")
    else:
        facts["sm_count"] = (device.sm_count, "reported by the driver")
        facts["memory_bytes"] = (device.memory_bytes, "reported by the driver")
        if device.capability is not None:
            major, minor = device.capability
            facts["compute_capability"] = (float(f"{major}.{minor}"), "reported by the driver")
            facts["generation"] = (f"sm_{major}{minor}", "reported by the driver: compute capability")
        else:
            facts["generation"] = ("unknown", "nobody tells")
        if "max_sm_clock_mhz" in told:
            facts["boost_clock_mhz"] = (told["max_sm_clock_mhz"], "reported by the driver: highest clock")
        if "default_power_limit_watts" in told:
            facts["tdp_watts"] = (told["default_power_limit_watts"], "reported by the driver: default power limit")
        if "pcie_generation" in told and "pcie_lanes" in told:
            facts["pcie_bytes_per_s"] = pcie_fact(told)
    if device.l2_bytes:
        teller = "Linux" if device.kind == "cpu" else "the driver"
        facts["l2_bytes"] = (device.l2_bytes, f"reported by {teller}: the last cache")
    return facts


def _cpuinfo_mhz() -> float | None:
    try:
        return float(cpu_info("cpu MHz")) or None
    except ValueError:
        return None


def _cpu_generation() -> str:
    family, model = cpu_info("cpu family"), cpu_info("model")
    return f"{platform.machine()}-family-{family}-model-{model}" if family and model else platform.machine() or "cpu"


# ------------------------------------------------------------------------------------------------------ measured


def _timed(device: Device) -> Iterator[tuple[str, float, str]]:
    """(field, value, how): peaks by products, the memory by a copy, a launch by an empty call."""
    from profiles.collect.operations.gemm import Gemm
    from profiles.collect.operations.transfer import Launch, Memcpy

    gemm = Gemm()
    peaks = 0
    for dtype in _PRECISIONS[device.kind]:
        best = 0.0
        for size in _PRODUCTS[device.kind]:
            point = Point("gemm", dtype, {"m": size, "n": size, "k": size})
            if gemm.unsupported(device, point) is not None or (run := _quick(device, gemm.prepare, point)) is None:
                break
            best = max(best, run[0].flops / run[1] * 1e6)
        if best:
            peaks += dtype in ("bf16", "fp16")
            yield f"peak_flops.{dtype}", best, "the fastest of square products, which a peak exceeds"
    copy = Point("memcpy", "int8", {"kind": "device_to_device", "copied_bytes": _COPY_BYTES[device.kind]})
    run = _quick(device, Memcpy().prepare, copy)
    if not peaks or run is None:
        raise InputError(
            f"--device {device.kind}: no {'product' if run else 'copy'} can be timed on {device.name}",
            "describe it: --describe FILE writes what is known, --gpu-facts FILE takes it",
        )
    yield "memory_bandwidth_bytes_per_s", run[0].moved_bytes / run[1] * 1e6, "a copy, bytes read and written"
    run = _quick(device, Launch().prepare, Point("launch", "int8", {"kind": "kernel"}))
    if run is not None:
        yield "launch_us", run[1], "an addition to one number"


def _quick(device: Device, prepare: Callable[[Device, Point], Prepared], point: Point) -> tuple[Prepared, float] | None:
    """(what ran, µs of its fastest tenth, since other work on the machine is no property of it), or None where it
    cannot."""
    try:
        prepared = prepare(device, point)
        try:
            return prepared, measure(device, prepared, QUICK).p10_us
        except TooLong as long:
            return prepared, long.run_s * 1e6
    except (Unsupported, ArithmeticError):
        return None
    except (RuntimeError, MemoryError, NotImplementedError, TypeError) as error:  # torch: no such kernel, no memory
        if is_out_of_memory(error):
            device.release()
        return None


def _links(device: Device, facts: Facts, today: str) -> Facts:
    """Host link and the link among devices, each unless it is known."""
    if device.kind == "cpu":
        rate = facts["memory_bandwidth_bytes_per_s"][0] / 2
        among = (rate, f"measured on {today}: a copy through the memory, one direction")
        return {
            "scale_up_link": ("shared_memory", "processes of one host"),
            "scale_up_bytes_per_s": among,
            "pcie_bytes_per_s": (rate, f"measured on {today}: no link to a host, the memory's copy"),
        }
    out: Facts = {}
    if "pcie_bytes_per_s" not in facts:
        rate = _copy_rate(device, "cpu", device.index)
        out["pcie_bytes_per_s"] = (rate, f"measured on {today}: a copy from pinned host memory")
    pcie = (facts | out)["pcie_bytes_per_s"][0]
    if device.count < 2:
        return out | {
            "scale_up_link": ("pcie", "one device here; its host link"),
            "scale_up_bytes_per_s": (pcie, "one device here; its host link"),
        }
    rate = _copy_rate(device, device.indices[0], device.indices[1])
    link = "nvlink" if rate > _FASTER_THAN_PCIE * pcie else "pcie"
    how = f"measured on {today}: a copy from one to the other of two devices"
    return out | {"scale_up_link": (link, f"{how}, against PCIe"), "scale_up_bytes_per_s": (rate, how)}


def _copy_rate(device: Device, source: int | str, target: int) -> float:
    torch = import_torch()
    size = 2**28
    data = torch.empty(size, dtype=torch.uint8, device=source, pin_memory=source == "cpu")
    into = torch.empty(size, dtype=torch.uint8, device=target)
    best = 0.0
    for _ in range(4):
        device.synchronize()
        began = time.perf_counter()
        into.copy_(data, non_blocking=True)
        torch.cuda.synchronize(target)
        best = max(best, size / (time.perf_counter() - began))
    return best


def _clock(device: Device, today: str) -> tuple[float, str]:
    """MHz of one core, from a sum of which every addition waits for the one before."""
    torch = import_torch()
    values = torch.ones(_CHAIN, dtype=torch.float64)
    sums = torch.empty_like(values)
    best = min(_seconds(lambda: torch.cumsum(values, 0, out=sums)) for _ in range(200))
    megahertz = _CYCLES_PER_ADDITION * _CHAIN / best / 1e6
    return megahertz, f"measured on {today}: a running sum, {_CYCLES_PER_ADDITION:g} cycles an addition assumed"


def _cache_bytes(device: Device, memory_bytes_per_s: float) -> int:
    torch = import_torch()
    largest: int = _CACHES[0]
    for size in _CACHES:
        source = torch.zeros(size // 2, dtype=torch.uint8, device=device.torch)
        target = torch.ones_like(source)

        def copies(source: Any = source, target: Any = target) -> None:
            for _ in range(8):
                target.copy_(source)
            device.synchronize()

        copies()
        if 8 * size / min(_seconds(copies) for _ in range(5)) > 1.5 * memory_bytes_per_s:
            largest = size
    return largest


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _power(device: Device, today: str) -> Facts:
    """Limit and rest; where no sensor tells, assumed, so that watts predicted from them mean little."""
    from profiles.collect.power import PowerMeter

    cores = device.sm_count if device.kind == "cpu" else 1
    each = "a core" if device.kind == "cpu" else "a board"
    limit = device.facts.get("default_power_limit_watts") or _rapl_limit_watts()
    if limit is None or device.kind == "cuda":
        told = (_WATTS[device.kind] * cores, f"assumed, no sensor tells: {_WATTS[device.kind]:g} W {each}")
    else:
        told = (limit, "reported by Linux: RAPL's long-term limit")
    idle = PowerMeter(device).idle(1.0)
    if idle is not None:
        return {"tdp_watts": told, "idle_watts": (idle.watts, f"measured on {today}: at rest, before anything ran")}
    share = _IDLE_SHARE * (device.facts.get("default_power_limit_watts") or told[0])
    return {"tdp_watts": told, "idle_watts": (share, f"assumed, no sensor tells: {_IDLE_SHARE:.0%} of the limit")}


def _rapl_limit_watts(root: Path = Path("/sys/class/powercap")) -> float | None:
    total = 0.0
    for package in root.glob("intel-rapl:?"):
        try:
            total += float((package / "constraint_0_power_limit_uw").read_text(encoding="ascii")) / 1e6
        except (OSError, ValueError):
            return None
    return total or None
