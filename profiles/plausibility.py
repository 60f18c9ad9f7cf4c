"""Whether measured rows make sense beside each other: what cannot be right is found before it answers.

Three checks, each over the median of a curve (rows that differ in their size alone), so that a single odd row of a
curve raises none. A finding is a doubt, printed where rows are made or taken in; whether the rows answer is for
``packs/excluded.yaml`` to say, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

SLOWER_IN_FEWER_BYTES = 1.5
"""Weights of half or a quarter of the bytes, multiplied by faster tensor cores, may lose to 16 bits by rounding up
their tiles and quantizing activations, but not by more than this where the 16-bit product takes :data:`LONG_US`."""

SLOWER_THAN_OTHERS = 3.0
"""The slowest framework ÷ the slowest of the others, on one question: where the pack's curves agree, 98 % lie below."""

DIP = 0.3
"""Work a second of a GPU in one split of experts ÷ that in splits like it: the larger of the median over splits up to
four times as far in either degree, and the mean of half and twice the expert-parallel degree. (Skew leaves the GPUs of
a larger group idle, but the neighbours lie on both sides.)"""

NEIGHBOURS = 3
MANY_TOKENS = 1024

WIDE_PRODUCT = 2048
"""Where both n and k are at least this, quantizing the activations, which rows of products include, is a small part."""

LONG_US = 50.0
"""From here on a product takes its bytes and operations, not its launch."""

FEW_TOKENS = 16
"""Up to here experts take their bytes: formats of weights alone are compared with 16 bits there only."""

_TENSOR_CORES = ("fp8", "fp8_block", "int8", "nvfp4", "mxfp4_fp8")
_WEIGHTS_ALONE = ("int4", "int8_wo", "mxfp4")
_WIDE = ("bf16", "fp16")
_SIZE = {"gemm": "m", "moe": "tokens"}
_SHAPE = {
    "gemm": ("n", "k"),
    "moe": ("hidden", "intermediate", "top_k", "experts", "gated", "moe_tp", "moe_ep"),
}


@dataclass(frozen=True)
class Finding:
    """Rows that make no sense: ``where`` says which (column → value), ``ratio`` by what factor they are off."""

    operation: str
    check: str
    where: Mapping[str, object]
    rows: int
    ratio: float

    def __str__(self) -> str:
        which = ", ".join(f"{name} {value}" for name, value in self.where.items())
        return f"{self.operation}: {which} ({self.rows:,} rows): {self.check}, by a factor of {self.ratio:.1f}"


def findings(operation: str, rows: pd.DataFrame) -> list[Finding]:
    """What of ``rows``, in the schema of ``operation``, cannot be right; operations that no check knows give none."""
    if operation not in _SIZE or not len(rows):
        return []
    size, shape = _SIZE[operation], list(_SHAPE[operation])
    routing = ["routing"] if operation == "moe" else []
    columns = ["framework", "gpu", "dtype", *shape, *routing, size, "latency_us"]
    table = rows[columns].astype(dict.fromkeys(("framework", "gpu", "dtype", *routing), "str"))
    found = [*_fewer_bytes(operation, table, shape, routing), *_frameworks(operation, table, shape, routing)]
    return found + (list(_splits(operation, table, shape)) if operation == "moe" else [])


def _median(ratio: pd.Series, by: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Of each curve: median of ``ratio``, and how many rows it is of."""
    grouped = by[names].assign(ratio=ratio).dropna(subset=["ratio"]).groupby(names, observed=True)["ratio"]
    return grouped.agg(["median", "size"]).reset_index()


def _findings(
    operation: str, check: str, curves: pd.DataFrame, names: list[str], factor: pd.Series
) -> Iterator[Finding]:
    for (_, curve), by in zip(curves.iterrows(), factor, strict=True):
        yield Finding(operation, check, {name: curve[name] for name in names}, int(curve["size"]), float(by))


def _fewer_bytes(operation: str, table: pd.DataFrame, shape: list[str], routing: list[str]) -> Iterator[Finding]:
    size = _SIZE[operation]
    key = ["framework", "gpu", *shape, *routing, size]
    wide = (
        table[table["dtype"].isin(_WIDE)].groupby(key, observed=True)["latency_us"].min().rename("wide").reset_index()
    )
    narrow = table[table["dtype"].isin((*_TENSOR_CORES, *_WEIGHTS_ALONE))].merge(wide, on=key)
    narrow = narrow[narrow["wide"] >= LONG_US]
    narrow = narrow[narrow["dtype"].isin(_TENSOR_CORES) | (narrow[size] <= FEW_TOKENS)]
    if operation == "gemm":
        narrow = narrow[(narrow["n"] >= WIDE_PRODUCT) & (narrow["k"] >= WIDE_PRODUCT)]
    names = ["framework", "gpu", "dtype", *(name for name in shape if not name.startswith("moe_"))]
    curves = _median(narrow["latency_us"] / narrow["wide"], narrow, names)
    slow = curves[curves["median"] > SLOWER_IN_FEWER_BYTES]
    yield from _findings(operation, "fewer bytes take longer than 16 bits", slow, names, slow["median"])


def _frameworks(operation: str, table: pd.DataFrame, shape: list[str], routing: list[str]) -> Iterator[Finding]:
    key = ["gpu", "dtype", *shape, *routing, _SIZE[operation]]
    side = table.pivot_table(index=key, columns="framework", values="latency_us", observed=True)
    logs = pd.DataFrame(np.log(side))
    names = ["gpu", "dtype", *shape]
    for framework in logs.columns:
        others = logs.drop(columns=framework)
        if not others.shape[1]:
            continue
        excess = (logs[framework] - others.max(axis=1)).rename("excess").reset_index()
        curves = _median(np.exp(excess["excess"]), excess, names).assign(framework=framework)
        slow = curves[curves["median"] > SLOWER_THAN_OTHERS]
        check = "slower than every other framework"
        yield from _findings(operation, check, slow, ["framework", *names], slow["median"])


def _splits(operation: str, table: pd.DataFrame, shape: list[str]) -> Iterator[Finding]:
    """Experts in one split beside the same in others, by the work that a GPU does a second."""
    names = ["framework", "gpu", "dtype", *(name for name in shape if not name.startswith("moe_")), "routing"]
    large = table[table["tokens"] >= MANY_TOKENS]
    work = large["tokens"] / (large["moe_tp"] * large["moe_ep"] * large["latency_us"])
    curves = large.assign(work=np.log(work)).pivot_table(
        index=[*names, "tokens"], columns=["moe_tp", "moe_ep"], values="work", observed=True
    )
    splits: list[tuple[int, int]] = [(int(split[0]), int(split[1])) for split in curves.columns]
    for tp, ep in splits:
        wide = [other for other in splits if other != (tp, ep) and max(_apart(tp, other[0]), _apart(ep, other[1])) <= 4]
        beside = [other for other in ((tp, ep // 2), (tp, 2 * ep)) if other in splits and other != (tp, ep)]
        typical = pd.concat(
            [
                curves[near].median(axis=1).where(curves[near].notna().sum(axis=1) >= needed)
                for near, needed in ((wide, NEIGHBOURS), (beside, 2))
            ],
            axis=1,
        ).max(axis=1)
        dip = (curves[tp, ep] - typical).rename("dip").reset_index()
        found = _median(np.exp(dip["dip"]), dip, names)
        low = found[found["median"] < DIP].assign(moe_tp=tp, moe_ep=ep)
        check = "less work a second than in splits like it"
        yield from _findings(operation, check, low, [*names, "moe_tp", "moe_ep"], 1 / low["median"])


def _apart(first: int, second: int) -> float:
    return max(first / second, second / first)
