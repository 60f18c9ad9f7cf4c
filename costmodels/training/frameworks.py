"""Facts of training frameworks, by release: see ``frameworks.yaml``, which has their meanings and sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from profiles.errors import UnknownName
from profiles.shipped import shipped

HIDDEN = ("gradients", "parameters", "tensor", "pipeline", "experts")
"""Exchanges that a framework may run behind computation."""


@dataclass(frozen=True)
class TrainingFramework:
    """One framework in one release; attributes as ``frameworks.yaml`` explains them."""

    name: str
    release: str
    full_name: str
    defaults: Mapping[str, Any]
    attention: tuple[str, ...]
    recompute: tuple[str, ...]
    schedules: tuple[str, ...]
    sharding_with_pp: tuple[int, ...]
    expert_tp_default: str
    vocab_multiple: int
    enforces_positions: bool
    weights: float
    gradients: float
    master: float
    moments: float
    reduce: float
    gather: float
    loss_bytes: float
    loss_bytes_tp: float
    loss_traffic: float
    unfused_hidden: float
    unfused_wide: float
    host_us: float
    hidden: tuple[str, ...]
    wgrad_scratch: bool
    keeps_weights_gathered: bool
    gathers_with_recompute: int
    one_ring: bool
    gathered_layers: int
    gather_buffers: int
    keeps_outputs: float
    stage_copies: float
    split_hidden: float
    saves_8bit: bool
    fragmentation: float
    fragmentation_plain: float
    flat_states: bool = False
    shardings: tuple[int, ...] = (0, 1, 2, 3)
    weights_8bit: float | None = None
    gradients_8bit: float | None = None
    reduce_8bit: float | None = None
    gradients_16bit_from: int = 99
    recompute_layers: Literal["any", "every", "all"] = "any"
    """How many of a stage's layers can be recomputed whole: any number, every n-th, or all."""
    pipeline_splits_batch: bool = False
    experts_need_sequence_parallel: bool = False
    even_stages: bool = False
    host_expert_us: Mapping[str, float] = field(default_factory=dict)
    expert_bias_traffic: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.name}@{self.release}"

    def quantised(self) -> TrainingFramework:
        """The same where products are of 8 bits or fewer."""
        changed = {"weights": self.weights_8bit, "gradients": self.gradients_8bit, "reduce": self.reduce_8bit}
        return replace(self, **{name: value for name, value in changed.items() if value is not None})  # type: ignore[arg-type]


def framework_names() -> tuple[str, ...]:
    return tuple(_facts())


@cache
def find_training_framework(text: str) -> TrainingFramework:
    """``NAME`` or ``NAME@RELEASE``; or one of the other names that it has.

    Raises:
        UnknownName: no such framework.
    """
    name, _, release = text.strip().partition("@")
    facts = _facts()
    name = _aliases().get(name, name)
    if name not in facts:
        raise UnknownName("framework", name, facts)
    entry = dict(facts[name])
    said = release.removeprefix("v").removeprefix("core_r").removeprefix("core_v")
    for other in entry.pop("releases"):
        if any(said == lead or said.startswith(f"{lead}.") for lead in other["names"]):
            entry.update({key: value for key, value in other.items() if key not in ("names", "sources")})
    newest = str(entry.pop("version"))
    for key in ("aliases", "date", "sources"):
        entry.pop(key, None)
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return TrainingFramework(name=name, release=said or newest, **fields)


@cache
def _facts() -> dict[str, dict[str, Any]]:
    def parse(document: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in document:
            _check(document[name])
        return document

    return shipped(Path(__file__).parent / "frameworks.yaml", parse)


@cache
def _aliases() -> dict[str, str]:
    return {other: name for name, entry in _facts().items() for other in entry.get("aliases", ())}


def _check(entry: dict[str, Any]) -> None:
    unknown = set(entry["hidden"]) - set(HIDDEN)
    if unknown or "sources" not in entry:
        raise ValueError(f"hidden: {sorted(unknown)}, or no sources")
