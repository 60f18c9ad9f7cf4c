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
found=$(cd "$(dirname "$0")" && pwd)/found

run() {
  echo "+ $*"
  if [ "$really" = yes ]; then "$@" </dev/null; fi
}
"""
"""What the scripts that set something begin with, after their arguments. ``found``: a file a GPU, by its UUID."""


_BASH = """[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # of `sh apply.sh`, too
"""
"""Before all that only bash understands."""

_REMEMBER = """# Keeps what stands, of every GPU that apply.sh has not touched yet, for rollback.sh.
remember() {
  local gpus uuid index limit mhz most locked draft
  if [ "$really" = no ] && ! command -v nvidia-smi >/dev/null; then
    echo "+ keep what stands in $found (nvidia-smi, which tells it, is not here)"
    return
  fi
  gpus=$(nvidia-smi ${ids:+--id="$ids"} --query-gpu=uuid,index,power.limit,clocks.current.sm,clocks.max.sm \\
    --format=csv,noheader,nounits)
  while IFS=, read -r uuid index limit mhz most; do
    uuid=${uuid// /} index=${index// /} limit=${limit// /} mhz=${mhz// /} most=${most// /}
    case "$uuid" in
    GPU-*[!a-zA-Z0-9-]* | GPU-) uuid='' ;;
    GPU-*) ;;
    *) uuid='' ;;
    esac
    if [ -z "$uuid" ]; then
      echo "$0: nvidia-smi does not tell the UUID of GPU $index: nothing is set" >&2
      return 1
    fi
    if [ -e "$found/$uuid" ]; then continue; fi
    locked=$(nvidia-smi --id="$uuid" --query-gpu=clocks_throttle_reasons.applications_clocks_setting \\
      --format=csv,noheader </dev/null) || locked='not told'
    echo "+ keep in $found/$uuid: GPU $index, power limit $limit W"
    if [ "$locked" = Active ]; then
      echo "GPU $index: something has set its clocks already, nvidia-smi does not tell to what (it runs" \\
        "at $mhz MHz). Give them to rollback.sh: --clocks MIN,MAX"
    fi
    if [ "$really" = no ]; then continue; fi
    mkdir -p "$found"
    draft=$(mktemp "$found/.draft.XXXXXX")
    printf '%s\\n' "power_limit_watts=$limit" "sm_mhz=$mhz" "most_sm_mhz=$most" "clocks_set=$locked" \\
      "kept=$(date -u +%Y-%m-%dT%H:%M:%SZ)" >"$draft"
    ln "$draft" "$found/$uuid" 2>/dev/null || [ -e "$found/$uuid" ] # whoever was first keeps it
    rm -f "$draft"
  done <<EOF
$gpus
EOF
}
"""


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
    restored, undone = "--reset-gpu-clocks", "are unlocked"
    if can.restore != "reset":  # the plan that runs there locks them
        restored = f"--lock-gpu-clocks={can.least_mhz},{can.restore}"
        undone = f"are locked at {can.restore} MHz, as the plan of these servers does"
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
    of = "" if part.kind is None else f"; of servers {line(part.kind)}"
    head = f"#!/usr/bin/env bash\n{_BASH}# {said(plan)}{of}\n"
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
# Before the first change of a GPU its power limit is kept in found/ beside this script, which rollback.sh restores.
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
{_REMEMBER}
remember
if [ -n "$clock" ]; then
  run nvidia-smi ${{ids:+--id="$ids"}} --lock-gpu-clocks={can.least_mhz},"$clock"
else
  run nvidia-smi ${{ids:+--id="$ids"}} {restored}
fi
if [ -n "$watts" ]; then run nvidia-smi ${{ids:+--id="$ids"}} --power-limit="$watts"; fi
if [ "$really" = no ]; then echo "nothing was set: say --apply"; fi
"""
    rollback = f"""{head}# Restores what apply.sh found of every GPU that it set, as kept in found/: the power limit.
# Locked clocks, which nvidia-smi does not tell, {undone}.
#
#   ./rollback.sh            says what it would do
#   ./rollback.sh --apply    does it (needs root); may be run again, also after it was stopped half way
#   ./rollback.sh --clocks MIN,MAX --apply    locks the clocks that stood before, MHz, where something had locked them
set -euo pipefail

usage() {{ echo "usage: $0 [--clocks MIN,MAX] [--apply]" >&2; exit 2; }}

really=no clocks=''
while [ "$#" -gt 0 ]; do
  case "$1" in
  --apply) really=yes ;;
  --clocks) [ "$#" -ge 2 ] || usage; clocks=$2; shift ;;
  *) usage ;;
  esac
  shift
done
if [ -n "$clocks" ]; then
  form='^([0-9]+),([0-9]+)$'
  [[ "$clocks" =~ $form ]] || {{ echo "$0: $clocks is not MIN,MAX in whole MHz" >&2; exit 2; }}
  low=${{BASH_REMATCH[1]}} high=${{BASH_REMATCH[2]}}
  if [ "$low" -lt {can.least_mhz} ] || [ "$high" -gt {can.most_mhz} ] || [ "$low" -gt "$high" ]; then
    echo "$0: $clocks MHz is outside of {can.least_mhz} to {can.most_mhz} MHz of {can.gpu}" >&2
    exit 2
  fi
fi
{_RUN}
restore() {{ # UUID INDEX LIMIT: what the file of the UUID says; LIMIT is what stands now
  local file=$found/$1 limit locked kept mhz
  limit=$(sed -n 's/^power_limit_watts=//p' "$file") locked=$(sed -n 's/^clocks_set=//p' "$file")
  kept=$(sed -n 's/^kept=//p' "$file") mhz=$(sed -n 's/^sm_mhz=//p' "$file")
  if [ -z "$kept" ]; then
    echo "GPU $2: $file is not as apply.sh writes it: left as it is" >&2
    return 1
  fi
  if [ -n "$clocks" ]; then
    run nvidia-smi --id="$1" --lock-gpu-clocks="$clocks" || return 1
  else
    run nvidia-smi --id="$1" {restored} || return 1
    case "$locked" in
    Active) echo "GPU $2: something had set its clocks when apply.sh first ran ($kept, then at $mhz MHz)." \\
      "nvidia-smi did not tell to what: if they were locked, give them, --clocks MIN,MAX" ;;
    'Not Active') ;;
    *) echo "GPU $2: whether something had locked its clocks before nvidia-smi did not tell (then at $mhz MHz)" ;;
    esac
  fi
  case "$limit" in
  '' | *[!0-9.]*) echo "GPU $2: it told no power limit ($limit): left as it is" ;;
  "$3") echo "GPU $2: power limit $limit W, as before" ;;
  *) run nvidia-smi --id="$1" --power-limit="$limit" || return 1 ;;
  esac
  if [ "$really" = yes ]; then rm -f "$file"; fi
}}

failed=0
if [ "$really" = no ] && ! command -v nvidia-smi >/dev/null; then
  echo "nvidia-smi is not here; what is kept:"
  for file in "$found"/GPU-*; do
    if [ -e "$file" ]; then echo "  ${{file##*/}}: power limit $(sed -n 's/^power_limit_watts=//p' "$file") W"; fi
  done
else
  gpus=$(nvidia-smi --query-gpu=uuid,index,power.limit --format=csv,noheader,nounits)
  while IFS=, read -r uuid index limit; do
    uuid=${{uuid// /}} index=${{index// /}} limit=${{limit// /}}
    if [ ! -e "$found/$uuid" ]; then
      echo "GPU $index: apply.sh has set nothing, or it is rolled back: left as it is"
      continue
    fi
    restore "$uuid" "$index" "$limit" || {{ failed=1; echo "GPU $index is not rolled back: run this again" >&2; }}
  done <<EOF
$gpus
EOF
  for file in "$found"/GPU-*; do
    if [ -e "$file" ] && ! echo "$gpus" | grep -q -F "${{file##*/}}"; then
      echo "${{file##*/}} is kept, and of no GPU that nvidia-smi tells here: left"
    fi
  done
fi
if [ "$really" = no ]; then echo "nothing was set: say --apply"; fi
exit "$failed"
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
