"""The part of a plan's view that says what will happen: promises, latencies, rates, memory."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from api.cli.console import heading, indented, table
from api.cli.views.quantities import (
    gib,
    growing_range,
    milliseconds,
    number,
    percent,
    plain_range,
    probability,
    promise,
    several,
    watts,
    watts_range,
)
from planner.contract.engine import EngineGroup
from planner.contract.quantities import Interval
from planner.serving.document.plan import Plan
from planner.serving.document.prediction import Effect, GroupPrediction, MemoryParts

BAR = 30  # columns of a memory bar

MEMORY_PARTS = {
    "weights_bytes": "weights",
    "kv_cache_bytes": "KV cache",
    "activation_bytes": "activations",
    "cuda_graph_bytes": "CUDA graphs",
    "communication_bytes": "communication and libraries",
    "context_bytes": "driver and process",
    "reserve_bytes": "reserve for fragmentation",
    "unused_bytes": "left to others (memory fraction)",
}


SURE_ENOUGH = 0.8
"""Below this, the view says how to ask for a surer plan."""


def show(plan: Plan, console: Console) -> None:
    """Prints the prediction, and what the KV cache holds."""
    _prediction(plan, console)
    console.print()
    for group, prediction in zip(plan.decision.engines, plan.prediction.engines, strict=True):
        of = f" of {group.id}" if len(plan.decision.engines) > 1 else ""
        indented(console, Text(f"The KV cache{of} {_held(plan, group, prediction)}"))


def promises(plan: Plan, console: Console) -> None:
    """Prints what is promised, and how sure it is."""
    if not plan.prediction.slo:
        return
    heading(console, "SLO")
    simulated = any(check.formula_ms is not None for check in plan.prediction.slo)
    names = ("simulated", "by formula") if simulated else ("predicted",)
    rows = table("promise", *names, "80 % interval", "margin", "sure that it holds")
    for check in plan.prediction.slo:
        rows.add_row(
            promise(check.metric, check.percentile, check.limit_ms),
            milliseconds(check.predicted.value),
            *([milliseconds(check.formula_ms)] if check.formula_ms is not None else []),
            growing_range(check.predicted, plan.provenance.notes),
            percent(check.margin),
            Text(probability(check.confidence), style="green" if check.confidence >= 0.9 else "yellow"),
        )
    indented(console, rows)
    if any("falls behind" in growing_range(check.predicted, plan.provenance.notes) for check in plan.prediction.slo):
        console.print(
            Text("  Falls behind: at the slow end of the prediction the queue grows for as long as the load.")
        )
    if min(check.confidence for check in plan.prediction.slo) < SURE_ENOUGH:
        console.print(
            Text(f"  --confidence {SURE_ENOUGH:g} asks for a plan that leaves room for the prediction's own error.")
        )


def _prediction(plan: Plan, console: Console) -> None:
    prediction = plan.prediction
    slowest = " (latency: of the slowest engines)" if plan.proof.fleet and len(prediction.engines) > 1 else ""
    heading(console, f"Prediction{slowest}")
    rows = table("latency", "mean", "80 % interval", "p50", "p90", "p95", "p99")
    for name, latency in (
        ("time to first token (TTFT)", prediction.ttft_ms),
        ("time per output token (TPOT)", prediction.tpot_ms),
        ("whole request (E2E)", prediction.e2e_ms),
    ):
        if latency is None:
            continue
        rows.add_row(
            name,
            milliseconds(latency.mean.value),
            growing_range(latency.mean, plan.provenance.notes),
            *(
                "–" if at is None else milliseconds(at.value)
                for at in (latency.p50, latency.p90, latency.p95, latency.p99)
            ),
        )
    indented(console, rows)
    parts = [f"{part} {milliseconds(ms)}" for part, ms in prediction.ttft_ms_by_part.items() if ms]
    if parts:
        by = " by formula" if any(group.simulation is not None for group in prediction.engines) else ""
        indented(console, Text(f"Mean TTFT{by}: {' + '.join(parts)}"))
    for effect in prediction.effects:
        indented(console, Text(_effect(effect)))
    console.print()
    rows = table("", "", "80 % interval")
    for label, value, interval in _rates(plan):
        rows.add_row(label, value, interval)
    indented(console, rows)
    if len(prediction.engines) > 1:
        console.print()
        _groups(plan, console)


def _effect(effect: Effect) -> str:
    """``… ; without it TTFT 612 ms, TPOT 24.1 ms (means)``."""
    times = (("TTFT", effect.ttft_ms_without), ("TPOT", effect.tpot_ms_without))
    said = [f"{name} {milliseconds(ms)}" for name, ms in times if ms is not None]
    without = (
        f"; without {'it' if effect.fact == 'speculation' else 'them'} {', '.join(said)} (means, as many decoding)"
        if said
        else ""
    )
    return f"{effect.summary[0].upper()}{effect.summary[1:]}{without}."


def _rates(plan: Plan) -> Iterator[tuple[str, str, str]]:
    prediction = plan.prediction
    offered = plan.request.workload.rate_rps
    carried = "requests/s carried within the SLO" if plan.request.slo.bounds else "requests/s carried"
    if offered is not None and plan.request.objective != "throughput":
        carried = "requests/s offered and served"

    def plain(label: str, interval: Interval) -> tuple[str, str, str]:
        return label, number(interval.value), plain_range(interval)

    yield plain(carried, prediction.request_rate_rps)
    yield plain("output tokens/s", prediction.output_tokens_per_s)
    yield plain("output tokens/s of a GPU", prediction.output_tokens_per_s_per_gpu)
    if prediction.output_tokens_per_s_per_user is not None:
        yield plain("output tokens/s of a user", prediction.output_tokens_per_s_per_user)
    yield "load ÷ what the SLO lets it carry", percent(prediction.utilisation), ""
    power = prediction.power_watts
    if power is not None:
        yield f"power of {several(plan.decision.gpus_used, 'GPU')}", watts(power.value), watts_range(power)
    if prediction.joules_per_input_token is not None:
        yield plain("J per input token", prediction.joules_per_input_token)
    if prediction.joules_per_output_token is not None:
        yield plain("J per output token", prediction.joules_per_output_token)
    electricity = prediction.electricity_usd_per_hour
    if electricity is not None:
        yield plain("$ of electricity an hour", electricity)
    if prediction.usd_per_million_output_tokens is not None:
        label = "" if electricity is None else ", electricity included"
        yield plain(f"$ per million output tokens{label}", prediction.usd_per_million_output_tokens)


def _groups(plan: Plan, console: Console) -> None:
    apart = plan.prediction.kv_transfer is not None
    in_it, first = ("sequences", "prefilled p90") if apart else ("decoding", "TTFT p90")
    rows = table("engines", "requests/s each", "utilisation", in_it, first, "TPOT p90", "watts a GPU")
    roles = {group.id: group.role for group in plan.decision.engines}
    for group in plan.prediction.engines:
        rows.add_row(
            f"{group.engine}, {roles[group.engine]}" if apart else group.engine,
            number(group.load_rps),
            percent(group.load_rps / group.rate_rps.value),
            sequences(group.concurrency),
            "–" if group.ttft_ms is None else milliseconds(group.ttft_ms.p90.value),
            "–" if group.tpot_ms is None else milliseconds(group.tpot_ms.p90.value),
            number(group.power_watts.value),
        )
    indented(console, rows)


def sequences(mean: float) -> str:
    """A mean number of sequences: 64, 0.59."""
    return f"{int(mean):,}" if float(mean).is_integer() else number(mean, 2)


def memory(plan: Plan, console: Console) -> None:
    """Prints where the memory of the fullest GPU of each engine goes."""
    for group, prediction in zip(plan.decision.engines, plan.prediction.engines, strict=True):
        memory = prediction.memory
        of = f" of {group.id}" if len(plan.decision.engines) > 1 else ""
        heading(console, f"Memory of the fullest GPU{of}: {group.gpu}, {gib(memory.total_bytes)} GiB")
        rows = table("part", "GiB", "share", "")
        rows.columns[3].justify = "left"
        for label, size in memory_parts(memory):
            share = size / memory.total_bytes
            rows.add_row(label, gib(size), percent(share), "█" * round(max(share, 0) * BAR))
        indented(console, rows)


def _held(plan: Plan, group: EngineGroup, prediction: GroupPrediction) -> str:
    """``holds 1,741,578 tokens: 387 requests of 4,500 tokens; 189 decode at a time.``"""
    work, held = plan.request.workload, prediction.memory.kv_tokens
    tokens = work.mean_isl + (0 if group.role == "prefill" else work.mean_osl)
    each = " in each attention replica" if group.layout.dp > 1 else ""
    if (many := prediction.memory.kv_sequences) is not None:
        return f"holds the state of {many:,} sequences{each}; {sequences(prediction.concurrency)} decode at a time."
    what, does = ("prompts", "are here") if group.role == "prefill" else ("requests", "decode")
    return (
        f"holds {held:,} tokens{each}: {held // tokens:,} {what} of {tokens:,} tokens; "
        f"{sequences(prediction.concurrency)} {does} at a time."
    )


def memory_parts(memory: MemoryParts) -> list[tuple[str, float]]:
    """(name, bytes) of each part that takes any, as they add up to the total."""
    parts = [(label, float(getattr(memory, field))) for field, label in MEMORY_PARTS.items()]
    return [(label, size) for label, size in parts if size]
