"""Everyone who works on this machine's share of the queue: the slots, and the keeper of their leases."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from api.storage.database import DatabaseAway
from api.storage.jobs import LEASE_S, Claimed, Job, Jobs, Question
from api.work.answers import Answer, gave_up
from api.work.slot import Runner, Slot

logger = logging.getLogger(__name__)

LOOK_S = 0.4
"""Between looks at whether jobs were cancelled elsewhere, and at the queue of other instances."""

_RENEW_S = LEASE_S / 5

Heard = Callable[[str, str, str], None]
"""Called with a job's id, its kind, and what became of it: running, doing, done, failed, queued or dropped."""


class QueueFull(Exception):
    """So many jobs wait that no more are taken."""


class LocalCrew:
    """Slots over one queue.

    Args:
        runners: one for each slot; ``quick`` more that take only quick jobs.
        heard: told of changes, from the threads of the slots.
        folders_of: profile stores of a job, on this machine's disk.
    """

    def __init__(
        self,
        jobs: Jobs,
        runners: Sequence[Runner],
        quick: Sequence[Runner],
        *,
        job_seconds: float,
        queue_limit: int,
        look_s: float = LOOK_S,
        heard: Heard = lambda *_: None,
        folders_of: Callable[[Claimed], list[Path]] = lambda _: [],
    ) -> None:
        self._look_s, self._starting, self._started = look_s, threading.Lock(), False
        self._jobs, self._heard, self._folders_of = jobs, heard, folders_of
        self.job_seconds, self._queue_limit = job_seconds, queue_limit
        self.closing, self._resting = threading.Event(), threading.Event()
        self._taking = threading.Condition()
        self._told: dict[str, tuple[str, float | None]] = {}
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self.slots = [Slot(self, each, f"worker-{n}", quick_only=False) for n, each in enumerate(runners)]
        self.slots += [Slot(self, each, f"quick-{n}", quick_only=True) for n, each in enumerate(quick)]
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Starts the workers, once."""
        with self._starting:
            if not self._started:
                self._started = True
                for thread in (self._keeper, *(slot.thread for slot in self.slots)):
                    thread.start()

    @property
    def ready(self) -> bool:
        """Whether every slot has a warm worker, but for those that are being begun anew."""
        return all(slot.ready or slot.job is not None for slot in self.slots)

    @property
    def running(self) -> int:
        return sum(slot.job is not None for slot in self.slots)

    # ---------------------------------------------------------------- who asks

    def admit(self, asked: Question) -> Job:
        """Queues a job and lets it be begun.

        Raises:
            QueueFull: as many wait as may, beside those that a free slot takes at once.
        """
        with self._taking:
            free = sum(slot.ready and slot.job is None and (asked.quick or not slot.quick_only) for slot in self.slots)
            if self._jobs.waiting() >= self._queue_limit + free:
                raise QueueFull
            job = self._jobs.add(asked)
            self._taking.notify_all()
        return job

    def drop(self, id_: str) -> None:
        """Ends a job that was cancelled, if it runs here."""
        for slot in self.slots:
            job = slot.job
            if job is not None and job.id == id_:
                slot.drop(job.lease)

    # ---------------------------------------------------------------- what slots need

    def take(self, slot: Slot) -> Claimed | None:
        with self._taking:
            job = None
            if not (self._resting.is_set() or self.closing.is_set()):
                job = self._jobs.claim(self._name, quick_only=slot.quick_only)
            slot.job = job
            if job is None:
                self._taking.wait(self._look_s)
                return None
        self._heard(job.id, job.kind, "running")
        return job

    def folders(self, job: Claimed) -> list[Path]:
        return self._folders_of(job) if job.profiles else []

    def doing(self, job: Claimed, text: str, percent: float | None) -> None:
        self._told[job.lease] = (text, percent)

    def over(self, job: Claimed, outcome: str) -> None:
        self._told.pop(job.lease, None)
        self._heard(job.id, job.kind, outcome)

    def answered(self, job: Claimed, answer: Answer) -> bool:
        if answer.problem is not None:
            held = self._jobs.failed(job.lease, answer.problem)
            outcome = "failed"
        else:
            held = self._jobs.done(job.lease, job.owner, answer.stored(job.kind, job.document))
            outcome = "done"
        self.over(job, outcome if held else "dropped")
        return held

    def hand_back(self, job: Claimed, *, worker_died: bool) -> None:
        self._jobs.hand_back(job.lease, worker_died=worker_died)
        self.over(job, "queued")

    # ---------------------------------------------------------------- leases

    def _keep(self) -> None:
        renewed = 0.0
        while not self.closing.wait(self._look_s):
            try:
                leases = [job.lease for slot in self.slots if (job := slot.job) is not None]
                late = time.monotonic() - renewed >= _RENEW_S
                if leases:
                    held = self._jobs.renew(leases) if late else self._jobs.held(leases)
                    for lost in set(leases) - held:
                        for slot in self.slots:
                            slot.drop(lost)
                if late:
                    self._jobs.take_back(gave_up().model_dump())
                    renewed = time.monotonic()
                self._pass_on()
            except DatabaseAway as error:
                logger.warning("leases: %s", error.message)
            except Exception:
                logger.exception("leases: failed")

    def _pass_on(self) -> None:
        """What jobs say of themselves reaches the queue at most once a look."""
        jobs = {job.lease: job for slot in self.slots if (job := slot.job) is not None}
        for lease in list(self._told):
            told = self._told.pop(lease, None)
            if told is not None and lease in jobs:
                self._jobs.tell(lease, *told)
                self._heard(jobs[lease].id, jobs[lease].kind, "doing")

    # ---------------------------------------------------------------- the end

    def close(self, grace_s: float) -> None:
        """Takes no more jobs, gives those that run ``grace_s`` seconds to end, and hands the others back."""
        self._resting.set()
        deadline = time.monotonic() + grace_s
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        self.closing.set()
        for slot in self.slots:
            slot.stop()
        with self._taking:
            self._taking.notify_all()
        for slot in self.slots:
            if slot.thread.is_alive():
                slot.thread.join(5)
