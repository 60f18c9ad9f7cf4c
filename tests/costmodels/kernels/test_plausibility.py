"""Rows of a store that cannot be: faster than the GPU, no numbers, not the file that the manifest describes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from costmodels.kernels.plausibility import check_rows
from profiles.errors import DataError
from profiles.hardware import find_gpu
from profiles.manifest import MANIFEST
from profiles.store import ProfileStore

ROW: dict[str, Any] = {
    "gpu": "H200", "num_gpus": 1, "dtype": "bf16", "m": 4096, "n": 4096, "k": 4096, "latency_us": 200.0,
    "kernel": "cublas", "framework": "vllm", "framework_version": "0.19", "source": "a test", "date": "2026-11-21",
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    store = ProfileStore.create(tmp_path / "store", name="s", version="1", attribution="a test")
    store.add("gemm", pd.DataFrame([ROW, {**ROW, "m": 1}]))
    return store


def rewritten(store: ProfileStore, **changes: object) -> ProfileStore:
    """The store after somebody changed its second row and the manifest with it."""
    file = store.path / "gemm.parquet"
    rows = pd.read_parquet(file)
    for name, value in changes.items():
        values = rows[name].astype("object").tolist()
        rows[name] = pd.Series([values[0], value])
    rows.to_parquet(file, index=False)
    manifest = json.loads((store.path / MANIFEST).read_text())
    manifest["hashes"]["gemm"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (store.path / MANIFEST).write_text(json.dumps(manifest))
    return ProfileStore(store.path)


def judged(store: ProfileStore) -> None:
    check_rows("gemm", store.query("gemm", gpu="H200"), find_gpu("H200"), "store s")


def test_honest_rows_pass(store: ProfileStore) -> None:
    judged(rewritten(store, latency_us=150.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"m": 0}, "column 'm': 0 is below 1"),
        ({"k": 1.5}, "column 'k': 1.5 is not a whole number"),
        ({"latency_us": 1e-300}, "column 'latency_us': 1e-300 is below 0.001"),
        ({"latency_us": -1.0}, "is below 0.001"),
        ({"latency_us": float("nan")}, "null is not a number"),
        ({"latency_us": float("inf")}, "is not finite"),
        ({"latency_us": 1e12}, "is above 1e"),
        ({"num_gpus": 99_999}, "column 'num_gpus': 99999 is above 1024"),
        ({"gpu": None}, "column 'gpu': null is empty"),
        ({"source": ""}, "column 'source': '' is empty"),
    ],
)
def test_a_row_that_cannot_be_is_refused_by_name(store: ProfileStore, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        rewritten(store, **change)
    assert said in caught.value.message
    assert "gemm.parquet: row 1 " in caught.value.message


def test_a_row_faster_than_its_gpu_is_refused_by_name(store: ProfileStore) -> None:
    with pytest.raises(DataError, match=r"store s: gemm.parquet: row dtype=bf16, .*m=4096, .*: latency_us 1 is less"):
        judged(rewritten(store, latency_us=1.0))


def test_a_file_changed_under_its_manifest_is_refused(store: ProfileStore) -> None:
    file = store.path / "gemm.parquet"
    rows = pd.read_parquet(file)
    rows.assign(latency_us=rows["latency_us"] * 3).to_parquet(file, index=False)
    with pytest.raises(DataError, match=r"gemm\.parquet is not the file that manifest\.json describes"):
        ProfileStore(store.path)
