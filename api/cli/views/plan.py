"""A plan as people read it, in at most 100 columns."""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, facts, heading, indented, table
from api.cli.views import comparison, predictions
from api.cli.views.quantities import milliseconds, number, parameters, per_second, percent, promise
from api.cli.views.words import experts_words, group_words, percentile_of, pool_words, state_words
from costmodels.serving.frameworks.framework import find_framework
from planner.serving.document.plan import Alternative, Plan, RequestUnderstood

SHOWN_ALTERNATIVES = 5

OBJECTIVES = {
    "throughput": "most requests per second",
    "cost": "least cost for the rate",
    "gpus": "fewest GPUs for the rate",
    "latency": "shortest mean time of a request",
    "energy": "fewest joules per output token",
}


def show(plan: Plan, console: Console, *, explain: bool = False) -> None:
    """Prints the plan, the decision and its promises first; with ``explain`` also what was rejected, where time and
    memory go, frontier, placement."""
    console.print(Text(plan.request.model, style="bold"))
    _decision(plan, console)
    predictions.promises(plan, console)
    _asked(plan, console)
    _launch(plan, console)
    predictions.show(plan, console)
    _reason(plan, console)
    _alternatives(plan, console)
    _clusters(plan, console)
    if explain:
        from api.cli.views import explain as more

        more.show(plan, console)
    _notes(plan, console)


# ------------------------------------------------------------------ what was asked


def _asked(plan: Plan, console: Console) -> None:
    request = plan.request
    heading(console, "Asked")
    promises = [promise(bound.metric, bound.percentile, bound.limit_ms) for bound in request.slo.bounds]
    rows = [("model", _model(request))]
    rows += [("cluster" if i == 0 else "", pool_words(pool)) for i, pool in enumerate(request.cluster.pools)]
    rows += [
        ("workload", _workload(request)),
        ("SLO", "; ".join(promises) or "none: any latency will do"),
        ("objective", f"{request.objective}: {OBJECTIVES[request.objective]}"),
    ]
    limits = _restrictions(request)
    if limits:
        rows.append(("restricted", limits))
    facts(console, rows)


def _model(request: RequestUnderstood) -> str:
    size = f"{parameters(request.parameters)} parameters"
    if request.active_parameters != request.parameters:
        size += f", {parameters(request.active_parameters)} active"
    converted = " (converted)" if request.precision_converted else ""
    framework = find_framework(request.framework)  # plans of earlier days name no release
    return (
        f"{size}; {request.weights_precision} weights{converted}, {request.kv_precision} KV cache; "
        f"{framework.title if '@' in request.framework else framework.full_name}"
    )


def _workload(request: RequestUnderstood) -> str:
    work = request.workload
    rate = "as many requests as fit" if work.rate_rps is None else per_second(f"{work.rate_rps:g}")
    if request.concurrency is not None:
        rate = f"{request.concurrency:,} users at once, about {number(work.rate_rps or 0)} requests/s"
    if request.headroom:
        rate += f", {percent(request.headroom)} headroom among them"
    words = [work.told(), rate]
    if work.recorded is not None and work.recorded.timed and work.rate_rps is not None:
        words[1] += f" ({work.recorded.rate_of})"
    if work.max_len is not None:
        refused = f", which refuses {percent(work.refused_share)}" if work.refused_share else ""
        words.append(f"at most {work.max_len:,} tokens a request{refused}")
    if work.prefix_hit:
        words.append(f"{percent(work.prefix_hit)} of a prompt is in the prefix cache")
    if work.speculation is not None:
        draft = work.speculation
        words.append(f"{draft.draft_tokens} tokens drafted a step, acceptance {draft.acceptance:g}")
    return "; ".join(words)


def _restrictions(request: RequestUnderstood) -> str:
    names = (("tp", request.max_tp), ("pp", request.max_pp), ("GPUs of an engine", request.max_engine_gpus))
    words = [f"{name} ≤ {value}" for name, value in names if value is not None]
    if request.confidence != 0.5:
        words.append(f"each promise holds with probability {request.confidence:g}")
    for what, chosen in (("SM clock", request.clock), ("power limit", request.power_cap)):
        if chosen is not None:
            words.append(f"{what} {' or '.join(chosen)}")
    if request.budget_watts is not None:
        words.append(f"at most {request.budget_watts:,.0f} W in all")
    if request.usd_per_kwh is not None:
        words.append(f"electricity at {request.usd_per_kwh:g} USD/kWh")
    if request.tp_across_nodes:
        words.append("tensor parallel may span nodes")
    if request.disaggregation != "auto" and request.weights_precisions:
        words.append(f"prefill and decode {'always' if request.disaggregation == 'always' else 'never'} apart")
    return ", ".join(words)


# ------------------------------------------------------------------ what was decided


def _decision(plan: Plan, console: Console) -> None:
    pools = {pool.name: pool for pool in plan.request.cluster.pools}
    if plan.prediction.kv_transfer is not None:
        indented(console, Text(comparison.roles_words(plan), style="bold green"))
    for group in plan.decision.engines:
        indented(console, Text(group_words(group, pools[group.pool]), style="bold green"))
        if len(plan.decision.engines) > 1:
            share = sum(replica.weight for replica in group.replicas)
            what = {"aggregated": "requests", "prefill": "prompts", "decode": "answers"}[group.role]
            indented(console, Text(f"  {group.id}: {percent(share)} of the {what}"))
        if group.expert_placement is not None:
            indented(console, Text(experts_words(group.expert_placement)))
    if plan.prediction.kv_transfer is not None:
        indented(console, Text(comparison.transfer_words(plan.prediction.kv_transfer)))
    cost = plan.decision.usd_per_hour
    spare = plan.decision.gpus_idle
    idle = f"{spare} GPU{'s stay' if spare > 1 else ' stays'} idle" if spare else ""
    price = "" if cost is None else f"${cost:,.2f} per hour"
    line = "; ".join(filter(None, (price, idle)))
    if line:
        indented(console, Text(line))


# ------------------------------------------------------------------ why


def _reason(plan: Plan, console: Console) -> None:
    proof = plan.proof
    heading(console, "Why this plan")
    value = f"{number(proof.objective_value, 4)} {proof.objective_unit}"
    bound = f"{number(proof.bound, 4)} {proof.objective_unit}"
    if proof.status == "optimal":
        said = f"{value}; no choice among the candidates is better than {bound} (gap {percent(proof.gap)})"
    elif proof.simplest_within is not None:
        said = (
            f"{value}; the simplest of the plans within {percent(proof.simplest_within)} of the best, which reaches "
            f"{bound} at most"
        )
    else:
        reason = "the time limit ended the search" if proof.status == "time_limit" else "not proved optimal"
        said = f"{value}; {reason}: at best {bound} (gap {percent(proof.gap)})"
    inside = "within the SLO" if plan.request.slo.bounds else "in which prefill keeps up"
    facts(
        console,
        [
            (proof.objective, said),
            ("limited by", proof.binding_constraint),
            ("considered", f"{proof.layouts_considered:,} layouts, {proof.layouts_legal:,} of them legal"),
            (
                "predicted",
                f"{proof.operating_points:,} operating points (layout × batch limits × load), "
                f"{proof.operating_points_within_slo:,} {inside}",
            ),
            ("chosen from", f"{proof.candidates:,} candidates, by {proof.engine}"),
            ("kernel times", _origin(plan)),
            *comparison.verdict(plan),
        ],
    )
    comparison.show(plan, console)


def _origin(plan: Plan) -> str:
    words = {
        "measured": "measured",
        "forest": "measured, or learned from measurements where not",
        "roofline": "partly estimated from peak rates alone: nothing like them was measured",
    }
    weakest = max((group.how for group in plan.prediction.engines), key=list(words).index)
    inside = all(group.inside_measured_range for group in plan.prediction.engines)
    return words[weakest] + ("" if inside else "; some lie outside the measured range")


def _alternatives(plan: Plan, console: Console) -> None:
    shown = plan.alternatives.ranked[:SHOWN_ALTERNATIVES]
    apart = plan.prediction.kv_transfer is not None
    heading(console, "Best layouts of aggregated engines" if apart else "Next best layouts")
    if not shown:
        does = "carries this load within the SLO" if plan.request.objective != "throughput" else "meets the SLO"
        none = f"No other layout of these GPUs {does}." if plan.request.slo.bounds else "There is no other layout."
        indented(console, Text(none))
        return
    ttft, tpot = (f"{metric} p{percentile_of(plan, metric):g}" for metric in ("TTFT", "TPOT"))
    names = (
        "layout",
        "GPUs",
        "requests/s",
        "tok/s/GPU",
        "tok/s/user",
        ttft,
        tpot,
        "$/h",
        "worse by",
    )
    rows = table(*names)
    for other in shown:
        rows.add_row(*_alternative(plan, other))
    indented(console, rows)


def _clusters(plan: Plan, console: Console) -> None:
    if not plan.alternatives.clusters:
        return
    heading(console, "Clusters to choose from")
    rows = table("cluster", "GPUs", "$/h", plan.proof.objective_unit, "worse by", "")
    rows.columns[-1].justify = "left"
    rows.columns[-1].no_wrap = False
    for each in plan.alternatives.clusters:
        rows.add_row(
            each.name,
            "–" if each.gpus is None else f"{each.gpus:,}",
            "–" if each.usd_per_hour is None else number(each.usd_per_hour),
            "–" if each.objective_value is None else number(each.objective_value),
            "–" if each.loses_by is None else percent(each.loses_by),
            "chosen" if each.chosen else each.reason or "",
        )
    indented(console, rows)


def _alternative(plan: Plan, other: Alternative) -> tuple[str, ...]:
    where = f" ({other.pool})" if len(plan.request.cluster.pools) > 1 else ""
    return (
        f"{other.engines} × {other.layout.label}{where}{state_words(other)}",
        str(other.gpus),
        number(other.engines * other.engine_rate_rps),
        number(other.output_tokens_per_s_per_gpu),
        "–" if other.output_tokens_per_s_per_user is None else number(other.output_tokens_per_s_per_user),
        milliseconds(other.ttft_ms),
        "–" if other.tpot_ms is None else milliseconds(other.tpot_ms),
        "–" if other.usd_per_hour is None else number(other.usd_per_hour),
        percent(other.loses_by),
    )


# ------------------------------------------------------------------ how to run it


def _launch(plan: Plan, console: Console) -> None:
    for group in plan.decision.engines:
        of = f" of {group.id}" if len(plan.decision.engines) > 1 else ""
        role = "" if group.role == "aggregated" else f"{group.role} "
        heading(console, f"Start each {role}engine{of} with")
        # Not through rich: a line that is copied must not be re-wrapped.
        for line in command_lines(group.launch.command, console.width - 4):
            console.out(f"  {line}", highlight=False)
    console.print()
    for note in dict.fromkeys(note for group in plan.decision.engines for note in group.launch.notes):
        bullet(console, note)  # once: groups share most of them


def command_lines(command: tuple[str, ...], width: int) -> list[str]:
    """The command for a POSIX shell, broken between arguments with backslashes; flags stay with their values.
    Words that start with ``$`` are left for the shell to fill in."""
    words = [f'"{word}"' if word.startswith("$") else shlex.quote(word) for word in command]
    units: list[str] = []
    for word, raw in zip(words, command, strict=True):
        follows = units and units[-1].startswith("--") and " " not in units[-1] and not raw.startswith("-")
        if follows:
            units[-1] += f" {word}"
        else:
            units.append(word)
    lines = [""]
    for unit in units:
        if lines[-1].strip() and len(lines[-1]) + len(unit) + 3 > width:
            lines.append("  ")
        lines[-1] += unit if not lines[-1].strip() else f" {unit}"
    return [line + (" \\" if i < len(lines) - 1 else "") for i, line in enumerate(lines)]


def _notes(plan: Plan, console: Console) -> None:
    provenance = plan.provenance
    heading(console, "What to know of these numbers")
    for note in provenance.notes:
        bullet(console, note)
    bullet(
        console,
        f"{provenance.package} {provenance.package_version}, cost model {provenance.cost_model_version}, "
        f"measurements {provenance.pack} {provenance.pack_version} ({provenance.pack_hash[:12]}). "
        f"{provenance.attribution}",
    )
