"""One rank of a collective: ``python -m profiles.collect.rank_worker CONFIG``, started by profiles.collect.ranks.

Reads commands (JSON, one a line) from standard input, answers on standard output. Ends when its input closes: its
parent is gone, then, however it went.

Commands: ``setup`` (kind, dtype, message_bytes) makes the buffers and captures a CUDA graph where possible;
``check`` runs it on known numbers; ``time`` (repeats, runs) → µs a run, a number a repeat; ``run`` once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import Any, TextIO

_BEAT_S = 1.0


def main() -> None:
    config = json.loads(sys.argv[1])
    # Libraries print to standard output as they like (NCCL_DEBUG): it becomes standard error, ours a private copy.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    mouth = _Mouth(answers)
    threading.Thread(target=mouth.beat, daemon=True).start()

    from profiles.collect.operations.collective_calls import Rank  # imports torch, which takes seconds

    rank = Rank(**config)
    mouth.say({"version": rank.version})
    while True:
        command = commands.get()
        try:
            mouth.say(rank.do(command))
        except Exception as error:
            mouth.say({"error": f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"})


def _listen(commands: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(0)  # from a thread: the main one may be in a collective that never ends


class _Mouth:
    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._lock = threading.Lock()

    def say(self, answer: dict[str, Any]) -> None:
        self._write(json.dumps(answer))

    def _write(self, line: str) -> None:
        with self._lock:
            try:
                self._answers.write(line + "\n")
                self._answers.flush()
            except BrokenPipeError:
                os._exit(0)

    def beat(self) -> None:
        while True:
            time.sleep(_BEAT_S)
            self._write("")


if __name__ == "__main__":
    main()
