"""What a transformer is made of, as far as its cost goes: layer groups, their attention and feed-forward.

Nothing here knows how a model is written down (see :mod:`costmodels.models.huggingface`) nor how it is split over
GPUs (see :mod:`costmodels.step.operators`). All sizes are those of the whole, unsplit model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal


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

    def parameters(self, hidden: int) -> int:
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        weights = hidden * (query * (2 if self.gated_output else 1) + 2 * kv) + query * hidden
        biases = (query + 2 * kv if self.bias else 0) + (hidden if self.output_bias else 0)
        norms = {"none": 0, "head": 2 * self.head_dim, "full": query + kv}[self.qk_norm]
        return weights + biases + norms + (self.heads if self.sinks else 0)

    def kv_elements_per_token(self) -> int:
        """Elements of K and V that one token adds to the cache of one layer, before any split."""
        return 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Indexer:
    """Chooses the ``top_k`` tokens that sparse attention sees (DeepSeek-V3.2, arXiv:2512.02556 §2.1): scores from
    ``heads`` small query heads against one key per token, which has a cache of its own."""

    heads: int
    head_dim: int
    top_k: int

    def parameters(self, hidden: int, q_lora_rank: int) -> int:
        keys = hidden * self.head_dim + 2 * self.head_dim  # and their LayerNorm
        return q_lora_rank * self.heads * self.head_dim + keys + hidden * self.heads

    def cache_bytes_per_token(self) -> int:
        """Keys are kept in fp8 with one fp32 scale, whatever the precision of the KV cache (vLLM, SGLang)."""
        return self.head_dim + 4


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

    def parameters(self, hidden: int) -> int:
        qk = self.qk_nope_head_dim + self.qk_rope_head_dim
        if self.q_lora_rank:
            query = hidden * self.q_lora_rank + self.q_lora_rank + self.q_lora_rank * self.heads * qk
        else:
            query = hidden * self.heads * qk
        latent = hidden * (self.kv_lora_rank + self.qk_rope_head_dim) + self.kv_lora_rank
        rebuild = self.kv_lora_rank * self.heads * (self.qk_nope_head_dim + self.v_head_dim)
        index = self.indexer.parameters(hidden, self.q_lora_rank) if self.indexer else 0
        return query + latent + rebuild + self.heads * self.v_head_dim * hidden + index

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


Attention = GroupedQueryAttention | LatentAttention | GatedDeltaNet


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

    def _expert(self, hidden: int) -> int:
        return DenseFeedForward(self.intermediate, self.gated, self.bias).parameters(hidden)

    def _always_on(self, hidden: int) -> int:
        router = hidden * self.experts + (self.experts if self.bias or self.router_bias else 0)
        shared = (
            DenseFeedForward(self.shared_intermediate, self.gated).parameters(hidden) if self.shared_intermediate else 0
        )
        return router + shared + (hidden if self.shared_gate else 0)

    def parameters(self, hidden: int) -> int:
        return self.experts * self._expert(hidden) + self._always_on(hidden)

    def active_parameters(self, hidden: int) -> int:
        return self.top_k * self._expert(hidden) + self._always_on(hidden)


FeedForward = DenseFeedForward | MixtureOfExperts


@dataclass(frozen=True)
class LayerGroup:
    """``count`` layers that are alike. Their order in the model does not matter to the cost."""

    count: int
    attention: Attention
    feed_forward: FeedForward
    norms: int = 2  # RMSNorm weight vectors of ``hidden``


@dataclass(frozen=True)
class Architecture:
    """A decoder-only text model, as served. Vision towers are not part of it (``excluded`` names them)."""

    name: str
    model_type: str
    hidden: int
    vocabulary: int
    layer_groups: tuple[LayerGroup, ...]
    max_context_tokens: int
    tied_embeddings: bool
    weight_precision: str  # as published: "bf16", "fp8_block", "fp8", "mxfp4", "int4", ...
    excluded: tuple[str, ...] = ()  # parts of the checkpoint that are not modelled
    # Left in 16 bits by a quantized checkpoint: any of "attention_qkv", "attention_output", "dense",
    # "experts", "shared_experts". Embedding, head, norms and routers always are.
    unquantized: tuple[str, ...] = ()
    moe_layers: tuple[int, ...] = ()  # which layers of the model, in order, have experts

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
        total = self.embedding_parameters * (1 if self.tied_embeddings else 2) + self.hidden
        for group in self.layer_groups:
            ffn = group.feed_forward
            per_layer = group.attention.parameters(self.hidden) + group.norms * self.hidden
            per_layer += ffn.active_parameters(self.hidden) if active else ffn.parameters(self.hidden)
            total += group.count * per_layer
        return total

    @property
    def is_moe(self) -> bool:
        return any(isinstance(group.feed_forward, MixtureOfExperts) for group in self.layer_groups)

    @property
    def is_latent(self) -> bool:
        return any(isinstance(group.attention, LatentAttention) for group in self.layer_groups)

    @property
    def is_sparse(self) -> bool:
        attentions = (group.attention for group in self.layer_groups)
        return any(isinstance(each, LatentAttention) and each.indexer is not None for each in attentions)
