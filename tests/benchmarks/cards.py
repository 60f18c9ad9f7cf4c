"""How errors are reported: one card per operation, split, GPU and precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EVIDENCE = Path(__file__).parents[2] / "costmodels" / "evidence"

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


def write(name: str, document: dict[str, Any]) -> Path:
    """Writes ``document`` to the evidence folder; figures in README and notes are read from there."""
    EVIDENCE.mkdir(exist_ok=True)
    path = EVIDENCE / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def line(label: str, figures: dict[str, Any]) -> str:
    coverage = f"  cov {figures['coverage_pct']:5.1f}" if "coverage_pct" in figures else ""
    return (
        f"{label:46} {figures['rows']:>8,} rows  MAPE {figures['mape_pct']:6.2f}  median {figures['median_pct']:6.2f}"
        f"  p90 {figures['p90_pct']:7.2f}  bias {figures['bias_pct']:+6.2f}{coverage}"
    )
