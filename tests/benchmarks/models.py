"""Every configuration that the strongest existing tool bundles, on eight B200: ``python -m tests.benchmarks.models``.

Reads ``model_configs`` of an installed (or, with ``--from``, unpacked) aiconfigurator-core, and asks ``plan predict``
for each of its models in one engine of eight GPUs, and with ``--plan`` also ``plan``. Each answer is a prediction, "too
large" with the figure, or a layout that a rule refuses; anything else is counted as not answered, and the command
fails. Nothing is measured here: the table says what is read and answered, not how well.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from costmodels.models.registry import find_architecture
from planner import plan
from planner.contract.models import read_model
from planner.serving.prediction_table import predict
from profiles.errors import Infeasible, ShardwrightError
from profiles.importers.aiconfigurator import find_data
from tests.benchmarks.cards import write

GPU, GPUS = "B200", 8
LOAD = {"isl": "4000", "osl": "500", "concurrency": "16"}
CONFIG, QUANTIZATION = "_config.json", "_hf_quant_config.json"
SHOWN = ("ttft_ms_mean", "tpot_ms_mean", "memory_bytes_per_gpu", "how", "note", "error")


def folders(source: Path, out: Path) -> Iterator[Path]:
    """A folder for each model below ``out``, with its config.json as the Hub has it."""
    for file in sorted(source.glob(f"*{CONFIG}")):
        if file.name.endswith(QUANTIZATION):
            continue
        name = file.name.removesuffix(CONFIG)
        folder = out / name
        folder.mkdir()
        shutil.copy(file, folder / "config.json")
        beside = source / (name + QUANTIZATION)
        if beside.exists():
            shutil.copy(beside, folder / "hf_quant_config.json")
        yield folder


def predicted(models: list[Path], framework: str) -> pd.DataFrame:
    """A row for each model: ``plan predict`` with TP8, experts split as the attention is."""
    rows = [{"model": str(path), "gpu": GPU, "framework": framework, "tp": str(GPUS), **LOAD} for path in models]
    return predict(pd.DataFrame(rows), progress=lambda text: print(text, file=sys.stderr))


def planned(model: Path, framework: str) -> str:
    """What ``plan`` says, in a line."""
    request = {
        "model": read_model(str(model)),
        "cluster": f"{GPUS}x{GPU}",
        "slo": "ttft=5s,tpot=100ms",
        "workload": "isl=4000,osl=500",
        "framework": framework,
    }
    try:
        document = plan(request)
    except Infeasible as error:
        return f"no: {error.message}"
    except ShardwrightError as error:
        return f"error: {error.message}"
    groups = [f"{len(group.replicas)} x {group.layout.label}" for group in document.decision.engines]
    return f"{' + '.join(groups)}, {document.proof.objective_value:.4g}"


def answered(row: pd.Series) -> bool:
    """Whether both commands said something of the model that is of use."""
    told = not row["error"] or row["error"].startswith(("memory:", "layout:"))
    return told and not row["plan"].startswith("error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, help="unpacked wheel (default: as installed)")
    parser.add_argument("--framework", default="vllm")
    parser.add_argument("--plan", action="store_true", help="ask for a plan of each, too (minutes)")
    parser.add_argument("--only", default="", help="models whose name has this in it")
    arguments = parser.parse_args()
    configs = find_data(arguments.source).parents[1] / "model_configs"
    with tempfile.TemporaryDirectory() as scratch:
        models = [path for path in folders(configs, Path(scratch)) if arguments.only.casefold() in path.name.casefold()]
        unread = {}
        for path in models:
            try:
                find_architecture(str(path))
            except ShardwrightError as error:
                unread[path.name] = error.message
        table = predicted(models, arguments.framework)
        table["plan"] = [planned(path, arguments.framework) for path in models] if arguments.plan else ""
    table["name"] = [path.name.replace("--", "/", 1) for path in models]
    good = table.apply(answered, axis=1)
    for _, row in table.iterrows():
        said = row["error"] or f"TTFT {float(row['ttft_ms_mean']):8,.1f} ms  TPOT {float(row['tpot_ms_mean']):6.2f} ms"
        print(f"{row['name']:52} {said}{'  plan: ' + row['plan'] if row['plan'] else ''}")
    print(f"{len(table)} configurations, {len(table) - len(unread)} read, {int(good.sum())} answered")
    rows = table[["name", *SHOWN, "plan"]].to_dict("records")
    document = {
        "command": f"python -m tests.benchmarks.models --framework {arguments.framework}",
        "asked": {"gpu": GPU, "tp": GPUS, **LOAD},
        "configurations": len(table),
        "unread": unread,
        "answered": int(good.sum()),
        "rows": rows,
    }
    if not arguments.only:
        print(write(f"models-{arguments.framework}", document))
    if not good.all():
        sys.exit(1)


if __name__ == "__main__":
    main()
