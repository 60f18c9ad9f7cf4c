"""What the targets of training plans share: the framework's own arguments, and torchrun around them."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, get_args

from planner.exports.target import Asked, Target
from planner.exports.trainers import CONFIG_FILE, said, titan_toml, titan_words
from planner.exports.training_options import training_release
from planner.launchers.words import variable
from planner.training import exports
from planner.training.document import TrainingPlan
from profiles.errors import InputError

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
        return self.asked.framework or self.plan.request.framework

    @property
    def writes_for(self) -> exports.Target | None:
        """The format that the plan's framework takes."""
        name = self.plan.request.framework.partition("@")[0]
        known = {target: target for target in get_args(exports.Target)} | {"megatron-deepspeed": "megatron"}
        return known.get(name)

    def cannot(self) -> str | None:
        if self.writes_for is None:
            return f"nothing is written for {self.plan.request.framework}"
        if self.plan.decision.blocks:
            return (
                f"its jobs are of nodes of one kind, and stages run on {self.plan.decision.gpu.replace('+', ' and ')}"
            )
        return None

    @property
    def told(self) -> tuple[str, ...]:
        plan, iteration = self.plan, self.plan.prediction
        edited = "; EDITED since it was made" if plan.was_edited else ""
        version, note = self.release_of
        written = (f"written for {version}" + (f" ({note})" if note else ""),) if version else ()
        return (
            f"plan {(plan.digest or 'without a digest')[:16]}, schema {plan.kind} {plan.schema_version}{edited}",
            f"for {plan.request.framework}, {plan.decision.mesh.label} on {plan.decision.gpus_used} GPUs",
            f"predicted: {iteration.iteration_s.value:.4g} s an iteration",
            *written,
            *(f"fits only with {name}={value} in its environment" for name, value in self.environment.items()),
            *(plan.decision.launch.notes if self.writes_for == "deepspeed" else ()),  # its JSON has no comments
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables without which the plan does not fit."""
        tight = any(stage.verdict == "expandable_segments" for stage in self.plan.prediction.stages)
        return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} if tight else {}

    @property
    def gpus_per_node(self) -> int:
        return min(self.plan.decision.gpus_per_node, self.plan.decision.gpus_used)

    @property
    def nodes(self) -> int:
        return -(-self.plan.decision.gpus_used // self.gpus_per_node)

    @cached_property
    def release_of(self) -> tuple[str, str]:
        """(The release that is written for, how it came to be that one); "" where only one form is known.

        Raises:
            InputError: another framework than the plan's, or a release that is not known.
        """
        planned, _, version = self.plan.request.framework.partition("@")
        asked, _, other = (self.asked.framework or planned).partition("@")
        if asked not in (planned, self.writes_for):
            raise InputError(
                f"--framework: the plan is for {planned}, not for {asked}", f"name a release of it: {planned}@0.3"
            )
        if self.writes_for != "torchtitan":
            return "", ""
        return training_release("torchtitan", other or version, assume=self.asked.assume_version)

    def arguments(self) -> dict[str, str]:
        """The framework's files."""
        target = self.writes_for
        assert target is not None
        if target != "torchtitan":
            return exports.files(self.plan, target)
        version = self.release_of[0]
        if version != "0.2.2":
            return {"torchtitan.args": exports.lines_of(self.script_words(""), self.plan.decision.launch.notes)}
        fields = self._titan()
        return {
            **exports.files(self.plan, target),
            CONFIG_FILE: titan_toml(fields, version, (*self.told, *self.plan.decision.launch.notes)),
        }

    def _titan(self) -> dict[str, dict[str, object]]:
        """torchtitan's sections, with the model's name where the values have it."""
        fields = said(self.plan.decision.launch.arguments)
        named = {"name": self.values.module, "flavor": self.values.config}
        if self.release_of[0] == "0.2.2" and any(named.values()):
            model = {key: value for key, value in named.items() if value}
            fields = {"model": {**model, **fields.pop("model", {})}, **fields}
        return fields

    def script_words(self, folder: str) -> list[str]:
        """What the training script is given: the plan's flags, or the framework's file."""
        if self.writes_for == "deepspeed":
            return ["--deepspeed_config", f"{folder}ds_config.json"]
        if self.writes_for != "torchtitan":
            return list(self.plan.decision.launch.arguments)
        if self.release_of[0] == "0.2.2":
            return ["--job.config_file", f"{folder}{CONFIG_FILE}"]
        names = ["--module", str(self.values.module), "--config", str(self.values.config)]
        return [*names, *titan_words(self._titan(), self.release_of[0])]

    @property
    def module_needs(self) -> tuple[str, ...]:
        """Keys of the values that say which model is trained, where no flag of the plan does: torchtitan would train
        another unasked."""
        return ("module", "config") if self.writes_for == "torchtitan" else ()

    @property
    def script_needs(self) -> tuple[str, ...]:
        """The script that torchrun starts, where the framework has none of its own."""
        return () if self.writes_for == "torchtitan" else ("script",)

    def torchrun(self, rank: str, head: str, folder: str) -> list[str]:
        """One node's command. Ranks go node by node, as the plan has them."""
        script = [self.values.script] if self.values.script else ["-m", "torchtitan.train"]
        return [
            *("torchrun", "--nnodes", str(self.nodes), "--nproc-per-node", str(self.gpus_per_node)),
            *("--node-rank", variable(rank), "--master-addr", head),
            *("--master-port", str(self.values.first_port or PORT), *script, *self.script_words(folder)),
        ]
