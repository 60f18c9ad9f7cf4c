"""Constants that somebody's own runs taught (``plan calibrate``), in the folder of a profile store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from costmodels.serving.frameworks.calibration import Calibration
from profiles.errors import DataError
from profiles.files import Source, is_file
from profiles.typed_json import read_typed

FILE = "calibration.json"
_FILE = TypeAdapter(dict[str, Calibration])
_HINT = "make the store again with plan calibrate, or leave the file out"


def calibration_in(folders: Iterable[Path], framework: str) -> Calibration | None:
    """What the last of these stores' folders that has learned of ``framework`` says; None where none has.

    Raises:
        DataError: a file is broken.
    """
    found = None
    for folder in folders:
        if is_file(folder / FILE):
            found = read_calibrations(folder / FILE).get(framework, found)
    return found


def read_calibrations(path: Path) -> Mapping[str, Calibration]:
    """By framework.

    Raises:
        DataError: the file is broken.
    """
    source = Source(path, "calibration", _HINT, error=DataError)
    return _read(source, source.text())


@lru_cache(maxsize=32)
def _read(source: Source, _text: str) -> Mapping[str, Calibration]:
    return read_typed(source, _FILE)


def text_of(calibrations: Mapping[str, Calibration]) -> str:
    """The file's text."""
    return json.dumps({name: each.model_dump(mode="json") for name, each in calibrations.items()}, indent=1) + "\n"
