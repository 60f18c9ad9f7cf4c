"""A training plan as the file of its framework: flags of Megatron-LM, TOML or arguments of torchtitan, DeepSpeed's
JSON, overrides of Megatron Bridge."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar

from planner.exports.text import comments
from planner.exports.torchrun import TrainingTarget
from planner.exports.trainers import CONFIG_FILE, bridge_overrides


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
    writes: ClassVar[str] = "megatron.args: a flag a line, quoted as xargs reads them, below comments"
    release: ClassVar[str] = "Megatron-LM, options as of commit d98e8a64"
    rung: ClassVar[int] = 1

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start on each node: grep -v '^#' {folder}/megatron.args | xargs torchrun … pretrain_gpt.py",)


class Torchtitan(_Format):
    name: ClassVar[str] = "torchtitan"
    writes: ClassVar[str] = (
        "torchtitan.args, a flag a line; torchtitan.toml for releases before 0.3, which have no --module"
    )
    release: ClassVar[str] = "torchtitan 0.2.2 and 0.3.0"
    rung: ClassVar[int] = 2

    @property
    def needs(self) -> tuple[str, ...]:
        return self.module_needs

    def steps(self, folder: Path) -> tuple[str, ...]:
        words = (
            " ".join(self.script_words(f"{folder}/"))
            if self.release_of[0] == "0.2.2"
            else f"$(grep -v '^#' {folder}/torchtitan.args)"
        )
        return (f"start on each node: torchrun … -m torchtitan.train {words}",)

    def files(self) -> dict[str, str]:
        told = comments(self.told)
        return {name: text if name == CONFIG_FILE else told + text for name, text in self.arguments().items()}


class MegatronBridge(_Format):
    name: ClassVar[str] = "megatron-bridge"
    writes: ClassVar[str] = "megatron-bridge.overrides: a key=value a line, for the command line of a recipe"
    release: ClassVar[str] = "Megatron Bridge 0.3"
    rung: ClassVar[int] = 2

    def cannot(self) -> str | None:
        if self.plan.request.framework.partition("@")[0] != "megatron":
            return f"it does not train this plan, which was made for {self.plan.request.framework}"
        return None

    def files(self) -> dict[str, str]:
        lines = bridge_overrides(self.plan, "0.3.1")
        notes = (*self.told, *self.plan.decision.launch.notes)
        return {"megatron-bridge.overrides": comments(notes) + "".join(f"{shlex.quote(line)}\n" for line in lines)}


class DeepSpeed(_Format):
    name: ClassVar[str] = "deepspeed"
    writes: ClassVar[str] = "ds_config.json"
    release: ClassVar[str] = "DeepSpeed 0.18"
    rung: ClassVar[int] = 1
