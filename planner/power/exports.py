"""What operators apply: a power plan as scripts for nvidia-smi, and as annotations for Dynamo."""

from __future__ import annotations

import json
import shlex
from typing import Any

import yaml

from planner.power.alerts import prometheus
from planner.power.document import PowerPlan
from planner.power.parts import CappedPart, cannot, class_name, class_names, file_part, line, parts, said
from profiles.errors import Unsupported

ANNOTATION = "dynamo.nvidia.com/gpu-power-limit"
"""Of a pod, watts of each of its GPUs: Dynamo's power agent sets it as the board's limit (deploy/power_agent)."""


def files(plan: PowerPlan, target: str) -> dict[str, str]:
    """Text of each file by its path, for ``nvidia-smi``, ``prometheus`` or ``dynamo-power``."""
    made = {"nvidia-smi": nvidia_smi, "prometheus": prometheus, "dynamo-power": dynamo_power}[target]
    return made(plan)


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


def nvidia_smi(plan: PowerPlan) -> dict[str, str]:
    """apply.sh, rollback.sh and check.sh: dry unless told otherwise. Of several types of GPUs a folder each."""
    if (reason := cannot(plan)) is not None:
        raise Unsupported(f"--to nvidia-smi: {reason}", "export a plan whose decision has levels")
    made = {part.folder + name: text for part in parts(plan) for name, text in _scripts(plan, part).items()}
    return {**made, "plan.json": _levels_json(plan)}


def _scripts(plan: PowerPlan, part: CappedPart) -> dict[str, str]:
    can = part.can
    restored, undone = "--reset-gpu-clocks", "Unlocks"
    if can.restore != "reset":  # the plan that runs there locks them
        restored, undone = f"--lock-gpu-clocks={can.least_mhz},{can.restore}", f"Locks at {can.restore} MHz"
    cases = []
    for level in plan.decision.levels:
        for each in level.clocks:
            own = part.set_to(each)
            mhz = "" if own is None else str(own[0])
            cases.append(f"  {level.level}:{shlex.quote(class_name(each))}) echo {shlex.quote(mhz)} ;;")
    clock_of = "\n".join(
        [
            "# The highest SM clock of a level and a priority, MHz; empty where it is not capped.",
            "clock_of() {",
            '  case "$1:$2" in',
            *(f"  0:{shlex.quote(name)}) echo '' ;;" for name in class_names(plan)),
            *cases,
            "  *) return 1 ;;",
            "  esac",
            "}",
        ]
    )
    head = f"#!/usr/bin/env bash\n# {said(plan)}{'' if part.kind is None else f'; of servers {line(part.kind)}'}\n"
    names = line(" ".join(map(shlex.quote, class_names(plan))))
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
if [ "$really" = no ] && ! command -v nvidia-smi >/dev/null; then
  echo "+ nvidia-smi --id=EACH --power-limit=ITS_DEFAULT (read where nvidia-smi is; here it is not)"
else
  nvidia-smi --query-gpu=index,power.default_limit --format=csv,noheader,nounits |
    while IFS=', ' read -r index watts; do
    case "$watts" in *[!0-9.]*) echo "GPU $index says no default power limit ($watts): left as it is"; continue ;; esac
    run nvidia-smi --id="$index" --power-limit="${{watts%.*}}"
  done
fi
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
    return {"apply.sh": apply, "rollback.sh": rollback, "check.sh": check}


def _levels_json(plan: PowerPlan) -> str:
    """What a controller of one's own needs: budget tree, priorities, levels, delays, and what to restore."""
    d = plan.decision
    document: dict[str, Any] = {
        "plan": said(plan),
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


# ------------------------------------------------------------------ Dynamo


def dynamo_power(plan: PowerPlan) -> dict[str, str]:
    """A patch for each level and priority: the annotation that Dynamo's power agent reads, on a workload's pods."""
    if (reason := cannot(plan)) is not None:
        raise Unsupported(f"--to dynamo-power: {reason}", "export a plan whose decision has levels")
    out = {}
    for part in parts(plan):
        for level in plan.decision.levels:
            for each in level.clocks:
                own = part.set_to(each)
                watts = part.can.most_watts if own is None else own[1]
                file = f"{part.folder}level-{level.level}-{file_part(class_name(each))}.yaml"
                out[file] = _patch(plan, watts, level.level, class_name(each) + part.of)
        for name in class_names(plan):
            out[f"{part.folder}level-0-{file_part(name)}.yaml"] = _patch(plan, part.can.most_watts, 0, name + part.of)
    return dict(sorted(out.items()))


def _patch(plan: PowerPlan, watts: float, level: int, priority: str) -> str:
    document = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION: str(round(watts))}}}}}
    return (
        f"# {said(plan)}\n# Level {level} of {line(priority)}: "
        "power limit of each GPU, about its clock's watts in prefill."
        "\n# kubectl patch deployment NAME --patch-file THIS; the agent sets it within 15 s, and the limit lasts until"
        "\n# the driver is loaded again. A limit leaves decode alone that does not reach it; a clock does not.\n"
        + yaml.safe_dump(document, sort_keys=False)
    )


def first_patch(plan: PowerPlan) -> str:
    """The file of the first level and the last class."""
    return f"{first_folder(plan)}level-1-{file_part(class_names(plan)[-1])}.yaml"


def first_folder(plan: PowerPlan) -> str:
    """Where the first files are, with its slash."""
    return parts(plan)[0].folder


def first_words(plan: PowerPlan) -> str:
    """What ``apply.sh`` is told for them."""
    roles = any(each.role for each in plan.decision.levels[0].clocks)
    return f"1 {shlex.quote(class_names(plan)[-1])}{' --gpus 0,1' if roles else ''}"
