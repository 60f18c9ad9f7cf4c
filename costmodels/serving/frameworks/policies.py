"""How each framework's scheduler decides, as data (``policies.yaml``)."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from costmodels.estimates import Floats
from profiles.errors import UnknownName
from profiles.shipped import shipped


class Policy(BaseModel):
    """One scheduler; the YAML file has the sources.

    Attributes:
        prefill_first: whether prompts go before decodes (which then wait, or ride along where ``mixed``).
        mixed: whether one step may hold chunks of prompts and decodes.
        chunked: whether a prompt may be cut to fit the token budget; a longer prompt is refused otherwise.
        reserve_share: share of the output that admitted sequences still have to make for which admission
            keeps cache free. 1 never evicts; less preempts the latest sequence when the cache is full, and
            computes it again.
        block_tokens: tokens of a block of the KV cache.
        graph_step, graph_most: batches of decodes are padded to the sizes of captured CUDA graphs: 1, 2, 4,
            then multiples of ``graph_step``; larger than ``graph_most`` they run as they are.
        dispatch: how requests are spread over attention-data-parallel ranks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    framework: str
    default: bool
    prefill_first: bool
    mixed: bool
    chunked: bool
    reserve_share: float = Field(ge=0, le=1)
    block_tokens: int = Field(gt=0)
    graph_step: int = Field(gt=0)
    graph_most: int = Field(ge=0)
    dispatch: Literal["round_robin", "shortest_queue"]
    source: str

    def held_tokens(self, isl: Floats | float, osl: Floats | float) -> Floats:
        """Tokens of cache by which admission counts a running sequence, on average over its life: its prompt, the half
        of its output that it has made, and what is reserved of the other half."""
        held: Floats = np.asarray(isl + osl * (1 + self.reserve_share) / 2, dtype=np.float64)
        return held

    @cached_property
    def graph_sizes(self) -> list[int]:
        """Captured sizes, ascending."""
        sizes = {1, 2, 4, *range(self.graph_step, self.graph_most + 1, self.graph_step)}
        return sorted(size for size in sizes if size <= self.graph_most)

    def padded(self, decodes: int) -> int:
        """The size that a batch of ``decodes`` sequences runs at."""
        if decodes > self.graph_most:
            return decodes
        return self.graph_sizes[bisect_left(self.graph_sizes, decodes)]


@cache
def policies() -> dict[str, Policy]:
    return shipped(
        Path(__file__).parent / "policies.yaml",
        lambda document: {name: Policy(name=name, **fields) for name, fields in document.items()},
    )


def find_policy(name: str) -> Policy:
    """A policy by its name; a framework's name is its default policy's.

    Raises:
        UnknownName: with the policies there are.
    """
    if name not in policies():
        raise UnknownName("policy", name, policies())
    return policies()[name]
