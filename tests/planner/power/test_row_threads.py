"""The row's loop as machine code, and replicates of it on several threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.power import threads
from planner.power.judge import Days, Judge
from planner.power.policy import none
from planner.power.request import parse_power_request
from planner.power.simulator import RowModel, chance_of, simulate
from planner.power.stress import cases
from planner.power.traffic import stretch

PROGRAM = """
import sys
from planner.power.request import parse_power_request
from planner.power.row import row_of
from planner.kinds import KINDS
row, met = row_of(parse_power_request(KINDS["power"].request_example()))
print(met.peak, "numba" in sys.modules)
"""


@pytest.mark.slow
def test_a_process_that_finds_the_loop_needs_no_compiler() -> None:
    def said() -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
        ).stdout.split()

    first = said()  # kept now, if it was not
    assert said() == [first[0], "False"]


@pytest.mark.parametrize("cores", [1, 3])
def test_replicates_come_in_order_whoever_ran_them(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = None if cores == 1 else ThreadPoolExecutor(cores)
    monkeypatch.setattr(threads, "_pool", lambda: (pool, cores))
    assert list(threads.in_order(lambda each: each * each, range(100))) == [each * each for each in range(100)]


def test_many_threads_run_the_same_row(row: RowModel) -> None:
    assert row.load is not None
    requests = row.requests(stretch(row.load, 12, 0, 1, 50_400, "exponential"))

    def run(_: int) -> bytes:
        return bytes(simulate(row, none(), 10, requests, chance_of(0, 0), 1200).watts.tobytes())

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(run, range(32)))) == 1


def test_what_happens_otherwise_is_judged_on_the_same_stretches(row: RowModel, fields: dict[str, Any]) -> None:
    usual = Judge(row, parse_power_request(fields), Days(screened=5, whole=1), by_value=True, at_most=8)
    changed = next(changed for case, changed, _ in cases(row) if case.startswith("power 10 %"))
    alone = replace(usual, row=changed, _stretches={}, _slots=[]).verdict(none(), 8)
    shared = usual.like(changed).verdict(none(), 8)
    assert np.array_equal(alone.peaks, shared.peaks)
    assert alone.impact == shared.impact
