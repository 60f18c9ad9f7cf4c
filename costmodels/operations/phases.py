"""Kernels that come in two: over the new tokens of prompts (prefill), and over one new token a sequence (decode)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.operations.kernel import Kernel
from costmodels.operations.roofline import Columns, Hardware, Work, floats, visible_pairs
from costmodels.operations.shape_features import Features, log, logs, waves

Works = tuple[Callable[[Columns], Work], Callable[[Columns], Work]]
Kernels = tuple[Kernel, Kernel]

_SCANNED = 64
"""Tokens of a prompt that a scan over a state takes at once; its chunks run one after the other."""


def best_of_cache(work: Callable[[Columns, Floats, Floats, Floats, Floats], Work], most: int) -> Works:
    """Of attention that sees the best ``most`` tokens before a query.

    Args:
        work: of (question, new tokens, keys in the cache of all sequences, pairs of them, pairs attended to).
    """

    def of_prompts(q: Columns) -> Work:
        batch, query, prefix = floats(q, "batch", "query_tokens", "prefix_tokens")
        pairs, seen = (visible_pairs(query, prefix, np.full_like(query, limit)) for limit in (0.0, most))
        return work(q, batch * query, batch * (prefix + query), batch * pairs, batch * seen)

    def of_sequences(q: Columns) -> Work:
        batch, context = floats(q, "batch", "context_tokens")
        return work(q, batch, batch * context, batch * context, batch * np.minimum(context, most))

    return of_prompts, of_sequences


def best_of_cache_features(most: int) -> Callable[[Columns, Floats, Floats], Features]:
    """Of the same, for :func:`over_cache`."""

    def features(q: Columns, tokens: Floats, keys: Floats) -> Features:
        return {
            **logs(q, "batch", "heads", "hidden", *(["index_heads"] if "index_heads" in q else [])),
            "kv_dtype": q["kv_dtype"].astype(np.float64),
            "tokens": np.log2(tokens),
            "keys": np.log2(keys),
            "beyond": log(np.maximum(keys / most, 1.0)),
            "scored": np.log2(tokens * keys),
        }

    return features


def over_cache(
    name: str,
    works: Works,
    features: Callable[[Columns, Floats, Floats], Features],
    *,
    group: tuple[str, ...],
    alike: tuple[str, ...],
    figures_of: str = "",
) -> Kernels:
    """(prefill, decode) of attention that is measured as a module over a cache of tokens.

    Args:
        features: of (question, new tokens of all sequences, keys of one sequence).
        figures_of: without its ending: see :class:`Kernel`.
    """

    def of_prompts(q: Columns, hw: Hardware, gpu: Ints) -> Features:
        batch, query, prefix = floats(q, "batch", "query_tokens", "prefix_tokens")
        return {**logs(q, "query_tokens", "prefix_tokens"), **features(q, batch * query, prefix + query)}

    def of_sequences(q: Columns, hw: Hardware, gpu: Ints) -> Features:
        return features(q, *floats(q, "batch", "context_tokens"))

    both: dict[str, Any] = {"group": group, "alike": alike}
    tokens = {"query_tokens": 2.0, "prefix_tokens": 0.5}, {"context_tokens": 2.0}
    return _pair(name, works, (of_prompts, of_sequences), tokens, ("heads",), ("heads",), (both, both), figures_of)


def over_state(
    name: str,
    work: Callable[[Columns, Floats, float], Work],
    features: tuple[Callable[[Columns, Hardware, Ints], Features], Callable[[Columns, Hardware, Ints], Features]],
    *,
    group: tuple[str, ...],
    sizes: tuple[str, ...],
    alike: tuple[str, ...] = (),
    figures_of: str = "",
) -> Kernels:
    """(prefill, decode) of a layer that keeps a state instead of a cache.

    Args:
        work: of (question, new tokens of all sequences, how often each sequence's state is moved: a prompt leaves it
            behind, a sequence that generates reads and writes it).
        sizes: columns that neighbours are near in; the last is the one whose range counts.
    """

    def of_prompts(q: Columns) -> Work:
        batch, query = floats(q, "batch", "query_tokens")
        return work(q, batch * query, 1.0)

    def of_sequences(q: Columns) -> Work:
        (batch,) = floats(q, "batch")
        return work(q, batch, 2.0)

    both: tuple[dict[str, Any], dict[str, Any]] = (
        {"group": (*group, "batch"), "alike": alike},
        {"group": group, "alike": alike},
    )
    tokens: tuple[dict[str, float], dict[str, float]] = {"query_tokens": 2.0}, {}
    return _pair(name, (of_prompts, of_sequences), features, tokens, sizes, sizes[-1:], both, figures_of)


def _pair(
    name: str,
    works: Works,
    features: tuple[Any, Any],
    tokens: tuple[dict[str, float], dict[str, float]],
    sizes: tuple[str, ...],
    extents: tuple[str, ...],
    more: tuple[dict[str, Any], dict[str, Any]],
    figures_of: str,
) -> Kernels:
    prefill, decode = (
        Kernel(
            name=f"{name}_{phase}",
            part="attention",
            factor=f"attention_{phase}",
            work=works[index],
            features=features[index],
            range=("batch", *tokens[index], *extents),
            near={"batch": 2.0, **tokens[index], **dict.fromkeys(sizes, 1.0)},
            figures_of=f"{figures_of}_{phase}" if figures_of else "",
            **more[index],
        )
        for index, phase in enumerate(("prefill", "decode"))
    )
    return prefill, decode


def scanned(q: Columns, hw: Hardware, gpu: Ints, *, shape: tuple[str, ...]) -> Features:
    """Of prompts that go through the states of heads, whose column is the last of ``shape``."""
    batch, query, heads = floats(q, "batch", "query_tokens", shape[-1])
    count, used = waves(batch * heads, hw, gpu)
    return {
        **logs(q, "batch", "query_tokens", *shape),
        "tokens": np.log2(batch * query),
        "chunks": np.log2(batch * np.ceil(query / _SCANNED) * heads),
        "waves": count,
        "used": used,
    }


def updated(q: Columns, hw: Hardware, gpu: Ints, *, shape: tuple[str, ...]) -> Features:
    """Of one token a sequence that goes through them."""
    batch, heads = floats(q, "batch", shape[-1])
    count, used = waves(batch * heads, hw, gpu)
    return {**logs(q, "batch", *shape), "states": np.log2(batch * heads), "waves": count, "used": used}
