"""GEMM: [m, k] activations times stationary weights, stored [n, k] as serving engines store them.

Operands are already in the point's precision: the quantisation of activations is no part of the product, nor of its
row. ``int8`` is cuBLASLt's product into int32 (torch offers no fused scaling); ``fp8`` takes one scale a tensor, or
one a row of activations and one an output feature (``Gemm("row")``); ``fp8_block`` takes one scale per 128 activations
and per 128×128 weights. Sums go to bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import torch

from profiles.collect.operations.grids import FLOATS, gemm_shapes, points
from profiles.collect.operations.tensors import FP8_CAPABILITY, TORCH_DTYPES, has_fp8, normal, require, try_out
from profiles.collect.operations.work import ELEMENT_BYTES, work
from profiles.collect.points import Point, Prepared

if TYPE_CHECKING:
    from profiles.collect.devices import Device

Fp8Scales = Literal["tensor", "row"]
_BLOCK = 128
_BLOCK_CAPABILITY = (9, 0)  # torch calls cuBLASLt's block-scaled product on Hopper alone
_INT8_LEAST_ROWS = 17  # torch._int_mm on CUDA refuses fewer


class Gemm:
    """``fp8_scales``: which scales a point of precision ``fp8`` takes; its row has no column for them, so a store
    should hold one sort. One a tensor is the default: every GPU with fp8 does it."""

    operation = "gemm"

    def __init__(self, fp8_scales: Fp8Scales = "tensor") -> None:
        self.fp8_scales: Fp8Scales = fp8_scales

    def unsupported(self, device: Device, point: Point) -> str | None:
        m, n, k = (int(point.shape[name]) for name in ("m", "n", "k"))
        match point.dtype:
            case "bf16" | "fp16" | "fp32":
                return None
            case "int8" if device.kind == "cuda" and (m < _INT8_LEAST_ROWS or n % 8 or k % 8):
                return (
                    f"torch._int_mm on CUDA needs m ≥ {_INT8_LEAST_ROWS} and n, k multiples of 8 (m={m}, n={n}, k={k})"
                )
            case "int8":
                return None
            case "fp8" | "fp8_block" if not has_fp8(device):
                return f"{device.name} has no 8-bit float products (compute capability {FP8_CAPABILITY} or newer)"
            case "fp8" | "fp8_block" if n % 16 or k % 16:
                return f"torch._scaled_mm needs n and k in multiples of 16 (n={n}, k={k})"
            case "fp8_block" if device.capability != _BLOCK_CAPABILITY:
                return f"torch has block-scaled 8-bit products for compute capability {_BLOCK_CAPABILITY} alone"
            case "fp8_block" if n % _BLOCK or k % _BLOCK:
                return f"blocks of {_BLOCK} need n and k in their multiples (n={n}, k={k})"
            case "fp8" | "fp8_block":
                return None
        return f"torch has no plain product in {point.dtype}"

    def prepare(self, device: Device, point: Point) -> Prepared:
        m, n, k = (int(point.shape[name]) for name in ("m", "n", "k"))
        flops, moved_bytes = work(point)
        size = ELEMENT_BYTES[point.dtype]
        scratch = 2 * max(m, n) * k if point.dtype.startswith("fp8") else 0  # random values before they are rounded
        require(device, (m + n) * k * size + m * n * 4 + scratch, f"gemm {m}×{n}×{k} {point.dtype}")
        x = normal(device, point.dtype, m, k)
        weights = normal(device, point.dtype, n, k, scale=k**-0.5)
        if point.dtype == "fp8_block":
            kernel, run = _block_scaled(x, weights)
        elif point.dtype == "fp8":
            kernel, run = _scaled(x, weights, self.fp8_scales)
        elif point.dtype == "int8":
            kernel, run = blas_call(device, "int_mm"), lambda: torch._int_mm(x, weights.t())
            try_out(kernel, run)
        else:
            out = torch.empty(m, n, dtype=TORCH_DTYPES[point.dtype], device=device.torch)
            kernel = plain_product(device, point.dtype)
            run = lambda: torch.mm(x, weights.t(), out=out)  # noqa: E731 - one of several calls
        return Prepared(run, kernel, "torch", torch.__version__, flops, moved_bytes)

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        wanted = [dtype for dtype in precisions if dtype in (*FLOATS, "int8", "fp8", "fp8_block")]
        for point in points(device, self.operation, gemm_shapes(), wanted):
            if self.unsupported(device, point) is None:
                yield point

    def close(self) -> None:
        """Nothing outlives a point."""


def plain_product(device: Device, dtype: str) -> str:
    """What ``torch.mm`` of ``dtype`` is called."""
    tf32 = dtype == "fp32" and device.kind == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return blas_call(device, "mm_tf32" if tf32 else "mm")


def blas_call(device: Device, call: str) -> str:
    if device.kind == "cpu":
        return f"cpu_{call}"
    return f"hipblas_{call}" if torch.version.hip else f"cublas_{call}"


Call = tuple[str, Callable[[], torch.Tensor]]


def _scaled(x: torch.Tensor, weights: torch.Tensor, scales: Fp8Scales) -> Call:
    per_row = scales == "row"
    scale_x, scale_w = (_ones(x, (len(x), 1) if per_row else ()), _ones(x, (1, len(weights)) if per_row else ()))
    return _tried(f"scaled_mm_{scales}", x, weights, scale_x, scale_w)


def _block_scaled(x: torch.Tensor, weights: torch.Tensor) -> Call:
    """Scales [m, k/128], column-major, and [k/128, n/128], column-major in columns of a multiple of 4: the layout
    that cuBLASLt reads. Some releases of torch (2.11 on an H200) want the columns unfilled, and the product then
    reads beyond them (25 dB of signal to noise, not 55): where they refuse the right one, nothing is measured."""
    rows, blocks = len(weights) // _BLOCK, x.shape[1] // _BLOCK
    filled = _ones(x, (rows, -(-blocks // 4) * 4)).t()[:blocks]
    return _tried("scaled_mm_block", x, weights, _ones(x, (blocks, len(x))).t(), filled)


def _ones(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.float32, device=x.device)


def _tried(kernel: str, x: torch.Tensor, weights: torch.Tensor, scale_x: torch.Tensor, scale_w: torch.Tensor) -> Call:
    def run() -> torch.Tensor:
        return torch._scaled_mm(x, weights.t(), scale_a=scale_x, scale_b=scale_w, out_dtype=torch.bfloat16)

    try_out(f"torch._scaled_mm ({kernel})", run)
    return kernel, run
