"""Reading the keys of a Hugging Face ``config.json``, with errors that name key and value."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from profiles.errors import InputError
from profiles.values import shown

# Keys whose presence means a computation that is not modelled, whatever the model_type (but see _MODELLED).
_NOT_MODELLED = (
    (r"indexer_types|index_topk_\w+|index_skip_\w+|index_share_\w+", "an index that layers share"),
    (r"index_(topk|n_heads|head_dim)|indexer_\w+", "DeepSeek sparse attention"),
    (
        r"mamba_(?!ssm_dtype)\w+|ssm_\w+|time_step_\w+|conv_kernel|hybrid_override_pattern|layers_block_type",
        "Mamba layers",
    ),
    (
        r"linear_(num|key|value|conv|attn)\w*|full_attention_interval|lightning_\w+|mamba_ssm_dtype",
        "linear attention",
    ),
    (r"cross_attention_\w+|add_cross_attention", "cross-attention"),
    (r"is_encoder_decoder|encoder_layers|num_encoder_layers", "an encoder-decoder"),
    (r"compress_ratios|sparse_attention_config|dual_chunk_attention_config|moba_\w+", "sparse attention"),
    (r"\w+_softcapping", "soft-capped logits"),
    (r"num_kv_shared_layers|attention_k_eq_v", "keys and values that layers share"),
    (
        r"hidden_size_per_layer_input|altup_\w+|laurel_rank|hc_mult|block_configs|pruned_heads",
        "altered layers",
    ),
    (r"zero_expert_num|use_bidirectional_attention", "altered attention or routing"),
)

# What the readers of these model types do model.
_MODELLED = {
    "linear attention": frozenset({"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"}),
    "DeepSeek sparse attention": frozenset({"deepseek_v32", "glm_moe_dsa"}),
}

# Keys that shape the layers: set, and not read by the model's reader, they are refused.
_SHAPING = frozenset(
    {
        *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_shared_experts"),
        *("moe_layers", "moe_layer_freq", "first_k_dense_replace", "mlp_only_layers", "mlp_layer_types"),
        *("interleave_moe_layer_step", "shared_expert_intermediate_size", "shared_intermediate_size"),
        *("layer_types", "attn_type_list", "sliding_window_pattern", "attention_chunk_size"),
        *("kv_lora_rank", "q_lora_rank", "v_head_dim", "global_head_dim", "num_global_key_value_heads"),
        *("attention_bias", "qkv_bias", "mlp_bias", "use_qk_norm", "attn_output_gate"),
    }
)

# What transformers fills in where a published config.json is silent (Gemma3TextConfig).
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    }
}


LARGEST_SIZE = 10**9  # of anything in a config: products of three still fit a float, of two an int64

MOST_LAYERS = 10_000  # far above any model; a slip of the finger must not fill the memory


class Fields:
    """The keys of one config, read with their errors; knows which were read. ``null`` counts as absent."""

    def __init__(self, config: Mapping[str, Any], model: str) -> None:
        self.model = model
        self.model_type = str(config.get("model_type"))
        self._config = {**_CLASS_DEFAULTS.get(self.model_type, {}), **config}
        self.read: set[str] = set()

    def _get(self, key: str, default: Any) -> Any:
        self.read.add(key)
        value = self._config.get(key)
        if value is not None:
            return value
        if default is None:
            raise InputError(
                f"{self.model}: config key {key!r} is missing",
                f"a {self.model_type} config.json must say {key}",
                field=key,
            )
        return default

    def _wrong(self, key: str, value: object, must: str) -> InputError:
        return InputError(
            f"{self.model}: config key {key!r} = {shown(value)}: must be {must}",
            f"correct {key} in the config.json",
            field=key,
        )

    def _integer(self, key: str, default: int | None, least: int) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._wrong(key, value, "a positive integer" if least else "a whole number, zero or more")
        return self.at_most(key, value, LARGEST_SIZE, "sizes")

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer; required unless there is a default."""
        return self._integer(key, default, 1)

    def number(self, key: str, default: int = 0) -> int:
        """A whole number that may be zero (a part that may be absent)."""
        return self._integer(key, default, 0)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def choice(self, key: str, default: str, known: Collection[str]) -> str:
        value = self.text(key, default)
        if value not in known:
            raise self._wrong(key, value, f"one of {', '.join(known)}")
        return value

    def sequence(self, key: str) -> list[int | str]:
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, int | str) for entry in value):
            raise self._wrong(key, value, "a list of numbers or names")
        return value

    def text(self, key: str, default: str) -> str:
        return str(self._get(key, default))

    def layers(self) -> int:
        return self.at_most("num_hidden_layers", self.size("num_hidden_layers"), MOST_LAYERS, "layers")

    def at_most(self, key: str, value: int, most: int, meaning: str) -> int:
        if value > most:
            raise self._wrong(key, value, f"at most {most} ({meaning})")
        return value

    def max_context_tokens(self) -> int:
        """YaRN (arXiv:2309.00071) stretches the original context by ``factor``; every other kind of RoPE
        scaling is in ``max_position_embeddings`` already."""
        longest = self.size("max_position_embeddings")
        rope = self._config.get("rope_scaling") or self._config.get("rope_parameters") or {}
        if not isinstance(rope, Mapping) or "yarn" not in (rope.get("rope_type"), rope.get("type")):
            return longest
        original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
        if not isinstance(original, int) or not isinstance(factor, int | float) or not 0 < factor < 1e6:
            must = "YaRN with a positive factor and original_max_position_embeddings"
            raise self._wrong("rope_scaling", dict(rope), must)
        return max(longest, round(original * factor))

    def unread(self) -> list[str]:
        """Shaping keys that are set and that no one read."""
        return sorted(key for key in _SHAPING - self.read if self._config.get(key))

    def unmodelled(self) -> list[str]:
        """``what it means (its keys)`` for all that is set and that we do not model."""
        found: dict[str, list[str]] = {}
        for key, value in sorted(self._config.items()):
            meaning = next((meaning for pattern, meaning in _NOT_MODELLED if re.fullmatch(pattern, key)), None)
            if value and meaning is not None and self.model_type not in _MODELLED.get(meaning, ()):
                found.setdefault(meaning, []).append(key)
        return [f"{meaning} ({', '.join(keys)})" for meaning, keys in found.items()]
