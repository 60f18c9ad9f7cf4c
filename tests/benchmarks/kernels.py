"""Kernel error cards: ``python -m tests.benchmarks.kernels [--framework vllm] [--op gemm] [--folds 5]``.

With ``--op``, the figures of the other operations stay as they are.

Held out by shape (all rows of a shape on all GPUs at once, so that no twin GPU gives the answer away), by whole
model (MoE) and by
whole GPU. Beside our model on the same rows in the same run: the roofline alone, interpolation in the measured
table, and
gradient boosting on the same features. Writes ``costmodels/evidence/kernels-<framework>.json`` and, from the GPU
hold-out,
``costmodels/kernels/unseen_gpu.yaml``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

from costmodels.estimates import COVERAGE
from costmodels.kernels import forest as forests
from costmodels.kernels.cost_model import MODEL_VERSION
from costmodels.kernels.features import base_us, matrix
from costmodels.kernels.kernel_models import (
    Rows,
    hardware_of,
    load_rows,
    partitions,
    places,
    shape_groups,
)
from costmodels.operations.kernel import Kernel
from costmodels.operations.registry import families
from costmodels.operations.roofline import Hardware
from profiles.measurements import DTYPES
from profiles.store import ProfileStore, shipped_pack
from tests.benchmarks.cards import EVIDENCE, card, line, write

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Data:
    """All rows of one operation with what the models need of them."""

    def __init__(self, operation: str, rows: Rows, hardware: Hardware) -> None:
        self.kernel: Kernel = families().kernel(operation)
        self.hardware = hardware
        self.rows = rows
        columns, gpu = self.rows.columns, self.rows.gpu
        self.base = base_us(self.kernel, columns, gpu, self.hardware)
        self.target = np.log(self.rows.latency_us / self.base)
        self.features = matrix(self.kernel, columns, gpu, self.hardware)
        self.shapes = shape_groups(self.kernel, columns)
        self.places = places(self.kernel, columns)
        self.partitions = partitions(self.kernel, columns)

    @classmethod
    def of(cls, store: ProfileStore, operation: str, framework: str) -> Data:
        hardware = hardware_of(store, operation)
        return cls(operation, load_rows(store, operation, framework, hardware), hardware)

    def fit(self, train: Ints) -> tuple[forests.Forest, forests.Neighbours]:
        return forests.fit(
            self.features[train],
            self.target[train],
            self.shapes[train],
            self.places[train],
            self.partitions[train],
            self.rows.gpu[train],
            self.kernel.leaf_rows,
        )

    def ours(self, train: Ints, test: Ints) -> tuple[Floats, Floats, Floats]:
        """(value, low, high) in µs of the rows ``test`` from a model that saw ``train`` only."""
        model, memory = self.fit(train)
        ratio, spread = model.raw(self.features[test])
        known = np.zeros(len(test), bool)
        for gpu in np.unique(self.rows.gpu[test]):
            asked = np.flatnonzero(self.rows.gpu[test] == gpu)
            mine = memory.take(np.flatnonzero(self.rows.gpu[train] == gpu))
            parts = self.partitions[test][asked]
            ratio[asked] += model.correction_share * forests.correction(mine, self.places[test][asked], parts)
            known[asked] = np.isin(parts, mine.partition)
        down, up = model.interval(spread)
        value = self.base[test] * np.exp(ratio)
        return value, value * np.exp(-down), value * np.exp(up)

    def boosting(self, train: Ints, test: Ints) -> Floats:
        model = HistGradientBoostingRegressor(max_iter=200, max_leaf_nodes=63, learning_rate=0.15, random_state=0)
        model.fit(self.features[train], self.target[train])
        return self.base[test] * np.exp(model.predict(self.features[test]))

    def table(self, train: Ints, test: Ints) -> Floats:
        """Inverse-distance interpolation of log latency between the nearest measured rows of the same GPU and
        precision."""
        out = np.full(len(test), np.nan)
        gpu, part = self.rows.gpu, self.partitions
        place = np.column_stack(
            [np.log2(np.maximum(np.asarray(self.rows.columns[c], float), 0.5)) for c in self.axes()]
        )
        for key in {(int(g), int(p)) for g, p in zip(gpu[test], part[test], strict=True)}:
            seen = train[(gpu[train] == key[0]) & (part[train] == key[1])]
            asked = np.flatnonzero((gpu[test] == key[0]) & (part[test] == key[1]))
            if not len(seen):
                continue
            model = KNeighborsRegressor(n_neighbors=min(2 ** min(place.shape[1], 3), len(seen)), weights="distance")
            model.fit(place[seen], np.log(self.rows.latency_us[seen]))
            out[asked] = np.exp(model.predict(place[test[asked]]))
        return out

    def axes(self) -> list[str]:
        return [c for c in (*self.kernel.range, *self.kernel.near) if c in self.rows.columns and c != "routing"]


def by_group(group: Ints, folds: int) -> Iterator[tuple[Ints, Ints]]:
    """(train, test) row indices, whole groups at a time."""
    names = np.unique(group)
    fold = np.random.default_rng(0).permutation(len(names)) % folds
    of_row = fold[np.searchsorted(names, group)]
    for k in range(folds):
        yield np.flatnonzero(of_row != k), np.flatnonzero(of_row == k)


def parts(data: Data, test: Ints) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Named subsets of ``test``: all, and each GPU and precision."""
    yield "all", np.ones(len(test), bool)
    dtype = data.rows.columns["dtype"][test]
    for index, name in enumerate(data.hardware.names):
        of_gpu = data.rows.gpu[test] == index
        if of_gpu.any():
            yield name, of_gpu
        for code in np.unique(dtype[of_gpu]):
            yield f"{name} {DTYPES[int(code)]}", of_gpu & (dtype == code)


def held_out(data: Data, split: str, folds: int, baselines: bool) -> dict[str, Any]:
    """Cards of one hold-out, all folds together."""
    if split == "gpu":
        pairs = list(by_group(data.rows.gpu, len(data.hardware.names)))
    elif split == "model":
        pairs = list(by_group(np.unique(data.partitions, return_inverse=True)[1].astype(np.int64), folds))
    else:
        pairs = list(by_group(data.shapes, folds))
    test = np.concatenate([t for _, t in pairs])
    measured = data.rows.latency_us[test]
    answers = [data.ours(train, t) for train, t in pairs]
    value, low, high = (np.concatenate([a[i] for a in answers]) for i in range(3))
    fold = np.concatenate([np.full(len(t), k) for k, (_, t) in enumerate(pairs)])
    log_error = np.abs(np.log(value / measured))
    if split != "shape":
        # What the product does for a GPU or model without rows: widen by the spread seen on the *other* held-out ones.
        spread = np.array([np.quantile(log_error[fold != k], COVERAGE) for k in range(len(pairs))])[fold]
        low = value * np.exp(-np.hypot(np.log(value / low), spread))
        high = value * np.exp(np.hypot(np.log(high / value), spread))
    out: dict[str, Any] = {
        "ours": {name: card(measured[m], value[m], low[m], high[m]) for name, m in parts(data, test)},
        "log_error_p80": round(float(np.quantile(log_error, COVERAGE)), 3),
    }
    if baselines:
        train, first = pairs[0]
        same = data.rows.latency_us[first]
        columns = {name: values[first] for name, values in data.rows.columns.items()}
        bound = data.kernel.roofline_us(columns, data.rows.gpu[first], data.hardware)
        table = data.table(train, first)
        answered = ~np.isnan(table)
        out["same_rows"] = {
            "ours": card(same, answers[0][0]),
            "roofline": card(same, bound),
            "table interpolation": card(same[answered], table[answered]),
            "gradient boosting": card(same, data.boosting(train, first)),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--framework", default="vllm")
    parser.add_argument("--op", action="append", choices=list(families().kernels))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--no-baselines", action="store_true")
    arguments = parser.parse_args()
    store = shipped_pack()
    evidence = f"kernels-{arguments.framework}"
    document: dict[str, Any] = {
        "command": f"python -m tests.benchmarks.kernels --framework {arguments.framework}",
        "coverage_claimed_pct": 100 * COVERAGE,
        "excluded_rows": 0,
        "operations": kept(evidence) if arguments.op else {},
    }
    unseen: dict[str, float] = {}
    for operation in arguments.op or list(families().kernels):
        started = time.perf_counter()
        data = Data.of(store, operation, arguments.framework)
        splits = ["shape", "gpu", *(["model"] if data.kernel.alike else [])]
        cards: dict[str, Any] = {"pack_hash": store.manifest.content_hash, "model_version": MODEL_VERSION}
        for split in splits:
            cards[split] = held_out(data, split, arguments.folds, not arguments.no_baselines and split == "shape")
            for name, figures in cards[split]["ours"].items():
                print(line(f"{operation} unseen {split}: {name}", figures))
            for other, figures in cards[split].get("same_rows", {}).items():
                print(line(f"  one fold, same rows: {other}", figures))
        document["operations"][operation] = cards
        # A GPU or a model without rows: the interval is widened by what the hold-out of either shows.
        unseen[operation] = max(cards[s]["log_error_p80"] for s in splits if s != "shape")
        print(f"{operation}: {time.perf_counter() - started:.0f} s", flush=True)
    document["operations"] = {
        op: document["operations"][op] for op in families().kernels if op in document["operations"]
    }
    print(write(evidence, document))
    if arguments.framework == "vllm":
        _write_unseen(unseen)


def kept(name: str) -> dict[str, Any]:
    """The cards that are there."""
    path = EVIDENCE / f"{name}.json"
    operations: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["operations"] if path.exists() else {}
    return operations


def _write_unseen(unseen: dict[str, float]) -> None:
    path = Path(__file__).parents[2] / "costmodels" / "kernels" / "unseen_gpu.yaml"
    known = {**yaml.safe_load(path.read_text(encoding="utf-8"))["half_width"], **unseen}
    header = (
        "# Half-width (natural log) of each operation's 80 % interval on a GPU type (MoE: or a model) without rows.\n"
        "# Written by `make bench` (tests/benchmarks/kernels.py): leave-one-GPU-out over the shipped pack, vLLM.\n"
    )
    ordered = {operation: known[operation] for operation in families().kernels if operation in known}
    path.write_text(header + yaml.safe_dump({"half_width": ordered}, sort_keys=False), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
