"""How far the figures of laboratories that no constant knows lie from what is said of them, each learnt from the
others: ``python -m tests.benchmarks.laboratories``.

Each ``data/published_*.csv`` is one laboratory's, predicted as nobody's in particular (without its column ``source``).
The half-width that goes beside these intervals, as an independent error, is that of the least mean interval score of
laboratories with one vote each; it is learnt from all but one and judged on that one's rows. What ships
(:mod:`planner.serving.laboratories`) is that of all. Of other ways to learn it (votes by rows, logarithms of
scores, the root mean square of laboratories' mean errors) all came to 0.9 to 1.3 (TTFT) and 0.3 to 0.45 (TPOT); this
one was chosen after seeing them left out: its intervals hold 80 and 80 % where laboratories count alike. Writes
``costmodels/evidence/laboratories.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from costmodels.serving.frameworks.calibration import LATENCIES
from planner.serving.campaigns import WHO
from planner.serving.measured.columns import measured_columns
from planner.serving.measured.scores import best_single_score, interval_score
from planner.serving.prediction_table import predict
from tests.benchmarks.cards import write

DATA = Path(__file__).parent / "data"
OF = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "output_tokens_per_s_per_gpu"}
"""What each half-width is learnt from; whole requests' from throughput, which every laboratory tells, where no rate
says what it is. Means go before medians."""

WIDTHS = np.round(np.arange(0.0, 3.0, 0.05), 2)
"""Half-widths (log) among which is chosen."""


def logs_of(file: Path) -> dict[str, Floats]:
    """Of each latency (:data:`OF`) the logarithms [measured, predicted, low, high; n] of a file's rows."""
    table = pd.read_csv(file, comment="#", dtype=str, keep_default_na=False)
    table = table.drop(columns=[name for name in WHO if name in table])
    answer, measured = predict(table, beside_measured=True), measured_columns(table)
    out = {}
    for latency, name in OF.items():
        quantities = (name,) if latency == "e2e" else (f"{name}_mean", f"{name}_p50")
        found = [_logs(answer, measured.values[each], each, name) for each in quantities if each in measured.values]
        if not found:
            continue
        logs = found[0]
        for more in found[1:]:
            logs = np.where(np.isfinite(logs).all(axis=0), logs, more)
        known = np.isfinite(logs).all(axis=0)
        if latency == "e2e" and "rate" in table:
            known &= table["rate"].isin(("", "inf")).to_numpy()
        if known.any():
            out[latency] = logs[:, known]
    return out


def _logs(answer: pd.DataFrame, truth: Floats, quantity: str, name: str) -> Floats:
    ends = name if quantity == f"{name}_mean" else quantity
    columns = [quantity, f"{ends}_low", f"{ends}_high"]
    told = [f"{each}_predicted" if f"{each}_predicted" in answer else each for each in columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.stack([truth, *(pd.to_numeric(answer[each], errors="coerce").to_numpy() for each in told)]))


def half_width(of: list[Floats]) -> float:
    """The one of :data:`WIDTHS` with which the mean interval score of laboratories, one vote each, is least."""
    scores = [[judged(logs, width)["interval_score"] for width in WIDTHS] for logs in of]
    return float(WIDTHS[np.argmin(np.mean(scores, axis=0))])


def judged(logs: Floats, width: float) -> dict[str, float]:
    truth, value, low, high = logs
    wider = np.stack([truth, value, value - np.hypot(value - low, width), value + np.hypot(high - value, width)])
    inside = (wider[2] <= truth) & (truth <= wider[3])
    return {
        "coverage_pct": round(100 * float(inside.mean()), 1),
        "interval_score": round(float(interval_score(wider).mean()), 4),
    }


def main() -> None:
    files = {path.stem.removeprefix("published_"): path for path in sorted(DATA.glob("published_*.csv"))}
    logs = {name: logs_of(path) for name, path in files.items()}
    document: dict[str, Any] = {}
    for latency in LATENCIES:
        mine = {name: each[latency] for name, each in logs.items() if latency in each}
        document[latency] = out = {"half_width": half_width(list(mine.values())), "left out": {}}
        print(f"{latency}: half-width of all {out['half_width']}")
        for name, each in mine.items():
            width = half_width([others for other, others in mine.items() if other != name])
            out["left out"][name] = told = {
                "rows": each.shape[1],
                "mean_error": round(float((each[0] - each[1]).mean()), 3),
                "half_width": width,
                "before": judged(each, 0.0),
                "after": judged(each, width),
                "best_single_score": round(best_single_score(each[0] - each[1]), 4),
            }
            print(f"  {name:14}", told)
        out["alike"] = {
            at: {
                figure: round(float(np.mean([told[at][figure] for told in out["left out"].values()])), 3)
                for figure in ("coverage_pct", "interval_score")
            }
            for at in ("before", "after")
        }
        print(f"  laboratories alike: {out['alike']}")
    print(write("laboratories", document))


if __name__ == "__main__":
    main()
