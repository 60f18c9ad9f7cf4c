"""Whole engine steps measured on a real GPU against the sum that the cost model makes of them:
``python -m tests.benchmarks.steps``.

``data/steps_h200.csv`` holds steps of dense models that this project ran as CUDA graphs on one H200, right after a rest
and under sustained load (the file's head says how). The cost model is asked for the same steps without host and
without the calibration that serving runs taught it: kernels alone, as the pack timed them in short bursts. Nothing of
it was fitted to these rows. Decode attention ran in torch's kernel, which is not an engine's: with many sequences it
is slower than theirs by up to a half (harness-h200.json), so that decode is shown by batch.

``data/steps_h200_vllm.csv`` holds what the kernels of a server's steps took by kind, as CUPTI traced them: the parts of
``--explain`` one by one. Writes ``costmodels/evidence/steps-h200.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.serving.frameworks.calibration import NEUTRAL
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.served_model import ServedModel
from costmodels.serving.step import StepTimes
from costmodels.step.communication import Network
from planner.contract.workload.workload import ROUTING
from profiles.hardware import find_fabric, find_gpu
from tests.benchmarks.cards import card, write

ROWS = Path(__file__).parent / "data" / "steps_h200.csv"
TRACED = ROWS.parent / "steps_h200_vllm.csv"
GPU, FRAMEWORK = "H200", "vllm"
PARTS = ("gemm", "attention", "moe", "elementwise")


def asked_steps(model_name: str, precision: str | None, asked: Batch, routing: str) -> StepTimes:
    """Steps of one model without host and calibration, [rows]."""
    model = find_architecture(model_name)
    weights = choose_precision(model) if precision is None else choose_precision(model, precision)
    cost = CostModel(find_gpu(GPU), FRAMEWORK)
    served = ServedModel(model, weights, find_framework(FRAMEWORK), cost, Network(8, find_fabric("ib-400g")))
    layouts = Layouts.of([(1, 1, 1, 1, 1)] * len(asked.prefills))
    return served.step(layouts, asked, routing, calibration=NEUTRAL)


def steps_of(rows: pd.DataFrame) -> StepTimes:
    """The steps of one model."""
    decode = (rows["phase"] == "decode").to_numpy()
    batch, tokens, context = (rows[name].to_numpy(np.int64) for name in ("batch", "tokens", "context"))
    asked = Batch(
        prefills=np.where(decode, 0, batch),
        chunk=np.where(decode, 0, tokens),
        prefix=np.zeros_like(batch),
        decodes=np.where(decode, batch, 0),
        context=context,
        expert_tokens=np.ones(len(rows)),
    )
    return asked_steps(str(rows["model"].iloc[0]), None, asked, "balanced")


def predicted_us(rows: pd.DataFrame) -> Floats:
    """Kernel time of the steps of one model, µs, shape [rows]."""
    parts = steps_of(rows).parts
    return np.sum([us for part, us in parts.items() if part != "host"], axis=0)


def traced() -> list[dict[str, Any]]:
    """Every traced step with the predicted time of each part beside what was measured, µs."""
    table = pd.read_csv(TRACED, comment="#")
    for (model, precision), rows in table.groupby(["model", "precision"], sort=False):
        prompts, tokens, decodes, context = (
            rows[name].to_numpy(np.int64) for name in ("prompts", "prompt_tokens", "decodes", "context")
        )
        asked = Batch(
            prefills=prompts,
            chunk=tokens // np.maximum(prompts, 1),
            prefix=np.zeros_like(prompts),
            decodes=decodes,
            context=np.maximum(context, 1),
            expert_tokens=(tokens + decodes).astype(np.float64),
        )
        parts = asked_steps(str(model), str(precision), asked, ROUTING).parts
        for part in PARTS:
            table.loc[rows.index, f"{part}_predicted_us"] = parts[part].round(1)
    return table.to_dict("records")


def main() -> None:
    rows = pd.read_csv(ROWS, comment="#")
    for _, places in rows.groupby("model", sort=False).groups.items():
        rows.loc[places, "predicted_us"] = predicted_us(rows.loc[places])
    few = rows["batch"] <= 32
    groups = {
        "decode, up to 32 sequences": (rows["phase"] == "decode") & few,
        "decode, 64 to 256 sequences": (rows["phase"] == "decode") & ~few,
        "prefill": rows["phase"] == "prefill",
    }
    document: dict[str, Any] = {"gpu": GPU, "framework": FRAMEWORK, "groups": {}}
    for name, mine in groups.items():
        said = rows.loc[mine, "predicted_us"].to_numpy(float)
        document["groups"][name] = {
            state: card(rows.loc[mine, f"{state}_us"].to_numpy(float), said) for state in ("rested", "sustained")
        } | {"watts": [float(rows.loc[mine, "watts"].min()), float(rows.loc[mine, "watts"].max())]}
        for state, figures in list(document["groups"][name].items())[:2]:
            print(f"{name:<28} {state:<10} {figures}")
    document["traced"] = {"framework": "vllm 0.20.2", "groups": {}, "steps": (steps := traced())}
    for model, mine in pd.DataFrame(steps).groupby("model", sort=False):
        for phase, some in (("decode", mine[mine["prompts"] == 0]), ("with prompts", mine[mine["prompts"] > 0])):
            sums = {kind: some[[f"{part}{kind}" for part in PARTS]].sum(axis=1) for kind in ("_us", "_predicted_us")}
            columns = {part: (some[f"{part}_us"], some[f"{part}_predicted_us"]) for part in PARTS}
            group = {
                name: card(truth.to_numpy(float), said.to_numpy(float))
                for name, (truth, said) in {**columns, "all kernels": tuple(sums.values())}.items()
                if truth.min() > 0
            }
            document["traced"]["groups"][f"{model}, {phase}"] = group
            for name, figures in group.items():
                print(f"{model:<24} {phase:<13} {name:<12} {figures}")
    rounded = rows.assign(predicted_us=rows["predicted_us"].round(1))
    print(write("steps-h200", document | {"rows": rounded.to_dict("records")}))


if __name__ == "__main__":
    main()
