"""How an engine that keeps its KV cache in pages counts what it holds: the figures of its log.

Layers that keep whole sequences, a window or a state share one pool of pages of one size. vLLM puts layers of a kind
into groups of as many layers each; a group's layers have pages side by side, and a sequence takes pages for each group
(vllm/v1/core/kv_cache_utils.py: ``get_kv_cache_groups``, ``get_max_concurrency_for_kv_cache_config``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Split
from costmodels.operations.registry import families
from costmodels.step.memory import draft_module

_NEARLY_EQUAL = 1.25
"""Kinds whose numbers of layers differ by less go into groups of the larger number."""

_FAR = 2**24  # tokens beyond any window


@dataclass(frozen=True)
class LayerCache:
    """What ``layers`` layers of one kind keep on one GPU: bytes of a token and layer, of the last ``window_tokens``
    (0: all), and a state of ``state_bytes`` a sequence."""

    layers: int
    token_bytes: float
    window_tokens: int
    state_bytes: float


@dataclass(frozen=True)
class Pages:
    """A pool of pages.

    Attributes:
        groups: how many groups each kind of layers makes; ``block_tokens``: tokens of a page of theirs (0: a state).
        group_bytes: of the pages that a group's layers have side by side.
    """

    kinds: tuple[LayerCache, ...]
    groups: tuple[int, ...]
    block_tokens: tuple[int, ...]
    group_bytes: float

    @classmethod
    def of(cls, kinds: Iterable[LayerCache], block_tokens: int) -> Pages:
        """The pool of an engine whose pages hold ``block_tokens`` tokens, or as many more as a state is large."""
        known = tuple(kinds)
        widest = max((kind.token_bytes for kind in known), default=0.0)
        state = max((kind.state_bytes for kind in known), default=0.0)
        least = block_tokens * widest
        page = math.ceil(state / least) * least if state > least > 0 else max(least, state)
        counts = [kind.layers for kind in known]
        together = max(counts) if max(counts) < _NEARLY_EQUAL * min(counts) else min(counts)
        return cls(
            known,
            tuple(-(-count // together) for count in counts),
            tuple(int(page // kind.token_bytes) if kind.token_bytes else 0 for kind in known),
            page * together,
        )

    def of_request(self, tokens: int, token_budget: int) -> int:
        """Pages of a request of ``tokens`` tokens at its longest: a window also holds the step's new tokens."""
        total = 0
        for kind, groups, block in zip(self.kinds, self.groups, self.block_tokens, strict=True):
            if block and kind.window_tokens:
                total += groups * (-(-min(kind.window_tokens - 1 + token_budget, tokens) // block) + 1)
            elif block:
                total += groups * -(-tokens // block)
            total += groups * (kind.state_bytes > 0)
        return total

    def requests(self, cache_bytes: float, tokens: int, token_budget: int) -> float:
        """How many requests of ``tokens`` tokens a cache holds at once."""
        return max(cache_bytes // self.group_bytes, 0) / self.of_request(tokens, token_budget)

    def logged_tokens(self, cache_bytes: float) -> int:
        """Tokens as vLLM logs them: as if each group kept whole sequences."""
        blocks = [block for block in self.block_tokens if block]
        return int(max(cache_bytes // self.group_bytes, 0) // sum(self.groups)) * min(blocks, default=0)

    def longest(self, cache_bytes: float, most: int, token_budget: int) -> int:
        """The longest request of at most ``most`` tokens that a cache holds; 0: none."""
        if self.requests(cache_bytes, 1, token_budget) < 1:
            return 0
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.requests(cache_bytes, middle, token_budget) >= 1 else (low, middle - 1)
        return low


def layer_caches(
    model: Architecture, precision: Precision, layouts: Layouts, *, drafting: bool = False
) -> tuple[LayerCache, ...]:
    """What each kind of layers keeps on a GPU of the one layout, those of the fullest pipeline stage; kinds of which
    nothing is kept are left out."""
    split, stages = Split(model.hidden, precision, layouts), int(layouts.pp[0])
    found: dict[tuple[float, int, float], int] = {}
    for group in (*model.layer_groups, *(draft_module(model).layers if drafting else ())):
        kind = families().attention(group.attention)

        def kept(tokens: float, kind=kind, group=group) -> float:  # type: ignore[no-untyped-def]
            return float(kind.cache_bytes(split, group.attention, 1, np.array([tokens]))[0])

        state, window = kept(0.0), group.attention.window_tokens
        growing = (kept(1.0) - state) if window else (kept(2.0 * _FAR) - kept(_FAR)) / _FAR
        if state or growing:
            what = (growing, window, state)
            found[what] = found.get(what, 0) + group.count
    return tuple(LayerCache(-(-count // stages), *what) for what, count in found.items())
