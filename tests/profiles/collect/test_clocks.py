"""Clocks that are locked for a measurement: a driver that is a script, which writes down what it is told."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from costmodels.power.own_response import response_of
from profiles.collect.clocked import check
from profiles.collect.clocks import ClockLock, parse_clocks
from profiles.collect.devices import Device
from profiles.collect.response import FILE, SHAPES, ResponsePoint, fitted, keep, points
from profiles.errors import DataError, InputError
from profiles.hardware import SHIPPED

H200 = SHIPPED.find_gpu("H200")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of what nvidia-smi was told; it refuses to lock where a file ``deny`` is beside it."""
    said, folder = tmp_path / "said", tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\ncase "$2" in --lock*) if [ -e {tmp_path}/deny ]; then '
        "echo 'The current user does not have permission to change clocks for GPU 0'; exit 4; fi ;; esac\n"
        f'echo "$@" >> {said}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return said


def device() -> Device:
    return Device("cuda", (0,), "NVIDIA H200", (9, 0), 132, 10**11, 10**7, {})


def test_the_clock_is_locked_in_turn_and_unlocked_at_the_end(driver: Path) -> None:
    with ClockLock("0", "H200") as lock:
        lock.set(1980)
        lock.set(1110)
    assert driver.read_text().splitlines() == [
        "--id=0 --lock-gpu-clocks=1980,1980",
        "--id=0 --lock-gpu-clocks=1110,1110",
        "--id=0 --reset-gpu-clocks",
    ]


def test_it_is_unlocked_where_the_measurement_fails(driver: Path) -> None:
    def measured() -> None:
        with ClockLock("0", "H200") as lock:
            lock.set(1110)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measured()
    assert driver.read_text().splitlines()[-1] == "--id=0 --reset-gpu-clocks"


def test_it_is_unlocked_when_the_run_is_killed(driver: Path) -> None:
    os.mkfifo(driver)
    ear = os.open(driver, os.O_RDWR)  # so that no writer waits for a reader
    code = "import os, signal\nfrom profiles.collect.clocks import ClockLock\n"
    code += "with ClockLock('0', 'H200') as lock:\n    lock.set(1110)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    ran = subprocess.run([sys.executable, "-c", code], check=False)
    assert ran.returncode == -9
    heard = ""
    while "--reset-gpu-clocks" not in heard:
        ready, _, _ = select.select([ear], [], [], 20)
        assert ready, f"never unlocked; heard {heard!r}"
        heard += os.read(ear, 4096).decode()
    os.close(ear)


def test_who_may_not_set_clocks_is_told_so(driver: Path, tmp_path: Path) -> None:
    (tmp_path / "deny").touch()
    with pytest.raises(InputError) as refused, ClockLock("0", "H200") as lock:
        lock.set(1110)
    assert "does not have permission" in refused.value.message
    assert "root" in refused.value.hint


def test_clocks_that_somebody_set_are_left_alone(driver: Path) -> None:
    with pytest.raises(InputError, match="set already"), ClockLock("0", "H200", ("applications_clocks_setting",)):
        pass
    assert not driver.exists()


@pytest.mark.parametrize("text", ["fast", "1980", "", "1980,-5", "1980;1500"])
def test_clocks_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--clocks"):
        parse_clocks(text, "cuda")


def test_clocks_are_read_highest_first() -> None:
    assert parse_clocks("1100, 1980MHz,1500,1500", "cuda") == (1980, 1500, 1100)


@pytest.mark.parametrize(
    ("clocks", "budget", "said"),
    [
        ((1980, 1501), 600, "between two steps of H200"),
        ((2500, 1500), 600, "outside what H200 can be set to"),
        ((1980, 1500), 60, "do not fit --budget"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_begins(clocks: tuple[int, ...], budget: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check(device(), H200, clocks, budget)


def test_a_cpu_is_refused() -> None:
    with pytest.raises(InputError, match="the clocks of --device 'cpu' are not set"):
        parse_clocks("1980,1500", "cpu")


def test_the_fit_finds_the_law_that_made_the_points_and_predictions_take_it(tmp_path: Path) -> None:
    law = {"prefill": (0.8, 1.4), "decode": (0.1, 0.6)}

    def at(phase: str, shape: tuple[int, int, int], mhz: int) -> ResponsePoint:
        clocked, exponent = law[phase]
        share = mhz / 1980
        time = 100.0 * shape[0] * (clocked / share + 1 - clocked)
        return ResponsePoint(phase, shape, mhz, time, 120 + 400 * share**exponent)

    found = points((1980, 1500, 1110), at)
    assert len(found) == 3 * sum(map(len, SHAPES.values()))
    fit = fitted(found, 120.0, 1980.0)
    keep(tmp_path, "H200", fit, found, "a test", "2026-11-26")
    keep(tmp_path, "H100-SXM", fit, found, "a test", "2026-11-26")  # what is there stays
    response = response_of("H200", [tmp_path])
    assert response.measured
    for phase, (clocked, exponent) in law.items():
        mine = getattr(response, phase)
        assert mine.clocked[0] == pytest.approx(clocked, abs=1e-3)
        assert mine.exponent[0] == pytest.approx(exponent, abs=1e-3)
        assert mine.clocked[1] < mine.clocked[0] < mine.clocked[2]
    assert response_of("B200", [tmp_path]) == response_of("B200", [])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"H200": {"prefill": {"clocked": [2, 1, 3]}}}')
    with pytest.raises(DataError, match="prefill"):
        response_of("H200", [tmp_path])
