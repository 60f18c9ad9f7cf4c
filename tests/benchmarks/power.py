"""A row of servers, and what clocks and caps do: ``python -m tests.benchmarks.power [--seeds 2] [--watts]``.

Speed of the row simulator; the published facts that the reference traffic meets; every policy on POLCA's row,
thresholds chosen on other days than judged on, by seed; brakes counted on screened stretches against whole days; and
vLLM under power caps (``../shared/data/power``, where it is there), each series from its uncapped and its lowest point;
A100's phases, a model or a TP degree left out; what was published of clocks on H200; and a served H100 of our own, its
mean watts and its series of 250 ms, and an H200's.
Writes ``costmodels/evidence/power.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from planner.power.judge import Days, Judge
from planner.power.policy import none
from planner.power.reference import UNCAPPED
from planner.power.report import JUDGED_WHOLE, Solved, solved
from planner.power.request import PowerRequest, parse_power_request
from planner.power.row import polca_for
from planner.power.simulator import chance_of, simulate
from planner.power.traffic import whole_day
from tests.benchmarks import power_series
from tests.benchmarks.cards import card, write
from tests.benchmarks.power_watts import h200, phases, served
from tests.costmodels.measured_response import MeasuredResponse

ROOT = Path(__file__).parents[2]
CAPPED = ROOT.parent / "shared" / "data" / "power" / "vllm_power_cap_rtx_pro_6000.csv"
IDLE_WATTS = 80.0  # RTX PRO 6000 with a model loaded: its idle watts and 7 % of the rest (board.yaml)
BARS = {
    "day of 52 servers, CPU-s": 5.0,
    "300 replicate-days, CPU-s": 120.0,
    "POLCA's preset, extra": (0.25, 0.35),
    "ours, extra": 0.35,
    "ours beyond POLCA's preset": 0.05,
    "capped: tokens/s, MAPE %": 4.0,
    "capped: watts, MAPE %": 8.0,
    "capped: order of energy per token": 0.9,
    "A100 phases held out: average, MAPE %": 8.0,
    "A100 phases held out: peak, MAPE %": 10.0,
    "H100 served: watts, median %": 7.0,
    "H100 served: watts, worst %": 20.0,
    "H100 served: joules per token, median %": 10.0,
    "H100 in windows of 250 ms: energy, %": 6.0,
    "H100 in windows of 250 ms: p99, %": 8.0,
    "H100 in windows of 250 ms: autocorrelation, R²": 0.9,
    "H200 in windows of 250 ms, the same requests: energy, %": 6.0,
    "H200 in windows of 250 ms, the same requests: p99, %": 8.0,
    "H200 in windows of 250 ms, the same requests: autocorrelation, R²": 0.9,
    "H200 in windows of 250 ms, the same requests: normalised RMSE": 0.2,
    "B200 rows held out: R²": 0.78,
    "B200 rows held out: watts, median %": 5.4,
}


def row_request(seed: int) -> PowerRequest:
    fields: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "row.yaml").read_text("utf-8"))
    return parse_power_request({**fields, "seed": seed})


def speed(made: Solved) -> dict[str, float]:
    row, load = made.row, made.row.load
    assert load is not None
    policy = polca_for(row)
    simulate(row, policy, 52, row.requests(whole_day(load, 52, 0, 0)), chance_of(0, 0))
    began = time.process_time()
    for day in range(10):
        simulate(row, policy, 52, row.requests(whole_day(load, 52, 1, day)), chance_of(1, day))
    each = (time.process_time() - began) / 10
    return {"day of 52 servers, CPU-s": round(each, 3), "300 replicate-days, CPU-s": round(300 * each, 1)}


def screened(made: Solved) -> list[dict[str, Any]]:
    """Slots of a quarter of an hour with a reading above the budget: all of whole days, and those that are screened."""
    out = []
    days = 30
    for extra in (0.30, 0.325, 0.35):
        n = round(made.request.today * (1 + extra))
        judge = Judge(made.row, made.request, Days(days, days, first=5_000_000))
        whole = sum(int((each.peak.reshape(96, -1).max(axis=1) > 1).sum()) for each in judge.whole_days(UNCAPPED, n))
        seen = sum(int(judge.busy_slot(none(), n, slot).peak[1:].max() > 1) for slot in judge.slots())
        out.append({"servers": n, "days": days, "whole days": whole, "screened": seen})
    return out


def policies(made: Solved) -> list[dict[str, Any]]:
    return [
        {
            "policy": name,
            "servers": each.verdict.servers,
            "extra": round(each.verdict.servers / made.request.today - 1, 4),
            "brakes a year, at most": round(each.verdict.brakes.high, 2),
            "limited by": each.limited_by,
            "impact": {c: {f"p{p:g}": round(v, 4) for p, v in i.items()} for c, i in each.verdict.impact.items()},
        }
        for name, each in made.results.items()
    ]


def capped() -> Mapping[str, Any] | None:
    """Every series of the file from two of its points, scored on the others."""
    if not CAPPED.exists():
        return None
    table = pd.read_csv(CAPPED, comment="#")
    rate, watts, order = [], [], []
    for _, series in table.groupby(["model", "concurrency"]):
        series = series.sort_values("power_cap_watts", ascending=False)
        point = [
            (float(r.output_tokens_per_s), float(r.power_watts), float(r.sm_clock_mhz)) for r in series.itertuples()
        ]
        model = MeasuredResponse.of(IDLE_WATTS, point[0], point[-1])
        held = series.iloc[1:-1]
        predicted = model.at_cap(held["power_cap_watts"].to_numpy(float))
        rate.append((held["output_tokens_per_s"].to_numpy(float), predicted[0]))
        watts.append((held["power_watts"].to_numpy(float), predicted[1]))
        energy = (held["power_watts"] / held["output_tokens_per_s"]).to_numpy(float)
        guess = predicted[1] / predicted[0]
        for i in range(len(energy)):
            for j in range(i):
                if abs(energy[i] / energy[j] - 1) > 0.02:
                    order.append((energy[i] > energy[j]) == (guess[i] > guess[j]))

    def scored(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        return card(*(np.concatenate([pair[i] for pair in pairs]) for i in (0, 1)))

    return {
        "tokens/s": scored(rate),
        "watts": scored(watts),
        "order of energy per token": round(float(np.mean(order)), 3),
        "pairs": len(order),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--watts", action="store_true", help="only what is held out of watts; the rest stays as it is")
    asked = parser.parse_args()
    seeds = asked.seeds
    if asked.watts:
        known = json.loads((ROOT / "costmodels" / "evidence" / "power.json").read_text("utf-8"))
        parts = {
            "A100 phases": phases(),
            "H200 facts": h200(),
            "H100 served": served(),
            "250 ms": power_series.series(),
            "250 ms, the same requests": power_series.replayed(),
        }
        print(write("power", {**known, "bars": BARS, **parts}))
        _told(parts.pop("H200 facts"))
        print(parts)
        return
    rows, first = [], None
    for seed in range(seeds):
        began = time.process_time()
        made = solved(row_request(seed))
        first = first or made
        assert made.met is not None
        rows.append(
            {
                "seed": seed,
                "peak met": round(made.met.peak, 4),
                "rise met": round(made.met.rise, 4),
                "CPU-s": round(time.process_time() - began, 1),
                "days": {"judged": made.request.days, "whole": JUDGED_WHOLE},
                "policies": policies(made),
            }
        )
        for each in rows[-1]["policies"]:
            print(seed, each["policy"], each["servers"], f"{each['extra']:+.1%}", each["limited by"])
    assert first is not None
    document = {
        "bars": BARS,
        "speed": speed(first),
        "rows": rows,
        "out of band alone": policies(solved(_out_of_band())),
        "screened against whole days": screened(first),
        "capped vLLM": capped(),
        "A100 phases": phases(),
        "H200 facts": h200(),
        "H100 served": served(),
        "250 ms": power_series.series(),
        "250 ms, the same requests": power_series.replayed(),
    }
    known = json.loads((ROOT / "costmodels" / "evidence" / "power.json").read_text("utf-8"))
    # python -m tests.benchmarks.power_b200, power_board
    document |= {name: known[name] for name in ("B200 rows", "Hopper boards") if name in known}
    print(write("power", document))
    for name in (
        "speed",
        "screened against whole days",
        "capped vLLM",
        "A100 phases",
        "H100 served",
        "250 ms",
        "250 ms, the same requests",
    ):
        print(name, document[name])
    _told(document["H200 facts"])


def _told(facts: list[dict[str, Any]]) -> None:
    for each in facts:
        (low, high), (least, most) = each["published"], each["predicted"]
        inside = "inside" if each["inside"] else "NOT inside"
        print(f"H200 facts: {each['fact']} {low:g} to {high:g}: {inside} {least:g} to {most:g} {each.get('note', '')}")


def _out_of_band() -> PowerRequest:
    request = row_request(0)
    return request.model_copy(update={"control": request.control.model_copy(update={"in_band_s": None})})


if __name__ == "__main__":
    main()
