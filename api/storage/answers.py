"""First answers by ``Idempotency-Key``: the same key gets the same job or document again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import select

from api.storage.database import Database
from api.storage.documents import unless_there
from api.storage.tables import answers


@dataclass(frozen=True)
class FirstAnswer:
    """What a key was first used for (``asked``: a hash of route and body), and what came of it."""

    asked: str
    job: str | None
    document: str | None


class Answers:
    """The first answers of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, owner: str, key: str) -> FirstAnswer | None:
        query = select(answers.c.asked, answers.c.job, answers.c.document)
        with self._database.reading() as connection:
            row = connection.execute(query.where(answers.c.owner == owner, answers.c.key == key)).one_or_none()
        return None if row is None else FirstAnswer(row.asked, row.job, row.document)

    def keep(self, owner: str, key: str, answer: FirstAnswer) -> None:
        """Remembers ``answer``, unless the key has one."""
        values = {"owner": owner, "key": key, **vars(answer), "created": time.time()}
        with self._database.writing() as connection:
            connection.execute(unless_there(connection, answers).values(values))
