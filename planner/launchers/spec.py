"""An engine as it was decided: what a launcher turns into a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import Layout, Limits, Role
from planner.contract.expert_placement import ExpertPlacement

if TYPE_CHECKING:
    from costmodels.models.architecture import Architecture
    from costmodels.models.precision import Precision

CHECKPOINT = "$CHECKPOINT"
DRAFT_MODEL = "$DRAFT_MODEL"
"""Arguments that only the reader can fill in: the notes say with what, and an export takes them from its values."""

MTP = "mtp"
"""Drafting by the model's own module for that, which needs no draft model."""


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
    expert_backend: str = ""
    """Kernels for experts that it must be told to run; "": its own choice."""
    early_launch: str = ""
    """Variable without which kernels start when the last has ended, as is not predicted; "": none."""
    converted_checkpoint: str = CHECKPOINT
    draft_model: str = DRAFT_MODEL
    draft_method: str = ""
    """How it drafts, in the framework's word; "": as usual with a head."""
    placement: ExpertPlacement | None = None
    """Where its experts lie, as the plan has it."""
    layers: int = 0
    """Of the model, those without experts among them; 0: not told, as what is shown needs no files."""
    experts: int = 0
    """Of a layer, without copies; 0: not told."""
    vendor: str = "nvidia"
    """Of its GPUs."""

    @classmethod
    def of(
        cls,
        framework: Framework,
        model: Architecture,
        precision: Precision,
        layout: Layout,
        limits: Limits,
        gpus_per_node: int,
        role: Role,
    ) -> EngineSpec:
        """Of a model that is known, in ``precision``."""
        return cls(
            framework=framework.spec,
            model=model.name,
            layout=layout,
            limits=limits,
            weights_precision=precision.weights,
            kv_precision=precision.kv,
            precision_converted=precision.converted,
            published_precision=model.weight_precision,
            is_sparse=model.is_sparse,
            gpus_per_node=gpus_per_node,
            is_moe=model.is_moe,
            role=role,
        )

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
