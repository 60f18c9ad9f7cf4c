"""What the benchmark of fleets showed, in words and tables: of docs/fleets.md, and of docs/accuracy.md."""

from __future__ import annotations

import json
from typing import Any

from tests.benchmarks import cards, fleets_days
from tests.benchmarks.fleets_holding import known, told

EVIDENCE = cards.EVIDENCE / "fleets.json"


def _evidence() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EVIDENCE.read_text("utf-8"))
    return found


def page() -> str:
    """Of docs/fleets.md."""
    evidence = _evidence()
    parts = [_sizes(evidence["sizes"]), _published(evidence["published"]), [_capacities(evidence["capacities"])]]
    days = fleets_days.told(fleets_days.known())
    return "\n\n".join("\n".join(lines) for lines in (*parts, told(known()), days))


def summary() -> list[str]:
    """Of docs/accuracy.md."""
    evidence = _evidence()
    rows = evidence["published"]
    quicker = sorted(each["its_cpu_s"] / each["cpu_s"] for each in rows)[len(rows) // 2]
    ours, theirs = ([each[name] for each in rows] for name in ("cost_over_its", "rounded_over_ours"))
    return [
        "Fleets (`make bench-fleet`): how near to the best, and how soon.",
        "",
        *_sizes(evidence["sizes"]),
        "",
        f"Of Mélange's shape (10 × 10 sizes, 4 and 10 GPU types): {sum(each['gap'] == 0 for each in rows)} of "
        f"{len(rows)} proved optimal, at {min(ours):.3f} to {max(ours):.3f} of its cost, {quicker:.0f} times as fast "
        "in the median; "
        f"AIBrix's way costs {min(theirs):.2f} to {max(theirs):.2f} times as much.",
        "",
        _capacities(evidence["capacities"]),
        "",
        told(known())[0],
        "",
        fleets_days.told(fleets_days.known())[0],
    ]


def _gap(gap: float | None) -> str:
    return "none found" if gap is None else "0 (optimal)" if gap == 0 else f"{gap:.3%}"


def _sizes(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| question | seed | gap | CPU s | of wall s | peak MB |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row["question"], row["seed"], _gap(row["gap"]), row["cpu_s"], row["wall_s"], row["peak_mb"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _published(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| GPU types, rps, slices | cost ÷ Mélange's | CPU s, ours / its | AIBrix's ÷ ours |", "|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['types']}, {row['rps']:g}, {row['slices']} | {row['cost_over_its']:.3f} ({_gap(row['gap'])}) | "
            f"{row['cpu_s']:.2f} / {row['its_cpu_s']:.2f} | {row['rounded_over_ours']:.2f} |"
        )
    return lines


def _capacities(found: dict[str, Any]) -> str:
    return (
        f"What engines carry of {found['classes']} classes on {len(found['gpus'])} GPU types "
        f"({', '.join(found['gpus'])}), every layout: {found['cpu_s']:.0f} CPU-seconds the first time, "
        f"{found['again_cpu_s']:.2f} again in the same process (a service keeps it). Interpolated cells are "
        f"{found['median']:.1%} off in the median and {found['p95']:.1%} at p95 of {found['cells']} cells that were "
        "worked out."
    )
