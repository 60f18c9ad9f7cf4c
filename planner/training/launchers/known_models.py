"""What Megatron-LM must be told of a model beside its sizes: rotary base, epsilon, tokenizer and vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from profiles.shipped import shipped

NORM_EPSILON = 1e-5
"""What Megatron-LM takes unasked (--norm-epsilon)."""


class _Known(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    names: str
    rotary_base: int
    norm_epsilon: float
    flags: tuple[str, ...] = ()


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    models: tuple[_Known, ...]


@cache
def _table() -> _Table:
    return shipped(Path(__file__).parent / "known_models.yaml", _Table.model_validate)


def position_flags(name: str, config: Mapping[str, Any] | None) -> list[object] | None:
    """Flags of rotary embeddings, norms and routers, as the checkpoint has them; None: nothing known says them.
    ``config``: of a model that was given by its config.json."""
    known = next((each for each in _table().models if re.fullmatch(each.names, name)), None)
    if config is not None:
        text = config.get("text_config")
        config = {**config, **text} if isinstance(text, Mapping) else config
        scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
        kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, Mapping) else "?"
        base = config.get("rope_theta", scaling.get("rope_theta") if isinstance(scaling, Mapping) else None)
        if not isinstance(base, int | float) or kind not in ("default", "llama3"):
            return None
        known = _Known(
            names="",
            rotary_base=int(base),
            norm_epsilon=float(config.get("rms_norm_eps") or NORM_EPSILON),
            flags=() if kind == "default" else ("--use-rope-scaling", "--rope-scaling-factor", str(scaling["factor"])),
        )
    if known is None:
        return None
    out: list[object] = ["--rotary-base", known.rotary_base]
    out += ["--norm-epsilon", f"{known.norm_epsilon:g}"] if known.norm_epsilon != NORM_EPSILON else []
    return [*out, *known.flags]


def vocabulary_flags(name: str, vocabulary: int, multiple: int) -> list[object]:
    """Flags of the tokenizer, and of the rows that the embedding has: the plan's, whatever the tokenizer counts.
    ``multiple``: to which they are padded; a name of no checkpoint has no tokenizer."""
    padded = -(-vocabulary // multiple) * multiple
    own = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None
    said = ["HuggingFaceTokenizer", "--tokenizer-model", name] if own else ["NullTokenizer"]
    return ["--tokenizer-type", *said, "--vocab-size", vocabulary, "--padded-vocab-size", padded]
