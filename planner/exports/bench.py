"""``bench.sh``: measures the deployment at the plan's workload with the framework's own client, over a few loads, into
a CSV that ``plan predict --measured`` and ``plan calibrate`` read."""

from __future__ import annotations

import json

from planner.exports.fleet import StartedFleet
from planner.exports.text import comments
from planner.launchers.client import Sweep
from planner.launchers.words import for_shell, shell_lines, variable
from profiles.errors import Unsupported

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the predicted rate: the loads that are measured."""

SECONDS = 120
"""Of requests at each load."""

_COLLECT = """\
import csv, json, sys
source, target, fixed, columns, shared, rate, engines = sys.argv[1:8]
with open(source) as file:
    found = json.loads([line for line in file.read().replace("}\\n{", "}\\x00{").split("\\x00") if line.strip()][-1])
row = dict(json.loads(fixed), request_rate=float("%.6g" % (float(rate) / int(engines))))
row.update({ours: found.get(theirs, "") for ours, theirs in json.loads(columns).items()})
row.update({ours: found[theirs] / int(engines) for ours, theirs in json.loads(shared).items() if theirs in found})
try:
    new = not open(target).read(1)
except FileNotFoundError:
    new = True
with open(target, "a", newline="") as file:
    writer = csv.DictWriter(file, list(row))
    if new:
        writer.writeheader()
    writer.writerow(row)
"""


_SHARED = {"requests_per_s": "request_throughput", "output_tokens_per_s": "output_throughput"}
"""Columns of which each of several engines has its part."""


def _is_alike(fleet: StartedFleet) -> bool:
    """Whether the deployment is so many of one engine, each with as much of the load."""
    weights = {round(engine.weight, 6) for engine in fleet.engines}
    return len(fleet.plan.decision.engines) == 1 and fleet.engines[0].role == "aggregated" and len(weights) == 1


def _engine_columns(fleet: StartedFleet) -> dict[str, object]:
    """What a row says of the engine that it is of; of engines that differ only how many GPUs they are on."""
    group = fleet.engines[0].group
    if not _is_alike(fleet):
        return {"gpu": group.gpu, "num_gpus": fleet.plan.decision.gpus_used}
    layout = group.layout
    return {
        "gpu": group.gpu,
        "num_gpus": layout.gpus,
        **{name: getattr(layout, name) for name in ("tp", "pp", "dp", "ep")},
        "precision": group.weights_precision,
        "kv_precision": group.kv_precision,
        **group.limits.asked,
    }


def bench_script(fleet: StartedFleet, url: str) -> str:
    """The script. What it cannot do with the framework's client stands in it as a comment."""
    plan, work = fleet.plan, fleet.plan.request.workload
    rate = work.rate_rps or plan.prediction.request_rate_rps.value
    rates = [f"{rate * share:.4g}" for share in SHARES]
    engine = fleet.engines[0]
    sweep = Sweep(
        model=fleet.values.checkpoint or engine.spec.model,
        isl=round(work.mean_isl),
        osl=round(work.mean_osl),
        rate=variable("RATE"),
        requests=variable("REQUESTS"),
        output=variable("OUTPUT"),
    )
    head = [
        "#!/bin/sh\n",
        comments([f"measures {fleet.name} at {', '.join(rates)} requests/s; written by plan export", *fleet.told]),
    ]
    if work.varies:
        head.append(comments([f"its requests are {sweep.isl:,} in, {sweep.osl:,} out each; the plan's: {work.told()}"]))
    head.append("# usage: bench.sh [URL] [CSV]    (the client of the framework must be installed here)\n")
    try:
        benchmark = fleet.launcher.benchmark(variable("URL"), sweep)
    except Unsupported as error:
        return "".join([*head, *comments([error.message]), "exit 1\n"])
    fixed = {
        "model": plan.request.model,
        "framework": fleet.framework.spec,
        "isl": sweep.isl,
        "osl": sweep.osl,
        **_engine_columns(fleet),
    }
    alike = len(fleet.engines) if _is_alike(fleet) else 1
    done = (
        "measured into $CSV, a row an engine; compare: plan predict $CSV --measured"
        if _is_alike(fleet)
        else "measured into $CSV; its engines differ: compare with plan simulate PLAN.json --rate"
    )
    command = shell_lines(benchmark.command, "      ")
    return "".join(
        [
            *head,
            "set -eu\n",
            f"URL=${{1:-{for_shell(url)}}}\n",
            "CSV=${2:-measured.csv}\n",
            "work=$(mktemp -d)\ntrap 'rm -rf \"$work\"' EXIT\n",
            f"collect={for_shell(_COLLECT)}\n",
            f"for RATE in {' '.join(rates)}; do\n",
            f"  REQUESTS=$(awk -v rate=\"$RATE\" 'BEGIN {{ n = int(rate * {SECONDS}); print (n < 20 ? 20 : n) }}')\n",
            "  OUTPUT=$work/$RATE.json\n",
            f"  {command}\n",
            f'  python3 -c "$collect" "$OUTPUT" "$CSV" {for_shell(json.dumps(fixed))} \\\n'
            f'    {for_shell(json.dumps(benchmark.columns))} {for_shell(json.dumps(_SHARED))} "$RATE" {alike}\n',
            "done\n",
            f'echo "{done}"\n',
        ]
    )
