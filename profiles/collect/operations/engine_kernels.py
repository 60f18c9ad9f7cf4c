"""Attention kernels that serving engines bring: FlashAttention and FlashInfer, where they are installed.

Both are imported when first asked for; what is missing, or takes other arguments than those we know, is a reason
rather than an error. The KV cache is paged for FlashInfer (:data:`PAGE_TOKENS` a page, pages in order), contiguous for
FlashAttention.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import torch

from profiles.collect.operations.attention_problem import Operands, Problem, Run
from profiles.collect.operations.tensors import TORCH_DTYPES

if TYPE_CHECKING:
    from profiles.collect.devices import Device

PAGE_TOKENS = 16  # vLLM's default block size, FlashInfer's usual page
WORKSPACE_BYTES = 256 * 2**20
_TENSOR_CORE_GROUP = 4
"""Query heads a KV head from which FlashInfer's documentation advises its tensor-core decode kernel."""


@functools.cache
def library(name: str) -> Any | str:
    """The module, or why it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return f"{name} is not installed ({error})"
    except Exception as error:  # a binary built for another torch fails in any way it likes
        return f"{name} cannot be imported ({type(error).__name__}: {error})"


def require_library(name: str) -> Any:
    found = library(name)
    if isinstance(found, str):
        raise ImportError(found)
    return found


class FlashAttention:
    """``flash_attn`` 2 (package flash-attn) or 3 (its Hopper build, module ``flash_attn_interface``)."""

    framework = "flash_attn"
    heads_first = False
    page_tokens = 1

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.name = f"flash_attn_{generation}"
        self._import_name = "flash_attn" if generation == 2 else "flash_attn_interface"

    def version(self) -> str:
        return str(
            getattr(require_library(self._import_name), "__version__", f"{self.generation} (version not stated)")
        )

    def label(self, device: Device, problem: Problem) -> str:
        return self.name

    def reason(self, device: Device, problem: Problem) -> str | None:
        if device.capability is None or device.capability < (8, 0):
            return f"{self.name} needs an NVIDIA GPU of compute capability 8.0"
        if self.generation == 3 and device.capability[0] != 9:
            return f"{self.name} is built for compute capability 9.x alone"
        if problem.dtype not in ("bf16", "fp16"):
            return f"{self.name} is called in bf16 or fp16, not in {problem.dtype}"
        if problem.kv_dtype != problem.dtype:
            return f"{self.name} in {problem.dtype} is called with a KV cache of the same, not {problem.kv_dtype}"
        if problem.value_dim != problem.head_dim or problem.head_dim > 256:
            return f"{self.name} is called with keys and values equally wide, 256 at most"
        found = library(self._import_name)
        return found if isinstance(found, str) else None

    def extra_bytes(self, device: Device, problem: Problem) -> int:
        return 0

    def build(self, device: Device, problem: Problem, operands: Operands) -> Run:
        module = require_library(self._import_name)
        window = (problem.window_tokens - 1, 0) if problem.window_tokens else (-1, -1)
        q, k, v = operands.q, operands.k, operands.v
        if not problem.decode:
            return _first_of(lambda: module.flash_attn_func(q, k, v, causal=True, window_size=window))
        lengths = torch.full((problem.batch,), problem.keys, dtype=torch.int32, device=device.torch)
        return _first_of(
            lambda: module.flash_attn_with_kvcache(q, k, v, cache_seqlens=lengths, causal=True, window_size=window)
        )


def _first_of(call: Any) -> Run:
    """FlashAttention 3 returned (output, log-sum-exp) in its first releases."""

    def run() -> torch.Tensor:
        result = call()
        output: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return output

    return run


class FlashInfer:
    """FlashInfer's paged prefill and decode wrappers; the one path here that reads an 8-bit KV cache."""

    name = "flashinfer_paged"
    framework = "flashinfer"
    heads_first = False
    page_tokens = PAGE_TOKENS

    def version(self) -> str:
        return str(require_library("flashinfer").__version__)

    def label(self, device: Device, problem: Problem) -> str:
        return self.name

    def reason(self, device: Device, problem: Problem) -> str | None:
        if device.capability is None or device.capability < (8, 0):
            return "flashinfer needs an NVIDIA GPU of compute capability 8.0"
        if problem.dtype not in ("bf16", "fp16"):
            return f"flashinfer computes in bf16 or fp16, not in {problem.dtype}"
        if problem.kv_dtype not in (problem.dtype, "fp8"):
            return f"flashinfer in {problem.dtype} reads a KV cache of the same or fp8, not {problem.kv_dtype}"
        if problem.value_dim != problem.head_dim:
            return "flashinfer's paged cache has values as wide as keys"
        found = library("flashinfer")
        return found if isinstance(found, str) else None

    def extra_bytes(self, device: Device, problem: Problem) -> int:
        return WORKSPACE_BYTES

    def build(self, device: Device, problem: Problem, operands: Operands) -> Run:
        module = require_library("flashinfer")
        workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device.torch)
        pages = Pages(device, problem, PAGE_TOKENS)
        cache = tuple(t.reshape(-1, PAGE_TOKENS, problem.kv_heads, problem.head_dim) for t in (operands.k, operands.v))
        types = {"q_data_type": TORCH_DTYPES[problem.dtype], "kv_data_type": TORCH_DTYPES[problem.kv_dtype]}
        back = problem.window_tokens - 1 if problem.window_tokens else -1
        sizes = (problem.heads, problem.kv_heads, problem.head_dim, PAGE_TOKENS)
        q = operands.q.reshape(-1, problem.heads, problem.head_dim)
        if problem.decode:
            grouped = problem.heads // problem.kv_heads >= _TENSOR_CORE_GROUP
            wrapper = module.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=grouped)
            wrapper.plan(pages.starts, pages.numbers, pages.last_tokens, *sizes, window_left=back, **types)
        else:
            wrapper = module.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
            queries = pages.every(problem.query_tokens)
            wrapper.plan(
                queries, pages.starts, pages.numbers, pages.last_tokens, *sizes, causal=True, window_left=back, **types
            )
        shape = (problem.batch, problem.query_tokens, problem.heads, problem.head_dim)

        def run() -> torch.Tensor:
            output: torch.Tensor = wrapper.run(q, cache)
            return output.view(shape)

        return run


class Pages:
    """Page table of sequences of equal length, as FlashInfer reads it: int32, on the device."""

    def __init__(self, device: Device, problem: Problem, page_tokens: int) -> None:
        self._options = {"dtype": torch.int32, "device": device.torch}
        self._batch = problem.batch
        each = -(-problem.keys // page_tokens)
        self.starts = self.every(each)
        self.numbers = torch.arange(problem.batch * each, **self._options)
        self.last_tokens = torch.full((problem.batch,), (problem.keys - 1) % page_tokens + 1, **self._options)
        self.lengths = torch.full((problem.batch,), problem.keys, **self._options)

    def every(self, step: int) -> torch.Tensor:
        """[0, step, 2·step, …], batch + 1 numbers."""
        return torch.arange(self._batch + 1, **self._options) * step
