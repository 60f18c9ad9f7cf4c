"""How near wide expert parallelism is to what was measured: ``make bench-wide-ep``, or ``python -m
tests.benchmarks.wide_ep [--from FOLDER]``.

Everything is predicted by what ``plan predict --role`` does, with nothing that a user could not say. Four parts:

* published engines (``data/wide_ep_points.csv``: SGLang on 96 H100, DeepSeek's profile, DeepSeek-R1 on H20, runs of
  InferenceX with decode engines apart and without drafting), tokens/s a GPU; SGLang's at the release of their day, and
  beside it (cards "newest") all as of today's;
* what two-batch overlap does by batch, against SGLang's ablations;
* the exchange law against published figures (:mod:`tests.benchmarks.wide_exchange`), each GPU by constants fitted to
  others on the same fabric, and how far figures of one configuration differ;
* the 1,602 disaggregated rows of aiconfigurator-core's ``silicon_sample.csv`` (needs the wheel), by framework and EP,
  and of them the 60 in 8 bits whose attention is data parallel over all GPUs that share experts. The release is the
  newest that there was on the day of the run. What these rows do not
  say (drafting, above all) is taken as absent; a decode engine's batch is what Little's law makes of measured times.

Beside them, what rows of shared experts (``mlp/`` of the wheel: DeepSeek's, H100 and H200) would change: they time two
products and what lies between, which are answered apart.

Constants fitted to the first source are in-sample: the skew of rows with EPLB, what two-batch overlap reaches, the
share of a 16-bit cache's bytes that shows. The summary goes to ``costmodels/evidence/wide_ep.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodels.kernels.cost_model import CostModel
from costmodels.operations.roofline import code
from planner.serving.prediction_table import predict
from profiles.hardware import find_gpu
from profiles.importers.aiconfigurator import SYSTEMS, find_data
from tests.benchmarks.cards import card, line, write
from tests.benchmarks.silicon.rows import CHECKPOINTS, FILE
from tests.benchmarks.wide_exchange import of_exchange

DATA = Path(__file__).parent / "data"
COMMAND = "python -m tests.benchmarks.wide_ep"
ACCEPTED = {"sglang-h100-2025-05": 0.6, "ant-h20-2025-09": 0.85}
"""Of each drafted token, as the sources say of their runs."""

OWN_ENGINES = ("deepseek-2025-02",)
"""Whose release is none of SGLang's."""

BALANCES = {"on": "static", "off": "off", "perf": "perfect"}


def published() -> pd.DataFrame:
    """Engines of one role, with what was measured of each: ``measured``, of the column ``of``."""
    table = pd.read_csv(DATA / "wide_ep_points.csv")
    rows = []
    for point in table.to_dict("records"):
        row = _prefill(point) if str(point["role"]).endswith("prefill") else _decode(point)
        if row is not None:
            rows.append(_engine(point) | row)
    return pd.DataFrame(rows).fillna("")


def _engine(point: dict[str, Any]) -> dict[str, str]:
    ep = int(point["ep"]) if pd.notna(point["ep"]) else 0
    copies = point["redundant_experts"]
    return {
        "source": point["source"],
        "model": "nvidia/DeepSeek-V3.1-NVFP4" if point["weights"] == "nvfp4" else "deepseek-ai/DeepSeek-R1",
        "gpu": point["gpu"],
        "framework": "sglang" if point["source"] in OWN_ENGINES else f"sglang@{point['date']}",
        "kv_precision": point["kv"] if point["kv"] in ("bf16", "fp8") else "fp8",
        "dp": str(ep),
        "ep": str(ep),
        "redundant": str(int(copies)) if pd.notna(copies) else "",
        "eplb": BALANCES.get(str(point["eplb"])[:4].strip(), ""),
        "overlap": str(point["overlap"]) if point["overlap"] in ("two-batch", "single-batch") else "none",
    }


def _prefill(point: dict[str, Any]) -> dict[str, Any] | None:
    if pd.isna(point["tokens_per_gpu"]) or pd.isna(point["isl"]) or pd.isna(point["input_tokens_s_per_gpu"]):
        return None
    tokens, isl = int(point["tokens_per_gpu"]), int(point["isl"])
    return {
        "role": "prefill",
        "isl": isl,
        "osl": 1,
        "concurrency": max(tokens // isl, 1) * int(point["ep"]),
        "max_num_batched_tokens": tokens,
        "of": "input_tokens_per_s_per_gpu",
        "measured": point["input_tokens_s_per_gpu"],
    }


def _decode(point: dict[str, Any]) -> dict[str, Any] | None:
    drafted = pd.to_numeric(point["draft_tokens"], errors="coerce")
    known = pd.notna(point["ep"]) and point["ep"] >= 8 and pd.notna(point["batch_per_gpu"])
    if (
        not known
        or pd.isna(point["tokens_s_per_gpu"])
        or (isinstance(point["draft_tokens"], str) and drafted != drafted)
    ):
        return None
    osl = float(point["osl"]) if pd.notna(point["osl"]) else 2.0
    context = float(point["kv_tokens"]) if pd.notna(point["kv_tokens"]) else float(point["isl"])
    row = {
        "role": "decode",
        "isl": round(context - osl // 2),
        "osl": round(osl),
        "concurrency": max(round(float(point["batch_per_gpu"]) * float(point["ep"])), 1),
        "max_num_batched_tokens": "",
        "of": "output_tokens_per_s_per_gpu",
        "measured": point["tokens_s_per_gpu"],
    }
    if drafted > 0:
        accepted = ACCEPTED.get(point["source"], 0.8)
        row |= {"workload": f"isl=1,osl=1,concurrency=1,draft={int(drafted)},acceptance={accepted}"}
    return row


def of_engines() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    asked = published()
    inputs = asked.drop(columns=["source", "of", "measured"]).astype(str)
    answer = predict(inputs)
    newest = predict(inputs.assign(framework="sglang"))
    points = []
    for row, said, today, error in zip(
        asked.to_dict("records"), answer.to_dict("records"), newest.to_dict("records"), answer["error"], strict=True
    ):
        value = "" if error else said[row["of"]]
        points.append(
            {key: row[key] for key in ("source", "gpu", "role", "ep", "isl", "concurrency", "overlap", "measured")}
            | {"predicted": float(value) if value else None, "error": str(error)}
            | {"low": float(said[f"{row['of']}_low"] or "nan"), "high": float(said[f"{row['of']}_high"] or "nan")}
            | {"newest": float(today[row["of"]])}
        )
    known = pd.DataFrame([point for point in points if point["predicted"] is not None])
    cards = {
        str(source): card(*(part[name].to_numpy(float) for name in ("measured", "predicted", "low", "high")))
        for source, part in known.groupby("source")
    }
    for name, part in (("across nodes", known[known["ep"].astype(int) > 8]), ("all", known)):
        cards[name] = card(*(part[key].to_numpy(float) for key in ("measured", "predicted", "low", "high")))
        cards[f"{name}, newest"] = card(part["measured"].to_numpy(float), part["newest"].to_numpy(float))
    return cards, points


def of_overlap() -> dict[str, Any]:
    """Throughput with two-batch overlap ÷ without, %."""
    base = {
        "model": "deepseek-ai/DeepSeek-R1", "gpu": "H100", "framework": "sglang", "dp": "72", "ep": "72",
        "redundant": "32", "role": "decode", "isl": "2000", "osl": "100", "kv_precision": "bf16",
    }  # fmt: skip
    prompts = base | {
        "role": "prefill", "dp": "32", "ep": "32", "concurrency": "128", "max_num_batched_tokens": "8192", "osl": "1",
    }  # fmt: skip
    asked = [base | {"concurrency": str(72 * batch)} for batch in (32, 128, 256)] + [prompts]
    rows = [row | {"overlap": overlap} for row in asked for overlap in ("none", "two_batch")]
    answer = predict(pd.DataFrame(rows).fillna(""))
    times = np.where(answer["tpot_ms_mean"] == "", answer["ttft_ms_mean"], answer["tpot_ms_mean"]).astype(float)
    gains = 100 * (times[0::2] / times[1::2] - 1)
    names = ("decode, 32 a GPU", "decode, 128 a GPU", "decode, 256 a GPU", "prefill, 8192 tokens a GPU")
    measured = (-27.0, "above 0", 25.5, "27 to 35")
    return {
        name: {"measured_pct": truth, "predicted_pct": round(float(gain), 1)}
        for name, truth, gain in zip(names, measured, gains, strict=True)
    }


def of_cache() -> dict[str, Any]:
    """KV tokens of the run on 9 nodes: 256 sequences of about 2,050 tokens at a memory fraction of 0.835."""
    row = {
        "model": "deepseek-ai/DeepSeek-R1", "gpu": "H100", "framework": "sglang", "dp": "72", "ep": "72",
        "redundant": "32", "role": "decode", "overlap": "two_batch", "isl": "2000", "osl": "100",
        "concurrency": str(72 * 256), "gpu_memory_utilization": "0.835",
    }  # fmt: skip
    return {"held": 525_000, "predicted": int(predict(pd.DataFrame([row]))["kv_tokens"].iloc[0])}


# ------------------------------------------------------------------ rows of silicon_sample.csv


def sample(source: Path | None) -> pd.DataFrame:
    raw = pd.read_csv(find_data(source).parent / FILE, low_memory=False)
    rows = raw[raw["mode"] == "disagg"].reset_index(drop=True)
    degree = {
        name: rows[f"decode_{column}"].fillna(1).clip(lower=1).astype(int).to_numpy()
        for name, column in (
            ("tp", "tp_size"), ("pp", "pp_size"), ("dp", "attention_dp_size"), ("ep", "moe_ep_size"),
            ("moe_tp", "moe_tp_size"),
        )
    }  # fmt: skip
    wide = (degree["dp"] == degree["ep"]) & (degree["ep"] >= 8)
    squared = (degree["ep"] * degree["moe_tp"] > degree["tp"] * degree["dp"]) & (degree["dp"] == 1)
    degree["dp"] = np.where(squared, np.maximum(degree["ep"] * degree["moe_tp"] // degree["tp"], 1), degree["dp"])
    # Filed as tensor parallel over more GPUs than a node has: 930 sequences take a tenth longer a step than 248.
    ranks = (rows["backend"] == "vllm").to_numpy() & (degree["tp"] > 8) & (degree["ep"] == degree["tp"])
    degree["dp"], degree["tp"] = np.where(ranks, degree["tp"], degree["dp"]), np.where(ranks, 1, degree["tp"])
    # Filed as experts that are split, not shared out, over 8 data-parallel GPUs or more: DeepSeek's in 8 bits do not
    # split so far. They take a fifth longer than those with an exchange at the same batches: all ranks gather.
    split = (rows["backend"] == "sglang").to_numpy() & (degree["dp"] >= 8) & (degree["moe_tp"] == degree["dp"])
    degree["ep"], degree["moe_tp"] = np.where(split, degree["dp"], degree["ep"]), np.where(split, 1, degree["moe_tp"])
    # Filed as data-parallel attention with experts split over the same four GPUs: they take what those filed as tensor
    # parallel over four take with as many sequences in all (DeepSeek in nvfp4 on GB200: 7.5 and 7.2 ms with 4).
    whole = (
        (rows["backend"] == "sglang").to_numpy() & (degree["dp"] == 4) & (degree["moe_tp"] == 4) & (degree["tp"] == 1)
    )
    over = np.where(whole, degree["dp"], 1)
    degree["tp"], degree["dp"] = degree["tp"] * over, degree["dp"] // over
    # Recipes of SGLang's decode engines on B200 (srt-slurm, recipes/b200-fp8 and b200-fp4, dep8) name no all-to-all.
    gathers = (rows["backend"] == "sglang").to_numpy() & (rows["system"] == "b200_sxm").to_numpy() & (degree["dp"] > 1)
    day = rows["silicon_data_source"].str.extract(r"measured=(\d{4}-\d\d-\d\d)")[0]
    weights = rows["gemm_quant_mode"].fillna("bf16").replace({"bfloat16": "bf16", "int4_wo": "int4"})
    served = [CHECKPOINTS.get(key, (key[0], None)) for key in zip(rows["model_path"], weights, strict=True)]
    # Dense models of the file say their tensor split in the experts' columns.
    dense = rows["model_path"].str.contains("Qwen3-32B").to_numpy()
    generated = rows["silicon_tpot_ms"] * (0.9 * rows["osl"] - 1)
    here = generated / (rows["silicon_ttft_ms"].fillna(0) + generated)
    batch = np.maximum(rows["decode_batch_size"] * over * here / np.where(ranks, degree["dp"], 1), 1)
    return pd.DataFrame(
        {
            "model": [name for name, _ in served],
            "gpu": rows["system"].map(SYSTEMS),
            "framework": rows["backend"] + "@" + day,
            "precision": [precision or "" for _, precision in served],
            "kv_precision": np.where(
                (rows["backend"] == "sglang") & rows["system"].isin(("h100_sxm", "h200_sxm")), "", "fp8"
            ),
            "tp": degree["tp"],
            "pp": degree["pp"],
            "dp": np.where(dense, 1, degree["dp"]),
            "ep": np.where(dense, "", degree["ep"].astype(str)),
            "role": "decode",
            "exchange": np.where(split | gathers, "none", ""),
            "isl": (0.9 * rows["isl"]).round().astype(int),
            "osl": (0.9 * rows["osl"]).round().astype(int),
            "concurrency": np.maximum(np.rint(batch * degree["dp"]), 1).astype("Int64"),
            "gpu_memory_utilization": "0.9",
            "tpot": rows["silicon_tpot_ms"],
            "listed_ep": degree["ep"],
            "sixty": wide & (weights == "fp8"),
        }
    )


def of_sample(source: Path | None) -> dict[str, Any]:
    rows = sample(source)
    known = rows[rows["concurrency"].notna() & rows["gpu"].notna()].reset_index(drop=True)
    answer = predict(known.drop(columns=["tpot", "listed_ep", "sixty"]).astype(str).replace({"<NA>": "", "nan": ""}))
    for name in ("mean", "low", "high"):
        known[name] = pd.to_numeric(answer[f"tpot_ms_{name}"], errors="coerce")
    failed = known["mean"].isna()
    print(
        f"not predicted: {int(failed.sum())} rows; {answer['error'][failed].str[:90].value_counts().head(5).to_dict()}"
    )
    known = known[~failed]

    def figures(part: pd.DataFrame) -> dict[str, Any]:
        return card(*(part[name].to_numpy(float) for name in ("tpot", "mean", "low", "high")))

    known["framework"] = known["framework"].str.partition("@")[0]
    out = {f"{framework} EP{ep}": figures(part) for (framework, ep), part in known.groupby(["framework", "listed_ep"])}
    out["all, EP > 1"] = figures(known[known["listed_ep"].astype(int) > 1])
    for framework, part in known[known["sixty"]].groupby("framework"):
        out[f"{framework}, 8 bits, data parallel over all"] = figures(part)
    return out


def of_shared_experts(source: Path | None) -> dict[str, Any]:
    """Two products as they are answered against whole shared experts as SGLang's were timed, by GPU and tokens, and
    by how much steps of 58 such layers would change, ms."""
    out: dict[str, Any] = {}
    for gpu, folder in (("H100-SXM", "h100_sxm"), ("H200", "h200_sxm")):
        rows = pd.read_parquet(
            next((find_data(source) / folder / "mlp" / "sglang").glob("*/wideep_generation_mlp_perf.parquet"))
        )
        tokens, measured = rows["num_token"].to_numpy(np.int64), rows["avg_ms"].to_numpy(float)
        cost, one = CostModel(find_gpu(gpu), "sglang"), np.ones(len(rows), np.int64)
        wide, deep = rows["intermediate_size"].to_numpy(np.int64), rows["hidden_size"].to_numpy(np.int64)
        asked = [{"m": tokens, "n": n, "k": k, "num_gpus": one} for n, k in ((2 * wide, deep), (deep, wide))]
        fp8 = code("dtype", "fp8_block") * one
        answered = sum(cost.estimate("gemm", each | {"dtype": fp8}).value for each in asked) / 1e3
        for name, part in (("1 to 512 tokens", tokens <= 512), ("2,048 and more", tokens >= 2048)):
            out[f"{gpu}, {name}"] = card(measured[part], answered[part]) | {
                "layers_58_ms": {
                    str(m): round(58 * float(d), 2)
                    for m, d in zip(tokens[part], (measured - answered)[part], strict=True)
                    if m in (8, 64, 256, 8192, 16384)
                }
            }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    parser.add_argument("--no-sample", action="store_true", help="leave silicon_sample.csv out")
    options = parser.parse_args()
    cards, points = of_engines()
    document: dict[str, Any] = {
        "command": COMMAND,
        "engines": cards,
        "points": points,
        "overlap": of_overlap(),
        "cache_tokens": of_cache(),
        "exchange": of_exchange(),
    }
    if not options.no_sample:
        document["silicon_sample"] = of_sample(options.source)
        document["shared_experts"] = of_shared_experts(options.source)
    for name, figures in document["engines"].items():
        print(line(f"engines {name}", figures))
    for point in points:
        print({key: value for key, value in point.items() if value not in ("", None)})
    print(document["overlap"], document["cache_tokens"])
    for name, figures in (document["exchange"] | document["exchange"]["left out"]).items():
        if name not in ("left out", "repeats"):
            print(line(name[:46], figures), figures.get("nodes", ""))
    for name, figures in document["exchange"]["repeats"].items():
        print(f"repeats {name:36} GB/s {figures['gb_s']}: no law below {figures['floor_mape_pct']} %")
    for name, figures in (document.get("silicon_sample", {}) | document.get("shared_experts", {})).items():
        print(line(name, figures), figures.get("layers_58_ms", ""))
    print(write("wide_ep", document))


if __name__ == "__main__":
    main()
