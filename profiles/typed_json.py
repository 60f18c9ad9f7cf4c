"""JSON files of a form that pydantic checks, among them those that the program writes into profile stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from profiles.errors import DataError
from profiles.files import Source, is_file
from profiles.markup import read_json

T = TypeVar("T")
U = TypeVar("U")

_LONGEST_NAME = 60  # characters of a field that is not ours which are repeated


@dataclass(frozen=True)
class StoreFile(Generic[T]):
    """A file that may lie in the folder of a profile store, beside its rows; a broken one is a DataError.

    ``name``: in the folder; ``what``, ``hint``: as :class:`profiles.files.Source` has them.
    """

    name: str
    what: str
    hint: str
    form: TypeAdapter[T]

    def read(self, path: Path) -> T:
        source = Source(path, self.what, self.hint, error=DataError)
        return cast(T, _read(source, source.text(), self.form))

    def last_in(self, folders: Iterable[Path], of: Callable[[T], U | None]) -> U | None:
        """What ``of`` makes of the last of these folders' files of which it makes anything; None: there is none."""
        paths = [folder / self.name for folder in folders]
        found = [of(self.read(path)) for path in paths if is_file(path)]
        return next((each for each in reversed(found) if each is not None), None)


@lru_cache(maxsize=32)
def _read(source: Source, _text: str, form: TypeAdapter[T]) -> T:
    return read_typed(source, form)


def read_typed(source: Source, form: TypeAdapter[T]) -> T:
    """The document in ``source``, whose ``error`` class and hint say what is wrong with it: the first field that is."""
    try:
        return form.validate_python(read_json(source))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(short(str(part)) for part in first["loc"]) or "the document"
        raise source.wrong(f"{where}: {first['msg']}") from error


def short(name: str) -> str:
    """A field's name as a message has it."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
