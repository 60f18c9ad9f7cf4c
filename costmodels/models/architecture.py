"""What a transformer is made of, as far as its cost goes: layer groups, their attention and feed-forward.

Mixers that are not attention alone are in :mod:`costmodels.models.mixers`.

Nothing here knows how a model is written down (see :mod:`costmodels.models.huggingface`) nor how it is split over
GPUs (see :mod:`costmodels.step.operators`). All sizes are those of the whole, unsplit model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.mixers import (
    Alone,
    HyperConnections,
    Mamba2,
    Mixer,
    PerLayerInputs,
    Weights,
)
from costmodels.models.model_names import drafts_unsaid
from costmodels.models.vision_tower import VisionTower


@dataclass(frozen=True)
class GroupedQueryAttention:
    """Multi-head, multi-query or grouped-query attention (they differ in ``kv_heads`` only)."""

    heads: int
    kv_heads: int
    head_dim: int
    window_tokens: int = 0  # keys that a query sees; 0 = all
    bias: bool = False  # on q, k and v
    output_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"  # RMSNorm weights of head_dim, or of all heads
    sinks: bool = False  # one learned logit per head (gpt-oss)
    gated_output: bool = False  # q projection is twice as wide (Qwen3-Next)
    value_dim: int = 0  # of one head's values (MiMo-V2); 0: as wide as its keys
    head_gate: bool = False  # one gate per head on the output (Step-3.5)
    keys_are_values: bool = False  # one projection in the checkpoint; engines load it twice (Gemma 4)
    shared_cache: bool = False  # it sees the keys and values of a layer before: no cache, its weights idle (Gemma 4)

    @property
    def value_head_dim(self) -> int:
        return self.value_dim or self.head_dim

    def parameters(self, hidden: int) -> int:
        query, keys, values = (
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            0 if self.keys_are_values else self.kv_heads * self.value_head_dim,
        )
        wide = query * (2 if self.gated_output else 1) + keys + values + (self.heads if self.head_gate else 0)
        weights = hidden * wide + self.heads * self.value_head_dim * hidden
        biases = (query + keys + values if self.bias else 0) + (hidden if self.output_bias else 0)
        norms = {"none": 0, "head": 2 * self.head_dim, "full": query + keys}[self.qk_norm]
        return weights + biases + norms + (self.heads if self.sinks else 0)

    def kv_elements_per_token(self) -> int:
        """Elements of K and V that one token adds to the cache of one layer, before any split."""
        return self.kv_heads * (self.head_dim + self.value_head_dim)


@dataclass(frozen=True)
class Indexer:
    """Chooses the ``top_k`` tokens that sparse attention sees (DeepSeek-V3.2, arXiv:2512.02556 §2.1): scores from
    ``heads`` small query heads against one key per token, which has a cache of its own."""

    heads: int
    head_dim: int
    top_k: int
    shared: bool = False  # it is that of a layer before (GLM-5.2): no weights, no cache

    def parameters(self, hidden: int, q_lora_rank: int) -> int:
        if self.shared:
            return 0
        keys = hidden * self.head_dim + 2 * self.head_dim  # and their LayerNorm
        return q_lora_rank * self.heads * self.head_dim + keys + hidden * self.heads

    def cache_bytes_per_token(self) -> int:
        """Keys are kept in fp8 with one fp32 scale, whatever the precision of the KV cache (vLLM, SGLang)."""
        return 0 if self.shared else self.head_dim + 4


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434 §2.1): K and V are rebuilt from a latent. With an
    ``indexer`` it is sparse: a query sees the latents of the chosen tokens."""

    heads: int
    q_lora_rank: int  # 0: the query is projected directly
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    window_tokens: int = 0
    indexer: Indexer | None = None
    output_gate: bool = False  # as wide as the values (Kimi-K3)

    def parameters(self, hidden: int) -> int:
        qk = self.qk_nope_head_dim + self.qk_rope_head_dim
        if self.q_lora_rank:
            query = hidden * self.q_lora_rank + self.q_lora_rank + self.q_lora_rank * self.heads * qk
        else:
            query = hidden * self.heads * qk
        latent = hidden * (self.kv_lora_rank + self.qk_rope_head_dim) + self.kv_lora_rank
        rebuild = self.kv_lora_rank * self.heads * (self.qk_nope_head_dim + self.v_head_dim)
        index = self.indexer.parameters(hidden, self.q_lora_rank) if self.indexer else 0
        values = self.heads * self.v_head_dim * hidden
        return query + latent + rebuild + values * (2 if self.output_gate else 1) + index

    def kv_elements_per_token(self) -> int:
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True)
class GatedDeltaNet:
    """Linear attention with a gated delta rule (arXiv:2412.06464 §3) behind a short convolution, as in Qwen3-Next: a
    matrix per value head that every token updates, in place of a KV cache."""

    key_heads: int
    value_heads: int
    key_dim: int  # of one head
    value_dim: int
    conv_kernel: int
    state_bytes: int = 4  # of one element of the matrices

    @property
    def heads(self) -> int:
        """Of which GPUs take equal shares; value heads, a multiple of them, follow."""
        return self.key_heads

    @property
    def window_tokens(self) -> int:
        return 0

    @property
    def convolved(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def parameters(self, hidden: int) -> int:
        values = self.value_heads * self.value_dim
        projections = hidden * (self.convolved + values + 2 * self.value_heads)  # q, k, v; output gate; α and β
        decay = 2 * self.value_heads  # A and the bias of dt
        return projections + self.convolved * self.conv_kernel + decay + self.value_dim + values * hidden

    def kv_elements_per_token(self) -> int:
        return 0

    def state_bytes_per_sequence(self) -> int:
        """The matrices, and in 16 bits the last inputs of the convolution, of one layer and sequence, before any
        split."""
        matrices = self.value_heads * self.key_dim * self.value_dim * self.state_bytes
        return matrices + self.convolved * (self.conv_kernel - 1) * 2


@dataclass(frozen=True)
class BlockSparseAttention(Mixer):
    """Grouped-query attention that sees ``top_k`` blocks of keys, chosen by small query heads against one key per
    token, which has a cache of its own in 16 bits (MiniMax-M3)."""

    attention: GroupedQueryAttention
    index_heads: int
    index_dim: int
    block_tokens: int
    top_k: int
    kind: ClassVar[str] = "block-sparse attention"

    @property
    def heads(self) -> int:  # type: ignore[override]
        return self.attention.heads

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        index = hidden * self.index_heads * self.index_dim
        return (
            *_weights(self.attention, hidden),
            Weights("attention_qkv", index, self.index_heads),
            Weights("attention_qkv", hidden * self.index_dim, 1),
            Weights("16-bit", 2 * self.index_dim, 1),  # norms
        )

    def kv_elements_per_token(self) -> int:
        return self.attention.kv_elements_per_token() + self.index_dim

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        return tokens * (_cached(self.attention, tp) * element_bytes + self.index_dim * 2)


@dataclass(frozen=True)
class ParallelMixers(Mixer):
    """Attention and a state space beside each other on the same input (Falcon-H1, arXiv:2507.22448 §2)."""

    attention: GroupedQueryAttention
    state_space: Mamba2
    kind: ClassVar[str] = "attention and Mamba-2 in parallel"

    @property
    def heads(self) -> int:  # type: ignore[override]
        return math.gcd(self.attention.heads, self.state_space.heads)

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        return (*_weights(self.attention, hidden), *self.state_space.weights(hidden))

    def kv_elements_per_token(self) -> int:
        return self.attention.kv_elements_per_token()

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        own = self.state_space.cache_bytes(tokens, tp, element_bytes)
        return own + tokens * _cached(self.attention, tp) * element_bytes


def _weights(attention: GroupedQueryAttention, hidden: int) -> tuple[Weights, ...]:
    """Of grouped-query attention inside a mixer; what is small (biases, norms) is whole on every GPU."""
    output = attention.heads * attention.value_head_dim * hidden
    query = hidden * attention.heads * attention.head_dim * (2 if attention.gated_output else 1)
    keys = hidden * attention.kv_elements_per_token()
    return (
        Weights("attention_qkv", query, attention.heads),
        Weights("attention_qkv", keys, attention.kv_heads),
        Weights("attention_output", output, attention.heads),
        Weights("16-bit", attention.parameters(hidden) - query - keys - output, 1),
    )


def _cached(attention: GroupedQueryAttention, tp: Ints) -> Floats:
    """Elements of K and V of one token on one of ``tp`` GPUs: KV heads are copied where tp exceeds them."""
    width = attention.head_dim + attention.value_head_dim
    return np.asarray(np.maximum(attention.kv_heads / tp, 1.0) * width)


Attention = GroupedQueryAttention | LatentAttention | GatedDeltaNet | BlockSparseAttention | ParallelMixers | Alone


@dataclass(frozen=True)
class DenseFeedForward:
    """Up (and gate) then down."""

    intermediate: int
    gated: bool = True
    bias: bool = False

    def parameters(self, hidden: int) -> int:
        wide = (2 if self.gated else 1) * self.intermediate
        return hidden * wide + self.intermediate * hidden + (wide + hidden if self.bias else 0)

    def active_parameters(self, hidden: int) -> int:
        return self.parameters(hidden)


@dataclass(frozen=True)
class NoFeedForward:
    """A layer without one: a mixer alone, as in Nemotron-H."""

    intermediate: int = 0  # which any degree divides

    def parameters(self, hidden: int) -> int:
        return 0

    def active_parameters(self, hidden: int) -> int:
        return 0


@dataclass(frozen=True)
class MixtureOfExperts:
    """``experts`` routed experts of which ``top_k`` see each token, beside an always-on shared part."""

    experts: int
    top_k: int
    intermediate: int  # of one routed expert
    shared_intermediate: int = 0  # of all shared experts together
    gated: bool = True
    bias: bool = False  # on the experts and the router (gpt-oss)
    router_bias: bool = False  # a correction term per expert (DeepSeek-V3)
    shared_gate: bool = False  # a scalar gate on the shared expert (Qwen2-MoE)
    latent: int = 0  # the width in which routed experts work (arXiv:2512.20856 §2: LatentMoE); 0: that of the model
    latent_norm: bool = False  # on their weighted sum (Kimi-K3)
    router_scale: bool = False  # of the router's input and of each expert's weight (Gemma 4)
    idle_experts: int = 0  # that pass a token through (LongCat-Flash), chosen among the experts
    groups: int = 1  # of experts, of which a token may choose in ``top_groups`` only (arXiv:2412.19437 §2.1.2)
    top_groups: int = 1

    @property
    def working_top_k(self) -> int:
        """Experts that compute for a token: of ``top_k``, on average, with ``idle_experts`` chosen as often."""
        return max(round(self.top_k * self.experts / (self.experts + self.idle_experts)), 1)

    def expert_parameters(self, hidden: int) -> int:
        """Of one routed expert."""
        return DenseFeedForward(self.intermediate, self.gated, self.bias).parameters(self.latent or hidden)

    def shared_parameters(self, hidden: int) -> int:
        if not self.shared_intermediate:
            return 0
        return DenseFeedForward(self.shared_intermediate, self.gated).parameters(hidden)

    def router_parameters(self, hidden: int) -> int:
        """All that is never quantized: the router, gates, and the way into the latent space and back."""
        choices = self.experts + self.idle_experts
        router = hidden * choices + (choices if self.bias or self.router_bias else 0)
        router += (hidden if self.shared_gate else 0) + (hidden + self.experts if self.router_scale else 0)
        return router + 2 * hidden * self.latent + (self.latent if self.latent_norm else 0)

    def _always_on(self, hidden: int) -> int:
        return self.router_parameters(hidden) + self.shared_parameters(hidden)

    def parameters(self, hidden: int) -> int:
        return self.experts * self.expert_parameters(hidden) + self._always_on(hidden)

    def active_parameters(self, hidden: int) -> int:
        return self.working_top_k * self.expert_parameters(hidden) + self._always_on(hidden)


FeedForward = DenseFeedForward | MixtureOfExperts | NoFeedForward


@dataclass(frozen=True)
class LayerGroup:
    """``count`` layers that are alike. Their order in the model does not matter to the cost."""

    count: int
    attention: Attention
    feed_forward: FeedForward
    norms: int = 2  # RMSNorm weight vectors of ``hidden``
    # (part, precision) where these layers are not stored as most layers of the model are
    exceptions: tuple[tuple[str, str], ...] = ()
    residual: HyperConnections | None = None

    def parameters(self, hidden: int, *, active: bool = False) -> int:
        """Of one of the layers; ``active``: those that touch one token."""
        ffn = self.feed_forward
        total = self.attention.parameters(hidden) + self.norms * hidden
        total += ffn.active_parameters(hidden) if active else ffn.parameters(hidden)
        return total + (self.residual.parameters(hidden) if self.residual else 0)


@dataclass(frozen=True)
class DraftModule:
    """Layers that guess the tokens after the next one, loaded only when the engine drafts with them. Embedding and
    head are the model's, but for what is ``own``."""

    layers: tuple[LayerGroup, ...]
    joining: int  # weights beside each layer that join hidden state and embedding, with their norms
    own: int = 0  # of the module as a whole

    def parameters(self, hidden: int) -> int:
        return sum(group.count * (group.parameters(hidden) + self.joining) for group in self.layers) + self.own


@dataclass(frozen=True)
class CacheScheme:
    """How a checkpoint asks for its KV cache to be kept, beside what wrote that down."""

    writer: Literal["modelopt", "compressed-tensors"]
    format: str  # fp8, nvfp4, int8, or a word that is not ours


@dataclass(frozen=True)
class Architecture:
    """A language model, as served, with the image encoder and the draft module it may have beside it."""

    name: str
    model_type: str
    hidden: int
    vocabulary: int
    layer_groups: tuple[LayerGroup, ...]
    max_context_tokens: int
    tied_embeddings: bool
    weight_precision: str  # as published, of most weights: "bf16", "fp8_block", "fp8", "mxfp4", "int4", ...
    excluded: tuple[str, ...] = ()  # parts of the checkpoint that are not modelled
    # (part, precision) where most layers store a part otherwise: parts are "attention_qkv", "attention_output",
    # "dense", "experts" and "shared_experts". Embedding, head, norms and routers always are 16 bits.
    exceptions: tuple[tuple[str, str], ...] = ()
    cache_scheme: CacheScheme | None = None
    weight_group: int = 0  # values along a row that share a scale, of the format with the fewest bits; 0: not said
    moe_layers: tuple[int, ...] = ()  # which layers of the model, in order, have experts
    vision: VisionTower | None = None
    draft: DraftModule | None = None
    per_layer: PerLayerInputs | None = None
    audio_parameters: int = 0  # of the audio encoder, whole on every GPU of the first stage
    small_parameters: int = 0  # beside the layers: biases of the head, norms of the embedding
    position_table_elements: int = 0  # cosines and sines of rotary positions that engines keep beside the weights
    notes: tuple[str, ...] = ()  # what the reader of its config wants known

    @cached_property
    def layers(self) -> int:
        return sum(group.count for group in self.layer_groups)

    @cached_property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @cached_property
    def parameters(self) -> int:
        """All weights of the language model."""
        return self._count(active=False)

    @cached_property
    def active_parameters(self) -> int:
        """Weights that touch one token (embedding table and head included, as model cards count them)."""
        return self._count(active=True)

    def _count(self, *, active: bool) -> int:
        total = self.embedding_parameters * (1 if self.tied_embeddings else 2) + self.hidden + self.small_parameters
        for group in self.layer_groups:
            total += group.count * group.parameters(self.hidden, active=active)
        total += self.per_layer.parameters(self.hidden) if self.per_layer else 0
        residual = self.layer_groups[0].residual
        return total + (residual.head_parameters(self.hidden) if residual else 0)

    @property
    def is_moe(self) -> bool:
        return any(isinstance(group.feed_forward, MixtureOfExperts) for group in self.layer_groups)

    @property
    def drafts_by_itself(self) -> bool:
        """Whether its checkpoint holds layers that draft (MTP)."""
        return self.draft is not None or drafts_unsaid(self.model_type)

    @property
    def state_layers(self) -> int:
        """Layers that update a matrix with every token, in place of a cache."""
        return sum(group.count for group in self.layer_groups if isinstance(group.attention, GatedDeltaNet))

    @property
    def is_latent(self) -> bool:
        return any(isinstance(group.attention, LatentAttention) for group in self.layer_groups)

    @property
    def attention_family(self) -> str:  # frameworks have kernels for each; linear: some layers update a matrix
        return "latent" if self.is_latent else "linear" if self.state_layers else "plain"

    @property
    def is_sparse(self) -> bool:
        attentions = (group.attention for group in self.layer_groups)
        return any(isinstance(each, LatentAttention) and each.indexer is not None for each in attentions)
