"""Documents that leave the program: each says its kind and the version of its schema and carries a digest of itself,
and older ones still open."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError

from planner.contract.documents import Document, indented_json, validation_error
from profiles.errors import DataError, InputError
from profiles.markup import strict_json
from profiles.values import shown

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""A document of an older version as one of today's, its kind and version aside."""

DIGEST = "digest"

EDITED = "edited since it was made (its digest is of another content)"
EDITED_HINT = "use it as it was written or make it again; where the changes are meant, go on with --edited"

DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Published(Document):
    """Base of the documents: a subclass has ``kind`` and ``schema_version`` (each a Literal with its default) first and
    ``provenance`` last. What leaves the program is :meth:`sealed`."""

    kind: str
    schema_version: str
    digest: str | None = Field(
        default=None,
        description="SHA-256 of the document without it, as JSON with sorted keys, no blanks and whole numbers without "
        "a point; of another content, or null: the document was edited since it was made",
    )

    def sealed(self) -> Self:
        """The document with its digest."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(mode="json"))})

    @property
    def was_edited(self) -> bool:
        """Whether the content is another than when the document was made."""
        return self.digest != digest_of(self.model_dump(mode="json"))

    def to_json(self) -> str:
        """The document as text: indented, keys in schema order, each row of numbers on one line, a newline at the
        end."""
        return indented_json(self)


P = TypeVar("P", bound=Published)


def digest_of(fields: Mapping[str, Any]) -> str:
    """The digest of a document's JSON, the same however a program orders keys or writes whole numbers (1.0 or 1)."""
    rest = {name: _canonical(value) for name, value in fields.items() if name != DIGEST}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _canonical(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_not_edited(document: Published, where: str) -> None:
    """Refuses a document whose content is another than when it was made.

    Raises:
        InputError: it is; ``where`` is what the message calls it.
    """
    if document.was_edited:
        raise InputError(f"{where}: {EDITED}", EDITED_HINT)


def kind_of(document: type[Published]) -> str:
    return str(document.model_fields["kind"].default)


def version_of(document: type[Published]) -> str:
    return str(document.model_fields["schema_version"].default)


def as_it_is(document: dict[str, Any]) -> dict[str, Any]:
    """The upgrade where later versions only added what has a default that says what was so."""
    return document


def parse_published(
    text: str, type_: type[P], where: str, older: Mapping[str, Upgrade], *, called: tuple[str | None, ...] = ()
) -> P:
    """A document of type ``type_`` from its JSON; one of an older version becomes one of today's, with a digest of
    today's content unless it was edited.

    Args:
        where: what messages call it.
        older: the versions that still open, and how.
        called: other names of the kind, in older versions; None where the kind was not said.

    Raises:
        InputError: not JSON, of another kind or of a version that is not known, or refused by the schema.
    """
    kind, version = kind_of(type_), version_of(type_)
    hint = f"give a document of kind {kind}, as the program wrote it"
    try:
        document = strict_json(text)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error})", hint) from error
    if not isinstance(document, Mapping) or "schema_version" not in document:
        raise InputError(f"{where}: schema_version is missing", hint)
    said = document.get("kind")
    if said not in (kind, *called):
        raise InputError(f"{where}: is of kind {shown(said)}, not {kind}", hint)
    given = document["schema_version"]
    untouched = document.get(DIGEST) in (None, digest_of(document)) if given != version else False
    if given != version:
        if not isinstance(given, str) or given not in older:
            raise InputError(
                f"{where}: schema_version {shown(given)} is not one that this program reads",
                f"it reads {', '.join((*older, version))}; use the shardwright that wrote it, or a newer one",
            )
        try:
            document = older[given](dict(document))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{where}: is no whole document of schema {given} ({shown(str(error))} is missing)", hint
            ) from error
    if given != version or said != kind:
        document = {**document, "kind": kind, "schema_version": version}
        text = json.dumps(document)
    try:
        # Strictly: "8" is not 8, and true is not 1. (From Python objects, strict would refuse lists for tuples.)
        parsed = type_.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise validation_error(error, where) from error
    return parsed.sealed() if untouched else parsed


def validated(document: P, parse: Callable[[str], P]) -> P:
    """``document`` sealed, after a round trip through its own schema: what leaves the planner is what others can read.

    Raises:
        DataError: the planner made something that its schema refuses (a defect).
    """
    try:
        return parse(document.sealed().to_json())
    except (InputError, ValueError) as error:
        raise DataError(f"{kind_of(type(document))}: failed its own schema ({error})", "report this as a defect") from (
            error
        )


def json_schema(type_: type[BaseModel], name: str, version: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a document, or of a request (which is read: what has a default may be left
    out)."""
    published = issubclass(type_, Published)
    return {
        "$schema": DRAFT,
        "$id": f"urn:shardwright:{name}:{version}",
        **type_.model_json_schema(mode="serialization" if published else "validation"),
    }
