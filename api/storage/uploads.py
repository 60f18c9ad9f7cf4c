"""Uploads: measurements and traces, each with a name and a version that its owner chooses later."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, func, select

from api.storage.database import Database
from api.storage.tables import uploads

Family = Literal["profiles", "traces"]

_HEAD = [each for each in uploads.c if each.name != "content"]


@dataclass(frozen=True)
class Upload:
    """An upload without its content."""

    id: str
    name: str
    version: int
    digest: str
    about: Mapping[str, Any]
    created: float


class Uploads:
    """The uploads of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, owner: str, family: Family, name: str, content: bytes, about: Mapping[str, Any]) -> Upload:
        """The next version of ``name``; the newest one where that has the same content."""
        digest = hashlib.sha256(content).hexdigest()
        mine = (uploads.c.owner == owner, uploads.c.family == family, uploads.c.name == name)
        with self._database.writing() as connection:
            newest = connection.execute(
                select(*_HEAD).where(*mine).order_by(uploads.c.version.desc()).limit(1)
            ).one_or_none()
            if newest is not None and newest.digest == digest:
                return _upload(newest)
            version = 1 if newest is None else newest.version + 1
            id_ = hashlib.sha256(json.dumps([owner, family, name, version, digest]).encode()).hexdigest()[:32]
            values = {
                "id": id_,
                "owner": owner,
                "family": family,
                "name": name,
                "version": version,
                "digest": digest,
                "about": json.dumps(about),
                "content": content,
                "created": time.time(),
            }
            return _upload(connection.execute(uploads.insert().values(values).returning(*_HEAD)).one())

    def find(self, owner: str, family: Family, name: str, version: int | None = None) -> Upload | None:
        """A version of ``name``; the newest where none is said."""
        query = select(*_HEAD).where(uploads.c.owner == owner, uploads.c.family == family, uploads.c.name == name)
        if version is not None:
            query = query.where(uploads.c.version == version)
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(uploads.c.version.desc()).limit(1)).one_or_none()
        return None if row is None else _upload(row)

    def listed(self, owner: str, family: Family) -> list[Upload]:
        """Every version, by name and version."""
        query = select(*_HEAD).where(uploads.c.owner == owner, uploads.c.family == family)
        with self._database.reading() as connection:
            return [_upload(row) for row in connection.execute(query.order_by(uploads.c.name, uploads.c.version))]

    def names(self, owner: str, family: Family) -> list[str]:
        query = select(func.distinct(uploads.c.name)).where(uploads.c.owner == owner, uploads.c.family == family)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def content(self, id_: str) -> bytes | None:
        with self._database.reading() as connection:
            return connection.execute(select(uploads.c.content).where(uploads.c.id == id_)).scalar_one_or_none()


def _upload(row: Row[Any]) -> Upload:
    return Upload(row.id, row.name, row.version, row.digest, json.loads(row.about), row.created)
