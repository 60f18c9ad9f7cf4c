"""Predictions of measured runs with the shipped command, and with constants that did not see them: ``python -m
tests.benchmarks.silicon``.

``calibrate`` fits the engines' constants first, with what ``plan calibrate`` runs, and writes
``costmodels/serving/frameworks/calibration.yaml`` (``--keep``: not those of some frameworks); without it the
hold-outs are computed all the same and the file is left alone. Rows are aiconfigurator-core's (extra ``silicon``, or
``--from FOLDER`` of the unpacked wheel) and those of ``--runs`` files, in the columns of ``plan predict --measured``.
Writes ``costmodels/evidence/silicon.json``. The peer runs in an environment of its own, made on first use; with
``--no-peer`` its figures stay as they were last.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from costmodels.estimates import Floats
from costmodels.serving.calibration_fit.runs import MeasuredRuns
from costmodels.serving.frameworks.framework import find_framework, registry
from planner.calibrate.learning import Lesson, calibrate
from planner.serving.measured.columns import measured_columns
from planner.serving.measured.scores import scores_of
from planner.serving.prediction_table import predict
from tests.benchmarks.cards import EVIDENCE, card, write
from tests.benchmarks.silicon import metrics, peer, rows

TARGET = Path(__file__).parents[3] / "costmodels" / "serving" / "frameworks" / "calibration.yaml"
COMMAND = "python -m tests.benchmarks.silicon"
SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "serving" / "endtoend.csv"
CAMPAIGNS = {"inferencex": "InferenceX", "accelmark": "AccelMark"}
BY = ("source", "framework", "gpu")

OPTIMISTIC = (
    "every fold refits all constants and effects, but how the loops follow slower steps is played once, with those of "
    "all rows",
    "the model's form was chosen while looking at all rows: which constants there are, their bounds and priors (prior "
    "weights of 1 to 200 tried), how long releases are remembered, that experts in blocks of fp8 are slow in vLLM "
    "before 0.14, how long hosts launch prompts of experts under SGLang, that first requests there wait for kernels "
    "to be compiled, whose rows answer for TensorRT-LLM's fp8 products on Hopper",
    "how NVIDIA sent its own rows (ends of answers four tokens apart, one prompt a step) was inferred from these rows",
    "that TensorRT-LLM's models of latent or linear attention share what steps with prompts take, how much, and that "
    "others' do not, was chosen on these hold-outs; that they share nothing of other steps, on decode engines' rows",
    "a held-out model keeps its kernels: some were timed for it by name",
    "rows of aiconfigurator-core whose campaign published no recipe weigh 0.3 (NVIDIA) and 0.1 (NVIDIA Dynamo); "
    "TensorRT-LLM's of the latter are left out: they are deployments of several engines behind a router",
    "a run without a stated release is taken to be of the newest that there was on its day",
    "that releases follow a trend, how strongly it and effects of models are drawn to nothing, and that experts spread "
    "whole are uneven, was chosen on hold-outs of models, GPU types and dates of these rows",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", nargs="?", choices=("score", "calibrate"), default="score")
    parser.add_argument("--from", dest="source", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    parser.add_argument("--runs", type=Path, nargs="*", default=[SHARED] if SHARED.exists() else [])
    parser.add_argument("--keep", nargs="*", default=[], help="frameworks whose shipped constants stay")
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out")
    options = parser.parse_args()

    loaded = rows.load(options.source)
    distinct = loaded.table[~loaded.table["repeat"]]
    single = ~((distinct["campaign"] == "NVIDIA Dynamo") & (distinct["framework"] == "trtllm"))
    tables = [rows.as_runs(distinct[single])]
    for path in options.runs:
        more = pd.read_csv(path, dtype=str, keep_default_na=False)
        tables.append(
            more.assign(campaign=[CAMPAIGNS.get(name, name.split(" ")[0]) for name in more["source"]], row="")
        )
    table = pd.concat(tables, ignore_index=True).fillna("")
    names = ", ".join(["aiconfigurator-core 0.12.0 systems/silicon_sample.csv", *(path.name for path in options.runs)])
    lesson = calibrate(
        table, fresh=True, said=f"{names} ({COMMAND} calibrate)", progress=lambda text: print(text, flush=True)
    )
    if options.action == "calibrate":
        learned = {**lesson.learned.calibrations, **{name: find_framework(name).fitted for name in options.keep}}
        made = {name: each.model_dump(mode="json") for name, each in sorted(learned.items())}
        header = (
            f"# Written by `{COMMAND} calibrate`; calibration.py says what each constant is.\n"
            "# Fitted to all rows (in-sample). Spreads are of these and of the newest releases held out.\n"
        )
        TARGET.write_text(header + yaml.safe_dump(made, sort_keys=False, width=120), encoding="utf-8")
        registry.cache_clear()  # of constants that stood before

    answer = predict(table, beside_measured=True)
    shipped = scores_of(answer, measured_columns(table), BY)
    before = json.loads((EVIDENCE / "silicon.json").read_text(encoding="utf-8"))
    document: dict[str, Any] = {
        "command": COMMAND,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rows": {
            **loaded.counts,
            "NVIDIA Dynamo under TensorRT-LLM, of several engines": int((~single).sum()),
            **{f"of {path.name}": len(each) for path, each in zip(options.runs, tables[1:], strict=True)},
            "fitted": lesson.used,
            "not fitted": dict(lesson.left_out),
        },
        "repeats": metrics.repeats(loaded.table),
        "run_before": metrics.run_before(table),
        "shipped_in_sample": shipped.model_dump(mode="json"),
        "held_out": _held_out(lesson),
        "decisions": _of_held(lesson, table, loaded.table, metrics.decisions),
        "margins": _of_held(lesson, table, loaded.table, metrics.margins),
        "offline": _of_held(lesson, table, loaded.table, metrics.offline),
        "oracle": metrics.oracle(loaded.table),
        "optimistic": list(OPTIMISTIC),
    }
    if options.no_peer:
        document["peer"] = before.get("peer") or _peer_of(before)
    else:
        document["peer"] = _peer(loaded.table)
    print(json.dumps(document["held_out"], indent=1))
    print(document["decisions"])
    print(write("silicon", document))


def _merged(logs: Floats, at: int) -> Floats:
    """Means, else medians."""
    return np.where(np.isfinite(logs[at]), logs[at], logs[at + 1])


def _held_out(lesson: Lesson) -> dict[str, Any]:
    """Errors by what was held out: of all, by vendor, by framework, by campaign."""
    runs, out = lesson.learned.runs, {}
    cuts = {
        "all": np.full(len(runs), "all", dtype=object),
        "vendor": runs.vendor,
        "framework": runs.framework,
        "campaign": runs.campaign,
        "gpu": np.array([f"{c} {g}" for c, g in zip(runs.campaign, runs.gpu, strict=True)], dtype=object),
    }
    for held, logs in lesson.learned.residuals.items():
        out[held] = {
            metric: {
                cut: {str(key): _card(_merged(logs, at)[label == key]) for key in sorted(set(label))}
                for cut, label in cuts.items()
            }
            for metric, at in (("ttft", 0), ("tpot", 2))
        }
    return out


def _card(logs: Floats) -> dict[str, Any]:
    known = logs[np.isfinite(logs)]
    if not len(known):
        return {"rows": 0}
    return card(np.exp(known), np.ones(len(known)))


def _of_held(
    lesson: Lesson, table: pd.DataFrame, listed: pd.DataFrame, figures: Callable[[pd.DataFrame, Floats, Floats], Any]
) -> dict[str, Any]:
    """Of aiconfigurator-core's rows, with models and GPU types held out: ``figures`` of rows, TTFT and TPOT."""
    runs: MeasuredRuns = lesson.learned.runs
    at = table["row"].to_numpy()[runs.row]
    mine = np.flatnonzero(at != "")
    cases = listed.set_index("row").loc[at[mine].astype(np.int64)].reset_index()
    out = {}
    for held in ("nothing", "model", "gpu"):
        logs = lesson.learned.residuals[held]
        ttft, tpot = (runs.measured[stat][mine] * np.exp(-np.nan_to_num(logs[stat][mine])) for stat in (0, 2))
        out[held] = figures(cases, ttft, tpot)
    return out


def _peer_of(before: dict[str, Any]) -> dict[str, Any]:
    """The peer's figures out of evidence of the older form."""
    same = before["same_rows"]
    return {"date": before["date"], "peer": same["peer"], "peer_as_listed": same["peer_as_listed"]}


def _peer(table: pd.DataFrame) -> dict[str, Any]:
    """The strongest existing tool on the same rows."""
    out: dict[str, Any] = {"date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    distinct = table[~table["repeat"]].reset_index(drop=True)
    for name, as_listed in (("peer", False), ("peer_as_listed", True)):
        answers = peer.predict(table, as_listed=as_listed)
        mine = distinct["row"].to_numpy()
        ttft, tpot = (answers[column].to_numpy(dtype=np.float64)[mine] for column in ("ttft_ms", "tpot_ms"))
        both = np.isfinite(ttft) & np.isfinite(tpot)
        kept = distinct[both].reset_index(drop=True)
        out[name] = {
            "rows": int(both.sum()),
            **metrics.cards(kept, ttft[both], tpot[both]),
            "decisions": metrics.decisions(kept, ttft[both], tpot[both]),
        }
    return out


if __name__ == "__main__":
    main()
