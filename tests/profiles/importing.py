"""What the tests of all importers share."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from profiles.importers import Importer

VIDUR = {"gpu": "A100", "date": "2024-05-01", "measured_by": "microsoft/vidur"}


def read(importer: Importer, source: Path | None, **options: str) -> dict[str, pd.DataFrame]:
    tables: dict[str, list[pd.DataFrame]] = {}
    for operation, rows in importer.read(source, options):
        tables.setdefault(operation, []).append(rows)
    return {operation: pd.concat(parts, ignore_index=True) for operation, parts in tables.items()}
