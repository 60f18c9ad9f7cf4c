"""Where the memory of every stage of a training layout goes, at the moment of its peak. Vectorised over layouts.

All ranks of a stage hold the same (tensor, context and data parallelism split evenly, experts are taken as balanced),
so a stage is a class of ranks. Nothing here asks how long anything takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from costmodels.estimates import Floats
from costmodels.facts import read_numbers
from costmodels.models.architecture import MixtureOfExperts
from costmodels.training.activations import LayerActivations, layer_activations
from costmodels.training.layouts import GPIPE, INTERLEAVED, TrainingLayouts
from costmodels.training.models import TrainedFeedForward
from costmodels.training.setting import Parameters, Setting, parameters

PARTS = ("weights", "gradients", "optimizer", "buffers", "activations", "transient", "logits")
"""What the framework allocates; see :class:`TrainingMemory`."""

SPREAD = (0.08, 0.08)
"""Half-widths (log; down, up) of the 80 % interval of what is allocated: the rows of tests/benchmarks/training.py lie
within. Eager and compiled runs of one layout alone differ by 7 %."""


@dataclass(frozen=True)
class BesideAllocator:
    """Bytes of a GPU that the framework's allocator does not see (``memory.yaml``)."""

    context_bytes: float
    communication_bytes_per_peer_group: float


@cache
def beside_allocator() -> BesideAllocator:
    return read_numbers(Path(__file__).parent / "memory.yaml", BesideAllocator)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of each stage, shape [n, stages] each; stages that a layout lacks hold zero.

    Attributes:
        weights: the copy that is multiplied, or with FSDP2 the sharded parameters.
        gradients: as they are added up over micro-batches.
        optimizer: master weights and moments.
        buffers: lasting ones, of exchanges.
        activations: of all micro-batches in flight.
        transient: what the backward pass of one layer needs beside: recomputed activations, gradients of activations,
            gathered weights, the scratch of weight gradients. Zero where ``logits`` is the peak.
        logits: of the loss, where the peak is there.
        communication: buffers of the collectives, outside the framework's allocator.
        context: the driver's, outside the framework's allocator.
        reserved: what the framework's allocator holds, with expandable segments.
        reserved_plain: without.
    """

    weights: Floats
    gradients: Floats
    optimizer: Floats
    buffers: Floats
    activations: Floats
    transient: Floats
    logits: Floats
    communication: Floats
    context: Floats
    reserved: Floats
    reserved_plain: Floats

    @property
    def allocated(self) -> Floats:
        return np.asarray(sum(getattr(self, part) for part in PARTS))

    @property
    def states(self) -> Floats:
        """Weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    def used(self, *, expandable: bool = True) -> Floats:
        """Of the device, all in all."""
        return (self.reserved if expandable else self.reserved_plain) + self.communication + self.context

    def fits(self, room: Floats | float, *, expandable: bool = True) -> np.ndarray:
        """Whether every stage fits into ``room`` bytes of a GPU, or each into its own ([stages or 1]); shape [n]."""
        return np.asarray((self.used(expandable=expandable) <= room).all(axis=1))


def training_memory(setting: Setting, layouts: TrainingLayouts) -> TrainingMemory:
    """Memory of all stages of all layouts."""
    held = parameters(setting, layouts)
    weights, gradients, optimizer = _states(setting, layouts, held)
    layers = [layer_activations(setting, layouts, kind) for kind in range(len(setting.model.kinds))]
    activations = _activations(setting, layouts, layers)
    transient = _transient(setting, layouts, layers, held)
    logits = np.where(layouts.last, _logits(setting, layouts, held)[:, None], 0.0)
    at_loss = logits > transient
    there = layouts.stages
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "buffers": np.broadcast_to(_buffers(setting, layouts)[:, None], there.shape),
        "activations": activations,
        "transient": np.where(at_loss, 0.0, transient),
        "logits": np.where(at_loss, logits, 0.0),
    }
    parts = {name: np.where(there, part, 0.0) for name, part in parts.items()}
    allocated = np.asarray(sum(parts.values()))
    beside = beside_allocator()
    groups = (layouts.tp > 1).astype(np.float64) + (layouts.dp * layouts.cp > 1) + (layouts.pp > 1)
    groups += (layouts.cp > 1).astype(np.float64) + (layouts.ep > 1)
    return TrainingMemory(
        **parts,
        communication=np.where(there, (groups * beside.communication_bytes_per_peer_group)[:, None], 0.0),
        context=np.where(there, beside.context_bytes, 0.0),
        reserved=allocated * (1 + setting.framework.fragmentation),
        reserved_plain=allocated * (1 + setting.framework.fragmentation_plain),
    )


# ------------------------------------------------------------------ states


def effective_sharding(setting: Setting, layouts: TrainingLayouts) -> np.ndarray:
    """The stage that the framework runs: FSDP2 keeps weights gathered under pipeline parallelism, which is ZeRO-2."""
    kept = (layouts.sharding == 3) & (layouts.pp > 1) & setting.framework.keeps_weights_gathered
    return np.where(kept, 2, layouts.sharding)


def adds_up_whole(setting: Setting, layouts: TrainingLayouts) -> np.ndarray:
    """Whether gradients add up unsharded over the micro-batches of a pipeline, to be reduced once and sharded then:
    nobody's pipeline reduces them in each micro-batch."""
    kept = (layouts.sharding >= 1) & setting.framework.keeps_weights_gathered
    return np.asarray((layouts.pp > 1) & (kept | (layouts.sharding == 2)))


def expert_shards(layouts: TrainingLayouts) -> Floats:
    """Ranks that share the states of an expert, shape [n]: all its copies, or their part of a hybrid group."""
    hybrid = layouts.shard_ranks / (layouts.dp * layouts.cp)
    return np.maximum(layouts.edp * hybrid, 1.0)


def _states(setting: Setting, layouts: TrainingLayouts, held: Parameters) -> tuple[Floats, Floats, Floats]:
    """(weights, gradients, optimizer), shape [n, stages] each."""
    facts, trained = setting.framework, setting.trained_share
    dense, experts = held.stages(layouts)
    asked, run = layouts.sharding[:, None], effective_sharding(setting, layouts)[:, None]
    weights, gradients, optimizer = (np.zeros_like(dense) for _ in range(3))
    for count, shards in ((dense, layouts.shard_ranks), (experts, expert_shards(layouts))):
        split = np.asarray(shards, dtype=np.float64)[:, None]
        shared = split > 1  # one rank has nobody to share with: whatever the stage, it holds the same
        per_gradient = np.where(shared & (asked >= facts.gradients_16bit_from), 2.0, facts.gradients)
        if facts.flat_states:
            # At rest there are the 32-bit parameters, sharded or (stage 0) whole, and a gathered 16-bit copy only
            # where it is kept.
            sharded = np.where(asked >= 1, split, 1.0)
            weights += count * facts.master / sharded + np.where(
                shared & (asked >= 1) & (run < 3), count * facts.weights, 0.0
            )
            optimizer += count * trained * setting.moments / sharded
            several = shared & (layouts.microbatches > 1)[:, None] & adds_up_whole(setting, layouts)[:, None]
            gradients += count * trained * (per_gradient / sharded + np.where(several, facts.reduce, 0.0))
        else:
            weights += count * facts.weights / np.where(run >= 3, split, 1.0)
            whole = adds_up_whole(setting, layouts)[:, None]
            gradients += count * trained * per_gradient / np.where((run >= 2) & ~whole, split, 1.0)
            optimizer += count * trained * (facts.master + setting.moments) / np.where(asked >= 1, split, 1.0)
    return weights, gradients, optimizer


# ------------------------------------------------------------------ activations


def in_flight(layouts: TrainingLayouts) -> Floats:
    """Micro-batches whose activations a stage holds at once, shape [n, stages]: of all layers of the stage, so that a
    virtual stage counts as its share (Narayanan et al., arXiv:2104.04473 §2.2; Korthikanti et al., eq. 5). Without a
    pipeline one, whatever the schedule is called."""
    pp, vpp = layouts.pp[:, None], layouts.vpp[:, None]
    stage = np.arange(layouts.layers.shape[1])[None, :]
    m = layouts.microbatches[:, None]
    behind = np.maximum(pp - stage, 1)
    chunks = np.minimum(m * vpp, 2 * (behind - 1) + (vpp - 1) * pp + 1) / vpp
    held = np.where(layouts.schedule[:, None] == INTERLEAVED, chunks, np.minimum(m, behind))
    return np.asarray(np.where((layouts.schedule[:, None] == GPIPE) & (pp > 1), m, held), dtype=np.float64)


def recomputed_share(layouts: TrainingLayouts) -> Floats:
    """Share of a stage's layers that are recomputed whole, shape [n, stages]."""
    count = layouts.layers.sum(axis=2)
    return np.asarray(np.minimum(layouts.recomputed, count) / np.maximum(count, 1.0))


def _activations(setting: Setting, layouts: TrainingLayouts, layers: list[LayerActivations]) -> Floats:
    tokens = setting.tokens(layouts)
    share = recomputed_share(layouts)
    per_stage = np.zeros(share.shape)
    for k, layer in enumerate(layers):
        each = layer.kept[:, None] * (1 - share) + layer.block[:, None] * share
        per_stage += layouts.layers[:, :, k] * each * tokens[:, None]
    shared = np.where(layouts.sequence_parallel, layouts.tp, 1)
    stream = tokens * 2.0 * setting.model.architecture.hidden / shared
    held = per_stage * in_flight(layouts)
    # The first stage keeps the embedding's output (and the mask of its dropout), the last its norm's input and output.
    first = stream * (1.5 if setting.model.dropout else 1.0)
    held[:, 0] += first * in_flight(layouts)[:, 0]
    last = stream * (3.0 if setting.framework.unfused_hidden else 2.0)
    held += np.where(layouts.last, last[:, None], 0.0)
    stage = np.arange(held.shape[1])
    ends = (stage > 0).astype(np.float64) + (stage < layouts.pp[:, None] - 1)  # received, sent
    copies = stream * setting.framework.stage_copies / 2.0
    return np.asarray(held + ends * copies[:, None] * in_flight(layouts))


def _buffers(setting: Setting, layouts: TrainingLayouts) -> Floats:
    """Lasting buffers for the gathered inputs of split products, shape [n]."""
    gathered = setting.tokens(layouts) * 2.0 * setting.model.architecture.hidden
    split = layouts.sequence_parallel & (layouts.tp > 1)
    return np.where(split, setting.framework.gather_buffers * gathered, 0.0)


def _logits(setting: Setting, layouts: TrainingLayouts, held: Parameters) -> Floats:
    """Live at the loss, shape [n]: logits and their copies, the head's gathered weights and its input."""
    facts = setting.framework
    rows = setting.tokens(layouts) * setting.vocabulary(layouts.tp)
    copies = np.where(layouts.tp > 1, facts.loss_bytes_tp, facts.loss_bytes)
    gathered = np.where(effective_sharding(setting, layouts) == 3, held.head * facts.weights, 0.0)
    stream = setting.tokens(layouts) * 2.0 * setting.model.architecture.hidden  # whole, for the split vocabulary
    kept = np.where(layouts.pp > 1, layouts.microbatches * facts.keeps_outputs, 0.0)
    return np.asarray(rows * (copies + kept) + gathered + np.where(layouts.tp > 1, stream, 0.0))


def _transient(setting: Setting, layouts: TrainingLayouts, layers: list[LayerActivations], held: Parameters) -> Floats:
    """Beside what is held, in the backward pass of the layer that needs most; shape [n, stages]."""
    facts, hidden = setting.framework, setting.model.architecture.hidden
    tokens = setting.tokens(layouts)
    out = np.zeros(layouts.layers.shape[:2])
    sharded = effective_sharding(setting, layouts) == 3
    for k, (layer, kind) in enumerate(zip(layers, setting.model.kinds, strict=True)):
        recomputed = _recomputed_beside(layouts, layer)
        # The input of a split product is gathered again for its weight gradient.
        again = np.where(layouts.sequence_parallel & (layouts.tp > 1), 2.0 * hidden, 0.0)
        work = (recomputed + (layer.gradients + again)[:, None]) * tokens[:, None]
        ffn = kind.feed_forward
        each = held.dense[:, k] + held.experts[:, k]
        # This layer's and the next one's weights, and this one's gradients before they are reduced.
        gathered = np.where(
            sharded, each * (facts.gathered_layers * facts.weights + facts.reduce * setting.trained_share), 0.0
        )
        widest = _widest(ffn, hidden, layouts)
        scratch = np.where(sharded, 0.0, widest * facts.weights * facts.wgrad_scratch)
        out = np.maximum(out, np.where(layouts.layers[:, :, k] > 0, work + (gathered + scratch)[:, None], 0.0))
    ends = np.zeros_like(out)
    ends[:, 0] = held.embedding
    ends = np.where(layouts.last, np.maximum(ends, held.head[:, None]), ends)
    # The embedding's and the head's weight gradient, and with FSDP its 32-bit copy for the reduction.
    scale = np.where(sharded, facts.weights + facts.reduce, facts.weights * facts.wgrad_scratch) * setting.trained_share
    return np.maximum(out, ends * scale[:, None])


def _recomputed_beside(layouts: TrainingLayouts, layer: LayerActivations) -> Floats:
    """Bytes a token that recomputation needs beside what is held, shape [n, stages]. Layers that are recomputed whole
    are the first of a stage, whose backward passes come last: by then the activations of the others are gone."""
    count = layouts.layers.sum(axis=2)
    others = np.maximum(count - layouts.recomputed, 0.0)
    whole = (layer.whole - layer.block)[:, None] - others * layer.kept[:, None]
    selective = np.where(others > 0, (layer.whole - layer.kept)[:, None], 0.0)
    return np.where(layouts.recomputed > 0, np.maximum(whole, selective), (layer.whole - layer.kept)[:, None])


def _widest(ffn: TrainedFeedForward, hidden: int, layouts: TrainingLayouts) -> Floats:
    """Weights of the largest product of a layer on one rank: gate and up of a feed-forward, or those of an expert."""
    matrices = 2 if ffn.gated else 1
    split = layouts.etp if isinstance(ffn, MixtureOfExperts) else layouts.tp
    return np.asarray(matrices * float(ffn.intermediate) * hidden / split)
