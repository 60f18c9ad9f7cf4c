"""A training plan as the file of its framework: flags of Megatron-LM or torchtitan, DeepSpeed's JSON."""

from __future__ import annotations

from typing import ClassVar

from planner.exports.text import comments
from planner.exports.torchrun import TrainingTarget


class _Format(TrainingTarget):
    def cannot(self) -> str | None:
        if self.writes_for != self.name:
            return f"it does not train this plan, which was made for {self.plan.request.framework}"
        return None

    def files(self) -> dict[str, str]:
        told = comments(self.told)
        return {name: text if name.endswith(".json") else told + text for name, text in self.arguments().items()}


class Megatron(_Format):
    name: ClassVar[str] = "megatron"
    writes: ClassVar[str] = "megatron.args: a flag a line, for $(cat …) or xargs"
    release: ClassVar[str] = "Megatron-LM, options as of commit d98e8a64"
    rung: ClassVar[int] = 1


class Torchtitan(_Format):
    name: ClassVar[str] = "torchtitan"
    writes: ClassVar[str] = "torchtitan.args: a flag a line"
    release: ClassVar[str] = "torchtitan 0.2"
    rung: ClassVar[int] = 1


class DeepSpeed(_Format):
    name: ClassVar[str] = "deepspeed"
    writes: ClassVar[str] = "ds_config.json"
    release: ClassVar[str] = "DeepSpeed 0.18"
    rung: ClassVar[int] = 1
