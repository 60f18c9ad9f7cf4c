"""A real engine against what ``plan predict`` says of it: ``python -m tests.benchmarks.engine``.

``data/engine_h100.csv`` holds what vLLM's own client measured of vLLM servers that this project started on one H100
(the file's head says how). It is a laboratory that no constant has seen, and stays one: nothing is fitted to it, and
nothing may be. One thing was learnt from it, the way of the next request in closed loops of equal lengths
(:mod:`costmodels.serving.closed_loop.protocol`); without it TTFT was 31 % off. Writes
``costmodels/evidence/engine-h100.json``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from planner.serving.prediction_table import predict
from tests.benchmarks.cards import card, write

ROWS = Path(__file__).parent / "data" / "engine_h100.csv"
MEASURED = (
    *("ttft_ms_mean", "ttft_ms_p50", "tpot_ms_mean", "tpot_ms_p50", "e2e_ms_mean"),
    *("output_tokens_per_s_per_gpu", "watts_per_gpu"),
)
ENDS = {"ttft_ms_mean": "ttft_ms", "tpot_ms_mean": "tpot_ms", "e2e_ms_mean": "e2e_ms"}
"""Means, whose intervals are called after the latency alone."""


def main() -> None:
    rows = pd.read_csv(ROWS, comment="#", dtype=str, keep_default_na=False)
    answer = predict(rows.drop(columns=[name for name in rows.columns if "_ms_" in name or name.endswith("_gpu")]))
    if told := [text for text in answer["error"] if text]:
        raise SystemExit(told[0])
    cards = {}
    for name in MEASURED:
        values = [answer[column].astype(float).to_numpy() for column in (name, *_ends(name))]
        cards[name] = card(rows[name].astype(float).to_numpy(), *values)
        print(f"{name:30}", cards[name])
    shown = ["model", "isl", "osl", "concurrency", "rate"]
    points = [
        {**{name: row[name] for name in shown}}
        | {name: [float(rows[name][i]), round(float(answer[name].iloc[i]), 3)] for name in MEASURED}
        for i, row in rows.iterrows()
    ]
    print(write("engine-h100", {"measured against predicted": cards, "rows": points}))


def _ends(name: str) -> tuple[str, str]:
    stem = ENDS.get(name, name)
    return f"{stem}_low", f"{stem}_high"


if __name__ == "__main__":
    main()
