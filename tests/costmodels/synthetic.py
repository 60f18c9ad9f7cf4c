"""A small world to test the cost model in: rows made from the roofline, so that the truth is known.

latency = (roofline ÷ efficiency + launch) × lognormal noise, on a grid of shapes for every operation. Tests that
need no measurements at all use an empty store: every answer is then the roofline's, smooth and monotone.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.features import LAUNCH_US
from costmodels.kernels.kernel_models import coded
from costmodels.operations.registry import families
from costmodels.operations.roofline import Columns, Hardware
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

EFFICIENCY = 0.6
NOISE = 0.03
MEASURED_GPUS = ("H100-SXM", "H200")
UNSEEN_GPU = "A100-SXM-80GB"

_GQA = {"head_dim": [128], "window_tokens": [0], "kv_dtype": ["bf16", "fp8"], "dtype": ["bf16"]}
_DSA = {
    "dtype": ["bf16"],
    "kv_dtype": ["bf16"],
    "hidden": [6144],
    "q_rank": [2048],
    "qk_dim": [256],
    "v_dim": [256],
    "index_heads": [32],
}
_DSA_SHARED = {name: values for name, values in _DSA.items() if name != "index_heads"}
_COMPRESSED = {"dtype": ["bf16"], "hidden": [4096], "q_rank": [1024], "ratio": [4, 128], "index_top_k": [512]}
_BLOCK_SPARSE = {"dtype": ["bf16"], "kv_dtype": ["bf16"], "hidden": [6144]}
_STATE_SPACE = {
    "dtype": ["bf16"],
    "state_heads": [16, 64, 128],
    "head_dim": [64],
    "state_dim": [128],
    "groups": [8],
    "state_bytes": [4],
}
GRIDS: dict[str, dict[str, list[object]]] = {
    "gemm": {
        "dtype": ["bf16"],
        "m": [1, 4, 16, 64, 256, 1024, 4096],
        "n": [512, 1024, 2048, 4096, 8192],
        "k": [512, 1024, 2048, 4096, 8192],
    },
    "attention_prefill": _GQA
    | {
        "batch": [1, 2, 8],
        "query_tokens": [16, 256, 4096],
        "prefix_tokens": [0],
        "heads": [8, 16, 32],
        "kv_heads": [1, 4, 8],
    },
    "attention_decode": _GQA
    | {
        "batch": [1, 8, 64],
        "context_tokens": [16, 1024, 32768],
        "heads": [8, 16, 32],
        "kv_heads": [1, 4, 8],
    },
    "mla_prefill": {
        "dtype": ["bf16"],
        "kv_dtype": ["bf16"],
        "batch": [1, 2, 4, 8],
        "query_tokens": [16, 128, 1024, 8192],
        "prefix_tokens": [0],
        "heads": [8, 16, 32, 64, 128],
    },
    "mla_decode": {
        "dtype": ["bf16"],
        "kv_dtype": ["bf16"],
        "batch": [1, 4, 16, 64],
        "context_tokens": [16, 512, 4096, 65536],
        "heads": [8, 16, 32, 64, 128],
    },
    "mla_bmm": {
        "dtype": ["bf16"],
        "kind": ["pre", "post"],
        "tokens": [1, 8, 64, 512, 4096],
        "heads": [4, 8, 16, 32, 64, 128],
    },
    "mla_module_prefill": {
        "dtype": ["fp8_block"],
        "kv_dtype": ["fp8"],
        "batch": [1, 2, 4, 8],
        "query_tokens": [16, 128, 1024, 8192],
        "prefix_tokens": [0],
        "heads": [16, 64, 128],
    },
    "mla_module_decode": {
        "dtype": ["fp8_block"],
        "kv_dtype": ["fp8"],
        "batch": [1, 4, 16, 64],
        "context_tokens": [16, 512, 4096, 65536],
        "heads": [16, 64, 128],
    },
    "gdn_prefill": {
        "dtype": ["bf16"],
        "batch": [1, 2, 4, 8],
        "query_tokens": [16, 128, 1024, 8192],
        "key_heads": [1, 2, 4, 8],
        "value_heads": [8, 16, 32],
    },
    "gdn_decode": {
        "dtype": ["bf16"],
        "batch": [1, 4, 16, 64, 256],
        "key_heads": [1, 2, 4, 8],
        "value_heads": [8, 16, 32, 64],
    },
    "dsa_prefill": _DSA
    | {
        "batch": [1, 2, 4, 8],
        "query_tokens": [16, 128, 1024, 8192],
        "prefix_tokens": [0],
        "heads": [8, 16, 32, 64, 128],
    },
    "dsa_decode": _DSA
    | {
        "batch": [1, 4, 16, 64],
        "context_tokens": [16, 512, 4096, 65536],
        "heads": [8, 16, 32, 64, 128],
    },
    "dsa_shared_prefill": _DSA_SHARED
    | {"batch": [1, 4], "query_tokens": [16, 1024, 8192], "prefix_tokens": [0], "heads": [8, 32, 64]},
    "dsa_shared_decode": _DSA_SHARED | {"batch": [1, 8, 64], "context_tokens": [16, 4096, 65536], "heads": [8, 32, 64]},
    "compressed_prefill": _COMPRESSED
    | {"batch": [1, 4], "query_tokens": [16, 1024, 8192], "prefix_tokens": [0], "heads": [8, 32, 64]},
    "compressed_decode": _COMPRESSED | {"batch": [1, 8, 64], "context_tokens": [16, 4096, 65536], "heads": [8, 32, 64]},
    "block_sparse_prefill": _BLOCK_SPARSE
    | {"batch": [1, 4], "query_tokens": [16, 1024, 8192], "prefix_tokens": [0], "heads": [8, 32, 64]},
    "block_sparse_decode": _BLOCK_SPARSE
    | {"batch": [1, 8, 64], "context_tokens": [16, 4096, 65536], "heads": [8, 32, 64]},
    "kda_prefill": {"dtype": ["bf16"], "batch": [1, 8], "query_tokens": [16, 1024, 8192], "heads": [12, 48, 96]},
    "kda_decode": {"dtype": ["bf16"], "batch": [1, 8, 64, 256], "heads": [12, 48, 96]},
    "short_conv_prefill": {
        "dtype": ["bf16"],
        "batch": [1, 8],
        "query_tokens": [16, 1024, 8192],
        "channels": [2048, 10240],
    },
    "short_conv_decode": {"dtype": ["bf16"], "batch": [1, 8, 64, 256], "channels": [2048, 10240]},
    "state_space_prefill": _STATE_SPACE | {"batch": [1, 8], "query_tokens": [16, 1024, 8192]},
    "state_space_decode": _STATE_SPACE | {"batch": [1, 8, 64, 256]},
    "hyper_connection": {
        "dtype": ["bf16"],
        "kind": ["pre", "post"],
        "tokens": [1, 16, 256, 4096, 65536],
        "hidden": [4096, 7168],
        "streams": [4],
    },
    "encoder_attention": {
        "dtype": ["bf16"],
        "batch": [1, 4, 16],
        "patches": [256, 1024, 4096],
        "heads": [4, 16],
        "head_dim": [64, 80],
    },
    "moe": {
        "dtype": ["bf16"],
        "tokens": [1, 8, 64, 512, 4096, 32768],
        "hidden": [2048, 4096],
        "intermediate": [768],
        "top_k": [8],
        "experts": [128],
        "moe_tp": [1, 2, 4],
        "moe_ep": [1, 4],
        "gated": [1],
        "routing": ["balanced", "power_law_1.2"],
    },
    "wide_moe": {
        "dtype": ["fp8_block"],
        "kind": ["contiguous", "masked"],
        "tokens": [1, 8, 64, 512, 4096],
        "hidden": [7168],
        "intermediate": [2048],
        "top_k": [8],
        "slots": [1, 4, 16],
        "routing": ["balanced", "power_law_0.6", "power_law_1.01"],
    },
    "collective": {
        "dtype": ["bf16"],
        "kind": ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"],
        "message_bytes": [2**power for power in range(10, 30, 2)],
        "num_gpus": [2, 4, 8],
    },
    "expert_exchange": {
        "dtype": ["fp8", "bf16"],
        "kind": ["ll_dispatch", "ll_combine", "ht_dispatch", "ht_combine"],
        "tokens": [1, 8, 64, 512, 4096],
        "hidden": [4096, 7168],
        "top_k": [8],
        "experts": [256],
        "num_gpus": [4, 8],
    },
}


def rows(operation: str, gpu: str, framework: str = "vllm", slower: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Valid measurement rows of ``operation`` over its grid; ``slower`` times what the synthetic world gives."""
    grid = GRIDS[operation]
    table = pd.DataFrame(list(itertools.product(*grid.values())), columns=list(grid))
    if "kv_heads" in table:
        table = table[table["kv_heads"] <= table["heads"]].reset_index(drop=True)
    if "num_gpus" not in table:
        table["num_gpus"] = 1
    table["gpu"] = gpu
    noise = np.random.default_rng(seed).normal(0, NOISE, len(table))
    table["latency_us"] = truth_us(operation, coded(operation, table), gpu) * slower * np.exp(noise)
    return table.assign(
        kernel="synthetic",
        framework="nccl" if operation == "collective" else framework,
        framework_version="1.0",
        source="tests/costmodels/synthetic.py",
        date="2026-01-01",
    )


def truth_us(operation: str, q: Columns, gpu: str) -> np.ndarray:
    hardware = Hardware.of([find_gpu(gpu)])
    bound = families().kernel(operation).roofline_us(q, np.zeros(len(q["dtype"]), np.int64), hardware)
    return bound / EFFICIENCY + LAUNCH_US


def full_store(folder: Path) -> ProfileStore:
    """Every operation on the measured GPUs."""
    store = empty_store(folder)
    for operation in GRIDS:
        parts = [rows(operation, gpu, seed=i) for i, gpu in enumerate(MEASURED_GPUS)]
        store.add(operation, pd.concat(parts, ignore_index=True))
    return store


def empty_store(folder: Path) -> ProfileStore:
    return ProfileStore.create(folder, name="synthetic", version="1", attribution="made by the tests")


def questions(operation: str, n: int, seed: int = 0, beyond: float = 1.0) -> dict[str, np.ndarray]:
    """``n`` coded questions between the rows of the grid; ``beyond`` stretches the sizes that the grid varies."""
    rng = np.random.default_rng(seed)
    table = rows(operation, MEASURED_GPUS[0]).sample(n, replace=True, random_state=seed)
    for column, values in GRIDS[operation].items():
        # Heads and splits come in the sizes of the grid; tokens, widths and messages in any.
        stays = column in (
            *("num_gpus", "heads", "kv_heads", "key_heads", "value_heads"),
            *("moe_tp", "moe_ep", "hidden"),
        )
        if isinstance(values[0], int) and len(values) > 1 and not stays:
            least, most = float(values[0]), float(values[-1])
            drawn = np.exp(rng.uniform(np.log(least), np.log(most), n)) * beyond
            table[column] = np.maximum(drawn, 1).astype(np.int64)
    return coded(operation, table)


def cost_model(gpu: str, store: ProfileStore, framework: str = "vllm") -> CostModel:
    return CostModel(find_gpu(gpu), framework, store)
