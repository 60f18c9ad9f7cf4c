"""From a request to the power plan: every policy with the most servers it holds, and the best one as the decision."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.contract.proof import Proof
from planner.contract.provenance import NOT_USED, PACKAGE
from planner.contract.published import validated
from planner.contract.quantities import Interval
from planner.power import document as told
from planner.power.judge import Days, Judge, Verdict
from planner.power.ours import Chosen, best, effects, tuned
from planner.power.policy import BRAKE_AT, BRAKE_RELEASE, NAMES, Policy, none, static
from planner.power.reference import Met
from planner.power.request import PowerRequest
from planner.power.row import clock_at, main_kind, polca_for, row_of, threshold_for, today_caps
from planner.power.simulator import RowModel, chance_of, simulate
from planner.power.stress import stressed
from planner.power.tails import Rate
from planner.power.traffic import RecordedLoad, Tail, whole_day
from profiles.descriptions import catalogue_with
from profiles.errors import Infeasible, InputError
from profiles.store import ProfileStore

TRAINED = Days(screened=400, whole=3, first=1_000_000)
"""Days that thresholds are chosen on: others than those that policies are judged on."""

JUDGED_WHOLE = 4
_TAIL_DAYS = Days(screened=250, whole=1)
_SIMPLEST = ("none", "static", "threshold", "polca", "ours")


@dataclass(frozen=True)
class Judged:
    """A policy at the most servers that it holds; ``limited_by``: what one more would break."""

    policy: Policy
    verdict: Verdict
    limited_by: str


@dataclass(frozen=True)
class Solved:
    """A row with its policies judged."""

    request: PowerRequest
    row: RowModel
    met: Met | None
    judge: Judge
    results: dict[str, Judged]
    chosen: Chosen | None


def power_plan(
    request: PowerRequest,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> told.PowerPlan:
    """The plan that ``request`` asks for.

    Raises:
        InputError, Unsupported: the row contradicts itself, or its GPUs are not known.
        Infeasible: no number of servers keeps the promises.
    """
    return assembled(solved(request, measured=measured, progress=progress))


def solved(
    request: PowerRequest,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
    only: str | None = None,
) -> Solved:
    """The row, and its policies judged (``only`` one of them)."""
    row, met = row_of(request, catalogue_with(each.path for each in measured), measured)
    _check_today(request, row)
    judge = Judge(row, request, Days(request.days, JUDGED_WHOLE), progress=progress)
    results: dict[str, Judged] = {}
    chosen: Chosen | None = None
    trainer = Judge(row, request, TRAINED, progress=progress)
    guess = int(request.today * 1.25)
    for name in NAMES:
        if only not in (None, name):
            continue
        if name == "nameplate":
            policy, servers = none(), _by_nameplate(row)
        elif name == "ours":
            chosen = best(trainer, guess + 2)
            if chosen is None:
                continue
            policy, servers = chosen.policy, chosen.servers
            while servers and not judge.holds(policy, servers):
                servers -= 1
        elif name == "oracle":
            if chosen is None:
                continue
            policy, servers = _oracle(judge, trainer, chosen, results)
        else:
            policy = _preset(name, row, request)
            servers = judge.largest(policy, guess)
            guess = servers or guess
        if servers:
            results[name] = Judged(policy, judge.verdict(policy, servers), _limit(judge, policy, servers, name))
    if not any(name in results for name in _SIMPLEST) and only is None:
        raise Infeasible(
            f"supply: {request.supply.name}: no number of servers keeps the limits of slo_impact and "
            f"{request.max_brakes_per_year:g} brakes a year",
            f"by nameplate it holds {_by_nameplate(row)} servers; allow more impact, or more brakes",
        )
    return Solved(request, row, met, judge, results, chosen)


def _oracle(judge: Judge, trainer: Judge, chosen: Chosen, results: dict[str, Judged]) -> tuple[Policy, int]:
    """Our levels with exact readings and caps that act at once, thresholds chosen for that."""
    start = results["ours"].verdict.servers if "ours" in results else chosen.servers
    policy = replace(chosen.policy, name="oracle", immediate=True)
    servers = judge.largest(policy, start)
    while servers < judge.most:
        better = tuned(trainer, replace(chosen.shape, rise=chosen.shape.rise / 3), servers + 1, replace(policy, levels=()))
        if better is None or not judge.holds(better, servers + 1):
            break
        policy, servers = better, servers + 1
    return policy, servers


def _preset(name: str, row: RowModel, request: PowerRequest) -> Policy:
    if name == "none":
        return none()
    if name == "threshold":
        return threshold_for(row)
    return polca_for(row) if name == "polca" else _static(row, request)


def _static(row: RowModel, request: PowerRequest) -> Policy:
    """The deepest clock of each class that stays within all its limits when it is set always."""
    from planner.power.ours import CLOCK_SHARES, Shape

    mhz = [clock_at(row, share) for share in CLOCK_SHARES]
    shape = Shape(np.zeros(1), 0.5, 0.5, 0.0)
    slow, _ = effects(row, shape, np.array(mhz, np.float64) / main_kind(row).highest_mhz)
    clocks: list[int | None] = []
    for name in row.groups:
        limits = [limit.limit for limit in request.slo_impact if limit.priority == name]
        within = [i for i, each in enumerate(slow) if each <= 0.9 * min(limits, default=0.0)]
        clocks.append(mhz[within[-1]] if within and within[-1] else None)
    return static(tuple(clocks))


def _by_nameplate(row: RowModel) -> int:
    """Servers whose nameplates the budgets hold, at every node."""
    watts = np.array([kind.nameplate_watts for kind in row.kinds])
    fits, most = 0, int(row.budget_watts / watts.min()) + 1
    for n in range(1, most + 1):
        servers = row.servers(n)
        of_leaf = np.bincount(servers.leaf, watts[servers.kind], len(row.tree.places))
        load = row.tree.below @ of_leaf
        load[0] += row.other_watts
        if (load > row.tree.budgets * (1 + 1e-9)).any():
            break
        fits = n
    return fits if row.tree.most is None else min(fits, row.tree.most)


def _limit(judge: Judge, policy: Policy, servers: int, name: str) -> str:
    if name == "nameplate":
        return "nameplate"
    if servers >= judge.most:
        return "places" if judge.row.tree.most == servers else "tried"
    if judge.holds(policy, servers + 1):
        return "chosen"
    known = judge.known(policy, servers + 1)
    return "brakes" if known is None else judge.misses(known) or "brakes"


def _check_today(request: PowerRequest, row: RowModel) -> None:
    """Refuses a row that is above its budget as it is."""
    load = row.load
    assert load is not None
    policy = replace(today_caps(request, row), brakes=False)
    if isinstance(load, RecordedLoad):
        day, seconds = load.as_recorded(request.seed), int(np.ceil(load.span_s)) + 1
    else:
        day, seconds = whole_day(load, request.today, request.seed, 0), 86_400
    watts = simulate(row, policy, request.today, day, chance_of(request.seed, 0), seconds).watts
    above = float(np.mean(watts > row.budget_watts))
    if above > 0.001:
        raise InputError(
            f"servers: today's {request.today} draw more than the {row.budget_watts:,.0f} W of {request.supply.name} in "
            f"{above:.1%} of the time, {watts.max():,.0f} W at most",
            "correct today, the trace or budget_watts; a row above its budget holds fewer servers, not more",
        )


# ------------------------------------------------------------------ the document


def assembled(made: Solved) -> told.PowerPlan:
    request, row, judge, results = made.request, made.row, made.judge, made.results
    name = max((each for each in _SIMPLEST if each in results), key=lambda each: results[each].verdict.servers)
    decided = results[name]
    servers = decided.verdict.servers
    low, high = _with_tail(made, "heavy"), _with_tail(made, "bounded")
    policies = tuple(_result(made, each, low[each], high[each]) for each in NAMES if each in results)
    free, oracle = (results[each].verdict.servers if each in results else 0 for each in ("none", "oracle"))
    spread = _watts_spread(row)
    mean = decided.verdict.mean_watts
    plan = told.PowerPlan(
        request=_understood(made),
        decision=_decision(made, name, decided),
        policies=policies,
        prediction=told.PowerPrediction(
            row_watts_mean=Interval(value=mean, low=mean * (1 - spread), high=mean * (1 + spread)),
            row_peak=float(decided.verdict.peaks[0]),
            way_to_oracle=None if oracle <= free else (servers - free) / (oracle - free),
        ),
        proof=Proof(
            engine="simulation of replicate-days; levels by CP-SAT, servers by bisection",
            status="feasible",
            objective="servers",
            objective_value=float(servers),
            objective_unit="servers",
            bound=float(max(oracle, servers)) if oracle else None,
            gap=max(oracle - servers, 0) / servers if oracle else None,
        ),
        frontier=tuple(
            told.FrontierPoint(
                policy=each.name,  # type: ignore[arg-type]
                servers=n,
                brakes_per_year=_rate(verdict.brakes),
                impact=_impact(verdict),
                holds=judge.misses(verdict) is None,
            )
            for (each, n), verdict in sorted(judge.verdicts().items(), key=lambda item: (item[0][0].name, item[0][1]))
        ),
        stress=tuple(
            told.StressResult(
                case=each.case,
                brakes_per_year=_rate(each.verdict.brakes),
                impact=_impact(each.verdict),
                breaks=each.breaks,
                advice=each.advice,
            )
            for each in stressed(row, request, decided.policy, servers)
        ),
        provenance=_provenance(made),
    )
    return validated(plan, told.parse_power_plan)


def _with_tail(made: Solved, tail: Tail) -> dict[str, int]:
    """Servers of each policy when bursts have another tail, by the value of its brakes on fewer days."""
    judge = Judge(made.row, made.request, _TAIL_DAYS, tail=tail, by_value=True)
    out = {}
    for name, each in made.results.items():
        servers = each.verdict.servers
        out[name] = servers if name == "nameplate" else judge.largest(each.policy, servers)
    return out


def _result(made: Solved, name: str, low: int, high: int) -> told.PolicyResult:
    judged = made.results[name]
    verdict, price = judged.verdict, made.request.usd_per_kwh
    return told.PolicyResult(
        name=name,  # type: ignore[arg-type]
        servers=verdict.servers,
        servers_low=min(low, verdict.servers),
        servers_high=max(high, verdict.servers),
        extra=verdict.servers / made.request.today - 1,
        brakes_per_year=_rate(verdict.brakes),
        impact=_impact(verdict),
        limited_by=judged.limited_by,
        mean_watts=verdict.mean_watts,
        most_watts=verdict.most_watts,
        usd_per_year=None if price is None else verdict.mean_watts / 1e3 * 8760 * price,
    )


def _decision(made: Solved, name: str, decided: Judged) -> told.PowerDecision:
    request, row, verdict = made.request, made.row, decided.verdict
    kinds = row.servers(verdict.servers).kind
    in_band = decided.policy.in_band and row.timing.in_band_s is not None
    delay = row.timing.in_band_s if in_band and row.timing.in_band_s is not None else row.timing.delay_s
    node = int(np.argmax(verdict.peaks))
    shape = None if made.chosen is None else made.chosen.shape
    clocks = [
        [told.ClassClock(priority=p, clock_mhz=mhz) for p, mhz in zip(row.groups, level.clocks, strict=True)]
        for level in decided.policy.levels
    ]
    return told.PowerDecision(
        servers=verdict.servers,
        today=request.today,
        extra=verdict.servers / request.today - 1,
        by_kind=tuple(
            told.KindCount(kind=kind.name, servers=int((kinds == index).sum())) for index, kind in enumerate(row.kinds)
        ),
        policy=name,  # type: ignore[arg-type]
        levels=tuple(
            told.CapLevel(
                level=index + 1,
                above=level.up,
                step_above=level.step,
                below=level.down,
                back_to=level.back,
                clocks=tuple(clocks[index]),
                time_share=float(verdict.levels[index + 1]),
            )
            for index, level in enumerate(decided.policy.levels)
        ),
        brake_above=BRAKE_AT,
        brake_release=BRAKE_RELEASE,
        control="in_band" if in_band else "out_of_band",
        delay_s=delay,
        rise=0.0 if shape is None else shape.rise * verdict.servers,
        settable=tuple(
            told.SettableClocks(
                gpu=gpu,
                least_mhz=can.clock_mhz[0],
                most_mhz=can.clock_mhz[1],
                step_mhz=can.clock_mhz[2],
            )
            for gpu, can in {kind.gpu: kind.settable for kind in row.kinds}.items()
            if can is not None
        ),
        binding=told.BindingBudget(
            node=row.tree.names[node], peak=float(verdict.peaks[node]), promise=decided.limited_by
        ),
    )


def _rate(rate: Rate) -> told.BrakeRate:
    return told.BrakeRate(value=rate.value, low=rate.low, high=rate.high)


def _impact(verdict: Verdict) -> dict[str, told.ClassImpact]:
    return {
        name: told.ClassImpact(
            p50=each[50.0], p99=each[99.0], other={f"p{p:g}": v for p, v in each.items() if p not in (50.0, 99.0)}
        )
        for name, each in verdict.impact.items()
    }


def _watts_spread(row: RowModel) -> float:
    """Half-width of the interval of the row's mean watts, relative: of the shipped phases (their own spread over model
    and TP degree is 8 %), and more on a GPU that they are carried over to."""
    return max(0.08 if kind.response.measured else 0.15 for kind in row.kinds)


def _understood(made: Solved) -> told.RowUnderstood:
    request, row, load = made.request, made.row, made.row.load
    assert load is not None
    if isinstance(load, RecordedLoad):
        trace = request.trace
        name = "trace" if isinstance(trace, str) else trace.name
        rate = len(load.isl) / max(load.span_s, 1.0)
        assumes = (
            f"the trace spans {load.span_s / 3600:.3g} h; days are put together from its blocks of ten minutes, so they "
            + ("keep its times of day" if load.span_s >= 86_400 else "have no times of day"),
            "servers beyond today's get copies of it, shifted by 1 to 30 minutes",
            f"beyond the trace, all servers together have {load.bursts.per_day:g} bursts a day of {load.bursts.extra:.1%} "
            "more on average, with an exponential tail",
        )
    else:
        name, rate = "reference", load.rate_rps * request.today * 0.75
        assumes = (
            "lengths of POLCA's workloads, a daily curve and bursts of our own, scaled to its published peak and rise",
            f"bursts of {load.bursts.extra:.1%} more on average, {load.bursts.per_day:g} a day, with an exponential tail",
        )
        if made.met is not None and made.met.peak < 0.77:
            assumes += (f"this row's servers draw {made.met.peak:.1%} of its budget at most, not POLCA's 79 %",)
    return told.RowUnderstood(
        supply=request.supply,
        servers=tuple(
            told.ServersUnderstood(
                kind=kind.name,
                gpu=kind.gpu,
                gpus=kind.gpus,
                nameplate_watts=kind.nameplate_watts,
                other_watts=asked.other_watts,
                today=asked.today,
                idle_watts=kind.idle_watts,
                decode_watts=kind.idle_watts + kind.decode_watts,
                prefill_watts=kind.idle_watts + kind.prefill_watts,
                source=kind.source,
            )
            for kind, asked in zip(row.kinds, request.servers, strict=True)
        ),
        priorities=request.priorities,
        telemetry=request.telemetry,
        control=request.control,
        caps=request.caps,
        training=request.training,
        traffic=told.TrafficUnderstood(
            source=name,
            requests_per_s=rate,
            peak=None if made.met is None else made.met.peak,
            rise=None if made.met is None else made.met.rise,
            assumes=assumes,
        ),
        slo_impact=request.slo_impact,
        max_brakes_per_year=request.max_brakes_per_year,
        probability=request.probability,
        usd_per_kwh=request.usd_per_kwh,
        days=request.days,
        seed=request.seed,
    )


def _provenance(made: Solved) -> told.PowerProvenance:
    from importlib.metadata import version

    evidence = hashlib.sha256(made.request.model_dump_json().encode()).hexdigest()
    plans = [each.plan for each in made.request.servers if each.plan is not None]
    notes = [f"{kind.name}: {kind.source}" for kind in made.row.kinds]
    notes += [
        f"{kind.gpu}: times and watts against the clock were not measured on it; they are carried over with wider ends"
        for kind in made.row.kinds
        if not kind.response.measured
    ]
    if made.row.tree.budgets.size > 1:
        notes.append("a reading is that of the node nearest to its own budget, as a share of it")
    given = plans[0].provenance if plans else None
    fields = ("cost_model_version", "pack", "pack_version", "pack_hash")
    return told.PowerProvenance(
        package=PACKAGE,
        package_version=version(PACKAGE),
        **{field: NOT_USED if given is None else getattr(given, field) for field in fields},
        attribution="Mutinifni/splitwise-sim (MIT) and POLCA (arXiv 2308.12908)" if given is None else given.attribution,
        notes=tuple(dict.fromkeys(notes)),
        evidence_hash=evidence,
    )
