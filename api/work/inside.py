"""Inside a worker: ``python -m api.work.inside PIPE SERVICE MEMORY [warm]``, as :mod:`api.work.process` starts it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_POLITE = 5  # steps of niceness: the service answers while workers compute
_PATIENCE_S = 1.0  # between looks at whether the service still runs
_LOOK_S = 0.1  # between looks at whether another worker has learnt what there is to learn
_LONGEST_TURN_S = 600.0  # that is waited for: one that was stopped must not stop the others

MOST_KEPT = 40
"""Operations whose loaded cost models a worker keeps: five or six make up one GPU type under one framework. 14 MB
each, measured over 12 such pairs."""


def main(arguments: list[str]) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # the service says when it ends
    pipe, service, memory_bytes = Connection(int(arguments[0])), int(arguments[1]), int(arguments[2])
    end_with(service)
    if memory_bytes:
        _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError):
        os.nice(_POLITE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # rather this than the service
    with contextlib.suppress(EOFError, OSError):  # the service has gone
        serve(pipe, warm="warm" in arguments)


def serve(pipe: Connection, *, warm: bool) -> None:
    """Answers what comes through ``pipe`` until that closes; cost models stay loaded from one answer to the next."""
    from costmodels.kernels.kept import keeping

    with keeping(MOST_KEPT):
        _answer_all(pipe, warm=warm)


def _answer_all(pipe: Connection, *, warm: bool) -> None:
    from api.work.answers import answer
    from planner.kinds import KINDS

    def send(what: str, content: Any) -> None:
        with lock:
            pipe.send((what, content))

    lock = threading.Lock()
    if warm:  # learns what plans need, on a fresh machine for a minute, and loads it
        kind = KINDS["serving"]
        with one_at_a_time():
            answer(kind, json.dumps(kind.request_example()).encode(), (), lambda *_: None)
    send("warm", None)
    while True:
        name, request, folders = pipe.recv()
        send("doing", (f"making {KINDS[name].title.partition(':')[0]}", None))
        send("answer", answer(KINDS[name], request, folders, lambda *said: send("doing", said)))


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Of all workers on this machine, those of other services too: what the first learns and compiles the others find
    on disk. Where nothing can be locked, each works alone."""
    from costmodels.kernels.on_disk import cache_folder

    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            cache_folder().mkdir(parents=True, exist_ok=True)
            file = held.enter_context((cache_folder() / "warming").open("ab"))
            until = time.monotonic() + _LONGEST_TURN_S
            while not _locked(file) and time.monotonic() < until:
                time.sleep(_LOOK_S)
        yield


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def end_with(service: int) -> None:
    """Ends this process when its service has: by the kernel where it can, and by looking."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)

    def look() -> None:
        while os.getppid() == service:
            time.sleep(_PATIENCE_S)
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="service-watch").start()


if __name__ == "__main__":
    main(sys.argv[1:])
