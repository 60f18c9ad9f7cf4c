"""Mixtures of experts: grouped products of routed experts beside a router and an always-on part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.architecture import DenseFeedForward, MixtureOfExperts
from costmodels.models.precision import Precision
from costmodels.operations.exchanges import more_us_of, priced_as
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_feed_forward, ask_product, feed_forward_width, width_rules
from costmodels.operations.kernel import Kernel
from costmodels.operations.layers import Activations, FeedForwardKind, Rule, whole_groups
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import ACTIVATION_BYTES, ExpertExchange, LayerStep, Split
from costmodels.operations.roofline import (
    ROUTING_SKEW,
    Columns,
    Hardware,
    Work,
    code,
    floats,
    of_dtype,
    weight_bytes,
)
from costmodels.operations.shape_features import Features, logs, waves
from costmodels.operations.wide_moe import WIDE_MOE, ask_wide_experts, busiest_share, expected_active


def _work(q: Columns) -> Work:
    tokens, hidden, top_k, experts, ep = floats(q, "tokens", "hidden", "top_k", "experts", "moe_ep")
    intermediate, moe_tp, gated = floats(q, "intermediate", "moe_tp", "gated")
    width = intermediate / moe_tp
    matrices = np.where(gated > 0, 3.0, 2.0)
    pairs = tokens * top_k / ep
    active = np.maximum(expected_active(experts, top_k, tokens) / ep, np.minimum(1.0, pairs))
    weights = active * matrices * hidden * width * of_dtype(weight_bytes, q)
    moved = weights + pairs * (2 * hidden + matrices * width) * 2
    return Work.local(2 * pairs * matrices * hidden * width, moved)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    tokens, experts, top_k, ep = floats(q, "tokens", "experts", "top_k", "moe_ep")
    intermediate, moe_tp = floats(q, "intermediate", "moe_tp")
    width = intermediate / moe_tp
    active = expected_active(experts, top_k, tokens)
    rows = tokens * top_k / np.maximum(active, 1)
    count, used = waves(active / ep * np.ceil(rows / 64) * np.ceil(width / 64), hw, gpu)
    return {
        **logs(q, "tokens", "hidden", "top_k", "experts", "moe_tp", "moe_ep"),
        "width": np.log2(width),
        "local_experts": np.log2(experts / ep),
        "active": np.log2(np.maximum(active / ep, 1e-3)),
        "rows_per_expert": np.log2(rows),
        "pairs": np.log2(tokens * top_k / ep),
        "gated": np.asarray(q["gated"], dtype=np.float64),
        "skew": ROUTING_SKEW[q["routing"].astype(np.int64)],
        "waves": count,
        "used": used,
    }


MOE = Kernel(
    name="moe",
    part="moe",
    factor="moe",
    work=_work,
    features=_features,
    group=("hidden", "intermediate", "top_k", "experts", "moe_tp", "moe_ep"),
    range=("tokens", "hidden", "intermediate", "experts"),
    near={"tokens": 4.0, "moe_tp": 1.0, "moe_ep": 1.0, "routing": 1.0},
    alike=("hidden", "intermediate", "top_k", "experts", "gated"),
    along="tokens",
    leaf_rows=4,
)


class ExpertsKind(FeedForwardKind[MixtureOfExperts]):
    """Experts are shared out and split over the GPUs of a stage, the router is whole on each, the shared expert is
    split over the tensor-parallel group."""

    layer = MixtureOfExperts

    def ask(self, step: LayerStep, layer: MixtureOfExperts, count: int) -> None:
        precision, layouts, batch, hidden = step.split.precision, step.split.layouts, step.batch, step.split.hidden
        tokens, width = batch.tokens, layer.latent or hidden
        everyone = np.maximum(np.rint(batch.expert_tokens * layouts.dp), 1).astype(np.int64)
        ask_product(step, "bf16", tokens, layer.experts + layer.idle_experts, hidden, count)
        if layer.latent:
            ask_product(step, "bf16", tokens, layer.latent, hidden, count)
            ask_product(step, "bf16", tokens, hidden, layer.latent, count)
        step.work.ask(
            MOE,
            count,
            (tokens > 0) & ~layouts.wide,
            dtype=code("dtype", precision.experts),
            tokens=everyone,
            hidden=width,
            intermediate=layer.intermediate,
            top_k=layer.working_top_k,
            experts=layer.experts,
            moe_tp=layouts.moe_tp,
            moe_ep=layouts.ep,
            gated=int(layer.gated),
            routing=code("routing", step.routing),
        )
        np.maximum(step.work.uneven, uneven_experts(layer, everyone, layouts), out=step.work.uneven)
        if layer.shared_intermediate:
            shared = DenseFeedForward(layer.shared_intermediate, layer.gated)
            ask_feed_forward(step, shared, precision.shared_experts, count, beside=True)
        scores = (tokens * layer.experts).astype(np.float64)
        step.work.touch(scores * 4, 2, count)  # softmax and top-k of the router, fp32
        # With one attention replica the tokens are already on all GPUs of the group, and partial sums are
        # reduced as in a dense layer. With several, all tokens are gathered before and their sums scattered
        # after the experts.
        alone, near = layouts.dp == 1, ~layouts.wide
        summed = np.where(alone & near, step.hidden_bytes(tokens), 0.0)
        step.work.exchange("all_reduce", summed, layouts.tp, count)
        gathered = np.where(alone | layouts.wide, 0.0, everyone * float(width * ACTIVATION_BYTES))
        step.work.exchange("all_gather", gathered, layouts.stage_gpus, count, to_experts=True)
        step.work.exchange("reduce_scatter", gathered, layouts.stage_gpus, count)
        if layouts.wide.any():
            self._ask_wide(step, layer, count)

    def _ask_wide(self, step: LayerStep, layer: MixtureOfExperts, count: int) -> None:
        """Where every token goes to the GPUs of its experts and comes back; those of a tensor-parallel group share out
        its tokens."""
        layouts, batch = step.split.layouts, step.batch
        when = layouts.wide & (batch.tokens > 0)
        tokens = batch.expert_tokens / layouts.tp
        shape = {
            "dtype": code("dtype", step.split.precision.experts),
            "hidden": layer.latent or step.split.hidden,
            "intermediate": layer.intermediate,
            "top_k": layer.working_top_k,
        }
        ask_wide_experts(step, count, when, tokens, (layer.experts + layouts.redundant) / layouts.ep, **shape)
        chosen = np.flatnonzero(when & (layouts.ep > 1))
        if len(chosen):
            step.work.expert_exchanges.append(
                ExpertExchange(
                    priced_as(layouts.exchange[chosen]),
                    tokens[chosen],
                    busiest_share(layouts, step.routing)[chosen],
                    layer.latent or step.split.hidden,
                    layer.working_top_k,
                    layer.experts,
                    layer.groups,
                    layer.top_groups,
                    layouts.ep[chosen],
                    chosen.astype(np.int64),
                    count,
                    more_us_of(layouts.exchange[chosen]),
                )
            )

    def weights_bytes(self, split: Split, layer: MixtureOfExperts) -> Iterator[Floats | float]:
        hidden, layouts = split.hidden, split.layouts
        routed = layer.experts * layer.expert_parameters(hidden)
        padded = split.padded_width(layer.latent or hidden, "experts")
        held = 1 + layouts.redundant / layer.experts
        yield routed * held * padded * split.weight_bytes("experts") / (layouts.ep * layouts.moe_tp)
        yield layer.router_parameters(hidden) * 2.0
        yield layer.shared_parameters(hidden) * split.weight_bytes("shared_experts") / layouts.tp

    def activations(self, split: Split, layer: MixtureOfExperts) -> Activations:
        """Grouped products work in two buffers, of every (token, expert) pair of this GPU: one for inputs or gate and
        up, one for their product or outputs (vLLM, fused_moe: TritonExperts.workspace_shapes)."""
        layouts = split.layouts
        pairs = np.where(layouts.wide, layer.top_k / layouts.tp, layouts.dp * layer.top_k / layouts.ep)
        width, inner = layer.latent or split.hidden, layer.intermediate / split.layouts.moe_tp
        grouped = pairs * (np.maximum(width, inner) + np.maximum(width, (2 if layer.gated else 1) * inner))
        return Activations(feed_forward_width(DenseFeedForward(layer.shared_intermediate, layer.gated)), grouped)

    def rules(self, layer: MixtureOfExperts, precision: Precision) -> Iterator[Rule]:
        experts, width = layer.experts, layer.intermediate
        yield Rule(f"{experts} experts do not divide by ep", lambda x: (experts % x.ep != 0) & (x.redundant == 0))
        yield Rule(
            f"{experts} experts and their copies do not divide by ep", lambda x: (experts + x.redundant) % x.ep != 0
        )
        yield Rule(
            f"expert width {width} does not divide by the tensor split of experts", lambda x: width % x.moe_tp != 0
        )
        yield from whole_groups("expert width", width, precision, "experts", over="tensor split")
        if layer.shared_intermediate:
            yield from width_rules("shared expert", layer.shared_intermediate, precision, "shared_experts")


def uneven_experts(layer: MixtureOfExperts, tokens: Ints, layouts: Layouts) -> Floats:
    """log(experts that tokens choose on the GPU with most of them ÷ on average), tokens choosing at random; [n].

    Of E ÷ ep experts on a GPU each is chosen by some of T tokens with p = 1 − (1 − k ÷ E)^T; the largest of ep such
    counts lies about √(2 ln ep) deviations above their mean, and at most all are chosen.
    """
    own = layer.experts / layouts.ep
    chosen = 1 - (1 - min(layer.working_top_k / layer.experts, 1.0)) ** np.maximum(tokens, 1).astype(np.float64)
    deviation = np.sqrt((1 - chosen) / (chosen * own))
    most = 1 + np.sqrt(2 * np.log(layouts.ep)) * deviation
    uneven = np.log(np.minimum(most, 1 / chosen))
    return np.asarray(np.where((layouts.ep > 1) & ~layouts.wide, uneven, 0.0))


FAMILY = OperationFamily("moe", (MOE, WIDE_MOE), (ExpertsKind(),))
