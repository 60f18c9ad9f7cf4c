"""The public end-to-end measurements as rows that can be predicted; what is left out is counted by reason.

The file is ``systems/silicon_sample.csv`` of aiconfigurator-core 0.12.0: closed-loop runs of serving engines, most from
the public InferenceX harness, some of its authors' own. What its columns mean was checked against repeats of one
measurement (same TTFT and TPOT to all digits) that it lists under two descriptions:

* ``moe_tp = moe_ep = k`` beside ``tp × dp = k²`` is k GPUs with all experts whole: 86 measurements are listed both so
  and as k GPUs. vLLM's rows of ``tp = dp = k`` with ``ep = k²`` are the same slip: InferenceX starts
  ``--data-parallel-size k --tensor-parallel-size 1`` for them, and k² GPUs would leave their node.
* ``batch_size`` is the clients' concurrency over the listed dp. Where ``silicon_concurrency`` is larger (NVIDIA Dynamo
  in front of several engines), one engine's share is batch × dp.
* Rows called DeepSeek-V3 repeat those called DeepSeek-R1.
* Where the experts' group is larger than tp and dp is blank, the rest of the group is attention data parallelism
  (Qwen3-235B in fp8 on one H200 would not fit otherwise).
* Another blank or zero degree is 1; a blank precision is bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from profiles.importers.aiconfigurator import SYSTEMS, find_data
from tests.benchmarks.silicon.recipes import add_recipes

FILE = "silicon_sample.csv"

# Weights of one row → the checkpoint that was served. The file names the base model; these are the public checkpoints
# of that precision (InferenceX names them in its recipes).
CHECKPOINTS: dict[tuple[str, str], tuple[str, str | None]] = {
    ("deepseek-ai/DeepSeek-R1", "nvfp4"): ("nvidia/DeepSeek-V3.1-NVFP4", None),
    ("deepseek-ai/DeepSeek-V3", "nvfp4"): ("nvidia/DeepSeek-V3.1-NVFP4", None),
    ("nvidia/DeepSeek-R1-NVFP4", "nvfp4"): ("nvidia/DeepSeek-V3.1-NVFP4", None),
    ("meta-llama/Llama-3.1-8B-Instruct", "bf16"): ("meta-llama/Llama-3.1-8B", None),
    ("meta-llama/Llama-3.1-8B-Instruct", "fp8_block"): ("meta-llama/Llama-3.1-8B", "fp8_block"),
    ("nvidia/Llama-3.1-8B-Instruct-FP8", "fp8"): ("meta-llama/Llama-3.1-8B", "fp8"),
    ("meta-llama/Llama-3.1-70B", "fp8"): ("nvidia/Llama-3.1-70B-Instruct-FP8", None),
    ("meta-llama/Llama-3.1-70B", "nvfp4"): ("meta-llama/Llama-3.1-70B", "nvfp4"),
    ("Qwen/Qwen3-32B", "fp8"): ("Qwen/Qwen3-32B", "fp8"),
    ("Qwen/Qwen3-32B", "nvfp4"): ("Qwen/Qwen3-32B", "nvfp4"),
    ("nvidia/Qwen3-32B-NVFP4", "nvfp4"): ("Qwen/Qwen3-32B", "nvfp4"),
    ("Qwen/Qwen3-235B-A22B-FP8", "fp8"): ("Qwen/Qwen3-235B-A22B-FP8", None),
    ("MiniMaxAI/MiniMax-M2.5", "nvfp4"): ("nvidia/MiniMax-M2.5-NVFP4", None),
    ("moonshotai/Kimi-K2.5", "nvfp4"): ("nvidia/Kimi-K2.5-NVFP4", None),
    ("Qwen/Qwen3.5-397B-A17B", "fp8"): ("Qwen/Qwen3.5-397B-A17B", "fp8_block"),
    ("Qwen/Qwen3.5-397B-A17B", "nvfp4"): ("nvidia/Qwen3.5-397B-A17B-NVFP4", None),
    ("zhipuai/GLM-5", "fp8"): ("zai-org/GLM-5-FP8", None),
    ("zhipuai/GLM-5", "nvfp4"): ("nvidia/GLM-5-NVFP4", None),
}

# Models that share an architecture are one group of the hold-out: the same measurement appears under both names.
FAMILIES = {
    "deepseek-ai/DeepSeek-R1": "DeepSeek-V3/R1",
    "deepseek-ai/DeepSeek-V3": "DeepSeek-V3/R1",
    "nvidia/DeepSeek-R1-NVFP4": "DeepSeek-V3/R1",
    "nvidia/DeepSeek-V3.1-NVFP4": "DeepSeek-V3/R1",
    "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "Llama-3.1-8B",
    "nvidia/Qwen3-32B-NVFP4": "Qwen3-32B",
}

_WEIGHTS = {"bfloat16": "bf16", "int4_wo": "int4"}
MOST_TENSOR_PARALLEL = (
    8  # of an engine whose experts are not split k ways: larger ones are deployments of several engines
)


CACHED = (
    "Llama-3.1-8B in fp8 under vLLM on H200 by NVIDIA Dynamo: products at up to 99 % of the peak (no other group above "
    "53), so that prompts were in the cache"
)
FAILED = "gpt-oss-120b under vLLM on H100 with 512 in flight (2025-12): faster than with 64, most requests failed"


@dataclass(frozen=True)
class Rows:
    """``table``: one row a measurement, columns as :func:`load` says. ``counts``: rows of the file by what became of
    them, in the order of the steps."""

    table: pd.DataFrame
    counts: dict[str, int]


def load(source: Path | None = None) -> Rows:
    """The scored rows.

    Columns: those of :func:`tests.benchmarks.silicon.recipes.add_recipes`; framework, version, model (as listed),
    family, checkpoint, precision (None: as published), gpu, weights, isl, osl, concurrency (of one engine), tp, pp, dp,
    ep, moe_tp, gpus, ttft_ms, tpot_ms, date, source; listed_* (as the file has it); repeat (the same measurement is
    listed before); row (position in this table).
    """
    file = find_data(source).parent / FILE
    raw = pd.read_csv(file)
    counts = {"rows in the file": len(raw)}
    aggregated = raw[raw["mode"] == "agg"].reset_index(drop=True)
    counts["disaggregated (their configuration is not in the file)"] = len(raw) - len(aggregated)
    unique = aggregated[~aggregated.drop(columns="id").duplicated()].reset_index(drop=True)
    counts["exact repeats of a row"] = len(aggregated) - len(unique)
    table = _decoded(unique)
    whole = table["tp"] <= MOST_TENSOR_PARALLEL
    counts["filed as one engine of 12 to 72 GPUs, tensor parallel (GB200: deployments of several engines)"] = int(
        (~whole).sum()
    )
    table = table[whole].reset_index(drop=True)
    failed = _failed(table)
    counts[FAILED] = int(failed.sum())
    table = table[~failed].reset_index(drop=True)
    cached = _cached(table)
    counts[CACHED] = int(cached.sum())
    table = table[~cached].reset_index(drop=True)
    same = [
        "framework",
        "family",
        "gpu",
        "weights",
        "isl",
        "osl",
        "concurrency",
        "tp",
        "dp",
        "ep",
        "ttft_ms",
        "tpot_ms",
    ]
    table["repeat"] = table.duplicated(same)
    table["row"] = np.arange(len(table))
    counts["scored"] = len(table)
    counts["of these, the same measurement under another name or source"] = int(table["repeat"].sum())
    return Rows(add_recipes(table), counts)


def _failed(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Runs most of whose requests cannot have been answered: their TPOT (3.6 to 5.6 ms in six of nine) is a third to a
    half of what the same engines take with 32 and 64 in flight, while first tokens take from 20 s to 8 minutes."""
    of = {"framework": "vllm", "gpu": "H100-SXM", "family": "gpt-oss-120b", "concurrency": 512}
    found = np.logical_and.reduce([table[name] == value for name, value in of.items()])
    return np.asarray(found & table["date"].isin(("2025-12-05", "2025-12-08")))


def _cached(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Runs whose prompts cannot have been computed: at 59 requests of 2,000 tokens a second an H200 would multiply at
    its peak, decoding beside it, and first tokens come in 122 ms."""
    of = {"framework": "vllm", "gpu": "H200", "family": "Llama-3.1-8B", "weights": "fp8"}
    found = np.logical_and.reduce([table[name] == value for name, value in of.items()])
    return np.asarray(found & table["source"].str.contains("aic-auto-gap-analysis"))


def _decoded(raw: pd.DataFrame) -> pd.DataFrame:
    degrees = {
        name: raw[column].fillna(1).clip(lower=1).astype(np.int64)
        for name, column in {
            "tp": "tp_size",
            "pp": "pp_size",
            "dp": "attention_dp_size",
            "ep": "moe_ep_size",
            "moe_tp": "moe_tp_size",
        }.items()
    }
    tp, dp, ep, moe_tp = (degrees[name].to_numpy() for name in ("tp", "dp", "ep", "moe_tp"))
    listed = raw["silicon_data_source"].str.extract(r"silicon_concurrency=(\d+)")[0].astype(float)
    engine = raw["batch_size"] * dp
    concurrency = np.minimum(listed.fillna(np.inf), engine).astype(np.int64)
    squared = (moe_tp == ep) & (ep > 1) & (tp * dp == ep * ep)
    doubled = (tp == dp) & (dp > 1) & (moe_tp == 1) & (ep == tp * dp)
    ranks = np.where(squared & (dp > 1) | doubled, np.sqrt(ep * moe_tp).astype(np.int64), dp)
    blank = raw["attention_dp_size"].isna().to_numpy() & (ep * moe_tp > tp)
    ranks = np.where(blank, ep * moe_tp // tp, ranks)
    split = np.where(squared & (dp == 1), ep, np.where(doubled | (squared & (dp > 1)), 1, tp))
    experts = np.where(doubled, tp, ep)
    model = raw["model_path"]
    weights = raw["gemm_quant_mode"].fillna("bf16").replace(_WEIGHTS)
    served = [CHECKPOINTS.get(key, (key[0], None)) for key in zip(model, weights, strict=True)]
    dense = model.str.contains("Llama|Qwen3-32B").to_numpy()
    gpus = split * ranks
    whole = np.where(dense, 1, experts)
    return pd.DataFrame(
        {
            "framework": raw["backend"],
            "version": raw["backend_version"],
            "model": model,
            "family": model.map(FAMILIES).fillna(model.str.split("/").str[-1]),
            "checkpoint": [name for name, _ in served],
            "precision": [precision for _, precision in served],
            "gpu": raw["system"].map(SYSTEMS),
            "system": raw["system"],
            "weights": weights,
            "isl": raw["isl"],
            "osl": raw["osl"],
            "concurrency": concurrency,
            "tp": split,
            "pp": degrees["pp"],
            "dp": ranks,
            "ep": whole,
            "moe_tp": np.where(dense, 1, np.maximum(gpus // whole, 1)),
            "gpus": gpus * degrees["pp"],
            "ttft_ms": raw["silicon_ttft_ms"],
            "tpot_ms": raw["silicon_tpot_ms"],
            "date": raw["silicon_data_source"].str.extract(r"measured=(\d{4}-\d\d-\d\d)")[0],
            "listed_tp": tp,
            "listed_dp": dp,
            "listed_ep": ep,
            "listed_moe_tp": moe_tp,
            "listed_batch": raw["batch_size"].astype(np.int64),
            "listed_gemm": raw["gemm_quant_mode"],
            "listed_moe": raw["moe_quant_mode"],
            "source": raw["silicon_data_source"],
        }
    )


def as_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`load` in the columns of ``plan predict --measured``: the recipe as it can be said there, but for
    what the scripts of their campaign say."""
    cache = np.where(table["weights"] == "bf16", "bf16", table["kv"].fillna("fp8"))
    same = ("framework", "version", "gpu", "tp", "pp", "dp", "ep", "moe_tp", "isl", "osl", "concurrency", "campaign")
    runs = pd.DataFrame(
        {
            **{name: table[name] for name in same},
            "source": "silicon",
            "row": table["row"],
            "date": table["date"].fillna(""),
            "model": table["checkpoint"],
            "precision": table["precision"].fillna(""),
            "kv_precision": cache,
            "spec": [f"mtp{count}" if count else "none" for count in table["drafted"].astype(int)],
            "spread": [f"{least:g}-1" if least < 1 else "" for least in table["shortest"]],
            "sampling": "greedy",
            "warmup_requests": "0",
            "max_num_batched_tokens": [str(tokens or "") for tokens in table["token_budget"]],
            "polling_interval": [str(steps or "") for steps in table["polled"]],
            "ttft_ms_mean": table["ttft_ms"],
            "tpot_ms_mean": table["tpot_ms"],
        }
    )
    return runs.astype(str)
