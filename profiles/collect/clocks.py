"""Locks a GPU's SM clock for a while, where the user asks for it and may: ``plan profile collect --clocks``.

What was there comes back however the run ends: a process of its own waits for the end of a pipe that only the run
holds open, and unlocks then. A GPU whose clocks somebody has set already is left alone."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

from profiles.errors import InputError
from profiles.values import shown, whole

PROGRAM = "nvidia-smi"
_TIMEOUT_S = 30
SET_BY_SOMEBODY = "applications_clocks_setting"
"""Why clocks are low, as the driver says where they were set."""


def parse_clocks(text: str, device: str) -> tuple[int, ...]:
    """``1980,1500,1100`` (MHz) of a ``device``, highest first.

    Raises:
        InputError: no numbers, fewer than two (one clock tells no response), or of a device that is no GPU.
    """
    if device != "cuda":
        raise InputError(
            f"--clocks: the clocks of --device {shown(device)} are not set, only those of NVIDIA's GPUs",
            "leave --clocks out, or give --device cuda",
        )
    found = []
    for word in text.split(","):
        mhz = whole(word.strip().casefold().removesuffix("mhz").strip())
        if mhz is None or mhz <= 0:
            raise InputError(f"--clocks: {shown(word.strip())} is no clock in MHz", "write them as 1980,1500,1100")
        found.append(mhz)
    clocks = tuple(sorted(dict.fromkeys(found), reverse=True))
    if len(clocks) < 2:
        raise InputError(
            f"--clocks: {clocks[0]} alone tells no response", "give two clocks at least, the highest among them"
        )
    return clocks


class ClockLock:
    """Locks the clock of one GPU, by the driver's number (or UUID) of it, while it is entered.

    Raises (entering, :meth:`set`):
        InputError: there is no ``nvidia-smi``, somebody has set the clocks already, or the user may not.
    """

    def __init__(self, which: str, name: str, throttle: tuple[str, ...] = ()) -> None:
        self.which, self.name = which, name
        self._set_already = SET_BY_SOMEBODY in throttle
        self._locked = False
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ClockLock:
        if self._set_already:
            raise InputError(
                f"--clocks: the clocks of {self.name} are set already, and the driver does not tell to what",
                "reset them first (nvidia-smi -rgc, -rac), or leave --clocks out",
            )
        command = [sys.executable, "-m", "profiles.collect.clocks", self.which]
        # A session of its own: Ctrl-C and a kill of the group end the run and not the guard.
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def set(self, mhz: int) -> None:
        """Locks the clock at ``mhz``."""
        said = _nvidia_smi(self.which, f"--lock-gpu-clocks={mhz},{mhz}")
        if said is not None:
            raise InputError(
                f"--clocks: {self.name} is not set to {mhz} MHz: {said}",
                "setting clocks needs root on a machine that is your own; leave --clocks out to measure it as it is",
            )
        self._locked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None
        guard.stdin.close()
        if guard.wait(_TIMEOUT_S + 10) != 0 and self._locked:
            print(f"the clocks of {self.name} are not reset: run nvidia-smi -i {self.which} -rgc", file=sys.stderr)


def _nvidia_smi(which: str, argument: str) -> str | None:
    """None, or why it did not do it."""
    try:
        ran = subprocess.run(
            [PROGRAM, f"--id={which}", argument], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return f"there is no {PROGRAM} here"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{PROGRAM} does not answer ({type(error).__name__})"
    if ran.returncode == 0:
        return None
    lines = [line.strip() for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
    return shown(lines[0] if lines else f"{PROGRAM} ended with {ran.returncode}")


def guard(which: str) -> int:
    """Waits for the end of standard input, then unlocks; 1 where that failed."""
    sys.stdin.buffer.read()
    return 0 if _nvidia_smi(which, "--reset-gpu-clocks") is None else 1


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1]))
