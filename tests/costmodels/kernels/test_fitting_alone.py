"""Two that want the same forest at once: one fits it, the other waits and reads it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import synthetic
from filelock import FileLock
from synthetic import MEASURED_GPUS, questions, rows

from costmodels.kernels import on_disk
from costmodels.kernels.cost_model import CostModel
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

OPERATION = "mla_bmm"
QUESTIONS = questions(OPERATION, 20)


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    made = synthetic.empty_store(tmp_path / "store")
    made.add(OPERATION, rows(OPERATION, MEASURED_GPUS[0]))
    return made


class Said:
    """First words of the lines of progress, and the moment when one said that it waits."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.waits = threading.Event()

    def __call__(self, line: str) -> None:
        self.words.append(line.split()[0])
        if "waiting" in line:
            self.waits.set()


def answer(store: ProfileStore, said: Said) -> list[float]:
    return CostModel(find_gpu(MEASURED_GPUS[0]), "vllm", store, said).estimate(OPERATION, QUESTIONS).value.tolist()


def test_the_second_waits_for_the_first_and_reads_its_forest(store: ProfileStore, cache: Path) -> None:
    expected = answer(store, Said())
    (folder,) = (cache / "forests").iterdir()
    said = Said()
    with ThreadPoolExecutor(1) as beside:
        with FileLock(cache / "locks" / f"{folder.name}.lock"):
            moved = folder.rename(cache / "elsewhere")
            second = beside.submit(answer, store, said)
            assert said.waits.wait(60)
            moved.rename(folder)  # the first has written it
        assert second.result() == expected
    assert said.words == ["another"]


def test_nobody_waits_for_ever(store: ProfileStore, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answer(store, Said())
    (folder,) = (cache / "forests").iterdir()
    moved = folder.rename(cache / "elsewhere")
    monkeypatch.setattr(on_disk, "_PATIENCE_S", 0.01)
    with FileLock(cache / "locks" / f"{folder.name}.lock"):  # a process that was stopped while it fitted
        said = Said()
        assert answer(store, said) == expected
    assert said.words == ["another", "learning"]
    assert moved.is_dir()


def test_where_nothing_can_be_locked_it_is_fitted(
    store: ProfileStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    said = Said()
    answer(store, said)
    assert said.words == ["learning"]
    assert len(list((cache / "forests").iterdir())) == 1
