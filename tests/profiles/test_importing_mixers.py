"""aiconfigurator's tables of layers other than plain attention: what their rows become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from importing import read

from profiles.importers import aiconfigurator

Writer = Callable[..., Path]


def test_modules_on_a_shared_index_are_rows_of_their_own(aic: Writer) -> None:
    table = {
        "op_name": ["dsa_context_module", "dsa_context_module_skip_indexer"],
        "architecture": "GlmMoeDsaForCausalLM",
        "gemm_type": "bfloat16",
        "kv_cache_dtype": "fp8",
        "num_heads": 16,
        "batch_size": 2,
        "isl": 1024,
        "step": [0, 256],
        "latency": [2.0, 1.0],
    }
    tables = read(
        aiconfigurator.IMPORTER, aic("h200_sxm/sparse_attention/sglang/0.5.14/dsa_context_module_perf", table)
    )
    assert tables["dsa_prefill"]["latency_us"].tolist() == [2000.0]
    assert tables["dsa_shared_prefill"]["latency_us"].tolist() == [1000.0]
    assert "index_heads" not in tables["dsa_shared_prefill"]


def test_compressed_attention_has_the_widths_of_its_model_and_both_ratios(aic: Writer) -> None:
    table = {
        "model": ["sgl-project/DeepSeek-V4-Flash-FP8", "deepseek-ai/DeepSeek-V4-Pro"],
        "gemm_type": "fp8_block",
        "num_heads": [8, 16],
        "batch_size": 1,
        "isl": 1,
        "step": 4095,
        "latency": 0.05,
    }
    folder = "b200_sxm/sparse_attention/vllm/0.24.0"
    aic(f"{folder}/dsv4_csa_generation_module_perf", {**table, "compress_ratio": 4})
    source = aic(f"{folder}/dsv4_hca_generation_module_perf", {**table, "compress_ratio": 128})
    rows = read(aiconfigurator.IMPORTER, source)["compressed_decode"]
    shown = rows[["ratio", "hidden", "q_rank", "index_top_k", "context_tokens"]].to_numpy().tolist()
    assert sorted(shown) == [
        [4, 4096, 1024, 512, 4096],
        [4, 7168, 1536, 1024, 4096],
        [128, 4096, 1024, 0, 4096],
        [128, 7168, 1536, 0, 4096],
    ]


def test_the_delta_rule_and_the_convolution_are_taken_apart(aic: Writer) -> None:
    table = {
        "kernel_source": ["causal_conv1d_update", "fused_recurrent_kda_packed_decode", "fused_kda_decode"],
        "phase": "generation",
        "batch_size": 4,
        "seq_len": 1,
        "d_conv": 4,
        "num_k_heads": 24,
        "head_k_dim": 128,
        "num_v_heads": 24,
        "head_v_dim": 128,
        "latency": [0.004, 0.01, 0.012],
    }
    rows = read(aiconfigurator.IMPORTER, aic("h200_sxm/kda/vllm/0.27.0/kda_perf", table))["kda_decode"]
    assert rows[["batch", "heads", "latency_us"]].to_numpy().tolist() == [[4, 24, 10.0]]


@pytest.mark.parametrize(("phase", "step"), [("context", "prefill"), ("generation", "decode")])
def test_mambas_table_is_one_of_convolutions(aic: Writer, phase: str, step: str) -> None:
    table = {
        "kernel_source": "causal_conv1d_fn",
        "phase": phase,
        "batch_size": [2],
        "seq_len": 64,
        "d_conv": 4,
        "nheads": 64,
        "head_dim": 64,
        "n_groups": 8,
        "d_state": 128,
        "latency": 0.01,
    }
    tables = read(aiconfigurator.IMPORTER, aic("b200_sxm/linear_attention/trtllm/1.3.0/mamba2_perf", table))
    assert list(tables) == [f"short_conv_{step}"]
    assert tables[f"short_conv_{step}"]["channels"].tolist() == [64 * 64 + 2 * 8 * 128]


def test_only_rows_of_both_halves_of_a_layer_are_hyper_connections(aic: Writer) -> None:
    table = {
        "op_name": ["pre", "post", "pre"],
        "num_sites": [2, 2, 1],
        "num_tokens": [8, 8, 16],
        "hc_mult": 4,
        "hidden_size": 4096,
        "latency": 0.01,
    }
    rows = read(aiconfigurator.IMPORTER, aic("b200_sxm/mhc/vllm/0.24.0/mhc_module_perf", table))["hyper_connection"]
    assert sorted(rows[["kind", "tokens", "streams"]].to_numpy().tolist()) == [["post", 8, 4], ["pre", 8, 4]]
