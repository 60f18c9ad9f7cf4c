"""What all layouts of one question share: the model, the sequence, the framework and what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.architecture import (
    DenseFeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
)
from costmodels.training.frameworks import TrainingFramework
from costmodels.training.layouts import TrainingLayouts
from costmodels.training.models import TrainedAttention, TrainedModel

Mode = Literal["pretrain", "sft", "lora"]
MODES: tuple[Mode, ...] = ("pretrain", "sft", "lora")

OPTIMIZERS = {"adam": 1.0, "adamw": 1.0, "sgd": 0.0, "muon": 0.5, "adafactor": 0.0}
"""Share of the moments of Adam that an optimizer keeps. Adafactor's factored moments are a row and a column of each
matrix (arXiv:1804.04235), Muon's one of two (arXiv:2502.16982)."""

LORA_RANK = 16
"""Rank of the adapters that ``lora`` trains, on every product of a layer (peft's and torchtune's usual 16)."""


@dataclass(frozen=True)
class Setting:
    """One question about one model.

    Attributes:
        sequence: tokens of a sequence.
        framework: whose facts; those of 8-bit recipes where the precision is one.
        precision: of the products (:data:`costmodels.training.layouts.PRECISIONS`).
        mtp: multi-token-prediction layers that are trained beside the model.
    """

    model: TrainedModel
    framework: TrainingFramework
    sequence: int
    precision: str = "bf16"
    mode: Mode = "pretrain"
    optimizer: str = "adam"
    mtp: int = 0

    def __post_init__(self) -> None:
        if self.quantised:
            object.__setattr__(self, "framework", self.framework.quantised())

    def tokens(self, layouts: TrainingLayouts) -> Floats:
        """Of a micro-batch on one context-parallel rank, shape [n]."""
        return layouts.micro_batch * self.sequence / layouts.cp

    def vocabulary(self, tp: Ints) -> Ints:
        """Rows of the embedding that one rank holds, padded as the framework does, shape [n]."""
        multiple = self.framework.vocab_multiple
        unit = multiple * tp if multiple > 1 else tp
        vocabulary = self.model.architecture.vocabulary
        return np.asarray(-(-vocabulary // unit) * unit // tp)

    @property
    def input_bytes(self) -> float:
        """Of one element of a product's input that is kept for the weight gradient."""
        return 1.0 if self.quantised else 2.0

    @property
    def quantised(self) -> bool:
        """Whether inputs and weights of products are kept in 8 bits (or fewer, which are kept in 8)."""
        return self.framework.saves_8bit and self.precision not in ("bf16", "fp16")

    @property
    def host_expert_us(self) -> float:
        """What the host needs of each expert of a rank in a pass, beside what a layer takes it."""
        return self.framework.host_expert_us.get(self.precision, 0.0)

    @cached_property
    def moments(self) -> float:
        """Bytes of moments a parameter."""
        return self.framework.moments * OPTIMIZERS[self.optimizer]

    @cached_property
    def trained_share(self) -> float:
        """Share of the weights that have gradients and states: all, or the adapters."""
        if self.mode != "lora":
            return 1.0
        model = self.model.architecture
        adapters = 0
        for kind in self.model.kinds:
            widths = [(model.hidden, width) for width in attention_widths(kind.attention)]
            ffn = kind.feed_forward
            if isinstance(ffn, DenseFeedForward):
                widths += [(model.hidden, ffn.intermediate)] * (3 if ffn.gated else 2)
            adapters += kind.count * sum(LORA_RANK * (wide + narrow) for wide, narrow in widths)
        return adapters / model.parameters


def attention_widths(attention: TrainedAttention) -> tuple[int, ...]:
    """Features in and out of the products of an attention, other than the model's width: q, k, v and output."""
    if isinstance(attention, GroupedQueryAttention):
        query, kv = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
        return query, kv, kv, query
    if isinstance(attention, LatentAttention):
        qk = attention.qk_nope_head_dim + attention.qk_rope_head_dim
        return attention.heads * qk, attention.kv_lora_rank, attention.heads * attention.v_head_dim
    return attention.convolved, attention.value_heads * attention.value_dim


def attention_parameters(attention: TrainedAttention, hidden: int) -> tuple[int, int]:
    """Weights of an attention that tp splits, and those that every rank holds whole."""
    total = attention.parameters(hidden)
    if isinstance(attention, LatentAttention):
        down = hidden * (attention.q_lora_rank + attention.kv_lora_rank + attention.qk_rope_head_dim)
        return total - down, down
    if isinstance(attention, GatedDeltaNet):
        return total, 0
    whole = hidden if attention.output_bias else 0
    whole += 2 * attention.head_dim if attention.qk_norm == "head" else 0
    return total - whole, whole


@dataclass(frozen=True)
class Parameters:
    """Weights of one rank.

    Attributes:
        dense: of one layer of each kind, on the attention's mesh, shape [n, kinds].
        experts: of one layer of each kind, on the experts' mesh, shape [n, kinds].
        embedding, head: of the first and of the last stage, shape [n]; a tied head is a copy where stages differ.
    """

    dense: Floats
    experts: Floats
    embedding: Floats
    head: Floats

    def stages(self, layouts: TrainingLayouts) -> tuple[Floats, Floats]:
        """(dense, experts) of each stage, shape [n, stages]."""
        dense = np.einsum("nsk,nk->ns", layouts.layers, self.dense)
        experts = np.einsum("nsk,nk->ns", layouts.layers, self.experts)
        dense[:, 0] += self.embedding
        dense += np.where(layouts.last, self.head[:, None], 0.0)
        return dense, experts


def parameters(setting: Setting, layouts: TrainingLayouts) -> Parameters:
    """Weights by kind of layer and by end of the model, split as ``layouts`` say."""
    model = setting.model.architecture
    n, hidden = len(layouts), model.hidden
    dense = np.zeros((n, len(setting.model.kinds)))
    experts = np.zeros_like(dense)
    for k, kind in enumerate(setting.model.kinds):
        split, whole = attention_parameters(kind.attention, hidden)
        whole += kind.norms * hidden
        ffn = kind.feed_forward
        if isinstance(ffn, MixtureOfExperts):
            split += ffn.shared_parameters(hidden)
            whole += ffn.router_parameters(hidden)
            experts[:, k] = ffn.experts * ffn.expert_parameters(hidden) / (layouts.ep * layouts.etp)
        else:
            split += ffn.parameters(hidden)
        dense[:, k] = split / layouts.tp + whole
    table = setting.vocabulary(layouts.tp).astype(np.float64) * hidden
    positions = setting.sequence * hidden if setting.model.learned_positions else 0
    norm = hidden * (2 if setting.model.layer_norm else 1) + model.small_parameters
    shared_table = (layouts.pp == 1) & model.tied_embeddings
    mtp = setting.mtp * (2 * hidden * hidden / layouts.tp + 3 * hidden)  # the product that joins two streams, norms
    return Parameters(dense, experts, table + positions, np.where(shared_table, 0.0, table) + norm + mtp)
