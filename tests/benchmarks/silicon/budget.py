"""The error budget: the same rows with one part of the model after another, and what is left in the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from costmodels.estimates import Floats
from costmodels.serving.calibration_fit.fit import KERNELS_ALONE, Constants, play
from costmodels.serving.calibration_fit.runs import DECODE_LEVELS, MeasuredRuns


def ladder(rows: MeasuredRuns, held_out: tuple[Floats, Floats], in_sample: tuple[Floats, Floats]) -> dict[str, Any]:
    """MAPE and median by step.

    Args:
        held_out, in_sample: (TTFT, TPOT) in ms of the whole model.
    """
    kernels = Constants(np.tile(KERNELS_ALONE, (len(rows), 1)))
    alone = rows.parts_ms.sum(axis=2)
    tokens = kernels.tokens_per_step(rows.table["drafted"].to_numpy())[:, 0]
    steps: dict[str, tuple[Floats, Floats]] = {
        "kernels, in a formula: one prompt, one step of the full batch": (
            alone[:, DECODE_LEVELS] * rows.chunks,
            alone[:, DECODE_LEVELS - 1] / tokens,
        )
    }
    plain = replace(rows, table=rows.table.assign(gate_steps=0.0))
    for name, played in (
        ("and the protocol: burst, lengths, queue", play(kernels, plain)),
        ("and the engines' own waiting before they take prompts", play(kernels, rows)),
    ):
        steps[name] = played.ttft_ms, played.tpot_ms
    steps["and step and front end, fitted, models held out"] = held_out
    steps["the same, in sample"] = in_sample
    out: dict[str, Any] = {}
    for name, pair in steps.items():
        out[name] = {}
        for metric, predicted in zip(("ttft", "tpot"), pair, strict=True):
            error = np.abs(predicted / rows.table[f"{metric}_ms"].to_numpy() - 1)
            known = np.isfinite(error)
            out[name][metric] = {
                "mape_pct": round(100 * float(error[known].mean()), 2),
                "median_pct": round(100 * float(np.median(error[known])), 2),
            }
    out["kernels' own 80 % interval in a step of the full batch, half-width"] = {
        "median_pct": round(100 * float(np.median(np.expm1(rows.kernels_log))), 2)
    }
    return out
