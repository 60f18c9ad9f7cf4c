"""What `plan profile collect` prints at the end: what was measured, how sure it is, and what it was good for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from api.cli.console import bullet, facts, heading, indented, page, table
from api.cli.views.quantities import milliseconds
from profiles.collect.devices import Device
from profiles.collect.journal import Header
from profiles.collect.points import Outcome
from profiles.collect.power import PowerMeter
from profiles.collect.runner import Report
from profiles.hardware import Gpu
from profiles.store import ProfileStore

_ENDED = {
    "complete": "nothing left to ask",
    "budget": "the budget was spent",
    "interrupted": "interrupted; the same command goes on",
    "device_lost": "the device stopped answering",
}


def document(
    report: Report, device: Device, gpu: Gpu, store: ProfileStore, header: Header, meter: PowerMeter | None
) -> dict[str, Any]:
    """The summary as JSON."""
    measured = [outcome for outcome in report.outcomes if outcome.timing is not None]
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in measured:
        groups.setdefault((outcome.point.operation, outcome.point.dtype), []).append(outcome)
    reasons = Counter((o.status, o.point.operation, o.point.dtype, o.reason) for o in report.outcomes if o.reason)
    return {
        "store": str(store.path),
        "gpu": gpu.name,
        "device": device.describe(),
        "versions": dict(device.versions),
        "order": header.settings["order"],
        "ended": report.ended,
        "seconds": round(report.seconds, 1),
        "kept_points": report.kept,
        "target_error": header.settings["target_error"],
        "measured": [_group(*name, group, header.settings["target_error"]) for name, group in sorted(groups.items())],
        "not_measured": [
            {"status": status, "operation": operation, "dtype": dtype, "reason": reason, "points": count}
            for (status, operation, dtype, reason), count in reasons.most_common()
        ],
        "conditions": _conditions(measured),
        "power": None if meter is None else _power(report, measured, meter),
        "sustained": _sustained(measured),
        "expected_error": {
            name: {"before": before, "after": report.error_after[name]}
            for name, before in sorted(report.error_before.items())
            if name in report.error_after
        },
        "store_rows": {
            name: int(count) for name, count in store.summary().groupby("operation", sort=False)["rows"].sum().items()
        },
    }


def _group(operation: str, dtype: str, group: Sequence[Outcome], target: float) -> dict[str, Any]:
    timings = [outcome.timing for outcome in group if outcome.timing is not None]
    return {
        "operation": operation,
        "dtype": dtype,
        "points": len(group),
        "kernels": sorted({outcome.kernel for outcome in group}),
        "spread_p90_over_p10": median(t.p90_us / t.p10_us for t in timings),
        "within_target_error": sum(t.relative_error <= target for t in timings) / len(timings),
        "repeats": median(t.repeats for t in timings),
        "outliers": sum(t.outliers for t in timings),
        "samples": sum(t.repeats for t in timings),
    }


def _sustained(measured: Sequence[Outcome]) -> dict[str, float]:
    """By precision, time under lasting load ÷ that right after a rest, where both were measured."""
    times = {
        (outcome.point.dtype, outcome.point.shape["state"]): outcome.timing.median_us
        for outcome in measured
        if outcome.point.operation == "sustained" and outcome.timing is not None
    }
    return {
        dtype: round(us / times[dtype, "rested"], 4)
        for (dtype, state), us in sorted(times.items())
        if state == "sustained" and (dtype, "rested") in times
    }


def _conditions(measured: Sequence[Outcome]) -> dict[str, Any]:
    def seen(name: str) -> list[float]:
        return [outcome.facts[name] for outcome in measured if name in outcome.facts]

    throttle = Counter(reason for outcome in measured for reason in outcome.facts.get("throttle", ()))
    return {
        "clock_mhz": [min(seen("clock_low_mhz")), max(seen("clock_high_mhz"))] if seen("clock_low_mhz") else None,
        "temperature_c": max(seen("temperature_c"), default=None),
        "throttle_reasons": dict(throttle.most_common()),
        "remeasured": sum("remeasured" in outcome.facts for outcome in measured),
        "disturbed": sum("disturbed" in outcome.facts for outcome in measured),
    }


def _power(report: Report, measured: Sequence[Outcome], meter: PowerMeter) -> dict[str, Any]:
    watts = [outcome.power_watts for outcome in measured if outcome.power_watts is not None]
    return {
        "method": meter.method,
        "points": len(watts),
        "idle_watts": report.idle_watts,
        "watts": [min(watts), max(watts)] if watts else None,
        "seconds": round(report.power_seconds, 1),
    }


def show(summary: dict[str, Any]) -> None:
    """The summary for people."""
    with page() as out:
        heading(out, f"{summary['gpu']} ({summary['device']['name']}), store {summary['store']}")
        points = sum(group["points"] for group in summary["measured"])
        kept = f", {summary['kept_points']:,} kept from earlier runs" if summary["kept_points"] else ""
        facts(
            out,
            [
                (
                    "measured",
                    f"{points:,} points in {milliseconds(summary['seconds'] * 1e3)}{kept}; {_ENDED[summary['ended']]}",
                ),
                ("versions", ", ".join(f"{name} {v}" for name, v in summary["versions"].items() if v) or "unknown"),
                *_condition_lines(summary["conditions"]),
                *_power_lines(summary["power"]),
                *_sustained_line(summary["sustained"]),
                *_rows_line(summary["store_rows"]),
            ],
        )
        if summary["measured"]:
            target = summary["target_error"]
            listing = table(
                "operation", "precision", "points", "p90/p10", f"within {target:.1%}", "repeats", "outliers"
            )
            for group in summary["measured"]:
                listing.add_row(
                    group["operation"],
                    group["dtype"],
                    f"{group['points']:,}",
                    f"{group['spread_p90_over_p10']:.2f}",
                    f"{group['within_target_error']:.0%}",
                    f"{group['repeats']:,.0f}",
                    f"{group['outliers'] / group['samples']:.1%}",
                )
            out.print()
            indented(out, listing)
        if summary["expected_error"]:
            heading(out, "Expected error of the cost model (mean, over what models ask)")
            facts(out, [(n, f"{e['before']:.1%} → {e['after']:.1%}") for n, e in summary["expected_error"].items()])
        if summary["not_measured"]:
            heading(out, "Not measured")
            for entry in summary["not_measured"]:
                count = f"{entry['points']:,} " if entry["points"] > 1 else ""
                bullet(out, f"{entry['operation']} {entry['dtype']}: {count}{entry['status']}: {entry['reason']}")


def _condition_lines(conditions: dict[str, Any]) -> list[tuple[str, str]]:
    clock, heat, throttle = (conditions[name] for name in ("clock_mhz", "temperature_c", "throttle_reasons"))
    parts = ["clock unknown" if clock is None else f"clock {clock[0]:,.0f}–{clock[1]:,.0f} MHz"]
    parts.append("temperature unknown" if heat is None else f"up to {heat:.0f} °C")
    parts += [f"{reason} at {count:,} points" for reason, count in throttle.items()]
    lines = [("conditions", ", ".join(parts))]
    if conditions["remeasured"]:
        still = conditions["disturbed"]
        lines.append(("throttled", f"{conditions['remeasured']:,} points timed again, {still:,} still disturbed"))
    return lines


def _power_lines(power: dict[str, Any] | None) -> list[tuple[str, str]]:
    if power is None:
        return []
    if power["method"] is None:
        return [("power", "nothing on this machine tells it: left empty")]
    idle = "unknown" if power["idle_watts"] is None else f"{power['idle_watts']:.0f} W"
    busy = f"{power['watts'][0]:.0f}–{power['watts'][1]:.0f} W" if power["watts"] else "none measured"
    how = power["method"].replace("_", " ")
    return [
        ("power", f"{power['points']:,} points, {busy}, idle {idle}, by {how}, {milliseconds(power['seconds'] * 1e3)}")
    ]


def _sustained_line(ratios: dict[str, float]) -> list[tuple[str, str]]:
    said = ", ".join(f"{dtype} {ratio:.2f}" for dtype, ratio in ratios.items())
    return [("lasting load", f"{said} times as long as right after a rest")] if ratios else []


def _rows_line(rows: dict[str, int]) -> list[tuple[str, str]]:
    return [("rows in store", ", ".join(f"{name} {count:,}" for name, count in rows.items()) or "none")]
