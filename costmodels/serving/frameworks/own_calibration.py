"""Constants that somebody's own runs taught (``plan calibrate``), in the folder of a profile store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from costmodels.serving.frameworks.calibration import Calibration
from profiles.typed_json import StoreFile

CALIBRATIONS = StoreFile(
    "calibration.json",
    "calibration",
    "make the store again with plan calibrate, or leave the file out",
    TypeAdapter(dict[str, Calibration]),
)
"""By framework."""


def calibration_in(folders: Iterable[Path], framework: str) -> Calibration | None:
    """What the last of these stores' folders that has learned of ``framework`` says; None where none has.

    Raises:
        DataError: a file is broken.
    """
    return CALIBRATIONS.last_in(folders, lambda entries: entries.get(framework))


def text_of(calibrations: Mapping[str, Calibration]) -> str:
    """The file's text."""
    return json.dumps({name: each.model_dump(mode="json") for name, each in calibrations.items()}, indent=1) + "\n"
