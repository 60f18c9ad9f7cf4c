"""Products of linear layers in training, plain and of all experts together: y = x·wᵀ and its two gradients.

With x [tokens, in], weights w [out, in] and the gradient g [tokens, out] of the output, the layouts are those that
autograd gives the library:

* ``forward``: x·wᵀ; ``data_gradient``: g·w; ``weight_gradient``: gᵀ·x, each in the operands' precision.
* ``weight_gradient_fp32``: gᵀ·x added to a gradient in 32 bits, as Megatron-Core keeps it. In one call where there is
  one: the extension ``fused_weight_gradient_mlp_cuda`` (apex), torch's ``addmm`` with an output type of its own
  (torch 2.8 and newer); else a product in 16 bits and an addition, and the row's kernel says so (``+add``).

Experts: the same for every expert, over rows in the order of their experts (``grouped_mm``, or a loop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from profiles.collect.operations.engine_kernels import library
from profiles.collect.operations.gemm import blas_call, plain_product
from profiles.collect.operations.grids import FLOATS, Shape, points, training_experts_shapes, training_linear_shapes
from profiles.collect.operations.moe import grouped_product
from profiles.collect.operations.tensors import TORCH_DTYPES, normal, require, try_out
from profiles.collect.operations.work import ELEMENT_BYTES, work
from profiles.collect.points import Point, Prepared
from profiles.errors import Unsupported

if TYPE_CHECKING:
    from profiles.collect.devices import Device

Call = tuple[str, Callable[[], object]]
"""(kernel, run)"""


class TrainingLinear:
    operation = "training_linear"

    def unsupported(self, device: Device, point: Point) -> str | None:
        return _unsupported(point)

    def prepare(self, device: Device, point: Point) -> Prepared:
        tokens, wide_in, wide_out = (int(point.shape[name]) for name in ("tokens", "in_features", "out_features"))
        a, b, out = operands(device, point, tokens, wide_in, wide_out)
        return _prepared(point, linear_call(device, point, a, b, out))

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        yield from _grid(device, self.operation, training_linear_shapes(), precisions)

    def close(self) -> None:
        """Nothing outlives a point."""


class TrainingExperts:
    operation = "training_experts"

    def unsupported(self, device: Device, point: Point) -> str | None:
        return _unsupported(point)

    def prepare(self, device: Device, point: Point) -> Prepared:
        names = ("experts", "rows", "in_features", "out_features")
        experts, rows, wide_in, wide_out = (int(point.shape[name]) for name in names)
        a, b, out = operands(device, point, experts * rows, wide_in, wide_out, experts)
        call = _grouped(device, point, a, b, out, rows)
        return _prepared(point, call or _looped(device, point, a, b, out, rows))

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        yield from _grid(device, self.operation, training_experts_shapes(), precisions)

    def close(self) -> None:
        """Nothing outlives a point."""


def _grid(device: Device, operation: str, shapes: Iterator[Shape], precisions: tuple[str, ...]) -> Iterator[Point]:
    dtypes = [dtype for dtype in precisions if dtype in FLOATS]
    return (point for point in points(device, operation, shapes, dtypes) if _unsupported(point) is None)


def _unsupported(point: Point) -> str | None:
    if point.dtype not in FLOATS:
        return f"gradients are measured in {', '.join(FLOATS)}, not in {point.dtype}"
    if point.dtype == "fp32" and point.shape["kind"] == "weight_gradient_fp32":
        return "a weight gradient in fp32 is one in 32 bits: weight_gradient is its name"
    return None


def _prepared(point: Point, call: Call) -> Prepared:
    flops, moved_bytes = work(point)
    return Prepared(call[1], call[0], "torch", torch.__version__, flops, moved_bytes)


Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def operands(
    device: Device, point: Point, rows: int, wide_in: int, wide_out: int, experts: int | None = None
) -> Operands:
    """(first factor, second factor, result) of ``point``'s kind; weights of so many ``experts``, where there are any.

    Raises:
        Unsupported: they would not fit; the message names the bytes.
    """
    kind, count = str(point.shape["kind"]), experts or 1
    size = ELEMENT_BYTES[point.dtype]
    weights_bytes = count * wide_in * wide_out * (6 if kind == "weight_gradient_fp32" else size)
    what = f"{kind} of {rows:,} rows, {count:,} × {wide_in:,} × {wide_out:,} weights {point.dtype}"
    require(device, rows * (wide_in + wide_out) * size + 2 * weights_bytes, what)
    stack = () if experts is None else (experts,)

    def activations(width: int) -> torch.Tensor:
        return normal(device, point.dtype, rows, width)

    def result(*shape: int, dtype: str = point.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=TORCH_DTYPES[dtype], device=device.torch)

    if kind in ("forward", "data_gradient"):
        weights = normal(device, point.dtype, *stack, wide_out, wide_in, scale=wide_in**-0.5)
        if kind == "forward":
            return activations(wide_in), weights, result(rows, wide_out)
        return activations(wide_out), weights, result(rows, wide_in)
    total = "fp32" if kind == "weight_gradient_fp32" else point.dtype
    return activations(wide_out), activations(wide_in), result(*stack, wide_out, wide_in, dtype=total)


def linear_call(device: Device, point: Point, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> Call:
    """Writes (in 32 bits: adds) the product to ``out``."""
    kernel = plain_product(device, point.dtype)
    match point.shape["kind"]:
        case "forward":
            return kernel, lambda: torch.mm(a, b.t(), out=out)
        case "data_gradient":
            return kernel, lambda: torch.mm(a, b, out=out)
        case "weight_gradient":
            return kernel, lambda: torch.mm(a.t(), b, out=out)
    return _accumulated(device, kernel, a, b, out)


def _accumulated(device: Device, kernel: str, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> Call:
    """The first of the ways to add aᵀ·b, of 16 bits, to ``out``, of 32, that works here."""
    apex, into = library("fused_weight_gradient_mlp_cuda"), getattr(torch.ops.aten.addmm, "dtype_out", None)
    ways: list[Call] = []
    if not isinstance(apex, str):
        ways.append(("apex_wgrad_accumulate_fp32", lambda: apex.wgrad_gemm_accum_fp32(b, a, out)))
    if into is not None and device.kind == "cuda":
        name = blas_call(device, "addmm_fp32")
        ways.append((name, lambda: into(out, a.t(), b, torch.float32, out=out)))
    for name, run in ways:
        try:
            try_out(name, run)
        except Unsupported:
            continue
        return name, run
    return f"{kernel}+add", lambda: out.add_(torch.mm(a.t(), b))


# ------------------------------------------------------------------ experts


def _grouped(
    device: Device, point: Point, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, rows: int
) -> Call | None:
    """All experts in one call, or None where torch has none for them."""
    grouped = grouped_product(device, point.dtype, [a, b, out])
    if grouped is None:
        return None
    ends = torch.arange(rows, len(a) + 1, rows, device=device.torch, dtype=torch.int32)
    name, product = "grouped_mm", grouped
    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: product(a, b.transpose(-2, -1), offs=ends),
        "data_gradient": lambda: product(a, b, offs=ends),
        "weight_gradient": lambda: product(a.t(), b, offs=ends),
        "weight_gradient_fp32": lambda: out.add_(product(a.t(), b, offs=ends)),
    }
    kind = str(point.shape["kind"])
    try:
        try_out(name, runs[kind])
    except Unsupported:
        return None
    return name + ("+add" if kind == "weight_gradient_fp32" else ""), runs[kind]


def _looped(device: Device, point: Point, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, rows: int) -> Call:
    """A product an expert: what GPUs without grouped products do, bound by launches where experts are many."""
    weights = point.shape["kind"] in ("weight_gradient", "weight_gradient_fp32")
    calls = []
    for first in range(0, len(a), rows):
        rows_of, expert = slice(first, first + rows), first // rows
        parts = (a[rows_of], b[rows_of], out[expert]) if weights else (a[rows_of], b[expert], out[rows_of])
        calls.append(linear_call(device, point, *parts))

    def run() -> None:
        for _, call in calls:
            call()

    return f"expert_loop_{calls[0][0]}", run
