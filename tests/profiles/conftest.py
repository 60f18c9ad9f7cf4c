"""Measurements small enough to read: rows of our schema, and other people's files in their own layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from profiles.collect.journal import Header, Journal
from profiles.collect.points import Outcome, Point, Timing
from profiles.hardware import find_gpu
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
    columns_required = [c for c in columns_of(OPERATIONS[operation]) if c.required]
    kinds = {c.name: c.levels[0] for c in columns_required if c.levels and c.name in ("kind", "state")}
    filled = {c.name: {**_VALUES, **kinds}.get(c.name, 8) for c in columns_required}
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


@pytest.fixture
def own_journal(tmp_path: Path) -> Path:
    """The folder of a journal of our own harness: one GEMM measured on an H200, one skipped."""
    h200 = find_gpu("H200")
    device = {"name": "NVIDIA H200", "sm_count": h200.sm_count, "memory_bytes": h200.memory_bytes}
    timing = Timing(12.5, 12.0, 13.0, 20, 0.01, 0, "cuda_graph")
    ran = {"kernel": "cublas", "framework": "torch", "framework_version": "2.9"}
    with Journal(tmp_path / "journal") as journal:
        journal.begin(Header("a test", "2026-11-21", "", device, {"torch": "2.9"}))
        shape = {"m": 64, "n": 4096, "k": 4096}
        journal.add(Outcome(Point("gemm", "bf16", shape), "measured", timing=timing, **ran))
        journal.add(Outcome(Point("gemm", "fp8", shape), "skipped", "no fp8"))
    return tmp_path / "journal"
