"""Attention of new tokens (prefill) and of one new token a sequence (decode).

The first kernel of :func:`kernels` that this machine has and that works for the point is measured, and its name
recorded: those of engines first (FlashAttention 3, FlashInfer, FlashAttention 2), then torch's. Never a kernel that
would do other work than the row says: a window by masking, a cache of another precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from profiles.collect.operations.attention_problem import Kernel, Operands, Problem, Run, allocate
from profiles.collect.operations.engine_kernels import FlashAttention, FlashInfer
from profiles.collect.operations.grids import FLOATS, attention_shapes, points
from profiles.collect.operations.sdpa import Sdpa, TorchFlashWindow
from profiles.collect.operations.tensors import has_fp8, try_out
from profiles.collect.operations.work import work
from profiles.collect.points import Point, Prepared
from profiles.errors import Unsupported

if TYPE_CHECKING:
    from profiles.collect.devices import Device


def kernels(device: Device, problem: Problem) -> tuple[Kernel, ...]:
    """In the order in which they are tried."""
    if device.kind == "cpu":
        return (Sdpa("flash"), Sdpa("math"))
    flash, cudnn = Sdpa("flash"), Sdpa("cudnn")
    # torch's FlashAttention is generation 2, written for Ampere; cuDNN's kernels are the faster ones from Hopper on,
    # but only FlashAttention splits a long cache over the multiprocessors when there are few sequences.
    hopper = device.capability is not None and device.capability >= (9, 0)
    torch_own = (cudnn, flash) if hopper and not problem.decode else (flash, cudnn)
    # No "math": materialised scores are no kernel that an engine runs on a GPU.
    return (FlashAttention(3), FlashInfer(), FlashAttention(2), *torch_own, Sdpa("efficient"), TorchFlashWindow())


def choose(device: Device, problem: Problem, candidates: tuple[Kernel, ...]) -> tuple[Kernel, Operands, Run]:
    """The first of ``candidates`` that computes ``problem``, with its operands.

    Raises:
        Unsupported: none does; the message has every candidate's reason. Or it does not fit in memory.
    """
    reasons = []
    for kernel in candidates:
        reason = kernel.reason(device, problem)
        if reason is not None:
            reasons.append(reason)
            continue
        operands = allocate(
            device, problem, kernel.heads_first, kernel.page_tokens, kernel.extra_bytes(device, problem)
        )
        try:
            run = _built(kernel, device, problem, operands)
        except Unsupported as error:
            reasons.append(error.message)
            del operands  # the next kernel's must fit too
            continue
        return kernel, operands, run
    raise Unsupported(_joined(reasons), "install flash-attn or flashinfer-python, which cover more shapes")


def _built(kernel: Kernel, device: Device, problem: Problem, operands: Operands) -> Run:
    built: list[Run] = []

    def once() -> torch.Tensor:
        built.append(kernel.build(device, problem, operands))
        result = built[0]()
        device.synchronize()
        return result

    try_out(kernel.name, once)
    return built[0]


def prepared(device: Device, point: Point, problem: Problem, candidates: tuple[Kernel, ...]) -> Prepared:
    kernel, _, run = choose(device, problem, candidates)
    flops, moved_bytes = work(point)
    return Prepared(run, kernel.label(device, problem), kernel.framework, kernel.version(), flops, moved_bytes)


def all_reasons(device: Device, problem: Problem, candidates: tuple[Kernel, ...]) -> str | None:
    """Why no candidate can compute ``problem``, or None where one declares that it can."""
    reasons = [kernel.reason(device, problem) for kernel in candidates]
    return None if None in reasons else _joined(reason for reason in reasons if reason)


def _joined(reasons: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(reasons))


class Attention:
    """``attention_prefill`` or ``attention_decode``."""

    def __init__(self, decode: bool) -> None:
        self.decode = decode
        self.operation = "attention_decode" if decode else "attention_prefill"

    def problem(self, point: Point) -> Problem:
        size = {name: int(value) for name, value in point.shape.items() if name != "kv_dtype"}
        query = 1 if self.decode else size["query_tokens"]
        keys = size["context_tokens"] if self.decode else size["prefix_tokens"] + query
        return Problem(
            batch=size["batch"],
            query_tokens=query,
            keys=keys,
            heads=size["heads"],
            kv_heads=size["kv_heads"],
            head_dim=size["head_dim"],
            value_dim=size["head_dim"],
            window_tokens=size["window_tokens"] if size["window_tokens"] < keys else 0,
            dtype=point.dtype,
            kv_dtype=str(point.shape["kv_dtype"]),
        )

    def unsupported(self, device: Device, point: Point) -> str | None:
        problem = self.problem(point)
        if problem.heads % problem.kv_heads:
            return f"{problem.heads} query heads cannot share {problem.kv_heads} key/value heads evenly"
        return all_reasons(device, problem, kernels(device, problem))

    def prepare(self, device: Device, point: Point) -> Prepared:
        problem = self.problem(point)
        return prepared(device, point, problem, kernels(device, problem))

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        """Computed in each of ``precisions`` that are plain floats, over a cache of the same; where ``fp8`` is
        asked for and the hardware has it, also over a cache in fp8."""
        kv_dtypes = ["fp8"] if "fp8" in precisions and has_fp8(device) else []
        for dtype in (name for name in precisions if name in FLOATS):
            shapes = attention_shapes(self.decode, [dtype, *kv_dtypes])
            for point in points(device, self.operation, shapes, [dtype]):
                if self.unsupported(device, point) is None:
                    yield point

    def close(self) -> None:
        """Nothing outlives a point."""
