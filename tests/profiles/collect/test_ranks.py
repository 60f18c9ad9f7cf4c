"""Real gloo ranks: they answer, they die and are noticed, and none is ever left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from profiles.collect.ranks import RankDied, RankGroup

pytest.importorskip("torch")

_SETUP = {"do": "setup", "kind": "all_reduce", "dtype": "fp32", "message_bytes": 4096}
_LONG = {"do": "time", "repeats": 10**6, "runs": 10}


def _pids(group: RankGroup) -> list[int]:
    return [rank.process.pid for rank in group._ranks]


def _gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether the process ends in time; a zombie counts as there."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def test_a_killed_rank_is_named_all_are_ended_and_the_group_can_start_again() -> None:
    with RankGroup(2, "gloo") as group:
        assert [answer["graphs"] for answer in group.call(_SETUP, 60)] == [False, False]
        pids = _pids(group)
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(RankDied, match="rank 1 of 2 ended during 'time' by SIGKILL") as raised:
            group.call(_LONG, 60)
        assert (raised.value.rank, raised.value.signal, raised.value.ended_with) == (1, signal.SIGKILL, None)
        assert not group.running
        assert all(_gone(pid, 0.5) for pid in pids)
        group.call(_SETUP, 60)
        times = [answer["us"] for answer in group.call({"do": "time", "repeats": 3, "runs": 2}, 60)]
        assert [len(each) for each in times] == [3, 3]
        pids = _pids(group)
    assert all(_gone(pid, 0.5) for pid in pids)
    group.close()  # twice does no harm


def test_a_rank_that_hangs_is_noticed_by_its_silence() -> None:
    with RankGroup(2, "gloo", silent_s=3.0) as group:
        group.call(_SETUP, 60)
        pids = _pids(group)
        os.kill(pids[0], signal.SIGSTOP)
        with pytest.raises(RankDied, match="rank 0 of 2 gave no sign of life for 3 s during 'time'"):
            group.call(_LONG, 60)
        assert all(_gone(pid, 0.5) for pid in pids)


@pytest.mark.slow
def test_what_takes_too_long_is_ended() -> None:
    with RankGroup(2, "gloo") as group:
        group.call(_SETUP, 60)
        with pytest.raises(RankDied, match="rank 0 of 2 did not finish 'time' in 1 s"):
            group.call(_LONG, 1.0)
        assert not group.running


def test_a_rank_that_cannot_start_tells_its_last_words() -> None:
    group = RankGroup(2, "carrier_pigeon")  # type: ignore[arg-type]
    with pytest.raises(RankDied, match=r"(?i)with exit code 1; its last words: .*carrier_pigeon") as raised:
        group.start()
    assert raised.value.ended_with == 1
    assert raised.value.stderr_lines
    assert not group.running


def test_an_error_of_all_ranks_is_an_answer_and_they_live_on() -> None:
    with RankGroup(2, "gloo") as group:
        pids = _pids(group)
        for answer in group.call({**_SETUP, "kind": "broadcast_to_nobody"}, 60):
            assert answer["error"] == "ValueError: collective 'broadcast_to_nobody' is not known"
        group.call(_SETUP, 60)
        assert _pids(group) == pids


@pytest.mark.parametrize(
    "end",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL],
    ids=lambda end: end.name,
)
def test_ranks_end_with_their_parent_however_it_goes(end: signal.Signals) -> None:
    program = (
        "from profiles.collect.ranks import RankGroup\n"
        "group = RankGroup(2, 'gloo')\n"
        f"group.call({_SETUP!r}, 60)\n"
        "print(*(rank.process.pid for rank in group._ranks), flush=True)\n"
        f"group.call({_LONG!r}, 600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.5)
        parent.send_signal(end)
        parent.wait(20)
        assert all(_gone(pid) for pid in pids)
