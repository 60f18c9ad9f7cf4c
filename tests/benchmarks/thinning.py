"""What thinning the pack's grids costs: ``make pack`` or ``python -m tests.benchmarks.thinning [--from FOLDER]``.

Shapes are held out (one fold of five, on all GPUs at once) and predicted at *all* measured points, by a model
fitted on all points
of the other shapes and by one fitted on the kept points only. Needs the extra ``silicon``, or the folder of its
unpacked wheel.
Writes ``costmodels/evidence/thinning.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodels.kernels.kernel_models import Rows, coded
from costmodels.operations.roofline import Hardware
from profiles.hardware import find_gpu
from profiles.importers import aiconfigurator
from profiles.packs.build import DROPPED, GPUS, plausible
from tests.benchmarks.cards import card, line, write
from tests.benchmarks.kernels import Data, by_group

FRAMEWORK = "vllm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path)
    source: Path | None = parser.parse_args().source
    hardware = Hardware.of([find_gpu(name) for name in GPUS])
    document: dict[str, Any] = {"command": "python -m tests.benchmarks.thinning", "operations": {}}
    for operation, dropped in DROPPED.items():
        options = {"gpu": ",".join(GPUS), "framework": FRAMEWORK, "op": operation}
        tables = [plausible(operation, rows) for _, rows in aiconfigurator.read(source, options)]
        table = pd.concat(tables, ignore_index=True)
        gpu = pd.Index(hardware.names).get_indexer(pd.Index(table["gpu"])).astype(np.int64)
        latency = table["latency_us"].to_numpy(dtype=np.float64)
        data = Data(operation, Rows(coded(operation, table), gpu, latency, np.zeros(len(table), np.int8)), hardware)
        left_out = np.zeros(len(table), dtype=bool)
        for column, values in dropped.items():
            left_out |= table[column].isin(values).to_numpy()
        train, test = next(by_group(data.shapes, 5))
        cards: dict[str, Any] = {"share_of_rows_kept": round(float((~left_out).mean()), 3)}
        for name, rows in (("all points", train), ("kept points", train[~left_out[train]])):
            cards[name] = card(latency[test], *data.ours(rows, test))
            print(line(f"{operation}: fitted on {name}", cards[name]), flush=True)
        document["operations"][operation] = cards
    print(write("thinning", document))


if __name__ == "__main__":
    main()
