"""A fleet as people read it, in at most 100 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, facts, heading, indented, table
from api.cli.views.quantities import number, per_second, percent, promise
from planner.contract.clusters import SuppliedPool
from planner.contract.engine import EngineGroup
from planner.contract.fleet import NotServed, Route, ScheduledStep
from planner.serving.document.plan import Plan

NO_MIX = (
    "A mix does not pay here: one GPU type alone costs no more. Mixes pay where supplies bind, where "
    "the fleet is small, "
    "and where classes want different GPUs."
)

HOLDS = {None: "", True: "yes", False: "no"}

FEW = 12
"""Rows of a long table that are shown without --explain."""


def show(plan: Plan, console: Console, *, explain: bool = False) -> None:
    """Prints the fleet: engines and cost first, the schedule, the routing of the busiest step, and why."""
    console.print(Text(plan.request.model, style="bold"))
    _decision(plan, console)
    _asked(plan, console)
    _schedule(plan, console, explain=explain)
    _routing(plan, console, explain=explain)
    _promises(plan, console, explain=explain)
    _why(plan, console, explain=explain)
    for note in plan.provenance.notes:
        bullet(console, note)


def busiest(plan: Plan) -> ScheduledStep:
    return max(plan.decision.schedule, key=lambda step: step.rate_rps)


def engine_words(group: EngineGroup) -> str:
    what = group.gpu if group.table else f"{group.layout.label} on {group.gpu}"
    what = what if group.role == "aggregated" else f"{group.role} {what}"
    return what + ("" if group.supply == "on_demand" else f", {group.supply}")


def _decision(plan: Plan, console: Console) -> None:
    step = busiest(plan)
    for group in plan.decision.engines:
        count = step.engines[group.id]
        serves = f" for {group.service}" if len(plan.request.services) > 1 else ""
        indented(console, Text(f"{count} × {engine_words(group)}{serves}  ({group.id})", style="bold green"))
    cost, electricity = plan.decision.usd_per_hour, plan.prediction.electricity_usd_per_hour
    words = []
    if cost is not None:
        mean = "" if len(plan.decision.schedule) == 1 else " on average"
        words = [f"${cost:,.2f} per hour{mean}", f"${cost * 24:,.0f} per day"]
        if tokens := _per_million(plan):
            words.append(tokens + ("" if electricity is None else ", electricity included"))
    if len(plan.decision.schedule) > 1:
        words.append(f"engines as of {_clock(step.start_s)}, the busiest step")
    if electricity is not None:
        mean = "" if len(plan.decision.schedule) == 1 else " on average"
        words.append(f"${electricity.value:,.2f} of electricity an hour beside{mean}, at full load")
    indented(console, Text("; ".join(words)))
    instances = {pool.name: (pool.instance, pool.gpus_per_node) for pool in plan.request.cluster.pools if pool.instance}
    for name, count in step.instances.items():
        node, gpus = instances.get(name, (name, 0))
        if count:
            indented(console, Text(f"{count} × {node} bought whole ({gpus} GPUs each)"))


def _per_million(plan: Plan) -> str:
    """What a million tokens cost, in words; of several services of each, what its engines do."""
    several = len(plan.request.services) > 1
    return "; ".join(
        (f"{each.name}: " if several else "") + f"${each.usd_per_million_input_tokens:,.2f} per million input or "
        f"${each.usd_per_million_output_tokens:,.2f} per million output tokens"
        for each in plan.prediction.services
        if each.usd_per_million_input_tokens is not None and each.usd_per_million_output_tokens is not None
    )


def _asked(plan: Plan, console: Console) -> None:
    request = plan.request
    heading(console, "Asked")
    rows = []
    for service in request.services:
        promises = [promise(bound.metric, bound.percentile, bound.limit_ms) for bound in service.slo.bounds]
        peak = max(service.load.steps, key=lambda step: step.rate_rps)
        what = service.model or f"measured tables of {', '.join(service.tables)}"
        steps = len(service.load.steps)
        rows.append((service.name, what))
        classes = f"{len(peak.classes)} class{'' if len(peak.classes) == 1 else 'es'}"
        most = f" at most, {steps} steps" if steps > 1 else ""
        rows.append(("", f"{service.load.source}; {classes}, {per_second(f'{peak.rate_rps:.4g}')}{most}"))
        rows.append(
            ("", "; ".join(promises) or ("what the tables were measured for" if service.tables else "no promise"))
        )
    rows.append(("routed by", {"isl": "prompt length", "isl,osl": "prompt and output length"}[request.route_by]))
    if order := _order(plan):
        rows.append(("filled", order))
    if request.disaggregation == "always" or (request.disaggregation == "never" and not _of_tables(plan)):
        apart = "always" if request.disaggregation == "always" else "never"
        rows.append(("engines", f"prefill and decode {apart} apart"))
    asked = request.survive
    said = []
    for name in ("engines", "nodes", "spot_pools", "zones"):
        if count := getattr(asked, name):
            what = name.replace("_", " ")
            said.append(f"the loss of any {f'{count} {what}' if count > 1 else what.removesuffix('s')}")
    if said:
        share = "" if asked.share == 1 else f", with {percent(asked.share)} of the load"
        rows.append(("survives", " or ".join(said) + share))
    facts(console, rows)


def _of_tables(plan: Plan) -> bool:
    return any(service.tables for service in plan.request.services)


def _order(plan: Plan) -> str:
    """The order in which pools are filled, in words; empty: they have none."""
    places: dict[float, list[str]] = {}
    for pool in plan.request.cluster.pools:
        if isinstance(pool, SuppliedPool):
            places.setdefault(pool.preference or math.inf, []).append(pool.name)
    if set(places) <= {math.inf}:
        return ""
    return ", then ".join(" and ".join(places[place]) for place in sorted(places))


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _schedule(plan: Plan, console: Console, *, explain: bool) -> None:
    schedule = plan.decision.schedule
    if len(schedule) == 1 and not explain:
        return
    heading(console, "Schedule")
    shown = schedule if explain or len(schedule) <= 24 else schedule[:FEW]
    rows = table(
        "from",
        "to",
        "requests/s",
        *(group.id.replace("engine-", "#") for group in plan.decision.engines),
        "$ / h",
        left=2,
    )
    for step in shown:
        usd = "" if step.usd_per_hour is None else f"{step.usd_per_hour:,.2f}"
        counts = [str(step.engines[group.id] or "") for group in plan.decision.engines]
        rows.add_row(_clock(step.start_s), _clock(step.end_s), number(step.rate_rps), *counts, usd)
    console.print(rows)
    if len(shown) < len(schedule):
        indented(console, Text(f"and {len(schedule) - len(shown)} more steps (--explain, or the document)"))


def _range(low: float, high: float | None) -> str:
    return f"{low:g}" if high is not None and high - low <= 1 else f"{low:g} to {high:g}"


def _routing(plan: Plan, console: Console, *, explain: bool) -> None:
    step = busiest(plan)
    heading(console, "Routing" if len(plan.decision.schedule) == 1 else f"Routing from {_clock(step.start_s)}")
    _routes(plan, step.routing, console, explain=explain)
    losses = step.after_losses
    for loss in losses if explain else losses[:1]:
        gone = " and ".join(f"{count} of {name}" for name, count in loss.lost.items())
        indented(console, Text(f"while {gone} {'is' if sum(loss.lost.values()) == 1 else 'are'} lost:"))
        _routes(plan, loss.routing, console, explain=explain)
    if not explain and len(losses) > 1:
        more = f"and another routing for each of {len(losses) - 1} more losses"
        indented(console, Text(f"{more} (--explain, or after_losses in the document)"))


def _routes(plan: Plan, routing: tuple[Route, ...], console: Console, *, explain: bool) -> None:
    both = plan.request.route_by == "isl,osl"
    rows = table("prompts", *(("outputs",) if both else ()), "go to", left=3)
    shown = _joined(routing)
    for route in shown if explain else shown[:FEW]:
        weights = _shares(route.weights)
        if route.decode_weights:
            weights += f", then {_shares(route.decode_weights)}"
        service = f"{route.service}: " if len(plan.request.services) > 1 else ""
        lengths = [service + _range(route.isl_from, route.isl_to)]
        if both:
            assert route.osl_from is not None
            lengths.append(_range(route.osl_from, route.osl_to))
        rows.add_row(*lengths, weights)
    console.print(rows)
    if not explain and len(shown) > FEW:
        indented(console, Text(f"and {len(shown) - FEW} more ranges (--explain, or the document)"))


def _shares(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in weights.items())


def _joined(routing: tuple[Route, ...]) -> list[Route]:
    """Ranges that follow each other and go the same way as one."""
    out: list[Route] = []
    for route in routing:
        last = out[-1] if out else None
        if (
            last is not None
            and (last.service, last.weights, last.osl_from) == (route.service, route.weights, None)
            and last.decode_weights == route.decode_weights
            and (last.isl_to == route.isl_from)
        ):
            out[-1] = last.model_copy(update={"isl_to": route.isl_to})
        else:
            out.append(route)
    return out


def _promises(plan: Plan, console: Console, *, explain: bool) -> None:
    attained = [service for service in plan.prediction.services if service.classes]
    if not attained:
        return
    heading(console, "What requests see")
    lost = any(service.worst_loss is not None for service in attained)
    after = ("after a loss",) if lost else ()
    rows = table("service", "isl", "osl", "requests/s", "TTFT p90", "TPOT p90", "holds", *after, left=1)
    for service in attained:
        for each in service.classes if explain else service.classes[:FEW]:
            ttft = "" if each.ttft_ms is None else f"{each.ttft_ms.p90.value:,.0f} ms"
            tpot = "" if each.tpot_ms is None else f"{each.tpot_ms.p90.value:,.1f} ms"
            told = [HOLDS[each.holds]]
            if lost:
                told.append(HOLDS[None if each.after_loss is None else each.after_loss.holds])
            rows.add_row(service.name, f"{each.isl:,.0f}", f"{each.osl:,.0f}", number(each.rate_rps), ttft, tpot, *told)
    console.print(rows)
    for service in attained:
        if service.holds is False:
            bullet(console, f"{service.name}: its promise does not hold in every step")
        if service.worst_loss is not None:
            held = {None: "was not simulated", True: "holds", False: "does not hold"}[service.holds_after_loss]
            bullet(console, f"{service.name}: its promise {held} after the worst loss ({service.worst_loss})")


def _why(plan: Plan, console: Console, *, explain: bool) -> None:
    proof = plan.proof
    heading(console, "Why this fleet")
    value, bound = number(proof.objective_value, 5), number(proof.bound, 5)
    unit = proof.objective_unit + (", with electricity at full load" if plan.request.usd_per_kwh is not None else "")
    which = "of these engines" + (" that keeps the order of the pools" if _order(plan) else "")
    if proof.status == "optimal":
        indented(console, Text(f"{value} {unit}; no fleet {which} is cheaper (gap 0)"))
    else:
        gap = f"{proof.gap:.2%}"
        indented(console, Text(f"{value} {unit}; no fleet {which} is below {bound} (gap {gap})"))
    indented(console, Text(f"bound by {proof.binding_constraint}"))
    fleet = proof.fleet
    if fleet is None:
        return
    if fleet.compared:
        rows = table("compared with", "$ / h", "dearer by", "engines", left=1)
        for column in rows.columns[:3]:
            column.no_wrap = True
        rows.columns[0].min_width = max(len(each.name) for each in fleet.compared)
        rows.columns[1].min_width, rows.columns[2].min_width = 10, len("dearer by")
        rows.columns[3].no_wrap, rows.columns[3].overflow = False, "fold"
        for each in fleet.compared:
            cost = "none" if each.usd_per_hour is None else f"{each.usd_per_hour:,.2f}"
            more = "" if each.loses_by is None else percent(each.loses_by)
            most = sorted(each.engines.items(), key=lambda item: -item[1])
            counts = ", ".join(f"{count} × {name}" for name, count in most[:2]) or (each.reason or "")
            counts += f" and {len(most) - 2} more" if len(most) > 2 else ""
            counts += f" ({each.reason})" if most and each.reason else ""
            rows.add_row(each.name, cost, more, counts)
        console.print(rows)
        if plan.request.usd_per_kwh is not None:
            indented(console, Text("$ / h is what GPUs cost; “dearer by” counts electricity too"))
        alone = [row for row in fleet.compared if row.name.endswith(" alone") and row.name != "each step alone"]
        if alone and alone[0].loses_by is not None and alone[0].loses_by < 1e-6:
            indented(console, Text(NO_MIX))
    for demand in fleet.demands:
        if demand.costs_usd_per_hour is not None:
            bullet(console, f"{demand.demand} costs ${demand.costs_usd_per_hour:,.2f} an hour")
    for supply in fleet.supplies:
        saves = supply.usd_per_hour_of_one_more
        more = "" if saves is None else f"; one more would save ${saves:,.2f} an hour"
        bullet(console, f"{supply.pool}: {supply.used_gpus:g} of {supply.limit_gpus:g} GPUs used{more}")
    for row in fleet.rows:
        saves = row.usd_per_hour_of_one_kw_more
        more = "" if saves is None else f"; one kW more would save ${saves:,.2f} an hour"
        bullet(console, f"row {row.row}: {row.watts / 1e3:,.4g} of {row.budget_watts / 1e3:,.4g} kW at most{more}")
    if fleet.coarsening is not None:
        words = f"{fleet.classes} classes stand for the traces: four times as many change capacity by"
        words += f" {percent(fleet.coarsening)}"
        bullet(console, words)
    for words in _not_served(plan, fleet.not_served):
        bullet(console, words)


def _not_served(plan: Plan, lost: Sequence[NotServed]) -> list[str]:
    """Classes that nothing serves, those of one reason together."""
    one = len(plan.decision.schedule) == 1
    asked = {service.name: service.load.steps[0].rate_rps for service in plan.request.services if one}
    out = []
    for key in dict.fromkeys((each.service, each.reason, each.remedy) for each in lost):
        mine = [each for each in lost if (each.service, each.reason, each.remedy) == key]
        rate = sum(each.rate_rps for each in mine)
        spans = []
        for name in ("isl", "osl"):
            lengths = [getattr(each, name) for each in mine]
            low, high = number(min(lengths)), number(max(lengths))
            spans.append(f"{name} {low}" + ("" if low == high else f" to {high}"))
        classes = "1 class" if len(mine) == 1 else f"{len(mine):,} classes"
        at = per_second(number(rate))
        share = f" ({percent(rate / most)})" if (most := asked.get(key[0], 0.0)) else ""
        out.append(f"not served: {key[0]}, {classes}, {', '.join(spans)}, {at}{share}: {key[1]}; {key[2]}")
    return out
