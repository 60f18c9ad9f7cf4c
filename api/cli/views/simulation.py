"""A simulation's report as people read it, in at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, facts, heading, indented, table
from api.cli.views.quantities import growing_range, milliseconds, number, percent, probability, promise, watts
from planner.contract.quantities import Interval
from planner.replay.document import Percentiles, SimulationReport

LEVELS = " ▁▂▃▄▅▆▇█"


def show(report: SimulationReport, console: Console) -> None:
    """Prints the report."""
    _header(report, console)
    _slo(report, console)
    _latency(report, console)
    _engines(report, console)
    _timeline(report, console)
    _warnings(report, console)


def mean_of_windows(mean: float, reported: float | None) -> str:
    """Said of a series of watts that is written, in whose windows boards go by another law than over seconds."""
    said = f"--timeline: {watts(mean)} on average, in windows of 250 ms"
    if reported is None or abs(mean / reported - 1) < 0.01:
        return said
    return f"{said}; {watts(reported)} in the report, by the law of longer stretches, which bends before the limit"


def _header(report: SimulationReport, console: Console) -> None:
    load = report.load
    console.print(Text(report.model, style="bold"))
    served = f"{report.served:,} of {load.requests:,} requests; {number(report.output_tokens_per_s)} output tokens/s"
    rows = [
        (
            "plan" if _planned(report) else "engines",
            "; ".join(report.engines) + ("; edited since it was made" if report.edited else ""),
        ),
        ("load", f"{load.source}: {number(load.rate_rps)} requests/s for {milliseconds(load.seconds * 1e3)}"),
        ("", f"isl {load.isl_mean:,.0f} (≤ {load.isl_longest:,}), osl {load.osl_mean:,.0f} (≤ {load.osl_longest:,})"),
        ("served", served),
    ]
    if report.warm_up_requests:
        rows.append(("warm-up", f"the first {report.warm_up_requests:,} requests are not counted below"))
    rows += [("refused", f"{each.requests:,}: {each.reason} ({each.example})") for each in report.refused]
    if report.falls_behind:
        rows.append(
            (
                "falls behind",
                f"the queue grows all the time: it carries about {number(report.capacity_rps or 0.0)} requests/s"
                + (f" of {number(load.rate_rps)}" if load.rate_rps else ""),
            )
        )
    facts(console, rows)


def _slo(report: SimulationReport, console: Console) -> None:
    if not report.slo:
        return
    heading(console, "SLO")
    said = ("the plan said",) if _planned(report) else ()
    rows = table("promise", "simulated", "80 % interval", *said, "within", "holds", "chance")
    several = len({each.service for each in report.slo}) > 1
    for each in report.slo:
        said_of = f"{each.service}: " if several else ""
        rows.add_row(
            said_of + promise(each.metric, each.percentile, each.limit_ms),
            "–" if each.simulated is None else milliseconds(each.simulated.value),
            "" if each.simulated is None else _range(each.simulated, report.warnings),
            *([_said(each.planned_ms)] if said else []),
            percent(each.share.value),
            Text("yes", style="green") if each.holds else Text("no", style="red"),
            "" if each.confidence is None or _bare(each.simulated) else probability(each.confidence),
        )
    indented(console, rows)
    if any(_bare(each.simulated) for each in report.slo):
        console.print(Text("  Replayed with steps as predicted alone: of their own error nothing is known here."))
    console.print(
        Text(
            f"  {percent(report.attainment.value)} of requests met every limit ({_shares(report.attainment)}); goodput "
            f"{number(report.goodput_rps.value)} requests/s."
        )
    )


def _bare(interval: Interval | None) -> bool:
    """Whether a latency was seen with steps as predicted alone, not at the ends of their interval."""
    return interval is not None and interval.low == interval.high


def _range(interval: Interval, warnings: tuple[str, ...]) -> str:
    return "–" if _bare(interval) else growing_range(interval, warnings)


def _shares(interval: Interval) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}"


def _latency(report: SimulationReport, console: Console) -> None:
    at = "" if report.planned_rps is None else f" (the plan counts on {number(report.planned_rps)} requests/s)"
    heading(console, f"Latency{at}")
    planned = _planned(report)
    rows = table("", "simulated", "80 % interval", *(["the plan said"] if planned else []), left=1)
    for name, metric in (("TTFT", report.ttft_ms), ("TPOT", report.tpot_ms), ("E2E", report.e2e_ms)):
        if metric is not None:
            for row in _latency_rows(name, metric, report.warnings):
                rows.add_row(*(row if planned else row[:-1]))
    indented(console, rows)
    if planned and len(report.engines) > 1:
        console.print(Text("  Of a fleet, the plan said what requests see on its slowest engines."))


def _planned(report: SimulationReport) -> bool:
    """Whether a plan said what would come."""
    return report.planned_rps is not None


def _latency_rows(name: str, metric: Percentiles, warnings: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for at in ("mean", "p50", "p90", "p95", "p99"):
        seen: Interval = getattr(metric, at)
        said = getattr(metric.planned, at, None)
        yield f"{name} {at}", milliseconds(seen.value), _range(seen, warnings), _said(said)


def _said(ms: float | None) -> str:
    return "–" if ms is None else milliseconds(ms)


def _engines(report: SimulationReport, console: Console) -> None:
    heading(console, "Engines")
    rows = table("", "engines", "requests", "busy", "busiest", "running", "longest queue", "KV peak", "preempted")
    for group in report.groups:
        rows.add_row(
            group.engine if group.role == "aggregated" else f"{group.engine} ({group.role})",
            str(group.replicas),
            f"{group.requests:,}",
            percent(group.utilisation),
            percent(group.busiest),
            number(group.running_mean),
            f"{group.waiting_most:,}",
            percent(group.kv_peak),
            f"{group.preemptions:,}",
        )
    indented(console, rows)


def _timeline(report: SimulationReport, console: Console) -> None:
    heading(console, f"Timeline (0 to {milliseconds(report.timeline[-1].time_s * 1e3)})")
    rows = table("", "", "highest", left=2)
    moments = report.timeline
    lines = [
        ("arrivals/s", [moment.arrivals_rps for moment in moments]),
        ("running", [moment.running for moment in moments]),
        ("waiting", [moment.waiting for moment in moments]),
    ]
    for name, values in lines:
        rows.add_row(name, _bars(values), number(max(values)))
    ttft = [moment.ttft_p90_ms or 0.0 for moment in moments]
    rows.add_row("TTFT p90", _bars(ttft), milliseconds(max(ttft)))
    power = [moment.power_watts for moment in moments if moment.power_watts is not None]
    if power and report.power_watts is not None and report.joules_per_output_token is not None:
        rows.add_row("power", _bars(power), watts(max(power)))
    indented(console, rows)
    if power and report.power_watts is not None and report.joules_per_output_token is not None:
        mean, joules = watts(report.power_watts), number(report.joules_per_output_token)
        indented(console, Text(f"All GPUs draw {mean} on average, {joules} J per output token."))


def _bars(values: list[float]) -> str:
    most = max(values) or 1.0
    return "".join(LEVELS[min(int(value / most * (len(LEVELS) - 1) + 0.5), len(LEVELS) - 1)] for value in values)


def _warnings(report: SimulationReport, console: Console) -> None:
    if not report.warnings:
        return
    heading(console, "To keep in mind")
    for warning in report.warnings:
        bullet(console, warning)
