"""The connection to the database: which one an address means, transactions on it, and what is said when it is away."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import StaticPool

from profiles.errors import InputError, ShardwrightError
from profiles.values import shown

_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
CONNECT_S, BUSY_S, STATEMENT_S = 5, 10, 30
"""Patience with a server that does not answer, with a file that another process writes, and with one statement."""

MOST_CONNECTIONS = 20

_READS = "reads"  # of a connection to SQLite: no transaction


class DatabaseAway(ShardwrightError):
    """The database cannot be reached or written just now."""

    exit_code = 2
    http_status = 503
    title = "Database not available"


def default_url() -> str:
    """A file in the user's data folder."""
    return f"sqlite:///{Path(platformdirs.user_data_dir('shardwright')) / 'service.db'}"


def parsed_url(text: str) -> URL:
    """The address of a database.

    Raises:
        InputError: it is none, or of a database that is not supported.
    """
    hint = "write sqlite:///service.db, or postgresql://user:password@host/database"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise InputError("database_url: is no address of a database", hint) from error
    if url.drivername not in _DRIVERS:
        raise InputError(f"database_url: {shown(url.drivername)} is not a database that is supported", hint)
    return url.set(drivername=_DRIVERS[url.drivername])


class Database:
    """A database by its address; connects when it is first used.

    Args:
        text: ``sqlite:///FILE``, ``sqlite://`` (in memory, for one process) or ``postgresql://…``.
    """

    def __init__(self, text: str) -> None:
        self.url = parsed_url(text)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._in_memory = self.is_sqlite and self.url.database in (None, "", ":memory:")
        self._alone = threading.RLock()  # of the one connection that there is in memory
        self.engine = self._engine()

    @property
    def shown(self) -> str:
        """The address without its password."""
        url = self.url.set(drivername=self.url.get_backend_name())
        return url.render_as_string(hide_password=True)

    @property
    def file(self) -> Path | None:
        """The file of SQLite."""
        return Path(self.url.database or "") if self.is_sqlite and not self._in_memory else None

    def _engine(self) -> Engine:
        options: dict[str, Any] = {"pool_timeout": CONNECT_S}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": BUSY_S, "check_same_thread": False}
            if self._in_memory:
                options |= {"poolclass": StaticPool}
                del options["pool_timeout"]
        else:
            options |= {"pool_pre_ping": True, "pool_recycle": 1800}
            options["connect_args"] = {
                "connect_timeout": CONNECT_S,
                "application_name": "shardwright",
                "options": f"-c statement_timeout={STATEMENT_S * 1000} -c timezone=UTC",
            }
        if not self._in_memory:
            options |= {"pool_size": 5, "max_overflow": MOST_CONNECTIONS - 5}
        engine = create_engine(self.url, **options)
        if self.is_sqlite:
            event.listen(engine, "connect", _prepare)
            event.listen(engine, "begin", _begin)
        return engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection on which every statement stands for itself.

        Raises:
            DatabaseAway: it cannot be reached.
        """
        alone: dict[str, Any] = {_READS: True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        with self._told(), self.engine.connect() as connection:
            yield connection.execution_options(**alone)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction, which on SQLite is the only one that writes.

        Raises:
            DatabaseAway: it cannot be reached or written; nothing of the transaction is kept.
        """
        with self._told(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        if self._in_memory:
            with self._alone:
                yield
            return
        try:
            yield
        except NoConnection as error:
            raise DatabaseAway(f"database {self.shown}: all connections are in use", "try again in a moment") from error
        except sqlite3.Error as error:  # while connecting, before SQLAlchemy wraps it
            raise DatabaseAway(f"database {self.shown}: {error}", "see that it is a database and has room") from error
        except DBAPIError as error:
            if not _is_away(error):
                raise
            raise DatabaseAway(
                f"database {self.shown}: {_reason(error)}", "see that it runs, can be reached and has room"
            ) from error

    def make_room(self) -> None:
        """Makes the folder of SQLite's file.

        Raises:
            DatabaseAway: it cannot be made.
        """
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseAway(
                f"database {self.shown}: its folder cannot be made ({error.strerror})", "name a file elsewhere"
            ) from error

    def close(self) -> None:
        self.engine.dispose()


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin(connection: Connection) -> None:
    if not connection.get_execution_options().get(_READS):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _is_away(error: DBAPIError) -> bool:
    """Whether the trouble is the database's, not the statement's."""
    return error.connection_invalidated or type(error).__name__ in (
        "OperationalError",
        "InterfaceError",
        "DatabaseError",
    )


def _reason(error: DBAPIError) -> str:
    text = str(error.orig or error).strip().splitlines()
    return text[0] if text else type(error).__name__
