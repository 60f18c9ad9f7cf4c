"""Figures that laboratories published, of engines that nothing here was fitted to, against what the shipped command
says of them: ``python -m tests.benchmarks.published``.

Each ``data/published_*.csv`` is one laboratory's, with its source and what was stated and inferred in the file's head;
a row says no more of its engine than its publisher did. Scored by ``plan predict FILE --measured``. Nothing that ships
is fitted to them, and nothing may be; words and defaults that were read wrongly have been mended where they showed it
(the accuracy notes say which). Writes ``costmodels/evidence/published.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from tests.benchmarks.cards import write

DATA = Path(__file__).parent / "data"
CUTS = ("model", "gpu", "framework", "part")
SHOWN = ("rows", "mape_pct", "median_pct", "bias_pct", "coverage_pct")


def scored(file: Path) -> dict[str, Any]:
    """What ``plan predict FILE --measured`` says of a file: errors of each quantity, over all rows and by each cut."""
    columns = pd.read_csv(file, comment="#", dtype=str, nrows=1).columns
    cuts = [name for name in CUTS if name in columns]
    with TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "api.cli.main", "predict", str(file), "--measured", "--by", ",".join(cuts)]
        subprocess.run([*command, "-o", str(answer), "--quiet"], check=True, stdout=subprocess.DEVNULL)
        said = json.loads(answer.read_text(encoding="utf-8"))["scores"]
    return {
        "rows": said["rows"],
        "left out": {each["reason"]: each["rows"] for each in said["left_out"]},
        "errors": {
            f"{score['quantity']}, {score['by']} {score['group']}": {name: score[name] for name in SHOWN}
            for score in said["scores"]
        },
    }


def show(name: str, said: Mapping[str, Any]) -> None:
    print(f"{name}: {said['rows']} rows, left out {said['left out'] or 'none'}")
    for title, score in said["errors"].items():
        print(
            "  {:64} {rows:5} {mape_pct:7.1f} {median_pct:7.1f} {bias_pct:+7.1f} {coverage_pct!s:>6}".format(
                title, **score
            )
        )


def main() -> None:
    document = {}
    for file in sorted(DATA.glob("published_*.csv")):
        document[file.stem.removeprefix("published_")] = said = scored(file)
        show(file.stem, said)
    print(write("published", document))


if __name__ == "__main__":
    main()
