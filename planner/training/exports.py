"""A training plan as the file that its framework takes: flags of Megatron-LM or torchtitan, DeepSpeed's JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Literal, get_args

from planner.training.document import TrainingPlan
from profiles.errors import InputError

Target = Literal["megatron", "torchtitan", "deepspeed"]
_WRITES = {
    "megatron": "megatron",
    "megatron-deepspeed": "megatron",
    "torchtitan": "torchtitan",
    "deepspeed": "deepspeed",
}


def files(plan: TrainingPlan, target: Target) -> dict[str, str]:
    """Files by name. Flags stand one a line with their values, quoted for a shell, so that ``xargs``
    takes them; what they cannot say stands in comments above.

    Raises:
        InputError: the plan was made for another framework.
    """
    framework = plan.request.framework.partition("@")[0]
    writes = _WRITES.get(framework)
    if writes != target:
        made = (
            f"it was made for {framework}, which is written as {writes}" if writes else f"it was made for {framework}"
        )
        raise InputError(
            f"to: {target} does not train this plan; {made}",
            f"plan it again with --framework {target}"
            if target in get_args(Target)
            else f"choose from {', '.join(get_args(Target))}",
        )
    launch = plan.decision.launch
    if target == "deepspeed":
        return {"ds_config.json": json.dumps(json.loads(launch.arguments[0]), indent=2) + "\n"}
    return {f"{target}.args": lines_of(launch.arguments, launch.notes)}


def lines_of(words: Sequence[str], notes: Sequence[str]) -> str:
    """A flag a line, below what flags cannot say."""
    return "\n".join([*(f"# {note}" for note in notes), *_lines(words)]) + "\n"


def _lines(arguments: Sequence[str]) -> list[str]:
    """Each flag with its values on one line."""
    lines: list[list[str]] = []
    for word in arguments:
        if word.startswith(("--", "activation-checkpoint:")) or not lines:
            lines.append([])
        lines[-1].append(word)
    return [shlex.join(line) for line in lines]
