"""Which version of the tables a database has, and how it gets today's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import func, inspect, select

from api.storage.database import Database
from api.storage.tables import METADATA
from profiles.errors import InputError

MIGRATIONS = Path(__file__).parent / "migrations"

_LOCK = 0x5A4D  # any number that is always the same

State = Literal["empty", "current", "older", "newer", "foreign"]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def newest() -> str:
    """The version that this program writes."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def version(database: Database) -> str | None:
    """The version that a database has; None where it has none."""
    with database.reading() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def state(database: Database) -> State:
    """How a database stands to this program; ``foreign``: it has tables, and none of ours."""
    found = version(database)
    if found is None:
        with database.reading() as connection:
            return "foreign" if set(inspect(connection).get_table_names()) & set(METADATA.tables) else "empty"
    if found == newest():
        return "current"
    try:
        known = ScriptDirectory.from_config(_config()).get_revision(found)
    except CommandError:
        known = None
    return "newer" if known is None else "older"


def upgrade(database: Database) -> tuple[str | None, str]:
    """Brings a database to today's version; (the version it had, the one it has).

    Raises:
        InputError: it is newer than the program, or its tables are someone else's.
        DatabaseAway: it cannot be reached or written.
    """
    database.make_room()
    before = version(database)
    check_not_strange(database)
    config = _config()
    with database.writing() as connection:
        if not database.is_sqlite:  # of several instances that start at once, one
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before, newest()


def check_not_strange(database: Database) -> None:
    """Raises :class:`InputError` where a newer program, or another one, wrote it."""
    found = state(database)
    if found == "newer":
        raise InputError(
            f"database {database.shown}: its schema {version(database)} is newer than this program's {newest()}",
            "upgrade shardwright, or name another database",
        )
    if found == "foreign":
        raise InputError(
            f"database {database.shown}: has tables of our names that shardwright did not make", "name another database"
        )


def prepare(database: Database) -> None:
    """Makes the tables of an empty database, and refuses one that is not of today's version.

    Raises:
        InputError, DatabaseAway: as :func:`upgrade`; an older one says how it is brought up.
    """
    database.make_room()
    found = state(database)
    if found == "empty":
        upgrade(database)
    elif found == "older":
        raise InputError(
            f"database {database.shown}: its schema {version(database)} is older than this program's {newest()}",
            "make a backup (`plan db backup FILE`), then run `plan db upgrade`",
        )
    else:
        check_not_strange(database)
