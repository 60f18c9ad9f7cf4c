"""How a training plan is started: by the flags of Megatron-LM or torchtitan, or DeepSpeed's JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from costmodels.training.setting import Setting
from planner.training.launchers import deepspeed, megatron, torchtitan
from planner.training.request import TrainingRequest

if TYPE_CHECKING:
    from planner.training.document import TrainingDecision, TrainingLaunch


def launch(
    setting: Setting, request: TrainingRequest, decision: TrainingDecision, with_one_number_s: float
) -> TrainingLaunch:
    """How to start ``decision`` in its framework. ``with_one_number_s``: seconds of an iteration where all stages
    recompute as many layers as the one that recomputes most."""
    from planner.training.document import TrainingLaunch

    name = setting.framework.name
    notes = [f"start one process a GPU, ranks in the order {decision.rank_order}, on {_machines(decision)}"]
    if decision.blocks:
        notes.append("nodes in that order: ranks go through one pool after the other, each block on nodes of its own")
    if name in ("megatron", "megatron-deepspeed"):
        arguments = megatron.arguments(setting, request, decision, notes, with_one_number_s)
    elif name == "torchtitan":
        arguments = torchtitan.arguments(request, decision, notes)
    else:
        arguments = [json.dumps(deepspeed.configuration(request, decision))]
        notes += deepspeed.beside(setting, decision)
    return TrainingLaunch(framework=setting.framework.label, arguments=tuple(arguments), notes=tuple(notes))


def _machines(decision: TrainingDecision) -> str:
    if decision.blocks:
        return ", then ".join(
            f"{_nodes(block.gpus_used, block.gpus_per_node)} of {block.gpu} (from rank {block.first_rank})"
            for block in decision.blocks
        )
    return _nodes(decision.gpus_used, decision.gpus_per_node)


def _nodes(gpus: int, per_node: int) -> str:
    nodes = -(-gpus // per_node)
    return "1 node" if nodes == 1 else f"{nodes} nodes"
