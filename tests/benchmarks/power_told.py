"""What ``costmodels/evidence/power.json`` says of rows and of B200's watts, as ``docs/power.md`` shows it."""

from __future__ import annotations

import json
from typing import Any

from tests.benchmarks.cards import EVIDENCE


def summary() -> str:
    document = json.loads((EVIDENCE / "power.json").read_text("utf-8"))
    return "\n".join([*_policies(document), "", *_b200(document["B200 rows"])])


def _policies(document: dict[str, Any]) -> list[str]:
    rows = document["rows"]
    speed = document["speed"]
    out = [
        "| policy (`make bench-power`) | "
        + " | ".join(f"servers more, seed {row['seed']}" for row in rows)
        + " | held "
        "back by | way from no control to the oracle | latency of low priority grows, p50, p99 |",
        "|---|" + "---|" * len(rows) + "---|---|---|",
    ]
    extra = [{each["policy"]: each["extra"] for each in row["policies"]} for row in rows]
    for index, first in enumerate(rows[0]["policies"]):
        name, each = first["policy"], [row["policies"][index] for row in rows]
        way = [(one[name] - one["none"]) / (one["oracle"] - one["none"]) for one in extra]
        grows = "; ".join(", ".join(f"{share:.1%}" for share in one["impact"]["lp"].values()) for one in each)
        cells = [
            *(f"{one[name]:+.1%}" for one in extra),
            ", ".join(dict.fromkeys(one["limited by"] for one in each)),
            "–" if name in ("nameplate", "none") else ", ".join(f"{share:.0%}" for share in way),
            grows,
        ]
        out.append(f"| {name} | {' | '.join(cells)} |")
    met = "; ".join(f"{row['peak met']:.1%} and {row['rise met']:.1%}" for row in rows)
    return [
        *out,
        "",
        f"On {rows[0]['days']['judged']:,} replicate-days, none of which may brake (one brake a year at the upper 95 % "
        f"bound); the traffic's peak and largest rise in 40 s: {met}. A day of 52 servers takes "
        f"{speed['day of 52 servers, CPU-s']:.2f} CPU-s, 300 replicate-days {speed['300 replicate-days, CPU-s']:.0f}.",
    ]


def _b200(found: dict[str, Any]) -> list[str]:
    kinds = {
        "shape left out, forest alone": "forest of shapes",
        "shape left out, law": "law",
        "shape left out, law and forest": "law, forest corrects",
        "operation left out, law": "operation left out",
        "operation left out, law of kernels, its own setup": "its setup known",
    }
    out = [
        "| B200's rows: R², median error | rows | " + " | ".join(kinds.values()) + " |",
        "|---|" + "---|" * (len(kinds) + 1),
    ]
    for name, each in found.items():
        cells = [f"{each[kind]['r2']:.2f}, {each[kind]['median_pct']:.1f} %" for kind in kinds]
        out.append(f"| {name} | {each['shape left out, law']['rows']:,} | {' | '.join(cells)} |")
    return out
