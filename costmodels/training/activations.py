"""What one token leaves behind in one layer until its backward pass, by part. Bytes of one rank.

Counted as Korthikanti et al. count (arXiv:2205.05198, §4), for fused and unfused attention and for gated
feed-forwards, latent attention and experts: whatever the backward pass of an operation needs and that is not another
operation's copy. Products keep their input, norms theirs, attention its queries, keys, values and output.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import (
    DenseFeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
)
from costmodels.training.layouts import UNFUSED, TrainingLayouts
from costmodels.training.models import TrainedAttention, TrainedFeedForward
from costmodels.training.setting import Setting

ELEMENT = 2.0  # bytes: activations are kept in 16 bits whatever the products are multiplied in


@dataclass(frozen=True)
class LayerActivations:
    """Bytes a token of one kind of layer, shape [n] each.

    Attributes:
        kept: held from the forward to the backward pass, after selective recomputation.
        whole: the same without any recomputation: what a layer that is recomputed whole holds while it runs backward.
        block: input of the layer, all that a layer recomputed whole holds until then.
        gradients: of activations, alive at once in the backward pass.
    """

    kept: Floats
    whole: Floats
    block: Floats
    gradients: Floats


def layer_activations(setting: Setting, layouts: TrainingLayouts, kind: int) -> LayerActivations:
    """Of layers of ``kind`` (index into the model's)."""
    group = setting.model.kinds[kind]
    hidden = setting.model.architecture.hidden
    tp = layouts.tp.astype(np.float64)
    shared = np.where(layouts.sequence_parallel, tp, 1.0)  # what sequence parallelism splits
    attention = _attention(setting, layouts, group.attention, tp)
    wide, act, gradients = _feed_forward(setting, layouts, group.feed_forward, tp, shared)
    masks = 2.0 * hidden / shared if setting.model.dropout else 0.0
    norm_in, norm_out = 2 * ELEMENT * hidden / shared, 2 * setting.input_bytes * hidden / shared
    split = np.where(layouts.tp > 1, setting.framework.split_hidden, 0.0)
    unfused = (setting.framework.unfused_hidden + split) * hidden / shared
    whole = norm_in + norm_out + unfused + masks + sum(attention.values()) + wide + act
    block = ELEMENT * hidden / shared
    if "op" in setting.framework.recompute:
        kept = np.where(layouts.recomputes("op"), _chosen_operators(setting, layouts, kind, block, tp), whole)
    else:
        kept = whole.copy()
        kept -= np.where(layouts.recomputes("core_attn"), attention["scores"], 0.0)
        kept -= np.where(layouts.recomputes("layernorm"), norm_out, 0.0)
        if isinstance(group.attention, LatentAttention):
            kept -= np.where(layouts.recomputes("mla_up_proj"), attention["core"], 0.0)
        if isinstance(group.feed_forward, MixtureOfExperts):
            experts_gone = layouts.recomputes("moe")
            kept -= np.where(experts_gone, wide + act, np.where(layouts.recomputes("moe_act"), act, 0.0))
        else:
            kept -= np.where(layouts.recomputes("mlp"), wide + act, 0.0)
    # Of the activation's input (its output is freed meanwhile) and of the stream.
    return LayerActivations(kept, whole, np.broadcast_to(block, kept.shape), gradients + ELEMENT * hidden / shared)


def _attention(
    setting: Setting, layouts: TrainingLayouts, attention: TrainedAttention, tp: Floats
) -> dict[str, Floats]:
    """``core``: queries, keys, values; ``scores``: what fused kernels do not keep; and the rest."""
    zero = np.zeros(len(layouts))
    if isinstance(attention, GatedDeltaNet):
        values = attention.value_heads * attention.value_dim
        # Convolved q, k, v before and after, output gate, output, and chunk states of 64 tokens (arXiv:2412.06464).
        states = attention.value_heads * attention.key_dim * attention.value_dim / 64
        return {"core": ELEMENT * (2 * attention.convolved + 2 * values + states) / tp, "scores": zero, "rest": zero}
    heads = attention.heads
    if isinstance(attention, LatentAttention):
        qk = attention.qk_nope_head_dim + attention.qk_rope_head_dim
        latent = (
            2 * attention.q_lora_rank + 2 * attention.kv_lora_rank + attention.qk_rope_head_dim
        )  # before, after norm
        core = ELEMENT * heads * (2 * qk + attention.v_head_dim) / tp
        rest = ELEMENT * latent + ELEMENT * heads * attention.v_head_dim / tp
    else:
        query = heads * attention.head_dim
        kv = np.maximum(attention.kv_heads * attention.head_dim / tp, attention.head_dim)
        core = ELEMENT * (query / tp + 2 * kv)
        rest = ELEMENT * query * (3 if attention.gated_output else 1) / tp  # and the gate, and what it lets through
    fused = layouts.attention != UNFUSED
    # Softmax, and with dropout its mask and result, of every pair; fused kernels keep one number a query.
    each = 5.0 if setting.model.dropout else 4.0
    scores = np.where(fused, 4.0, each * setting.sequence) * heads / tp
    return {"core": core, "scores": scores, "rest": rest + zero}


def _feed_forward(
    setting: Setting, layouts: TrainingLayouts, ffn: TrainedFeedForward, tp: Floats, shared: Floats
) -> tuple[Floats, Floats, Floats]:
    """(output of the first product, of the activation, and gradients alive at once), bytes a token."""
    hidden = setting.model.architecture.hidden
    extra = setting.framework.unfused_wide
    if isinstance(ffn, DenseFeedForward):
        matrices = 2 if ffn.gated else 1
        wide = ELEMENT * matrices * ffn.intermediate / tp
        act = (setting.input_bytes + extra * ffn.gated) * ffn.intermediate / tp
        return wide, act, wide
    matrices = 2 if ffn.gated else 1
    pairs = ffn.top_k / shared  # expert inputs of this rank, a token; balanced
    permuted = pairs * setting.input_bytes * hidden * np.where(layouts.etp > 1, layouts.etp, 1)
    width = ffn.intermediate * np.ones(len(layouts))
    wide = pairs * ELEMENT * matrices * width + permuted + 8.0 * ffn.experts / shared  # router's scores, fp32, twice
    act = pairs * (setting.input_bytes + extra * ffn.gated) * width
    if ffn.shared_intermediate:
        wide = wide + ELEMENT * matrices * ffn.shared_intermediate / tp
        act = act + setting.input_bytes * ffn.shared_intermediate / tp
    return wide, act, pairs * ELEMENT * matrices * width + permuted


def _chosen_operators(setting: Setting, layouts: TrainingLayouts, kind: int, block: Floats, tp: Floats) -> Floats:
    """torchtitan's selective ``op``: every second product's output is kept, and attention's (torchtitan
    models/llama3/infra/parallelize.py): query, value and output; gate and down projections."""
    group = setting.model.kinds[kind]
    hidden = setting.model.architecture.hidden
    attention, ffn = group.attention, group.feed_forward
    shared = np.where(layouts.sequence_parallel, tp, 1.0)
    if isinstance(attention, GroupedQueryAttention):
        query, kv = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
        kept = ELEMENT * (2 * query + kv) / tp + 4.0 * attention.heads / tp
    else:
        kept = ELEMENT * 2 * max(attention_output(attention), hidden) / tp
    if isinstance(ffn, DenseFeedForward):
        kept = kept + ELEMENT * ffn.intermediate / tp
    else:
        pairs = ffn.top_k / shared
        kept = kept + pairs * ELEMENT * (ffn.intermediate + hidden) + ELEMENT * ffn.shared_intermediate / tp
    return np.asarray(block + kept + ELEMENT * hidden / shared)


def attention_output(attention: TrainedAttention) -> int:
    """Features that the output product takes."""
    if isinstance(attention, GroupedQueryAttention):
        return attention.heads * attention.head_dim
    if isinstance(attention, LatentAttention):
        return attention.heads * attention.v_head_dim
    return attention.value_heads * attention.value_dim
