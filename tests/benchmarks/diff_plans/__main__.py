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
    given = _arguments()
    grid = read_grid()
    if unknown := sorted(set(given.only or ()) - {request.name for request in grid}):
        print(f"no request is called {', '.join(unknown)}; there are {', '.join(request.name for request in grid)}")
        return 2
    asked = with_needed(grid, given.only) if given.only else grid
    answered = {answer.request.name: answer for answer in answers(asked, given.workers)}
    found = {request.name: answered[request.name] for request in asked}
    complete = given.only is not None or _reached(found)

    made_with, old = comparing.read_expected()
    new = {name: comparing.record(answer) for name, answer in found.items()}
    moved = comparing.changes(old if given.only is None else {name: old[name] for name in new if name in old}, new)
    _show(moved, found, comparing.Kept(given.kept))
    _summary(len(found), len({change.request for change in moved}), made_with if moved else {})
    if not given.write:
        return 0 if complete and not moved else 1
    if not complete:
        print("nothing is written: a grid that misses something is no baseline")
        return 1
    known = {**old, **new}
    comparing.write_expected({request.name: known[request.name] for request in grid if request.name in known})
    print(f"wrote {comparing.EXPECTED}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.diff_plans",
        description=diff_plans.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="make expected.json anew from this code")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these, and what they read; reach is not checked")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=1, help="processes")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder of full documents (default: %(default)s)")
    return parser.parse_args()


def _reached(found: Mapping[str, Answer]) -> bool:
    """Prints what was reached; whether that is everything."""
    wanted, got = to_reach(), reach.reached(found.values())
    for dimension, names in wanted.items():
        there = sorted(names & got.get(dimension, set()))
        print(f"{dimension:18} {len(there)} of {len(names)}: {', '.join(there)}")
    left = reach.missing(wanted, got)
    for dimension, missed in left.items():
        print(f"NOT REACHED: {dimension} {', '.join(missed)}; add a request to requests.yaml that does")
    return not left


def _show(moved: list[comparing.Change], found: Mapping[str, Answer], kept: comparing.Kept) -> None:
    """Prints what moved, and keeps the new texts beside the old ones."""
    texts = {name: comparing.texts(answer) for name, answer in found.items()}
    unknown = 0
    for change in moved:
        print(f"{change.request}: {change.key}: {comparing.shown(change.old)} → {comparing.shown(change.new)}")
        what = change.key.removeprefix("sha256.")
        if what == change.key or comparing.ABSENT in (change.old, change.new):
            continue
        before = kept.find(change.old)
        if before is None:
            unknown += 1
            continue
        for line in comparing.differing(before, texts[change.request][what], document=what == "document"):
            print(f"    {line}")
    if unknown:
        print(f"{unknown} old texts are not in {kept.folder}: run the old state once to be shown where they differ")
    for each in texts.values():
        for text in each.values():
            kept.keep(text)


def _summary(requests: int, moved: int, made_with: Mapping[str, str]) -> None:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(use.ru_utime + use.ru_stime for use in uses)
    print(f"{requests} requests, {moved or 'none'} moved; {seconds:.0f} CPU-seconds")
    here = comparing.made_with()
    for name in (name for name in made_with if made_with[name] != here[name]):
        print(f"note: the old answers were made with {name} {made_with[name]}, these with {here[name]}")


if __name__ == "__main__":
    sys.exit(main())
