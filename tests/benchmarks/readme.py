"""Writes the figures of README.md, docs/accuracy.md, docs/power.md and docs/training.md from ``costmodels/evidence/``:
``python -m tests.benchmarks.readme [--check]``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.cards import EVIDENCE
from tests.benchmarks.fleets_told import summary as fleets
from tests.benchmarks.power_told import summary as power

ROOT = Path(__file__).parents[2]
START, END = "<!-- figures: tests/benchmarks/readme.py -->", "<!-- end of figures -->"
GPUS = ("H100-SXM", "H200", "all")
LABORATORIES = {
    "trtllm": "TensorRT-LLM's performance overview",
    "gpustack": "GPUStack",
    "dstack": "dstack",
    "iog": "IOG",
    "nim": "NVIDIA NIM",
    "sgl_cookbook": "LMSYS's cookbook",
    "vultr": "Vultr",
}


def figures() -> str:
    kernels = json.loads((EVIDENCE / "kernels-vllm.json").read_text(encoding="utf-8"))["operations"]
    rows = [
        "| MAPE / median, % | unseen shape: H100 | H200 | all GPUs | coverage (claimed 80) | unseen GPU: H100 | H200 | "
        "all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for operation, cards in kernels.items():
        cells = [f"`{operation}`"]
        for split in ("shape", "gpu"):
            ours = cards[split]["ours"]
            cells += [f"{ours[g]['mape_pct']:.1f} / {ours[g]['median_pct']:.1f}" if g in ours else "–" for g in GPUS]
            if split == "shape":
                cells.append(f"{ours['all']['coverage_pct']:.0f}")
        rows.append("| " + " | ".join(cells) + " |")
    rows += ["", "The same rows, one fold of the shape hold-out (MAPE, %):", ""]
    names = list(next(iter(kernels.values()))["shape"]["same_rows"])
    rows += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for operation, cards in kernels.items():
        same = cards["shape"]["same_rows"]
        rows.append(f"| `{operation}` | " + " | ".join(f"{same[name]['mape_pct']:.1f}" for name in names) + " |")
    plans = json.loads((EVIDENCE / "plans.json").read_text(encoding="utf-8"))
    rows += [
        "",
        "| plan | CPU-seconds, warm | ÷ importing the libraries | peak memory | first run, wall |",
        "|---|---|---|---|---|",
    ]
    for name, case in plans["cases"].items():
        warm, first = case["warm"], case["first"]
        cells = [f"{warm['cpu_s']:.1f}", f"{case['warm_cpu_over_imports']:.1f}", f"{warm['peak_mb']} MB"]
        rows.append(f"| {name} | {' | '.join(cells)} | {first['wall_s']:.0f} s |")
    parts = (_silicon(), _scored(), _published(), _agreement(), _sampling(), fleets())
    return "\n".join([*rows, *(line for part in parts for line in ("", *part))])


def _agreement() -> list[str]:
    """The formulas of the search against the event simulator."""
    document = json.loads((EVIDENCE / "simulator.json").read_text(encoding="utf-8"))
    names = {"rate": "rate", "tpot_mean": "TPOT mean", "tpot_p90": "TPOT p90", "ttft_mean": "TTFT mean"}
    names |= {"ttft_p90": "TTFT p90", "ttft_p99": "TTFT p99"}
    tolerances = document["agreement"]["tolerances"]
    rows = [
        "The formulas of the search against the event simulator: |formula ÷ simulated − 1|, median / 90th percentile, "
        "%, and what is aimed at (`python -m tests.benchmarks.simulator`):",
        "",
        f"| layout, how busy prefill is | points | {' | '.join(names.values())} |",
        "|---" * (len(names) + 2) + "|",
        f"| *tolerance* | | {' | '.join(f'{100 * tolerances[name]:.0f}' for name in names)} |",
    ]
    for regime, errors in document["agreement"]["errors"].items():
        cells = [f"{errors[name]['median_pct']:.1f} / {errors[name]['p90_pct']:.0f}" for name in names]
        rows.append(f"| {regime} | {errors['points']} | {' | '.join(cells)} |")
    capacity = document["capacity"]
    rows += [
        "",
        f"The rate within an SLO by the formulas ÷ by the simulator, {len(capacity['points'])} cases: median "
        f"{capacity['median']:.2f}, 80 % in {capacity['p10']:.2f}–{capacity['p90']:.2f}; plans count on the latter.",
    ]
    return rows


def _silicon() -> list[str]:
    """Ours with whatever is held out, and the peer's."""
    document = json.loads((EVIDENCE / "silicon.json").read_text(encoding="utf-8"))
    held, peer = document["held_out"], document["peer"]
    rows = [
        f"End to end, {document['rows']['fitted']:,} measured runs as `plan predict --measured` reads them "
        "(MAPE / median / bias, %; `make bench-silicon`):",
        "",
        "| | TTFT, NVIDIA | TPOT, NVIDIA | TTFT, AMD | TPOT, AMD |",
        "|---|---|---|---|---|",
    ]
    names = {
        "model": "whole models held out",
        "gpu": "whole GPU types held out",
        "campaign": "whole laboratories held out",
        "date": "the newest releases held out",
        "nothing": "in-sample",
    }
    for key, name in names.items():
        if key not in held:
            continue
        cells = []
        for vendor in ("nvidia", "amd"):
            for metric in ("ttft", "tpot"):
                figures = held[key][metric]["vendor"].get(vendor)
                cells.append(_three(figures))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    for key, name in (("peer", "layouts as corrected"), ("peer_as_listed", "layouts as listed")):
        errors = [peer[key][metric]["all"] for metric in ("ttft", "tpot")]
        cells = [f"{each['mape_pct']:.1f} / {each['median_pct']:.1f}" for each in errors]
        what = f"AIConfigurator 0.12.0, {name} ({peer[key]['rows']:,} of these, {peer['date']})"
        rows.append(f"| {what} | {' | '.join(cells)} | – | – |")
    chosen = document["decisions"]
    rows += [
        "",
        "Best plan by prediction, % of the best measured, and promises missed, %: "
        + "; ".join(
            f"{name} {figures['mean_pct']:.1f}, {figures['missed_pct']:.1f}"
            for name, figures in (
                ("models held out", chosen["model"]),
                ("GPU types held out", chosen["gpu"]),
                ("AIConfigurator", peer["peer"]["decisions"]),
                ("another run of the same configuration", document["oracle"]),
            )
        )
        + ".",
        "",
        *_run_before(document["run_before"]),
    ]
    return rows


def _margins(found: dict[str, Any]) -> list[str]:
    """What room below every bound costs and saves."""
    names = {"model": "models held out", "gpu": "GPU types held out"}
    said = [
        f"{name} "
        + ", ".join(
            f"{100 * float(margin):g} %: {figures['mean_pct']:.1f}, {figures['missed_pct']:.1f}"
            for margin, figures in found[held].items()
        )
        for held, name in names.items()
        if held in found
    ]
    what = (
        "Best plan by prediction, % of the best measured, and promises missed, %, with room below every bound on TPOT: "
    )
    return ["", what + "; ".join(said) + "."] if said else []


def _run_before(found: dict[str, Any]) -> list[str]:
    """What nobody can do much better than: the run before, of the very same configuration."""
    names = {
        "same release": "of the same release",
        "another release": "of another release",
        "amd": "on AMD, of any release",
    }
    said = [
        f"{names[cut]} {figures['ttft']['rows']} pairs, TTFT {_two(figures['ttft'])}, TPOT {_two(figures['tpot'])}"
        for cut, figures in found.items()
    ]
    return [
        "The run before it, of the very same configuration, predicts a run (MAPE / median, %): " + "; ".join(said) + "."
    ]


def _two(figures: dict[str, Any]) -> str:
    return f"{figures['mape_pct']:.1f} / {figures['median_pct']:.1f}"


def _three(figures: dict[str, Any] | None) -> str:
    if not figures or not figures.get("rows"):
        return "–"
    return f"{figures['mape_pct']:.1f} / {figures['median_pct']:.1f} / {figures['bias_pct']:+.1f}"


def _scored() -> list[str]:
    """The shipped command on what its constants were fitted to, by source and GPU type: is it even there right?"""
    document = json.loads((EVIDENCE / "silicon.json").read_text(encoding="utf-8"))
    rows = [
        "The shipped command (in-sample), by GPU type, groups of 20 rows and more:",
        "",
        "| GPU | quantity | rows | MAPE / median / bias, % | in 80 % | interval score ÷ one width |",
        "|---|---|---|---|---|---|",
    ]
    for score in document["shipped_in_sample"]["scores"]:
        if score["by"] == "gpu" and score["rows"] >= 20:
            figures = f"{score['mape_pct']:.1f} / {score['median_pct']:.1f} / {score['bias_pct']:+.1f}"
            rows.append(
                f"| {score['group']} | `{score['quantity']}` | {score['rows']} | {figures} | "
                f"{score['coverage_pct']:.0f} | {score['against_one_width']:.2f} |"
            )
    ways = [f"* {line}" for line in document["optimistic"]]
    rows += _margins(document.get("margins", {}))
    return [*rows, "", "Ways in which the hold-outs are still optimistic:", "", *ways]


def _published() -> list[str]:
    """Laboratories' published figures, that nothing was tuned on: a row each, parts of one file that differ apart."""
    document = json.loads((EVIDENCE / "published.json").read_text(encoding="utf-8"))
    quantities = {"TTFT": "ttft_ms_mean", "TPOT": "tpot_ms_mean", "output tokens/s": "output_tokens_per_s_per_gpu"}
    rows = [
        "What laboratories published of engines that nothing here was fitted to (mean / median error / bias, %; share "
        "within the 80 % interval, %; `python -m tests.benchmarks.published`):",
        "",
        f"| | rows | {' | '.join(quantities)} |",
        "|---" * (len(quantities) + 2) + "|",
    ]
    for laboratory, name in LABORATORIES.items():
        errors = document[laboratory]["errors"]
        parts = {title.partition(", part ")[2]: None for title in errors if ", part " in title}
        for cut in [f"part {part}" for part in parts] or ["all all"]:
            found = [errors.get(f"{quantity}, {cut}") for quantity in quantities.values()]
            cells = [f"{_three(each)}; {each['coverage_pct']:.0f}" if each else "–" for each in found]
            count = max(each["rows"] for each in found if each)
            title = f"{name}: {cut.removeprefix('part ')}" if parts else name
            rows.append(f"| {title} | {count} | {' | '.join(cells)} |")
    return rows


def _sampling() -> list[str]:
    """GEMM error on a hidden GPU type by measured rows."""
    gpus = json.loads((EVIDENCE / "sampling.json").read_text(encoding="utf-8"))["gpus"]
    shown = (0, 8, 16, 32, 64, 128)
    rows = [
        "A GPU type whose rows are hidden: GEMM MAPE, %, by rows measured of it, over the shapes that models ask "
        "(`python -m tests.benchmarks.sampling`):",
        "",
        "| | " + " | ".join(map(str, shown)) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for gpu, found in gpus.items():
        for order in ("active", "random", "grid"):
            of = {
                c["rows"]: c["mape_pct"] for c in found["curves"] if c["order"] == order and c["population"] == "models"
            }
            rows.append(f"| {gpu}, {order} | " + " | ".join(f"{of[n]:.1f}" if n in of else "–" for n in shown) + " |")
    return rows


def shortest() -> str:
    """The one table of the README: end to end."""
    return "\n".join(_silicon())


def training() -> str:
    """Training layouts against what was published and measured."""
    document = json.loads((EVIDENCE / "training.json").read_text(encoding="utf-8"))
    rows = [
        "| time of an iteration | rows | MAPE (bias), as shipped | source left out | within 80 %, source left out |",
        "|---|---|---|---|---|",
    ]
    for name in ("dense, 16-bit", "dense, 8-bit", "experts", "MT-NLG", "ZeRO-3 of 2021", "Megatron-Bridge 26.02"):
        shipped, left_out = document["iteration"][name]["as shipped"], document["iteration"][name]["source left out"]
        errors = [f"{card['mape_pct']:.1f} % ({card['bias_pct']:+.1f})" for card in (shipped, left_out)]
        rows.append(f"| {name} | {shipped['rows']} | {' | '.join(errors)} | {left_out['coverage_pct']:.0f} % |")
    rows += ["", "| memory | rows | MAPE | median | bias |", "|---|---|---|---|---|"]
    for name, card in document["memory"].items():
        errors = [f"{card[f'{each}_pct']:.1f} %" for each in ("mape", "median", "bias")]
        rows.append(f"| {name} | {card['rows']} | {' | '.join(errors)} |")
    rows += [
        "",
        "| kernel (A100: SimuMax, H100: this project) | GPU | rows | law alone, MAPE | own rows, shapes left out |",
        "|---|---|---|---|---|",
    ]
    for gpu, kinds in document["kernels"].items():
        for kind, case in kinds.items():
            law, own = case["law"], case["own rows, shapes left out"]
            name = kind.removeprefix("training_").replace("_", " ")
            rows.append(f"| {name} | {gpu} | {law['rows']} | {law['mape_pct']:.1f} % | {own['mape_pct']:.1f} % |")
    order = document["ordering"]
    rows += [
        "",
        f"Of {order['pairs']} pairs of layouts of one source that were measured at least 5 % apart, "
        f"{order['right_pct']:.0f} % are put in the right order; taking the predicted best costs "
        f"{order['regret_pct']:.1f} %.",
        "",
        "| published layout | measured | predicted | our best of the same GPUs | where they differ |",
        "|---|---|---|---|---|",
    ]
    for name, case in document["headlines"].items():
        cells = [f"{case[each]:.1f} s" if case[each] else "–" for each in ("measured_s", "predicted_s", "best_s")]
        if case["predicted_one_layer_s"]:
            cells[1] += f"; {case['predicted_one_layer_s']:.1f} s"
        layout = f": {case['published']}" if case["published"] else ""
        rows.append(f"| {name}{layout} | {' | '.join([*cells, case['why'] or ''])} |")
    rows += ["", "| figure | value | first bar | goal | meets |", "|---|---|---|---|---|"]
    for bar in document["bars"]:
        limits = [" to ".join(map(str, each)) if isinstance(each, list) else each for each in (bar["bar"], bar["goal"])]
        rows.append(f"| {bar['what']} | {bar['value']:,} | {limits[0]} | {limits[1]} | {bar['meets']} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a file differs, write nothing")
    check: bool = parser.parse_args().check
    pages = {
        "README.md": shortest,
        "docs/accuracy.md": figures,
        "docs/power.md": power,
        "docs/training.md": training,
    }
    for name, write in pages.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        before, rest = text.split(START)
        _, after = rest.split(END)
        fresh = f"{before}{START}\n\n{write()}\n\n{END}{after}"
        if check and fresh != text:
            sys.exit(f"{name}: its figures are not those in costmodels/evidence; run python -m tests.benchmarks.readme")
        path.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
