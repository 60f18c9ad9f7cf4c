"""Ours and the peer's predictions of the same public end-to-end runs: ``python -m tests.benchmarks.silicon``.

``calibrate`` fits the engine constants first and writes ``costmodels/serving/frameworks/calibration.yaml``; without it
the figures are computed all the same (every fold refits its own constants) and the file is left alone. Writes
``costmodels/evidence/silicon.json``. Needs the extra ``silicon`` or ``--from FOLDER`` of the unpacked wheel; the peer
runs in an environment of its own, made on first use, and its answers are kept in the user's cache folder.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from costmodels.estimates import COVERAGE, Floats
from costmodels.serving.calibration_fit.fit import NAMES, Constants, calibration, fit, front_ms, held_out
from costmodels.serving.calibration_fit.intervals import coverage, quantile, spread
from costmodels.serving.calibration_fit.runs import MeasuredRuns, ask
from planner.contract.workload.workload import ROUTING
from tests.benchmarks.cards import line, write
from tests.benchmarks.silicon import budget, metrics, peer, rows
from tests.benchmarks.silicon.recipes import CAMPAIGNS

FRAMEWORKS = ("vllm", "sglang", "trtllm")
SPLITS = {"model": "family", "gpu": "gpu"}
TARGET = Path(__file__).parents[3] / "costmodels" / "serving" / "frameworks" / "calibration.yaml"
COMMAND = "python -m tests.benchmarks.silicon"


def request_ms(table: pd.DataFrame, ttft_ms: Floats, tpot_ms: Floats) -> Floats:
    """Whole requests."""
    tokens = (table["osl"] * (1 + table["shortest"]) / 2).to_numpy()
    total: Floats = ttft_ms + tpot_ms * (tokens - 1)
    return total


CONFIDENCES = (0.5, 0.7, 0.8, 0.9)

CHOSEN_ON_ALL_ROWS = (
    "Every fold refits the constants, but the model's form was chosen while looking at all rows, so held-out figures "
    "are somewhat optimistic:",
    "regularisation: separate factors for prompts and decodes or one for both; how strong all priors are together "
    "(weights 0.02, 0.05, 0.1 and 0.15 tried), and the two half-widths of factors' priors between which groups held "
    "out inside each fold decide (0.015 to 0.1 tried)",
    "rows of one model on one GPU weigh less the more they are (powers 0, 0.25, 0.5 and 1 tried; 0.5 kept)",
    "how far a campaign's constants may deviate (0.5, 1 and 2 times the framework's own prior: 0.5 was best)",
    "whose GEMMs speak for TensorRT-LLM in 8 and 4 bits (frameworks.yaml): looked for after Llama 3.1 70B was 3.5 ms "
    "a token too slow whatever the tensor parallelism, and found in the pack itself",
    "the closed loop's clusters, pipelines and admission were set by the event simulator alone, without these rows",
    "whose kernels speak for experts on Blackwell (frameworks.yaml), after seeing the rows' errors",
    "constant lengths for part of NVIDIA's own runs, and which images draft (recipes.py)",
    "which engines wait before they take prompts: the recipes' flags were looked up where TTFT was off",
    "tried and dropped: a term per expert layer in steps with prompts (TTFT's MAPE with it 35.4 instead of 32.8 % on "
    "models and 31.4 instead of 29.9 % on GPUs held out, medians 1 more and 1 less); wider priors of the host's "
    "constants; kernels and host combined by a power between sum and maximum; one running sequence less than the "
    "concurrency for TensorRT-LLM 1.0.0rc3; random effects of GPU, model, precision, "
    "release and layout on the logarithms of TPOT and TTFT (TTFT worse, vLLM's TPOT worse); a forest on residuals",
)


def margins(table: pd.DataFrame, tpot_ms: Floats, column: str, confidence: float) -> Floats:
    """How far (log) above the prediction TPOT lies with ``confidence``, from the residuals of the other groups."""
    errors = np.log(table["tpot_ms"].to_numpy() / tpot_ms)
    out = np.zeros(len(table))
    groups, frameworks = table[column].to_numpy(), table["framework"].to_numpy()
    for framework in FRAMEWORKS:
        for group in np.unique(groups[frameworks == framework]):
            others = (frameworks == framework) & (groups != group) & np.isfinite(errors)
            if others.any():
                out[(frameworks == framework) & (groups == group)] = quantile(
                    errors[others], groups[others], confidence
                )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", nargs="?", choices=("score", "calibrate"), default="score")
    parser.add_argument("--from", dest="source", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out")
    options = parser.parse_args()

    loaded = rows.load(options.source)
    known, left_out = ask(loaded.table, CAMPAIGNS, ROUTING, progress=lambda text: print(text, flush=True))
    distinct = known.take(np.flatnonzero(~known.table["repeat"].to_numpy()))
    n = len(distinct)
    predicted: dict[str, tuple[Floats, Floats]] = {
        name: (np.full(n, np.nan), np.full(n, np.nan)) for name in ("in_sample", *(f"held_out_{s}" for s in SPLITS))
    }
    fitted, document_yaml = {}, {}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for framework in FRAMEWORKS:
        index = np.flatnonzero((distinct.table["framework"] == framework).to_numpy())
        part = distinct.take(index)
        x, played = fit(part)
        fitted[framework] = x
        front = front_ms(Constants.of(x, part), part, played.tpot_ms)
        answers = {"in_sample": (played.ttft_ms + front, played.tpot_ms)}
        for split, column in SPLITS.items():
            answers[f"held_out_{split}"] = held_out(part, x, played, part.table[column].to_numpy())
        for name, pair in answers.items():
            for whole, values in zip(predicted[name], pair, strict=True):
                whole[index] = values
        residuals = _residuals(part.table, {name: answers[f"held_out_{name}"] for name in SPLITS})
        document_yaml[framework] = calibration(
            x,
            len(part),
            {name: spread(*values) for name, values in residuals.items()},
            f"aiconfigurator-core 0.12.0 systems/silicon_sample.csv ({COMMAND} calibrate)",
            today,
        ).model_dump(mode="json")
        print(f"{framework}: fitted to {len(part)} rows", flush=True)
    if options.action == "calibrate":
        header = (
            "# Written by `python -m tests.benchmarks.silicon calibrate`; calibration.py says what each constant is.\n"
            "# Fitted to all rows (in-sample). The spreads are of models and GPU types held out.\n"
        )
        TARGET.write_text(header + yaml.safe_dump(document_yaml, sort_keys=False, width=120), encoding="utf-8")

    document: dict[str, Any] = {
        "command": COMMAND,
        "date": today,
        "rows": {**loaded.counts, "left_out": left_out, "predicted": len(known), "distinct": n},
        "constants_per_campaign": len(NAMES),
        "repeats": metrics.repeats(known.table),
        "ours": {
            name: {
                **metrics.cards(distinct.table, ttft, tpot),
                "decisions": metrics.decisions(distinct.table, ttft, tpot),
            }
            for name, (ttft, tpot) in predicted.items()
        },
        "coverage": _coverages(distinct.table, predicted),
        "error_budget": budget.ladder(distinct, predicted["held_out_model"], predicted["in_sample"]),
        "oracle": metrics.oracle(known.table),
        "chosen_on_all_rows": list(CHOSEN_ON_ALL_ROWS),
    }
    if not options.no_peer:
        document["same_rows"] = _against_peer(loaded.table, distinct, predicted)
    _print(document)
    print(write("silicon", document))


def _residuals(table: pd.DataFrame, answers: dict[str, tuple[Floats, Floats]]) -> dict[str, tuple[Floats, np.ndarray]]:
    """log(measured ÷ predicted) of all splits together, and the group held out of each."""
    measured = {"ttft": table["ttft_ms"].to_numpy(), "tpot": table["tpot_ms"].to_numpy()}
    measured["e2e"] = request_ms(table, measured["ttft"], measured["tpot"])
    out = {}
    groups = np.concatenate([table[SPLITS[split]].to_numpy() for split in answers])
    for name in measured:
        predicted = {
            split: {"ttft": ttft, "tpot": tpot, "e2e": request_ms(table, ttft, tpot)}[name]
            for split, (ttft, tpot) in answers.items()
        }
        errors = np.concatenate([np.log(measured[name] / values) for values in predicted.values()])
        known = np.isfinite(errors)
        out[name] = errors[known], groups[known]
    return out


def _coverages(table: pd.DataFrame, predicted: dict[str, tuple[Floats, Floats]]) -> dict[str, Any]:
    """Of rows, and of groups (each counts alike), with the interval of the other groups of the split."""
    out: dict[str, Any] = {"claimed_pct": 100 * COVERAGE}
    for split, column in SPLITS.items():
        ttft, tpot = predicted[f"held_out_{split}"]
        for name, values in (("ttft", ttft), ("tpot", tpot)):
            errors = np.log(table[f"{name}_ms"].to_numpy() / values)
            shares = []
            for framework in FRAMEWORKS:
                index = np.flatnonzero((table["framework"] == framework).to_numpy() & np.isfinite(errors))
                shares.append((len(index), *coverage(errors[index], table[column].to_numpy()[index])))
            rows_of, by_row, by_group = (np.array(column) for column in zip(*shares, strict=True))
            out[f"{name}_held_out_{split}_pct"] = {
                "rows": round(100 * float(np.average(by_row, weights=rows_of)), 1),
                "groups": round(100 * float(np.average(by_group, weights=rows_of)), 1),
            }
    return out


def _against_peer(
    table: pd.DataFrame, distinct: MeasuredRuns, predicted: dict[str, tuple[Floats, Floats]]
) -> dict[str, Any]:
    """Both on the rows that both predict."""
    out: dict[str, Any] = {}
    for name, as_listed in (("peer", False), ("peer_as_listed", True)):
        answers = peer.predict(table, as_listed=as_listed)
        mine = distinct.table["row"].to_numpy()
        ttft, tpot = (answers[column].to_numpy(dtype=np.float64)[mine] for column in ("ttft_ms", "tpot_ms"))
        both = np.isfinite(ttft) & np.isfinite(tpot)
        rows_of_both = distinct.table[both].reset_index(drop=True)
        out[name] = {
            "rows": int(both.sum()),
            "without_an_answer_of_the_peer": int((~both).sum()),
            **metrics.cards(rows_of_both, ttft[both], tpot[both]),
            "decisions": metrics.decisions(rows_of_both, ttft[both], tpot[both]),
        }
        if not as_listed:
            for split, (our_ttft, our_tpot) in predicted.items():
                out[f"ours_{split}"] = {
                    **metrics.cards(rows_of_both, our_ttft[both], our_tpot[both]),
                    "decisions": metrics.decisions(rows_of_both, our_ttft[both], our_tpot[both]),
                }
            for split, column in SPLITS.items():
                our_ttft, our_tpot = (values[both] for values in predicted[f"held_out_{split}"])
                out[f"ours_held_out_{split}"]["decisions_at_confidence"] = {
                    str(confidence): metrics.decisions(
                        rows_of_both, our_ttft, our_tpot, margins(rows_of_both, our_tpot, column, confidence)
                    )
                    for confidence in CONFIDENCES
                }
    return out


def _print(document: dict[str, Any]) -> None:
    print(yaml.safe_dump(document["rows"], sort_keys=False, allow_unicode=True, width=120))
    blocks = document.get("same_rows", document["ours"])
    for metric in ("ttft", "tpot"):
        for name, block in blocks.items():
            print(line(f"{metric} {name}", block[metric]["all"]))
            if "ttft_above_30_s" in block[metric]:
                print(line(f"{metric} {name}, TTFT above 30 s", block[metric]["ttft_above_30_s"]))
        for cut in ("by_framework", "by_gpu", "by_family"):
            for name, block in blocks.items():
                for value, figures in block[metric][cut].items():
                    print(line(f"  {metric} {name} {value}", figures))
    for name, block in blocks.items():
        print(f"decisions {name}: {block['decisions']}")
        for confidence, figures in block.get("decisions_at_confidence", {}).items():
            print(f"  at confidence {confidence}: {figures}")
    print("coverage", document["coverage"])
    for step, figures in document["error_budget"].items():
        print(f"error budget, {step}: {figures}")
    print("oracle", document["oracle"])
    print("repeats", document["repeats"])


if __name__ == "__main__":
    main()
