"""A job that is dropped takes the worker that runs it along, and no other."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.storage.jobs import Claimed
from api.work import inside
from api.work.answers import Answer
from api.work.inside import one_at_a_time
from api.work.process import Died
from api.work.slot import Slot

JOB = Claimed("job", "lease", "", "memory", "document", b"{}", (), 0)


class Stage:
    """A crew with one job, and the runner that answers it; calls ``during`` while it runs, ``after`` once its end is in
    the database."""

    def __init__(self, during: Callable[[Slot], None], after: Callable[[Slot], None], *, dies: bool) -> None:
        self.during, self.after, self.dies = during, after, dies
        self.closing, self.job_seconds = threading.Event(), 1.0
        self.stopped, self.closed, self.said = 0, 0, list[str]()
        self.slot = Slot(self, self, "worker-0", quick_only=False)

    def prepare(self) -> None: ...

    def run(self, *_: Any) -> tuple[Answer, str]:
        self.during(self.slot)
        if self.stopped and self.dies:
            raise Died("signal SIGKILL")
        return Answer(b"{}"), ""

    def stop(self) -> None:
        self.stopped += 1

    def close(self) -> None:
        self.closed += 1

    def take(self, slot: Slot) -> Claimed:
        slot.job = JOB
        self.closing.set()
        return JOB

    def folders(self, _: Claimed) -> list[Path]:
        return []

    def doing(self, job: Claimed, text: str, percent: float | None) -> None: ...

    def over(self, _: Claimed, outcome: str) -> None:
        self.said.append(outcome)

    def answered(self, job: Claimed, answer: Answer) -> bool:
        self.said.append("answered")
        self.after(self.slot)
        return True

    def hand_back(self, job: Claimed, *, worker_died: bool) -> None:
        self.said.append("handed back")


def played(during: Callable[[Slot], None], after: Callable[[Slot], None], *, dies: bool = True) -> Stage:
    stage = Stage(during, after, dies=dies)
    stage.slot.thread.start()
    stage.slot.thread.join(20)
    assert stage.slot.job is None
    return stage


def nothing(_: Slot) -> None: ...


def test_an_answered_job_holds_no_lease_and_its_worker_lives_on() -> None:
    stage = played(nothing, lambda slot: slot.drop(JOB.lease))
    assert (stage.said, stage.stopped) == (["answered"], 0)


@pytest.mark.parametrize("dies", [True, False], ids=["before it answers", "just as it answers"])
def test_a_dropped_job_takes_its_worker_along(dies: bool) -> None:
    stage = played(lambda slot: slot.drop(JOB.lease), nothing, dies=dies)
    assert (stage.said, stage.stopped) == (["dropped"], 1)
    assert stage.closed == 1 + (not dies), "a worker that was ended takes no other job"


def test_another_jobs_lease_ends_nothing() -> None:
    stage = played(lambda slot: slot.drop("other"), nothing)
    assert (stage.said, stage.stopped) == (["answered"], 0)


def test_workers_learn_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inside, "_LONGEST_TURN_S", 0.0)
    with one_at_a_time(), (tmp_path / "cache" / "warming").open("ab") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with one_at_a_time():  # whoever has waited long enough goes on
            pass
    with (tmp_path / "cache" / "warming").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SHARDWRIGHT_CACHE", str(tmp_path / "file"))
    with one_at_a_time():
        pass
