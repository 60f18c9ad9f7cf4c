"""How much of the error of two predictions is the same: ``python -m tests.benchmarks.order``.

Of two configurations that were both measured, the logarithm of measured ÷ predicted time per output token differs by
less than each is off by, as far as they share what the error comes from. The correlation of their errors,
1 − var(difference) ÷ (2 var(error)), by what the two share, is written to ``planner/compare/order.yaml``, from which
`plan compare` tells how sure an order is; the figures stand in ``costmodels/evidence/order.json``. The constants of the
cost model were fitted to the same runs: in-sample. Needs the extra ``silicon`` or ``--from FOLDER``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from planner.serving.prediction_table import predict
from tests.benchmarks.cards import write
from tests.benchmarks.silicon import rows

TARGET = Path(__file__).parents[2] / "planner" / "compare" / "order.yaml"
COMMAND = "python -m tests.benchmarks.order"
SHARED = {
    "all": ["family", "gpu", "framework", "weights"],
    "but_precision": ["family", "gpu", "framework"],
    "but_framework": ["family", "gpu", "weights"],
    "but_gpu": ["family", "framework", "weights"],
}
LOAD = ["isl", "osl"]


def errors(source: Path | None) -> pd.DataFrame:
    """The scored rows with ``error``: ln(measured ÷ predicted) of the time per output token."""
    table = rows.load(source).table
    table = table[~table["repeat"]].reset_index(drop=True)
    asked = pd.DataFrame(
        {
            "model": table["checkpoint"],
            "gpu": table["gpu"],
            "framework": table["framework"],
            "version": table["version"],
            "precision": table["precision"].fillna(""),
            **{name: table[name] for name in ("tp", "pp", "dp", "ep", "moe_tp", "isl", "osl", "concurrency")},
        }
    ).astype(str)
    answer = predict(asked, progress=lambda text: print(text, flush=True))
    predicted = pd.to_numeric(answer["tpot_ms_mean"], errors="coerce")
    table["error"] = np.log(table["tpot_ms"] / predicted)
    return table[np.isfinite(table["error"])].reset_index(drop=True)


def correlation(table: pd.DataFrame, shared: list[str]) -> dict[str, Any]:
    """Of the errors of two rows that share ``shared`` and their lengths, and differ in the others or in the layout."""
    every = SHARED["all"]
    differ = [name for name in every if name not in shared] or ["tp", "pp", "dp", "ep"]
    draw = np.random.default_rng(0)
    first: list[int] = []
    second: list[int] = []
    for _, group in table.groupby([*shared, *LOAD]):
        index = group.index.to_numpy()
        if len(index) < 2:
            continue
        a, b = (each.ravel() for each in np.meshgrid(index, index))
        kept = a < b
        a, b = a[kept], b[kept]
        some = draw.choice(len(a), min(len(a), 2000), replace=False)
        first += a[some].tolist()
        second += b[some].tolist()
    one, other = table.loc[first], table.loc[second]
    apart = np.zeros(len(one), np.bool_)
    for name in differ:
        apart |= one[name].to_numpy() != other[name].to_numpy()
    e, f = one["error"].to_numpy()[apart], other["error"].to_numpy()[apart]
    centre = table["error"].mean()
    rho = 1 - float(np.mean((e - f) ** 2)) / float(np.mean((e - centre) ** 2) + np.mean((f - centre) ** 2))
    return {
        "pairs": int(apart.sum()),
        "correlation": round(max(rho, 0.0), 3),
        "half_width_of_one_80": round(float(np.quantile(np.abs(e - centre), 0.8)), 3),
        "half_width_of_difference_80": round(float(np.quantile(np.abs(e - f), 0.8)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="source", type=Path)
    table = errors(parser.parse_args().source)
    found = {name: correlation(table, shared) for name, shared in SHARED.items()}
    for name, figures in found.items():
        print(name, figures)
    write("order", {"command": COMMAND, "rows": len(table), "in_sample": True, "shared": found})
    text = (
        f"# Correlation of the errors of two predictions, by what they share; fitted by {COMMAND} to {len(table):,}\n"
        "# runs of aiconfigurator-core 0.12.0's silicon_sample.csv, to which the engines' constants were fitted, too\n"
        "# (in-sample).\n"
    )
    document = {name: figures["correlation"] for name, figures in found.items()}
    TARGET.write_text(text + yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
