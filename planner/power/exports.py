"""What operators apply: a power plan as scripts for nvidia-smi, alerts for Prometheus, and annotations for Dynamo."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from planner.power.document import CapLevel, ClassClock, PowerPlan, is_always
from planner.power.request import SupplyNode, leaves
from profiles.errors import Unsupported

ANNOTATION = "dynamo.nvidia.com/gpu-power-limit"
"""Of a pod, watts of each of its GPUs: Dynamo's power agent sets it as the board's limit (deploy/power_agent)."""

POWER_METRIC, CLOCK_METRIC = "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_SM_CLOCK"
"""Of NVIDIA's dcgm-exporter: watts and MHz of every GPU."""


def files(plan: PowerPlan, target: str) -> dict[str, str]:
    """Text of each file by its path, for ``nvidia-smi``, ``prometheus`` or ``dynamo-power``."""
    made = {"nvidia-smi": nvidia_smi, "prometheus": prometheus, "dynamo-power": dynamo_power}[target]
    return made(plan)


def cannot(plan: PowerPlan) -> str | None:
    """Why there is nothing to apply, or None."""
    if not plan.decision.levels:
        return f"the plan's policy ({plan.decision.policy}) has no levels of caps"
    if len(plan.decision.settable) != 1:
        return "the row has several types of GPUs, or locked clocks, and a level's clock is of one"
    return None


def _said(plan: PowerPlan) -> str:
    digest, evidence = (plan.digest or "none")[:12], plan.provenance.evidence_hash[:12]
    return f"power plan of {_line(plan.request.supply.name)}, digest {digest}, evidence {evidence}"


def _line(text: str) -> str:
    """Whatever it holds, on one line: a comment ends where its line does."""
    return " ".join(text.split())


def _untemplated(text: str) -> str:
    """A text as an annotation of Prometheus, whose braces would else be its template language's."""
    return text.replace("{{", '{{ "{{" }}')


# ------------------------------------------------------------------ nvidia-smi


_RUN = """if [ "$really" = yes ] && [ "$(id -u)" -ne 0 ]; then
  echo "$0: setting clocks needs root" >&2
  exit 1
fi

run() {
  echo "+ $*"
  if [ "$really" = yes ]; then "$@"; fi
}
"""
"""What the scripts that set something begin with, after their arguments."""


_NEEDS_IDS = """if [ -z "$ids" ]; then
  echo "$0: $priority has GPUs of its own on this server: say which, --gpus 0,1" >&2
  exit 2
fi
"""
"""Where prefill and decode have clocks of their own: a server's GPUs are of both."""


def _class(each: ClassClock) -> str:
    """How a level's scripts and files name whom a clock is for: ``hp``, or ``hp-decode`` and ``hp-prefill``."""
    return each.priority if each.role is None else f"{each.priority}-{each.role}"


def _classes(plan: PowerPlan) -> list[str]:
    return [_class(each) for each in plan.decision.levels[0].clocks]


def nvidia_smi(plan: PowerPlan) -> dict[str, str]:
    """apply.sh, rollback.sh and check.sh: dry unless told otherwise."""
    if (reason := cannot(plan)) is not None:
        raise Unsupported(f"--to nvidia-smi: {reason}", "export a plan whose decision has levels")
    can = plan.decision.settable[0]
    restored, undone = "--reset-gpu-clocks", "Unlocks"
    if can.restore != "reset":  # the plan that runs there locks them
        restored, undone = f"--lock-gpu-clocks={can.least_mhz},{can.restore}", f"Locks at {can.restore} MHz"
    cases = []
    for level in plan.decision.levels:
        for each in level.clocks:
            mhz = "" if each.clock_mhz is None else str(each.clock_mhz)
            cases.append(f"  {level.level}:{shlex.quote(_class(each))}) echo {shlex.quote(mhz)} ;;")
    clock_of = "\n".join(
        [
            "# The highest SM clock of a level and a priority, MHz; empty where it is not capped.",
            "clock_of() {",
            '  case "$1:$2" in',
            *(f"  0:{shlex.quote(name)}) echo '' ;;" for name in _classes(plan)),
            *cases,
            "  *) return 1 ;;",
            "  esac",
            "}",
        ]
    )
    head = f"#!/usr/bin/env bash\n# {_said(plan)}\n"
    names = _line(" ".join(map(shlex.quote, _classes(plan))))
    roles = any(each.role for each in plan.decision.levels[0].clocks)
    example, needs_ids = (" --gpus 0,1", _NEEDS_IDS) if roles else ("", "")
    apply = f"""{head}# Caps the clocks of this server's GPUs for a level of the plan, or their board power.
#
#   ./apply.sh LEVEL PRIORITY{example}            says what it would do
#   ./apply.sh LEVEL PRIORITY{example} --apply    does it (needs root)
#   ./apply.sh LEVEL PRIORITY{example} --power-limit WATTS --apply    sets the board's power limit as well
#
# --gpus IDS: those of them that run this priority (as nvidia-smi numbers them); without it, all.
# LEVEL: 0 (no caps) to {len(plan.decision.levels)}. PRIORITY: {names}.
# Locked clocks are lost when the driver is loaded again or the machine restarts: run check.sh, and apply again.
set -euo pipefail

{clock_of}

usage() {{ echo "usage: $0 LEVEL PRIORITY [--gpus IDS] [--power-limit WATTS] [--apply]" >&2; exit 2; }}

[ "$#" -ge 2 ] || usage
level=$1 priority=$2
shift 2
really=no watts='' ids=''
while [ "$#" -gt 0 ]; do
  case "$1" in
  --apply) really=yes ;;
  --power-limit) [ "$#" -ge 2 ] || usage; watts=$2; shift ;;
  --gpus) [ "$#" -ge 2 ] || usage; ids=$2; shift ;;
  *) usage ;;
  esac
  shift
done
clock=$(clock_of "$level" "$priority") || {{ echo "$0: no level $level of $priority in the plan" >&2; exit 2; }}
{needs_ids}if [ -n "$watts" ]; then
  case "$watts" in *[!0-9]*) echo "$0: $watts is not a whole number of watts" >&2; exit 2 ;; esac
  if [ "$watts" -lt {can.least_watts:g} ] || [ "$watts" -gt {can.most_watts:g} ]; then
    echo "$0: $watts W is outside of {can.least_watts:g} to {can.most_watts:g} W of {can.gpu}" >&2
    exit 2
  fi
fi
{_RUN}
if [ -n "$clock" ]; then
  run nvidia-smi ${{ids:+--id="$ids"}} --lock-gpu-clocks={can.least_mhz},"$clock"
else
  run nvidia-smi ${{ids:+--id="$ids"}} {restored}
fi
if [ -n "$watts" ]; then run nvidia-smi ${{ids:+--id="$ids"}} --power-limit="$watts"; fi
if [ "$really" = no ]; then echo "nothing was set: say --apply"; fi
"""
    rollback = f"""{head}# {undone} the clocks of this server's GPUs and sets their power limit to the board's default.
#
#   ./rollback.sh            says what it would do
#   ./rollback.sh --apply    does it (needs root)
set -euo pipefail

really=no
case "${{1:-}}" in
'') ;;
--apply) really=yes ;;
*) echo "usage: $0 [--apply]" >&2; exit 2 ;;
esac
{_RUN}
run nvidia-smi {restored}
nvidia-smi --query-gpu=index,power.default_limit --format=csv,noheader,nounits | while IFS=', ' read -r index watts; do
  run nvidia-smi --id="$index" --power-limit="${{watts%.*}}"
done
if [ "$really" = no ]; then echo "nothing was set: say --apply"; fi
"""
    check = f"""{head}# Whether every GPU of this server keeps a level's clock: a driver loaded anew forgets it.
#
#   ./check.sh LEVEL PRIORITY [IDS]    exit code 1: some GPU is faster; IDS: of these GPUs (0,1), without it of all
set -euo pipefail

{clock_of}

[ "$#" -eq 2 ] || [ "$#" -eq 3 ] || {{ echo "usage: $0 LEVEL PRIORITY [IDS]" >&2; exit 2; }}
ids=${{3:-}}
clock=$(clock_of "$1" "$2") || {{ echo "$0: no level $1 of $2 in the plan" >&2; exit 2; }}
[ -n "$clock" ] || {{ echo "level $1 does not cap $2"; exit 0; }}
# A clock may be one step of {can.step_mhz} MHz above what was asked for.
nvidia-smi ${{ids:+--id="$ids"}} --query-gpu=index,clocks.current.sm --format=csv,noheader,nounits | {{
  faster=0
  while IFS=', ' read -r index mhz; do
    if [ "$mhz" -gt "$((clock + {can.step_mhz}))" ]; then
      echo "GPU $index runs at $mhz MHz, above $clock MHz: apply the level again"
      faster=1
    fi
  done
  exit "$faster"
}}
"""
    return {"apply.sh": apply, "rollback.sh": rollback, "check.sh": check, "plan.json": _levels_json(plan)}


def _levels_json(plan: PowerPlan) -> str:
    """What a controller of one's own needs: budget tree, priorities, levels, delays, and what to restore."""
    d = plan.decision
    document: dict[str, Any] = {
        "plan": _said(plan),
        "supply": plan.request.supply.model_dump(mode="json"),
        "priorities": [each.model_dump(mode="json") for each in plan.request.priorities],
        "telemetry": plan.request.telemetry.model_dump(mode="json"),
        "control": {"way": d.control, "delay_s": d.delay_s, "foresight_s": d.foresight_s},
        "levels": [each.model_dump(mode="json") for each in d.levels],
        "brake": {"above": d.brake_above, "release_below": d.brake_release},
        "settable": [each.model_dump(mode="json") for each in d.settable],
        "evidence_hash": plan.provenance.evidence_hash,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


# ------------------------------------------------------------------ Prometheus


def prometheus(plan: PowerPlan) -> dict[str, str]:
    """rules.yaml: the row's power from DCGM's metrics, and alerts for each level, the brake, lost readings and caps
    that are not taken."""
    row, d, request = _metric(plan.request.supply.name), plan.decision, plan.request
    budget = request.supply.budget_watts
    other = sum(
        each.servers * next(kind.other_watts for kind in request.servers if kind.kind == each.kind)
        for each in d.by_kind
    )
    gpus = sum(
        each.servers * next(kind.gpus for kind in request.servers if kind.kind == each.kind) for each in d.by_kind
    )
    training = 0.0 if request.training is None else request.training.servers * request.training.watts
    share = f"{row}:power_share"
    inner = _inner(request.supply)
    of_row = f"{row}:watts / {budget:g}"
    seconds = max(int(request.telemetry.period_s), 1)
    rules: list[dict[str, Any]] = [
        {"record": f"{row}:watts", "expr": f'sum({POWER_METRIC}{{row="{row}"}}) + {other + training:g}'},
        *(_node_share(node, row, other / max(gpus, 1)) for node in inner),
        *(
            [{"record": f"{row}:node_power_share", "expr": of_row, "labels": {"node": request.supply.name}}]
            if inner
            else []
        ),
        {"record": share, "expr": f"max({row}:node_power_share)" if inner else of_row},
        *(_level_alert(level, share, d.delay_s) for level in d.levels),
        {
            "alert": "RowPowerAboveBudget",
            "expr": f"{share} > {d.brake_above:g}",
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": "The row draws more than its budget: the brake is pulled.",
                "description": "{{ $value | humanizePercentage }} of "
                + ("the budget of the node nearest to its own" if inner else f"{budget / 1e3:g} kW")
                + f"; it is let go below {d.brake_release:.0%}.",
            },
        },
        {
            "alert": "RowPowerReadingsLost",
            "expr": f'count({POWER_METRIC}{{row="{row}"}}) < {gpus} or absent({POWER_METRIC}{{row="{row}"}})',
            "for": f"{max(5 * seconds, 30)}s",
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": f"Fewer than the row's {gpus} GPUs report their power.",
                "description": "Treat missing readings as the deepest level of caps.",
            },
        },
        *_not_taken(plan, share, row),
    ]
    document = {"groups": [{"name": f"{row}-power", "interval": f"{seconds}s", "rules": rules}]}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=160)
    ahead = (
        "\n# The plan's caps also count what waits in the engines' queues, which these metrics lack: alerts come later."
        if d.foresight_s
        else ""
    )
    roles = ", and role (decode, prefill)" if any(each.role for level in d.levels for each in level.clocks) else ""
    beside = "\n# Training is added at its full watts: its GPUs carry no such labels." if training else ""
    nodes = ", node (the name of the lowest node of the supply above them)" if inner else ""
    note = (
        f"# {_said(plan)}\n# GPUs of the row carry the labels row={row!r} and priority{roles}{nodes}"
        " (relabel the scrape of DCGM);\n# what the servers draw beside their GPUs is added as in the plan."
        f"{ahead}{beside}\n"
    )
    return {"rules.yaml": note + text}


def _inner(node: SupplyNode) -> list[SupplyNode]:
    """The nodes below."""
    return [each for child in node.children for each in (child, *_inner(child))]


def _node_share(node: SupplyNode, row: str, other_watts: float) -> dict[str, Any]:
    """Of a node below the row, whose GPUs carry the name of their lowest node; ``other_watts``: for each GPU."""
    below = "|".join(re.escape(each.name) for each in leaves(node))
    of = f'{POWER_METRIC}{{row="{row}",node=~{json.dumps(below, ensure_ascii=False)}}}'
    return {
        "record": f"{row}:node_power_share",
        "expr": f"(sum({of}) + count({of}) * {other_watts:g}) / {node.budget_watts:g}",
        "labels": {"node": node.name},
    }


def _asked_above(level: CapLevel) -> float:
    """The reading that calls for it, at once or once the level before is in effect."""
    found = level.step_above if level.above is None else level.above
    assert found is not None
    return found


def _level_alert(level: CapLevel, share: str, delay_s: float) -> dict[str, Any]:
    clocks = ", ".join(
        f"{_untemplated(_class(each))} " + ("uncapped" if each.clock_mhz is None else f"{each.clock_mhz} MHz")
        for each in level.clocks
    )
    return {
        "alert": f"RowPowerLevel{level.level}",
        "expr": f"{share} > {_asked_above(level):.6g}",
        # A level that waits for the one before to act.
        **({"for": f"{max(round(delay_s), 1)}s"} if level.above is None else {}),
        "keep_firing_for": "10s",
        "labels": {"severity": "warning", "level": str(level.level)},
        "annotations": {
            "summary": f"Cap to level {level.level}: {clocks}.",
            "description": "Always set, whatever the row draws."
            if is_always(level)
            else f"Below {level.below:.1%} go back to level {level.back_to}.",
        },
    }


def _not_taken(plan: PowerPlan, share: str, row: str) -> Iterator[dict[str, Any]]:
    """An alert a priority: its GPUs are faster than the deepest level that has long been called for."""
    last = plan.decision.levels[-1] if plan.decision.levels else None
    step = plan.decision.settable[0].step_mhz if plan.decision.settable else 0
    for each in () if last is None else last.clocks:
        if each.clock_mhz is None:
            continue
        role = "" if each.role is None else f',role="{each.role}"'
        named, told = json.dumps(each.priority, ensure_ascii=False), _untemplated(_class(each))
        fast = f'max({CLOCK_METRIC}{{row="{row}",priority={named}{role}}}) > {each.clock_mhz + step}'
        yield {
            "alert": "RowCapNotTaken",
            "expr": f"{fast} and on() {share} > {1.0 if last is None else _asked_above(last):.6g}",
            "for": f"{max(int(3 * plan.decision.delay_s), 15)}s",
            "labels": {"severity": "critical", "priority": _class(each)},
            "annotations": {"summary": f"GPUs of {told} run above the clock of the deepest level."},
        }


def _metric(name: str) -> str:
    """A name that a metric may have."""
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return plain if re.match(r"[a-zA-Z_]", plain) else f"row_{plain}"


# ------------------------------------------------------------------ Dynamo


def dynamo_power(plan: PowerPlan) -> dict[str, str]:
    """A patch for each level and priority: the annotation that Dynamo's power agent reads, on a workload's pods."""
    if (reason := cannot(plan)) is not None:
        raise Unsupported(f"--to dynamo-power: {reason}", "export a plan whose decision has levels")
    out = {}
    can = plan.decision.settable[0]
    for level in plan.decision.levels:
        for each in level.clocks:
            watts = can.most_watts if each.gpu_watts is None else each.gpu_watts
            out[f"level-{level.level}-{_file(_class(each))}.yaml"] = _patch(plan, watts, level.level, _class(each))
    for name in _classes(plan):
        out[f"level-0-{_file(name)}.yaml"] = _patch(plan, can.most_watts, 0, name)
    return dict(sorted(out.items()))


def _patch(plan: PowerPlan, watts: float, level: int, priority: str) -> str:
    document = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION: str(round(watts))}}}}}
    return (
        f"# {_said(plan)}\n# Level {level} of {_line(priority)}: "
        "power limit of each GPU, about its clock's watts in prefill."
        "\n# kubectl patch deployment NAME --patch-file THIS; the agent sets it within 15 s, and the limit lasts until"
        "\n# the driver is loaded again. A limit leaves decode alone that does not reach it; a clock does not.\n"
        + yaml.safe_dump(document, sort_keys=False)
    )


def _file(name: str) -> str:
    """A part of a file's name, which no other name has."""
    plain = re.sub(r"[^a-zA-Z0-9.-]", "-", name)[:60]
    return (
        plain if plain == name else f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
    )


def first_patch(plan: PowerPlan) -> str:
    """The file of the first level and the last class."""
    return f"level-1-{_file(_classes(plan)[-1])}.yaml"


def first_words(plan: PowerPlan) -> str:
    """What ``apply.sh`` is told for them."""
    roles = any(each.role for each in plan.decision.levels[0].clocks)
    return f"1 {shlex.quote(_classes(plan)[-1])}{' --gpus 0,1' if roles else ''}"
