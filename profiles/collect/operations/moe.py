"""Routed experts of one layer on the busiest GPU of its group: gate/up product, activation, down product.

The tokens come in the order of their experts. Bringing them there and summing the experts' outputs back is not
timed: the row's meaning (profiles/operation_tables.py) names the three steps alone. Engines' fused kernels, which the
shipped rows timed, include both; they move 2·pairs·hidden values more. What each expert gets is
:mod:`~profiles.collect.operations.routing`'s to say. In fp8, the activation is rounded to fp8 with a static scale.

Kernels: ``grouped_mm`` (torch ≥ 2.8, one launch for all experts), ``scaled_grouped_mm`` (fp8, Hopper and later), or
``expert_loop``: one product an expert, which on a GPU is launch-bound for many experts, as its name warns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from profiles.collect.operations.grids import FLOATS, moe_shapes, points
from profiles.collect.operations.routing import busiest_loads
from profiles.collect.operations.tensors import has_fp8, normal, require, try_out
from profiles.collect.operations.work import ELEMENT_BYTES, work
from profiles.collect.points import Point, Prepared
from profiles.errors import Unsupported

if TYPE_CHECKING:
    from profiles.collect.devices import Device

_ALIGNMENT = 16  # bytes; grouped products want rows that begin at its multiples
# Public as of torch 2.10; private from 2.8 (Hopper alone) on.
_grouped_mm = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
_scaled_grouped_mm = getattr(torch, "_scaled_grouped_mm", None)

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Layer:
    """Operands on the busiest GPU. ``x`` [pairs, hidden], tokens of expert 0 first; ``up`` [experts, 2·width or
    width, hidden], gate above up where ``gated``; ``down`` [experts, hidden, width]; ``loads`` pairs of each expert."""

    x: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    loads: list[int]
    gated: bool


class Moe:
    operation = "moe"

    def unsupported(self, device: Device, point: Point) -> str | None:
        size = _sizes(point)
        if size["experts"] % size["moe_ep"]:
            return f"{size['experts']} experts cannot be shared out evenly over moe_ep={size['moe_ep']} GPUs"
        if size["intermediate"] % size["moe_tp"]:
            return f"intermediate={size['intermediate']} cannot be split evenly over moe_tp={size['moe_tp']} GPUs"
        if point.dtype in FLOATS:
            return None
        if point.dtype != "fp8":
            return f"torch has no grouped product in {point.dtype}"
        if not has_fp8(device) or device.capability is None or device.capability < (9, 0):
            return f"{device.name} has no grouped 8-bit float products (compute capability 9.0 or newer)"
        if _scaled_grouped_mm is None:
            return f"torch {torch.__version__} has no _scaled_grouped_mm"
        if size["hidden"] % _ALIGNMENT or size["intermediate"] // size["moe_tp"] % _ALIGNMENT:
            return f"_scaled_grouped_mm needs hidden and the split intermediate in multiples of {_ALIGNMENT}"
        return None

    def prepare(self, device: Device, point: Point) -> Prepared:
        layer = make_layer(device, point)
        kernel, run = expert_call(device, point.dtype, layer)
        flops, moved_bytes = work(point)
        return Prepared(run, kernel, "torch", torch.__version__, flops, moved_bytes)

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        wanted = [dtype for dtype in precisions if dtype in (*FLOATS, "fp8")]
        for point in points(device, self.operation, moe_shapes(), wanted):
            if self.unsupported(device, point) is None:
                yield point

    def close(self) -> None:
        """Nothing outlives a point."""


def _sizes(point: Point) -> dict[str, int]:
    return {name: int(value) for name, value in point.shape.items() if name != "routing"}


def make_layer(device: Device, point: Point) -> Layer:
    """Random operands of ``point``.

    Raises:
        Unsupported: they would not fit; the message names the bytes.
    """
    size = _sizes(point)
    routing = str(point.shape["routing"])
    loads = busiest_loads(size["tokens"], size["top_k"], size["experts"], size["moe_ep"], routing)
    hidden, width, gated = size["hidden"], size["intermediate"] // size["moe_tp"], bool(size["gated"])
    pairs, columns = sum(loads), (2 if gated else 1) * width
    weights = len(loads) * hidden * (columns + width) * ELEMENT_BYTES[point.dtype]
    scratch = len(loads) * hidden * columns * 2 if point.dtype == "fp8" else 0  # before they are rounded
    work_space = pairs * (2 * hidden + 2 * columns + 2 * width) * 4
    require(device, weights + scratch + work_space, f"{len(loads)} experts, {hidden} × {width} ({weights:,} bytes)")
    return Layer(
        x=normal(device, point.dtype, pairs, hidden),
        up=normal(device, point.dtype, len(loads), columns, hidden, scale=hidden**-0.5),
        down=normal(device, point.dtype, len(loads), hidden, width, scale=width**-0.5),
        loads=loads,
        gated=gated,
    )


def expert_call(device: Device, dtype: str, layer: Layer) -> tuple[str, Callable[[], torch.Tensor]]:
    """(kernel, call); the call's result is [pairs, hidden].

    Raises:
        Unsupported: torch refuses the shape.
    """
    ends = torch.tensor(layer.loads, device=device.torch).cumsum(0).to(torch.int32)
    if dtype == "fp8":
        return _tried("scaled_grouped_mm", layer, _scaled_products(layer, ends))
    grouped = grouped_product(device, dtype, [layer.x, layer.down])
    if grouped is not None:
        try:
            return _tried("grouped_mm", layer, lambda x, weights: grouped(x, weights.transpose(-2, -1), offs=ends))
        except Unsupported:
            pass  # of this GPU or this version; the loop below is always possible, and its name says what it is
    return _tried("expert_loop", layer, _looped(layer.loads))


def grouped_product(device: Device, dtype: str, tensors: Sequence[torch.Tensor]) -> Callable[..., Any] | None:
    """torch's grouped product, where it has one for ``tensors`` in ``dtype``. fp32 and fp16 on GPUs have none: torch
    itself would loop over the experts."""
    aligned = all(tensor.shape[-1] * tensor.element_size() % _ALIGNMENT == 0 for tensor in tensors)
    return _grouped_mm if aligned and (dtype == "bf16" or device.kind == "cpu") else None


def _tried(kernel: str, layer: Layer, product: Product) -> tuple[str, Callable[[], torch.Tensor]]:
    def run() -> torch.Tensor:
        return product(_activated(product(layer.x, layer.up), layer), layer.down)

    try_out(kernel, run)
    return kernel, run


def _activated(inner: torch.Tensor, layer: Layer) -> torch.Tensor:
    """SiLU(gate)·up, or SiLU alone; in the precision of the weights."""
    if layer.gated:
        gate, up = inner.chunk(2, dim=-1)
        inner = torch.nn.functional.silu(gate).mul_(up)
    else:
        inner = torch.nn.functional.silu(inner)
    return inner if inner.dtype == layer.down.dtype else inner.to(layer.down.dtype)


def _scaled_products(layer: Layer, ends: torch.Tensor) -> Product:
    scale_rows = torch.ones(len(layer.x), dtype=torch.float32, device=layer.x.device)
    scales = {
        weights.shape: torch.ones(weights.shape[:2], dtype=torch.float32, device=weights.device)
        for weights in (layer.up, layer.down)
    }

    def product(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        assert _scaled_grouped_mm is not None  # unsupported() asked
        result: torch.Tensor = _scaled_grouped_mm(
            x,
            weights.transpose(-2, -1),
            scale_rows,
            scales[weights.shape],
            offs=ends,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return result

    return product


def _looped(loads: list[int]) -> Product:
    ends = itertools.accumulate(loads)
    spans = [(index, end - load, end) for index, (load, end) in enumerate(zip(loads, ends, strict=True)) if load]

    def product(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(x), weights.shape[1], dtype=x.dtype, device=x.device)
        for index, start, end in spans:
            torch.mm(x[start:end], weights[index].t(), out=out[start:end])
        return out

    return product
