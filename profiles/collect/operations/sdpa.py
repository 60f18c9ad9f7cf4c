"""Attention through torch: ``scaled_dot_product_attention`` with its backend chosen by us, and torch's own copy of
FlashAttention 2 for sliding windows.

* One new token (decode): the query heads of a group are stacked as queries over their shared keys, which is the same
  mathematics, needs no mask, and reads the cache once whatever the backend knows of grouped heads. A window is the
  last ``window_tokens`` of the cache, a view.
* A prefix: ``causal_lower_right`` on GPUs, which no backend turns into a mask. On CPUs torch has no such kernel: an
  additive mask, full work, and the kernel's name says so (``_mask``).
* Grouped heads in prefill: ``enable_gqa`` where torch and the backend have it, else keys and values are copied to
  every head before the timing (``_expanded_kv``): the time then lacks what sharing saves.
* A window in prefill: not through SDPA, where only a full mask could do it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from profiles.collect.operations.attention_problem import Operands, Problem, Run
from profiles.collect.operations.grids import FLOATS
from profiles.collect.operations.tensors import TORCH_DTYPES
from profiles.collect.operations.work import ELEMENT_BYTES
from profiles.errors import Unsupported

if TYPE_CHECKING:
    from profiles.collect.devices import Device

HAS_GQA = "enable_gqa" in (scaled_dot_product_attention.__doc__ or "")  # as of torch 2.5
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class Sdpa:
    framework = "torch"
    heads_first = True
    page_tokens = 1

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.name = f"sdpa_{backend}"

    def version(self) -> str:
        return str(torch.__version__)

    def label(self, device: Device, problem: Problem) -> str:
        name = self.name
        if problem.prefix_tokens and not problem.decode and device.kind == "cpu":
            name += "_mask"
        return name + ("_expanded_kv" if self._expands(problem) else "")

    def _expands(self, problem: Problem) -> bool:
        grouped = problem.kv_heads < problem.heads and not problem.decode
        return grouped and (not HAS_GQA or self.backend == "efficient")

    def reason(self, device: Device, problem: Problem) -> str | None:
        if problem.dtype not in FLOATS:
            return f"SDPA computes in {', '.join(FLOATS)}, not in {problem.dtype}"
        if problem.kv_dtype != problem.dtype:
            return f"SDPA in {problem.dtype} reads a KV cache in {problem.dtype}, not {problem.kv_dtype}"
        if problem.window_tokens and not problem.decode:
            return "SDPA has no sliding window: a mask would do the full work"
        if self.backend == "cudnn" and problem.prefix_tokens and not problem.decode:
            return f"{self.name} has no causal mask aligned to the last key"
        return None

    def extra_bytes(self, device: Device, problem: Problem) -> int:
        extra = 0
        if self._expands(problem):
            extra += problem.kv_bytes * (problem.heads // problem.kv_heads)
        if problem.prefix_tokens and not problem.decode and device.kind == "cpu":  # the mask
            extra += problem.query_tokens * problem.keys * ELEMENT_BYTES[problem.dtype]
        if self.backend == "math":  # scores, and their softmax in fp32
            extra += problem.batch * problem.heads * problem.query_tokens * problem.keys * 8
        return extra

    def build(self, device: Device, problem: Problem, operands: Operands) -> Run:
        q, k, v = (tensor.transpose(1, 2) for tensor in (operands.q, operands.k, operands.v))
        options: dict[str, Any] = {}
        if problem.decode:
            q = q.reshape(problem.batch, problem.kv_heads, problem.heads // problem.kv_heads, problem.head_dim)
            seen = problem.window_tokens or problem.keys
            k, v = k[:, :, -seen:], v[:, :, -seen:]
        else:
            if self._expands(problem):
                k, v = (t.repeat_interleave(problem.heads // problem.kv_heads, dim=1) for t in (k, v))
            elif problem.kv_heads < problem.heads:
                options["enable_gqa"] = True
            options |= self._causal(device, problem)
        if device.kind == "cpu":
            return self._on_cpu(q, k, v, options)
        backend = _BACKENDS[self.backend]

        def run() -> torch.Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, **options)

        return run

    def _causal(self, device: Device, problem: Problem) -> dict[str, Any]:
        if not problem.prefix_tokens:
            return {"is_causal": True}
        if device.kind == "cpu":
            hidden = torch.full((problem.query_tokens, problem.keys), float("-inf"))
            mask = hidden.triu_(problem.prefix_tokens + 1)
            return {"attn_mask": mask.to(TORCH_DTYPES[problem.dtype])}
        from torch.nn.attention.bias import causal_lower_right

        return {"attn_mask": causal_lower_right(problem.query_tokens, problem.keys)}

    def _on_cpu(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> Run:
        """Without the context that chooses a backend, which would take longer than a small call."""
        mask, causal = options.get("attn_mask"), options.get("is_causal", False)
        more = {"enable_gqa": options["enable_gqa"]} if "enable_gqa" in options else {}
        chosen = SDPBackend(torch._fused_sdp_choice(q, k, v, mask, 0.0, causal, **more))
        if chosen != _BACKENDS[self.backend]:
            raise Unsupported(f"{self.name}: torch takes {chosen.name} for this shape on a CPU", "try another shape")
        return lambda: scaled_dot_product_attention(q, k, v, **options)


class TorchFlashWindow:
    """``aten::_flash_attention_forward``: torch's FlashAttention 2, whose sliding window SDPA does not expose."""

    name = "aten_flash_window"
    framework = "torch"
    heads_first = False
    page_tokens = 1

    def version(self) -> str:
        return str(torch.__version__)

    def label(self, device: Device, problem: Problem) -> str:
        return self.name

    def reason(self, device: Device, problem: Problem) -> str | None:
        if not problem.window_tokens or problem.decode:
            return f"{self.name} is taken for sliding windows in prefill alone"
        if problem.dtype not in ("bf16", "fp16") or problem.kv_dtype != problem.dtype:
            return f"{self.name} computes in bf16 or fp16 with a KV cache of the same, not {problem.kv_dtype}"
        if problem.value_dim != problem.head_dim:
            return f"{self.name} needs values as wide as keys"
        return None

    def extra_bytes(self, device: Device, problem: Problem) -> int:
        return 0

    def build(self, device: Device, problem: Problem, operands: Operands) -> Run:
        forward = torch.ops.aten._flash_attention_forward

        def run() -> torch.Tensor:
            result = forward(
                operands.q,
                operands.k,
                operands.v,
                None,
                None,
                problem.query_tokens,
                problem.keys,
                0.0,
                True,
                False,
                window_size_left=problem.window_tokens - 1,
                window_size_right=0,
            )
            output: torch.Tensor = result[0]
            return output

        return run
