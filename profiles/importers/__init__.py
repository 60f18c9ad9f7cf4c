"""Other people's measurements, one module a format. Each turns files into validated rows of our schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from profiles.errors import UnknownName
from profiles.hardware import SHIPPED, Catalogue

Rows = Iterator[tuple[str, pd.DataFrame]]
"""Pairs of operation name and rows that pass :func:`profiles.measured_rows.validate`."""


@dataclass(frozen=True)
class Importer:
    """One format: what it is called, what it reads, and the function that reads it.

    ``read(source, options)`` gets a file or folder (None: where the format's own package is installed) and
    some of the options named in ``options``, which says what each means. It refuses others.
    ``catalogue`` of the same is what hardware the source may name: what ships, where it describes none.
    """

    name: str
    reads: str
    read: Callable[[Path | None, dict[str, str]], Rows]
    options: dict[str, str]
    catalogue: Callable[[Path | None, dict[str, str]], Catalogue] = lambda source, options: SHIPPED


def importers() -> dict[str, Importer]:
    """All formats by name."""
    from profiles.importers import aiconfigurator, collect, vidur

    return {importer.name: importer for importer in (aiconfigurator.IMPORTER, collect.IMPORTER, vidur.IMPORTER)}


def find_importer(name: str) -> Importer:
    """The format called ``name``.

    Raises:
        UnknownName: there is none.
    """
    known = importers()
    if name not in known:
        raise UnknownName("format", name, known)
    return known[name]


def check_options(format_name: str, options: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Refuses options outside ``known``: a misspelt filter must not import everything.

    Raises:
        UnknownName: naming the known ones.
    """
    for option in options:
        if option not in known:
            more = f"all options of {format_name}: {', '.join(known)}"
            raise UnknownName(f"{format_name} option", option, known, more)
