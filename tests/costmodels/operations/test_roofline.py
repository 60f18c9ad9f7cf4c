"""The roofline: FLOPs and bytes against numbers worked out by hand, counting formulas against counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import GRIDS, questions

from costmodels.kernels.features import matrix
from costmodels.operations.registry import families
from costmodels.operations.roofline import (
    CODES,
    WEIGHT_BYTES,
    Hardware,
    code,
    visible_pairs,
)
from costmodels.operations.wide_moe import expected_active
from profiles.hardware import find_gpu, gpus
from profiles.measurements import DTYPES, OPERATIONS


def asked(**columns: int | str) -> dict[str, np.ndarray]:
    return {name: np.array([code(name, value) if isinstance(value, str) else value]) for name, value in columns.items()}


GQA = {"dtype": "bf16", "heads": 8, "kv_heads": 2, "head_dim": 64, "window_tokens": 0, "kv_dtype": "bf16"}
MLA = {"dtype": "bf16", "kv_dtype": "bf16"}
GDN = {"dtype": "bf16", "key_heads": 2, "value_heads": 4}
DSA = {
    "dtype": "bf16",
    "kv_dtype": "bf16",
    "heads": 4,
    "hidden": 64,
    "q_rank": 32,
    "qk_dim": 192,
    "v_dim": 128,
    "index_heads": 2,
}
# To the query's latent, the shared latent of 512 + 64, the index key and the index weights; from the query's latent to
# 4 heads of 192 and 2 index heads of 128; into and out of the latent; out.
DSA_WEIGHTS = 64 * (32 + 576 + 128 + 2) + 32 * (4 * 192 + 2 * 128) + 4 * 512 * (128 + 128) + 4 * 128 * 64
MOE = {
    "dtype": "bf16",
    "hidden": 64,
    "intermediate": 32,
    "top_k": 2,
    "experts": 2,
    "moe_tp": 1,
    "moe_ep": 1,
    "gated": 1,
    "routing": "balanced",
}

# (operation, question, FLOPs, bytes of memory, bytes over the link), each worked out by hand.
BY_HAND = [
    ("gemm", {"dtype": "bf16", "m": 3, "n": 5, "k": 7}, 210, (3 * 7 + 5 * 7 + 3 * 5) * 2, 0),
    ("gemm", {"dtype": "fp8", "m": 3, "n": 5, "k": 7}, 210, 3 * 7 + 5 * 7 + 3 * 5 * 2, 0),
    ("gemm", {"dtype": "int4", "m": 3, "n": 5, "k": 7}, 210, 3 * 7 * 2 + 35 * (0.5 + 2 / 128) + 30, 0),
    ("gemm", {"dtype": "nvfp4", "m": 16, "n": 16, "k": 16}, 8192, 2 * 256 * 0.5625 + 512, 0),
    # Queries of 3 tokens see 1 + 2 + 3 keys; q, out: 3 × 8 × 64, k, v: 3 × 2 × 64, 2 bytes each.
    ("attention_prefill", GQA | {"batch": 2, "query_tokens": 3, "prefix_tokens": 0}, 4 * 2 * 8 * 64 * 6,
     2 * 2 * (2 * 3 * 8 * 64 + 2 * 3 * 2 * 64), 0),
    # Behind 10 cached tokens: 11 + 12 + 13 keys; all 13 are read.
    ("attention_prefill", GQA | {"batch": 1, "query_tokens": 3, "prefix_tokens": 10, "kv_dtype": "fp8"},
     4 * 8 * 64 * 36, 2 * 2 * 3 * 8 * 64 + 2 * 13 * 2 * 64, 0),
    ("attention_decode", GQA | {"batch": 4, "context_tokens": 100}, 4 * 4 * 8 * 64 * 100,
     4 * (2 * 2 * 8 * 64 + 2 * 2 * 100 * 2 * 64), 0),
    ("attention_decode", GQA | {"batch": 4, "context_tokens": 100, "window_tokens": 30}, 4 * 4 * 8 * 64 * 30,
     4 * (2 * 2 * 8 * 64 + 2 * 2 * 30 * 2 * 64), 0),
    # q·k over 192, p·v over 128.
    ("mla_prefill", MLA | {"batch": 1, "query_tokens": 2, "prefix_tokens": 0, "heads": 4},
     2 * 4 * (192 + 128) * 3, 2 * 4 * 2 * (192 + 128 + 192 + 128), 0),
    # Absorbed: both products on the latent, which is read once for all heads.
    ("mla_decode", MLA | {"batch": 3, "context_tokens": 10, "heads": 4}, 3 * 2 * 4 * (576 + 512) * 10,
     3 * (2 * 10 * 576 + 2 * 4 * (576 + 512)), 0),
    ("mla_bmm", {"dtype": "bf16", "kind": "pre", "tokens": 5, "heads": 4}, 2 * 5 * 4 * 128 * 512,
     2 * 4 * 128 * 512 + 2 * 5 * 4 * (128 + 512), 0),
    # 2 key and 4 value heads of 128: a convolution of 4 over 1024 channels; 4 products with each 128×128 state, which
    # is written once in fp32; q, k, v in and the output out.
    ("gdn_prefill", GDN | {"batch": 3, "query_tokens": 5}, 15 * (2 * 4 * 1024 + 2 * 4 * 4 * 128**2),
     15 * 2 * (1024 + 512) + 3 * 4 * 128**2 * 4, 0),
    # The state is read, too.
    ("gdn_decode", GDN | {"batch": 3}, 3 * (2 * 4 * 1024 + 2 * 4 * 4 * 128**2),
     3 * 2 * (1024 + 512) + 2 * 3 * 4 * 128**2 * 4, 0),
    # All 3 keys are seen, so none is scored, and heads attend over 192 and 128.
    ("dsa_prefill", DSA | {"batch": 1, "query_tokens": 2, "prefix_tokens": 1},
     2 * (2 * DSA_WEIGHTS + 4 * (192 + 128) * 5), 2 * DSA_WEIGHTS + 4 * 2 * 64 + 3 * 576 * 2, 0),
    # 5000 keys are scored in fp8, at half the price of 16 bits, and read with their scales; 2048 latents are seen.
    ("dsa_decode", DSA | {"batch": 3, "context_tokens": 5000},
     2 * 3 * (DSA_WEIGHTS + 5000 * 2 * 128 * 0.5 + 4 * 2048 * (576 + 512)),
     2 * DSA_WEIGHTS + 4 * 3 * 64 + 3 * (2048 * 576 * 2 + 5000 * 132), 0),
    # Both experts see all tokens: gate, up and down of 64 × 32.
    ("moe", MOE | {"tokens": 5}, 2 * 5 * 2 * 3 * 64 * 32, 2 * 2 * 3 * 64 * 32 + 10 * 2 * (64 + 64 + 3 * 32), 0),
    ("moe", MOE | {"tokens": 5, "gated": 0}, 2 * 5 * 2 * 2 * 64 * 32,
     2 * 2 * 2 * 64 * 32 + 10 * 2 * (64 + 64 + 2 * 32), 0),
    ("moe", MOE | {"tokens": 6, "moe_tp": 2, "moe_ep": 2}, 2 * 6 * 3 * 64 * 16,
     2 * 3 * 64 * 16 + 6 * 2 * (64 + 64 + 3 * 16), 0),
    ("collective", {"dtype": "bf16", "kind": "all_reduce", "message_bytes": 800, "num_gpus": 4}, 0, 1600, 1200),
    ("collective", {"dtype": "bf16", "kind": "all_gather", "message_bytes": 800, "num_gpus": 4}, 0, 1600, 600),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "question", "flops", "memory_bytes", "link_bytes"), BY_HAND)
def test_work_is_what_one_counts_by_hand(
    operation: str, question: dict[str, int | str], flops: float, memory_bytes: float, link_bytes: float
) -> None:
    todo = families().kernel(operation).work(asked(**question))
    assert todo.flops[0] == pytest.approx(flops)
    assert todo.memory_bytes[0] == pytest.approx(memory_bytes)
    assert todo.link_bytes[0] == pytest.approx(link_bytes)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 50))
def test_visible_pairs_are_those_that_one_counts(query: int, prefix: int, window: int) -> None:
    counted = sum(min(prefix + i, window or 10**9) for i in range(1, query + 1))
    got = visible_pairs(np.array([float(query)]), np.array([float(prefix)]), np.array([float(window)]))
    assert got[0] == pytest.approx(counted)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100_000))
def test_expected_active_experts_follow_from_the_chance_to_be_missed(experts: int, top_k: int, tokens: int) -> None:
    top_k = min(top_k, experts)
    got = expected_active(*(np.array([float(x)]) for x in (experts, top_k, tokens)))[0]
    assert got == pytest.approx(experts * (1 - (1 - top_k / experts) ** tokens), rel=1e-6)
    assert top_k - 1e-6 <= got <= experts


def test_every_catalogue_gpu_has_a_rate_for_every_precision() -> None:
    hardware = Hardware.of(list(gpus().values()))
    assert hardware.peak_flops.shape == (len(gpus()), len(DTYPES))
    assert np.all(hardware.peak_flops > 1e12)
    assert np.isfinite(hardware.traits).all()


def test_rates_are_those_of_the_tensor_cores_that_multiply() -> None:
    h100, a100 = find_gpu("H100-SXM"), find_gpu("A100-SXM-80GB")
    rate = {
        (gpu.name, dtype): Hardware.of([gpu]).peak_flops[0, DTYPES.index(dtype)]
        for gpu in (h100, a100)
        for dtype in DTYPES
    }
    assert rate["H100-SXM", "fp8"] == h100.peak_flops["fp8"]
    assert rate["H100-SXM", "int4"] == rate["H100-SXM", "mxfp4"] == h100.peak_flops["bf16"]  # weight-only
    assert rate["A100-SXM-80GB", "fp8"] == a100.peak_flops["bf16"]  # no fp8 cores: products in bf16
    assert rate["A100-SXM-80GB", "fp32"] == a100.peak_flops["tf32"]


def test_weights_take_their_bits_and_their_scales() -> None:
    assert WEIGHT_BYTES["bf16"] == 2
    assert WEIGHT_BYTES["fp8_block"] == 1
    assert WEIGHT_BYTES["nvfp4"] == pytest.approx(4.5 / 8)
    assert WEIGHT_BYTES["mxfp4"] == pytest.approx(4.25 / 8)
    assert WEIGHT_BYTES["int4"] == pytest.approx(4.125 / 8)


def test_a_large_square_product_is_bound_by_compute_and_a_thin_one_by_memory() -> None:
    gpu = find_gpu("H100-SXM")
    hardware, gemm = Hardware.of([gpu]), families().kernel("gemm")
    large, thin = (asked(dtype="bf16", m=m, n=8192, k=8192) for m in (8192, 1))
    compute, transfer = gemm.times_us(large, np.zeros(1, np.int64), hardware)
    assert compute[0] == pytest.approx(2 * 8192**3 / gpu.peak_flops["bf16"] * 1e6)
    assert compute > transfer
    compute, transfer = gemm.times_us(thin, np.zeros(1, np.int64), hardware)
    assert transfer[0] == pytest.approx(2 * (8192**2 + 2 * 8192) / gpu.memory_bandwidth_bytes_per_s * 1e6)
    assert gemm.roofline_us(thin, np.zeros(1, np.int64), hardware) == transfer > compute


@pytest.mark.parametrize("operation", GRIDS)
def test_more_of_anything_is_never_less_work(operation: str) -> None:
    q = questions(operation, 50)
    splits = {"moe_tp", "moe_ep", "window_tokens", "num_gpus", "gated", "head_dim", "ratio"}
    kernel = families().kernel(operation)
    before = kernel.work(q)
    for name in OPERATIONS[operation].shape_names:
        if name in CODES or name in splits:
            continue
        after = kernel.work({**q, name: q[name] * 2})
        for part in ("flops", "memory_bytes", "link_bytes"):
            assert np.all(getattr(after, part) >= getattr(before, part) * (1 - 1e-12)), name


@pytest.mark.parametrize("operation", families().kernels)
def test_features_are_finite_for_every_gpu(operation: str) -> None:
    every = list(gpus().values())
    q = {name: np.repeat(values, len(every)) for name, values in questions(operation, 20).items()}
    gpu = np.tile(np.arange(len(every)), 20)
    features = matrix(families().kernel(operation), q, gpu, Hardware.of(every))
    assert features.shape[0] == 20 * len(every)
    assert np.isfinite(features).all()


def test_a_word_without_a_code_is_refused() -> None:
    with pytest.raises(ValueError, match="tuple"):
        code("dtype", "fp7")
