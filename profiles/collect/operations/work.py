"""FLOPs and bytes of one point, in plain Python.

The same formulas as the kernels' in :mod:`costmodels.operations`, which cannot be imported here: the harness runs where
neither NumPy nor the cost models are installed. ``tests/profiles/collect/operations`` holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from profiles.collect.points import Point

ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "fp8": 1, "fp8_block": 1}
"""Bytes of one value in the precisions that the harness measures."""

MLA_QK, MLA_VALUE, MLA_LATENT, MLA_ROPE = 192, 128, 512, 64
"""Widths of latent attention: DeepSeek's (arXiv:2405.04434, §2.1), the only ones whose rows exist."""

Work = tuple[float, float]
"""(FLOPs, bytes moved)"""


def work(point: Point) -> Work:
    """FLOPs and bytes that ``point`` cannot avoid: of the mean GPU where a MoE is skewed, as in the roofline."""
    return _WORK[point.operation](point.shape, point)


def _count(shape: Mapping[str, int | str], *names: str) -> list[int]:
    return [int(shape[name]) for name in names]


def _gemm(shape: Mapping[str, int | str], point: Point) -> Work:
    m, n, k = _count(shape, "m", "n", "k")
    size = ELEMENT_BYTES[point.dtype]
    return 2.0 * m * n * k, float((m * k + n * k) * size + m * n * 2)


def visible_pairs(query: int, prefix: int, window: int) -> float:
    """Query-key pairs of causal attention: Σ_{i=1..query} min(prefix + i, window); window 0: no limit."""
    growing = query if window == 0 else min(max(window - prefix, 0), query)
    return growing * prefix + growing * (growing + 1) / 2 + (query - growing) * window


def _attention_prefill(shape: Mapping[str, int | str], point: Point) -> Work:
    batch, query, prefix = _count(shape, "batch", "query_tokens", "prefix_tokens")
    heads, kv_heads, dim, window = _count(shape, "heads", "kv_heads", "head_dim", "window_tokens")
    keys = (min(prefix, window) if window else prefix) + query
    moved = batch * dim * (4 * query * heads + 2 * keys * kv_heads * ELEMENT_BYTES[str(shape["kv_dtype"])])
    return 4.0 * batch * heads * dim * visible_pairs(query, prefix, window), float(moved)


def _attention_decode(shape: Mapping[str, int | str], point: Point) -> Work:
    batch, context = _count(shape, "batch", "context_tokens")
    heads, kv_heads, dim, window = _count(shape, "heads", "kv_heads", "head_dim", "window_tokens")
    keys = min(context, window) if window else context
    moved = batch * dim * (4 * heads + 2 * keys * kv_heads * ELEMENT_BYTES[str(shape["kv_dtype"])])
    return 4.0 * batch * heads * dim * keys, float(moved)


def _mla_prefill(shape: Mapping[str, int | str], point: Point) -> Work:
    batch, query, prefix, heads = _count(shape, "batch", "query_tokens", "prefix_tokens", "heads")
    width = MLA_QK + MLA_VALUE
    return (
        2.0 * batch * heads * width * visible_pairs(query, prefix, 0),
        2.0 * batch * heads * width * (query + prefix + query),
    )


def _mla_decode(shape: Mapping[str, int | str], point: Point) -> Work:
    batch, context, heads = _count(shape, "batch", "context_tokens", "heads")
    width = MLA_LATENT + MLA_ROPE
    cache = context * width * ELEMENT_BYTES[str(shape["kv_dtype"])]
    return (
        2.0 * batch * heads * (width + MLA_LATENT) * context,
        float(batch * (cache + 2 * heads * (width + MLA_LATENT))),
    )


def _mla_bmm(shape: Mapping[str, int | str], point: Point) -> Work:
    tokens, heads = _count(shape, "tokens", "heads")
    weights = heads * MLA_VALUE * MLA_LATENT * ELEMENT_BYTES[point.dtype]
    return (
        2.0 * tokens * heads * MLA_VALUE * MLA_LATENT,
        float(weights + 2 * tokens * heads * (MLA_VALUE + MLA_LATENT)),
    )


def _moe(shape: Mapping[str, int | str], point: Point) -> Work:
    tokens, hidden, intermediate, top_k = _count(shape, "tokens", "hidden", "intermediate", "top_k")
    experts, moe_tp, moe_ep, gated = _count(shape, "experts", "moe_tp", "moe_ep", "gated")
    width, matrices = intermediate / moe_tp, 3 if gated else 2
    pairs = tokens * top_k / moe_ep
    reached = experts * -math.expm1(tokens * math.log1p(-min(top_k / experts, 1 - 1e-12)))
    active = max(reached / moe_ep, min(1.0, pairs))
    weights = active * matrices * hidden * width * ELEMENT_BYTES[point.dtype]
    return 2 * pairs * matrices * hidden * width, weights + pairs * (2 * hidden + matrices * width) * 2


def _collective(shape: Mapping[str, int | str], point: Point) -> Work:
    return 0.0, 2.0 * int(shape["message_bytes"])


def _memcpy(shape: Mapping[str, int | str], point: Point) -> Work:
    passes = 2 if shape["kind"] == "device_to_device" else 1  # read and written in the same memory
    return 0.0, float(passes * int(shape["copied_bytes"]))


def _launch(shape: Mapping[str, int | str], point: Point) -> Work:
    return 0.0, 0.0


def _sustained(shape: Mapping[str, int | str], point: Point) -> Work:
    tokens, hidden, wide, heads, kv_heads, dim = _count(
        shape, "tokens", "hidden", "intermediate", "heads", "kv_heads", "head_dim"
    )
    weights = hidden * ((2 * heads + 2 * kv_heads) * dim + 3 * wide)
    flops = 2.0 * tokens * weights + 2.0 * tokens * tokens * heads * dim  # half of the pairs: causal
    return flops, float(weights * ELEMENT_BYTES[point.dtype])


def _training_linear(shape: Mapping[str, int | str], point: Point) -> Work:
    return _linear(shape, point, *_count(shape, "tokens"))


def _training_experts(shape: Mapping[str, int | str], point: Point) -> Work:
    experts, rows = _count(shape, "experts", "rows")
    flops, moved_bytes = _linear(shape, point, rows)
    return experts * flops, experts * moved_bytes


def _linear(shape: Mapping[str, int | str], point: Point, rows: int) -> Work:
    """All four kinds multiply as much; a gradient that is added up in 32 bits is read and written."""
    wide_in, wide_out = _count(shape, "in_features", "out_features")
    size = ELEMENT_BYTES[point.dtype]
    weight_bytes = 8 if shape["kind"] == "weight_gradient_fp32" else size
    moved = rows * (wide_in + wide_out) * size + wide_in * wide_out * weight_bytes
    return 2.0 * rows * wide_in * wide_out, float(moved)


def _training_attention(shape: Mapping[str, int | str], point: Point) -> Work:
    """Forward: scores and values. Backward: both again, and the gradients of queries, keys and values (five products
    for two: FlashAttention, arXiv:2205.14135, algorithm 4); it reads q, k, v, the output and its gradient."""
    batch, query, heads, kv_heads = _count(shape, "batch", "query_tokens", "heads", "kv_heads")
    qk, value = _count(shape, "head_dim", "value_dim")
    pairs, tokens = batch * heads * visible_pairs(query, 0, 0), batch * query * ELEMENT_BYTES[point.dtype]
    if shape["kind"] == "forward":
        return 2.0 * pairs * (qk + value), float(tokens * (heads + kv_heads) * (qk + value))
    moved = tokens * (heads * 2 * (qk + value) + kv_heads * 2 * (qk + value))
    return 2.0 * pairs * (3 * qk + 2 * value), float(moved)


_WORK: dict[str, Callable[[Mapping[str, int | str], Point], Work]] = {
    "gemm": _gemm,
    "attention_prefill": _attention_prefill,
    "attention_decode": _attention_decode,
    "mla_prefill": _mla_prefill,
    "mla_decode": _mla_decode,
    "mla_bmm": _mla_bmm,
    "moe": _moe,
    "collective": _collective,
    "memcpy": _memcpy,
    "launch": _launch,
    "sustained": _sustained,
    "training_linear": _training_linear,
    "training_attention": _training_attention,
    "training_experts": _training_experts,
}
