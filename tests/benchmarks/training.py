"""Training layouts against what was published and measured: ``make bench-training``.

Rows are ``training_points.csv`` (published iterations and memory) and ``training_memory.csv`` (Hetu-Galvatron's memory
by part), facts with their sources, carried from the public files that their ``source`` columns name; those of kernels
are :mod:`tests.benchmarks.training_kernels`'. Every table has two columns of errors: as shipped, which is in-sample for
the constants whose source ``costmodels/training/calibration.yaml`` names, and with the source left out: its GPU's
sustained factor (and so all of the scale) taken from the other sources of the same GPU and class alone. No constant was
fitted to Megatron-Bridge 26.02, whose rows came last.

Writes ``costmodels/evidence/training.json``.
"""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodels.training.calibration import lasting_load, lasting_load_elsewhere
from costmodels.training.memory import training_memory
from planner.training.configuration import read_configuration
from planner.training.machines import Machines
from planner.training.meanings import COLUMNS
from planner.training.named import predict
from planner.training.planning import setting_of
from planner.training.prediction import layouts_of
from planner.training.prediction import setting_of as setting_of_row
from planner.training.request import parse_training_request
from planner.training.search import search
from profiles.hardware import find_fabric, find_gpu
from tests.benchmarks.cards import card, line, write
from tests.benchmarks.training_bars import bars
from tests.benchmarks.training_kernels import kernels

FOLDER = Path(__file__).parent
DIFFERENT = 0.05
"""Rows of one source whose measured throughputs differ by less are not ordered."""

SEARCHES = {
    "175B on 1,024 A100": ("gpt:hidden=12288,layers=96,heads=96,vocab=51200", "1024xA100-SXM-80GB", 1536, 2048, "bf16"),
    "1T on 3,072 A100": ("gpt:hidden=25600,layers=128,heads=160,vocab=51200", "3072xA100-SXM-80GB", 3072, 2048, "bf16"),
    "1T on 16,384 H100": ("gpt:hidden=25600,layers=128,heads=160,vocab=51200", "16384xH100-SXM", 8192, 2048, "bf16"),
    "DeepSeek-V3 on 2,048 H100": ("deepseek-ai/DeepSeek-V3", "2048xH100-SXM", 8192, 4096, "fp8"),
    "Llama-3.1-405B on 1,024 H100": ("meta-llama/Llama-3.1-405B", "1024xH100-SXM", 512, 8192, "fp8"),
}


def main() -> None:
    points = predicted_points()
    evidence: dict[str, Any] = {
        "command": "python -m tests.benchmarks.training",
        "date": dt.date.today().isoformat(),
        "iteration": iteration_tables(points),
        "memory": {**peak_memory(points), **galvatron()},
        "ordering": ordering(points),
        "one layout, several releases": several_releases(points),
        "kernels": kernels(),
        "headlines": headlines(points),
        "speed": {**named_speed(), **search_speed()},
    }
    evidence["bars"] = bars(evidence)
    print(f"written: {write('training', evidence)}")


def predicted_points() -> pd.DataFrame:
    """The published rows with our predictions, as a user gets them."""
    table = pd.read_csv(FOLDER / "training_points.csv", dtype=str, keep_default_na=False)
    out = predict(table)
    failed = out[out["error"] != ""]
    for _, row in failed.iterrows():
        print(f"not predicted: {row['source']} {row['model']}: {row['error']}")
    out = out[out["error"] == ""].copy()
    for name in ("s_iter", "peak_mem_gib", "iteration_s", "iteration_s_low", "iteration_s_high", "num_gpus"):
        out[name] = pd.to_numeric(out[name], errors="coerce")
    out["class"] = [class_of(row) for _, row in out.iterrows()]
    return out.reset_index(drop=True)


def class_of(row: pd.Series) -> str:
    """What a row is counted with."""
    if row["part"]:
        return "parts that the catalogue lacks"
    if "KempnerForge" in row["source"] or "Llama 3 herd" in row["source"]:
        return "layouts with assumed facts"
    if "MT-NLG" in row["source"]:
        return "MT-NLG"
    if row["framework"].startswith("megatron-deepspeed"):
        return "ZeRO-3 of 2021"
    experts = any(name in row["model"] for name in ("DeepSeek", "gpt-oss", "Qwen3"))
    if experts:
        return "experts"
    return "dense, 16-bit" if row["precision"] in ("bf16", "fp16") else "dense, 8-bit"


# ------------------------------------------------------------------ iterations


def iteration_tables(points: pd.DataFrame) -> dict[str, Any]:
    rows = points[points["s_iter"].notna()].reset_index(drop=True)
    left_out = left_out_scale(rows)
    print("\niteration time: as shipped (in-sample where constants were fitted), and with the source left out")
    out: dict[str, Any] = {}
    for by in ("class", "source"):
        for name, part in rows.groupby(by):
            at = part.index.to_numpy()
            truth = part["s_iter"].to_numpy()
            each = {}
            for label, scale in (("as shipped", np.ones(len(at))), ("source left out", left_out[at])):
                value, low, high = (part[f"iteration_s{end}"].to_numpy() * scale for end in ("", "_low", "_high"))
                each[label] = card(truth, value, low, high)
                print(line(f"{name}, {label}"[:46], each[label]))
            out[str(name)] = each
    return out


def left_out_scale(rows: pd.DataFrame) -> np.ndarray:
    """What each row's prediction is multiplied with so that nothing of its own source is in its scale: the median of
    measured ÷ predicted over the other sources of its GPU and class, of the class on any GPU where there is none, and
    the factor of a GPU without training rows where there is no such class either."""
    ratio = (rows["s_iter"] / rows["iteration_s"]).to_numpy()
    out = np.ones(len(rows))
    usable = ~rows["class"].isin(("MT-NLG", "parts that the catalogue lacks")).to_numpy()
    for index, row in rows.iterrows():
        others = usable & (rows["source"] != row["source"]).to_numpy() & (rows["class"] == row["class"]).to_numpy()
        same = others & (rows["gpu"] == row["gpu"]).to_numpy()
        chosen = same if same.any() else others
        if chosen.any():
            out[index] = np.median(ratio[chosen])
        else:
            out[index] = lasting_load_elsewhere().factor / lasting_load(find_gpu(row["gpu"])).factor
    return out


def several_releases(points: pd.DataFrame) -> dict[str, Any]:
    """Rows of one model on the same GPUs in the same layout, batch and precision, measured in several releases: how far
    one figure for all of them is off at best, by class. A release says in no column what it changed."""
    rows = points[points["s_iter"].notna()]
    same = ["model", "gpu", "num_gpus", "precision", "seq_len", "global_batch", *_LAYOUT]
    found: dict[str, list[dict[str, Any]]] = {}
    for key, part in rows.groupby(same):
        if part["source"].nunique() > 1:
            least, most = part["s_iter"].min(), part["s_iter"].max()
            off = round(100 * float((most - least) / (most + least)), 1)
            one = {"model": key[0], "num_gpus": int(key[2]), "precision": key[3], "one_figure_off_at_best_pct": off}
            found.setdefault(part["class"].iloc[0], []).append(
                {**one, "measured_s": dict(zip(part["source"], part["s_iter"], strict=True))}
            )
    print("\none layout in several releases: one figure is off at best, %")
    for name, groups in found.items():
        print(f"  {name}: {[each['one_figure_off_at_best_pct'] for each in groups]}")
    return {name: {"groups": groups} for name, groups in found.items()}


_LAYOUT = (
    "tp", "pp", "vpp", "dp", "cp", "ep", "micro_batch", "sharding", "recompute", "sequence_parallel", "schedule",
)  # fmt: skip


# ------------------------------------------------------------------ order and regret


def ordering(points: pd.DataFrame) -> dict[str, Any]:
    """Pairs of rows of one source, model, GPU, number of GPUs and sequence that differ in their layout, by tokens a
    second; and the measured loss of taking the predicted best of each group."""
    rows = points[points["s_iter"].notna()].copy()
    for name in ("global_batch", "seq_len"):
        rows[name] = pd.to_numeric(rows[name])
    rows["measured"] = rows["global_batch"] * rows["seq_len"] / rows["s_iter"]
    rows["told"] = rows["global_batch"] * rows["seq_len"] / rows["iteration_s"]
    right = wrong = 0
    regrets = []
    for _, group in rows.groupby(["source", "model", "gpu", "num_gpus", "seq_len", "precision"]):
        group = group.drop_duplicates(list(_LAYOUT))
        if len(group) < 2:
            continue
        best = group.loc[group["told"].idxmax(), "measured"]
        regrets.append(1 - best / group["measured"].max())
        values = group[["measured", "told"]].to_numpy()
        for i in range(len(values)):
            for j in range(i):
                if abs(values[i, 0] / values[j, 0] - 1) >= DIFFERENT:
                    same = (values[i, 0] > values[j, 0]) == (values[i, 1] > values[j, 1])
                    right, wrong = right + same, wrong + (not same)
    out = {
        "pairs": int(right + wrong),
        "right_pct": round(100 * float(right) / max(right + wrong, 1), 1),
        "groups": len(regrets),
        "regret_pct": round(100 * float(np.mean(regrets)), 2) if regrets else None,
    }
    print(f"\norder: {out['pairs']} pairs, {out['right_pct']} % right; regret {out['regret_pct']} %")
    return out


# ------------------------------------------------------------------ memory


def peak_memory(points: pd.DataFrame) -> dict[str, Any]:
    rows = points[points["peak_mem_gib"].notna()]
    truth = rows["peak_mem_gib"].to_numpy() * 2**30
    value, low, high = (
        pd.to_numeric(rows[f"memory_bytes_per_gpu{end}"]).to_numpy(dtype=np.float64) for end in ("", "_low", "_high")
    )
    figures = card(truth, value, low, high)
    figures["worst_under_pct"] = round(100 * float((value / truth - 1).min()), 1)
    print("\n" + line("peak memory, torchtitan", figures) + f"  worst under {figures['worst_under_pct']:+.1f} %")
    figures["alike"] = alike(rows)
    return {"torchtitan": figures}


def alike(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows whose ranks hold the same states and tokens, in the same parts: what a model of memory by layout could be
    off at best, whatever it says of them. They differ in how the tokens of a rank come about: sequence ÷ cp."""
    tokens = rows["micro_batch"].astype(int) * rows["seq_len"].astype(int) // rows["cp"].replace("", "1").astype(int)
    ranks = rows["dp"].astype(int) * rows["cp"].replace("", "1").astype(int)
    same = ["model", "num_gpus", "precision", "tp", "pp", "vpp", "sharding", "recompute", "framework"]
    out = []
    for key, part in rows.assign(tokens=tokens, ranks=ranks).groupby([*same, "tokens", "ranks"]):
        if len(part) > 1 and part["seq_len"].nunique() > 1:
            least, most = part["peak_mem_gib"].min(), part["peak_mem_gib"].max()
            found = {
                "model": key[0],
                "tokens": int(key[-2]),
                "rows": len(part),
                "seq_len": part["seq_len"].astype(int).tolist(),
                "measured_gib": part["peak_mem_gib"].tolist(),
                "predicted_gib": (pd.to_numeric(part["memory_bytes_per_gpu"]) / 2**30).round(1).tolist(),
                "one_figure_off_at_best_pct": round(100 * float((most - least) / (most + least)), 1),
                "median_to_most_pct": round(100 * float(part["peak_mem_gib"].median() / most - 1), 1),
            }
            out.append(found)
            print(f"  alike: {found}")
    return out


def galvatron() -> dict[str, Any]:
    """Model states and activations of Llama-2 layers. What Galvatron reads after the forward pass holds the logits in
    32 bits besides; the buffers of sequence-parallel exchanges count as states there."""
    rows = pd.read_csv(FOLDER / "training_memory.csv")
    out = {}
    told = np.array([_galvatron_row(row) for row in rows.itertuples()])
    out["Galvatron, all rows"] = card(rows["mib"].to_numpy(), told)
    print(line("Galvatron, all rows", out["Galvatron, all rows"]))
    for what, part in rows.groupby("what"):
        at = part.index.to_numpy()
        out[f"Galvatron, {what}"] = card(part["mib"].to_numpy(), told[at])
        print(line(f"Galvatron, {what}", out[f"Galvatron, {what}"]))
    return out


def _galvatron_row(row: Any) -> float:
    batch = row.global_batch // row.dp
    configuration = read_configuration(
        {
            "model": f"llama:hidden=4096,layers={row.layers},heads=32,ffn=11008,vocab=32000",
            "gpu": "A100-SXM-80GB",
            "framework": "galvatron",
            "seq_len": str(row.seq),
            **{name: str(getattr(row, name)) for name in ("tp", "pp", "dp")},
            "micro_batch": str(batch),
            "global_batch": str(row.global_batch),
            "recompute": "full" if row.flags.startswith("c") else "none",
        }
    )
    layouts, setting = layouts_of([configuration]), setting_of_row(configuration)
    memory = training_memory(setting, layouts)
    stage = 0 if row.rank == 0 else row.pp - 1
    logits = 4.0 * row.seq * batch * 32000 / row.tp if stage == row.pp - 1 else 0.0
    parts = {
        "model states": memory.states + memory.buffers,
        "activations held": memory.activations + logits,
        "activations at peak": memory.activations + memory.transient + memory.logits,
    }
    return float(parts[row.what][0, stage]) / 2**20


# ------------------------------------------------------------------ headlines

HEADLINES = (
    # name, source, model, GPUs, sequence
    ("Megatron 1T", "SC21 Table 1 (arXiv:2104.04473)", "gpt:hidden=25600,layers=128,heads=160,vocab=51200", 3072, 2048),
    ("Llama-3.1-405B", "Megatron-LM examples/llama", "meta-llama/Llama-3.1-405B", 1024, 8192),
    ("Llama-3.1-405B", "Llama 3 herd (arXiv:2407.21783)", "meta-llama/Llama-3.1-405B", 16384, 8192),
    ("Llama-3.1-405B, 128K", "Llama 3 herd (arXiv:2407.21783)", "meta-llama/Llama-3.1-405B", 16384, 131072),
    ("DeepSeek-V3", "Megatron-Bridge 25.09", "deepseek-ai/DeepSeek-V3", 1024, 4096),
    ("Qwen3-235B", "Megatron-Bridge 25.09", "Qwen/Qwen3-235B-A22B", 256, 4096),
    ("Mixtral-8x22B", None, "mistralai/Mixtral-8x22B-v0.1", 1024, 4096),
)

WHY = {
    "Megatron 1T": "they recomputed every layer, ours recomputes attention alone (arXiv:2205.05198)",
    "open": "its virtual stages were not published: the first figure is with one, the second with a layer in each",
    "DeepSeek-V3": "the expert exchange over 8 nodes (EP64) is two fifths of our time; ours keeps it within two",
    "Llama-3.1-405B": "ours has twice the stages and no context parallelism, whose exchanges it saves",
    "Mixtral-8x22B": "no layout with its time on 1,024 GPUs is published; up to 49.3 % MFU on H100 (arXiv:2504.14960), "
    "ours is 38 %",
    "Qwen3-235B": "the same layout took 20.8 s in the next release; nothing in the row tells which dispatcher ran",
}
"""What is known of a difference between what was measured and what we say, or our best."""

ONE_LAYER = {"meta-llama/Llama-3.1-405B": "8"}
"""Virtual stages with which a stage of the published pipeline holds one layer, where theirs were not published."""


def _is_open(row: pd.Series) -> bool:
    """Whether nobody said how many virtual stages ran."""
    return "virtual stages not stated" in str(row["notes"])


def _one_layer(row: pd.Series | None) -> float | None:
    """Our prediction of a row whose virtual stages are not known, with one layer in each."""
    if row is None or not _is_open(row):
        return None
    asked = {name: str(row[name]) for name in COLUMNS if name in row.index}
    answer = predict(pd.DataFrame([asked | {"vpp": ONE_LAYER[row["model"]], "schedule": ""}]))
    return float(answer["iteration_s"].iloc[0])


def headlines(points: pd.DataFrame) -> dict[str, Any]:
    """The layouts that were published for well-known runs, measured and predicted, beside the best that we find for
    the same model, GPUs, batch and precision."""
    machines = Machines()
    out = {}
    print("\nheadlines: published layout, measured and predicted; our best")
    for name, source, model, gpus, sequence in HEADLINES:
        same = (points["source"] == source) & (points["model"] == model) & (points["num_gpus"] == gpus)
        rows = points[same & (points["seq_len"] == str(sequence))]
        row = rows.iloc[0] if len(rows) else None
        gpu_name = "H100-SXM" if row is None else row["gpu"]
        request = parse_training_request(
            {
                "model": model,
                "cluster": f"{gpus}x{gpu_name}",
                "global_batch": 1024 if row is None else int(row["global_batch"]),
                "seq_len": sequence,
                "precision": "bf16" if row is None else row["precision"],
                "framework": "megatron" if row is None else row["framework"],
            }
        )
        pool = request.cluster.pools[0]
        gpu = find_gpu(pool.gpu)
        links = machines.links(gpu, pool.gpus_per_node, find_fabric(pool.fabric))
        best = search(setting_of(request), request, links, gpu, pool.gpus).best[0]
        told = {
            "published": None
            if row is None
            else " ".join(f"{n}{row[n]}" for n in ("tp", "pp", "vpp", "dp", "cp", "ep")),
            "measured_s": None if row is None else float(row["s_iter"]),
            "predicted_s": None if row is None else float(row["iteration_s"]),
            "predicted_one_layer_s": _one_layer(row),
            "why": WHY.get("open" if row is not None and _is_open(row) else name),
            "best": " ".join(
                f"{n}{int(getattr(best.layout, n)[0])}" for n in ("tp", "pp", "vpp", "dp", "cp", "ep", "micro_batch")
            ),
            "best_s": round(best.total_us / 1e6, 3),
        }
        out[f"{name} on {gpus:,} {gpu.name}"] = told
        print(f"{name} on {gpus:,} {gpu.name}: {told}")
    return out


# ------------------------------------------------------------------ speed


def named_speed(rows: int = 6000) -> dict[str, Any]:
    """Named layouts a CPU-second, warm: micro-batches, sharding and stages of four models."""
    rng = np.random.default_rng(0)
    models = (
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-70B",
        "Qwen/Qwen3-235B-A22B",
        SEARCHES["1T on 3,072 A100"][0],
    )
    table = pd.DataFrame({name: [""] * rows for name in COLUMNS})
    table["model"] = rng.choice(models, rows)
    table["gpu"], table["seq_len"], table["global_batch"] = "H100", "4096", "1024"
    for name, values in (("tp", (1, 2, 4, 8)), ("pp", (1, 2, 4, 8)), ("dp", (4, 8, 16)), ("micro_batch", (1, 2, 4))):
        table[name] = rng.choice([str(value) for value in values], rows)
    predict(table.head(50))
    start = time.process_time()
    predict(table)
    rate = rows / (time.process_time() - start)
    print(f"\nnamed layouts a CPU-second: {rate:,.0f}")
    return {"named_layouts_per_cpu_s": round(rate)}


def search_speed() -> dict[str, Any]:
    machines = Machines()
    out = {}
    for name, (model, cluster, batch, sequence, precision) in SEARCHES.items():
        request = parse_training_request(
            {"model": model, "cluster": cluster, "global_batch": batch, "seq_len": sequence, "precision": precision}
        )
        pool = request.cluster.pools[0]
        gpu = find_gpu(pool.gpu)
        setting = setting_of(request)
        cost = machines.cost(gpu)
        cost.prepare(("gemm", "attention_prefill", "mla_prefill", "collective"))
        links = machines.links(gpu, pool.gpus_per_node, find_fabric(pool.fabric))
        start = time.process_time()
        found = search(setting, request, links, gpu, pool.gpus)
        seconds = time.process_time() - start
        out[f"search, {name}, CPU s"] = round(seconds, 2)
        print(f"search, {name}: {seconds:.2f} CPU s, {found.best[0].total_us / 1e6:.2f} s an iteration")
    return out


if __name__ == "__main__":
    main()
