"""The watts that come with B200's kernel rows, held out: ``python -m tests.benchmarks.power_b200 FOLDER``.

FOLDER is an unpacked wheel of aiconfigurator-core 0.12.0 (PyPI), whose vLLM 0.22 tables have a column of watts. What
they follow is asked of forests, which may use anything: a shape's size and time, or only what the kernel makes of the
memory and of the tensor cores; with shapes left out, with an operation left out, and with single rows left out, where
all the other rows of the same shape are known: what that misses is no matter of work at all. What it is a matter of
shows a forest that is told nothing of the work, only the watts of the three rows before and after in the file: readings
follow those that were taken beside them. And the shorter the kernel, the less its watts follow it: by length. Intervals
are the 10th and 90th percentile of what the other folds missed. GPPerf's forest has R² 0.78 and 5.4 % in the median.
Adds ``B200 rows`` to ``costmodels/evidence/power.json``.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupKFold

from profiles.hardware import SHIPPED
from profiles.importers.aiconfigurator import find_data
from tests.benchmarks.cards import EVIDENCE, card, write

ROWS = 8000
"""Of each operation, drawn at random."""

USE = ["seconds", "memory", "compute"]
BESIDE = [f"beside {lag:+d}" for lag in (-3, -2, -1, 1, 2, 3)]
LENGTHS_MS = (0.0, 0.01, 0.1, 1.0, np.inf)
SIZES = ["batch", "tokens", "heads", "kv_heads", "width"]


def main() -> None:
    found = figures(Path(sys.argv[1]))
    known = json.loads((EVIDENCE / "power.json").read_text("utf-8"))
    print(write("power", {**known, "B200 rows": found}))
    for name, each in found.items():
        print(name, each)


def figures(folder: Path) -> dict[str, Any]:
    tables = folder_of(folder)
    rows = pd.concat([attention(tables, prefill=True), attention(tables, prefill=False), experts(tables)])
    out: dict[str, Any] = {}
    for name, part in rows.groupby("operation"):
        groups = part["shape"].to_numpy()
        single = np.random.default_rng(0).permutation(len(part)).astype(str)
        out[str(name)] = {
            "shape left out": scored(part, [*USE, *SIZES, "dtype"], groups),
            "shape left out, by use alone": scored(part, USE, groups),
            "row left out": scored(part, [*USE, *SIZES, "dtype"], single),
            "row left out, nothing known but the watts of the rows beside it in the file": scored(part, BESIDE, single),
            "shape left out, by length": by_length(part),
            "operation left out, by use alone": scored(rows, USE, rows["operation"].to_numpy(), str(name)),
            "watts, correlated with the use of memory": round(
                float(np.corrcoef(part["watts"], part["memory"])[0, 1]), 3
            ),
            "with the use of tensor cores": round(float(np.corrcoef(part["watts"], part["compute"])[0, 1]), 3),
        }
    return out


def by_length(rows: pd.DataFrame) -> dict[str, Any]:
    """Of kernels of about one length, ms."""
    out = {}
    for low, high in itertools.pairwise(LENGTHS_MS):
        part = rows[(rows["seconds"] * 1e3 >= low) & (rows["seconds"] * 1e3 < high)]
        if len(part) >= 300:
            out[f"{low:g} to {high:g} ms"] = scored(part, [*USE, *SIZES, "dtype"], part["shape"].to_numpy())
    return out


def scored(rows: pd.DataFrame, columns: list[str], groups: np.ndarray, only: str | None = None) -> dict[str, Any]:
    """R² and errors of a forest on the rows of groups that it has not seen; ``only``: of one of the groups."""
    seen = np.log(np.maximum(rows[columns].to_numpy(float), 1e-9))
    watts, predicted = rows["watts"].to_numpy(float), np.zeros(len(rows))
    if only is not None:
        folds = [(np.flatnonzero(groups != only), np.flatnonzero(groups == only))]
    else:
        folds = list(GroupKFold(5).split(seen, watts, groups))
    for train, held in folds:
        forest = ExtraTreesRegressor(60, min_samples_leaf=5, n_jobs=1, random_state=0)
        predicted[held] = forest.fit(seen[train], watts[train]).predict(seen[held])
    held = np.concatenate([each for _, each in folds])
    truth, told = watts[held], predicted[held]
    left = float(((truth - told) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
    inside = [_inside(watts, predicted, each, np.setdiff1d(held, each)) for _, each in folds] if only is None else []
    covered = {"within the 80 % interval": round(float(np.average(inside)), 3)} if inside else {}
    return {"r2": round(1 - left, 3), **covered, **card(truth, told)}


def _inside(watts: np.ndarray, predicted: np.ndarray, fold: np.ndarray, others: np.ndarray) -> float:
    """Share of a fold's rows within what the other folds missed."""
    missed = np.log(watts / predicted)
    low, high = np.percentile(missed[others], [10, 90])
    return float(((missed[fold] >= low) & (missed[fold] <= high)).mean())


def folder_of(folder: Path) -> Path:
    return find_data(folder) / "b200_sxm"


def _table(tables: Path, name: str) -> pd.DataFrame:
    table = pd.read_parquet(tables / name)
    table = table[table["power"] > 0].reset_index(drop=True)
    for name in BESIDE:
        table[name] = table["power"].shift(-int(name.split()[1])).fillna(table["power"].median())
    return table.sample(min(ROWS, len(table)), random_state=0)


def _rows(
    operation: str, table: pd.DataFrame, flops: Any, moved: Any, shape: list[str], **columns: Any
) -> pd.DataFrame:
    gpu, seconds = SHIPPED.find_gpu("B200"), table["latency"] / 1e3
    return pd.DataFrame(
        {
            "operation": operation,
            "watts": table["power"],
            "seconds": seconds,
            "memory": moved / gpu.memory_bandwidth_bytes_per_s / seconds,
            "compute": flops / gpu.peak_flops["bf16"] / seconds,
            "shape": table[shape].astype(str).agg("-".join, axis=1),
            **{name: table[name] for name in BESIDE},
            **columns,
        }
    )


def attention(tables: Path, *, prefill: bool) -> pd.DataFrame:
    name = "context" if prefill else "generation"
    table = _table(tables, f"attention/vllm/0.22.0/{name}_attention_perf.parquet")
    length = (table["isl"] + table["step"]).astype(float)
    seen = length.where(table["window_size"] <= 0, np.minimum(length, table["window_size"]))
    size = table["kv_cache_dtype"].map(lambda kind: 1.0 if "fp8" in str(kind) else 2.0)
    pairs = table["isl"] * seen / 2 if prefill else seen
    flops = 4.0 * table["batch_size"] * table["num_heads"] * table["head_dim"] * pairs
    kv = table["batch_size"] * seen * table["num_key_value_heads"] * table["head_dim"] * 2 * size
    streams = 2.0 * table["batch_size"] * table["isl"] * 2 * table["num_heads"] * table["head_dim"]
    return _rows(
        f"attention, {name}", table, flops, kv + streams,
        ["num_heads", "num_key_value_heads", "head_dim", "window_size", "batch_size"],
        batch=table["batch_size"], tokens=length, heads=table["num_heads"], kv_heads=table["num_key_value_heads"],
        width=table["head_dim"], dtype=size,
    )  # fmt: skip


def experts(tables: Path) -> pd.DataFrame:
    table = _table(tables, "moe/vllm/0.22.0/moe_perf.parquet")
    size = table["moe_dtype"].map(lambda kind: 2.0 if "16" in str(kind) else 1.0 if "8" in str(kind) else 0.5)
    split = table["moe_tp_size"] * table["moe_ep_size"]
    flops = 6.0 * table["num_tokens"] * table["topk"] * table["hidden_size"] * table["inter_size"] / split * size / 2
    busy = np.minimum(table["num_tokens"] * table["topk"], table["num_experts"])
    moved = 3.0 * busy * table["hidden_size"] * table["inter_size"] / split * size
    return _rows(
        "experts", table, flops, moved,
        ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"],
        batch=table["num_tokens"], tokens=table["topk"], heads=table["num_experts"] / table["moe_ep_size"],
        kv_heads=table["inter_size"] / table["moe_tp_size"], width=table["hidden_size"], dtype=size,
    )  # fmt: skip


if __name__ == "__main__":
    main()
