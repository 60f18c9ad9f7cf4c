"""Shell scripts that start, stop and ask the engines of one node: POSIX, as any user, programs found through PATH."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.exports.text import comments
from planner.launchers.front import NodeStart
from planner.launchers.vendors import find_vendor
from planner.launchers.words import for_shell, shell_lines

HERE = "HERE"
"""The variable that holds a script's own folder."""

PROLOGUE = 'set -eu\nHERE=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)\n'


@dataclass(frozen=True)
class Process:
    """One process of a node. ``name``: of its log; ``gpus``: that it may see, None: it needs none; ``vendor``: of
    them."""

    name: str
    start: NodeStart
    gpus: Sequence[int] | None
    port: int
    vendor: str = "nvidia"

    def environment(self) -> dict[str, str]:
        seen = {} if self.gpus is None else find_vendor(self.vendor).seeing(self.gpus)
        return {**seen, **self.start.environment}


def exports(environment: Mapping[str, str], indent: str = "") -> str:
    return "".join(f"{indent}export {name}={for_shell(value)}\n" for name, value in environment.items())


def background(process: Process, logs: str = '"$HERE"/logs') -> str:
    """Starts a process in the background, its output in a log, its number in a file beside that."""
    name = for_shell(process.name)
    before = "".join(f"{key}={for_shell(value)} \\\n  " for key, value in process.environment().items())
    command = f"{before}{shell_lines(process.start.command, '  ')}"
    return f"# {process.name}\n{command} \\\n  >{logs}/{name}.log 2>&1 &\necho $! >{logs}/{name}.pid\n"


def start_script(processes: Sequence[Process], told: Sequence[str], title: str) -> str:
    head = comments([title, *told])
    body = "\n".join(background(process) for process in processes)
    ready = '# shellcheck source=/dev/null\n. "$HERE"/environment\nmkdir -p "$HERE"/logs\n'
    return f"#!/bin/sh\n{head}{PROLOGUE}{ready}\n{body}"


def stop_script(processes: Sequence[Process], title: str) -> str:
    names = " ".join(for_shell(process.name) for process in processes)
    return (
        f"#!/bin/sh\n{comments([title])}{PROLOGUE}"
        f'set -- {names}\nfor name in "$@"; do\n'
        '  if [ -f "$HERE/logs/$name.pid" ]; then\n'
        '    kill "$(cat "$HERE/logs/$name.pid")" 2>/dev/null || true\n'
        '    rm -f "$HERE/logs/$name.pid"\n  fi\ndone\n'
    )


def ready_script(processes: Sequence[Process], title: str, host: str = "127.0.0.1") -> str:
    """Exits with 0 once every server of the node answers, with 1 where one does not within the seconds given."""
    urls = [f"http://{host}:{process.port}{process.start.ready}" for process in processes if process.start.ready]
    head = f"#!/bin/sh\n{comments([title, 'usage: ready.sh [SECONDS TO WAIT]'])}set -eu\n"
    if not urls:
        return f"{head}exit 0  # no server listens on this node: its engines are led by others\n"
    return (
        f'{head}left=${{1:-1800}}\nset -- {" ".join(map(for_shell, urls))}\nfor url in "$@"; do\n'
        '  until curl -sf -o /dev/null "$url"; do\n    if [ "$left" -le 0 ]; then\n'
        '      echo "$url does not answer" >&2\n      exit 1\n    fi\n    sleep 2\n'
        "    left=$((left - 2))\n  done\ndone\n"
    )


def environment_file(told: Sequence[str], values: Mapping[str, str]) -> str:
    """What all processes of a node share; a place for what the user adds."""
    return comments(["read by start.sh before it starts anything; add what your cluster needs", *told]) + exports(
        values
    )
