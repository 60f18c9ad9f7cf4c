"""Databases of every released schema still open."""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from databases import Postgres

from api.storage import schema
from api.storage.answers import Answers
from api.storage.database import Database
from api.storage.documents import Documents, Filter
from api.storage.jobs import Jobs
from api.storage.keys import Keys
from api.storage.uploads import Uploads
from planner.kinds import KINDS

FIXTURES = Path(__file__).parent / "fixtures"
KEY = "sw_58479e3301da_uP6liXrohC_LFGGYuPb1m9dbrx6imUOhBQV5-OgmGBc"  # of the fixtures alone


def test_there_is_one_of_every_schema() -> None:
    known = {each.revision for each in ScriptDirectory(str(schema.MIGRATIONS)).walk_revisions()}
    for suffix in ("db", "sql"):
        assert {file.stem.removeprefix("service-") for file in FIXTURES.glob(f"service-*.{suffix}")} == known


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("service-*.db")), ids=lambda file: file.stem)
def test_it_opens_with_all_that_is_in_it(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "service.db")
    check(Database(f"sqlite:///{tmp_path / 'service.db'}"))


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("service-*.sql")), ids=lambda file: file.stem)
def test_and_so_does_postgresql(file: Path, postgres_server: Postgres) -> None:
    """``file``: of ``pg_dump --inserts --no-owner --no-privileges``, without the lines that are psql's."""
    url = postgres_server.fresh(file.stem)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(file.read_bytes())
    check(Database(url))


def check(database: Database) -> None:
    schema.upgrade(database)
    assert schema.state(database) == "current"
    key = Keys(database).check(KEY)
    assert key is not None
    [(_, entry)] = Documents(database).listed(key.id, Filter(), 9)
    document = Documents(database).find(entry.id, key.id)
    assert document is not None
    assert KINDS["memory"].parse(document.content.decode()).kind == "memory"
    [job] = Jobs(database).listed(key.id, None, None, 9)
    assert job.state == "queued"
    found = Answers(database).find(key.id, "a")
    assert found is not None
    assert found.job == job.id
    [upload] = Uploads(database).listed(key.id, "traces")
    assert Uploads(database).content(upload.id)
    assert Jobs(database).claim("here") is not None
    database.close()
