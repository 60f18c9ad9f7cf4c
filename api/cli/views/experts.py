"""An expert placement as people read it, in at most 100 columns."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, facts, heading, indented, table
from api.cli.views.quantities import gib, milliseconds, milliseconds_range, number, percent
from api.cli.views.words import pool_words
from planner.contract.quantities import Interval
from planner.experts.document import LayerTime, PlacementDocument

OBJECTIVES = {
    "balance": "the slowest GPU of each layer as fast as possible",
    "traffic": "a token's next experts as near as possible",
    "time": "least predicted time of a layer",
}


def show(placement: PlacementDocument, console: Console, *, written: list[str]) -> None:
    """Prints the placement's worth; the map itself is for machines."""
    _header(placement, console)
    _memory(placement, console)
    _balance(placement, console)
    _traffic(placement, console)
    _times(placement, console)
    heading(console, "What to know of these numbers")
    for note in placement.provenance.notes:
        bullet(console, note)
    if written:
        heading(console, f"Written: {', '.join(written)}")


def _header(placement: PlacementDocument, console: Console) -> None:
    request = placement.request
    console.print(Text(request.model, style="bold"))
    slots = sorted(set(request.slots_per_gpu))
    each = f"{slots[0]}" if len(slots) == 1 else f"{slots[0]}–{slots[-1]}"
    copies = f", {request.redundant} of {sum(request.slots_per_gpu)} slots are copies" if request.redundant else ""
    goal = f"{request.objective}: {OBJECTIVES[request.objective]}"
    if request.objective == "traffic":
        goal += f", at most {percent(request.balance_tolerance)} of balance given up"
    windows = ", ".join(window.name for window in request.windows[:4])
    more = f" and {len(request.windows) - 4} more" if len(request.windows) > 4 else ""
    rows = [
        ("experts", f"{request.moe_layers} layers of {request.experts}, {request.top_k} a token"),
        *(("cluster", pool_words(pool)) for pool in request.cluster.pools),
        ("slots", f"{each} per GPU and layer{copies}"),
        ("windows", f"{windows}{more}"),
    ]
    if request.routes is not None:
        rows.append(("routes", f"{request.routes}, {request.route_tokens:,} tokens"))
    if request.groups is not None:
        rows.append(("groups", f"{request.groups}, pinned to nodes"))
    before = request.current or "the engine's default: experts in order"
    if request.lost_gpus:
        before += f", without GPU {', '.join(map(str, request.lost_gpus))}: only what must moves"
    rows += [("objective", goal), ("before", before)]
    facts(console, rows)


def _memory(placement: PlacementDocument, console: Console) -> None:
    decision = placement.decision
    heading(console, "Memory")
    rows = [
        ("experts", f"{gib(decision.expert_bytes_per_gpu)} GiB on each GPU ({placement.request.weights_precision})")
    ]
    if placement.request.redundant:
        rows.append(("of which copies", f"{gib(decision.redundant_bytes_per_gpu)} GiB"))
    facts(console, rows)
    moves = decision.moves
    if moves is not None:
        heading(console, "Change")
        pays = moves.pays_back_after_steps
        facts(
            console,
            [
                (
                    "copies moved",
                    f"{moves.copies:,} ({gib(moves.bytes)} GiB), in about {milliseconds(moves.seconds * 1e3)}",
                ),
                *([("of which lost", f"{moves.needed:,} experts had no copy left")] if moves.needed else []),
                ("pays back", "never" if pays is None else f"after {number(pays)} engine steps"),
            ],
        )


def _balance(placement: PlacementDocument, console: Console) -> None:
    proof = placement.proof
    heading(console, "Balance: mean ÷ slowest GPU's load, over the layers")
    listing = table("window", "before", "greedy", "after", "no placement exceeds")
    for window in (*proof.windows, *proof.holdout):
        held_out = " (held out)" if window.bound is None else ""
        scores = (window.before, window.greedy, window.after, window.bound)
        listing.add_row(f"{window.name}{held_out}", *("–" if v is None else f"{v:.4f}" for v in scores))
    indented(console, listing)
    worst = max(proof.layers, key=lambda layer: layer.after)
    facts(
        console,
        [
            ("gap", f"{percent(proof.balance_gap)} of the slowest GPU's load on average over the layers"),
            (
                "worst layer",
                f"{worst.layer}: slowest GPU {number(worst.after)} × the mean, no placement below "
                f"{number(worst.bound)} ×; before {number(worst.before)} ×",
            ),
        ],
    )


def _traffic(placement: PlacementDocument, console: Console) -> None:
    traffic = placement.proof.traffic
    if traffic is None:
        return
    heading(console, "Traffic: transitions to the next layer's experts that leave")
    listing = table("", "before", "after", "no placement below")
    listing.add_row(
        "their GPU",
        percent(traffic.between_gpus_before),
        percent(traffic.between_gpus_after),
        percent(traffic.between_gpus_bound),
    )
    if traffic.between_domains_before > 0:
        listing.add_row(
            "their node", percent(traffic.between_domains_before), percent(traffic.between_domains_after), ""
        )
    listing.add_row("their GPU (held out)", percent(traffic.heldout_before), percent(traffic.heldout_after), "")
    indented(console, listing)
    if traffic.exact:
        indented(console, Text("This is the proven optimum."))


def _times(placement: PlacementDocument, console: Console) -> None:
    heading(console, "Predicted time of a MoE layer: the slowest GPU's experts, and the exchange")
    listing = table("batch", "tokens per GPU", "part", "before", "after", "after, 80 %", "speed-up")
    for step in placement.prediction:
        rows = (
            ("experts", step.before.experts_ms, step.after.experts_ms, step.speedup_experts),
            ("exchange", step.before.exchange_ms, step.after.exchange_ms, step.speedup_exchange),
        )
        for index, (part, before, after, speedup) in enumerate(rows):
            first = (step.name, f"{step.tokens_per_gpu:,}") if index == 0 else ("", "")
            values = milliseconds(before.value), milliseconds(after.value), _range(after)
            listing.add_row(*first, part, *values, _times_as(speedup))
        listing.add_row("", "", "together", _sum(step.before), _sum(step.after), "", _times_as(step.speedup))
    indented(console, listing)


def _sum(time: LayerTime) -> str:
    return milliseconds(time.total_ms)


def _range(interval: Interval) -> str:
    return milliseconds_range(interval)


def _times_as(ratio: float) -> str:
    return f"{ratio:.2f} ×"
