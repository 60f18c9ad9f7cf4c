"""Constants that somebody's own runs taught (``plan calibrate``), in the folder of a profile store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from costmodels.serving.frameworks.calibration import Calibration
from profiles.errors import DataError
from profiles.files import Source, is_file
from profiles.markup import read_json
from profiles.values import named

FILE = "calibration.json"
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
    path, document = source.path, read_json(source)
    if not isinstance(document, dict):
        raise DataError(f"{named(path)}: holds no frameworks", _HINT)
    try:
        return {str(name): Calibration.model_validate(fields) for name, fields in document.items()}
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{named(path)}: {where}: {first['msg']}", _HINT) from error


def text_of(calibrations: Mapping[str, Calibration]) -> str:
    """The file's text."""
    return json.dumps({name: each.model_dump(mode="json") for name, each in calibrations.items()}, indent=1) + "\n"
