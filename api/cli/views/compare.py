"""The view of ``plan compare``."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from api.cli.console import bullet, facts, heading, indented, table
from api.cli.views.quantities import milliseconds, milliseconds_range, number, probability
from planner.compare.document import Comparison, Ordered, PromiseSeen, Side
from planner.contract.quantities import Interval
from planner.contract.workload.slo import Bound


def show(made: Comparison, out: Console) -> None:
    """Prints the sides in columns, and the order."""
    heading(out, f"{made.model}: {made.workload.told()}, at {made.load}")
    rows = table("", *(side.name for side in made.sides))
    for column in rows.columns[1:]:
        column.no_wrap, column.overflow = False, "fold"  # layouts may be long; what a row is called stays
    rows.columns[0].no_wrap = True
    sides = made.sides
    rows.add_row("engines", *("\n".join(side.engines) for side in sides))
    rows.add_row("framework", *(side.framework for side in sides))
    rows.add_row("starts", *("yes" if side.starts else "NO" for side in sides))
    for label, said in _lines():
        rows.add_row(label, *(said(side) for side in sides))
    judged = next((side.promises for side in sides if side.promises), ())
    labels = [_bound(each, each.service) for each in judged] or [_bound(each, None) for each in made.slo.bounds]
    for place, label in enumerate(labels):
        rows.add_row(label, *(_promise(side.promises[place] if side.promises else None) for side in sides))
    indented(out, rows)
    lines = [("order", order_told(each)) for each in made.order]
    lines += [(side.name, side.problem) for side in sides if side.problem]
    if lines:
        facts(out, lines)
    for note in made.provenance.notes:
        bullet(out, note)


def _bound(bound: PromiseSeen | Bound, service: str | None) -> str:
    whose = f"{service}: " if service else ""
    return f"{whose}{bound.metric.upper()} p{bound.percentile:g} ≤ {milliseconds(bound.limit_ms)}"


def _lines() -> list[tuple[str, Callable[[Side], str]]]:
    return [
        ("carries, requests/s", lambda side: amount(side.carries_rps)),
        ("output tokens/s/GPU", lambda side: amount(side.output_tokens_per_s_per_gpu)),
        ("USD/M output tokens", lambda side: amount(side.usd_per_million_output_tokens)),
        ("joules/output token", lambda side: amount(side.joules_per_output_token)),
        ("TTFT mean", lambda side: _ms(side.ttft_ms, side.keeps_up)),
        ("TPOT mean", lambda side: _ms(side.tpot_ms, True)),
        ("E2E mean", lambda side: _ms(side.e2e_ms, side.keeps_up)),
    ]


def amount(interval: Interval | None) -> str:
    """A quantity and its interval, three digits."""
    if interval is None:
        return "–"
    if interval.value == 0 and interval.high == 0:
        return "none"
    return f"{number(interval.value)} ({number(interval.low)}–{number(interval.high)})"


def _ms(interval: Interval | None, keeps_up: bool) -> str:
    if interval is None:
        return "–"
    if not keeps_up:
        return "falls behind"
    return f"{milliseconds(interval.value)} ({milliseconds_range(interval)})"


def _promise(seen: PromiseSeen | None) -> str:
    if seen is not None and seen.holds is None:
        return "not seen: none of its requests came"
    if seen is None or seen.seen_ms is None:
        return "–"
    if not seen.holds and seen.seen_ms.value <= seen.limit_ms:
        return f"BREAKS: {milliseconds(seen.seen_ms.value)} of those served"
    sure = "" if seen.confidence is None else f", {probability(seen.confidence)} sure"
    return f"{milliseconds(seen.seen_ms.value)}: {'holds' if seen.holds else 'BREAKS'}{sure}"


def order_told(each: Ordered) -> str:
    """One pair in words."""
    unit = " per GPU" if each.quantity.endswith("GPU") else ""
    if each.by == 0.0:
        return f"{each.better} and {each.worse} carry the same{unit}: a tie"
    if each.by is None:
        return (
            f"{each.better} keeps the promises at some load, {each.worse} at none ({probability(each.confidence)} sure)"
        )
    return f"{each.better} carries {each.by:.0%} more{unit} than {each.worse} ({probability(each.confidence)} sure)"
