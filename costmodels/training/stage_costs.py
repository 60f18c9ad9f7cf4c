"""What the stages of a training layout cost, by part: one micro-batch, and what is exchanged once an iteration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.training.exchanges import Links
from costmodels.training.layer_time import (
    ATTENTION,
    BACKWARD,
    CONTEXT,
    DISPATCH,
    ELEMENTWISE,
    EXPERTS,
    FORWARD,
    PRODUCTS,
    TENSOR,
    WEIGHT_GRADIENTS,
    LayerTimes,
    exposed,
)
from costmodels.training.layouts import ZERO_BUBBLE, TrainingLayouts
from costmodels.training.memory import adds_up_whole, effective_sharding, expert_shards, recomputed_share
from costmodels.training.setting import Parameters, Setting, parameters

PARTS = (
    "forward_products",
    "data_gradient_products",
    "weight_gradient_products",
    "attention_forward",
    "attention_backward",
    "expert_products",
    "elementwise",
    "recomputation",
    "logits_and_loss",
    "tensor_exchange",
    "context_exchange",
    "expert_exchange",
    "pipeline_transfers",
    "bubble",
    "gradient_reduction",
    "parameter_gathering",
    "optimizer",
    "host",
)


@dataclass(frozen=True)
class StageCosts:
    """What the stages of ``n`` layouts cost, µs. The time of an iteration is

        (m − z)·max time + z·Σ time + fill + max rest

    over its stages, with m micro-batches and z the part of the way through all stages that the schedule leaves idle.

    Attributes:
        time: one micro-batch, forward, backward, recomputation and the transfers that it waits for, [n, stages].
        parts: of which, by part, shape [n, stages] each.
        reduction, gathering, optimizer: once an iteration, what is exposed, shape [n, stages] each.
        least: of these together, however much computation there is to hide behind.
        fill: transfers until the pipeline is full, and until it is empty, shape [n].
        idle: z, shape [n].
    """

    time: Floats
    parts: dict[str, Floats]
    reduction: Floats
    gathering: Floats
    optimizer: Floats
    least: Floats
    fill: Floats
    idle: Floats

    @property
    def rest(self) -> Floats:
        return self.reduction + self.gathering + self.optimizer


def stage_costs(
    setting: Setting, links: Links, layouts: TrainingLayouts, layers: LayerTimes, *, once: bool = True
) -> StageCosts:
    """What the stages of each layout cost; ``layers``: of :func:`~costmodels.training.layer_time.layer_times`. Without
    ``once`` what is exchanged once an iteration is left out: zero."""
    return _Stages(setting, links, layouts, layers).costs(once=once)


def selective_us(layers: LayerTimes, layouts: TrainingLayouts) -> Floats:
    """Time of selective recomputation in one layer, shape [kinds, n]."""
    value = layers.parts
    out = np.zeros(value.shape[2:])
    products, experts = value[PRODUCTS, FORWARD], value[EXPERTS, FORWARD]
    attention, elementwise = value[ATTENTION, FORWARD], value[ELEMENTWISE, FORWARD]
    for part, time in (
        ("core_attn", attention),
        ("layernorm", 0.4 * elementwise),
        ("moe_act", 0.2 * elementwise),
        ("mla_up_proj", 0.25 * products),
        ("mlp", 0.6 * products + 0.3 * elementwise),
        ("moe", experts + 0.4 * elementwise + value[DISPATCH, FORWARD]),
        ("shared_experts", 0.2 * products),
        ("op", 0.4 * products + 0.5 * experts + elementwise),
    ):
        out += np.where(layouts.recomputes(part), time, 0.0)
    return out


def idle_part(setting: Setting, layers: LayerTimes, layouts: TrainingLayouts) -> Floats:
    """Part of the way through all stages that is idle: one, or with virtual stages the v-th part; zero-bubble
    schedules fill it with weight gradients, of which there are as many as the layers have."""
    counts = np.array([kind.count for kind in setting.model.kinds], dtype=np.float64)[:, None]
    weight = (layers.parts[WEIGHT_GRADIENTS, BACKWARD] * counts).sum(axis=0)
    share = weight / (layers.passes.sum(axis=0) * counts).sum(axis=0)
    filled = np.where(layouts.schedule == ZERO_BUBBLE, np.maximum(1 - 2 * share, 0.0), 1.0)
    return np.asarray(filled / layouts.vpp)


def transfer_us(setting: Setting, links: Links, layouts: TrainingLayouts, *, crossing: bool = False) -> Floats:
    """One transfer between neighbouring stages, shape [n]; each tensor-parallel rank sends its share. ``crossing``:
    between nodes, however near the ranks are numbered."""
    message = setting.tokens(layouts) * 2.0 * setting.model.architecture.hidden / layouts.tp
    stride = layouts.tp * layouts.cp * layouts.dp
    if crossing:
        stride = np.maximum(stride, links.network.gpus_per_node)
    return np.where(layouts.pp > 1, links.hop(message, stride).value, 0.0)


def transfers(setting: Setting, layouts: TrainingLayouts) -> Floats:
    """How often a stage waits for each of its neighbours in a micro-batch, beside filling and draining, shape [n]."""
    hidden = "pipeline" in setting.framework.hidden
    return np.where((layouts.vpp > 1) & hidden, 0.0, layouts.vpp)


class _Stages:
    def __init__(self, setting: Setting, links: Links, layouts: TrainingLayouts, layers: LayerTimes) -> None:
        self.setting, self.links, self.layouts, self.layers = setting, links, layouts, layers
        self.n = len(layouts)
        self.held: Parameters = parameters(setting, layouts)
        self.m = layouts.microbatches.astype(np.float64)

    def costs(self, *, once: bool) -> StageCosts:
        layouts = self.layouts
        parts = self._stage_parts()
        hop = transfer_us(self.setting, self.links, layouts)
        waits = (hop * 2.0 * transfers(self.setting, layouts))[:, None]
        parts["pipeline_transfers"] = np.where(layouts.stages & (layouts.pp > 1)[:, None], waits, 0.0)
        time = np.asarray(sum(parts.values()))
        none = np.zeros_like(time)
        reduction, gathering, least = self._replicas(parts) if once else (none, none, none)
        optimizer = self._optimizer_us() if once else none
        return StageCosts(
            time,
            parts,
            reduction,
            gathering,
            optimizer,
            least + optimizer,
            2.0 * (layouts.pp - 1) * hop,
            idle_part(self.setting, self.layers, layouts),
        )

    # -------------------------------------------------------------- one micro-batch of each stage

    def _stage_parts(self) -> dict[str, Floats]:
        """By part, shape [n, stages]: forward, backward and recomputation of one micro-batch."""
        value, layouts = self.layers.parts, self.layouts
        stages = layouts.layers.shape[1]

        def spread(per_kind: Floats) -> Floats:
            return np.asarray(np.einsum("nsk,kn->ns", layouts.layers, per_kind))

        named: dict[str, Floats] = {
            "forward_products": spread(value[PRODUCTS, FORWARD]),
            "data_gradient_products": spread(value[PRODUCTS, BACKWARD]),
            "weight_gradient_products": spread(value[WEIGHT_GRADIENTS, BACKWARD]),
            "attention_forward": spread(value[ATTENTION, FORWARD]),
            "attention_backward": spread(value[ATTENTION, BACKWARD]),
            "expert_products": spread(value[EXPERTS].sum(axis=0)),
            "elementwise": spread(value[ELEMENTWISE].sum(axis=0)),
            "tensor_exchange": spread(value[TENSOR].sum(axis=0)),
            "context_exchange": spread(value[CONTEXT].sum(axis=0)),
            "expert_exchange": spread(value[DISPATCH].sum(axis=0)),
        }
        share = recomputed_share(layouts)
        again = selective_us(self.layers, layouts)  # [kinds, n]
        forward = self.layers.passes[FORWARD]
        named["recomputation"] = spread(forward) * share + spread(again) * (1 - share)
        # What the host needs beyond what the GPU is busy, each pass.
        idle = self.layers.passes - self.layers.parts.sum(axis=0)
        named["host"] = spread(idle.sum(axis=0))
        ends = np.zeros((self.n, stages))
        first, last = self.layers.ends.sum(axis=1)
        ends[:, 0] = first
        named["logits_and_loss"] = ends + np.where(layouts.last, last[:, None], 0.0)
        return {name: np.where(layouts.stages, part, 0.0) for name, part in named.items()}

    # -------------------------------------------------------------- replicas

    def _replicas(self, parts: dict[str, Floats]) -> tuple[Floats, Floats, Floats]:
        """(gradient reduction, parameter gathering) that computation does not hide, and the least of both that any
        computation leaves; µs, shape [n, stages] each."""
        layouts, facts = self.layouts, self.setting.framework
        forward, backward = self._passes(parts)
        every = effective_sharding(self.setting, layouts)[:, None]
        dense, experts = self.held.stages(layouts)
        reduce_us, gather_us = self._exchange_us(dense, experts)
        m = self.m[:, None]
        lost = self.links.constants.hidden_cost
        layers = np.maximum(layouts.layers.sum(axis=2), 1.0)
        # ZeRO-3 gathers weights and reduces gradients in each micro-batch, behind the layers before and after, with
        # copies into and out of flat buffers: 16 bits read and written, gradients widened to 32.
        gathers = np.where(layouts.recomputed > 0, facts.gathers_with_recompute, 2)
        copies = (dense + experts) * (4.0 * gathers + 10.0) / self.links.memory_rate * 1e6
        often = copies + exposed(gather_us, forward, layers, lost)
        often = m * (often + exposed((gathers - 1) * gather_us + reduce_us, backward, layers, lost))
        # Else once an iteration: behind the backward pass of the last micro-batch, the forward of the first.
        once_r = exposed(reduce_us, backward, layers, lost) if "gradients" in facts.hidden else reduce_us
        once_g = exposed(gather_us, forward, layers, lost) if "parameters" in facts.hidden else gather_us
        # Sharded gradients are reduced in each micro-batch, unless they add up whole.
        each = (every == 2) & ~adds_up_whole(self.setting, layouts)[:, None]
        once_r = np.where(each, m * exposed(reduce_us, backward, layers, lost), once_r)
        there = layouts.stages
        reduction = np.where(there, np.where(every == 3, often, once_r), 0.0)
        gathering = np.where(there & ((every == 1) | (every == 2)), once_g, 0.0)
        least_r = reduce_us * (lost if "gradients" in facts.hidden else 1.0)
        least_r = np.where(each, m * lost * reduce_us, least_r)
        least_g = gather_us * (lost if "parameters" in facts.hidden else 1.0)
        least = np.where(every == 3, m * (copies + lost * (gathers * gather_us + reduce_us)), least_r)
        least = least + np.where((every == 1) | (every == 2), least_g, 0.0)
        return reduction, gathering, np.where(there, least, 0.0)

    def _passes(self, parts: dict[str, Floats]) -> tuple[Floats, Floats]:
        """(forward, backward) time of one micro-batch by stage."""
        spread = np.einsum("nsk,wkn->wns", self.layouts.layers, self.layers.passes)
        return spread[FORWARD], spread[BACKWARD] + parts["recomputation"]

    def _exchange_us(self, dense: Floats, experts: Floats) -> tuple[Floats, Floats]:
        """(reducing all gradients, gathering all weights) of each stage, µs, shape [n, stages]."""
        layouts, facts, trained = self.layouts, self.setting.framework, self.setting.trained_share
        reduce_us, gather_us = np.zeros_like(dense), np.zeros_like(dense)
        sharded = (layouts.sharding >= 1)[:, None]
        meshes = (
            (dense, layouts.dp * layouts.cp, layouts.shard_ranks, layouts.tp),
            (experts, layouts.edp, np.rint(expert_shards(layouts)).astype(np.int64), layouts.etp * layouts.ep),
        )
        for count, ranks, shards, stride in meshes:
            gradients, weights = count * trained * facts.reduce, count * facts.gather
            reduce_us += self._group("all_reduce", np.where(sharded, 0.0, gradients), ranks, stride)
            reduce_us += self._group("reduce_scatter", np.where(sharded, gradients, 0.0), shards, stride)
            gather_us += self._group("all_gather", np.where(sharded, weights, 0.0), shards, stride)
            copies = ranks // np.maximum(shards, 1)  # hybrid: the shards are reduced over the copies
            pieces = np.where(sharded, gradients / shards[:, None], 0.0)
            reduce_us += self._group("all_reduce", pieces, copies, stride * shards)
        return reduce_us, gather_us

    def _group(self, kind: str, message: Floats, ranks: NDArray[np.int64], stride: NDArray[np.int64]) -> Floats:
        """Time of an exchange of each stage, shape [n, stages]."""
        if self.setting.framework.one_ring:  # through one card of a node: as if each of its GPUs stood alone
            stride = np.where(ranks * stride > self.links.network.gpus_per_node, 1 << 20, stride)
        rows = np.flatnonzero((ranks > 1) & (message.max(axis=1) > 0))
        out = np.zeros_like(message)
        if len(rows):
            stages = message.shape[1]
            ranks, stride = np.repeat(ranks[rows], stages), np.repeat(stride[rows], stages)
            out[rows] = self.links.exchange(kind, message[rows].ravel(), ranks, stride).value.reshape(-1, stages)
        return out

    def _optimizer_us(self) -> Floats:
        """Memory traffic, shape [n, stages]: gradients read twice (their norm), master weights and moments read and
        written, weights written."""
        facts, layouts = self.setting.framework, self.layouts
        dense, experts = self.held.stages(layouts)
        sharded = (layouts.sharding >= 1)[:, None]
        own = dense / np.where(sharded, layouts.shard_ranks[:, None], 1)
        own = own + experts / np.where(sharded, expert_shards(layouts)[:, None], 1.0)
        traffic = 2 * facts.gradients + 2 * facts.master + 2 * self.setting.moments + facts.weights
        busy = own * self.setting.trained_share * traffic / self.links.memory_rate * 1e6
        return np.where(layouts.stages, busy, 0.0)
