"""What every target shares: its name, the kinds of documents that it takes, what it needs and what it cannot say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from planner.contract.published import Published, kind_of
from planner.exports.values import Values


@dataclass(frozen=True)
class Asked:
    """An export as it was asked for. ``framework``: a release beside the document's own; ``assume_version``: go on with
    the nearest release where its options are not known."""

    document: Published
    values: Values = field(default_factory=Values)
    framework: str | None = None
    assume_version: bool = False

    @property
    def kind(self) -> str:
        return kind_of(type(self.document))


class Target(ABC):
    """One platform, for one kind of document (or several that it writes alike). A subclass in ``targets/`` is known by
    being there.

    Attributes:
        name: after ``--to``. ``kinds``: of documents that it takes.
        writes: what it writes, in words; ``release``: of the platform that it speaks.
        rung: how its files are proved: 1 by data and schemas, 2 by the real parser, 3 by running.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]]
    writes: ClassVar[str]
    release: ClassVar[str]
    rung: ClassVar[int]
    all: ClassVar[dict[tuple[str, str], type[Target]]] = {}  # by name and kind

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in cls.__dict__:
            for kind in cls.kinds:
                cls.all[cls.name, kind] = cls

    def __init__(self, asked: Asked) -> None:
        self.asked, self.values = asked, asked.values

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the values without which nothing can be written."""
        return ()

    def cannot(self) -> str | None:
        """Why the target cannot express the document, by engine and part, or None where it can."""
        return None

    @property
    def otherwise(self) -> str:
        """The way out where no target can express the document."""
        return "leave what this names out of the request, plan again, and export that"

    @abstractmethod
    def files(self) -> dict[str, str]:
        """Text of each file by its path in the folder; what ends in ``.sh`` may be run."""

    @property
    def framework(self) -> str:
        """The release that is written for; "": none."""
        return ""

    @property
    def told(self) -> tuple[str, ...]:
        """What stands at the head of the files."""
        return ()

    def said(self, files: Mapping[str, str]) -> tuple[str, ...]:
        """What users are told of the ``files``: their head, and what some say beside it that counts for the plan."""
        return self.told

    def steps(self, folder: Path) -> tuple[str, ...]:
        """What the user does next, a command a line."""
        return ()
