"""Other people's measurements, one module a format. Each turns files into validated rows of our schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

Rows = Iterator[tuple[str, pd.DataFrame]]
"""Pairs of operation name and rows that pass :func:`profiles.measurements.validate`."""


@dataclass(frozen=True)
class Importer:
    """One format: what it is called, what it reads, and the function that reads it.

    ``read(source, options)`` gets a file or folder (None: where the format's own package is installed) and the
    options named in ``options``, each mapped to its meaning.
    """

    name: str
    reads: str
    read: Callable[[Path | None, dict[str, str]], Rows]
    options: dict[str, str]


def importers() -> dict[str, Importer]:
    """All formats by name."""
    from profiles.importers import aiconfigurator, vidur

    return {importer.name: importer for importer in (aiconfigurator.IMPORTER, vidur.IMPORTER)}
