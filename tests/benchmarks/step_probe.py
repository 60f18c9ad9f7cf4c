"""How far a step's prediction is from silicon: ``python -m tests.benchmarks.step_probe`` (extra ``silicon``).

A first look, not a calibration: TPOT of the aggregated rows of aiconfigurator-core's ``silicon_sample.csv``
(closed-loop clients,
mean TPOT) against the steady state at the row's batch per attention rank. Nothing is fitted to these rows but one
figure a
framework, ``step_spread`` in ``costmodels/serving/frameworks.yaml``: the 80 % quantile of |log(predicted ÷
measured)|, in-sample,
which widens the intervals of steps until the engine model is calibrated. Writes
``costmodels/evidence/step_probe.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodels.communication import Network
from costmodels.estimates import COVERAGE
from costmodels.layouts import Layouts
from costmodels.library import CostModel
from costmodels.precision import choose_precision
from costmodels.registry import find_architecture
from costmodels.serving.frameworks import find_framework
from costmodels.serving.steady import steady_state
from profiles.errors import ShardwrightError
from profiles.hardware import default_node, find_fabric, find_gpu
from profiles.importers.aiconfigurator import SYSTEMS, find_data
from tests.benchmarks.cards import card, line, write

WEIGHTS = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}


def predicted_ms(group: pd.DataFrame, model_name: str, system: str, backend: str, weights: str) -> np.ndarray:
    """TPOT of each row, ms."""
    model = find_architecture(model_name)
    own = model.weight_precision != "bf16"
    precision = choose_precision(model, None if own else WEIGHTS[weights], None if weights == "bfloat16" else "fp8")
    gpu = find_gpu(SYSTEMS[system])
    node = default_node(gpu)
    cost, network = CostModel(gpu, backend), Network(node.gpus, find_fabric(node.default_fabric))
    framework = find_framework(backend)
    out = np.zeros(len(group))
    degrees = group[["tp_size", "pp_size", "attention_dp_size", "moe_ep_size", "moe_tp_size"]].fillna(1)
    layouts = degrees.clip(lower=1).to_numpy(dtype=np.int64)
    if not model.is_moe:
        layouts[:, 2:] = 1
    for (isl, osl), index in group.reset_index(drop=True).groupby(["isl", "osl"]).groups.items():
        rows = np.asarray(index)
        steady = steady_state(
            model,
            precision,
            cost,
            network,
            framework,
            Layouts(*layouts[rows].T),
            np.full(len(rows), max(framework.token_budgets)),
            group["batch_size"].to_numpy(dtype=np.int64)[rows],
            int(isl),
            int(osl),
            "power_law_1.01",
        )
        out[rows] = steady.tpot_us.value / 1e3
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path)
    table = pd.read_csv(find_data(parser.parse_args().source).parent / "silicon_sample.csv")
    rows = table[(table["mode"] == "agg") & table["system"].isin(SYSTEMS)].drop(columns="id").drop_duplicates()
    rows = rows[(rows["batch_size"] > 0) & (rows["tp_size"] > 0)]
    document: dict[str, Any] = {"command": "python -m tests.benchmarks.step_probe", "excluded": {}, "groups": {}}
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    keys = ["backend", "model_path", "system", "gemm_quant_mode"]
    for (backend, model, system, weights), group in rows.groupby(keys):
        name = f"{backend} {model} {system} {weights}"
        try:
            answer = predicted_ms(group, model, system, backend, weights)
        except (ShardwrightError, KeyError) as error:
            document["excluded"][name] = {"rows": len(group), "why": str(error)}
            continue
        measured = group["silicon_tpot_ms"].to_numpy()
        parts.setdefault(backend, []).append((measured, answer))
        document["groups"][name] = card(measured, answer)
        print(line(name, document["groups"][name]), flush=True)
    for backend, pairs in parts.items():
        measured, answer = (np.concatenate(side) for side in zip(*pairs, strict=True))
        figures = card(measured, answer)
        figures["log_error_p80"] = round(float(np.quantile(np.abs(np.log(answer / measured)), COVERAGE)), 3)
        document[backend] = figures
        print(line(backend, figures), figures["log_error_p80"])
    print(write("step_probe", document))


if __name__ == "__main__":
    main()
