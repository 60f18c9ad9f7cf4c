"""Databases for tests: SQLite files, and a PostgreSQL of our own on a free port, where the machine has one."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HOMES = ("/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt/postgresql")


def program(name: str) -> Path | None:
    """A program of PostgreSQL's server; Debian keeps them off the PATH."""
    found = shutil.which(name)
    if found:
        return Path(found)
    return next((each for home in _HOMES for each in sorted(Path(home).glob(f"*/bin/{name}"), reverse=True)), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Postgres:
    """A PostgreSQL server with an empty cluster; it refuses to run as root, so that another user does then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._as = []
        if os.geteuid() == 0:
            self._as = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-U", "planner", "-A", "trust", "-N", "-E", "UTF8")
        self.start()

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as, str(program(name)), *arguments], check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start")

    def stop(self, how: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", how, "stop")

    def fresh(self, name: str) -> str:
        """The address of a new database."""
        import psycopg

        with psycopg.connect(f"{self._base}/postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"{self._base}/{name}"

    @property
    def _base(self) -> str:
        return f"postgresql://planner@127.0.0.1:{self.port}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for as long as it is needed. Skips the test where PostgreSQL is not installed."""
    if program("initdb") is None:
        if os.environ.get("CI_NEEDS_POSTGRES"):
            pytest.fail("PostgreSQL is not installed, and CI needs it")
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="shardwright-pg-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
