"""A row's power over time: written, read as a drive, and what a policy commands on it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from costmodels.estimates import Floats
from planner.power.drawn import DayOfRequests
from planner.power.policy import NAMES, CapCommand, Policy, driven, none
from planner.power.reference import REFERENCE_SEED, reference_load
from planner.power.report import Solved
from planner.power.request import PowerRequest, check
from planner.power.row import polca_for, row_without_load, threshold_for, today_caps
from planner.power.simulator import RowModel, chance_of, simulate
from planner.power.traffic import DAY_S, WARM_S, RecordedLoad, ReferenceLoad, whole_day
from profiles.errors import UnknownName
from profiles.files import Source
from profiles.hardware import SHIPPED, Catalogue
from profiles.tables import numbers, read_table
from profiles.values import shown

_HINT = "a drive is a CSV with the columns t_s,row_watts, seconds rising"


def read_drive(path: Path) -> tuple[Floats, Floats]:
    """(seconds, watts) of a series.

    Raises:
        InputError: the file cannot be read, lacks a column, is empty, or has a value that is not a number, or a time
            that is not after the one above.
    """
    source = Source(path, "drive", _HINT)
    table = read_table(source, skip_blank_lines=False)
    columns = []
    for name in ("t_s", "row_watts"):
        if name not in table.columns:
            raise source.wrong(f"column {name} is missing")
        values = numbers(table[name])
        bad = next((i for i, value in enumerate(values) if value is None or (name == "row_watts" and value < 0)), None)
        if bad is not None:
            what = "a number" if name == "t_s" else "a number of watts"
            raise source.wrong(f"line {bad + 2}: {name} {shown(table[name].iloc[bad])} is not {what}")
        columns.append(np.array(values, np.float64))
    seconds, watts = columns
    if not len(seconds):
        raise source.wrong("has no rows")
    back = np.flatnonzero(np.diff(seconds) <= 0)
    if len(back):
        raise source.wrong(f"line {back[0] + 3}: t_s {table['t_s'].iloc[back[0] + 1]} is not after the line above")
    return seconds, watts


def preset(name: str, request: PowerRequest, catalogue: Catalogue = SHIPPED) -> Policy | None:
    """A policy that is the same whatever the load: published, or the caps that the row file gives; None: the answer
    chooses it.

    Raises:
        InputError, UnknownName: it is not known, or the row contradicts itself.
    """
    if name not in NAMES:
        raise UnknownName("--policy", name, NAMES)
    check(request)
    row = row_without_load(request, catalogue)
    if name in ("nameplate", "none"):
        return replace(none(), name=name)
    if name == "polca":
        return polca_for(row)
    if name == "static" and request.caps:
        return today_caps(request, row)
    if name == "threshold" and not request.slo_impact:  # nothing limits how deep it may go
        return threshold_for(row)
    return None


def commands_on(
    policy: Policy, request: PowerRequest, drive: tuple[Floats, Floats], catalogue: Catalogue = SHIPPED
) -> list[CapCommand]:
    """What ``policy`` commands on a series, from the budget of the row."""
    control, kind = request.control, row_without_load(request, catalogue).main
    in_band = policy.in_band and control.in_band_s is not None
    return list(
        driven(
            policy,
            zip(*(each.tolist() for each in drive), strict=True),
            request.names,
            budget_watts=request.supply.budget_watts,
            period_s=request.telemetry.period_s,
            delay_s=control.in_band_s if in_band and control.in_band_s is not None else control.out_of_band_s,
            brake_mhz=round(kind.brake_share * kind.highest_mhz),
        )
    )


def commands_csv(commands: Iterable[CapCommand]) -> str:
    """``t_s,priority,clock_mhz``; empty where a priority is uncapped. With ``role`` where decode and prefill have
    clocks of their own."""
    commands = list(commands)
    roles = any(each.role for each in commands)
    out = io.StringIO()
    out.write(f"t_s,priority,clock_mhz{',role' if roles else ''}\n")
    for each in commands:
        clock, role = "" if each.clock_mhz is None else each.clock_mhz, f",{each.role}" if roles else ""
        out.write(f"{each.t_s:.12g},{each.priority},{clock}{role}\n")
    return out.getvalue()


def timeline_csv(watts: Floats) -> str:
    """``t_s,row_watts``, a row a second."""
    return "t_s,row_watts\n" + "".join(f"{t},{value:.1f}\n" for t, value in enumerate(watts))


def timeline(
    made: Solved | tuple[PowerRequest, RowModel], policy: Policy | None = None, servers: int | None = None
) -> Floats:
    """[seconds] watts of the row: today's servers with today's caps under the trace as it came, or the reference's day
    with the highest peak; with ``policy`` and ``servers`` a row of theirs under the same load."""
    request, row = (made.request, made.row) if isinstance(made, Solved) else made
    load = row.load
    assert load is not None
    n = row.today if servers is None else servers
    policy = replace(today_caps(request, row), brakes=False) if policy is None else policy
    if isinstance(load, RecordedLoad):
        seconds = int(np.ceil(load.span_s)) + 1
        if n <= row.today:
            day = load.as_recorded(request.seed)
        else:
            seconds = min(max(seconds, 3600), DAY_S)
            day = whole_day(load, n, request.seed, 0)
        one = simulate(row, policy, n, row.requests(day), chance_of(request.seed, 0), seconds)
        return np.asarray(one.watts[:seconds] * row.block)
    assert isinstance(load, ReferenceLoad)
    _, met = reference_load(row, row.today)
    day = whole_day(load, n, REFERENCE_SEED, met.day)
    # The day before ends as this one begins: engines are as full as they would be.
    warm = DayOfRequests.joined([day.within(0, WARM_S, 0), day.within(0, DAY_S, -WARM_S)])
    chance = chance_of(REFERENCE_SEED, met.day)
    one = simulate(row, policy, n, row.requests(warm), chance, DAY_S + WARM_S)
    return np.asarray(one.watts[WARM_S:] * row.block)
