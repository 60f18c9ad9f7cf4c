"""Watts of a served GPU in windows of 250 ms against what was metered: part of ``python -m tests.benchmarks.power``
(``--watts``), or alone: ``python -m tests.benchmarks.power_series``.

``data/power_series_h100.csv`` are eight loads of the two vLLM servers of ``data/engine_h100.csv`` as the board's energy
counter saw them (its head says how). ``plan simulate --timeline`` replays each load: in closed loops the requests are
the same; at a rate the arrivals are other ones of the same process, so that there only their distribution can be
compared. Autocorrelation is compared with that of metered series where the load repeats itself; where watts hardly
move it is noise, and ``alike`` says so: R² of the two halves of the metered series with each other.

``data/power_series_h200.csv`` are four loads of 81 s on an H200 with every request that was sent
(``power_series_h200_requests.csv``), so that the very same ones are replayed, window by window: :func:`replayed`.
Alone, both parts are put into ``costmodels/evidence/power.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from costmodels.serving.served_model import ServedModel
from costmodels.serving.step import StepTimes
from planner.replay.power import WINDOW_S
from planner.replay.report import simulate
from planner.replay.request import parse_simulation_request
from tests.benchmarks.cards import EVIDENCE, write

SERIES = Path(__file__).parent / "data" / "power_series_h100.csv"
LAGS = 10
"""Of the autocorrelation: two and a half seconds."""

SENT = SERIES.parent / "power_series_h200.csv"
REQUESTS = SERIES.parent / "power_series_h200_requests.csv"
SENT_LAGS = 80
"""Of their autocorrelation: 0.25 to 20 s."""

MODELS = {"dense": "meta-llama/Llama-3.1-8B", "moe": "Qwen/Qwen3-30B-A3B"}

Series = np.ndarray[Any, np.dtype[np.float64]]


def series() -> dict[str, Any]:
    """Energy, p99, autocorrelation and range-normalised RMSE of each load, and of all: medians."""
    table = pd.read_csv(SERIES, comment="#")
    loads = {str(name): scored(part) for name, part in table.groupby("load", sort=False)}
    moving = [each for each in loads.values() if each["moves"]]
    closed = [each for each in moving if each["same requests"]]
    return {
        "loads": loads,
        "energy, %, worst": max(abs(each["energy, %"]) for each in loads.values()),
        "p99, %, median": round(float(np.median([abs(each["p99, %"]) for each in loads.values()])), 1),
        "autocorrelation, R², median of closed loops that move": round(
            float(np.median([each["autocorrelation, R²"] for each in closed])), 3
        ),
        "and of the halves of the metered series": round(float(np.median([each["alike"] for each in closed])), 3),
    }


def scored(rows: pd.DataFrame) -> dict[str, Any]:
    metered, load = rows["watts"].to_numpy(float), rows.iloc[0]
    told = predicted(load)
    closed = not pd.isna(load["concurrency"])
    metered, told = _aligned(metered, told) if closed else _working(metered, told)
    least = min(len(metered), len(told))
    return {
        "same requests": closed,
        "windows": [len(metered), len(told)],
        # Of other arrivals by the second: how long they take to come is chance.
        "energy, %": _off(told.sum(), metered.sum()) if closed else _off(told.mean(), metered.mean()),
        "p50, %": _off(np.median(told), np.median(metered)),
        "p99, %": _off(np.percentile(told, 99), np.percentile(metered, 99)),
        "p99, W": [round(float(np.percentile(each, 99))) for each in (metered, told)],
        "moves": bool(metered.std() > 0.05 * metered.mean()),
        "autocorrelation, R²": _r2(autocorrelation(metered), autocorrelation(told)),
        "alike": _r2(*(autocorrelation(half) for half in np.array_split(metered, 2))),
        "normalised RMSE": None
        if not closed
        else round(float(np.sqrt(np.mean((metered[:least] - told[:least]) ** 2)) / np.ptp(metered)), 3),
    }


def replayed() -> dict[str, Any]:
    """The H200's loads, the same requests: of each what :func:`scored` says, and latencies of the same requests (the
    engine that is replayed is predicted, too)."""
    metered = {str(name): part for name, part in pd.read_csv(SENT, comment="#").groupby("load", sort=False)}
    sent = pd.read_csv(REQUESTS, comment="#").groupby("load", sort=False)
    return {str(name): _same_requests(metered[str(name)], part) for name, part in sent}


def _same_requests(windows: pd.DataFrame, sent: pd.DataFrame) -> dict[str, Any]:
    """As steps are predicted, and (what is left is the watts' own error) as much longer as makes latencies those that
    were measured."""

    def latency(log: float) -> float:
        return float(np.log1p(_as_long(windows, sent, float(np.exp(log)))["mean latency, %"] / 100))

    longer = float(brentq(latency, np.log(0.6), np.log(1.8), xtol=0.01))
    at_its_speed = _as_long(windows, sent, float(np.exp(longer)))
    kept = ("energy, %", "p99, %", "autocorrelation, R²", "normalised RMSE", "mean latency, %")
    found = {"steps, longer by": round(float(np.exp(longer)), 2), **{name: at_its_speed[name] for name in kept}}
    return {**_as_long(windows, sent), "at the speed that was measured": found}


def _as_long(windows: pd.DataFrame, sent: pd.DataFrame, longer: float = 1.0) -> dict[str, Any]:
    name = str(sent["load"].iloc[0])
    trace = {"name": name, **{each: sent[each].tolist() for each in ("arrival_s", "isl", "osl")}}
    seen: list[Series] = []
    kept: list[Any] = []
    plan = _deployment(MODELS[name.split("_")[0]], "H200", 256)
    with patch.object(ServedModel, "step", partialmethod(_longer, ServedModel.step, longer)):
        simulate(parse_simulation_request({"plan": plan, "trace": trace}), keep=kept.append, keep_watts=seen.append)
    least = min(len(windows), len(seen[0]))
    metered, instant = (windows[each].to_numpy(float)[:least] for each in ("watts", "inst"))
    told, outcome = seen[0][:least], kept[0]
    truth, guess = (autocorrelation(each, SENT_LAGS) for each in (metered, told))
    at = [0, 3, 7, 19, 39, 79]
    return {
        "windows": [len(windows), len(seen[0])],
        "energy, %": _off(told.sum(), metered.sum()),
        "p50, %": _off(np.median(told), np.median(metered)),
        "p99, %": _off(np.percentile(told, 99), np.percentile(metered, 99)),
        "p99, %, of instantaneous power": _off(np.percentile(told, 99), np.percentile(instant, 99)),
        "autocorrelation, R²": _r2(truth, guess),
        "alike": _r2(*(autocorrelation(half, SENT_LAGS) for half in np.array_split(metered, 2))),
        "autocorrelation at s": {
            str((lag + 1) * WINDOW_S): [round(float(truth[lag]), 2), round(float(guess[lag]), 2)] for lag in at
        },
        "normalised RMSE": round(float(np.sqrt(np.mean((metered - told) ** 2)) / np.ptp(metered)), 3),
        "mean TTFT, %": _off((outcome.first_us - outcome.arrival_us).mean() / 1e3, sent["ttft_ms"].mean()),
        "mean latency, %": _off((outcome.finish_us - outcome.arrival_us).mean() / 1e3, sent["e2e_ms"].mean()),
    }


def _longer(served: ServedModel, step: Callable[..., StepTimes], by: float, *asked: Any, **more: Any) -> StepTimes:
    """Steps that take ``by`` as long for the same work."""
    times = step(served, *asked, **more)
    return replace(times, latency=times.latency.scaled(by), stage=times.stage.scaled(by))


def predicted(load: pd.Series) -> Series:
    workload = {"isl": int(load["isl"]), "osl": int(load["osl"])}
    asked = (
        {"concurrency": int(load["concurrency"])}
        if not pd.isna(load["concurrency"])
        else {"rate_rps": float(load["rate"])}
    )
    seen: list[Series] = []
    plan = _deployment(str(load["model"]), "H100", 1024)
    simulate(
        parse_simulation_request({"plan": plan, "workload": {**workload, **asked}, "requests": int(load["requests"])}),
        keep_watts=seen.append,
    )
    return seen[0]


def _deployment(model: str, gpu: str, max_num_seqs: int) -> Any:
    from api.cli.engines import document_of_shapes

    limits = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": 8192}
    shape = {"gpu": gpu, "framework": "vllm@0.20.2", "model": model}
    return document_of_shapes("1xTP1", {**shape, **limits})


def _aligned(metered: Series, told: Series) -> tuple[Series, Series]:
    """Without the windows at either end in which it begins or ends, where they fit best."""
    told = told[1:-1]
    shifts = range(max(len(metered) - len(told), 0) + 1)
    best = min(shifts, key=lambda at: float(((metered[at : at + len(told)] - told[: len(metered) - at]) ** 2).sum()))
    metered = metered[best : best + len(told)]
    return metered, told[: len(metered)]


def _working(metered: Series, told: Series) -> tuple[Series, Series]:
    """Between the first and the last window at work."""

    def inner(of: Series) -> Series:
        at = np.flatnonzero(of > 1.5 * of.min())
        return of[at[0] + 1 : at[-1]]

    return inner(metered), inner(told)


def autocorrelation(of: Series, lags: int = LAGS) -> Series:
    off = of - of.mean()
    return np.array([float(off[: len(off) - lag] @ off[lag:]) for lag in range(1, lags + 1)]) / float(off @ off)


def _r2(truth: Series, told: Series) -> float:
    return round(float(1 - ((truth - told) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()), 3)


def _off(told: float, truth: float) -> float:
    return round(100 * (float(told) / float(truth) - 1), 1)


if __name__ == "__main__":
    found, same = series(), replayed()
    print(WINDOW_S, *found["loads"].items(), sep="\n")
    print({name: each for name, each in found.items() if name != "loads"}, *same.items(), sep="\n")
    known = json.loads((EVIDENCE / "power.json").read_text("utf-8"))
    print(write("power", {**known, "250 ms": found, "250 ms, the same requests": same}))
