"""Where the memory of an engine's GPUs goes, as its framework's release accounts for it, and what is left for the KV
cache. Vectorised over layouts; bytes per GPU.

An engine measures before it sizes its cache: it loads the weights, runs a forward pass of as many tokens as a step may
hold, and samples as many sequences as a batch may hold. What torch took at most over the weights is the activations'
peak (vLLM: ``determine_available_memory``); graphs, what libraries take beside torch, and what the process held before
are counted as the release does (:class:`costmodels.serving.frameworks.facts.MemoryBudget`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.facts import read_numbers
from costmodels.models.architecture import Architecture, MixtureOfExperts
from costmodels.models.precision import Precision
from costmodels.operations.exchanges import HIGH_THROUGHPUT, LOW_LATENCY, OVERLAPS, priced_as
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Split
from costmodels.operations.registry import families
from costmodels.serving.frameworks.facts import ByNeighbours
from costmodels.serving.frameworks.framework import Framework
from costmodels.step.memory import weights_bytes
from profiles.hardware import Gpu

GIB = 2.0**30

VOCABULARY_MULTIPLE = 64
"""Engines pad the vocabulary to a multiple of it (vllm/model_executor/layers/vocab_parallel_embedding.py)."""

Stage = Literal["first", "tightest"]


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU of each layout, shape [n] each.

    Attributes:
        activation_bytes: the peak of a step over the weights.
        graph_bytes: captured graphs.
        other_bytes: what libraries take beside activations: communication buffers, kernels' modules.
        context_bytes: what the driver keeps and what a process holds before it loads a model; outside every share.
        kv_bytes: what is left for the cache. ≤ 0: the layout does not fit, for want of so much.
        unused_bytes: what the share leaves free.
    """

    weights_bytes: Floats
    activation_bytes: Floats
    graph_bytes: Floats
    other_bytes: Floats
    context_bytes: Floats
    kv_bytes: Floats
    unused_bytes: Floats

    def sequences(self, bytes_per_sequence: Floats) -> Ints:
        """Sequences of that many KV bytes which the cache of one attention rank holds."""
        return np.maximum(self.kv_bytes // np.maximum(bytes_per_sequence, 1.0), 0).astype(np.int64)


@dataclass(frozen=True)
class Loaded:
    """A model in a precision, loaded by engines of a framework's release on GPUs of a type; ``drafting``: with its
    draft module."""

    model: Architecture
    precision: Precision
    framework: Framework
    gpu: Gpu
    drafting: bool = False


@dataclass(frozen=True)
class StepLimits:
    """What engines are started with.

    Attributes:
        token_budget: most tokens in one step, shape [n].
        sequences: most sequences in one step, one or [n].
        memory_fraction: share of the GPU that the engine may use, as the framework means it, one or [n].
    """

    token_budget: Ints
    sequences: Ints | int
    memory_fraction: Floats | float


def engine_memory(loaded: Loaded, layouts: Layouts, limits: StepLimits, stage: Stage = "tightest") -> Memory:
    """Memory by part, [n].

    Args:
        stage: of a pipeline, whose GPU: the first's, whose figures an engine logs, or the one that binds.

    Raises:
        Unsupported: a draft module is loaded that the model has not.
    """
    model, facts, gpu, share = loaded.model, loaded.framework.memory, loaded.gpu, limits.memory_fraction
    weights = weights_bytes(model, loaded.precision, layouts, padding=facts.padding, drafting=loaded.drafting)
    activation = _activations(loaded, layouts, limits, stage)
    has_experts = facts.graphs.experts_gib * model.is_moe
    graphs = (facts.graphs.start_gib + has_experts + facts.graphs.gib_per_layer * model.layers / layouts.pp) * GIB
    other = _by_neighbours(facts.outside_torch_gib, layouts) + exchange_buffer_bytes(model, layouts)
    held = _by_neighbours(facts.context_gib, layouts)
    visible = gpu.visible_memory_bytes
    if facts.share_of == "gpu":
        kv = share * visible - weights - activation - other - (graphs if facts.graphs_within_budget else 0.0)
    elif facts.share_of == "weights_and_cache":
        kv = share * (visible - held) - weights
    else:
        kv = share * (visible - held - weights - activation - other - graphs)
    rest = visible - held - weights - activation - other - graphs
    # What the share promises the cache may not be there: the engine runs out of memory after it has sized it.
    kv = np.where(rest < kv, np.minimum(kv, rest - kv), kv)
    return Memory(weights, activation, graphs, other, gpu.memory_bytes - visible + held, kv, rest - kv)


@dataclass(frozen=True)
class ExchangeBuffers:
    """See ``exchange_buffers.yaml``, which has the sources."""

    high_throughput_bytes: float
    low_latency_bytes: float
    low_latency_copies: float
    nvlink_bytes: float
    nvlink_least_tokens: float


@cache
def _buffers() -> ExchangeBuffers:
    return read_numbers(Path(__file__).parent / "exchange_buffers.yaml", ExchangeBuffers)


def exchange_buffer_bytes(model: Architecture, layouts: Layouts) -> Floats:
    """What an exchange of experts keeps buffers for on each GPU, [n]; 0: none."""
    experts = next((g.feed_forward for g in model.layer_groups if isinstance(g.feed_forward, MixtureOfExperts)), None)
    if experts is None or not layouts.wide.any():
        return np.zeros(len(layouts))
    width, like = experts.latent or model.hidden, priced_as(layouts.exchange)
    facts = _buffers()
    copies = facts.low_latency_copies * (experts.experts + layouts.redundant) * layouts.dispatch_tokens
    low_latency = copies * width * facts.low_latency_bytes
    domain = layouts.ep * np.maximum(layouts.dispatch_tokens, facts.nvlink_least_tokens) * (facts.nvlink_bytes * width)
    buffers = np.where(
        like == LOW_LATENCY, low_latency, np.where(like == HIGH_THROUGHPUT, facts.high_throughput_bytes, domain)
    )
    return np.where(layouts.wide, buffers, 0.0)


def _by_neighbours(gib: ByNeighbours, layouts: Layouts) -> Floats:
    """Bytes on a GPU of each layout, [n]."""
    splits = (layouts.tp > 1) | (layouts.dp > 1)
    return np.asarray(np.where(splits, gib.split, np.where(layouts.pp > 1, gib.stage, gib.alone)) * GIB)


def _activations(loaded: Loaded, layouts: Layouts, limits: StepLimits, stage: Stage) -> Floats:
    """The peak over the weights: of a forward pass, of the sampler, or of the image encoder, [n]."""
    model, precision, facts = loaded.model, loaded.precision, loaded.framework.memory
    # Of two half-batches one at a time is in the layers.
    halves = np.where(layouts.overlap == OVERLAPS.index("two_batch"), 2, 1)
    token_budget = -(-limits.token_budget // halves)
    each = float(precision.element_bytes)
    split = Split(model.hidden, precision, layouts)
    needed = [
        families().feed_forward(group.feed_forward).activations(split, group.feed_forward)
        for group in model.layer_groups
    ]
    workspaces = np.zeros(len(layouts))
    for layer in needed:
        workspaces = np.maximum(workspaces, layer.grouped)
    workspaces = workspaces * token_budget * each
    hidden = token_budget * float(model.hidden) * each
    torch = facts.torch_gib * GIB
    # Tokens of all ranks before the experts, and their sums after them.
    gathered = np.where((layouts.dp > 1) & ~layouts.wide, 2 * layouts.dp, 0) * hidden
    widest = max(layer.widest for layer in needed) / layouts.tp * token_budget * each
    forward = facts.hidden_copies * hidden + widest + gathered + workspaces + torch
    # The first stage also sends a hidden state and a residual.
    first = forward + np.where(layouts.pp > 1, 2 * hidden, 0.0)
    images, encoder = _images(model, layouts, token_budget, each)
    vocabulary = -(-model.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    rows = np.minimum(limits.sequences, token_budget) * (facts.logit_bytes + each)
    rows = rows + facts.logit_rows_per_multiprocessor * loaded.gpu.sm_count * 4
    sampler = rows * vocabulary + hidden + torch + (workspaces if facts.expert_workspaces_held else 0.0)
    first = np.maximum(first + images, encoder)
    last = np.maximum(first, sampler + images)
    if stage == "first":
        return np.asarray(np.where(layouts.pp > 1, first, last))
    return np.asarray(last)


def _images(model: Architecture, layouts: Layouts, token_budget: Ints, each: float) -> tuple[Floats, Floats]:
    """(pixels and embeddings of a step full of image tokens, which stay while the step is profiled; the encoder's peak
    on them), [n]; none without an image encoder."""
    tower = model.vision
    if tower is None:
        return np.zeros(len(layouts)), np.zeros(len(layouts))
    patches = token_budget * float(tower.merge**2)
    pixels = patches * (3.0 * tower.patch_pixels**2) * each
    images = pixels + token_budget * float(model.hidden) * each
    return images, images + patches * (4.0 * tower.hidden + tower.intermediate / layouts.tp) * each
