"""Training layouts as arrays over many candidates of one model: degrees, schedule, recomputation, layers of stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.arrays import Rowwise
from costmodels.estimates import Floats, Ints
from costmodels.training.models import TrainedModel

Bools = NDArray[np.bool_]

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble")
GPIPE, ONE_F_ONE_B, INTERLEAVED, ZERO_BUBBLE = range(4)

RECOMPUTED = ("core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts", "op")
"""Parts of a layer that selective recomputation may name; ``op`` is torchtitan's choice of operators. As bits of
:attr:`TrainingLayouts.selective`."""

ATTENTION = ("unfused", "flash2", "flash3", "cudnn", "te")
UNFUSED, FLASH2 = 0, 1

PRECISIONS = ("bf16", "fp16", "fp8", "mxfp8", "nvfp4")


@dataclass(frozen=True)
class Degrees(Rowwise):
    """Of ``n`` layouts, shape [n] each; ``vpp``: runs of layers that a stage holds (virtual stages)."""

    tp: Ints
    pp: Ints
    vpp: Ints
    dp: Ints
    cp: Ints
    ep: Ints
    etp: Ints

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def gpus(self) -> Ints:
        return self.tp * self.pp * self.dp * self.cp


@dataclass(frozen=True)
class TrainingLayouts(Degrees):
    """``n`` layouts, shape [n] each.

    The GPUs are pp stages of dp × cp × tp. In layers with experts the GPUs of a stage are folded anew: etp splits an
    expert, ep shares the experts out, and what is left, edp = tp·cp·dp ÷ (etp·ep), holds copies.

    Attributes:
        sharding: 0 none, 1 optimizer states, 2 and gradients, 3 and weights.
        shard_ranks: how many of the dp·cp ranks share the states of the attention's mesh (all, unless hybrid).
        micro_batch, microbatches: sequences of a micro-batch, and how many of them a rank sees in an iteration.
        sequence_parallel: activations outside the split products are split over tp too.
        schedule: index into :data:`SCHEDULES`.
        selective: parts that are recomputed, as bits of :data:`RECOMPUTED`.
        recomputed: layers of each stage that are recomputed whole, shape [n, stages]; at most what the stage holds.
        attention: index into :data:`ATTENTION`.
        layers: layers of each kind in each stage, shape [n, stages, kinds].
    """

    sharding: Ints
    shard_ranks: Ints
    micro_batch: Ints
    microbatches: Ints
    sequence_parallel: Bools
    schedule: Ints
    selective: Ints
    recomputed: Floats
    attention: Ints
    layers: Floats

    @property
    def edp(self) -> Ints:
        """Copies of each expert within a stage."""
        return np.maximum(self.tp * self.cp * self.dp // (self.etp * self.ep), 1)

    @property
    def stages(self) -> Bools:
        """Which stages there are, shape [n, stages]."""
        return np.asarray(np.arange(self.layers.shape[1]) < self.pp[:, None])

    @property
    def last(self) -> Bools:
        """The last stage of each, shape [n, stages]."""
        return np.asarray(np.arange(self.layers.shape[1]) == self.pp[:, None] - 1)

    def recomputes(self, part: str) -> Bools:
        """Whether ``part`` is recomputed, shape [n]."""
        return np.asarray((self.selective >> RECOMPUTED.index(part)) & 1 == 1)

    def with_stages(self, layers: Floats, recomputed: Floats) -> TrainingLayouts:
        return replace(self, layers=layers, recomputed=recomputed)


ENDS = 2
"""The embedding and the loss, each of which may stand alone in a stage."""


def default_split(layers: int, stages: int) -> tuple[int, ...]:
    """Layers of each of ``stages`` (virtual stages count), when nobody says: equal where that is possible, else as
    equal as possible with the embedding and the loss counted as a layer each (Megatron-LM's
    ``--account-for-embedding-in-pipeline-split`` and ``--account-for-loss-in-pipeline-split``, torchtitan's rule)."""
    if layers % stages == 0 or stages == 1:
        return (layers // stages,) * stages
    whole, more = divmod(layers + ENDS, stages)
    # Stages that take one more stand in the middle: the ends have the embedding and the loss.
    counts = [whole] * stages
    middle = sorted(range(stages), key=lambda stage: abs(stage - (stages - 1) / 2))
    for stage in middle[:more]:
        counts[stage] += 1
    counts[0] -= 1
    counts[-1] -= 1
    while min(counts) < 0:  # more stages than layers: the ends cannot give what they do not have
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(min(counts))] += 1
    return tuple(counts)


def stage_kinds(model: TrainedModel, split: tuple[int, ...], pp: int, mtp: int = 0) -> Floats:
    """Layers of each kind in each stage, shape [pp, kinds], where ``split`` has the layers of each virtual stage in
    the order of the model: virtual stage c lies on stage c mod pp. Multi-token-prediction layers follow the last."""
    kinds = np.zeros((pp, len(model.kinds)))
    place = 0
    for chunk, count in enumerate(split):
        for kind in model.order[place : place + count]:
            kinds[chunk % pp, kind] += 1
        place += count
    kinds[-1, model.order[-1]] += mtp
    return kinds
