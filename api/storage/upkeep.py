"""What keeps a database in order: forgetting what is old, and copies."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, func, select

from api.storage.database import Database, DatabaseAway
from api.storage.jobs import ENDED
from api.storage.tables import access, answers, documents, jobs
from profiles.errors import InputError
from profiles.values import named
from profiles.whole_files import whole_file

DAY_S = 86_400.0

ANSWERS_S = DAY_S
"""An Idempotency-Key is remembered for this."""


@dataclass(frozen=True)
class Pruned:
    documents: int
    jobs: int
    answers: int


def prune(database: Database, keep_days: float | None, keep_documents: int | None) -> Pruned:
    """Forgets documents and ended jobs that are older than ``keep_days``, documents beyond the newest
    ``keep_documents``, and Idempotency-Keys of more than a day."""
    now = time.time()
    gone_documents = gone_jobs = 0
    with database.writing() as connection:
        if keep_days is not None:
            before = now - keep_days * DAY_S
            old = select(documents.c.id).where(documents.c.created < before)
            gone_documents += _forget(connection, old)
            ended = delete(jobs).where(jobs.c.state.in_(ENDED), jobs.c.ended < before)
            gone_jobs = connection.execute(ended).rowcount
        if keep_documents is not None:
            newest = select(documents.c.id).order_by(documents.c.created.desc(), documents.c.id).limit(keep_documents)
            kept = newest.subquery()
            gone_documents += _forget(
                connection, select(documents.c.id).where(documents.c.id.not_in(select(kept.c.id)))
            )
        gone_answers = connection.execute(delete(answers).where(answers.c.created < now - ANSWERS_S)).rowcount
    return Pruned(gone_documents, gone_jobs, gone_answers)


def _forget(connection: object, which: object) -> int:
    from sqlalchemy import Connection

    assert isinstance(connection, Connection)
    connection.execute(delete(access).where(access.c.document.in_(which)))  # type: ignore[arg-type]
    return connection.execute(delete(documents).where(documents.c.id.in_(which))).rowcount  # type: ignore[arg-type]


def counts(database: Database) -> dict[str, int]:
    """Rows of the tables that grow."""
    with database.reading() as connection:
        return {
            each.name: int(connection.execute(select(func.count()).select_from(each)).scalar_one())
            for each in (documents, jobs)
        }


def backup(database: Database, file: Path) -> None:
    """A copy of the database as it is now, while it is used: an SQLite file, or what ``pg_dump`` writes.

    Raises:
        InputError: the file is there already or cannot be written, or pg_dump is missing.
        DatabaseAway: the copy failed.
    """
    if file.exists():
        raise InputError(f"FILE: {named(file)} is there already", "name a new file; a backup replaces nothing")
    if not file.parent.is_dir():
        raise InputError(
            f"FILE: the directory {named(file.parent)} does not exist", f"make it first: mkdir -p {file.parent}"
        )
    with whole_file(file) as beside:
        if database.is_sqlite:
            _copy_sqlite(database, beside)
        else:
            _dump(database, beside)


def _copy_sqlite(database: Database, file: Path) -> None:
    if database.file is None or not database.file.is_file():
        raise InputError(f"database {database.shown}: there is none", "name the one that `plan serve` uses")
    try:
        source, target = sqlite3.connect(database.file), sqlite3.connect(file)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
    except sqlite3.Error as error:
        raise DatabaseAway(f"database {database.shown}: {error}", "see that there is room for the copy") from error


def _dump(database: Database, file: Path) -> None:
    program = shutil.which("pg_dump")
    if program is None:
        raise InputError("pg_dump: is not installed", "install PostgreSQL's client programs, as new as the server's")
    url = database.url
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    address = url.set(drivername="postgresql", password=None).render_as_string()
    command = [program, "--format=custom", "--file", str(file), "--dbname", address]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or ["it failed"])[0]
        raise DatabaseAway(f"database {database.shown}: pg_dump: {why}", "see that it runs and can be reached")
