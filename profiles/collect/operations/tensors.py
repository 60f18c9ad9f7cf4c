"""Operands: random tensors of any measured precision, and whether they fit. Imports torch."""

from __future__ import annotations

import math
import os
import textwrap
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from profiles.errors import Unsupported

if TYPE_CHECKING:
    from profiles.collect.devices import Device

# float8_e4m3fn is what weights, activations and KV caches of "fp8" models are stored in.
TORCH_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
    "fp8_block": torch.float8_e4m3fn,
}
FP8_CAPABILITY = (8, 9)
"""The first compute capability whose tensor cores multiply 8-bit floats (Ada)."""
_TILE = 4_194_301  # a prime, so that no row of a matrix repeats another


def normal(device: Device, dtype: str, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normally distributed values times ``scale`` (int8: uniform over its range). Zeros would draw less power and
    so clock higher than real data (arXiv:2212.08475 shows power depending on the operands' bits)."""
    target = TORCH_DTYPES[dtype]
    drawn = torch.bfloat16 if dtype.startswith("fp8") else target

    def draw(*size: int) -> torch.Tensor:
        if dtype == "int8":
            return torch.randint(-127, 128, size, dtype=target, device=device.torch)
        return torch.randn(size, dtype=drawn, device=device.torch).mul_(scale).to(target)

    return _tiled(draw, shape) if device.kind == "cpu" else draw(*shape)


def random_bytes(device: Device, count: int, pinned: bool = False) -> torch.Tensor:
    """uint8, on ``device``, or in host memory that a GPU can read by itself where ``pinned``."""
    if device.kind == "cuda" and not pinned:
        return torch.randint(0, 256, (count,), dtype=torch.uint8, device=device.torch)
    values = _tiled(lambda *size: torch.randint(0, 256, size, dtype=torch.uint8), (count,))
    return values.pin_memory() if pinned else values


def _tiled(draw: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """``draw(*shape)``, the same :data:`_TILE` values again and again where there are more: a CPU draws a hundred
    times slower than it copies. No cache or memory compresses what repeats at such a distance."""
    count = math.prod(shape)
    if count <= _TILE:
        return draw(*shape)
    tile = draw(_TILE)
    values = torch.empty(count, dtype=tile.dtype)
    whole = count // _TILE * _TILE
    values[:whole].view(-1, _TILE).copy_(tile)
    values[whole:].copy_(tile[: count - whole])
    return values.view(shape)


def has_fp8(device: Device) -> bool:
    return device.kind == "cuda" and device.capability is not None and device.capability >= FP8_CAPABILITY


def free_bytes(device: Device) -> int:
    """Memory that can be allocated now: of a GPU as its driver and torch's cache say, of a host as Linux says."""
    if device.kind == "cuda":
        free, _ = torch.cuda.mem_get_info(device.torch)
        return int(free + torch.cuda.memory_reserved(device.torch) - torch.cuda.memory_allocated(device.torch))
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require(device: Device, needed_bytes: float, what: str) -> None:
    """Raises Unsupported, naming the bytes, where ``what`` would not fit: before anything is allocated. A host
    that runs out of memory kills a process of its own choice instead of raising an error."""
    free = free_bytes(device)
    if needed_bytes > free:
        raise Unsupported(
            f"{what}: {needed_bytes:,.0f} bytes are needed, {free:,} are free on {device.name}",
            "measure this shape on a device with more memory, or free what others hold",
        )


def try_out(what: str, run: Callable[[], object]) -> None:
    """Runs once. Raises Unsupported, with the first line of what went wrong, where ``run`` does not work: libraries
    differ by version in what they accept, and a shape that one refuses must not end the run. Out of memory stays
    what it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns why a backend does not fit, then raises
            run()
    except torch.cuda.OutOfMemoryError:
        raise
    except Unsupported:
        raise
    except Exception as error:
        said = textwrap.shorten(next(iter(str(error).strip().splitlines()), ""), 200)
        raise Unsupported(
            f"{what}: {type(error).__name__}: {said}", "another version of the library may do it"
        ) from error
