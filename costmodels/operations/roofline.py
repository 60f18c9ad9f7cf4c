"""FLOPs, bytes and the roofline of every operation, vectorised.

The roofline (Williams et al., CACM 52(4), 2009) is the time below which no kernel can go:
max(FLOPs / peak rate, bytes / bandwidth). It is the yardstick of the forests and the answer where nothing
better is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from profiles.hardware import Gpu
from profiles.measurements import DTYPES

Columns = Mapping[str, NDArray[np.generic]]
"""Shape columns of ``n`` questions, as :data:`profiles.measurements.OPERATIONS` names them. Text columns
hold codes (see :data:`CODES`)."""

CODES: dict[str, tuple[str, ...]] = {
    "dtype": DTYPES,
    "kv_dtype": DTYPES,
    "kind": ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "pre", "post", "send_recv"),
    "routing": ("balanced", "power_law_1.01", "power_law_1.2"),
}
ROUTING_SKEW = np.array([0.0, 1.01, 1.2])

# Bytes of one weight, scales included: fp8_block has one fp32 scale per 128×128 (negligible), nvfp4 one fp8
# scale per 16 values, mxfp4 one 8-bit exponent per 32, int4 (AWQ/GPTQ) one fp16 scale per 128.
WEIGHT_BYTES = dict(
    zip(
        DTYPES,
        (4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5 + 1 / 16, 0.5 + 1 / 32, 0.5 + 1 / 32, 0.5 + 2 / 128),
        strict=True,
    )
)
_ACTIVATION_BYTES = dict(zip(DTYPES, (4, 2, 2, 1, 2, 1, 1, 0.5 + 1 / 16, 2, 1, 2), strict=True))
# The tensor-core rate at which each precision multiplies; where a GPU lacks it, the next in the list.
_RATES = dict(
    zip(
        DTYPES,
        (
            ("tf32", "fp16", "bf16"), ("bf16", "fp16"), ("fp16", "bf16"), ("int8", "bf16", "fp16"), ("bf16", "fp16"),
            ("fp8", "bf16", "fp16"), ("fp8", "bf16", "fp16"), ("fp4", "fp8", "bf16", "fp16"),
            ("bf16", "fp16"), ("fp8", "bf16", "fp16"), ("bf16", "fp16"),
        ),
        strict=True,
    )
)  # fmt: skip

weight_bytes = np.array([WEIGHT_BYTES[dtype] for dtype in DTYPES])
activation_bytes = np.array([_ACTIVATION_BYTES[dtype] for dtype in DTYPES])


def code(column: str, value: str) -> int:
    """The code of a text value; raises ValueError for one without a code."""
    return CODES[column].index(value)


@dataclass(frozen=True)
class Hardware:
    """GPU facts as arrays, one row per GPU of ``names``: what the formulas need."""

    names: tuple[str, ...]
    peak_flops: Floats  # [gpus, dtypes]
    bandwidth: Floats  # [gpus], bytes/s
    link: Floats  # [gpus], scale-up bytes/s, one direction
    traits: Floats  # [gpus, traits], features of the forests
    trait_names: tuple[str, ...]

    @classmethod
    def of(cls, gpus: Sequence[Gpu]) -> Hardware:
        peaks = np.array(
            [[next(g.peak_flops[r] for r in _RATES[d] if r in g.peak_flops) for d in DTYPES] for g in gpus]
        )
        traits = np.array(
            [
                (
                    g.sm_count,
                    g.boost_clock_mhz / 1e3,
                    g.l2_bytes / 1e6,
                    np.log2(g.memory_bandwidth_bytes_per_s / 1e12),
                    g.compute_capability or 0.0,
                    np.log2(g.scale_up_bytes_per_s / 1e9),
                )
                for g in gpus
            ]
        )
        return cls(
            tuple(g.name for g in gpus),
            peaks,
            np.array([g.memory_bandwidth_bytes_per_s for g in gpus]),
            np.array([g.scale_up_bytes_per_s for g in gpus]),
            traits,
            ("sm_count", "clock", "l2", "bandwidth", "capability", "link"),
        )


@dataclass(frozen=True)
class Work:
    """What one operation has to do, per question: shape [n] each."""

    flops: Floats
    memory_bytes: Floats
    link_bytes: Floats


def work(operation: str, q: Columns) -> Work:
    """FLOPs and bytes that ``operation`` cannot avoid, for the questions ``q``."""
    flops, moved, linked = _WORK[operation](q)
    zero = np.zeros(len(flops))
    return Work(flops, moved, zero if linked is None else linked)


def times_us(operation: str, q: Columns, gpu: NDArray[np.int64], hw: Hardware) -> tuple[Floats, Floats]:
    """(compute time, transfer time) of the roofline in µs, shape [n] each; ``gpu`` indexes ``hw``."""
    todo = work(operation, q)
    peak = hw.peak_flops[gpu, q["dtype"].astype(np.int64)]
    compute = todo.flops / peak * 1e6
    transfer = np.maximum(todo.memory_bytes / hw.bandwidth[gpu], todo.link_bytes / hw.link[gpu]) * 1e6
    return compute, transfer


def roofline_us(operation: str, q: Columns, gpu: NDArray[np.int64], hw: Hardware) -> Floats:
    return np.maximum(*times_us(operation, q, gpu, hw))


_Raw = tuple[Floats, Floats, Floats | None]


def _f(q: Columns, name: str) -> Floats:
    return np.asarray(q[name], dtype=np.float64)


def _of_dtype(table: Floats, q: Columns, column: str = "dtype") -> Floats:
    return table[q[column].astype(np.int64)]


def _gemm(q: Columns) -> _Raw:
    m, n, k = _f(q, "m"), _f(q, "n"), _f(q, "k")
    moved = m * k * _of_dtype(activation_bytes, q) + n * k * _of_dtype(weight_bytes, q) + m * n * 2
    return 2 * m * n * k, moved, None


def visible_pairs(query: Floats, prefix: Floats, window: Floats) -> Floats:
    """Query–key pairs of causal attention: Σ_{i=1..query} min(prefix + i, window), window 0 meaning no
    limit."""
    limit = np.where(window > 0, window, np.inf)
    growing = np.clip(limit - prefix, 0, query)  # queries that still see everything before them
    full = query - growing
    return growing * prefix + growing * (growing + 1) / 2 + np.where(full > 0, full * np.minimum(limit, 1e18), 0)


def _attention_prefill(q: Columns) -> _Raw:
    batch, query, prefix = _f(q, "batch"), _f(q, "query_tokens"), _f(q, "prefix_tokens")
    heads, kv_heads, dim = _f(q, "heads"), _f(q, "kv_heads"), _f(q, "head_dim")
    window = _f(q, "window_tokens")
    flops = 4 * batch * heads * dim * visible_pairs(query, prefix, window)
    keys = np.where(window > 0, np.minimum(prefix, window) + query, prefix + query)
    moved = batch * dim * (4 * query * heads + 2 * keys * kv_heads * _of_dtype(weight_bytes, q, "kv_dtype"))
    return flops, moved, None


def _attention_decode(q: Columns) -> _Raw:
    batch, context, window = _f(q, "batch"), _f(q, "context_tokens"), _f(q, "window_tokens")
    heads, kv_heads, dim = _f(q, "heads"), _f(q, "kv_heads"), _f(q, "head_dim")
    keys = np.where(window > 0, np.minimum(context, window), context)
    moved = batch * dim * (4 * heads + 2 * keys * kv_heads * _of_dtype(weight_bytes, q, "kv_dtype"))
    return 4 * batch * heads * dim * keys, moved, None


# Latent attention is measured for DeepSeek's widths only: q·k over 128+64 and values of 128 when rebuilt
# (prefill), both on the 512+64 latent when absorbed (decode). arXiv:2405.04434, §2.1.
_MLA_QK, _MLA_V, _MLA_LATENT, _MLA_ROPE = 192, 128, 512, 64


def _mla_prefill(q: Columns) -> _Raw:
    batch, query, prefix, heads = (
        _f(q, "batch"),
        _f(q, "query_tokens"),
        _f(q, "prefix_tokens"),
        _f(q, "heads"),
    )
    pairs = visible_pairs(query, prefix, np.zeros_like(query))
    moved = 2 * batch * heads * (query * (_MLA_QK + _MLA_V) + (prefix + query) * (_MLA_QK + _MLA_V))
    return 2 * batch * heads * (_MLA_QK + _MLA_V) * pairs, moved, None


def _mla_decode(q: Columns) -> _Raw:
    batch, context, heads = _f(q, "batch"), _f(q, "context_tokens"), _f(q, "heads")
    width = _MLA_LATENT + _MLA_ROPE
    moved = batch * (context * width * _of_dtype(weight_bytes, q, "kv_dtype") + 2 * heads * (width + _MLA_LATENT))
    return 2 * batch * heads * (width + _MLA_LATENT) * context, moved, None


def _mla_bmm(q: Columns) -> _Raw:
    tokens, heads = _f(q, "tokens"), _f(q, "heads")
    weights = heads * _MLA_V * _MLA_LATENT * _of_dtype(weight_bytes, q)
    return (
        2 * tokens * heads * _MLA_V * _MLA_LATENT,
        weights + 2 * tokens * heads * (_MLA_V + _MLA_LATENT),
        None,
    )


# Gated DeltaNet is measured for Qwen's widths only: heads of 128, a convolution of 4, state in fp32.
_GDN_HEAD, _GDN_CONV, _GDN_STATE = 128, 4, 4


def _gdn(q: Columns, tokens: Floats, states_moved: float) -> _Raw:
    """Per token and value head, decaying, correcting, updating and reading a 128×128 state take 4 products with it
    (arXiv:2412.06464, eq. 10), which every way of computing it needs."""
    batch, key_heads, value_heads = _f(q, "batch"), _f(q, "key_heads"), _f(q, "value_heads")
    channels = (2 * key_heads + value_heads) * _GDN_HEAD
    state = value_heads * _GDN_HEAD**2
    flops = tokens * (2 * _GDN_CONV * channels + 2 * 4 * state)
    moved = tokens * 2 * (channels + value_heads * _GDN_HEAD) + states_moved * batch * state * _GDN_STATE
    return flops, moved, None


def _gdn_prefill(q: Columns) -> _Raw:
    return _gdn(q, _f(q, "batch") * _f(q, "query_tokens"), 1.0)


def _gdn_decode(q: Columns) -> _Raw:
    return _gdn(q, _f(q, "batch"), 2.0)


# Sparse attention is measured as a module, for DeepSeek's latent, index heads of 128 and the best 2048 tokens.
INDEX_DIM, INDEX_TOP = 128, 2048
_INDEX_BYTES = INDEX_DIM + 4  # of one token's key: fp8 and a scale


def _dsa(q: Columns, tokens: Floats, keys: Floats, pairs: Floats, seen: Floats) -> _Raw:
    """``tokens`` new, ``keys`` in the cache of all sequences, of whose ``pairs`` with queries ``seen`` are attended to.
    Up to 2048 tokens everything is, so that nothing needs to be scored, and K and V may be rebuilt."""
    heads, hidden, rank = _f(q, "heads"), _f(q, "hidden"), _f(q, "q_rank")
    qk, v, index = _f(q, "qk_dim"), _f(q, "v_dim"), _f(q, "index_heads")
    down = hidden * (rank + _MLA_LATENT + _MLA_ROPE + INDEX_DIM + index)
    up = rank * (heads * qk + index * INDEX_DIM)
    weights = down + up + heads * (_MLA_LATENT * (qk - _MLA_ROPE + v) + v * hidden)
    scored = np.where(pairs > seen, 1.0, 0.0)
    attended = np.where(scored > 0, 2.0 * _MLA_LATENT + _MLA_ROPE, qk + v)
    # Scores are multiplied in fp8, twice as fast as 16-bit projections.
    score = np.where(_of_dtype(weight_bytes, q) > 1, 0.5, 1.0) * scored * index * INDEX_DIM
    flops = 2 * (tokens * weights + pairs * score + heads * seen * attended)
    latents = np.minimum(keys, seen) * (_MLA_LATENT + _MLA_ROPE) * _of_dtype(weight_bytes, q, "kv_dtype")
    moved = weights * _of_dtype(weight_bytes, q) + 4 * tokens * hidden + latents + scored * keys * _INDEX_BYTES
    return flops, moved, None


def _dsa_prefill(q: Columns) -> _Raw:
    batch, query, prefix = _f(q, "batch"), _f(q, "query_tokens"), _f(q, "prefix_tokens")
    pairs, seen = (visible_pairs(query, prefix, np.full_like(query, most)) for most in (0.0, INDEX_TOP))
    return _dsa(q, batch * query, batch * (prefix + query), batch * pairs, batch * seen)


def _dsa_decode(q: Columns) -> _Raw:
    batch, context = _f(q, "batch"), _f(q, "context_tokens")
    return _dsa(q, batch, batch * context, batch * context, batch * np.minimum(context, INDEX_TOP))


def expected_active(experts: Floats, top_k: Floats, tokens: Floats) -> Floats:
    """Experts of ``experts`` that at least one of ``tokens`` uniformly routed tokens reaches, in
    expectation."""
    return experts * -np.expm1(tokens * np.log1p(-np.minimum(top_k / experts, 1 - 1e-12)))


def _moe(q: Columns) -> _Raw:
    tokens, hidden, top_k = _f(q, "tokens"), _f(q, "hidden"), _f(q, "top_k")
    width = _f(q, "intermediate") / _f(q, "moe_tp")
    matrices = np.where(_f(q, "gated") > 0, 3.0, 2.0)
    ep = _f(q, "moe_ep")
    pairs = tokens * top_k / ep
    active = np.maximum(expected_active(_f(q, "experts"), top_k, tokens) / ep, np.minimum(1.0, pairs))
    weights = active * matrices * hidden * width * _of_dtype(weight_bytes, q)
    moved = weights + pairs * (2 * hidden + matrices * width) * 2
    return 2 * pairs * matrices * hidden * width, moved, None


def _collective(q: Columns) -> _Raw:
    message, ranks = _f(q, "message_bytes"), _f(q, "num_gpus")
    kind = q["kind"].astype(np.int64)
    passes = np.where(kind == code("kind", "all_reduce"), 2.0, 1.0)
    # Ring bounds: each rank sends (n-1)/n of the buffer, twice for an all-reduce (Patarasuk & Yuan, JPDC
    # 69(2), 2009). A message from one rank to another goes whole.
    share = np.where(kind == code("kind", "send_recv"), 1.0, (ranks - 1) / ranks)
    return np.zeros_like(message), 2 * message, passes * message * share


_WORK = {
    "gemm": _gemm,
    "attention_prefill": _attention_prefill,
    "attention_decode": _attention_decode,
    "mla_prefill": _mla_prefill,
    "mla_decode": _mla_decode,
    "mla_bmm": _mla_bmm,
    "gdn_prefill": _gdn_prefill,
    "gdn_decode": _gdn_decode,
    "dsa_prefill": _dsa_prefill,
    "dsa_decode": _dsa_decode,
    "moe": _moe,
    "collective": _collective,
}
