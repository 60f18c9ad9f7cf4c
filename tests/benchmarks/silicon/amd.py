"""The effects of AMD's GPU types under SGLang, fitted to their runs alone with everything else as it is, and how far
releases are off that came later: ``python -m tests.benchmarks.silicon.amd [--write]`` (one minute).

Whole fits (``python -m tests.benchmarks.silicon calibrate``) find the same: no other run tells of them. Writes them to
``calibration.yaml`` where asked to, and the errors to ``costmodels/evidence/amd.json``: with the constants that stood
before, with these (in-sample), and with runs of MI355X from 2026-01-20 on and of MI300X from March on held out.
"""

from __future__ import annotations

import argparse
import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import yaml

from costmodels.estimates import Floats
from costmodels.serving.calibration_fit.asked import AskedLoops
from costmodels.serving.calibration_fit.constants import OfRuns, constants_of, predicted_ms
from costmodels.serving.calibration_fit.effects import IN_EFFECT, WIDTHS
from costmodels.serving.calibration_fit.fit import PriorConstants, fit, held_out
from costmodels.serving.calibration_fit.intervals import pooled
from costmodels.serving.calibration_fit.learned import effects_of, residuals_of
from costmodels.serving.calibration_fit.runs import MeasuredRuns, day_of, runs_of
from costmodels.serving.frameworks.calibration import Calibration, Effects, Spreads
from costmodels.serving.frameworks.framework import find_framework
from planner.calibrate.learning import days_of, statistics_of
from planner.serving.measured.columns import measured_columns
from planner.serving.prediction_table import predict
from tests.benchmarks.cards import card, write

TARGET = Path(__file__).parents[3] / "costmodels" / "serving" / "frameworks" / "calibration.yaml"
SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "serving" / "endtoend.csv"
FRAMEWORK, CAMPAIGN = "sglang", "InferenceX"
LATER = {"MI355X": "2026-01-20", "MI300X": "2026-03-01"}
"""GPU type → the day from which its runs are held out."""

KNOWN = ("model", "framework model", "campaign", "trend", "vendor trend")
"""Groups whose effects are of other runs, too, and stay."""

STILL = 1e-4
"""Freedom of constants that stay."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=SHARED)
    parser.add_argument("--write", action="store_true", help="to calibration.yaml")
    options = parser.parse_args()
    table = pd.read_csv(options.runs, dtype=str, keep_default_na=False)
    table = table[table["gpu"].isin(LATER) & (table["framework"] == FRAMEWORK)].reset_index(drop=True)
    known = find_framework(FRAMEWORK).fitted
    runs = _runs(table)
    before = _errors(_as_known(runs, known), runs)
    bare = known.model_copy(update={"effects": _without_amd(known.effects)})
    offset = np.array([bare.effects.at(*asked) for asked in _asked(runs)]) / IN_EFFECT
    runs = replace(runs, offset=offset)
    prior = PriorConstants((FRAMEWORK,), constants_of(known)[None], STILL)
    with mock.patch.dict(WIDTHS, dict.fromkeys(KNOWN, (0.0, 0.0, 0.0, 0.0))):
        fitted, linear = fit(runs, prior)
        dates = table["date"].to_numpy()[runs.row]
        late = np.array([day >= LATER[gpu] for gpu, day in zip(runs.gpu, dates, strict=True)])
        later = held_out(runs, prior, linear, {"later": late}, fitted)["later"]
        learned = effects_of(fitted, runs, FRAMEWORK, bare.effects)
    logs = np.log(runs.measured / predicted_ms(fitted.of(runs, fitted.groups), runs))
    document: dict[str, Any] = {
        "command": "python -m tests.benchmarks.silicon.amd",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "runs": len(runs),
        "shipped": before,
        "in_sample": _errors(logs, runs),
        "later_releases_held_out": {"from": LATER, **_errors(later, runs)},
    }
    print(document)
    if options.write:
        of_all = Spreads(ttft=known.ttft, tpot=known.tpot, e2e=known.e2e)
        spreads = {
            gpu: pooled(
                residuals_of(logs, runs, runs.gpu == gpu).joined(residuals_of(later, runs, late & (runs.gpu == gpu))),
                of_all,
            )
            for gpu in LATER
        }
        _write(learned, spreads)
    print(write("amd", document))


def _runs(table: pd.DataFrame) -> MeasuredRuns:
    loops: list[AskedLoops] = []
    predict(table, beside_measured=True, loops=loops)
    runs = runs_of(
        loops, np.full(len(table), CAMPAIGN, dtype=object), statistics_of(measured_columns(table), len(table))
    )
    return replace(runs, days=days_of(runs, table))


def _asked(runs: MeasuredRuns) -> list[tuple[tuple[str, str, str], datetime.date | None, str]]:
    each = zip(runs.gpu, runs.generation, runs.vendor, runs.days, runs.kind, strict=True)
    return [((gpu, made, by), day_of(day) if np.isfinite(day) else None, kind) for gpu, made, by, day, kind in each]


def _as_known(runs: MeasuredRuns, known: Calibration) -> Floats:
    effects = np.array([known.effects.at(*asked) for asked in _asked(runs)]) / IN_EFFECT
    values = np.tile(constants_of(known), (len(runs), 1))
    return np.asarray(np.log(runs.measured / predicted_ms(OfRuns(values, *effects.T), runs)))


def _errors(logs: Floats, runs: MeasuredRuns) -> dict[str, Any]:
    """By metric, of all and by GPU type; means before medians."""
    out: dict[str, Any] = {}
    for metric, at in (("ttft", 0), ("tpot", 2)):
        values = np.where(np.isfinite(logs[at]), logs[at], logs[at + 1])
        cuts = {"all": np.isfinite(values), **{gpu: np.isfinite(values) & (runs.gpu == gpu) for gpu in LATER}}
        out[metric] = {name: card(np.exp(values[cut]), np.ones(cut.sum())) for name, cut in cuts.items()}
    return out


def _of_amd(name: str) -> bool:
    return name == "amd" or name.startswith(("cdna", "MI"))


def _without_amd(effects: Effects) -> Effects:
    parts = ("vendors", "generations", "gpus", "releases")
    kept = {part: {key: each for key, each in getattr(effects, part).items() if not _of_amd(key)} for part in parts}
    return effects.model_copy(update={**kept, "layers_of": ()})


def _write(learned: Effects, spreads: dict[str, Spreads]) -> None:
    text = TARGET.read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    shipped, fresh = document[FRAMEWORK], learned.model_dump(mode="json")
    effects = shipped["effects"]
    for part in ("vendors", "generations", "gpus", "releases"):
        kept = {key: each for key, each in effects[part].items() if not _of_amd(key)}
        effects[part] = dict(sorted({**kept, **{k: each for k, each in fresh[part].items() if _of_amd(k)}}.items()))
    effects["layers_of"] = fresh["layers_of"]
    shipped["on_gpus"] |= {gpu: each.model_dump(mode="json") for gpu, each in spreads.items()}
    said = "# SGLang's effects on AMD are of python -m tests.benchmarks.silicon.amd --write.\n"
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#") and line != said)
    TARGET.write_text(head + said + yaml.safe_dump(document, sort_keys=False, width=120), encoding="utf-8")


if __name__ == "__main__":
    main()
