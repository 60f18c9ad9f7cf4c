"""Rank processes for collectives: launched here, supervised, and never left behind.

Each rank is ``python -m profiles.collect.rank_worker`` in a session of its own, so that Ctrl-C reaches us and not them.
Commands go to its standard input and answers come from its standard output, one JSON object a line; a blank line is a
sign of life. A rank ends by itself when its input closes, whatever becomes of this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from profiles.errors import ShardwrightError

Backend = Literal["gloo", "nccl"]
Answer = dict[str, Any]

SILENT_S = 20.0
"""Without a sign of life for so long (ranks give one a second), a rank is taken for hung."""
_STDERR_LINES = 5
_END_S = 2.0
_GRACE_S = 5.0
"""What the other ranks may take to answer once one has raised: mostly they wait for it, in vain."""


class RankDied(ShardwrightError):
    """A rank of a collective ended, hung or raised; all its peers were killed.

    Attributes:
        rank: which of them.
        ended_with: its exit code; None where it ended by a signal or has not ended.
        signal: the signal that ended it; None otherwise.
        stderr_lines: the last that it wrote.
    """

    title = "A rank died"

    def __init__(
        self,
        rank: int,
        what: str,
        *,
        ended_with: int | None = None,
        signal: int | None = None,
        stderr_lines: Sequence[str] = (),
    ) -> None:
        said = f"; its last words: {' | '.join(stderr_lines)}" if stderr_lines else ""
        super().__init__(
            f"rank {rank} {what}{said}",
            "the other ranks were ended; the next collective starts new ones",
            rank=rank,
        )
        self.rank = rank
        self.ended_with = ended_with
        self.signal = signal
        self.stderr_lines = tuple(stderr_lines)


class RankGroup:
    """``size`` ranks of one process group on this machine.

    Args:
        size: ranks, at least 2.
        backend: ``nccl`` (rank i on CUDA device ``devices[i]``) or ``gloo`` (CPUs).
        devices: CUDA numbers, for ``nccl``.
        start_s: seconds that the ranks may take to start and find each other.
        silent_s: as :data:`SILENT_S`.
    """

    def __init__(
        self,
        size: int,
        backend: Backend,
        *,
        devices: Sequence[int] = (),
        start_s: float = 180.0,
        silent_s: float = SILENT_S,
    ) -> None:
        self.size = size
        self.backend: Backend = backend
        self._devices = list(devices)
        self._start_s = start_s
        self._silent_s = silent_s
        self._ranks: list[_Rank] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def running(self) -> bool:
        return bool(self._ranks)

    def start(self) -> list[Answer]:
        """Starts the ranks; returns what each says of itself (``version``). Does nothing where they run.

        Raises:
            RankDied: one of them did not come up.
        """
        if self.running:
            return []
        atexit.register(self.close)
        self._folder = tempfile.TemporaryDirectory(prefix="shardwright-ranks-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        try:
            for rank in range(self.size):
                self._ranks.append(_Rank(rank, self._config(rank, folder), folder))
            return self._answers(self._start_s, "start", silent_s=self._start_s)
        except BaseException:
            self.kill()
            raise

    def _config(self, rank: int, folder: Path) -> dict[str, Any]:
        return {
            "rank": rank,
            "size": self.size,
            "backend": self.backend,
            "device": self._devices[rank] if self._devices else None,
            "store": str(folder / "store"),
            "threads": max(1, (os.cpu_count() or 1) // self.size),
            "timeout_s": self._start_s,
        }

    def call(self, command: Answer, timeout_s: float) -> list[Answer]:
        """Sends ``command`` to all ranks (starting them first) and returns their answers in rank order. An answer
        with the key ``error`` is a rank's own account of what went wrong; its process lives on.

        Raises:
            RankDied: a rank ended or hung, or not all answered in ``timeout_s``. All ranks are ended then, and the
                next call starts new ones.
        """
        self.start()
        try:
            for rank in self._ranks:
                rank.send(command)
            return self._answers(timeout_s, str(command.get("do", "command")), silent_s=self._silent_s)
        except BaseException:  # Ctrl-C too: ranks in the middle of a collective cannot be used again
            self.kill()
            raise

    def _answers(self, timeout_s: float, doing: str, silent_s: float) -> list[Answer]:
        began = time.monotonic()
        answers: dict[int, Answer] = {}
        with selectors.DefaultSelector() as selector:
            for rank in self._ranks:
                rank.seen = began
                selector.register(rank.output, selectors.EVENT_READ, rank)
            while len(answers) < self.size:
                for key, _ in selector.select(timeout=0.2):
                    rank = key.data
                    for answer in rank.receive():
                        answers[rank.number] = answer
                        rank.seen_answer = time.monotonic()
                self._check(answers, time.monotonic() - began, timeout_s, doing, silent_s)
        return [answers[number] for number in range(self.size)]

    def _check(
        self, answers: dict[int, Answer], elapsed_s: float, timeout_s: float, doing: str, silent_s: float
    ) -> None:
        """Raises RankDied for the first rank whose silence cannot be explained by another's death."""
        if len(answers) == self.size:
            return
        # A signal is a cause; a peer's error exit may only be its consequence.
        ended = [rank for rank in self._ranks if rank.ended]
        if ended:
            raise min(ended, key=lambda rank: rank.process.returncode >= 0).died(
                f"of {self.size} ended during {doing!r}"
            )
        for rank in self._ranks:
            silence_s = time.monotonic() - rank.seen
            if rank.number not in answers and silence_s > silent_s:
                raise rank.died(f"of {self.size} gave no sign of life for {silence_s:.0f} s during {doing!r}")
        raised = next((number for number, answer in answers.items() if "error" in answer), None)
        if raised is not None and time.monotonic() - self._ranks[raised].seen_answer > _GRACE_S:
            raise self._ranks[raised].died(f"of {self.size} raised during {doing!r}: {answers[raised]['error']}")
        if elapsed_s > timeout_s:
            late = next(rank for rank in self._ranks if rank.number not in answers)
            raise late.died(f"of {self.size} did not finish {doing!r} in {timeout_s:.0f} s")

    def close(self) -> None:
        """Ends the ranks, kindly first. Can be called at any time and twice; the group can be started again."""
        for rank in self._ranks:
            rank.hang_up()
        until = time.monotonic() + _END_S
        for rank in self._ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                rank.process.wait(max(until - time.monotonic(), 0.01))
        self.kill()

    def kill(self) -> None:
        """Ends the ranks at once and waits for them, so that none is left as a zombie."""
        ranks, self._ranks = self._ranks, []
        for rank in ranks:
            rank.kill()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        atexit.unregister(self.close)

    def __enter__(self) -> RankGroup:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Rank:
    """One process, its pipes and its error log."""

    def __init__(self, number: int, config: dict[str, Any], folder: Path) -> None:
        self.number = number
        self.seen = self.seen_answer = time.monotonic()
        self._log = folder / f"rank-{number}.log"
        self._buffer = b""
        root = str(Path(__file__).resolve().parents[2])
        others = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{others}" if others else root}
        if sys.platform == "linux":  # ranks of one machine meet on its loopback, whatever its host name resolves to
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "profiles.collect.rank_worker", json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        os.set_blocking(self.output.fileno(), False)

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, command: Answer) -> None:
        assert self.process.stdin is not None
        # A rank that has ended cannot be written to; _check says so with its exit code.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> list[Answer]:
        """Answers that have come; none at the end of the output."""
        chunk = self.output.read(1 << 16)
        if not chunk:
            with contextlib.suppress(subprocess.TimeoutExpired):  # the output is closed a moment before the end
                self.process.wait(_END_S)
            return []
        self.seen = time.monotonic()
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [json.loads(line) for line in lines if line]

    def died(self, what: str) -> RankDied:
        code = self.process.poll()
        by = None if code is None or code >= 0 else -code
        name = next((each.name for each in signal.Signals if each == by), f"signal {by}")
        how = "" if code is None else f" by {name}" if by else f" with exit code {code}"
        return RankDied(
            self.number,
            what + how,
            ended_with=code if by is None else None,
            signal=by,
            stderr_lines=self._last_lines(),
        )

    def _last_lines(self) -> list[str]:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [line.strip() for line in lines if line.strip()][-_STDERR_LINES:]

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def kill(self) -> None:
        self.hang_up()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.output.close()
