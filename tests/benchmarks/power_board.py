"""The constants of a Hopper board (``costmodels/power/board.yaml``) and what they are off by where a model is left out:
``python -m tests.benchmarks.power_board``.

Fitted to ML.ENERGY's serving runs on H100 (``../shared/data/serving/endtoend.csv``, rows with watts, where it is
there), as ``plan predict`` reads them, and to steps of dense models that this project metered on an H200
(``data/steps_h200.csv``; decode of more than eight sequences is left out: torch's attention, which draws as no engine's
does, takes more than a tenth of it). A step that the board held at its limit says no watts but a clock: it counts by
the level that it would reach at the highest one, in the time that it took right after a rest. Each run counts once and
each step three times. Puts ``Hopper boards`` into
``costmodels/evidence/power.json``; writes no constants.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from costmodels.estimates import Estimates, Floats
from costmodels.power import board
from costmodels.power.board import SHARES, TIMES, Activity
from costmodels.power.response import clock_response
from costmodels.serving.closed_loop import client
from planner.serving.prediction_table import predict
from profiles.hardware import Gpu, find_gpu
from tests.benchmarks.cards import EVIDENCE, card, write
from tests.benchmarks.steps import GPU, ROWS, steps_of

RUNS = Path(__file__).parents[3] / "shared" / "data" / "serving" / "endtoend.csv"
FITTED = ("base", "memory", "filled", "compute", "rest")
FIRST = (0.06, 0.7, 0.1, 1.6, 0.9)
STEP_WEIGHT = 3.0
MOST_SEQUENCES = 8


@dataclass(frozen=True)
class Metered:
    """``model`` and measured ``watts`` of rows on one GPU type, [n] each, and what the GPUs do in them.

    ``held``: clock ÷ the highest where the board held its limit, 1 where it did not (None: nowhere).
    """

    gpu: Gpu
    model: NDArray[np.str_]
    watts: Floats
    activity: Activity
    running: Floats
    held: Floats | None = None

    def where(self, rows: NDArray[np.bool_]) -> Metered:
        part = Activity(*(getattr(self.activity, name)[rows] for name in SHARES))
        held = None if self.held is None else self.held[rows]
        return Metered(self.gpu, self.model[rows], self.watts[rows], part, self.running[rows], held)

    def log_off(self, constants: Sequence[float]) -> Floats:
        facts = replace(board.power_facts(), **dict(zip(FITTED, map(float, constants), strict=True)))
        with patch.object(board, "power_facts", lambda: facts):
            told = board.mean_watts(self.gpu, self.activity, self.running).value
            level = board.level_of(self.gpu, self.activity)
        off = np.log(told / self.watts)
        if self.held is None:
            return np.asarray(off)
        warmest = self.held ** -clock_response(self.gpu.name).prefill.exponent[0]
        return np.asarray(np.where(self.held < 1, np.log(np.maximum(level, 1e-9) / warmest), off))


def runs() -> Metered:
    """ML.ENERGY's, as they are predicted."""
    table = pd.read_csv(RUNS, dtype=str, keep_default_na=False)
    table = table[table["watts_per_gpu"] != ""].reset_index(drop=True)
    seen: list[tuple[float, float, list[float]]] = []
    mean_watts = board.mean_watts

    def noted(gpu: Gpu, activity: Activity, running: Floats) -> Estimates:
        told = mean_watts(gpu, activity, running)
        shares = np.stack([getattr(activity, name) for name in SHARES], axis=1)
        seen.extend(zip(told.value.tolist(), running.tolist(), shares.tolist(), strict=True))
        return told

    with patch.object(client, "mean_watts", noted):
        answer = predict(table.drop(columns=[name for name in table if "_ms_" in name or name.endswith("_gpu")]))
    if told := [text for text in answer["error"] if text]:
        raise SystemExit(told[0])
    # Each row is found again by its watts, which the table says in six digits.
    watts = np.array([each[0] for each in seen])
    at = [int(np.abs(watts / float(value) - 1).argmin()) for value in answer["watts_per_gpu"]]
    shares = np.array([seen[i][2] for i in at])
    return Metered(
        find_gpu("H100-SXM"),
        table["model"].to_numpy(str),
        table["watts_per_gpu"].to_numpy(float),
        Activity(*shares.T),
        np.array([seen[i][1] for i in at]),
    )


def steps() -> Metered:
    table, gpu = pd.read_csv(ROWS, comment="#"), find_gpu(GPU)
    parts = []
    for name, rows in table.groupby("model", sort=False):
        asked, decode = steps_of(rows), (rows["phase"] == "decode").to_numpy()
        took = np.where(decode, rows["sustained_us"], rows["rested_us"])
        times = [np.minimum(getattr(asked, f"{each}_us") / took, 1.0) for each in TIMES]
        shares = np.stack([*times, asked.filled])
        kept = ~decode | (rows["batch"] <= MOST_SEQUENCES).to_numpy()
        held = np.where(decode, 1.0, rows["sm_mhz"] / rows["sm_mhz"].max())
        columns = (np.full(len(rows), str(name)), rows["watts"].to_numpy(float), held, shares)
        parts.append([each[..., kept] for each in columns])
    models, watts, held, shares = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
    return Metered(gpu, models, watts, Activity(*shares), np.ones(len(watts)), held)


def fitted(runs: Metered, steps: Metered) -> list[float]:
    def off(constants: Floats) -> Floats:
        return np.concatenate([runs.log_off(constants), STEP_WEIGHT**0.5 * steps.log_off(constants)])

    found = least_squares(off, FIRST, loss="soft_l1", f_scale=0.05, xtol=1e-12, ftol=1e-12)
    return [float(each) for each in found.x]


def _same(one: str, other: str) -> bool:
    return one.split("/")[-1].removesuffix("-Instruct") == other.split("/")[-1].removesuffix("-Instruct")


def left_out(runs: Metered, steps: Metered) -> tuple[Floats, Floats]:
    """log(predicted ÷ measured) of every run and every step, its model left out of both."""
    off = np.zeros(len(runs.watts)), np.zeros(len(steps.watts))
    for model in sorted({*runs.model, *steps.model}):
        here = [np.array([_same(model, other) for other in each.model], dtype=np.bool_) for each in (runs, steps)]
        constants = fitted(runs.where(~here[0]), steps.where(~here[1]))
        for part, rows, into in zip((runs, steps), here, off, strict=True):
            into[rows] = part.where(rows).log_off(constants)
    return off


def main() -> None:
    if not RUNS.exists():
        raise SystemExit(f"{RUNS} is not here: the runs that the constants are fitted to")
    metered, alone = runs(), steps()
    constants = fitted(metered, alone)
    of_runs, of_steps = left_out(metered, alone)
    inside = metered.log_off(constants)
    one, unit = np.ones(len(of_runs)), np.ones(len(of_steps))
    found = {
        "constants": dict(zip(FITTED, (round(each, 3) for each in constants), strict=True)),
        "runs, a model left out": card(one, np.exp(of_runs)),
        "runs, in sample": card(one, np.exp(inside)),
        "steps, a model left out (watts, or the level of those that were held)": card(unit, np.exp(of_steps)),
        "10th and 90th percentile of log(measured ÷ predicted), a model left out": [
            round(float(each), 3) for each in np.quantile(-of_runs, (0.1, 0.9))
        ],
        "by model, %": {
            model.split("/")[-1]: round(100 * float(np.median(np.expm1(of_runs[metered.model == model]))), 1)
            for model in sorted(set(metered.model))
        },
    }
    known = json.loads((EVIDENCE / "power.json").read_text("utf-8"))
    print(write("power", {**known, "Hopper boards": found}))
    for name, each in found.items():
        print(name, each)


if __name__ == "__main__":
    main()
