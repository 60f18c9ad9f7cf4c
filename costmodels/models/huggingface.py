"""From a Hugging Face ``config.json`` to an :class:`~costmodels.models.architecture.Architecture`.

Nothing is guessed: a key that changes the computation and that no reader (:mod:`costmodels.models.model_types`)
understood is refused by name, and so is a ``model_type`` that has no reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from costmodels.models.architecture import Architecture, LayerGroup, MixtureOfExperts
from costmodels.models.config_fields import Fields
from costmodels.models.model_types import READERS
from costmodels.models.quantization import unquantized_parts, weight_precision
from profiles.errors import InputError, Unsupported
from profiles.values import shown

# Multimodal wrappers: their text model is planned for, the rest is named in ``excluded``.
_WRAPPERS = {
    "gemma3": "vision tower",
    "kimi_k25": "vision tower",
    "llama4": "vision tower",
    "mistral3": "vision tower",
    "qwen3_5": "vision tower",
    "qwen3_5_moe": "vision tower",
    "qwen3_vl": "vision tower",
    "qwen3_vl_moe": "vision tower",
}


def parse_config(config: Mapping[str, Any], name: str) -> Architecture:
    """The architecture that ``config`` (a parsed ``config.json``) describes.

    Raises :class:`InputError` for missing or senseless values and :class:`Unsupported` for whatever is not
    modelled; both name the key and the value.
    """
    text, excluded = _text_model(config, name)
    fields = Fields(text, name)
    wrapped = config.get("text_config")
    unmodelled = fields.unmodelled()
    if isinstance(wrapped, Mapping):
        unmodelled = unmodelled or Fields(wrapped, name).unmodelled()
    if unmodelled:
        raise Unsupported(
            f"{name}: config.json uses what is not modelled: {', '.join(unmodelled)}",
            "choose a model whose attention is modelled; `plan models` lists some",
            keys=unmodelled,
        )
    reader = READERS.get(fields.model_type)
    if reader is None:
        raise Unsupported(
            f"{name}: config key 'model_type' = {shown(fields.model_type)} has no reader",
            f"known model types: {', '.join(sorted({*READERS, *_WRAPPERS}))}",
            model_type=fields.model_type,
        )
    _check_head(fields)
    decoder = reader(fields)
    mtp_layers = fields.number("num_nextn_predict_layers")
    if mtp_layers:
        excluded += (f"multi-token-prediction layers ({mtp_layers})",)
    unread = fields.unread()
    if unread:
        raise Unsupported(
            f"{name}: config.json sets {', '.join(unread)}, which a {fields.model_type} model is not known to use",
            "remove the key if the model does not use it",
            keys=unread,
        )
    counts = Counter(decoder.layers)
    return Architecture(
        name=name,
        model_type=fields.model_type,
        hidden=fields.size("hidden_size"),
        vocabulary=fields.size("vocab_size"),
        layer_groups=tuple(
            LayerGroup(count, attention, feed_forward, decoder.norms)
            for (attention, feed_forward), count in counts.items()
        ),
        max_context_tokens=fields.max_context_tokens(),
        tied_embeddings=fields.flag("tie_word_embeddings"),
        weight_precision=weight_precision(text, name),
        excluded=excluded + decoder.excluded,
        unquantized=unquantized_parts(text, decoder.layers, name),
        moe_layers=tuple(i for i, (_, ffn) in enumerate(decoder.layers) if isinstance(ffn, MixtureOfExperts)),
    )


def _text_model(config: Mapping[str, Any], name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of the text model (itself, unless a multimodal wrapper) and what the wrapper adds."""
    wrapper = str(config.get("model_type"))
    if "model_type" not in config:
        raise InputError(
            f"{name}: config key 'model_type' is missing",
            "give the config.json of a Hugging Face model",
            field="model_type",
        )
    if wrapper not in _WRAPPERS or "text_config" not in config:
        return dict(config), ()
    if not isinstance(config["text_config"], Mapping):
        raise InputError(f"{name}: config key 'text_config' must be a mapping", "give the model's own config.json")
    inherited = ("tie_word_embeddings", "quantization_config", "torch_dtype", "dtype", "architectures")
    text = {key: config[key] for key in inherited if config.get(key) is not None}
    text["model_type"] = f"{wrapper}_text"
    text.update({key: value for key, value in config["text_config"].items() if value is not None})
    return text, (_WRAPPERS[wrapper],)


def _check_head(fields: Fields) -> None:
    named = [str(entry) for entry in fields.sequence("architectures")]
    if named and not any(entry.endswith(("ForCausalLM", "ForConditionalGeneration")) for entry in named):
        listed = shown(", ".join(named))
        raise Unsupported(
            f"{fields.model}: config key 'architectures' = {listed} is not a model that generates text",
            "give a ...ForCausalLM model",
        )
