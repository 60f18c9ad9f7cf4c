"""Draft heads published apart from their model: EAGLE's (arXiv:2401.15077) and EAGLE-3's (arXiv:2503.01840)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodels.models.architecture import Architecture, DraftModule, LayerGroup
from costmodels.models.config_fields import Fields
from costmodels.models.reading import dense_layer, even_head_dim, grouped_query
from profiles.errors import InputError, Unsupported
from profiles.values import listed

_EAGLE = ("LlamaForCausalLMEagle", "EagleLlamaForCausalLM", "EAGLEModel")
_EAGLE3 = ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator")
_SIXTEEN_BITS = tuple(
    (part, "bf16") for part in ("attention_qkv", "attention_output", "dense")
)  # as they are published
_FEATURES = 3  # hidden states of the model, from a low, a middle and a high layer, that EAGLE-3 joins


def draft_head(config: Mapping[str, Any], target: Architecture, name: str) -> DraftModule:
    """The head that ``config`` (the head's own ``config.json``) describes, drafting for ``target``.

    Raises :class:`InputError` where it does not fit the model and :class:`Unsupported` for other kinds of heads.
    """
    fields = Fields(config, name)
    kinds = [str(kind) for kind in fields.sequence("architectures")]
    kind = kinds[0] if kinds else "(none)"
    if kind not in _EAGLE + _EAGLE3:
        raise Unsupported(
            f"{name}: config key 'architectures' = {listed(kinds)} is not a draft head that is modelled",
            f"known: {', '.join(_EAGLE + _EAGLE3)}; heads that come with a model are read with it",
            field="architectures",
        )
    hidden = fields.size("hidden_size")
    if fields.size("target_hidden_size", hidden) != target.hidden:
        raise InputError(
            f"{name}: config key 'hidden_size' = {hidden} drafts for another model: {target.name} is "
            f"{target.hidden} wide",
            "give the head that was trained for this model",
            field="hidden_size",
        )
    attention = grouped_query(fields, kv_heads=fields.size("num_attention_heads"), head_dim=even_head_dim(fields))(0)
    count, ffn = fields.size("num_hidden_layers", 1), dense_layer(fields)
    if kind in _EAGLE:  # no norm before the layer nor before the head
        return DraftModule((LayerGroup(count, attention, ffn, 1, _SIXTEEN_BITS),), joining=2 * hidden * hidden + hidden)
    # Queries, keys and values are read off hidden state and embedding side by side, each with a norm; before them
    # the features of three of the model's layers are joined, behind them is a head of its own vocabulary.
    joining = hidden * (attention.heads * attention.head_dim + attention.kv_elements_per_token())
    head = fields.size("draft_vocab_size", target.vocabulary) * hidden + hidden
    own = _FEATURES * target.hidden * hidden + head
    return DraftModule((LayerGroup(count, attention, ffn, 3, _SIXTEEN_BITS),), joining, own)
