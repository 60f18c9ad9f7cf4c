"""Where the GPU's memory goes, and how many tokens of KV cache are left. Vectorised over layouts; bytes per
GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.facts import read_numbers
from costmodels.models.architecture import (
    Architecture,
    Attention,
    DenseFeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    LayerGroup,
    MixtureOfExperts,
)
from costmodels.models.mixers import Mixer
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from costmodels.operations.roofline import WEIGHT_BYTES
from profiles.hardware import Gpu


@dataclass(frozen=True)
class MemoryFacts:
    """See ``memory.yaml``, which has the sources."""

    context_bytes: float
    cuda_graph_bytes: float
    communication_bytes_per_peer_group: float
    fragmentation_share: float
    activation_copies: float


@cache
def memory_facts() -> MemoryFacts:
    return read_numbers(Path(__file__).parent / "memory.yaml", MemoryFacts)


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU of each layout, shape [n] each. ``kv_bytes`` is what is left for the cache
    (≤ 0: the layout does not fit)."""

    weights_bytes: Floats
    activation_bytes: Floats
    cuda_graph_bytes: Floats
    communication_bytes: Floats
    context_bytes: Floats
    reserve_bytes: Floats
    kv_bytes: Floats

    def sequences(self, bytes_per_sequence: Floats) -> Ints:
        """Sequences of that many KV bytes which the cache of one attention rank holds."""
        return np.maximum(self.kv_bytes // np.maximum(bytes_per_sequence, 1.0), 0).astype(np.int64)


def weights_bytes(model: Architecture, precision: Precision, layouts: Layouts) -> Floats:
    """Weights on the fullest GPU: the stage with most layers, and the embedding or the head."""
    layers = np.zeros(len(layouts))
    for group in model.layer_groups:
        layers += group.count * _layer_bytes(model, precision.within(group), layouts, group)
    fullest_stage = np.ceil(model.layers / layouts.pp) / model.layers
    table = model.embedding_parameters * 2.0 / layouts.tp
    tables = np.where((layouts.pp == 1) & (not model.tied_embeddings), 2 * table, table)
    whole = (model.small_parameters + model.position_table_elements) * 2.0
    # The image encoder is on the first stage, split over its GPUs.
    vision = model.vision.parameters * 2.0 / layouts.tp if model.vision else 0.0
    return layers * fullest_stage + tables + whole + vision


def _layer_bytes(model: Architecture, precision: Precision, layouts: Layouts, group: LayerGroup) -> Floats:
    hidden, tp, attention, ffn = model.hidden, layouts.tp, group.attention, group.feed_forward
    qkv, out = WEIGHT_BYTES[precision.attention_qkv], WEIGHT_BYTES[precision.attention_output]
    total = np.full(len(layouts), group.norms * hidden * 2.0)
    if group.residual is not None:
        total += group.residual.parameters(hidden) * 4.0  # kept in fp32
    if isinstance(attention, Mixer):
        for weights in attention.weights(hidden):
            element = 2.0 if weights.part == "16-bit" else WEIGHT_BYTES[precision.of(weights.part)]
            total += weights.elements * element / np.minimum(tp, weights.pieces)
    elif isinstance(attention, GroupedQueryAttention):
        heads, kv_heads = attention.heads / tp, np.maximum(attention.kv_heads / tp, 1.0)
        query = np.asarray(heads) * (attention.head_dim * (2 if attention.gated_output else 1) + attention.head_gate)
        cached = attention.head_dim + attention.value_head_dim
        total += hidden * (query + kv_heads * cached) * qkv + heads * attention.value_head_dim * hidden * out
    elif isinstance(attention, GatedDeltaNet):
        values = attention.value_heads * attention.value_dim
        small = hidden * 2 * attention.value_heads + attention.convolved * attention.conv_kernel
        total += (hidden * (attention.convolved + values) * qkv + small * 2.0 + values * hidden * out) / tp
    elif isinstance(attention, LatentAttention):
        shared = attention.q_lora_rank + attention.kv_lora_rank + attention.qk_rope_head_dim
        heads = attention.heads / tp
        qk = attention.qk_nope_head_dim + attention.qk_rope_head_dim
        per_head = (attention.q_lora_rank or hidden) * qk + attention.kv_lora_rank * (
            attention.qk_nope_head_dim + attention.v_head_dim
        )
        # Decode keeps the absorbed up-projection of K and V a second time, in 16 bits (all three frameworks
        # do).
        absorbed = attention.kv_lora_rank * (attention.qk_nope_head_dim + attention.v_head_dim) * 2.0
        total += hidden * shared * qkv + heads * (per_head * qkv + absorbed)
        output = heads * attention.v_head_dim * hidden
        total += output * out + (output * qkv if attention.output_gate else 0.0)
        if attention.indexer is not None:  # whole on every GPU
            total += attention.indexer.parameters(hidden, attention.q_lora_rank) * qkv
    if isinstance(ffn, DenseFeedForward):
        total += ffn.parameters(hidden) * WEIGHT_BYTES[precision.dense] / tp
    elif isinstance(ffn, MixtureOfExperts):
        routed = ffn.experts * ffn.expert_parameters(hidden)
        total += routed * WEIGHT_BYTES[precision.experts] / (layouts.ep * layouts.moe_tp)
        total += ffn.router_parameters(hidden) * 2.0
        total += ffn.shared_parameters(hidden) * WEIGHT_BYTES[precision.shared_experts] / tp
    return total


def kv_bytes_per_sequence(
    model: Architecture, precision: Precision, layouts: Layouts, tokens: Floats | float
) -> Floats:
    """KV cache of one sequence of ``tokens`` tokens on one GPU (fullest stage), and what linear attention keeps in
    its place, whatever the length. Windowed layers keep their window only."""
    length = np.broadcast_to(np.asarray(tokens, dtype=np.float64), len(layouts))
    total = np.zeros(len(layouts))
    for group in model.layer_groups:
        attention = group.attention
        if isinstance(attention, Mixer):
            total += group.count * attention.cache_bytes(length, layouts.tp, WEIGHT_BYTES[precision.kv])
            continue
        kept = np.minimum(length, attention.window_tokens) if attention.window_tokens else length
        total += group.count * (_bytes_per_token(attention, precision, layouts) * kept)
        if isinstance(attention, GatedDeltaNet):
            total += group.count * attention.state_bytes_per_sequence() / layouts.tp
    return total * (np.ceil(model.layers / layouts.pp) / model.layers)


def _bytes_per_token(attention: Attention, precision: Precision, layouts: Layouts) -> Floats:
    """What one token adds to the cache of one layer on one GPU, shape [n]."""
    element = WEIGHT_BYTES[precision.kv]
    if isinstance(attention, GroupedQueryAttention):
        cached = attention.head_dim + attention.value_head_dim
        return np.asarray(np.maximum(attention.kv_heads / layouts.tp, 1.0) * cached * element)
    index = attention.indexer if isinstance(attention, LatentAttention) else None
    whole = attention.kv_elements_per_token() * element + (index.cache_bytes_per_token() if index else 0)
    return np.full(len(layouts), float(whole))


def memory(
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    gpu: Gpu,
    *,
    memory_fraction: float,
    token_budget: Ints,
    sequences: int,
) -> Memory:
    """Memory by part.

    Args:
        memory_fraction: share of the GPU that the framework may use.
        token_budget: most tokens in one step, shape [n].
        sequences: most sequences in one step.
    """
    facts = memory_facts()
    n = len(layouts)
    weights = weights_bytes(model, precision, layouts)
    widest = max(
        max(ffn.intermediate, ffn.shared_intermediate) if isinstance(ffn, MixtureOfExperts) else ffn.intermediate
        for ffn in (group.feed_forward for group in model.layer_groups)
    )
    per_token = facts.activation_copies * model.hidden + 3 * widest / layouts.tp
    # Tokens of all ranks before the experts, and their sums after them.
    gathered = np.where(layouts.dp > 1, layouts.dp, 0) * model.hidden * 2
    logits = sequences * (model.vocabulary / layouts.tp) * 4.0
    experts = np.zeros(n)
    for ffn in (group.feed_forward for group in model.layer_groups):
        if isinstance(ffn, MixtureOfExperts):
            # Grouped products: gate, up and activation of every (token, expert) pair of this GPU, and its output.
            pairs = layouts.dp * ffn.top_k / layouts.ep
            width = ffn.latent or model.hidden
            experts = np.maximum(experts, pairs * (3 * ffn.intermediate / layouts.moe_tp + width))
    activations = token_budget * (per_token + gathered + experts) * 2.0 + logits
    groups = (layouts.tp > 1).astype(float) + (layouts.dp > 1) + (layouts.pp > 1)
    communication = groups * facts.communication_bytes_per_peer_group
    context = np.full(n, facts.context_bytes)
    graphs = np.full(n, facts.cuda_graph_bytes)
    usable = gpu.memory_bytes * memory_fraction
    left = usable - weights - activations - communication - context - graphs
    reserve = np.maximum(left, 0) * facts.fragmentation_share
    return Memory(weights, activations, graphs, communication, context, reserve, left - reserve)
