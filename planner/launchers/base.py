"""What every launcher shares: the engine, what a framework can express, the names of its flags."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from costmodels.serving.frameworks.facts import CommandLine
from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import Launch, Layout, Limits, Role
from profiles.errors import Unsupported

CHECKPOINT = "$CHECKPOINT"
NODE_RANK = "$NODE_RANK"
HEAD_ADDRESS = "$HEAD_ADDRESS"
DRAFT_MODEL = "$DRAFT_MODEL"
"""Arguments that only the reader can fill in; the notes say with what, and a shell expands them."""


@dataclass(frozen=True)
class EngineSpec:
    """One engine as it was decided.

    ``model``: name on the Hugging Face Hub, or the path of a model's folder or of its ``config.json``.
    ``precision_converted``: ``weights_precision`` is not ``published_precision``, that of the checkpoint.
    ``gpus_per_node``: of the pool in which the engine runs. ``draft_tokens``: 0 without speculative decoding.
    ``attention_backend``: that it must take to match its partners; "": its own choice.
    """

    framework: str
    model: str
    layout: Layout
    limits: Limits
    weights_precision: str
    kv_precision: str
    precision_converted: bool
    published_precision: str
    gpus_per_node: int
    is_moe: bool
    role: Role = "aggregated"
    draft_tokens: int = 0
    prefix_hit: float = 0.0
    is_sparse: bool = False
    attention_backend: str = ""

    @property
    def must_name_kv(self) -> bool:
        """Whether the framework's default may be another cache than planned: it follows a quantised checkpoint that
        carries its own scheme, and SGLang on Blackwell takes 8 bits for sparse attention (overrides of its server
        arguments for DeepSeek DSA, read 2026-11-21)."""
        published_in_16_bits = self.published_precision in ("bf16", "fp16", "fp32")
        return self.kv_precision != "bf16" or not published_in_16_bits or self.is_sparse

    @property
    def nodes(self) -> int:
        """Nodes that the engine needs; the plan's placement may spread it over more."""
        return -(-self.layout.gpus // self.gpus_per_node)

    @property
    def checkpoint(self) -> str:
        """What the framework loads: frameworks want the folder of a ``config.json``."""
        path = Path(self.model)
        return str(path.parent) if path.name == "config.json" else self.model


class Launcher(ABC):
    """Starts engines of one framework, whose YAML file says what it can express and in which words."""

    name: ClassVar[str]  # of its framework
    limits_span_replicas: ClassVar[bool] = False  # whether batch limits are said of all attention replicas together
    kinds: ClassVar[dict[str, type[Launcher]]] = {}  # every launcher, by its framework

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.kinds[cls.name] = cls

    def __init__(self, framework: Framework) -> None:
        self.framework = framework

    @property
    def words(self) -> CommandLine:
        """How the framework spells what a plan decides."""
        return self.framework.command

    def cannot_express(self, layout: Layout, *, is_moe: bool) -> str | None:
        """Why the framework has no words for ``layout``, or None where it has."""
        name, can = self.framework.full_name, self.framework.parallelism
        if not is_moe:
            dense = layout.dp == 1 and layout.ep == 1
            return None if dense else f"{name}: attention data parallel and expert parallel are for MoE models"
        group = layout.tp * layout.dp
        if layout.ep * layout.moe_tp != group:
            return f"{name}: ep {layout.ep} × moe_tp {layout.moe_tp} is not tp {layout.tp} × dp {layout.dp}"
        if can.expert_splits == "all_or_nothing" and layout.ep not in (1, group):
            return f"{name} shares experts out over all GPUs of a stage or over none"
        if not can.tensor_and_data_parallel_attention and layout.tp > 1 and layout.dp > 1:
            return f"{name} runs attention tensor parallel or data parallel, not both"
        return None

    def launch(self, spec: EngineSpec) -> Launch:
        """The command and what it cannot say.

        Raises:
            Unsupported: a layout or precision that the framework cannot be told.
        """
        reason = self.cannot_express(spec.layout, is_moe=spec.is_moe)
        if reason is not None:
            raise Unsupported(f"layout {spec.layout.label}: {reason}", "choose another layout or framework")
        runs = self.framework.capabilities.precisions
        if spec.weights_precision not in runs:
            raise Unsupported(
                f"precision: {self.framework.full_name} does not run {spec.weights_precision} weights",
                f"choose one of {', '.join(sorted(runs))}, or another framework",
            )
        notes: list[str] = []
        model, quantize = self._weights(spec, notes)
        command = [*self.words.program, *self._flag("model"), model]
        command += self._parallel(spec, notes)
        command += quantize
        command += self._limits(spec, notes)
        if spec.draft_tokens:
            command += self._drafting(spec, notes)
        if spec.role != "aggregated":
            command += self._role(spec, notes)
        if spec.attention_backend:
            command += self._flag("attention_backend", spec.attention_backend)
        if spec.layout.gpus < spec.gpus_per_node:
            notes.append(
                "On each node set CUDA_VISIBLE_DEVICES to the replica's GPUs (see `plan --explain`) and "
                f"give every engine of a node its own {self._flag('port')[0]} (default {self.words.port})."
            )
        notes.append(
            f"Flags are those of {self.framework.full_name} {self.framework.basis('command').release} "
            f"(checked {self.words.checked_on}); "
            + (
                f"prefix caching is on by default, and the prediction counts on a hit rate of {spec.prefix_hit:g}."
                if spec.prefix_hit
                else "prefix caching is left at its default and the prediction counts on none."
            )
        )
        return Launch(framework=self.name, command=tuple(command), notes=tuple(notes))

    def _flag(self, name: str, value: object = None) -> list[str]:
        """The flag with its value; nothing where the framework has none (a positional argument)."""
        flag = self.words.flags[name]
        if flag is None:
            return []
        return [flag] if value is None else [flag, str(value)]

    def _limit_values(self, limits: Limits, layout: Layout) -> dict[str, str]:
        """What the command line says of the batch limits: our name of the flag → the value."""
        replicas = layout.dp if self.limits_span_replicas else 1
        return {
            "max_tokens_per_step": str(limits.max_tokens_per_step * replicas),
            "max_sequences": str(limits.max_sequences * replicas),
            "max_model_len": str(limits.max_model_len),
            "memory_fraction": f"{limits.memory_fraction:g}",
        }

    def _limit_flags(self, spec: EngineSpec) -> list[str]:
        values = self._limit_values(spec.limits, spec.layout)
        return [word for name, value in values.items() for word in self._flag(name, value)]

    def other_limits(self, command: Sequence[str], limits: Limits, layout: Layout) -> str | None:
        """Where ``command`` says another batch limit than the engine has, in words; None where it says all of them."""
        said = dict(pairwise(command))
        for name, value in self._limit_values(limits, layout).items():
            (flag,) = self._flag(name)
            if said.get(flag) != value:
                given = f"{flag} {said[flag]}" if flag in said else f"no {flag}"
                return f"{given}, and its limits are {name} {value}"
        return None

    def _weights(self, spec: EngineSpec, notes: list[str]) -> tuple[str, list[str]]:
        """(model argument, flags that convert its weights). A conversion that the framework does not do while
        loading becomes a placeholder: a command that ran other weights than planned is silently wrong."""
        if not spec.precision_converted:
            return spec.checkpoint, []
        word = self.words.quantize.get(spec.weights_precision)
        if word is not None and spec.published_precision in ("bf16", "fp16", "fp32"):
            return spec.checkpoint, self._flag("quantize", word)
        notes.append(
            f"{CHECKPOINT}: {spec.checkpoint} converted from {spec.published_precision} to "
            f"{spec.weights_precision} beforehand; {self.framework.full_name} does not do this while loading."
        )
        return CHECKPOINT, []

    @abstractmethod
    def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of the layout and of the nodes."""

    @abstractmethod
    def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of speculative decoding."""

    @abstractmethod
    def _role(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of an engine that only prefills or only decodes."""

    @abstractmethod
    def _limits(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of the batch limits, memory and KV cache."""
