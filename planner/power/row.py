"""From a request to the row that is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from costmodels.power.board import idle_loaded_watts
from planner.power.large import Smaller, flat, smaller
from planner.power.policy import POLCA_HIGHEST, POLCA_HP, POLCA_LP, Policy, polca, static, threshold
from planner.power.racks import for_all
from planner.power.reference import Met, reference_load
from planner.power.request import PowerRequest, SupplyNode, curve_of, leaves
from planner.power.server import ServerKind, measured_kind
from planner.power.simulator import RowModel, Timing, Tree
from planner.power.tails import BEYOND
from planner.power.traffic import BLOCK_S, RecordedLoad, reference_facts
from profiles.errors import InputError, Unsupported
from profiles.hardware import SHIPPED, Catalogue
from profiles.settable import check_clock
from profiles.store import ProfileStore


def row_of(
    request: PowerRequest, catalogue: Catalogue = SHIPPED, measured: Sequence[ProfileStore] = ()
) -> tuple[RowModel, Met | None]:
    """The row with its load, and what the reference traffic meets on it (None: a trace was given).

    Raises:
        InputError, Unsupported: what the row contradicts, or what is not known of its GPUs.
    """
    period = request.telemetry.period_s
    if period % 1:
        what = "shorter than a second" if period < 1 else "not a whole number of seconds"
        raise InputError(
            f"telemetry: period_s: {period:g} is {what}, in steps of which a row is simulated",
            f"write {f'{int(period)} or ' if period > 1 else ''}{int(period) + 1}; a policy that is published, against "
            "a series of your own (--policy polca --drive FILE), takes it as it is",
        )
    part = smaller(request)
    asked, block = part.request, part.block
    row = replace(row_without_load(asked, catalogue, measured), block=block)
    if block > 1:  # places are rounded, and what there is of them is the row's own
        most = tree_of(request.supply, request.today).most
        places = None if most is None else max(int(most / block + 1e-6), row.today)
        row = replace(row, tree=replace(row.tree, most=places))
    today = row.today
    idle = float(row.servers(today).base_watts.sum()) + row.other_watts
    if idle > row.budget_watts:
        raise InputError(
            f"servers: today's {request.today} draw {idle * block:,.0f} W without any work, more than the "
            f"{request.supply.budget_watts:,.0f} W of "
            f"{request.supply.name}",
            "correct today, other_watts or budget_watts",
        )
    today_caps(request, row)
    if isinstance(request.trace, str):
        peak = reference_facts()["facts"]["peak"]
        if idle >= peak * row.budget_watts:
            raise InputError(
                f"servers: today's {request.today} draw {idle * block:,.0f} W without any work, and reference traffic "
                f"peaks at {peak:.0%} of the {request.supply.budget_watts:,.0f} W of {request.supply.name}",
                "correct today, other_watts or budget_watts, or give the row's own --trace",
            )
        if part.stand_for:  # racks see the bursts of the whole hall, which are larger than those of a part of it
            whole = row_without_load(flat(request), catalogue, measured)
            load, met = reference_load(whole, whole.today)
        else:
            load, met = reference_load(row, today)
        return _standing(row.under(load), part, request.seed), met
    return _standing(row.under(_recorded(request, row)), part, request.seed), None


def _standing(row: RowModel, part: Smaller, seed: int) -> RowModel:
    """With the budgets of racks that stand for more."""
    return for_all(row, part.stand_for, seed) if part.stand_for else row


def row_without_load(
    request: PowerRequest, catalogue: Catalogue = SHIPPED, measured: Sequence[ProfileStore] = ()
) -> RowModel:
    """The row alone. Raises as :func:`row_of`."""
    training = request.training
    return RowModel(
        kinds=[_kind(request, i, catalogue, measured) for i in range(len(request.servers))],
        mix=np.array([each.today for each in request.servers], np.float64),
        groups=request.names,
        group_shares=np.array([each.share for each in request.priorities]),
        tree=tree_of(request.supply, request.today),
        timing=timing_of(request),
        other_watts=0.0 if training is None else training.servers * training.watts,
        other_dip=0.0 if training is None else training.dip,
        other_dip_s=0.0 if training is None else training.iteration_s,
    )


def timing_of(request: PowerRequest) -> Timing:
    control = request.control
    return Timing(
        period_s=request.telemetry.period_s,
        delay_s=control.out_of_band_s,
        in_band_s=control.in_band_s,
        brake_s=control.brake_s,
        error=request.telemetry.error,
        failure_rate=control.failure_rate,
        by_breaker=control.brake_on == "breaker",
    )


def tree_of(root: SupplyNode, today: int) -> Tree:
    lowest = leaves(root)
    nodes: list[SupplyNode] = []

    def walk(node: SupplyNode) -> None:
        nodes.append(node)
        for child in node.children:
            walk(child)

    walk(root)
    below = np.array([[any(leaf is each for each in leaves(node)) for leaf in lowest] for node in nodes])
    places = [leaf.servers for leaf in lowest]
    if places[0] is None:
        places = [1] * len(lowest)
    limit = sum(each or 0 for each in places)
    return Tree(
        names=tuple(node.name for node in nodes),
        budgets=np.array([node.budget_watts for node in nodes]),
        below=below,
        places=np.array(places, np.int64),
        most=limit if lowest[0].servers is not None and limit > today else None,
        curves=tuple(curve_of(node) for node in nodes),
    )


def _kind(request: PowerRequest, index: int, catalogue: Catalogue, measured: Sequence[ProfileStore]) -> ServerKind:
    asked = request.servers[index]
    gpu = catalogue.find_gpu(asked.gpu)
    least = asked.other_watts + asked.gpus * idle_loaded_watts(gpu)
    if asked.nameplate_watts < least:
        raise InputError(
            f"servers: {asked.kind}: nameplate_watts {asked.nameplate_watts:g} is less than it draws without work, "
            f"{least:,.0f}",
            "nameplate_watts is of the whole server; correct it, or other_watts",
        )
    if asked.plan is None:
        return measured_kind(asked.kind, gpu, asked.gpus, asked.nameplate_watts, asked.other_watts)
    from planner.power.planned import planned_kind

    return planned_kind(asked, gpu, measured)


def _recorded(request: PowerRequest, row: RowModel) -> RecordedLoad:
    trace = request.trace
    assert not isinstance(trace, str)
    columns = np.array(trace.arrival_s), np.array(trace.isl), np.array(trace.osl)
    load = RecordedLoad(*columns, request.today)
    if load.span_s < BLOCK_S:
        raise InputError(
            f"trace: its {load.span_s:,.0f} s are too short: days are drawn from it in blocks of {BLOCK_S} s",
            "record ten minutes at least; an hour is better",
        )
    for each in request.slo_impact:
        share = next(c.share for c in request.priorities if c.name == each.priority)
        needed = BEYOND / (1 - each.percentile / 100)
        if len(trace.isl) * share < needed:
            raise InputError(
                f"trace: about {len(trace.isl) * share:,.0f} of its requests are {each.priority}'s, too few for p"
                f"{each.percentile:g}",
                f"{needed:,.0f} are needed; record longer, or limit a lower percentile",
            )
    if row.block > 1:  # those of the servers that are simulated
        mine = np.random.default_rng((request.seed, 11)).uniform(size=len(load.isl)) * row.block < 1
        mine[-1] = True  # the span is the trace's
        arrival_s, isl, osl = (each[mine] for each in columns)
        return RecordedLoad(arrival_s, isl, osl, row.today, all_bursts=load.bursts)
    return load


def today_caps(request: PowerRequest, row: RowModel) -> Policy:
    """What is set today, always.

    Raises:
        InputError: a clock that cannot be set, or a priority with two.
    """
    clocks: dict[str, int] = {}
    for each in request.caps:
        if each.priority in clocks:
            raise InputError(f"caps: {each.priority} is given twice", "give each priority one clock")
        for kind in row.kinds:
            check_clock(kind.gpu, each.clock_mhz, f"caps: {each.priority}: clock_mhz")
        clocks[each.priority] = each.clock_mhz
    return replace(static(tuple(clocks.get(name) for name in row.groups)), same_mhz=True)


def clock_at(row: RowModel, share: float) -> int:
    """The settable clock nearest to ``share`` of the highest.

    Raises:
        Unsupported: nothing is known of what the GPU can be set to.
    """
    kind = row.main
    if kind.settable is None:
        raise Unsupported(
            f"gpu: {kind.gpu} has no known settable clocks, so no caps can be chosen",
            "describe it in profiles/hardware/settings.yaml; `nvidia-smi -q -d SUPPORTED_CLOCKS` shows them",
        )
    return kind.settable.nearest_clock(share * kind.highest_mhz)


def polca_for(row: RowModel) -> Policy:
    """POLCA's, its clocks as shares of the highest on another GPU than its A100."""
    lp = clock_at(row, POLCA_LP[0] / POLCA_HIGHEST), clock_at(row, POLCA_LP[1] / POLCA_HIGHEST)
    return polca(len(row.groups), lp, clock_at(row, POLCA_HP / POLCA_HIGHEST))


def threshold_for(row: RowModel) -> Policy:
    return threshold(len(row.groups), clock_at(row, POLCA_LP[1] / POLCA_HIGHEST))
