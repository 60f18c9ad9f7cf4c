"""The audio encoders beside a language model: their parameters, from ``audio_config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodels.models.config_fields import Fields
from profiles.errors import InputError

_NEXT_TO_TEXT = ("text_config", "language_config", "llm_config")


def audio_parameters(config: Mapping[str, Any], wrapper: str, model: str) -> int:
    """Weights of the encoder of a config whose ``model_type`` is ``wrapper``; 0 where it has none that is read.

    Raises InputError for senseless values.
    """
    described = config.get("audio_config")
    if wrapper != "gemma4" or not described:
        return 0
    if not isinstance(described, Mapping):
        raise InputError(f"{model}: config key 'audio_config' must be a mapping", "give the model's own config.json")
    text: Mapping[str, Any] = next((config[key] for key in _NEXT_TO_TEXT if isinstance(config.get(key), Mapping)), {})
    audio = Fields({**described, "model_type": f"{wrapper} audio_config"}, model)
    return _conformer(audio, Fields(dict(text), model).size("hidden_size"))


def _conformer(audio: Fields, out: int) -> int:
    """Gemma 4's: two strided convolutions, then layers of two feed-forwards around attention and a light convolution
    (transformers, ``modeling_gemma4.Gemma4AudioModel``, whose defaults these are)."""
    hidden, layers = audio.size("hidden_size", 1024), audio.size("num_hidden_layers", 12)
    heads, kernel = audio.size("num_attention_heads", 8), audio.size("conv_kernel_size", 5)
    first, second = _channels(audio)
    projected = audio.size("output_proj_dims", 1536)
    # 128 mel bins are halved twice; each convolution is 3 x 3, with a norm of its channels
    frames = 9 * first + first + 9 * first * second + second + (first // 4) * second * hidden
    feed_forward = 2 * hidden * 4 * hidden + 2 * hidden
    attention = 5 * hidden * hidden + hidden // heads
    convolution = 3 * hidden * hidden + kernel * hidden + 2 * hidden
    layer = 2 * feed_forward + attention + convolution + 3 * hidden
    return frames + layers * layer + (hidden + 1) * projected + projected * out


def _channels(audio: Fields) -> tuple[int, int]:
    if not audio.has("subsampling_conv_channels"):
        return 128, 32
    first, second = audio.per_layer("subsampling_conv_channels", 2)
    return first, second
