"""Progress on standard error: a moving line on a terminal, one plain line an event elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from types import TracebackType
from typing import TYPE_CHECKING

from planner.contract.progress import is_passing

if TYPE_CHECKING:
    from rich.progress import Progress


PATIENCE_S = 2.0


@contextmanager
def silent(quiet: bool) -> Iterator[None]:
    """Nothing is written to standard error meanwhile, where one is ``quiet``; errors that are raised are told after."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield


class Reporter:
    """Calling it reports an event. On a terminal the line also appears by itself after :data:`PATIENCE_S` seconds, and
    leaves no trace; elsewhere nothing but events is written. Those that pass within seconds change a line that is
    there, and are none of their own. A ``quiet`` one writes nothing at all."""

    def __init__(self, doing: str, *, quiet: bool = False) -> None:
        self._doing = doing
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._lock = threading.Lock()
        self._closed = False
        self._progress: Progress | None = None
        self._timer = threading.Timer(PATIENCE_S, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Reporter:
        if self._live:
            self._timer.start()
        return self

    def __call__(self, event: str) -> None:
        passing = is_passing(event)
        if self._live:
            self._doing = event
            if self._progress is not None or not passing:
                self._show()
        elif not (self._quiet or passing):
            print(event, file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._progress is not None:
                self._progress.stop()

    def _show(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._progress is None:
                from rich.console import Console  # deferred: most commands end before, or have no terminal
                from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

                self._progress = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}", markup=False),
                    TimeElapsedColumn(),
                    console=Console(stderr=True, markup=False, emoji=False, highlight=False),
                    transient=True,
                )
                self._progress.add_task(self._doing)
                self._progress.start()
            else:
                self._progress.update(self._progress.task_ids[0], description=self._doing)
