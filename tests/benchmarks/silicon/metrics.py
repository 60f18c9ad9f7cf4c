"""Errors, coverage and the quality of decisions, for ours and the peer's predictions alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from tests.benchmarks.cards import card

SLOS_MS = (5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0)
SATURATED_MS = 30_000.0


def cards(table: pd.DataFrame, ttft_ms: Floats, tpot_ms: Floats) -> dict[str, Any]:
    """TTFT and TPOT: all rows, those not saturated, and by framework, GPU and model."""
    out: dict[str, Any] = {}
    saturated = (table["ttft_ms"] > SATURATED_MS).to_numpy()
    for name, predicted in (("ttft", ttft_ms), ("tpot", tpot_ms)):
        measured = table[f"{name}_ms"].to_numpy()
        figures: dict[str, Any] = {
            "all": card(measured, predicted),
            "ttft_up_to_30_s": card(measured[~saturated], predicted[~saturated]),
        }
        if saturated.any():
            figures["ttft_above_30_s"] = card(measured[saturated], predicted[saturated])
        for column in ("framework", "gpu", "family"):
            figures[f"by_{column}"] = {
                str(value): card(measured[index], predicted[index])
                for value, index in table.reset_index(drop=True).groupby(column).indices.items()
            }
        out[name] = figures
    return out


def throughput(table: pd.DataFrame, ttft_ms: Floats, tpot_ms: Floats) -> Floats:
    """Output tokens per second and GPU of a closed loop (Little's law)."""
    output = table["osl"].to_numpy() * (1 + table["shortest"].to_numpy()) / 2
    request_s = (ttft_ms + tpot_ms * (output - 1)) / 1e3
    per_gpu: Floats = table["concurrency"].to_numpy() * output / request_s / table["gpus"].to_numpy()
    return per_gpu


def decisions(table: pd.DataFrame, ttft_ms: Floats, tpot_ms: Floats, margin: Floats | float = 0.0) -> dict[str, Any]:
    """For each model × GPU × framework × lengths and each bound on TPOT: the configuration with most predicted
    throughput per GPU among those predicted to hold it (the fastest where none is), measured.

    ``margin`` (log, per row) is kept below the bound. ``mean_pct``: measured throughput ÷ the best measured that holds
    the bound, where the choice holds it; ``missed_pct``: choices that do not; ``strict_pct``: the mean with those as
    zero.
    """
    best = throughput(table, table["ttft_ms"].to_numpy(), table["tpot_ms"].to_numpy())
    hoped = throughput(table, ttft_ms, tpot_ms)
    measured, safe = table["tpot_ms"].to_numpy(), tpot_ms * np.exp(margin)
    shares, cases, missed = [], 0, 0
    keys = ["family", "gpu", "framework", "isl", "osl"]
    for index in table.reset_index(drop=True).groupby(keys).indices.values():
        if len(index) < 2:
            continue
        for slo in SLOS_MS:
            holds = index[measured[index] <= slo]
            if not len(holds):
                continue
            promised = index[safe[index] <= slo]
            choice = promised[np.argmax(hoped[promised])] if len(promised) else index[np.argmin(tpot_ms[index])]
            cases += 1
            if measured[choice] > slo:
                missed += 1
            else:
                shares.append(best[choice] / best[holds].max())
    return {
        "cases": cases,
        "mean_pct": round(100 * float(np.mean(shares)), 2),
        "missed_pct": round(100 * missed / cases, 2),
        "strict_pct": round(100 * float(np.sum(shares)) / cases, 2),
    }


MARGINS = (0.0, 0.02, 0.03, 0.05, 0.07, 0.1)


def margins(table: pd.DataFrame, ttft_ms: Floats, tpot_ms: Floats) -> dict[str, Any]:
    """:func:`decisions` with so much kept below every bound (log). Margins as wide as each prediction is unsure
    (by GPU type and framework, or by load) were tried: at the same throughput they miss as many, within 0.3 points."""
    return {f"{margin:g}": decisions(table, ttft_ms, tpot_ms, margin) for margin in MARGINS}


LOADS = 3
"""Concurrencies of a configuration from which its best throughput is known."""


def offline(table: pd.DataFrame, ttft_ms: Floats, tpot_ms: Floats) -> dict[str, Any]:
    """The most throughput of each configuration over the concurrencies that it was measured at (:data:`LOADS` and
    more), predicted against measured."""
    best = throughput(table, table["ttft_ms"].to_numpy(), table["tpot_ms"].to_numpy())
    hoped = throughput(table, ttft_ms, tpot_ms)
    keys = ["framework", "version", "family", "gpu", "weights", "isl", "osl", "tp", "pp", "dp", "ep", "drafted"]
    concurrency = table["concurrency"].to_numpy()
    groups = [
        index
        for index in table.reset_index(drop=True).groupby(keys, dropna=False).indices.values()
        if len(set(concurrency[index])) >= LOADS
    ]
    return card(*(np.array([values[index].max() for index in groups]) for values in (best, hoped)))


SAME = ["framework", "family", "gpu", "weights", "isl", "osl", "concurrency", "tp", "dp", "ep", "drafted"]
"""What repeats of one configuration have in common."""


def oracle(table: pd.DataFrame) -> dict[str, Any]:
    """Decisions by somebody who has measured every configuration before: each row's prediction is another run of the
    same configuration where there is one, else the row times an error drawn from those between repeats."""
    distinct = table[~table["repeat"]].reset_index(drop=True)
    ttft, tpot = (distinct[name].to_numpy() for name in ("ttft_ms", "tpot_ms"))
    other = np.arange(len(distinct))
    for index in distinct.groupby(SAME, dropna=False).indices.values():
        other[index] = np.roll(index, 1)
    twin = np.flatnonzero(other != np.arange(len(distinct)))
    drawn = np.random.default_rng(0).choice(twin, len(distinct))
    source = np.where(other != np.arange(len(distinct)), np.arange(len(distinct)), drawn)
    again = [values * values[other[source]] / values[source] for values in (ttft, tpot)]
    return decisions(distinct, *again)


def repeats(table: pd.DataFrame) -> dict[str, Any]:
    """How far repeats of one configuration are from each other: the floor of every prediction's error."""
    distinct = table[~table["repeat"]].reset_index(drop=True)
    out: dict[str, Any] = {}
    for name in ("ttft_ms", "tpot_ms"):
        errors = [
            np.abs(values[i] / values[j] - 1)
            for index in distinct.groupby(SAME, dropna=False).indices.values()
            for values in [distinct[name].to_numpy()[index]]
            for i in range(len(values))
            for j in range(len(values))
            if i != j
        ]
        out[name.removesuffix("_ms")] = {
            "pairs": len(errors) // 2,
            "mape_pct": round(100 * float(np.mean(errors)), 2),
            "median_pct": round(100 * float(np.median(errors)), 2),
        }
    return out


CONFIGURATION = [
    *("source", "framework", "model", "precision", "kv_precision", "gpu", "tp", "pp", "dp", "ep", "moe_tp"),
    *("isl", "osl", "spread", "concurrency", "rate", "spec"),
]
"""What two runs of one configuration have in common, in the columns of ``plan predict --measured``."""

SAME_MEASUREMENT = 0.001  # by which two runs that are one, listed twice, may differ


def run_before(table: pd.DataFrame) -> dict[str, Any]:
    """How well the run before it, of the very same configuration, predicts each run (``table``: texts): what nobody who
    is told of a run what its columns say can do much better. By whether the release is the same; rows that differ by
    less than :data:`SAME_MEASUREMENT` in both latencies are one measurement and are left out."""
    columns = [name for name in CONFIGURATION if name in table.columns]
    latencies = {}
    for name in ("ttft", "tpot"):
        mean, median = (
            pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
            for column in (f"{name}_ms_mean", f"{name}_ms_p50")
        )
        latencies[name] = np.where(np.isfinite(mean), mean, median)
    usable = np.isfinite(latencies["ttft"]) & np.isfinite(latencies["tpot"]) & (table["date"] != "").to_numpy()
    dated = table[usable].assign(at=np.flatnonzero(usable)).sort_values(["date", "at"], kind="stable")
    pairs = [
        (before, after)
        for _, rows in dated.groupby(columns)
        for before, after in zip(rows["at"], rows["at"].iloc[1:], strict=False)
        if max(abs(values[before] / values[after] - 1) for values in latencies.values()) > SAME_MEASUREMENT
    ]
    before, after = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    nvidia = ~table["gpu"].str.startswith("MI").to_numpy()[after]
    version = table["version"].to_numpy()
    cuts = {
        "same release": nvidia & (version[before] == version[after]),
        "another release": nvidia & (version[before] != version[after]),
        "amd": ~nvidia,
    }
    return {
        cut: {name: card(values[after[chosen]], values[before[chosen]]) for name, values in latencies.items()}
        for cut, chosen in cuts.items()
        if chosen.any()
    }
