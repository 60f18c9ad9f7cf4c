"""The part of a plan's view that compares ways to serve: prefill and decode together or apart, and precisions."""

from __future__ import annotations

from rich.console import Console

from api.cli.console import bullet, heading, indented, table
from api.cli.views.quantities import milliseconds, number, percent, several
from planner.serving.document.plan import Compared, Plan
from planner.serving.document.prediction import KvTransfer


def roles_words(plan: Plan) -> str:
    """``Prefill on 8 GPUs, decode on 4: 2 prefill engines for each decode engine``."""
    engines = {role: sum(len(g.replicas) for g in plan.decision.engines if g.role == role) for role in _ROLES}
    gpus = {
        role: sum(len(g.replicas) * g.gpus_per_engine for g in plan.decision.engines if g.role == role)
        for role in _ROLES
    }
    ratio = engines["prefill"] / engines["decode"]
    more, fewer = _ROLES if ratio >= 1 else _ROLES[::-1]
    return (
        f"Prefill and decode apart: {several(gpus['prefill'], 'GPU')} prefill, {gpus['decode']} decode; "
        f"{number(max(ratio, 1 / ratio), 2).rstrip('0').rstrip('.')} {more} engine{'s' if ratio != 1 else ''} "
        f"for each {fewer} engine"
    )


_ROLES = ("prefill", "decode")


def transfer_words(transfer: KvTransfer) -> str:
    """What each request's KV cache takes to cross the link."""
    hidden = transfer.time_ms.value - transfer.exposed_ms.value
    after = "all of it" if hidden <= 0 else milliseconds(transfer.exposed_ms.value)
    busy = max(transfer.sender_busy, transfer.receiver_busy)
    return (
        f"KV cache: {transfer.bytes_per_request / 1e9:.2f} GB a request over {transfer.link}, "
        f"{milliseconds(transfer.time_ms.value)}, {after} after the prefill; links at most {percent(busy)} busy"
    )


def verdict(plan: Plan) -> list[tuple[str, str]]:
    """One line: which way to serve won in the plan's precision, and by how much."""
    chosen = [row for row in plan.proof.compared if row.chosen]
    if not chosen:
        return []
    others = [
        row
        for row in plan.proof.compared
        if row.serving != chosen[0].serving
        and (row.weights_precision, row.kv_precision) == (chosen[0].weights_precision, chosen[0].kv_precision)
    ]
    return [("compared", _against(plan, chosen[0], other)) for other in others]


def _against(plan: Plan, chosen: Compared, other: Compared) -> str:
    unit = plan.proof.objective_unit
    if other.objective_value is None or other.loses_by is None:
        return f"{chosen.serving}; {other.serving}: {other.reason}"
    its, own = number(other.objective_value, 4), number(chosen.objective_value or 0.0, 4)
    if other.loses_by < 0:
        if plan.proof.simplest_within is not None and -other.loses_by <= plan.proof.simplest_within:
            return f"{chosen.serving}, the simpler: {own} {unit}; {other.serving} would reach {its}"
        return f"{chosen.serving} as asked: {own} {unit}; {other.serving} would reach {its}"
    if other.loses_by < 5e-5:
        return f"{chosen.serving}: {own} {unit}; {other.serving} reaches the same"
    return f"{chosen.serving} is {percent(other.loses_by)} better: {own} against {its} {unit} {other.serving}"


def show(plan: Plan, console: Console) -> None:
    """The table of all ways, where precisions were compared."""
    rows = plan.proof.compared
    if len({(row.weights_precision, row.kv_precision) for row in rows}) < 2:
        return
    heading(console, "Precisions")
    unit = plan.proof.objective_unit
    out = table("weights", "KV cache", "serving", unit, "worse by", "weights, GB", "KV, kB a token", left=3)
    for row in rows:
        if row.objective_value is None or row.loses_by is None:
            continue
        out.add_row(
            row.weights_precision,
            row.kv_precision,
            row.serving + (" ←" if row.chosen else ""),
            number(row.objective_value, 4),
            percent(row.loses_by),
            number(row.weights_bytes / 1e9),
            number(row.kv_bytes_per_token / 1e3),
        )
    indented(console, out)
    for line in dict.fromkeys(
        f"{row.weights_precision} weights, {row.kv_precision} KV cache: accuracy {row.accuracy}"
        if row.objective_value is not None
        else f"{row.weights_precision} weights, {row.kv_precision} KV cache, {row.serving}: {row.reason}"
        for row in rows
    ):
        bullet(console, line)
