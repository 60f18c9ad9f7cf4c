"""The answer of ``plan export``: the files of a target, as one document or as an archive."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Literal

from pydantic import Field

from planner.contract.provenance import Provenance
from planner.contract.published import Published, Upgrade, parse_published

SCHEMA_VERSION: Literal["1.0"] = "1.0"

_MADE = (1980, 1, 1, 0, 0, 0)
"""Of every file of an archive: the same question gives the same bytes."""


class ExportDocument(Published):
    """What a launcher reads, made from a plan."""

    kind: Literal["export"] = "export"
    schema_version: Literal["1.0"] = SCHEMA_VERSION
    target: str
    of: str = Field(description="kind of the document that was exported")
    plan: str | None = Field(description="its digest; null: it has none")
    framework: str = Field(description="the release that is written for; empty: none")
    told: tuple[str, ...] = Field(description="what stands at the head of the files, and what some say beside it")
    next: tuple[str, ...] = Field(description="what to do with them, a step a line; DIR is the folder that they lie in")
    files: dict[str, str] = Field(description="text of each file by its path in the folder; what ends in .sh is to run")
    provenance: Provenance


OLDER: dict[str, Upgrade] = {}
"""Versions that still open: none."""


def parse_export(text: str, where: str = "export") -> ExportDocument:
    """An export from its JSON. Raises as :func:`planner.contract.published.parse_published`."""
    return parse_published(text, ExportDocument, where, OLDER)


def archive(document: ExportDocument) -> bytes:
    """The folder as a zip, the same bytes for the same files."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as into:
        for name, text in sorted(document.files.items()):
            entry = zipfile.ZipInfo(name, _MADE)
            entry.create_system = 3  # Unix, whose permissions the next line holds
            entry.external_attr = (0o100755 if Path(name).suffix == ".sh" else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            into.writestr(entry, text.encode("utf-8"))
    return held.getvalue()
