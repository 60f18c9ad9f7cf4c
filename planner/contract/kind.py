"""A kind: one decision, or one way to answer, with what is asked, the document that answers, and what makes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from planner.contract.documents import Document
from planner.contract.progress import Tell
from planner.contract.published import Published, Upgrade, version_of

if TYPE_CHECKING:
    from profiles.hardware import Catalogue
    from profiles.store import ProfileStore

EXAMPLES = Path(__file__).parents[1] / "examples"


class Make(Protocol):
    """The answer to a request."""

    def __call__(
        self, request: Any, /, *, measured: Sequence[ProfileStore] = (), progress: Tell | None = None
    ) -> Published:
        """``measured``: stores laid over the pack that ships, the last on top."""


def _text(document: Published) -> bytes:
    return document.to_json().encode()


@dataclass(frozen=True)
class Kind:
    """One decision, or one way to answer.

    Attributes:
        title: what the document is, in words.
        request: what is asked, as one document without file paths; ``request_version``: of its schema.
        document: the answer; ``parse`` reads one, of today's version or of an ``older`` one.
        make: the answer to a request; imports what is slow only when it is called.
        route: where REST takes requests.
        command: the words after ``plan`` that ask the same; empty for ``plan`` alone.
        forms: other requests that the same route answers with the same kind of document. Each is called ``form``, which
            its schema is named for, and told by a field ``told_by`` that only it has.
        quick: whether a request is answered in about a second: it then never waits behind those that are not.
        media_type: what REST answers with, and ``written`` the bytes of it: the document as JSON, but for kinds that
            hand out files (``application/zip``).
    """

    name: str
    title: str
    request: type[Document]
    document: type[Published]
    parse: Callable[[str], Published]
    older: Mapping[str, Upgrade]
    make: Make
    route: str
    command: str
    request_version: str = "1.0"
    quick: Callable[[Any], bool] = lambda _: False
    media_type: str = "application/json"
    written: Callable[[Any], bytes] = _text
    forms: tuple[Kind, ...] = ()
    form: str = ""
    told_by: str = ""

    def asked_by(self, fields: object) -> Kind:
        """This kind, or the one of its forms that ``fields`` are a request of."""
        given = fields if isinstance(fields, Mapping) else {}
        return next((form for form in self.forms if form.told_by in given), self)

    @property
    def version(self) -> str:
        return version_of(self.document)

    @property
    def request_name(self) -> str:
        return f"{self.form or self.name}-request"

    def example(self) -> dict[str, Any]:
        """A small valid document."""
        return _example(self.name)

    def request_example(self) -> dict[str, Any]:
        """The request that :meth:`example` is like an answer to."""
        return _example(self.request_name)


def _example(name: str) -> dict[str, Any]:
    example: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))
    if name in ("simulation-request", "export-request"):
        example = {"plan": _example("serving"), **example}
    if name == "comparison-request":
        example = {"documents": [_example("deployment"), _example("serving")], **example}
    return example


def late(load: Callable[[], Make]) -> Make:
    """What ``load`` imports, which may be slow, imported only when it is asked."""
    return lambda request, /, **beside: load()(request, **beside)


def from_catalogue(answer: Callable[[Any, Catalogue], Published]) -> Make:
    """Of an answer that needs of the measured stores only the GPU types that they describe."""

    def make(request: Any, /, *, measured: Sequence[ProfileStore] = (), progress: Tell | None = None) -> Published:
        from profiles.descriptions import catalogue_with

        return answer(request, catalogue_with(store.path for store in measured))

    return make
