"""Documents: never changed, found again by what was asked, seen by whoever asked it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from sqlalchemy import Connection, and_, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.schema import Table

from api.storage.database import Database
from api.storage.tables import access, documents


@dataclass(frozen=True)
class Stored:
    """A document, as its bytes are handed out."""

    id: str
    kind: str
    schema_version: str
    media_type: str
    etag: str
    model: str
    created: float
    content: bytes = b""

    @classmethod
    def of(cls, id_: str, kind: str, version: str, media_type: str, content: bytes, model: str) -> Stored:
        etag = hashlib.sha256(content).hexdigest()
        return cls(id_, kind, version, media_type, etag, model[:256], time.time(), content)


@dataclass(frozen=True)
class Filter:
    """Which documents of an owner are listed; ``before`` is the last one of the page before, by time and id."""

    kind: str | None = None
    model: str | None = None
    since: float | None = None
    until: float | None = None
    before: tuple[float, str] | None = None


_HEAD = [each for each in documents.c if each.name != "content"]


class Documents:
    """The documents of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, id_: str, owner: str) -> Stored | None:
        """A document that ``owner`` may see."""
        with self._database.reading() as connection:
            row = connection.execute(
                select(documents)
                .join(access, access.c.document == documents.c.id)
                .where(documents.c.id == id_, access.c.owner == owner)
            ).one_or_none()
        return None if row is None else Stored(**row._mapping)

    def asked(self, id_: str, owner: str) -> Stored | None:
        """The stored answer to a question, which ``owner`` may see from now on; None where there is none."""
        found = self.find(id_, owner)
        if found is not None:
            return found
        with self._database.reading() as connection:
            row = connection.execute(select(documents).where(documents.c.id == id_)).one_or_none()
        if row is None:
            return None
        with self._database.writing() as connection:
            grant(connection, owner, id_)
        return Stored(**row._mapping)

    def listed(self, owner: str, wanted: Filter, most: int) -> list[tuple[float, Stored]]:
        """(when the owner got it, the document without its content), the newest first, ``most`` of them."""
        query = select(access.c.at, *_HEAD).join(documents, documents.c.id == access.c.document)
        query = query.where(access.c.owner == owner)
        if wanted.kind is not None:
            query = query.where(documents.c.kind == wanted.kind)
        if wanted.model is not None:
            query = query.where(documents.c.model == wanted.model)
        if wanted.since is not None:
            query = query.where(access.c.at >= wanted.since)
        if wanted.until is not None:
            query = query.where(access.c.at < wanted.until)
        if wanted.before is not None:
            at, last = wanted.before
            query = query.where(or_(access.c.at < at, and_(access.c.at == at, access.c.document < last)))
        query = query.order_by(access.c.at.desc(), access.c.document.desc()).limit(most)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [(row.at, Stored(**{n: v for n, v in row._mapping.items() if n != "at"})) for row in rows]


def keep(connection: Connection, document: Stored, owner: str) -> None:
    """Stores a document, unless the same question has an answer already, and lets ``owner`` see it."""
    values = {column.name: getattr(document, column.name) for column in documents.c}
    connection.execute(unless_there(connection, documents).values(values))
    grant(connection, owner, document.id)


def grant(connection: Connection, owner: str, id_: str) -> None:
    row = {"owner": owner, "document": id_, "at": time.time()}
    connection.execute(unless_there(connection, access).values(row))


def unless_there(connection: Connection, table: Table) -> Insert:
    """``INSERT`` of rows whose key is not taken; the others stay as they are."""
    dialects = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
    made = dialects.get(connection.dialect.name, insert)(table)
    return made.on_conflict_do_nothing()  # type: ignore[attr-defined,no-any-return]
