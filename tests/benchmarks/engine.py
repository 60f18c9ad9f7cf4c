"""Real engines against what ``plan predict`` says of them: ``python -m tests.benchmarks.engine``.

``data/engine_h100.csv`` and ``data/engine_h200.csv`` hold what vLLM's own client measured of vLLM servers that this
project started on one H100 and one H200, ``data/engine_h200_sglang.csv`` the same of SGLang (the files' heads say
how). They are a laboratory that no constant has seen, and stay one: nothing that ships is fitted to them, and nothing
may be. What was learnt from them are no constants: that requests at a rate meet few others in the front end
(``Calibration.front_us``), without which TTFT was 24 % off on the H200, 19 with; that an engine of SGLang is warm where
nobody says that it was just started, and that its front end takes longer by layers of experts (the constants are of
others' runs), without which SGLang's TTFT was 116 % off, 34 with: its rows are not wholly unseen
any more; the way of the next request in closed loops of equal lengths
(:mod:`costmodels.serving.closed_loop.protocol`), without which TTFT was 31 % off on the H100; and how often a token
waits for others' prompts (:func:`costmodels.serving.closed_loop.client.itl_percentiles`), which was not said of
requests at a rate, and said of equal ones in a closed loop as if they came one by one. Each file is also
taken as somebody's own runs, as ``plan calibrate`` takes them: errors of those left out (``as own runs``). Writes
``costmodels/evidence/engine-h100.json``, ``engine-h200.json`` and ``engine-h200-sglang.json``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from planner.calibrate.learning import calibrate
from planner.serving.prediction_table import predict
from tests.benchmarks.cards import card, write

DATA = Path(__file__).parent / "data"
ROWS = {
    "engine-h100": DATA / "engine_h100.csv",
    "engine-h200": DATA / "engine_h200.csv",
    "engine-h200-sglang": DATA / "engine_h200_sglang.csv",
}
MEASURED = (
    *("ttft_ms_mean", "ttft_ms_p50", "tpot_ms_mean", "tpot_ms_p50", "itl_ms_p50", "itl_ms_p90", "e2e_ms_mean"),
    *("output_tokens_per_s_per_gpu", "watts_per_gpu"),
)
SHOWN = ("model", "precision", "isl", "osl", "concurrency", "rate")
ENDS = {"ttft_ms_mean": "ttft_ms", "tpot_ms_mean": "tpot_ms", "e2e_ms_mean": "e2e_ms"}
"""Means, whose intervals are called after the latency alone."""


def compare(name: str) -> None:
    rows = pd.read_csv(ROWS[name], comment="#", dtype=str, keep_default_na=False)
    answer = predict(rows.drop(columns=[name for name in rows.columns if "_ms_" in name or name.endswith("_gpu")]))
    if told := [text for text in answer["error"] if text]:
        raise SystemExit(told[0])
    measured = [column for column in MEASURED if column in rows]
    cards = {}
    for column in measured:
        there = (rows[column] != "").to_numpy()
        values = [answer.loc[there, each].astype(float).to_numpy() for each in (column, *_ends(column))]
        cards[column] = card(rows.loc[there, column].astype(float).to_numpy(), *values)
        print(f"{name:12} {column:30}", cards[column])
    points = [
        {each: row[each] for each in SHOWN}
        | {each: [float(rows[each][i]), round(float(answer[each].iloc[i]), 3)] for each in measured if rows[each][i]}
        for i, row in rows.iterrows()
    ]
    own = {framework: said["errors"] for framework, said in calibrate(rows).said().items()}
    print(f"{name:12} as own runs", own)
    print(write(name, {"measured against predicted": cards, "as own runs": own, "rows": points}))


def main() -> None:
    for name in ROWS:
        compare(name)


def _ends(name: str) -> tuple[str, str]:
    stem = ENDS.get(name, name)
    return f"{stem}_low", f"{stem}_high"


if __name__ == "__main__":
    main()
