"""Measurements small enough to read: rows of our schema, and other people's files in their own layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from profiles.measurements import OPERATIONS, columns_of

_VALUES: dict[str, object] = {
    "gpu": "H200",
    "dtype": "bf16",
    "kv_dtype": "bf16",
    "latency_us": 12.5,
    "kernel": "cublas",
    "framework": "vllm",
    "framework_version": "0.24.0",
    "source": "a test",
    "date": "2026-11-21",
    "routing": "balanced",
}


def _make(operation: str, count: int = 1, **columns: object) -> pd.DataFrame:
    values = dict(_VALUES, kind="pre" if operation == "mla_bmm" else "all_reduce")
    filled = {c.name: values.get(c.name, 8) for c in columns_of(OPERATIONS[operation]) if c.required}
    return pd.DataFrame({**filled, **columns}, index=range(count))


@pytest.fixture
def make_rows() -> Callable[..., pd.DataFrame]:
    """``make_rows(operation, count, **columns)``: valid rows, the given columns in place of the usual."""
    return _make


Writer = Callable[..., Path]


@pytest.fixture
def aic(tmp_path: Path) -> Writer:
    """Writes one table of an aiconfigurator tree; returns the folder to give as ``--from``."""
    root = tmp_path / "wheel"

    def write(place: str, columns: dict[str, object], *, framework: str = "", version: str = "") -> Path:
        _, _, folder, own_version, _ = place.split("/")
        names = {"vllm": "VLLM", "sglang": "SGLang", "trtllm": "TRTLLM", "nccl": "TRTLLM"}
        frame = pd.DataFrame(
            {
                "framework": framework or names[folder],
                "version": version or own_version,
                "device": "NVIDIA H200",
                "kernel_source": "kernel",
                **columns,
            }
        )
        file = root / "aiconfigurator_core/systems/data" / f"{place}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(file, index=False)
        return root

    return write


GEMM = {
    "gemm_dtype": ["bfloat16", "fp8"],
    "m": [1, 2],
    "n": [4096, 4096],
    "k": [512, 512],
    "latency": [0.002, 0.003],
}


@pytest.fixture
def aic_gemm(aic: Writer) -> Path:
    """A tree with one GEMM table."""
    return aic("h200_sxm/gemm/vllm/0.24.0/gemm_perf", GEMM)


@pytest.fixture
def vidur_mlp(tmp_path: Path) -> Path:
    """Llama-2-70B split four ways, as vidur writes it; the same question comes twice."""
    table = pd.DataFrame(
        {
            "time_stats.mlp_up_proj.median": [1.0, 3.0],
            "time_stats.mlp_down_proj.median": [0.5, 0.5],
            "time_stats.attn_pre_proj.median": [0.25, 0.25],
            "time_stats.attn_post_proj.median": [0.2, 0.2],
            "n_head": 64,
            "n_kv_head": 8,
            "n_embd": 8192,
            "n_expanded_embd": 28672,
            "vocab_size": 32768,
            "use_gated_mlp": True,
            "num_tokens": 128,
            "num_tensor_parallel_workers": 4,
        }
    )
    file = tmp_path / "vidur" / "mlp.csv"
    file.parent.mkdir(exist_ok=True)
    table.to_csv(file, index=False)
    return file


@pytest.fixture
def vidur_all_reduce(tmp_path: Path) -> Path:
    """Two GPUs of one node, two of two nodes, and one alone."""
    table = pd.DataFrame(
        {
            "time_stats.all_reduce.median": [0.020, 0.043, 0.001],
            "rank": 0,
            "num_workers": [2, 2, 1],
            "size": 2048,
            "collective": "all_reduce",
            "devices_per_node": [2, 1, 1],
            "max_devices_per_node": 8,
        }
    )
    file = tmp_path / "vidur" / "all_reduce.csv"
    file.parent.mkdir(exist_ok=True)
    table.to_csv(file)
    return file
