"""A power plan as people read it, in at most 100 columns."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, facts, heading, indented, table
from api.cli.views.quantities import number, percent
from planner.power.document import BrakeRate, CapLevel, ClassClock, ClassImpact, PowerPlan, is_always

_POLICY = {
    "nameplate": "by nameplate",
    "none": "no control",
    "static": "the same caps always",
    "threshold": "one threshold",
    "polca": "POLCA's preset",
    "ours": "ours",
    "oracle": "oracle (no delay)",
}

_BESIDE, _BELOW = 2, 4
"""Classes whose columns stand beside the policies' servers at most, and in each table of their own below."""


def show(plan: PowerPlan, out: Console) -> None:
    _decided(plan, out)
    _policies(plan, out)
    _levels(plan, out)
    _stress(plan, out)
    heading(out, "What to know of these numbers")
    for note in (*plan.request.traffic.assumes, *plan.provenance.notes):
        bullet(out, note)


def _decided(plan: PowerPlan, out: Console) -> None:
    d, request = plan.decision, plan.request
    out.print(Text(f"{request.supply.name}: {d.servers} servers, {d.extra:+.1%} on today's {d.today}", style="bold"))
    kinds = ", ".join(f"{each.servers} {each.kind}" for each in d.by_kind)
    way = "in band" if d.control == "in_band" else "out of band"
    ahead = f", with the prompts that wait for {d.foresight_s:g} s ahead" if d.foresight_s else ""
    traffic = request.traffic
    met = "" if traffic.peak is None else f", today's peak {traffic.peak:.1%} of the budget, rise {traffic.rise:.1%}"
    grows = ", ".join(f"{e.priority} p{e.percentile:g} grows by {percent(e.limit)}" for e in request.slo_impact)
    rows = [
        ("servers", kinds),
        (
            "budget",
            f"{request.supply.budget_watts / 1e3:,.4g} kW; highest reading {plan.prediction.row_peak:.1%} of it",
        ),
        ("mean power", f"{plan.prediction.row_watts_mean.value / 1e3:,.4g} kW"),
        ("load", f"{traffic.source}, {number(traffic.requests_per_s)} requests/s on today's servers{met}"),
        ("control", f"{way}, up to {d.delay_s:g} s; a reading every {request.telemetry.period_s:g} s{ahead}"),
        *([("at most", grows)] if grows else []),
        ("binds", f"{d.binding.node} ({_own_reading(plan)}{_promise(d.binding.promise)})"),
    ]
    paid = next(each.usd_per_year for each in plan.policies if each.name == d.policy)
    if paid is not None:
        rows.append(("electricity", f"${paid:,.0f} a year at {request.usd_per_kwh:g} USD/kWh"))
    lost = next((each for each in plan.stress if each.case.startswith("a feed lost")), None)
    for each in d.breakers:
        rows.append((f"breaker of {each.node}", f"{each.wear:.0%} of the way to a trip at most"))
        held = "for ever" if each.lost_feed_s is None else f"for {each.lost_feed_s:.3g} s"
        trips = each.lost_feed_s is not None and each.lost_feed_s < each.brake_acts_s
        said = f"a quarter of its feed lost at the peak: {each.lost_feed_load:.0%} of the rest, which it holds {held}"
        rows.append(("", f"{said}; {'too late' if trips else 'in time'}, the brake acts in {each.brake_acts_s:g} s"))
        if not trips and lost is not None and lost.breaker_wear is not None and lost.breaker_wear >= 1:
            rows.append(("", "so it is when cold: it heats from brake to brake, and trips while the feed is away"))
    if plan.prediction.way_to_oracle is not None:
        rows.append(("way to the oracle", f"{plan.prediction.way_to_oracle:.0%} from no control"))
    facts(out, rows)


def _own_reading(plan: PowerPlan) -> str:
    """Of the binding node, where it is not the row, whose reading is said beside its budget."""
    binds = plan.decision.binding
    below = binds.node != plan.request.supply.name
    return f"highest reading {binds.peak:.1%} of its own budget; " if below else ""


def _promise(said: str) -> str:
    words = {
        "brakes": "one server more brakes too often",
        "breaker": "one server more trips a breaker",
        "load": "one server more does not keep up with its load",
        "places": "there are no more places",
        "tried": "no more servers were tried",
        "chosen": "no levels were found for one server more",
        "nameplate": "nameplates fill the budget",
    }
    return words.get(said, f"one server more breaks the limit of {said}")


def _policies(plan: PowerPlan, out: Console) -> None:
    heading(out, "Policies, each with the most servers it holds")
    names = [each.name for each in plan.request.priorities]
    between = " " if len(names) <= _BESIDE else "\n"
    beside = names if len(names) <= _BESIDE else []
    parts = [beside, *([] if beside else [names[i : i + _BELOW] for i in range(0, len(names), _BELOW)])]
    for first, some in ((part is parts[0], part) for part in parts):
        what = ("servers", "range", "extra", "brakes/year") if first else ()
        grid = table("policy", *what, *(f"{name}{between}p50/p99" for name in some))
        for each in plan.policies:
            chosen = each.name == plan.decision.policy
            held = (
                str(each.servers),
                f"{each.servers_low}–{each.servers_high}",
                f"{each.extra:+.1%}",
                _brakes(each.brakes_per_year),
            )
            grid.add_row(
                Text(_POLICY[each.name] + (" *" if chosen else ""), style="bold" if chosen else ""),
                *(held if first else ()),
                *(_impact(each.impact[name]) for name in some),
            )
        indented(out, grid)
    out.print(
        Text("  range: with bursts of a heavy and of a bounded tail; brakes: value, ≤ upper 95 % bound", style="dim")
    )
    for each in plan.policies:
        if len(each.levels) == 1:  # of more, the document has them
            (level,) = each.levels
            when = "" if is_always(level) else f" above {percent(_asked(level))}"
            out.print(Text(f"  {_POLICY[each.name]}: {_capped(level)}{when}", style="dim"))


def _clock(each: ClassClock) -> str:
    """Of each kind of server, where a row has several types of GPUs."""
    if each.clock_mhz is None:
        return "–"
    return " / ".join(f"{known.clock_mhz:,}" for known in each.by_kind) or f"{each.clock_mhz:,}"


def _capped(level: CapLevel) -> str:
    said = [f"{_class(each)} at most {_clock(each)} MHz" for each in level.clocks if each.clock_mhz is not None]
    return ", ".join(said) or "no clocks"


def _class(each: ClassClock) -> str:
    return f"{each.priority}{f' {each.role}' if each.role else ''}"


def _asked(level: CapLevel) -> float:
    found = level.step_above if level.above is None else level.above
    assert found is not None
    return found


def _brakes(rate: BrakeRate) -> str:
    return f"{number(rate.value, 2)} ≤ {number(rate.high, 2)}"


def _impact(impact: ClassImpact) -> str:
    return f"{impact.p50:.1%} / {impact.p99:.1%}"


def _levels(plan: PowerPlan, out: Console) -> None:
    if not plan.decision.levels:
        return
    heading(out, "Levels of caps")
    names = [_class(each) for each in plan.decision.levels[0].clocks]
    grid = table("level", "above", "below", *(f"{name} MHz" for name in names), "time")
    for level in plan.decision.levels:
        ends = ("always", "–") if is_always(level) else (percent(_asked(level)), percent(level.below))
        grid.add_row(
            str(level.level),
            *ends,
            *(_clock(each) for each in level.clocks),
            f"{level.time_share:.2%}",
        )
    indented(out, grid)
    kinds = next((each.by_kind for level in plan.decision.levels for each in level.clocks if each.by_kind), ())
    if kinds:
        out.print(Text(f"  MHz of {' / '.join(each.kind for each in kinds)}", style="dim"))
    waits = plan.request.control.brake_on == "breaker"
    brake = "where a breaker asks for it" if waits else f"above {plan.decision.brake_above:.0%}"
    said = "a reading above “above” calls for the level, one below “below” leaves it; "
    out.print(Text(f"  {'' if is_always(plan.decision.levels[0]) else said}brake {brake}", style="dim"))


def _stress(plan: PowerPlan, out: Console) -> None:
    if not plan.stress:
        return
    heading(out, "When something is otherwise")
    watched = any(each.breaker_wear is not None for each in plan.stress)
    grid = table("case", "brakes/year", *(["breaker"] if watched else []), "breaks", left=1)
    for each in plan.stress:
        worn = [] if not watched else ["trips" if each.breaker_wear == 1 else f"{each.breaker_wear or 0:.0%}"]
        grid.add_row(each.case, number(each.brakes_per_year.value, 2), *worn, each.breaks or "–")
    if watched:
        out.print(Text("  breaker: how far the nearest one was on its way to a trip", style="dim"))
    indented(out, grid)
    for advice in dict.fromkeys(each.advice for each in plan.stress if each.breaks):
        cases = [each.case for each in plan.stress if each.advice == advice and each.breaks]
        bullet(out, f"{'; '.join(cases)}: {advice}")
