"""The image encoders beside a language model: their parameters, from ``vision_config``.

One small reader per multimodal ``model_type``, each after transformers' modelling code of that name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from costmodels.models.config_fields import Fields
from costmodels.models.vision_tower import VisionTower

Reader = Callable[[Fields, Fields], VisionTower]
"""From the keys of ``vision_config`` and of the text model's config."""

TOWERS: dict[str, Reader] = {}

# Published checkpoints of these families have one and the same tower; a restated config.json may leave it out.
_WHERE_SILENT: dict[str, dict[str, Any]] = {
    "gemma3": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 896,
    },
    "llama4": {
        "hidden_size": 1408,
        "intermediate_size": 5632,
        "num_hidden_layers": 34,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 336,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "vision_output_dim": 4096,
    },
}


def vision_tower(config: Mapping[str, Any], wrapper: str, model: str) -> VisionTower | None:
    """The tower of a config whose ``model_type`` is ``wrapper``; None where the config does not describe it.

    Raises InputError for missing or senseless values.
    """
    described = config.get("vision_config") or _WHERE_SILENT.get(wrapper)
    if not isinstance(described, Mapping):
        return None
    reader = TOWERS[wrapper]
    nested = next((key for key in ("text_config", "language_config", "llm_config") if config.get(key)), "text_config")
    text = Fields({"hidden_size": described.get("out_hidden_size"), **dict(config.get(nested) or {})}, model)
    joined = config.get("vision_feature_layer")
    layers = len(joined) if isinstance(joined, list) and joined else 1
    vision = {**described, "model_type": f"{wrapper} vision_config", "joined_layers": layers}
    return dataclasses.replace(reader(Fields(vision, model), text), family=wrapper)


def _tower(*wrappers: str) -> Callable[[Reader], Reader]:
    def register(reader: Reader) -> Reader:
        TOWERS.update(dict.fromkeys(wrappers, reader))
        return reader

    return register


def _linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _block(hidden: int, intermediate: int, *, gated: bool = False, bias: bool = True, norms: int = 4) -> int:
    """Attention and feed-forward; ``norms`` vectors of ``hidden`` (a LayerNorm has two)."""
    up = (2 if gated else 1) * _linear(hidden, intermediate, bias)
    return 4 * _linear(hidden, hidden, bias) + up + _linear(intermediate, hidden, bias) + norms * hidden


@_tower("qwen2_vl")
def _qwen2_vl(vision: Fields, text: Fields) -> VisionTower:
    depth, hidden, out = vision.size("depth", 32), vision.size("embed_dim", 1280), vision.size("hidden_size")
    patch, merge = vision.size("patch_size", 14), vision.size("spatial_merge_size", 2)
    wide = vision.size("mlp_ratio", 4) * hidden
    joined = merge * merge * hidden
    total = 3 * vision.size("temporal_patch_size", 2) * patch * patch * hidden
    total += depth * _block(hidden, wide) + 2 * hidden + _linear(joined, joined) + _linear(joined, out)
    return VisionTower(total, depth, hidden, vision.size("num_heads", 16), wide, patch, merge)


@_tower("qwen2_5_vl")
def _qwen2_5_vl(vision: Fields, text: Fields) -> VisionTower:
    depth, hidden = vision.size("depth", 32), vision.size("hidden_size", 1280)
    patch, merge = vision.size("patch_size", 14), vision.size("spatial_merge_size", 2)
    wide, out = vision.size("intermediate_size", 3420), vision.size("out_hidden_size")
    joined = merge * merge * hidden
    total = 3 * vision.size("temporal_patch_size", 2) * patch * patch * hidden + hidden
    total += depth * _block(hidden, wide, gated=True, norms=2) + _linear(joined, joined) + _linear(joined, out)
    whole = vision.sequence("fullatt_block_indexes") or (7, 15, 23, 31)  # all but these attend within windows
    side = vision.size("window_size", 112) // patch
    tower = VisionTower(total, depth, hidden, vision.size("num_heads", 16), wide, patch, merge, gated=True)
    return dataclasses.replace(tower, windowed=depth - len(whole), window_patches=side * side)


@_tower("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
def _qwen3_vl(vision: Fields, text: Fields) -> VisionTower:
    depth, hidden, wide = vision.size("depth"), vision.size("hidden_size"), vision.size("intermediate_size")
    patch, merge, out = vision.size("patch_size"), vision.size("spatial_merge_size", 2), vision.size("out_hidden_size")
    joined = merge * merge * hidden
    total = _linear(3 * vision.size("temporal_patch_size", 2) * patch * patch, hidden)
    total += vision.size("num_position_embeddings") * hidden + depth * _block(hidden, wide)
    merger = _linear(joined, joined) + _linear(joined, out)
    total += 2 * hidden + merger
    total += len(vision.sequence("deepstack_visual_indexes")) * (2 * joined + merger)  # features of layers between
    return VisionTower(total, depth, hidden, vision.size("num_heads"), wide, patch, merge)


def _siglip(vision: Fields) -> tuple[int, int, int, int, int, int]:
    """(parameters, layers, hidden, heads, intermediate, patch) of a SigLIP encoder."""
    depth, hidden, wide = vision.size("num_hidden_layers"), vision.size("hidden_size"), vision.size("intermediate_size")
    patch, image = vision.size("patch_size"), vision.size("image_size")
    total = _linear(3 * patch * patch, hidden) + (image // patch) ** 2 * hidden
    total += depth * _block(hidden, wide) + 2 * hidden
    return total, depth, hidden, vision.size("num_attention_heads"), wide, patch


@_tower("gemma3")
def _gemma3(vision: Fields, text: Fields) -> VisionTower:
    """Each image becomes 256 tokens: 64 × 64 patches, pooled 4 × 4."""
    total, depth, hidden, heads, wide, patch = _siglip(vision)
    total += hidden * text.size("hidden_size") + hidden
    return VisionTower(total, depth, hidden, heads, wide, patch, 4)


@_tower("llava_next")
def _llava_next(vision: Fields, text: Fields) -> VisionTower:
    """SigLIP with its pooling head, which nothing uses, and a projector from one of its layers, or from the several
    that ``vision_feature_layer`` lists (Granite Vision)."""
    total, depth, hidden, heads, wide, patch = _siglip(vision)
    if vision.flag("vision_use_head", True):
        total += _block(hidden, wide, norms=2) + hidden
    out = text.size("hidden_size")
    total += _linear(vision.size("joined_layers", 1) * hidden, out) + _linear(out, out) + out  # and the token of a row
    return VisionTower(total, depth, hidden, heads, wide, patch)


@_tower("gemma4")
def _gemma4(vision: Fields, text: Fields) -> VisionTower:
    depth, hidden, wide = vision.size("num_hidden_layers"), vision.size("hidden_size"), vision.size("intermediate_size")
    patch = vision.size("patch_size")
    total = 3 * patch * patch * hidden + 2 * vision.size("position_embedding_size") * hidden
    norms = 2 * vision.size("head_dim")  # of queries and keys
    total += depth * (_block(hidden, wide, gated=True, bias=False) + norms)
    total += (2 * hidden if vision.flag("standardize") else 0) + hidden * text.size("hidden_size")
    heads, pooled = vision.size("num_attention_heads"), vision.size("pooling_kernel_size", 3)
    return VisionTower(total, depth, hidden, heads, wide, patch, pooled, gated=True)


@_tower("llama4")
def _llama4(vision: Fields, text: Fields) -> VisionTower:
    depth, hidden, wide = vision.size("num_hidden_layers"), vision.size("hidden_size"), vision.size("intermediate_size")
    patch, image = vision.size("patch_size"), vision.size("image_size")
    inner, out = vision.size("projector_input_dim"), vision.size("projector_output_dim")
    total = 3 * patch * patch * hidden + hidden + ((image // patch) ** 2 + 1) * hidden + 4 * hidden
    total += depth * _block(hidden, wide) + wide * inner + inner * out
    total += vision.size("vision_output_dim") * text.size("hidden_size")
    return VisionTower(total, depth, hidden, vision.size("num_attention_heads"), wide, patch, 2)


@_tower("internvl_chat")
def _internvl(vision: Fields, text: Fields) -> VisionTower:
    """InternViT, and a projector from four joined patches (arXiv:2404.16821 §3)."""
    depth, hidden, wide = vision.size("num_hidden_layers"), vision.size("hidden_size"), vision.size("intermediate_size")
    patch, image, out, merge = vision.size("patch_size"), vision.size("image_size"), text.size("hidden_size"), 2
    norms = 4 if vision.text("norm_type", "layer_norm") == "layer_norm" else 2
    block = _block(hidden, wide, norms=norms + 2)  # and a scale behind each half
    block -= 0 if vision.flag("qkv_bias", True) else 3 * hidden
    block += 2 * hidden if vision.flag("qk_normalization") else 0
    total = _linear(3 * patch * patch, hidden) + ((image // patch) ** 2 + 2) * hidden + depth * block
    joined = merge * merge * hidden
    total += 2 * joined + _linear(joined, out) + _linear(out, out)
    return VisionTower(total, depth, hidden, vision.size("num_attention_heads"), wide, patch, merge)


@_tower("mistral3")
def _mistral3(vision: Fields, text: Fields) -> VisionTower:
    """Pixtral's encoder (arXiv:2410.07073 §2.2), and four patches joined."""
    depth, hidden, wide = vision.size("num_hidden_layers"), vision.size("hidden_size"), vision.size("intermediate_size")
    patch, out, merge = vision.size("patch_size"), text.size("hidden_size"), 2
    total = 3 * patch * patch * hidden + hidden + depth * _block(hidden, wide, gated=True, bias=False, norms=2)
    total += hidden + merge * merge * hidden * hidden + hidden * out + out * out
    return VisionTower(total, depth, hidden, vision.size("num_attention_heads"), wide, patch, merge, gated=True)


@_tower("kimi_vl")
def _kimi_vl(vision: Fields, text: Fields) -> VisionTower:
    """MoonViT (arXiv:2504.07491 §2.1)."""
    depth, hidden, wide = vision.size("num_hidden_layers"), vision.size("hidden_size"), vision.size("intermediate_size")
    heads = vision.size("num_attention_heads")
    return _moonvit(vision, depth, hidden, heads, wide, text.size("hidden_size"))


@_tower("kimi_k25")
def _kimi_k25(vision: Fields, text: Fields) -> VisionTower:
    depth, hidden = vision.size("vt_num_hidden_layers"), vision.size("vt_hidden_size")
    heads, wide = vision.size("vt_num_attention_heads"), vision.size("vt_intermediate_size")
    return _moonvit(vision, depth, hidden, heads, wide, vision.size("text_hidden_size"))


def _moonvit(vision: Fields, depth: int, hidden: int, heads: int, wide: int, out: int) -> VisionTower:
    patch, merge = vision.size("patch_size"), 2
    positions = vision.size("init_pos_emb_height", 64) * vision.size("init_pos_emb_width", 64)
    joined = merge * merge * hidden
    total = _linear(3 * patch * patch, hidden) + positions * hidden + depth * _block(hidden, wide) + 2 * hidden
    total += 2 * hidden + _linear(joined, joined) + _linear(joined, out)
    return VisionTower(total, depth, hidden, heads, wide, patch, merge)


@_tower("kimi_k3")
def _kimi_k3(vision: Fields, text: Fields) -> VisionTower:
    """MoonViT without biases, with RMSNorm and attention wider than its stream."""
    depth, hidden = vision.size("vt_num_hidden_layers"), vision.size("vt_hidden_size")
    wide, attention = vision.size("vt_intermediate_size"), vision.size("qkv_hidden_size")
    patch, merge = vision.size("patch_size"), 2
    positions = vision.size("init_pos_emb_height") * vision.size("init_pos_emb_width")
    joined, out = merge * merge * hidden, vision.size("text_hidden_size")
    total = 3 * patch * patch * hidden + positions * hidden + hidden
    total += depth * (4 * hidden * attention + 2 * hidden * wide + 2 * hidden)
    total += hidden + joined * joined + joined * out
    heads = vision.size("vt_num_attention_heads")
    return VisionTower(total, depth, hidden, heads, wide, patch, merge, attention=attention)


@_tower("minimax_m3_vl")
def _minimax_m3(vision: Fields, text: Fields) -> VisionTower:
    """Patches are projected each, then joined and projected again."""
    depth, hidden, wide = vision.size("num_hidden_layers"), vision.size("hidden_size"), vision.size("intermediate_size")
    patch, merge, out = vision.size("patch_size"), 2, text.size("hidden_size")
    total = 3 * vision.size("temporal_patch_size", 2) * patch * patch * hidden + 2 * hidden
    total += depth * _block(hidden, wide)
    total += _linear(hidden, out) + _linear(out, out) + _linear(merge * merge * out, out) + _linear(out, out)
    return VisionTower(total, depth, hidden, vision.size("num_attention_heads"), wide, patch, merge)


@_tower("glm4v_moe")
def _glm4v_moe(vision: Fields, text: Fields) -> VisionTower:
    depth, hidden, out = vision.size("depth"), vision.size("hidden_size"), vision.size("out_hidden_size")
    patch, merge = vision.size("patch_size"), vision.size("spatial_merge_size", 2)
    context = vision.size("intermediate_size")
    total = _linear(3 * vision.size("temporal_patch_size", 2) * patch * patch, hidden)
    total += (vision.size("image_size", 336) // patch) ** 2 * hidden + 2 * hidden  # positions, norms
    total += depth * _block(hidden, out, gated=True, bias=False, norms=2)
    total += _linear(merge * merge * hidden, out) + out * out + 2 * out + 3 * out * context
    return VisionTower(total, depth, hidden, vision.size("num_heads"), out, patch, merge, gated=True)
