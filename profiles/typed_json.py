"""JSON files of a form that pydantic checks, among them those that the program writes into profile stores."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from profiles.files import Source
from profiles.markup import read_json

T = TypeVar("T")

_LONGEST_NAME = 60  # characters of a field that is not ours which are repeated


def read_typed(source: Source, form: TypeAdapter[T]) -> T:
    """The document in ``source``, whose ``error`` class and hint say what is wrong with it: the first field that is."""
    try:
        return form.validate_python(read_json(source))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(_short(str(part)) for part in first["loc"]) or "the document"
        raise source.wrong(f"{where}: {first['msg']}") from error


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
