"""``python -m tests.benchmarks.diff_plans [--write] [--only NAME …]``."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

# What views depend on beside the request; before anything of the command line is imported.
os.environ.update(COLUMNS="100", TERMINAL_WIDTH="100", TERM="dumb", NO_COLOR="1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.benchmarks import diff_plans
from tests.benchmarks.diff_plans import comparing, reach
from tests.benchmarks.diff_plans.asking import Answer, answers, read_grid, with_needed
from tests.benchmarks.diff_plans.seams import to_reach

KEPT = Path(__file__).parents[3] / ".diff_plans"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.diff_plans",
        description=diff_plans.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="make expected.json anew from this code")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these requests, and what they read; reach is not checked")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=1, help="processes")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of full documents (default: %(default)s)")
    given = parser.parse_args()
    grid = read_grid()
    if unknown := sorted(set(given.only or ()) - {request.name for request in grid}):
        parser.error(f"--only: no request is called {', '.join(unknown)}; there are {', '.join(r.name for r in grid)}")
    asked = with_needed(grid, given.only) if given.only else grid
    found = {answer.request.name: answer for answer in answers(asked, given.workers)}
    found = {request.name: found[request.name] for request in asked}
    complete = bool(given.only) or _reached(found)
    made_with, old = comparing.read_expected()
    new = {name: comparing.record(answer) for name, answer in found.items()}
    kept = comparing.Kept(given.kept)
    moved = comparing.changes({name: old[name] for name in old if not given.only or name in new}, new)
    _show(moved, found, kept)
    for answer in found.values():
        for text in comparing.texts(answer).values():
            kept.keep(text)
    _summary(len(found), len({change.request for change in moved}), made_with if moved else {})
    if not given.write:
        return 0 if complete and not moved else 1
    if not complete:
        print("nothing is written: a grid that misses something is no baseline")
        return 1
    comparing.write_expected({request.name: new.get(request.name) or old[request.name] for request in grid if request.name in {**old, **new}})
    print(f"wrote {comparing.EXPECTED}")
    return 0


def _reached(found: Mapping[str, Answer]) -> bool:
    """Prints what was reached; whether that is everything."""
    wanted, got = to_reach(), reach.reached(found.values())
    for dimension, names in wanted.items():
        print(f"{dimension:18} {len(names & got.get(dimension, set()))} of {len(names)}: {', '.join(sorted(names))}")
    left = reach.missing(wanted, got)
    for dimension, names in left.items():
        print(f"NOT REACHED: {dimension} {', '.join(names)}; add a request to requests.yaml that does")
    return not left


def _show(moved: list[comparing.Change], found: Mapping[str, Answer], kept: comparing.Kept) -> None:
    for change in moved:
        print(f"{change.request}: {change.key}: {comparing.shown(change.old)} → {comparing.shown(change.new)}")
        if not change.key.startswith("sha256.") or None in (change.old, change.new):
            continue
        name = change.key.removeprefix("sha256.")
        before = kept.find(change.old)
        if before is None:
            print(f"    {kept.folder} has not the old one: run the old state there once to see where they differ")
            continue
        after = comparing.texts(found[change.request])[name]
        for line in comparing.differing(before, after, name == "document"):
            print(f"    {line}")


def _summary(requests: int, moved: int, made_with: Mapping[str, str]) -> None:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(use.ru_utime + use.ru_stime for use in uses)
    print(f"{requests} requests, {moved or 'none'} moved; {seconds:.0f} CPU-seconds")
    here = comparing.made_with()
    for name in (name for name in made_with if made_with[name] != here[name]):
        print(f"note: the old answers were made with {name} {made_with[name]}, these with {here[name]}")


if __name__ == "__main__":
    sys.exit(main())
