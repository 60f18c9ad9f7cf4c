"""Whether hints work: ``python -m tests.benchmarks.hints [--only N …]``.

Each refused command of ``hints.yaml`` is run as a user would run it, every way that its hint names with a figure is
followed to the letter, one at a time, and the changed command is run: a way is wrong where that is refused, too. A hint
without a figure (another framework, a misspelt option) is told apart: there is nothing to follow to the letter.
``costmodels/evidence/hints.json`` has every hint, its ways, and the CPU-seconds that each refusal took.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from api.cli.main import main as plan_command
from tests.benchmarks.cards import write

REQUESTS = Path(__file__).with_suffix(".yaml")
REFUSED = (2, 3)
LIMIT_S = 30.0
"""CPU-seconds that no refusal may take."""

LIMITS = r"(?:[a-z0-9_]+ to [0-9.]+ ms(?: and )?)+"


def ran(command: str) -> tuple[int, str, float]:
    """(exit code, what it says on standard error, CPU-seconds) of a ``plan`` command."""
    errors, begun = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = plan_command(shlex.split(command))
    return code, errors.getvalue(), time.process_time() - begun


def with_option(command: str, option: str, value: str) -> str:
    """The command with another value of an option."""
    words = shlex.split(command)
    if option in words:
        words[words.index(option) + 1] = value
    else:
        words += [option, value]
    return shlex.join(words)


def option_of(command: str, option: str) -> str:
    words = shlex.split(command)
    return words[words.index(option) + 1]


def with_part(command: str, option: str, name: str, value: str) -> str:
    """The command with another value of one part of an option, as ``rate=`` of ``--workload``."""
    parts = dict(part.split("=", 1) for part in option_of(command, option).split(","))
    key = name if name in parts else name.removesuffix("_p90")  # 90 is what nobody needs to say
    return with_option(command, option, ",".join(f"{k}={v}" for k, v in {**parts, key: value}.items()))


def with_gpus(command: str, pool: str, gpus: str) -> str:
    """The command with so many GPUs of a pool, which goes by the full name of its GPU."""
    pools = option_of(command, "--cluster").split("+")
    wider = [f"{gpus}x{each.split('x')[-1]}" if pool.startswith(each.split("x")[-1]) else each for each in pools]
    return with_option(command, "--cluster", "+".join(wider))


def ways(command: str, hint: str) -> Iterator[str]:
    """The command changed as the hint says, one for each way that it names."""
    for found in re.finditer(rf"relax ({LIMITS})(?:offer at most ([0-9.e+-]+) requests/s)?", hint):
        changed = command
        for label, ms in re.findall(r"([a-z0-9_]+) to ([0-9.]+) ms", found[1]):
            changed = with_part(changed, "--slo", label, f"{ms}ms")
        yield with_part(changed, "--workload", "rate", found[2]) if found[2] else changed
    for rate in re.findall(r"(?<!and )offer at most ([0-9.e+-]+) requests/s", hint):
        yield with_part(command, "--workload", "rate", rate)
    for gpus, pool in re.findall(r"([0-9,]+) (?:GPUs of pool |× |(?=\S+ would do))([A-Z][A-Za-z0-9-]+)", hint):
        yield with_gpus(command, pool, gpus.replace(",", ""))
    for watts in re.findall(r"allow ([0-9,]+) W", hint):
        yield with_option(command, "--budget-watts", watts.replace(",", ""))
    for length in re.findall(r"give at most ([0-9]+), or leave it out", hint):
        yield with_option(command, "--max-model-len", length)
    for users in re.findall(r"concurrency=([0-9]+)", hint):
        yield with_part(command, "--workload", "concurrency", users)


def judged(command: str) -> dict[str, Any]:
    """What a refused command says, and whether each way that it names works."""
    code, said, cpu_s = ran(command)
    hint = " ".join(re.findall(r"^hint: (.*)$", said, re.MULTILINE))
    followed = {}
    for way in ways(command, hint):
        then, why, _ = ran(way)
        followed[way] = "works" if then == 0 else why.strip()
    return {"asked": command, "exit": code, "cpu_s": round(cpu_s, 1), "hint": hint, "ways": followed}


def summed(rows: list[dict[str, Any]], of: int) -> dict[str, Any]:
    """The evidence: counts, and every row."""
    every = [said for row in rows for said in row["ways"].values()]
    return {
        "requests": len(rows),
        "of": of,
        "refused": sum(row["exit"] in REFUSED for row in rows),
        "with_a_figure": sum(bool(row["ways"]) for row in rows),
        "ways": len(every),
        "wrong": sum(said != "works" for said in every),
        "over_30_cpu_s": sum(row["cpu_s"] > LIMIT_S for row in rows),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="*", help="lines of hints.yaml, from 0; writes nothing")
    only = parser.parse_args().only
    commands = yaml.safe_load(REQUESTS.read_text(encoding="utf-8"))
    rows = []
    for number, command in enumerate(commands):
        if only is not None and number not in only:
            continue
        row = judged(command)
        rows.append(row)
        print(number, row["exit"], row["cpu_s"], row["hint"], list(row["ways"].values()), flush=True)
        if only is None:
            write("hints", summed(rows, len(commands)))
    print({key: value for key, value in summed(rows, len(commands)).items() if key != "rows"})


if __name__ == "__main__":
    main()
