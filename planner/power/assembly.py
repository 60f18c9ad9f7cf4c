"""A solved row as the document."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Literal

import numpy as np

from costmodels.power.board import idle_loaded_watts
from planner.contract.proof import Proof
from planner.contract.provenance import NOT_USED, PACKAGE
from planner.contract.published import validated
from planner.contract.quantities import Interval
from planner.power import document as told
from planner.power.judge import MOST_EXTRA, SMALL_ROW, Days, Judge, Verdict
from planner.power.policy import BRAKE_AT, BRAKE_RELEASE, NAMES, Clocks, Level, Policy
from planner.power.report import SIMPLEST, Judged, Solved, solved
from planner.power.request import PowerRequest, leaves
from planner.power.server import ServerKind, own_clock
from planner.power.simulator import RowModel, held_for, held_s
from planner.power.stress import LOST_FEED, stressed
from planner.power.tails import Rate
from planner.power.traffic import RecordedLoad, Tail
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

_TAIL_DAYS = Days(screened=250, whole=1)


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


def assembled(made: Solved) -> told.PowerPlan:
    request, row, judge, results = made.request, made.row, made.judge, made.results
    name = max((each for each in SIMPLEST if each in results), key=lambda each: results[each].verdict.servers)
    decided = results[name]
    servers, tell = decided.verdict.servers, row.told
    low, high = _with_tail(made, "heavy"), _with_tail(made, "bounded")
    policies = tuple(_result(made, each, low[each], high[each]) for each in NAMES if each in results)
    free, oracle = (results[each].verdict.servers if each in results else 0 for each in ("none", "oracle"))
    spread = _watts_spread(row)
    mean = decided.verdict.mean_watts * row.block
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
            objective_value=float(tell(servers)),
            objective_unit="servers",
            bound=float(tell(max(oracle, servers))) if oracle else None,
            gap=max(oracle - servers, 0) / servers if oracle else None,
        ),
        frontier=tuple(
            told.FrontierPoint(
                policy=each.name,  # type: ignore[arg-type]
                servers=tell(n),
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
                breaker_wear=float(each.verdict.wear.max()) if row.tree.watched else None,
                breaks=each.breaks,
                advice=each.advice,
            )
            for each in stressed(row, request, decided.policy, servers, judge.progress)
        ),
        provenance=_provenance(made),
    )
    return validated(plan, told.parse_power_plan)


def _with_tail(made: Solved, tail: Tail) -> dict[str, int]:
    """Servers of each policy when bursts have another tail, by the value of its brakes on fewer days."""
    progress = made.judge.progress
    if progress is not None:
        progress(f"bursts with a {tail} tail")
    judge = Judge(made.row, made.request, _TAIL_DAYS, tail=tail, by_value=True, progress=progress)
    out = {}
    for name, each in made.results.items():
        servers = each.verdict.servers
        out[name] = servers if name == "nameplate" else judge.largest(each.policy, servers)
    return out


def _result(made: Solved, name: str, low: int, high: int) -> told.PolicyResult:
    judged = made.results[name]
    verdict, price, tell = judged.verdict, made.request.usd_per_kwh, made.row.told
    mean, most = (each * made.row.block for each in (verdict.mean_watts, verdict.most_watts))
    return told.PolicyResult(
        name=name,  # type: ignore[arg-type]
        servers=tell(verdict.servers),
        servers_low=tell(min(low, verdict.servers)),
        servers_high=tell(max(high, verdict.servers)),
        extra=tell(verdict.servers) / made.request.today - 1,
        brakes_per_year=_rate(verdict.brakes),
        impact=_impact(verdict),
        limited_by=judged.limited_by,
        mean_watts=mean,
        most_watts=most,
        usd_per_year=None if price is None else mean / 1e3 * 8760 * price,
        levels=_levels(made.row, judged),
    )


def _decision(made: Solved, name: str, decided: Judged) -> told.PowerDecision:
    request, row, verdict = made.request, made.row, decided.verdict
    in_band = decided.policy.in_band and row.timing.in_band_s is not None
    delay = row.timing.in_band_s if in_band and row.timing.in_band_s is not None else row.timing.delay_s
    node = int(np.argmax(verdict.peaks))
    shape = None if made.chosen is None else made.chosen.shape
    return told.PowerDecision(
        servers=row.told(verdict.servers),
        today=request.today,
        extra=row.told(verdict.servers) / request.today - 1,
        by_kind=_by_kinds(request, row, verdict.servers),
        policy=name,  # type: ignore[arg-type]
        levels=_levels(row, decided),
        brake_above=BRAKE_AT,
        brake_release=BRAKE_RELEASE,
        control="in_band" if in_band else "out_of_band",
        delay_s=delay,
        foresight_s=decided.policy.foresight_s,
        rise=0.0 if shape is None else shape.rise * verdict.servers,
        settable=tuple(
            told.SettableClocks(
                gpu=gpu,
                least_mhz=can.clock_mhz[0],
                most_mhz=can.clock_mhz[1],
                step_mhz=can.clock_mhz[2],
                least_watts=can.power_watts[0],
                most_watts=can.power_watts[1],
                restore=locked or "reset",
                kinds=tuple(kind.name for kind in row.kinds if (kind.gpu, kind.locked_mhz) == (gpu, locked))
                if _several(row)
                else (),
            )
            for (gpu, locked), can in {(kind.gpu, kind.locked_mhz): kind.settable for kind in row.kinds}.items()
            if can is not None
        ),
        breakers=_breakers(row, verdict),
        binding=told.BindingBudget(
            node=row.tree.names[node], peak=float(verdict.peaks[node]), promise=decided.limited_by
        ),
    )


def _by_kinds(request: PowerRequest, row: RowModel, n: int) -> tuple[told.KindCount, ...]:
    """Whole servers of each kind that sum to all; of a large row in today's shares, which those that are simulated have
    roundly."""
    mix = np.bincount(row.servers(n).kind, minlength=len(row.kinds))
    if row.block > 1:
        mix = np.array([each.today for each in request.servers])
    upto = np.cumsum(mix) / mix.sum() * row.told(n)
    counts = np.diff(np.rint(upto).astype(int), prepend=0)
    return tuple(told.KindCount(kind=kind.name, servers=int(c)) for kind, c in zip(row.kinds, counts, strict=True))


def _several(row: RowModel) -> bool:
    """Whether a level's clock is another on some kind of server than on the commonest."""
    return len({(kind.gpu, kind.locked_mhz) for kind in row.kinds}) > 1


def _levels(row: RowModel, judged: Judged) -> tuple[told.CapLevel, ...]:
    policy, steps = judged.policy, judged.policy.levels
    if not steps and any(policy.always):  # the same caps always: a level that every reading calls for
        steps = (Level(policy.always, up=0.0, step=None, down=0.0, back=1),)
    return tuple(
        told.CapLevel(
            level=index + 1,
            above=level.up,
            step_above=level.step,
            below=level.down,
            back_to=level.back,
            clocks=tuple(
                told.ClassClock(
                    priority=p,
                    role=role,
                    clock_mhz=mhz,
                    gpu_watts=None if mhz is None else _gpu_watts(row.main, mhz, role),
                    by_kind=_by_kind(row, policy, mhz, role),
                )
                for (p, role), mhz in zip(_columns(row, level.clocks), level.clocks, strict=True)
            ),
            time_share=float(judged.verdict.levels[index + 1 if policy.levels else 0]),
        )
        for index, level in enumerate(steps)
    )


def _breakers(row: RowModel, verdict: Verdict) -> tuple[told.BreakerWear, ...]:
    """How near each breaker came to tripping, and what it holds until the brake has acted."""
    until, found = row.timing.period_s + row.timing.brake_s + 1, []
    for name, curve, wear, peak in zip(row.tree.names, row.tree.curves, verdict.wear, verdict.peaks, strict=True):
        if curve:
            lost = float(peak) / LOST_FEED
            held = held_s(curve, lost)
            found.append(
                told.BreakerWear(
                    node=name,
                    wear=float(wear),
                    holds=held_for(curve, until),
                    brake_acts_s=until,
                    lost_feed_load=lost,
                    lost_feed_s=held if np.isfinite(held) else None,
                )
            )
    return tuple(found)


_Role = Literal["decode", "prefill"] | None


def _columns(row: RowModel, clocks: Clocks) -> list[tuple[str, _Role]]:
    """Whose each clock is."""
    if len(clocks) == len(row.groups):
        return [(name, None) for name in row.groups]
    roles: tuple[_Role, ...] = ("decode", "prefill")
    return [(name, role) for role in roles for name in row.groups]


def _by_kind(row: RowModel, policy: Policy, mhz: int | None, role: _Role) -> tuple[told.KindClock, ...]:
    """A level's clock on every kind of server that can be set."""
    if mhz is None or not _several(row):
        return ()
    found = []
    for kind in row.kinds:
        own = own_clock(kind, mhz, None if policy.same_mhz else row.main)
        watts = _gpu_watts(kind, own, role)
        if watts is not None:
            found.append(told.KindClock(kind=kind.name, clock_mhz=own, gpu_watts=watts))
    return tuple(found)


def _gpu_watts(kind: ServerKind, mhz: int, role: _Role) -> float | None:
    """Board power of a phase at a clock (prefill, of decode's GPUs decode at full load), within what can be set; None:
    nobody knows what can."""
    if kind.settable is None:
        return None
    idle = idle_loaded_watts(find_gpu(kind.gpu))
    phase, share = kind.response.prefill, mhz / kind.highest_mhz
    above = kind.prefill_watts / (kind.prefill_gpus or kind.gpus)
    if role == "decode":
        phase = kind.response.decode
        above = kind.full_decode_watts / max(kind.gpus - kind.prefill_gpus, 1)
    at = idle + above * float(phase.watts(share))
    low, high = kind.settable.power_watts
    return float(round(min(max(at, low), high)))


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
        rate = len(load.isl) * row.block / max(load.span_s, 1.0)
        assumes: tuple[str, ...] = (
            f"the trace spans {load.span_s / 3600:.3g} h; days are put together from its blocks of ten minutes and "
            + ("keep its times of day" if load.span_s >= 86_400 else "have none of its times of day"),
            "servers beyond today's get copies of it, shifted by 1 to 30 minutes",
            f"beyond the trace, all servers together have {load.bursts.per_day:g} bursts a day of "
            f"{load.bursts.extra:.1%} more on average, with an exponential tail",
        )
    else:
        name, rate = "reference", load.rate_rps * request.today * 0.75
        assumes = (
            "lengths of POLCA's workloads, a daily curve and bursts of our own, scaled to its published peak and rise",
            f"{load.bursts.per_day:g} bursts a day, {load.bursts.extra:.1%} more on average, exponential tail",
        )
        if made.met is not None and abs(made.met.peak - 0.79) > 0.02:
            assumes += (f"this row's servers draw {made.met.peak:.1%} of its budget at most, not POLCA's 79 %",)
        if made.met is not None and made.met.rise > 0.14:
            assumes += (
                f"this row rises by {made.met.rise:.1%} within 40 s, not POLCA's 11.8 %: in a small one a single "
                "server's prefill counts",
            )
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
    evidence = hashlib.sha256(made.request.model_dump_json().encode()).hexdigest()
    plans = [each.plan for each in made.request.servers if each.plan is not None]
    notes = [f"{kind.name}: {kind.source}" for kind in made.row.kinds]
    notes += [
        f"{kind.gpu}: times and watts against the clock were not measured on it; they are carried over with wider ends"
        for kind in made.row.kinds
        if not kind.response.measured
    ]
    if _several(made.row):
        notes.append(
            f"levels are told in the clocks of {made.row.main.name}, the commonest kind; GPUs of others are set to "
            "about the same share of their own highest (`by_kind` of each level)"
        )
    if made.row.main.settable is None:
        notes.append(
            f"{made.row.main.gpu} has no known settable clocks: no policy that caps is judged, and the brake is "
            "taken to leave the share of the highest clock that a DGX-A100's does"
        )
    if any(each.limited_by == "tried" for each in made.results.values()):
        notes.append(
            f"no more than {made.row.told(made.judge.most)} servers are tried, {MOST_EXTRA:.0%} beyond today's: where "
            "as many hold, let today and the trace be of a row nearer to its budget"
        )
    if made.request.control.brake_on == "breaker":
        notes.append(
            "the brake waits until a breaker's curve asks for it, where there is one: a controller that brakes at any "
            "reading above the budget brakes more often"
        )
    if made.row.tree.budgets.size > 1:
        notes.append("a reading is that of the node nearest to its own budget, as a share of it")
    if (own := made.row.tree.own_budgets) is not None:
        notes.append(
            f"a hall of small racks: {made.row.tree.below.shape[1]:,} of {len(leaves(made.request.supply)):,} lowest "
            "nodes are simulated, those with the fewest watts a server among them, and the others taken to be like "
            "them; budgets of theirs are lowered by as much as the highest of all reads above the highest of these in "
            "busy minutes and by three standard errors of that, so that it holds what is said: "
            f"{np.max(1 - made.row.tree.budgets / own):.1%} at most"
        )
    if made.row.block > 1:
        notes.append(
            f"a large row: {made.row.today} servers are simulated under as large a share of every budget, and each "
            f"stands for {made.row.block:.4g}: what single servers do by chance counts for more than it does"
        )
    if made.request.today < SMALL_ROW:
        notes.append(
            "a small row: servers that happen to prefill together count for more than bursts, and such brakes outside "
            "of the busiest stretches are not counted"
        )
    free = made.results["none"].verdict.servers if "none" in made.results else 0
    notes += [
        f"{each} holds fewer servers than no control: its caps are fixed, and with one more break the limit of "
        f"{judged.limited_by}"
        for each, judged in made.results.items()
        if each != "nameplate" and judged.verdict.servers < free
    ]
    given = plans[0].provenance if plans else None
    fields = ("cost_model_version", "pack", "pack_version", "pack_hash")
    return told.PowerProvenance(
        package=PACKAGE,
        package_version=version(PACKAGE),
        **{field: NOT_USED if given is None else str(getattr(given, field)) for field in fields},  # type: ignore[arg-type]
        attribution="Mutinifni/splitwise-sim (MIT) and POLCA (arXiv 2308.12908)"
        if given is None
        else given.attribution,
        notes=tuple(dict.fromkeys(notes)),
        evidence_hash=evidence,
    )
