"""FLOPs that a model needs to be trained, whatever the layout."""

from __future__ import annotations

from costmodels.models.architecture import GroupedQueryAttention, LatentAttention
from costmodels.training.models import TrainedAttention
from costmodels.training.setting import Setting


def model_flops(setting: Setting, sequences: int) -> float:
    """FLOPs of one iteration that the model needs, without recomputation: three times the forward products, attention
    as far as it is causal (Megatron-LM's ``num_floating_point_operations`` since core 0.9)."""
    model = setting.model.architecture
    products = model.vocabulary * model.hidden * (1 + setting.mtp)
    attention = 0.0
    for kind in setting.model.kinds:
        products += kind.count * (
            kind.attention.parameters(model.hidden) + kind.feed_forward.active_parameters(model.hidden)
        )
        window = kind.attention.window_tokens or setting.sequence
        seen = min(window, setting.sequence)
        pairs = seen * setting.sequence - seen * seen / 2
        attention += kind.count * 2.0 * pairs * _pair_width(kind.attention)
    return 3.0 * sequences * (2.0 * products * setting.sequence + attention)


def _pair_width(attention: TrainedAttention) -> float:
    """Elements of queries and of values that each pair of tokens multiplies."""
    if isinstance(attention, GroupedQueryAttention):
        return 2.0 * attention.heads * attention.head_dim
    if isinstance(attention, LatentAttention):
        qk = attention.qk_nope_head_dim + attention.qk_rope_head_dim
        return float(attention.heads * (qk + attention.v_head_dim))
    return 0.0
