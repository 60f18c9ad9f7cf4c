"""The service's side of a worker: a process that answers one request after the other.

Each worker has a pipe of its own. (pebble's pool was looked at: all of its workers share one pipe under one lock,
which a worker that is killed while it waits for work takes with it, and all the others wait for ever.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Pipe
from pathlib import Path

from api.work.answers import Answer, Tell

_HOME = Path(__file__).parents[2]


class Died(Exception):
    """The worker ended while it ran a job."""


class TookTooLong(Exception):
    """The job's time was up; the worker was ended."""


class Worker:
    """A running worker.

    Args:
        memory_bytes: of data that the process may have; 0: as much as there is.
        warm: let it answer an example before the first job, so that the cost models are learnt and loaded.
    """

    def __init__(self, *, memory_bytes: int, warm: bool) -> None:
        self._ours, theirs = Pipe()
        path = os.pathsep.join((str(_HOME), *filter(None, [os.environ.get("PYTHONPATH")])))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "api.work.inside", str(theirs.fileno()), str(os.getpid()), str(memory_bytes)]
            + (["warm"] if warm else []),
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.jobs = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_warm(self) -> None:
        """Raises Died where it ends first."""
        self._received(None, lambda *_: None)

    def run(self, kind: str, request: bytes, folders: Sequence[Path], seconds: float, tell: Tell) -> tuple[Answer, str]:
        """The answer to one request, and the traceback of a defect.

        Raises:
            Died: the process ended; TookTooLong: ``seconds`` passed.
        """
        self.jobs += 1
        try:
            self._ours.send((kind, request, tuple(folders)))
        except OSError as error:
            raise Died(self._how()) from error
        answered = self._received(time.monotonic() + seconds, tell)
        assert isinstance(answered, tuple)
        return answered

    def _received(self, deadline: float | None, tell: Tell) -> object:
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self.kill()
                raise TookTooLong
            try:
                if not self._ours.poll(left):
                    continue
                what, content = self._ours.recv()
            except (EOFError, OSError) as error:
                raise Died(self._how()) from error
            if what == "doing":
                tell(*content)
            else:
                return content

    def _how(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "its pipe closed"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Ends it at once, solver and all. From any thread."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._ours.close()
