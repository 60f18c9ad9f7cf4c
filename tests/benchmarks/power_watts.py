"""Watts held out by group, and clocks against what was published: parts of ``python -m tests.benchmarks.power``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from costmodels.power.board import ampere_level, bent_to_limit, idle_loaded_watts, power_facts
from costmodels.power.response import clock_response
from planner.serving.predictions import parse_prediction_request, predictions
from profiles.hardware import SHIPPED
from tests.benchmarks.cards import card

PHASES = Path(__file__).parents[3] / "shared" / "data" / "power" / "splitwise_a100_phase_power.csv"
PARAMETERS = {"bloom-176b": 176.2e9, "llama2-70b": 69.0e9}
LIMIT = {"average_power": power_facts().limit, "peak_power": 1.03}
"""Of a mean, and of the highest sample within a prefill that is long enough to be seen, ÷ TDP."""


def phases() -> Mapping[str, Any] | None:
    """A100's phases: average and peak power, a model or a TP degree left out, the constants fitted to the others. Runs
    whose average is below idle with a model loaded (Llama-2-70B, prompts of 8,192 tokens) are of no run: counted, and
    left out of the averages."""
    if not PHASES.exists():
        return None
    gpu = SHIPPED.find_gpu("A100-SXM-80GB")
    table = pd.read_csv(PHASES, comment="#")
    weights = table["model"].map(PARAMETERS) / table["tensor_parallel"]
    peak, bandwidth = gpu.peak_flops["bf16"], gpu.memory_bandwidth_bytes_per_s
    for phase, tokens in (("token", table["batch_size"]), ("prompt", table["prompt_size"] * table["batch_size"])):
        seconds = table[f"{phase}_time"] / 1e3
        table[f"{phase}_memory"] = 2 * weights / bandwidth / seconds
        table[f"{phase}_compute"] = 2 * weights * tokens / peak / seconds
    idle = idle_loaded_watts(gpu) / gpu.tdp_watts
    out: dict[str, Any] = {}
    for what, phase in (("average_power", "token"), ("peak_power", "prompt")):
        rows = table[table["average_power"] > idle] if phase == "token" else table
        for group in ("model", "tensor_parallel"):
            pairs = []
            for value in sorted(set(rows[group])):
                train, held = rows[rows[group] != value], rows[rows[group] == value]
                pairs.append(
                    (held[what].to_numpy(), _share(held, what, phase, idle, _fitted(train, what, phase, idle)))
                )
            measured, predicted = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
            out[f"{what}, {group} left out"] = card(measured, predicted)
    out["runs below idle, left out of averages"] = int((table["average_power"] <= idle).sum())
    return out


def _share(rows: pd.DataFrame, what: str, phase: str, idle: float, of: np.ndarray) -> np.ndarray:
    """Watts ÷ TDP, by the law of the board; peaks are of the tensor cores alone."""
    memory, compute = (rows[f"{phase}_{part}"].to_numpy(float) for part in ("memory", "compute"))
    level = ampere_level(memory, compute, abs(of[0]) if phase == "token" else 0.0, abs(of[1]))
    return np.asarray(idle + (LIMIT[what] - idle) * bent_to_limit(level))


def _fitted(rows: pd.DataFrame, what: str, phase: str, idle: float) -> np.ndarray:
    def off(of: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(_share(rows, what, phase, idle, of) / rows[what].to_numpy(float)))

    return np.asarray(least_squares(off, [0.9, 2.0], loss="soft_l1", f_scale=0.05).x)


SERVED = Path(__file__).parent / "data" / "engine_h100.csv"


def served() -> Mapping[str, Any]:
    """An engine that no constant has seen, as the shipped command predicts it: vLLM 0.20.2 on our H100."""
    table = pd.read_csv(SERVED, comment="#")
    table["framework"] += "@" + table["version"]
    columns = ["model", "gpu", "framework", "precision", "tp", "isl", "osl", "concurrency", "rate", "max_num_seqs"]
    rows = [
        {name: value for name, value in row.items() if not pd.isna(value)}
        for row in table[[*columns, "max_num_batched_tokens"]].to_dict("records")
    ]
    answer = list(predictions(parse_prediction_request({"configurations": rows})).rows)
    watts, low, high = (np.array([float(r[f"watts_per_gpu{e}"]) for r in answer]) for e in ("", "_low", "_high"))
    measured = table["watts_per_gpu"].to_numpy(float)
    joules = measured / table["output_tokens_per_s_per_gpu"].to_numpy(float)
    worst = float(np.abs(watts / measured - 1).max())
    return {
        "watts": card(measured, watts),
        "worst, %": round(100 * worst, 1),
        "within the 80 % interval": f"{int(((measured >= low) & (measured <= high)).sum())} of {len(measured)}",
        "joules per output token": card(joules, np.array([float(r["joules_per_output_token"]) for r in answer])),
    }


def h200() -> list[dict[str, Any]]:
    """Published facts of decode on H200 (arXiv 2605.11999, four models of about 4B), each with the interval of what
    ``plan predict`` says of Qwen3-4B, or of what the clock's response (which rests on them) says of the watts that they
    drew; ``inside``: from end to end."""
    base = {"model": "Qwen/Qwen3-4B", "gpu": "H200", "framework": "vllm", "tp": 1, "isl": 128, "osl": 1024}
    rows = {}
    for users in (1, 8, 32):
        asked = [{**base, "concurrency": users, **more} for more in ({}, {"clock": "780MHz"}, {"power_cap": "400W"})]
        answer = predictions(parse_prediction_request({"configurations": asked}))
        rows[users] = list(answer.rows)
    facts: list[dict[str, Any]] = []
    gpu = SHIPPED.find_gpu("H200")
    idle, decode = idle_loaded_watts(gpu), clock_response("H200").decode

    def fact(said: str, low: float, high: float, inside: tuple[float, float], note: str = "") -> None:
        facts.append(
            {
                "fact": said,
                "published": [low, high],
                "predicted": [round(each, 3) for each in inside],
                "inside": bool(inside[0] <= low and high <= inside[1]),
                **({"note": note} if note else {}),
            }
        )

    free, slow, capped = ([rows[users][i] for users in rows] for i in range(3))

    def of(row: Mapping[str, Any], end: str = "") -> float:
        return float(row[f"watts_per_gpu{end}"])

    drawn = min(of(r, "_low") for r in free), max(of(r, "_high") for r in free)
    fact(
        "decode draws, W",
        137,
        300,
        (idle, drawn[1]),
        f"the engine is not named, and rests between kernels: from loaded idle on; vLLM's graphs {drawn[0]:.0f} W "
        "at least (our own H200, Qwen3-4B in a CUDA graph: 391 W with 1 sequence, 482 with 16)",
    )
    pairs = list(zip(free, slow, strict=True))
    ends = min(of(a, "_low") - of(b, "_high") for a, b in pairs), max(of(a, "_high") - of(b, "_low") for a, b in pairs)
    fact("1,980 to 780 MHz saves, W", 47, 90, ends, "of vLLM's watts, which begin where theirs end")
    cooler = [1 - float(decode.watts(780 / 1980, end)) for end in (1, 2)]
    fact("and of the watts that they drew, W", 47, 90, ((137 - idle) * min(cooler), (300 - idle) * max(cooler)))
    ways = [1 - (idle + (of(a) - idle) * float(decode.watts(780 / 1980, end))) / of(a) for a in free for end in (1, 2)]
    fact("and of the watts", 0.30, 0.343, (min(ways), max(ways)))
    slower = [float(decode.slowdown(780 / 1980, end)) for end in (1, 2)]
    energy = [1 - (1 - way) * each for way in (min(ways), max(ways)) for each in slower]
    fact("and of the energy of a token, at most", 0.32, 0.32, (min(energy), max(energy)))
    fact("while throughput falls by", 0.0, 0.01, (1 - 1 / min(slower), 1 - 1 / max(slower)))
    lost = [1 - float(b["tpot_ms_mean"]) / float(a["tpot_ms_mean"]) for a, b in zip(capped, free, strict=True)]
    least = [0.0 if of(row, "_low") < 400 else each for row, each in zip(free, lost, strict=True)]
    fact(
        "a cap that is not reached slows decode by",
        0.0,
        0.01,
        (min(least), max(lost)),
        "of 400 W; at the low end of its watts one user does not reach it (our own H200: 391 W in a CUDA graph)",
    )
    return facts
