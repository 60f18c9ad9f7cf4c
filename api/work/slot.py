"""One place where jobs are run, one at a time: takes a job, lets it be answered, ends it in the queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from api.storage.database import DatabaseAway
from api.storage.jobs import MOST_TRIES, Claimed
from api.work.answers import Answer, Tell, answer, out_of_time, worker_died
from api.work.process import Died, TookTooLong, Worker
from planner.contract.kind import Kind

logger = logging.getLogger(__name__)

AGAIN_S = 0.5
"""Between tries to reach a database that is away."""


class Runner(Protocol):
    """What answers requests for a slot."""

    def prepare(self) -> None:
        """Makes it ready for a job; may take a minute. Raises Died."""

    def run(self, job: Claimed, folders: Sequence[Path], seconds: float, tell: Tell) -> tuple[Answer, str]:
        """As :meth:`api.work.process.Worker.run`."""

    def stop(self) -> None:
        """Ends what runs, at once. From any thread."""

    def close(self) -> None: ...


class InProcess:
    """Answers in this thread, for kinds that no other process knows (tests, embedding). What runs cannot be ended:
    its answer is then dropped."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds

    def prepare(self) -> None: ...

    def run(self, job: Claimed, folders: Sequence[Path], seconds: float, tell: Tell) -> tuple[Answer, str]:
        return answer(self._kinds[job.kind], job.request, folders, tell, alone=True)

    def stop(self) -> None: ...

    def close(self) -> None: ...


class OwnProcess:
    """Answers in a process of its own, which is begun anew when it died and after ``recycle`` jobs."""

    def __init__(self, *, memory_bytes: int, recycle: int, warm: bool) -> None:
        self._memory_bytes, self._recycle, self._warm = memory_bytes, recycle, warm
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        worker = self._worker
        return None if worker is None else worker.pid

    def prepare(self) -> None:
        if self._worker is not None and self._worker.jobs >= self._recycle:
            self.close()
        if self._worker is None:
            worker = Worker(memory_bytes=self._memory_bytes, warm=self._warm)
            with self._lock:
                self._worker = worker
            try:
                worker.wait_until_warm()
                self._warm = False  # what was learnt is on disk: one that is begun anew loads it with its first job
            except Died:
                self.close()
                raise

    def run(self, job: Claimed, folders: Sequence[Path], seconds: float, tell: Tell) -> tuple[Answer, str]:
        worker = self._worker
        if worker is None:
            raise Died("it was ended")
        try:
            return worker.run(job.kind, job.request, folders, seconds, tell)
        except (Died, TookTooLong):
            self.close()
            raise

    def stop(self) -> None:
        with self._lock:
            if self._worker is not None:
                self._worker.kill()

    def close(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


class Crew(Protocol):
    """What a slot needs of those who run it."""

    closing: threading.Event
    job_seconds: float

    def take(self, slot: Slot) -> Claimed | None: ...
    def folders(self, job: Claimed) -> list[Path]: ...
    def doing(self, job: Claimed, text: str, percent: float | None) -> None: ...
    def over(self, job: Claimed, outcome: str) -> None: ...
    def answered(self, job: Claimed, answer: Answer) -> bool: ...
    def hand_back(self, job: Claimed, *, worker_died: bool) -> None: ...


class Slot:
    """Runs jobs in a thread of its own until the crew closes.

    Attributes:
        quick_only: takes only quick jobs. ready: its runner is. job: what it runs.
    """

    def __init__(self, crew: Crew, runner: Runner, name: str, *, quick_only: bool) -> None:
        self._crew, self._runner, self.name, self.quick_only = crew, runner, name, quick_only
        self.ready = False
        self.job: Claimed | None = None
        self._dropped: str | None = None  # lease of a job that is not ours any more
        self._answered, self._ending = False, threading.Lock()  # of the job: nothing of it is left to be ended
        self.thread = threading.Thread(target=self._live, name=name, daemon=True)

    def drop(self, lease: str) -> None:
        """Ends the job with this lease if it still runs here: nobody waits for its answer. One that has just been
        answered holds no lease either, and its worker is another job's by then."""
        with self._ending:
            job = self.job
            if job is not None and job.lease == lease and self._dropped != lease and not self._answered:
                self._dropped = lease
                self._runner.stop()

    def stop(self) -> None:
        """Ends whatever runs here: the service ends."""
        self._runner.stop()

    def _live(self) -> None:
        while not self._crew.closing.is_set():
            try:
                self._once()
            except Died as error:
                logger.warning("%s: a worker ended before it was ready (%s)", self.name, error)
                self._crew.closing.wait(1)
            except DatabaseAway as error:
                logger.warning("%s: %s", self.name, error.message)
                self._crew.closing.wait(AGAIN_S)
            except Exception:
                logger.exception("%s: failed", self.name)
                self._crew.closing.wait(1)
        self.ready = False
        self._runner.close()

    def _once(self) -> None:
        self._runner.prepare()
        self.ready = True
        job = self._crew.take(self)
        if job is None:
            return
        try:
            self._run(job)
        finally:
            with self._ending:
                self.job = self._dropped = None
                self._answered = False

    def _run(self, job: Claimed) -> None:
        try:
            seconds = self._crew.job_seconds
            made, traceback = self._runner.run(
                job, self._crew.folders(job), seconds, lambda text, percent: self._crew.doing(job, text, percent)
            )
            with self._ending:
                self._answered = True
            if self._dropped == job.lease:  # ended just as it answered, and its worker with it
                self.ready = False
                self._runner.close()
                self._crew.over(job, "dropped")
                return
        except TookTooLong:
            self.ready = False
            made, traceback = Answer(problem=out_of_time(seconds).model_dump()), ""
        except Died as error:
            self.ready = False
            if self._dropped == job.lease:
                self._crew.over(job, "dropped")
                return
            logger.warning("job %s: its worker died (%s)", job.id, error)
            if self._crew.closing.is_set():
                self._until_told(lambda: self._crew.hand_back(job, worker_died=False))
                return
            if job.tries + 1 < MOST_TRIES:
                self._until_told(lambda: self._crew.hand_back(job, worker_died=True))
                return
            made, traceback = Answer(problem=worker_died(str(error)).model_dump()), ""
        if made.problem is not None and made.problem["status"] >= 500:
            logger.error("job %s: %s%s", job.id, made.problem["detail"], f"\n{traceback}" if traceback else "")
        self._until_told(lambda: self._crew.answered(job, made))

    def _until_told(self, tell: Callable[[], object]) -> None:
        """What came of a job reaches the queue, however long the database is away."""
        while True:
            try:
                tell()
                return
            except DatabaseAway as error:
                logger.warning("%s: %s", self.name, error.message)
                if self._crew.closing.is_set():
                    return  # its lease runs out, and another takes it up
                time.sleep(AGAIN_S)
