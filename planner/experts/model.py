"""What expert placement needs to know of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.models.architecture import Architecture, MixtureOfExperts
from costmodels.models.precision import Precision
from costmodels.operations.roofline import stored_bytes
from planner.experts.placement import Ints
from profiles.errors import Unsupported


@dataclass(frozen=True)
class MoeModel:
    """``layers``: hidden layers of the model, dense ones included; ``moe_layers``: indices of those with experts."""

    name: str
    layers: int
    moe_layers: tuple[int, ...]
    experts: int
    top_k: int

    @property
    def layer_index(self) -> Ints:
        return np.array(self.moe_layers, np.int64)

    @property
    def words(self) -> str:
        dense = self.layers - len(self.moe_layers)
        layers = f"{len(self.moe_layers)} MoE layers" + (f" of {self.layers} ({dense} dense)" if dense else "")
        return f"{self.name} has {layers} with {self.experts} experts each"


def expert_layer(architecture: Architecture) -> MixtureOfExperts:
    """The one kind of expert layer that the model has.

    Raises:
        Unsupported: a dense model, or one whose expert layers differ.
    """
    kinds = {g.feed_forward for g in architecture.layer_groups if isinstance(g.feed_forward, MixtureOfExperts)}
    if len(kinds) != 1:
        why = "expert layers of different shapes" if kinds else "no experts"
        raise Unsupported(
            f"model: {architecture.name} has {why}; there is nothing to place",
            "name a mixture-of-experts model, such as deepseek-ai/DeepSeek-V3 (`plan models` lists all)",
        )
    return kinds.pop()


def moe_model(architecture: Architecture) -> MoeModel:
    """Raises Unsupported, as :func:`expert_layer`."""
    ffn = expert_layer(architecture)
    return MoeModel(architecture.name, architecture.layers, architecture.moe_layers, ffn.experts, ffn.top_k)


def copy_bytes(architecture: Architecture, precision: Precision) -> float:
    """Weights of one copy of one expert in one layer."""
    ffn = expert_layer(architecture)
    return ffn.expert_parameters(architecture.hidden) * stored_bytes(precision.experts, precision.group)
