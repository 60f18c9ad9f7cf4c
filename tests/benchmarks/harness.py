"""What we measured against what others measured on the same GPU type: ``python -m tests.benchmarks.harness DIR``.

``DIR`` is a store or a journal of the harness. Two comparisons with the shipped pack, both for each of its frameworks:
rows of exactly our shapes (``same shape``), and what the pack's model says of our shapes (``model``; measured rows
answer exactly, the forest the rest). Ratios are ours ÷ theirs. Shapes are grouped by what bounds them: ``short`` (below
20 µs, where launches count), else ``compute`` or ``memory`` by the roofline. Rows of ours that are faster than the
roofline cannot be right; they are counted and named. Writes ``costmodels/evidence/harness-<gpu>.json``.

Nothing here needs a GPU: any store will do.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodels.estimates import COVERAGE
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.kernel_models import coded
from costmodels.operations.registry import families
from costmodels.operations.roofline import CODES, Hardware
from costmodels.serving.frameworks.names import framework_names
from profiles.descriptions import catalogue_with
from profiles.errors import InputError
from profiles.hardware import Gpu
from profiles.importers.collect import read_journal
from profiles.manifest import MANIFEST
from profiles.measurements import OPERATIONS
from profiles.store import ProfileStore, shipped_pack
from tests.benchmarks.cards import card, line, write

Floats = NDArray[np.float64]
SHORT_US = 20.0


def measured_rows(folder: Path) -> dict[str, pd.DataFrame]:
    """Our rows by operation, of a store or of a journal's folder."""
    if (folder / MANIFEST).is_file():
        store = ProfileStore(folder)
        return {operation: store.query(operation) for operation in store.operations()}
    return dict(read_journal(folder, {}))


def askable(operation: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that the cost model has words for, 16-bit collectives as one precision, as it reads them."""
    if operation == "collective":
        rows = rows[rows["dtype"].isin(("bf16", "fp16"))].assign(dtype="bf16")
    for column in set(CODES) & set(rows.columns):
        rows = rows[rows[column].isin(CODES[column])]
    return rows.reset_index(drop=True)


def twins(operation: str, ours: pd.DataFrame, gpu: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """(framework, our rows with the latency of the pack's row of the same shape beside it)."""
    key = [name for name in OPERATIONS[operation].key if name not in ("gpu", "framework")]
    theirs = askable(operation, shipped_pack().query(operation, gpu=gpu))
    for framework, rows in theirs.groupby("framework", sort=True):
        last = rows.drop_duplicates(key, keep="last")[[*key, "latency_us"]]
        both = ours.merge(last, on=key, suffixes=("", "_theirs"))
        if len(both):
            yield str(framework), both


def compared(ours: Floats, theirs: Floats, **interval: Floats) -> dict[str, Any]:
    """The error card of theirs against ours, and the ratio ours ÷ theirs at its 10th, 50th and 90th percentile."""
    ratio = ours / theirs
    p10, p50, p90 = (round(float(q), 3) for q in np.quantile(ratio, (0.1, 0.5, 0.9)))
    return {**card(ours, theirs, **interval), "ratio": {"p10": p10, "p50": p50, "p90": p90}}


def groups(rows: pd.DataFrame) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each precision and kernel of ours, whole and by what bounds it."""
    for (dtype, kernel), places in rows.groupby(["dtype", "kernel"], sort=True).indices.items():
        mine = np.zeros(len(rows), bool)
        mine[places] = True
        yield f"{dtype} {kernel}", mine
        for bound in ("short", "compute", "memory"):
            part = mine & (rows["bound"] == bound).to_numpy()
            if part.any() and part.sum() < mine.sum():
                yield f"{dtype} {kernel}, {bound}", part


def with_bounds(operation: str, rows: pd.DataFrame, gpu: Gpu) -> pd.DataFrame:
    hardware = Hardware.of([gpu])
    times = families().kernel(operation).times_us(coded(operation, rows), np.zeros(len(rows), np.int64), hardware)
    compute, transfer = times
    long = np.where(compute > transfer, "compute", "memory")
    return rows.assign(
        roofline_us=np.maximum(compute, transfer), bound=np.where(rows["latency_us"] < SHORT_US, "short", long)
    )


def _too_fast(rows: pd.DataFrame) -> list[dict[str, Any]]:
    fast = rows[rows["latency_us"] < rows["roofline_us"]]
    shown: list[dict[str, Any]] = fast.head(10).drop(columns=["source", "date"]).to_dict("records")
    return [{k: v for k, v in row.items() if not pd.isna(v)} for row in shown]


def compare(operation: str, ours: pd.DataFrame, gpu: Gpu) -> dict[str, Any]:
    """Everything that is said of one operation."""
    rows = with_bounds(operation, askable(operation, ours), gpu)
    fast = rows["latency_us"] < rows["roofline_us"]
    document: dict[str, Any] = {
        "rows": len(ours),
        "left_out": len(ours) - len(rows),
        "faster_than_roofline": {"rows": int(fast.sum()), "first": _too_fast(rows)},
        "roofline_share_p50": {
            name: round(float((rows["roofline_us"] / rows["latency_us"])[mine].median()), 3)
            for name, mine in groups(rows)
        },
        "same_shape": {},
        "model": {},
    }
    print(f"\n{operation}: {len(ours):,} rows of ours, {document['left_out']:,} left out, ", end="")
    print(f"{fast.sum():,} faster than the roofline")
    for framework, both in twins(operation, rows, gpu.name):
        figures = {
            name: compared(*(both.loc[mine, column].to_numpy(float) for column in ("latency_us", "latency_us_theirs")))
            for name, mine in groups(both)
        }
        document["same_shape"][framework] = figures
        _show(f"{framework} same shape", figures)
    for framework in framework_names():
        model = CostModel(gpu, framework, progress=lambda text: print(f"  ({text})", flush=True))
        said = model.estimate(operation, coded(operation, rows))
        figures = {
            name: compared(
                rows["latency_us"].to_numpy(float)[mine], said.value[mine], low=said.low[mine], high=said.high[mine]
            )
            for name, mine in groups(rows)
        }
        document["model"][framework] = figures
        _show(f"{framework} model", figures)
    return document


def _show(what: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    for name, each in figures.items():
        ratio = each["ratio"]
        print(
            f"{line(f'{what}: {name}', dict(each))}"
            f"  ours ÷ theirs {ratio['p50']:.2f} ({ratio['p10']:.2f} … {ratio['p90']:.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--op", action="append", choices=list(families().kernels))
    arguments = parser.parse_args()
    tables = measured_rows(arguments.folder)
    catalogue = catalogue_with([arguments.folder])
    names = sorted({gpu for table in tables.values() for gpu in table["gpu"].unique()})
    if not names:
        raise InputError(f"{arguments.folder}: nothing measured there", "give a store or a journal with rows")
    for gpu in names:
        # "unseen": the pack has no row of this type; its model then speaks from other types.
        unseen = not any(gpu in shipped_pack().values(operation, "gpu") for operation in shipped_pack().operations())
        print(f"{gpu}{': no rows in the pack, compared with what its model says of an unseen type' if unseen else ''}")
        document: dict[str, Any] = {
            "command": f"python -m tests.benchmarks.harness {arguments.folder}",
            "pack_hash": shipped_pack().manifest.content_hash,
            "coverage_claimed_pct": 100 * COVERAGE,
            "unseen": unseen,
            "not_compared": sorted(set(tables) - set(families().kernels)),
            "operations": {},
        }
        for operation in arguments.op or [name for name in families().kernels if name in tables]:
            table = tables.get(operation, pd.DataFrame({"gpu": []}))
            ours = table[table["gpu"] == gpu]
            if len(askable(operation, ours)) if len(ours) else 0:
                document["operations"][operation] = compare(operation, ours, catalogue.find_gpu(gpu))
        print(write(f"harness-{gpu.lower()}", document))


if __name__ == "__main__":
    main()
