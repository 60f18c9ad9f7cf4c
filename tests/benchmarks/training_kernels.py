"""Kernels of training against the laws that the cost model takes them by, and against own rows of other shapes.

Rows: ``training_kernels.csv`` (SimuMax's forward and backward kernels on an A100-PCIe, Apache-2.0) and
``examples/measured_h100_training`` (this project's harness, 87 s of an H100). Each kind of kernel has three cards: the
law alone, the law after one factor (the median of the same rows: in-sample), and the law corrected by rows of four
fifths of the shapes, as ``--profiles`` does it, on the fifth that is left out.

``python -m tests.benchmarks.training_kernels`` writes them into ``costmodels/evidence/training.json``, as
``make bench-training`` does with all else.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodels.kernels.cost_model import CostModel
from costmodels.training.calibration import training_calibration
from costmodels.training.own_kernels import FUSED, GROUPED, LINEAR, SIZES, OwnKernels, held_out, points
from planner.training.machines import KERNELS
from profiles.collect.journal import FILE, read
from profiles.collect.rows import open_store, rows_of
from profiles.hardware import find_gpu
from profiles.store import ProfileStore
from tests.benchmarks.cards import EVIDENCE, card, line, write

ROWS = Path(__file__).parent / "training_kernels.csv"
GPU = "A100-PCIe-80GB"
EXAMPLE = Path(__file__).parents[2] / "examples" / "measured_h100_training"
FOLDS = 5
_KINDS = {"forward": "forward", "dgrad": "data_gradient", "wgrad": "weight_gradient_fp32"}
_SOURCES = {
    # operation -> (op of the CSV, its columns by ours, the kernel)
    LINEAR: ("gemm", {name: name for name in SIZES[LINEAR]}, "cublas_addmm_fp32"),
    GROUPED: (
        "grouped gemm",
        dict(zip(SIZES[GROUPED], ("groups", "rows_per_group", "in_features", "out_features"), strict=True)),
        "grouped",
    ),
    FUSED: (
        "attention (causal)",
        {"query_tokens": "seq", "heads": "heads", "kv_heads": "kv_heads", "head_dim": "qk_dim", "value_dim": "v_dim"},
        "flash_attn_2",
    ),
}


def a100_store(folder: Path) -> ProfileStore:
    """The rows of the CSV as a store."""
    table, store = pd.read_csv(ROWS), open_store(folder)
    for operation, (op, columns, kernel) in _SOURCES.items():
        mine = table[table["op"] == op]
        rows = pd.DataFrame({ours: mine[theirs].astype("int64") for ours, theirs in columns.items()})
        rows = rows.assign(
            gpu=GPU, num_gpus=1, dtype="bf16", kind=mine["pass"].replace(_KINDS), latency_us=mine["latency_us"],
            kernel=kernel, framework="torch", framework_version="not stated", source="SimuMax (Apache-2.0)",
            date="2026-11-26",
        )  # fmt: skip
        store.add(operation, rows if "batch" not in SIZES[operation] else rows.assign(batch=1), str(ROWS))
    return store


def own_kernels(gpu: str, store: ProfileStore) -> OwnKernels:
    return OwnKernels(CostModel(find_gpu(gpu), KERNELS, measured=[store]), training_calibration().constants)


def cards(own: OwnKernels) -> dict[str, Any]:
    """By operation and kind."""
    out: dict[str, Any] = {}
    for operation in SIZES:
        rows = own.rows(operation)
        if not len(rows["latency_us"]):
            continue
        partition, law = own.law(operation, rows)
        residual = np.log(rows["latency_us"] / law)
        told = held_out(points(partition, *(rows[name] for name in SIZES[operation])), residual, FOLDS)
        assert told is not None  # there are several shapes
        mean, width = told
        for kind in dict.fromkeys(rows["kind"]):
            at = np.flatnonzero(rows["kind"] == kind)
            truth, factor = rows["latency_us"][at], float(np.exp(np.median(residual[at])))
            told = law[at] * np.exp(mean[at])
            ends = (told * np.exp(-width[at]), told * np.exp(width[at]))
            each = {
                "law": card(truth, law[at]),
                "one factor": card(truth, law[at] * factor),
                "own rows, shapes left out": card(truth, told, *ends),
            }
            out[f"{operation} {kind}"] = {"factor": round(factor, 3), **each}
            for name, figures in each.items():
                print(line(f"{operation[9:]} {kind}, {name}"[:46], figures))
    return out


def h100_store(folder: Path) -> ProfileStore:
    """The rows of the example, taken over from its journal."""
    store = open_store(folder)
    for operation, rows in rows_of(list(read(EXAMPLE / FILE)), str(EXAMPLE)).items():
        store.add(operation, rows)
    return store


def kernels() -> dict[str, Any]:
    out = {}
    for gpu, made in (("A100-PCIe-80GB", a100_store), ("H100-SXM", h100_store)):
        print(f"\n{gpu}: kernels of training")
        with tempfile.TemporaryDirectory() as folder:
            out[gpu] = cards(own_kernels(gpu, made(Path(folder))))
    return out


def main() -> None:
    evidence = json.loads((EVIDENCE / "training.json").read_text(encoding="utf-8"))
    evidence["kernels"] = kernels()
    print(f"written: {write('training', evidence)}")


if __name__ == "__main__":
    main()
