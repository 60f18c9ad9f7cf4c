"""What a run is asked for, from text to benchmarks and points: shared by `plan profile collect` and
`python -m profiles.collect`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from profiles.collect.devices import Device
from profiles.collect.journal import Header
from profiles.collect.operations import GROUPS, benchmarks
from profiles.collect.operations.work import ELEMENT_BYTES
from profiles.collect.points import Benchmark, Outcome, Point, Settings
from profiles.errors import InputError, UnknownName
from profiles.values import shown

DEFAULT_OPS = "gemm,attention,moe,collective,memcpy,launch"
DEFAULT_PRECISION = "bf16"
DEFAULT_ERROR = "1%"
_WITHOUT_PRECISION = ("collective", "memcpy", "launch")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_budget(text: str) -> float:
    """Seconds of ``--budget``; errors as :func:`parse_seconds`."""
    return parse_seconds("--budget", text)


def parse_seconds(option: str, text: str) -> float:
    """Seconds of ``10m``, ``90s``, ``1.5h``.

    Raises:
        InputError: no number with a unit, or not positive; names the ``option``.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if not found or float(found.group(1)) == 0:
        raise InputError(f"{option}: {shown(text)} is no time", "write it as 90s, 10m or 1h")
    return float(found.group(1)) * _SECONDS[found.group(2)]


def parse_error(text: str) -> float:
    """A relative error: ``1%`` or ``0.01``.

    Raises:
        InputError: no number, or outside 0.01 % … 50 %.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    share = float(found.group(1)) / (100 if found.group(2) else 1) if found else 0.0
    if not 1e-4 <= share <= 0.5:
        raise InputError(f"--target-error: {shown(text)} is no share between 0.01% and 50%", "write it as 1% or 0.01")
    return share


def parse_names(option: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Comma-separated names out of ``known``, in the order given, each once.

    Raises:
        UnknownName: one is not.
        InputError: none is there.
    """
    names = dict.fromkeys(word.strip() for word in text.split(",") if word.strip())
    for name in names:
        if name not in known:
            raise UnknownName(option, name, known)
    if not names:
        raise InputError(f"{option}: nothing is named", f"known: {', '.join(known)}")
    return tuple(names)


@dataclass(frozen=True)
class Asked:
    """What a run measures.

    Attributes:
        operations: as the benchmarks call them.
        precisions: of products and attention; copies and launches have none.
        sustained_s: how long a load is kept up before it counts; None: the harness's default, where it is measured.
    """

    operations: tuple[str, ...]
    precisions: tuple[str, ...]
    budget_s: float
    settings: Settings
    sustained_s: float | None = None

    @classmethod
    def parse(cls, ops: str, precision: str, budget: str, target_error: str, sustained: str | None = None) -> Asked:
        """From the texts of the command line; errors as the parsers above raise them.

        Raises:
            InputError: also where the budget is too short for the ``sustained`` load.
        """
        groups = parse_names("--ops", ops, GROUPS)
        sustained_s = None if sustained is None else parse_seconds("--sustained", sustained)
        if sustained_s is not None:
            groups = tuple(dict.fromkeys(("sustained", *groups)))
            if sustained_s >= parse_budget(budget) / 2:
                raise InputError(
                    f"--sustained: {sustained} a precision, and as much again to rest, do not fit --budget {budget}",
                    "give a budget of several times as long",
                )
        precisions = parse_names("--precision", precision, ELEMENT_BYTES)
        return cls(
            tuple(operation for group in groups for operation in GROUPS[group]),
            precisions,
            parse_budget(budget),
            Settings(target_error=parse_error(target_error)),
            sustained_s,
        )

    def benchmarks(self) -> dict[str, Benchmark]:
        made = benchmarks(self.sustained_s)
        return {name: made[name] for name in self.operations}

    def header(self, device: Device, gpu: str = "", source: str | None = None, **settings: object) -> Header:
        """The provenance of a run that starts today. The source names no host."""
        return Header(
            source=source or f"shardwright harness on {device.count}x {device.name}",
            date=dt.date.today().isoformat(),
            gpu=gpu,
            device=device.describe(),
            versions={**device.versions, "python": platform.python_version()},
            settings={**dataclasses.asdict(self.settings), "budget_s": self.budget_s, **settings},
        )


def measurable(
    device: Device, made: Mapping[str, Benchmark], precisions: tuple[str, ...]
) -> tuple[dict[str, list[Point]], list[Outcome]]:
    """(by operation the grid's points that this machine can measure; for each reason why it cannot measure others,
    one skipped outcome that counts them).

    Raises:
        InputError: nothing at all can be measured, or nothing in one of ``precisions``.
    """
    points: dict[str, list[Point]] = {}
    refused: dict[tuple[str, str, str], list[Outcome]] = {}
    for name, benchmark in made.items():
        grid = list(benchmark.grid(device, precisions))
        points[name] = []
        samples = grid or list(itertools.islice(benchmark.grid(device, tuple(ELEMENT_BYTES)), 1))
        for position, point in enumerate(grid + _left_out(samples, precisions)):
            why = benchmark.unsupported(device, point)
            if why is None and position < len(grid):
                points[name].append(point)
            elif why is not None:
                kind = re.sub(r"\d+", "#", why)  # the same reason of another shape
                refused.setdefault((name, point.dtype, kind), []).append(Outcome(point, "skipped", why))
    skipped = [_counted(group) for group in refused.values()]
    for precision in precisions:
        asked = [o for o in skipped if o.point.dtype == precision]
        if asked and not any(point.dtype == precision for group in points.values() for point in group):
            raise InputError(f"--precision {precision}: {asked[0].reason}", "leave it out, or choose other --ops")
    if not any(points.values()):
        raise InputError(f"--ops: nothing of {', '.join(made)} can be measured on {device.name}", "choose other --ops")
    return points, skipped


def _left_out(grid: Sequence[Point], precisions: tuple[str, ...]) -> list[Point]:
    """One point for each of ``precisions`` that ``grid`` has none of, to hear why. Collectives, copies
    and launches have a precision by convention only."""
    has = {point.dtype for point in grid}
    if not grid or grid[0].operation in _WITHOUT_PRECISION:
        return []
    return [dataclasses.replace(grid[0], dtype=precision) for precision in precisions if precision not in has]


def _counted(group: Sequence[Outcome]) -> Outcome:
    more = f" (and {len(group) - 1:,} points more of the grid)" if len(group) > 1 else ""
    return dataclasses.replace(group[0], reason=group[0].reason + more)
