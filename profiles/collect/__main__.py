"""``python -m profiles.collect``: measures on a machine that has nothing but Python (3.10 or newer) and torch.

Copy the folder ``profiles`` there. It writes the journal alone; elsewhere `plan profile import collect --from DIR
--into STORE` turns it into rows.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from profiles.collect.detection import detect
from profiles.collect.devices import KINDS, find_device, import_torch
from profiles.collect.journal import Journal, read_points
from profiles.collect.points import Outcome
from profiles.collect.power import PowerMeter, PowerPlan
from profiles.collect.runner import Grids, InOrder, Proposer, Report, Runner
from profiles.collect.session import DEFAULT_OPS, DEFAULT_PRECISION, Asked, measurable
from profiles.errors import InputError, ShardwrightError

INTERRUPTED = 130
EVERY_S = 10.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profiles.collect",
        description="Measures this machine with nothing but Python and torch; writes a journal that "
        "`plan profile import collect` turns into rows elsewhere.",
        epilog="example: python -m profiles.collect --device cuda --ops gemm --budget 8m --out h200",
    )
    parser.add_argument("--device", choices=KINDS, required=True)
    parser.add_argument("--ops", default=DEFAULT_OPS, help=f"default: {DEFAULT_OPS}")
    parser.add_argument("--budget", default="10m", help="90s, 10m, 1h: everything included; default 10m")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the journal's folder; resumed if there")
    parser.add_argument("--precision", default=DEFAULT_PRECISION, help=f"bf16,fp8,...; default {DEFAULT_PRECISION}")
    parser.add_argument("--gpus", type=int, help="GPUs (CPU: ranks) that collectives may use; default all of the type")
    parser.add_argument("--gpu-index", type=int, help="which GPU, by CUDA's number")
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--grid", action="store_true", help="the plain grid (also the default here)")
    order.add_argument("--points", type=Path, metavar="FILE", help="measure these, of `plan profile propose`, in order")
    parser.add_argument("--sustained", metavar="TIME", help="also a layer kept up for so long against a rest: 30s")
    parser.add_argument("--power", action="store_true", help="power too, on some of the points (seconds each)")
    parser.add_argument("--target-error", default="1%", help="of each median; default 1%%")
    parser.add_argument("--seed", type=int, default=0, help="of the random operands; default 0")
    parser.add_argument("--source", help="who measures, for the rows; default: this harness on this type of device")
    return parser


def collect(arguments: argparse.Namespace) -> int:
    """Runs what ``arguments`` ask for; returns the exit code."""
    ends = time.monotonic()
    asked = Asked.parse(
        arguments.ops, arguments.precision, arguments.budget, arguments.target_error, arguments.sustained
    )
    ends += asked.budget_s
    listed = None if arguments.points is None else read_points(arguments.points)
    device = find_device(arguments.device, index=arguments.gpu_index, gpus=arguments.gpus)
    print(f"looking at {device.name}", file=sys.stderr)
    with contextlib.suppress(InputError):  # of a type that the catalogue knows, nothing of it is missed
        device = dataclasses.replace(device, measured=detect(device, dt.date.today().isoformat()))
    import_torch().manual_seed(arguments.seed)
    made = asked.benchmarks()
    refused: list[Outcome] = []
    proposer: Proposer
    if listed is None:
        grids, refused = measurable(device, made, asked.precisions)
        proposer = Grids(grids)
    else:
        proposer = InOrder(listed)
    with Journal(arguments.out) as journal:
        order = "grid" if listed is None else "points"
        journal.begin(asked.header(device, source=arguments.source, order=order, seed=arguments.seed))
        for outcome in refused:
            journal.add(outcome)
        plan = PowerPlan(PowerMeter(device)) if arguments.power else None
        print(f"measuring {device.name} for {arguments.budget}, journal {journal.path}", file=sys.stderr)
        runner = Runner(device, made, journal, asked.settings, ends, power=plan, on_outcome=_Progress(ends))
        report = runner.run(proposer)
    report.outcomes[:0] = refused
    _print(report)
    if report.ended == "device_lost":
        print(f"error: the device stopped answering ({report.reason})", file=sys.stderr)
        print("hint: everything measured is in the journal; run again to go on", file=sys.stderr)
        return 2
    return INTERRUPTED if report.ended == "interrupted" else 0


class _Progress:
    """One line on standard error every :data:`EVERY_S`."""

    def __init__(self, ends: float) -> None:
        self._ends = ends
        self._next = 0.0
        self._count = 0

    def __call__(self, outcome: Outcome) -> None:
        self._count += 1
        now = time.monotonic()
        if now >= self._next:
            left = max(self._ends - now, 0.0)
            print(f"{self._count} points, {left:.0f} s left: {outcome.status} {outcome.point.key}", file=sys.stderr)
            self._next = now + EVERY_S


def _print(report: Report) -> None:
    counts = Counter((o.point.operation, o.point.dtype, o.status) for o in report.outcomes)
    for (operation, dtype, status), count in sorted(counts.items()):
        print(f"{operation} {dtype}: {count:,} {status}")
    for (status, reason), count in Counter((o.status, o.reason) for o in report.outcomes if o.reason).most_common():
        print(f"{status} {count:,}: {reason}")
    print(f"ended: {report.ended} after {report.seconds:.0f} s; {report.kept:,} kept from earlier runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; what is wrong takes two lines on standard error."""
    parsed = _parser().parse_args(arguments)
    try:
        return collect(parsed)
    except ShardwrightError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
