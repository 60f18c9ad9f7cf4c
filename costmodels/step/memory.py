"""Where the GPU's memory goes, and how many tokens of KV cache are left. Vectorised over layouts; bytes per
GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.facts import read_numbers
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Split
from costmodels.operations.registry import families
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
        split = Split(model.hidden, precision.within(group), layouts)
        layer = np.full(len(layouts), group.norms * model.hidden * 2.0)
        if group.residual is not None:
            layer += group.residual.parameters(model.hidden) * 4.0  # kept in fp32
        for part in families().attention(group.attention).weights_bytes(split, group.attention):
            layer += part
        for part in families().feed_forward(group.feed_forward).weights_bytes(split, group.feed_forward):
            layer += part
        layers += group.count * layer
    fullest_stage = np.ceil(model.layers / layouts.pp) / model.layers
    table = model.embedding_parameters * 2.0 / layouts.tp
    tables = np.where((layouts.pp == 1) & (not model.tied_embeddings), 2 * table, table)
    whole = (model.small_parameters + model.position_table_elements) * 2.0
    # The image encoder is on the first stage, split over its GPUs.
    vision = model.vision.parameters * 2.0 / layouts.tp if model.vision else 0.0
    return layers * fullest_stage + tables + whole + vision


def kv_bytes_per_sequence(
    model: Architecture, precision: Precision, layouts: Layouts, tokens: Floats | float
) -> Floats:
    """KV cache of one sequence of ``tokens`` tokens on one GPU (fullest stage), and what linear attention keeps in
    its place, whatever the length. Windowed layers keep their window only."""
    length = np.broadcast_to(np.asarray(tokens, dtype=np.float64), len(layouts))
    total = np.zeros(len(layouts))
    split = Split(model.hidden, precision, layouts)
    for group in model.layer_groups:
        total += families().attention(group.attention).cache_bytes(split, group.attention, group.count, length)
    return total * (np.ceil(model.layers / layouts.pp) / model.layers)


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
    split = Split(model.hidden, precision, layouts)
    feed_forwards = [group.feed_forward for group in model.layer_groups]
    needed = [families().feed_forward(layer).activations(split, layer) for layer in feed_forwards]
    widest = max(each.widest for each in needed)
    per_token = facts.activation_copies * model.hidden + 3 * widest / layouts.tp
    # Tokens of all ranks before the experts, and their sums after them.
    gathered = np.where(layouts.dp > 1, layouts.dp, 0) * model.hidden * 2
    logits = sequences * (model.vocabulary / layouts.tp) * 4.0
    experts = np.zeros(n)
    for each in needed:
        experts = np.maximum(experts, each.grouped)
    activations = token_budget * (per_token + gathered + experts) * 2.0 + logits
    groups = (layouts.tp > 1).astype(float) + (layouts.dp > 1) + (layouts.pp > 1)
    communication = groups * facts.communication_bytes_per_peer_group
    context = np.full(n, facts.context_bytes)
    graphs = np.full(n, facts.cuda_graph_bytes)
    usable = gpu.memory_bytes * memory_fraction
    left = usable - weights - activations - communication - context - graphs
    reserve = np.maximum(left, 0) * facts.fragmentation_share
    return Memory(weights, activations, graphs, communication, context, reserve, left - reserve)
