"""Reads the journals of our own harness: what ``python -m profiles.collect`` measured on a machine that has nothing
but Python and torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles.collect.journal import FILE, Entry, read
from profiles.collect.rows import rows_of
from profiles.descriptions import catalogue_with, catalogue_with_file, match, measured_type
from profiles.errors import InputError
from profiles.hardware import SHIPPED, Catalogue
from profiles.importers import Importer, Rows, check_options


def read_journal(source: Path | None, options: dict[str, str]) -> Rows:
    """Rows of ``source``: a journal, or the folder that holds one. Skipped and failed points have none.

    Raises:
        InputError: no ``source``, no journal there, nothing measured, or a device that nobody describes.
        DataError: the journal is damaged.
    """
    check_options(IMPORTER.name, options, IMPORTER.options)
    if source is None:
        raise InputError("collect: nothing to read from", "name the journal's folder with --from")
    file = source / FILE if source.is_dir() else source
    if not file.is_file():
        raise InputError(f"collect: {file} does not exist", "give the folder that was --out of the harness")
    entries = list(read(file))
    if "source" in options:
        entries = [
            Entry(dataclasses.replace(entry.header, source=options["source"]), entry.outcome) for entry in entries
        ]
    yield from rows_of(entries, f"journal {file}", described(source, options)).items()


def described(source: Path | None, options: dict[str, str]) -> Catalogue:
    """The catalogue with the types that the journal's folder, the file in the options, and else the journal itself
    describe."""
    catalogue = catalogue_with_file(Path(options["gpu_facts"])) if "gpu_facts" in options else SHIPPED
    if source is None:
        return catalogue
    file = source / FILE if source.is_dir() else source
    catalogue = catalogue_with([file.parent], catalogue)
    for device in _devices(file):
        if device.get("measured") and match(device, catalogue) is None:
            catalogue = catalogue.describing(*measured_type(device, f"journal {file}"), f"journal {file}")
    return catalogue


def _devices(file: Path) -> list[Mapping[str, Any]]:
    headers = {id(entry.header): entry.header for entry in list(read(file))} if file.is_file() else {}
    return [header.device for header in headers.values()]


IMPORTER = Importer(
    "collect",
    f"{FILE}, the journal of python -m profiles.collect",
    read_journal,
    {
        "gpu_facts": "a gpus.yaml that describes the device, where the catalogue does not know it",
        "source": "who measured it, in place of what the journal says",
    },
    described,
)
