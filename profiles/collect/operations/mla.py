"""Latent attention (MLA) at DeepSeek's widths; projections are rows of ``gemm`` and ``mla_bmm``, not of these.

* ``mla_prefill``: keys and values rebuilt for every head, 192 and 128 wide: ordinary attention through torch.
* ``mla_decode``: all heads over one shared latent of 512 + 64: FlashInfer's kernel. Through SDPA the latent would be
  read twice, once as keys and once as values, so without FlashInfer it is not measured.
* ``mla_bmm``: the per-head product that absorbs the latent (pre, [tokens, 128] × [128, 512]) or rebuilds from it (post,
  its transpose): a batched product over heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from profiles.collect.operations.attention import all_reasons, prepared
from profiles.collect.operations.attention_problem import Kernel, Operands, Problem, Run
from profiles.collect.operations.engine_kernels import (
    PAGE_TOKENS,
    WORKSPACE_BYTES,
    FlashInfer,
    Pages,
    library,
    require_library,
)
from profiles.collect.operations.grids import FLOATS, mla_bmm_shapes, mla_shapes, points
from profiles.collect.operations.sdpa import Sdpa
from profiles.collect.operations.tensors import TORCH_DTYPES, normal, require
from profiles.collect.operations.work import ELEMENT_BYTES, MLA_LATENT, MLA_QK, MLA_ROPE, MLA_VALUE, work
from profiles.collect.points import Point, Prepared

if TYPE_CHECKING:
    from profiles.collect.devices import Device


class FlashInferMla:
    """FlashInfer's paged latent attention. Queries come absorbed, 512 + 64 wide; ``Operands.k`` is the latent cache
    [batch, tokens, 1, 576], of which the values are the first 512."""

    name = "flashinfer_mla"
    framework = "flashinfer"
    heads_first = False
    page_tokens = PAGE_TOKENS

    def version(self) -> str:
        return FlashInfer().version()

    def label(self, device: Device, problem: Problem) -> str:
        return self.name

    def reason(self, device: Device, problem: Problem) -> str | None:
        if device.capability is None or device.capability < (8, 0):
            return "latent attention in decode needs FlashInfer and an NVIDIA GPU of compute capability 8.0"
        if problem.dtype not in ("bf16", "fp16") or problem.kv_dtype != problem.dtype:
            return f"{self.name} is called in bf16 or fp16 with a cache of the same, not {problem.kv_dtype}"
        found = library("flashinfer.mla")
        return found if isinstance(found, str) else None

    def extra_bytes(self, device: Device, problem: Problem) -> int:
        return WORKSPACE_BYTES + problem.kv_bytes  # the cache's two parts are copied apart

    def build(self, device: Device, problem: Problem, operands: Operands) -> Run:
        workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device.torch)
        pages = Pages(device, problem, PAGE_TOKENS)
        wrapper = require_library("flashinfer.mla").BatchMLAPagedAttentionWrapper(workspace)
        dtype = TORCH_DTYPES[problem.dtype]
        wrapper.plan(
            pages.every(1),
            pages.starts,
            pages.numbers,
            pages.lengths,
            problem.heads,
            MLA_LATENT,
            MLA_ROPE,
            PAGE_TOKENS,
            False,
            MLA_QK**-0.5,
            dtype,
            dtype,
        )
        q = operands.q.reshape(-1, problem.heads, MLA_LATENT + MLA_ROPE)
        latent, rope = q[..., :MLA_LATENT].contiguous(), q[..., MLA_LATENT:].contiguous()
        cache = operands.k.reshape(-1, PAGE_TOKENS, MLA_LATENT + MLA_ROPE)
        keys, key_rope = cache[..., :MLA_LATENT].contiguous(), cache[..., MLA_LATENT:].contiguous()

        def run() -> torch.Tensor:
            output: torch.Tensor = wrapper.run(latent, rope, keys, key_rope)
            return output.view(problem.batch, 1, problem.heads, MLA_LATENT)

        return run


class Mla:
    """``mla_prefill`` or ``mla_decode``."""

    def __init__(self, decode: bool) -> None:
        self.decode = decode
        self.operation = "mla_decode" if decode else "mla_prefill"

    def problem(self, point: Point) -> Problem:
        size = {name: int(value) for name, value in point.shape.items() if name != "kv_dtype"}
        query = 1 if self.decode else size["query_tokens"]
        return Problem(
            batch=size["batch"],
            query_tokens=query,
            keys=size["context_tokens"] if self.decode else size["prefix_tokens"] + query,
            heads=size["heads"],
            kv_heads=1 if self.decode else size["heads"],
            head_dim=MLA_LATENT + MLA_ROPE if self.decode else MLA_QK,
            value_dim=MLA_LATENT if self.decode else MLA_VALUE,
            window_tokens=0,
            dtype=point.dtype,
            kv_dtype=str(point.shape["kv_dtype"]),
        )

    def _kernels(self, device: Device) -> tuple[Kernel, ...]:
        if self.decode:
            return (FlashInferMla(),)
        return (Sdpa("flash"), Sdpa("math")) if device.kind == "cpu" else (Sdpa("cudnn"), Sdpa("efficient"))

    def unsupported(self, device: Device, point: Point) -> str | None:
        return all_reasons(device, self.problem(point), self._kernels(device))

    def prepare(self, device: Device, point: Point) -> Prepared:
        return prepared(device, point, self.problem(point), self._kernels(device))

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        for dtype in (name for name in precisions if name in FLOATS):
            for point in points(device, self.operation, mla_shapes(self.decode, dtype), [dtype]):
                if self.unsupported(device, point) is None:
                    yield point

    def close(self) -> None:
        """Nothing outlives a point."""


class MlaBmm:
    operation = "mla_bmm"

    def unsupported(self, device: Device, point: Point) -> str | None:
        return None if point.dtype in FLOATS else f"torch has no batched product in {point.dtype}"

    def prepare(self, device: Device, point: Point) -> Prepared:
        tokens, heads = int(point.shape["tokens"]), int(point.shape["heads"])
        width, out_width = (MLA_VALUE, MLA_LATENT) if point.shape["kind"] == "pre" else (MLA_LATENT, MLA_VALUE)
        flops, moved_bytes = work(point)
        elements = tokens * heads * (width + out_width) + heads * width * out_width
        require(device, elements * ELEMENT_BYTES[point.dtype], f"mla_bmm of {tokens} tokens, {heads} heads")
        x = normal(device, point.dtype, tokens, heads, width).transpose(0, 1)  # engines keep tokens first
        weights = normal(device, point.dtype, heads, width, out_width, scale=width**-0.5)
        out = torch.empty(heads, tokens, out_width, dtype=TORCH_DTYPES[point.dtype], device=device.torch)
        kernel = "cpu_bmm" if device.kind == "cpu" else "cublas_bmm"
        return Prepared(lambda: torch.bmm(x, weights, out=out), kernel, "torch", torch.__version__, flops, moved_bytes)

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        for dtype in (name for name in precisions if name in FLOATS):
            yield from points(device, self.operation, mla_bmm_shapes(), [dtype])

    def close(self) -> None:
        """Nothing outlives a point."""
