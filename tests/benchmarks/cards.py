"""How errors are reported: one card per operation, split, GPU and precision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EVIDENCE = Path(__file__).parents[2] / "costmodels" / "evidence"
POINTS = EVIDENCE / "points"
SHORT = 150  # characters of a row that may hold rows

Floats = NDArray[np.float64]


def card(measured: Floats, predicted: Floats, low: Floats | None = None, high: Floats | None = None) -> dict[str, Any]:
    """MAPE, median and 90th percentile of the absolute percentage error, bias (median signed), coverage of the
    interval."""
    signed = predicted / measured - 1
    error = np.abs(signed)
    out: dict[str, Any] = {
        "rows": len(measured),
        "mape_pct": round(100 * float(error.mean()), 2),
        "median_pct": round(100 * float(np.median(error)), 2),
        "p90_pct": round(100 * float(np.quantile(error, 0.9)), 2),
        "bias_pct": round(100 * float(np.median(signed)), 2),
    }
    if low is not None and high is not None:
        out["coverage_pct"] = round(100 * float(((measured >= low) & (measured <= high)).mean()), 1)
    return out


def ratio_card(ratio: Floats, tolerance: float | None = None) -> dict[str, float]:
    """|ratio − 1|: median, 90th percentile, the median with its sign, and the share within ``tolerance``, %."""
    gap = np.abs(ratio - 1)
    out = {
        "median_pct": round(100 * float(np.median(gap)), 1),
        "p90_pct": round(100 * float(np.quantile(gap, 0.9)), 1),
        "bias_pct": round(100 * float(np.median(ratio - 1)), 1),
    }
    return out if tolerance is None else out | {"within_pct": round(100 * float((gap <= tolerance).mean()), 1)}


def write(name: str, document: dict[str, Any], points: Sequence[Any] = ()) -> Path:
    """Writes ``document``, a summary, to the evidence folder; figures in README and notes are read from there.

    ``points``: what it sums up, one entry a line; kept beside it for whoever looks closer, out of git (a benchmark's
    next run would change thousands of lines that nobody reads).
    """
    EVIDENCE.mkdir(exist_ok=True)
    if points:
        POINTS.mkdir(exist_ok=True)
        lines = (json.dumps(point, ensure_ascii=False) for point in points)
        (POINTS / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = EVIDENCE / f"{name}.json"
    path.write_text(rows_text(document) + "\n", encoding="utf-8")
    return path


def rows_text(value: Any, indent: int = 0) -> str:
    """``value`` as JSON with one row a line: what holds no table of its own, or is short, is not broken up."""
    whole = json.dumps(value, ensure_ascii=False)
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if len(whole) <= SHORT or not any(isinstance(child, dict | list) for child in children):
        return whole
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        inside = [
            f"{pad}{json.dumps(key, ensure_ascii=False)}: {rows_text(child, indent + 1)}"
            for key, child in value.items()
        ]
    else:
        inside = [pad + rows_text(child, indent + 1) for child in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(inside) + "\n" + " " * indent + closing


def line(label: str, figures: dict[str, Any]) -> str:
    coverage = f"  cov {figures['coverage_pct']:5.1f}" if "coverage_pct" in figures else ""
    return (
        f"{label:46} {figures['rows']:>8,} rows  MAPE {figures['mape_pct']:6.2f}  median {figures['median_pct']:6.2f}"
        f"  p90 {figures['p90_pct']:7.2f}  bias {figures['bias_pct']:+6.2f}{coverage}"
    )
