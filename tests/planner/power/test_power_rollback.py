"""What ``apply.sh`` finds, ``rollback.sh`` restores: bash with a stand-in for nvidia-smi that keeps what it is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from planner.power.document import PowerPlan
from planner.power.exports import files

STAND_IN = r"""#!/usr/bin/env bash
# Two GPUs in $BOARD: limit-N, clocks-N, set-N. Dies at the call $DIES_AT of those that set something.
echo "$*" >> "$CALLS"
ids='0 1' query=''
name() { echo "GPU-aaaa-000$1"; }
for word in "$@"; do
  case "$word" in
  --id=GPU-aaaa-000*) ids=${word#--id=GPU-aaaa-000} ;;
  --id=*) ids=${word#--id=}; ids=${ids//,/ } ;;
  --query-gpu=*) query=${word#*=} ;;
  esac
done
if [ -z "$query" ]; then
  echo x >> "$BOARD/set"
  if [ "$(wc -l < "$BOARD/set")" = "${DIES_AT:-}" ]; then kill -9 "$PPID"; exit 1; fi
  if [ -n "${REFUSES:-}" ] && [ "$ids" = "$REFUSES" ]; then exit 4; fi
fi
for id in $ids; do
  for word in "$@"; do
    case "$word" in
    --lock-gpu-clocks=*) echo "${word#*=}" > "$BOARD/clocks-$id" ;;
    --reset-gpu-clocks) echo none > "$BOARD/clocks-$id" ;;
    --power-limit=*) printf '%.2f\n' "${word#*=}" > "$BOARD/limit-$id" ;;
    esac
  done
  case "$query" in
  uuid,index,power.limit,*) echo "$(name "$id"), $id, $(cat "$BOARD/limit-$id"), 1200, 1410" ;;
  uuid,index,power.limit) echo "$(name "$id"), $id, $(cat "$BOARD/limit-$id")" ;;
  clocks_throttle_reasons.*) cat "$BOARD/set-by-$id" ;;
  esac
done
"""


class Board:
    """A server of two GPUs whose power limits somebody has set to 350 and 375.5 W."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.board = folder, folder / "board"
        self.board.mkdir()
        (folder / "bin").mkdir()
        for name, text in {"nvidia-smi": STAND_IN, "id": "#!/bin/sh\necho 0\n"}.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for gpu, watts in enumerate(("350.00", "375.50")):
            (self.board / f"limit-{gpu}").write_text(watts + "\n")
            (self.board / f"clocks-{gpu}").write_text("none\n")
            (self.board / f"set-by-{gpu}").write_text("Not Active\n")

    @property
    def stands(self) -> list[tuple[str, str]]:
        """(power limit, locked clocks) of each GPU."""
        return [tuple((self.board / f"{what}-{i}").read_text().strip() for what in ("limit", "clocks")) for i in (0, 1)]  # type: ignore[misc]

    @property
    def kept(self) -> list[str]:
        return sorted(each.name for each in (self.folder / "found").glob("*"))

    def run(self, *words: str, **env: str) -> tuple[int, str]:
        (self.board / "set").write_text("")
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(self.folder / "calls"),
            "BOARD": str(self.board),
            **env,
        }
        done = subprocess.run(
            ["bash", str(self.folder / words[0]), *words[1:]],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


FOUND = [("350.00", "none"), ("375.50", "none")]
LEVEL = ("apply.sh", "2", "lp", "--power-limit", "300", "--apply")


@pytest.fixture
def board(plan: PowerPlan, tmp_path: Path) -> Board:
    for name, text in files(plan, "nvidia-smi").items():
        (tmp_path / name).write_text(text)
    return Board(tmp_path)


def test_what_stood_comes_back(board: Board) -> None:
    assert board.run(*LEVEL)[0] == 0
    assert board.stands == [("300.00", "210,810")] * 2
    assert board.kept == ["GPU-aaaa-0000", "GPU-aaaa-0001"]
    code, said = board.run("rollback.sh", "--apply")
    assert (code, board.stands, board.kept) == (0, FOUND, [])
    assert "something had set" not in said
    assert board.run("rollback.sh", "--apply")[0] == 0  # there is nothing left to do
    assert board.stands == FOUND


def test_a_second_apply_keeps_what_the_first_found(board: Board) -> None:
    for words in (
        LEVEL,
        ("apply.sh", "1", "lp", "--power-limit", "250", "--apply"),
        ("apply.sh", "0", "lp", "--apply"),
    ):
        assert board.run(*words)[0] == 0
    assert board.run("rollback.sh", "--apply")[0] == 0
    assert board.stands == FOUND


def test_only_gpus_that_were_set_are_rolled_back(board: Board) -> None:
    assert board.run("apply.sh", "2", "lp", "--gpus", "1", "--power-limit", "300", "--apply")[0] == 0
    (board.board / "limit-0").write_text("320.00\n")  # by somebody else
    code, said = board.run("rollback.sh", "--apply")
    assert (code, board.stands) == (0, [("320.00", "none"), FOUND[1]])
    assert "GPU 0: apply.sh has set nothing" in said


@pytest.mark.parametrize("at", range(1, 3))
def test_an_apply_that_is_killed_is_rolled_back(board: Board, at: int) -> None:
    assert board.run(*LEVEL, DIES_AT=str(at))[0] != 0
    assert board.run("rollback.sh", "--apply")[0] == 0
    assert (board.stands, board.kept) == (FOUND, [])


@pytest.mark.parametrize("at", range(1, 5))
def test_a_rollback_that_is_killed_is_run_again(board: Board, at: int) -> None:
    assert board.run(*LEVEL)[0] == 0
    assert board.run("rollback.sh", "--apply", DIES_AT=str(at))[0] != 0
    assert board.kept
    assert board.run("rollback.sh", "--apply")[0] == 0
    assert (board.stands, board.kept) == (FOUND, [])


def test_a_gpu_that_refuses_is_told_and_the_others_are_rolled_back(board: Board) -> None:
    assert board.run(*LEVEL)[0] == 0
    code, said = board.run("rollback.sh", "--apply", REFUSES="0")
    assert code == 1
    assert "GPU 0 is not rolled back" in said
    assert board.stands == [("300.00", "210,810"), FOUND[1]]
    assert board.kept == ["GPU-aaaa-0000"]


def test_clocks_that_were_set_before_are_told_and_can_be_given(board: Board) -> None:
    (board.board / "set-by-1").write_text("Active\n")
    assert "--clocks MIN,MAX" in board.run(*LEVEL)[1]
    said = board.run("rollback.sh")[1]
    assert "GPU 1: something had set its clocks" in said
    assert "GPU 0: something" not in said
    assert board.run("rollback.sh", "--clocks", "210,1200", "--apply")[0] == 0
    assert board.stands == [("350.00", "210,1200"), ("375.50", "210,1200")]


@pytest.mark.parametrize("words", ["210", "210,", ",1200", "1200,210", "a,b", "210,1300,1400", "10,1200", "210,9000"])
def test_clocks_that_cannot_be_set_are_refused(board: Board, words: str) -> None:
    assert board.run(*LEVEL)[0] == 0
    code, said = board.run("rollback.sh", "--clocks", words, "--apply")
    assert code == 2
    assert words in said
    assert board.kept


def test_a_dry_run_keeps_and_sets_nothing(board: Board) -> None:
    said = board.run("apply.sh", "2", "lp")[1]
    assert "keep in" in said
    assert (board.kept, board.stands) == ([], FOUND)
    assert board.run(*LEVEL)[0] == 0
    before = board.stands
    said = board.run("rollback.sh")[1]
    assert "--power-limit=350.00" in said
    assert (board.stands, len(board.kept)) == (before, 2)


def test_a_limit_that_is_not_told_is_left(board: Board) -> None:
    (board.board / "limit-0").write_text("[N/A]\n")
    assert board.run("apply.sh", "2", "lp", "--apply")[0] == 0
    code, said = board.run("rollback.sh", "--apply")
    assert (code, board.kept) == (0, [])
    assert "GPU 0: it told no power limit" in said


def test_a_file_of_another_form_is_not_restored(board: Board) -> None:
    (board.folder / "found").mkdir()
    (board.folder / "found" / "GPU-aaaa-0000").write_text("")
    (board.folder / "found" / "GPU-of-another-server").write_text("power_limit_watts=1\nkept=x\n")
    code, said = board.run("rollback.sh", "--apply")
    assert (code, board.stands, len(board.kept)) == (1, FOUND, 2)
    assert "not as apply.sh writes it" in said
    assert "GPU-of-another-server is kept, and of no GPU" in said


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has the real one")
def test_without_gpus_a_dry_run_says_what_is_kept(board: Board) -> None:
    assert board.run(*LEVEL)[0] == 0
    (board.folder / "bin" / "nvidia-smi").unlink()
    assert "GPU-aaaa-0001: power limit 375.50 W" in board.run("rollback.sh")[1]
    assert board.run("rollback.sh", "--apply")[0] != 0
    assert len(board.kept) == 2


def test_clocks_that_the_plan_locks_come_back(plan: PowerPlan, board: Board) -> None:
    can = plan.decision.settable[0].model_copy(update={"restore": 1200})
    locked = plan.model_copy(update={"decision": plan.decision.model_copy(update={"settable": (can,)})})
    for name, text in files(locked, "nvidia-smi").items():
        (board.folder / name).write_text(text)
    assert json.loads((board.folder / "plan.json").read_text())["settable"][0]["restore"] == 1200
    assert board.run(*LEVEL)[0] == 0
    assert board.run("rollback.sh", "--apply")[0] == 0
    assert board.stands == [("350.00", "210,1200"), ("375.50", "210,1200")]
