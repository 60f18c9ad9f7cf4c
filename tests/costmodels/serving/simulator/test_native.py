"""The compiled loop as it is kept on disk."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any

import numpy as np
import pytest

from costmodels.native import kept
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.simulator.arrivals import open_loop
from costmodels.serving.simulator.compiled import native
from costmodels.serving.simulator.events import Engine, Overheads, load_loop, simulate
from tests.costmodels.naive_simulator import constant_table, rising_table

PROGRAM = """
import sys
from tests.costmodels.serving.simulator.test_native import outcome
print(outcome(), "numba" in sys.modules)
"""


def outcome() -> list[float]:
    engine = Engine(constant_table(1000.0), find_framework("vllm").scheduler, 10_000, 64, 8, overheads=Overheads())
    load = open_loop(np.full(300, 64), np.full(300, 5), 300.0, seed=1)
    return [float(x) for x in np.percentile(simulate(engine, load).finish_us, [1, 50, 99])]


def test_what_is_loaded_once_plays_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    load_loop()
    monkeypatch.setattr(native._LOOP, "_found", None)  # what is not loaded yet cannot be
    for ranks, stages, queries in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 4)):
        table = rising_table(3, ranks, stages, queries)
        engine = Engine(table, find_framework("sglang").scheduler, 10_000, 64, 8, overheads=Overheads())
        assert len(simulate(engine, open_loop(np.full(30, 64), np.full(30, 5), 300.0, seed=1))) == 30


def test_a_process_that_finds_it_needs_no_compiler() -> None:
    here = outcome()  # kept now, if it was not
    child = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == f"{here} False"


def test_what_was_kept_is_whole_or_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")  # where nothing can be kept
    kept._keep([tmp_path / "a file" / "x", tmp_path / "kept"], "loop.o", "symbol", b"\x00code\n\xff")
    (file,) = (tmp_path / "kept").iterdir()
    assert kept._intact(file.read_bytes()) == ("symbol", b"\x00code\n\xff")
    whole = file.read_bytes()
    for spoiled in (b"", whole[:-1], whole[1:], whole.replace(b"code", b"c0de"), b"\n", b"\x00" * 100):
        assert kept._intact(spoiled) is None


def test_nothing_is_kept_where_nothing_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept._keep([tmp_path / "file"], "loop.o", "symbol", b"code")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_many_samples_are_all_there() -> None:
    """More than there is room for at first: the loop goes on where it was."""
    engine = Engine(constant_table(1000.0), find_framework("vllm").scheduler, 10_000, 64, 8, overheads=Overheads())
    load = open_loop(np.full(300, 64), np.full(300, 5), 300.0, seed=1)
    few, many = simulate(engine, load, sample_us=1e6), simulate(engine, load, sample_us=1e3)
    assert len(many.timeline) > 4 * native._SAMPLES > len(few.timeline)
    assert (np.diff(many.timeline[:, 0]) > 0).all()
    assert (few.finish_us == many.finish_us).all()
    assert few.steps == many.steps


def test_what_does_not_lie_in_a_row_is_not_handed_over() -> None:
    with pytest.raises(ValueError, match="one after the other"):
        kept._form([1, np.zeros((4, 4))[:, ::2]])


def test_threads_that_come_at_once_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is put in the place of another takes its machine code from under those that run it."""
    both, loaded, got = Barrier(2, timeout=0.2), [], []

    def found(form: str, arguments: tuple[Any, ...]) -> tuple[Any, object]:
        with suppress(BrokenBarrierError):
            both.wait()  # passed where two were let in
        loaded.append(form)
        return len(loaded), object()

    loop = kept.Loop("loop", [], lambda: len)
    monkeypatch.setattr(loop, "_found", found)
    threads = [Thread(target=lambda: got.append(loop._for("a form", ()))) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert loaded == ["a form"]
    assert got == [1, 1]
