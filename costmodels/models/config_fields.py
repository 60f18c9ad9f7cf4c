"""Reading the keys of a Hugging Face ``config.json``, with errors that name key and value."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from profiles.errors import InputError
from profiles.shipped import shipped
from profiles.values import shown

# Keys whose presence means a computation of its own. Set, and not read by the model's reader, they are refused.
_COMPUTATIONS = (
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
    (r"cross_attention_\w+|add_cross_attention|use_cla", "cross-attention"),
    (r"is_encoder_decoder|encoder_layers|num_encoder_layers", "an encoder-decoder"),
    (r"compress_ratios|sparse_attention_config|dual_chunk_attention_config|moba_\w+", "sparse attention"),
    (r"\w+_softcapping", "soft-capped logits"),
    (r"num_kv_shared_layers|attention_k_eq_v", "keys and values that layers share"),
    (
        r"hidden_size_per_layer_input|altup_\w+|laurel_rank|hc_mult|block_configs|pruned_heads|attn_res_block_size",
        "altered layers",
    ),
    (r"zero_expert_num|use_bidirectional_attention|use_double_wide_mlp", "altered attention or routing"),
    (r"moe_latent_size|routed_expert_hidden_size", "experts in a latent space"),
)

# Keys that shape the layers: set, and not read by the model's reader, they are refused.
_SHAPING = frozenset(
    {
        *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_shared_experts"),
        *("moe_layers", "moe_layer_freq", "first_k_dense_replace", "mlp_only_layers", "mlp_layer_types"),
        *("interleave_moe_layer_step", "shared_expert_intermediate_size", "shared_intermediate_size"),
        *("layer_types", "attn_type_list", "sliding_window_pattern", "attention_chunk_size"),
        *("kv_lora_rank", "q_lora_rank", "v_head_dim", "global_head_dim", "num_global_key_value_heads"),
        *("attention_bias", "qkv_bias", "mlp_bias", "use_qk_norm", "attn_output_gate", "use_bias"),
        *("hybrid_layer_pattern", "share_expert_dim", "moe_shared_expert_intermediate_size", "num_shared_expert"),
    }
)

# What transformers' config classes fill in where a published config.json is silent.
_GEMMA = {"head_dim": 256, "vocab_size": 256_000, "max_position_embeddings": 8192, "tie_word_embeddings": True}
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "cohere": {"tie_word_embeddings": True},
    "opt": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "sliding_window_pattern": 4},
    "gemma": _GEMMA,
    "gemma2": _GEMMA | {"sliding_window": 4096},
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    },
    "gemma4_text": {"tie_word_embeddings": True, "global_head_dim": 512},
    "gemma3n_text": {"tie_word_embeddings": True},
    **{
        family: {"tie_word_embeddings": True}
        for family in (
            *("bloom", "falcon", "gpt2", "gpt_bigcode", "mpt", "minicpm", "phi3small"),
            *("lfm2", "lfm2_moe", "mamba"),
        )
    },
}


_INERT = Path(__file__).parent / "config_keys.yaml"
_SPELLINGS = Path(__file__).parent / "config_spellings.yaml"


@cache
def _inert() -> re.Pattern[str]:
    """Every key that is known to change no cost."""

    def every(document: Mapping[str, Any]) -> re.Pattern[str]:
        groups = [patterns for name, patterns in document.items() if name != "source"]
        return re.compile("|".join(f"(?:{pattern})" for patterns in groups for pattern in patterns))

    return shipped(_INERT, every)


def respelled(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the keys of families that have names of their own for them under the common ones."""
    ours = shipped(_SPELLINGS, lambda document: dict(document)).get(str(config.get("model_type")), {})
    return {key: value for key, value in config.items() if key not in ours} | {
        ours[key]: value for key, value in config.items() if key in ours and config.get(ours[key]) is None
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
        if not isinstance(original, int) or not isinstance(factor, int | float) or not _stretches(original, factor):
            must = "YaRN with a positive factor and original_max_position_embeddings"
            raise self._wrong("rope_scaling", dict(rope), must)
        return max(longest, round(original * factor))

    def positions(self) -> int:
        """Rows of the table of rotary positions: linear and dynamic scaling lengthen it, as YaRN does."""
        longest = self.max_context_tokens()
        rope = self._config.get("rope_scaling") or self._config.get("rope_parameters") or {}
        kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, Mapping) else None
        factor = rope.get("factor") if kind in ("linear", "dynamic") else None
        return round(longest * factor) if isinstance(factor, int | float) and 0 < factor < 1e6 else longest

    def rotary_share(self) -> float:
        """Of a head's width that is rotated."""
        share = self._config.get("partial_rotary_factor")
        return float(share) if isinstance(share, int | float) and 0 < share <= 1 else 1.0

    def section(self, key: str) -> Fields:
        """The mapping under ``key`` (empty where it is absent), read with the same care."""
        value = self._get(key, {})
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "a mapping")
        return Fields({"model_type": self.model_type, **value}, self.model)

    def sections(self, key: str) -> list[Fields]:
        """The mappings of the list under ``key``."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
            raise self._wrong(key, value, "a list of mappings")
        return [Fields({"model_type": self.model_type, **entry}, self.model) for entry in value]

    def factor(self, key: str) -> float:
        """A positive number."""
        value = self._get(key, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def per_layer(self, key: str, count: int) -> list[int]:
        """One whole number a layer: a list of ``count``, or one number for all."""
        value = self._get(key, None)
        values = [value] * count if isinstance(value, int) else value
        if not isinstance(values, list) or not all(type(entry) is int and entry >= 0 for entry in values):
            raise self._wrong(key, value, "whole numbers, one a layer")
        if len(values) != count:
            raise self._wrong(key, value, f"{count} numbers, one a layer (it lists {len(values)} layers)")
        return values

    def has(self, key: str) -> bool:
        """Whether ``key`` says something (``null``, 0, false and what is empty do not)."""
        return bool(self._config.get(key))

    def inert(self, *patterns: str) -> None:
        """Keys (regular expressions) that change no cost of this family count as read."""
        self.read.update(key for key in self._config for pattern in patterns if re.fullmatch(pattern, key))

    def unread(self) -> list[str]:
        """Shaping keys that are set and that no one read."""
        return sorted(key for key in _SHAPING - self.read if self._config.get(key))

    def unmodelled(self) -> list[str]:
        """``what it means (its keys)`` for every computation that is asked for and that no one read."""
        found: dict[str, list[str]] = {}
        for key, value in sorted(self._config.items()):
            meaning = next((meaning for pattern, meaning in _COMPUTATIONS if re.fullmatch(pattern, key)), None)
            if value and meaning is not None and key not in self.read:
                found.setdefault(meaning, []).append(key)
        return [f"{meaning} ({', '.join(keys)})" for meaning, keys in found.items()]

    def unknown(self) -> list[str]:
        """Keys that are set, that no one read and that nobody here knows."""
        switched_on = (key for key, value in self._config.items() if value not in (None, False, 0, "", [], {}))
        return sorted(key for key in switched_on if key not in self.read and not _inert().fullmatch(key))


def _stretches(original: int, factor: float) -> bool:
    return 0 < original < 1e9 and 0 < factor < 1e6
