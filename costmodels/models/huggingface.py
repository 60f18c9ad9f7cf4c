"""From a Hugging Face ``config.json`` to an :class:`~costmodels.models.architecture.Architecture`.

Nothing is guessed: a key that changes the computation and that no reader (:mod:`costmodels.models.model_types`)
understood is refused by name, and so is a ``model_type`` that has no reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import costmodels.models.dense_models
import costmodels.models.expert_models
import costmodels.models.hybrid_models
import costmodels.models.model_types
import costmodels.models.sparse_models  # noqa: F401  (each registers its readers)
from costmodels.models.architecture import (
    Architecture,
    BlockSparseAttention,
    DraftModule,
    GroupedQueryAttention,
    LatentAttention,
    LayerGroup,
    MixtureOfExperts,
    ParallelMixers,
)
from costmodels.models.audio import audio_parameters
from costmodels.models.config_fields import Fields, respelled
from costmodels.models.mixers import CompressedAttention
from costmodels.models.model_names import unmodelled
from costmodels.models.module_names import parts_of
from costmodels.models.quantization import Storage, storage
from costmodels.models.reading import READERS, Decoder, Layers
from costmodels.models.vision import TOWERS, vision_tower
from profiles.errors import InputError, Unsupported, near
from profiles.values import listed, shown

# What checkpoints of a family may call it.
_ALIASES = {"deepseek_ref": "deepseek_v4"}
_SIXTEEN_BIT = ("bf16", "fp16", "fp32")


def parse_config(config: Mapping[str, Any], name: str) -> Architecture:
    """The architecture that ``config`` (a parsed ``config.json``) describes.

    Raises :class:`InputError` for missing or senseless values and :class:`Unsupported` for whatever is not
    modelled; both name the key and the value.
    """
    text, wrapper = _text_model(config, name)
    text["model_type"] = _ALIASES.get(str(text["model_type"]), text["model_type"])
    text = respelled(text)
    fields = Fields(text, name)
    reader = READERS.get(fields.model_type)
    if reader is None:
        if (have := unmodelled(model_type=str(fields.model_type))) is not None:
            raise Unsupported(
                f"{name}: config key 'model_type' = {shown(fields.model_type)} has {have}: not modelled",
                "choose another model; `plan models` lists those that are",
                model_type=fields.model_type,
            )
        known = {*READERS, *TOWERS}
        raise Unsupported(
            f"{name}: config key 'model_type' = {shown(fields.model_type)} has no reader",
            f"{near(str(fields.model_type), known)[1]}, of {len(known)} known ones; where its layers are one of theirs,"
            " write its name there",
            model_type=fields.model_type,
        )
    _check_head(fields)
    decoder = reader(fields)
    _check_unread(fields)
    stored = storage(text, name)
    vision = vision_tower(config, wrapper, name) if wrapper else None
    by_layer = [_precisions(stored, layer, *halves) for layer, halves in enumerate(decoder.layers)]
    main, prevailing = _prevailing(stored, decoder.layers, by_layer, fields.size("hidden_size"))
    return Architecture(
        name=name,
        model_type=fields.model_type,
        hidden=fields.size("hidden_size"),
        vocabulary=fields.size("vocab_size"),
        layer_groups=_groups(decoder, by_layer, prevailing),
        max_context_tokens=fields.max_context_tokens(),
        tied_embeddings=fields.flag("tie_word_embeddings"),
        weight_precision=main,
        excluded=("vision tower",) if wrapper and vision is None else (),
        exceptions=tuple((part, precision) for part, precision in prevailing.items() if precision != main),
        cache_scheme=stored.cache,
        weight_group=stored.group,
        moe_layers=tuple(i for i, (_, ffn) in enumerate(decoder.layers) if isinstance(ffn, MixtureOfExperts)),
        vision=vision,
        draft=_draft(decoder, fields.size("hidden_size")),
        per_layer=decoder.per_layer,
        audio_parameters=audio_parameters(config, wrapper, name) if wrapper else 0,
        small_parameters=decoder.small_parameters,
        position_table_elements=_position_tables(fields, decoder.layers),
        notes=decoder.notes + stored.notes + _unknown_keys(fields),
    )


def _position_tables(fields: Fields, layers: Layers) -> int:
    """Cosines and sines of every position, one table for each width of head (and for Gemma 3's sliding layers, whose
    angles differ): vLLM keeps them as weights in 16 bits, as long as the positions of the rotary embedding."""
    longest = fields.positions()
    rotated: dict[tuple[int, bool], int] = {}
    for mixer, _ in layers:
        attention = mixer.attention if isinstance(mixer, BlockSparseAttention | ParallelMixers) else mixer
        if isinstance(attention, GroupedQueryAttention):
            apart = fields.model_type == "gemma3_text" and attention.window_tokens > 0
            width = round(attention.head_dim * fields.rotary_share())
            rotated[width, apart] = fields.size("max_position_embeddings") if apart else longest
        elif isinstance(attention, LatentAttention):
            rotated[attention.qk_rope_head_dim, False] = longest
        elif isinstance(attention, CompressedAttention):
            rotated[attention.rope_dim, attention.ratio > 0] = longest
    return sum(width * positions for (width, _), positions in rotated.items())


def _check_unread(fields: Fields) -> None:
    unmodelled = fields.unmodelled()
    if unmodelled:
        raise Unsupported(
            f"{fields.model}: config.json uses what is not modelled: {', '.join(unmodelled)}",
            f"remove the key if a {fields.model_type} model does not use it; `plan models` lists models that are read",
            keys=unmodelled,
        )
    unread = fields.unread()
    if unread:
        raise Unsupported(
            f"{fields.model}: config.json sets {', '.join(unread)}, which a {fields.model_type} model is not known to "
            "use",
            "remove the key if the model does not use it",
            keys=unread,
        )


def _unknown_keys(fields: Fields) -> tuple[str, ...]:
    unknown = fields.unknown()
    if not unknown:
        return ()
    return (f"its config.json sets {', '.join(unknown)}, which nobody here knows: taken to change no shape",)


def _precisions(stored: Storage, layer: int, attention: Any, ffn: Any) -> dict[str, str]:
    """How the parts of one layer are stored. What is not quantized is 16 bits wide, in the model's own kind."""
    default = stored.default
    left_out = default if default in _SIXTEEN_BIT else "bf16"
    found = {}
    for part, names in parts_of(attention, ffn).items():
        precision = stored.rules.precision(layer, names) or default
        found[part] = left_out if precision == "bf16" else precision
    return found


def _prevailing(
    stored: Storage, layers: Layers, by_layer: Sequence[Mapping[str, str]], hidden: int
) -> tuple[str, dict[str, str]]:
    """(the precision of most weights, and of each part in most layers)."""
    weight: Counter[str] = Counter()
    votes: dict[str, Counter[str]] = {}
    for (attention, ffn), precisions in zip(layers, by_layer, strict=True):
        own = sum(part.startswith("attention") for part in precisions)
        for part, precision in precisions.items():
            votes.setdefault(part, Counter())[precision] += 1
            elements = attention.parameters(hidden) // own if part.startswith("attention") else ffn.parameters(hidden)
            if part == "shared_experts" and isinstance(ffn, MixtureOfExperts):
                elements = ffn.shared_parameters(hidden)
            weight[precision] += elements
    quantized = {precision: count for precision, count in weight.items() if precision not in _SIXTEEN_BIT}
    # a checkpoint is called by what was done to it, however much was left alone
    main = max(quantized or weight, key=weight.__getitem__, default=stored.default)
    return main, {part: count.most_common(1)[0][0] for part, count in votes.items()}


def _groups(
    decoder: Decoder, by_layer: Sequence[Mapping[str, str]], prevailing: Mapping[str, str]
) -> tuple[LayerGroup, ...]:
    norms = decoder.norms if isinstance(decoder.norms, Sequence) else [decoder.norms] * len(decoder.layers)
    exceptions = [
        tuple((part, precision) for part, precision in precisions.items() if precision != prevailing[part])
        for precisions in by_layer
    ]
    counts = Counter(zip(decoder.layers, norms, exceptions, strict=True))
    return tuple(
        LayerGroup(count, attention, ffn, own, others, decoder.residual)
        for ((attention, ffn), own, others), count in counts.items()
    )


def _draft(decoder: Decoder, hidden: int) -> DraftModule | None:
    """Multi-token prediction (arXiv:2412.19437 §2.2): a layer behind a projection of hidden state and embedding, each
    with a norm, and a norm before the head."""
    if not decoder.draft:
        return None
    norms = decoder.norms if isinstance(decoder.norms, int) else 2
    counts = Counter(decoder.draft)
    layers = tuple(LayerGroup(count, *halves, norms) for halves, count in counts.items())
    return DraftModule(layers, joining=2 * hidden * hidden + 3 * hidden)


_NESTED = ("text_config", "language_config", "llm_config")


def _text_model(config: Mapping[str, Any], name: str) -> tuple[dict[str, Any], str | None]:
    """The config of the text model (itself, unless a multimodal wrapper) and the wrapper's model type."""
    if "model_type" not in config:
        raise InputError(
            f"{name}: config key 'model_type' is missing",
            "give the config.json of a Hugging Face model",
            field="model_type",
        )
    wrapper = str(config["model_type"])
    nested = next((key for key in _NESTED if config.get(key) is not None), None)
    if wrapper not in TOWERS or (nested is None and "vision_config" not in config):
        return dict(config), None
    if nested is None:  # Qwen2-VL: the text model's keys are the config's own
        return {**config, "model_type": f"{wrapper}_text"}, wrapper
    if not isinstance(config[nested], Mapping):
        raise InputError(f"{name}: config key '{nested}' must be a mapping", "give the model's own config.json")
    inherited = ("tie_word_embeddings", "quantization_config", "torch_dtype", "dtype", "architectures")
    text = {key: config[key] for key in inherited if config.get(key) is not None}
    text["model_type"] = f"{wrapper}_text"
    text.update({key: value for key, value in config[nested].items() if value is not None})
    return text, wrapper


def _check_head(fields: Fields) -> None:
    named = [str(entry) for entry in fields.sequence("architectures")]
    if named and not any(entry.endswith(("ForCausalLM", "ForConditionalGeneration", "ChatModel")) for entry in named):
        raise Unsupported(
            f"{fields.model}: config key 'architectures' = {listed(named)} is not a model that generates text",
            "give a ...ForCausalLM model",
        )
