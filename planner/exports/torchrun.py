"""What the targets of training plans share: the framework's own arguments, and torchrun around them."""

from __future__ import annotations

from typing import ClassVar, get_args

from planner.exports.target import Asked, Target
from planner.launchers.words import variable
from planner.training import exports
from planner.training.document import TrainingPlan

PORT = 29500
"""torchrun's rendezvous, as in its documentation; ``first_port`` replaces it."""


class TrainingTarget(Target):
    """A platform that trains a plan."""

    kinds: ClassVar[frozenset[str]] = frozenset({"training"})

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        assert isinstance(asked.document, TrainingPlan)
        self.plan = asked.document

    @property
    def framework(self) -> str:
        return self.plan.request.framework

    @property
    def writes_for(self) -> exports.Target | None:
        """The format that the plan's framework takes."""
        name = self.plan.request.framework.partition("@")[0]
        known = {target: target for target in get_args(exports.Target)} | {"megatron-deepspeed": "megatron"}
        return known.get(name)

    def cannot(self) -> str | None:
        if self.writes_for is None:
            return f"nothing is written for {self.plan.request.framework}"
        return None

    @property
    def told(self) -> tuple[str, ...]:
        plan, iteration = self.plan, self.plan.prediction
        edited = "; EDITED since it was made" if plan.was_edited else ""
        return (
            f"plan {(plan.digest or 'without a digest')[:16]}, schema {plan.kind} {plan.schema_version}{edited}",
            f"for {plan.request.framework}, {plan.decision.mesh.label} on {plan.decision.gpus_used} GPUs",
            f"predicted: {iteration.iteration_s.value:.4g} s an iteration",
        )

    @property
    def gpus_per_node(self) -> int:
        return min(self.plan.decision.gpus_per_node, self.plan.decision.gpus_used)

    @property
    def nodes(self) -> int:
        return -(-self.plan.decision.gpus_used // self.gpus_per_node)

    def arguments(self) -> dict[str, str]:
        """The framework's files."""
        target = self.writes_for
        assert target is not None
        return exports.files(self.plan, target)

    def script_words(self, folder: str) -> list[str]:
        """What the training script is given: the plan's flags, or DeepSpeed's file."""
        if self.writes_for == "deepspeed":
            return ["--deepspeed_config", f"{folder}ds_config.json"]
        return list(self.plan.decision.launch.arguments)

    def torchrun(self, rank: str, head: str, folder: str) -> list[str]:
        """One node's command. Ranks go node by node, as the plan has them."""
        script = self.values.script
        assert script is not None
        return [
            *("torchrun", "--nnodes", str(self.nodes), "--nproc-per-node", str(self.gpus_per_node)),
            *("--node-rank", variable(rank), "--master-addr", variable(head)),
            *("--master-port", str(self.values.first_port or PORT), script, *self.script_words(folder)),
        ]
