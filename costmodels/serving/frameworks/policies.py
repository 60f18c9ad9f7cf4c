"""How a framework's scheduler decides, as data."""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from costmodels.estimates import Floats


class Policy(BaseModel):
    """One scheduler.

    Attributes:
        prefill_first: whether prompts go before decodes (which then wait, or ride along where ``mixed``).
        mixed: whether one step may hold chunks of prompts and decodes.
        chunked: whether a prompt may be cut to fit the token budget; a longer prompt is refused otherwise.
        mixes_from: longest context, tokens, up to which steps hold prompts alone and before decodes, as they do with
            latent attention, unless an engine is told to cut prompts; 0: of no model.
        reserve_share: share of the output that admitted sequences still have to make for which admission
            keeps cache free. 1 never evicts; less preempts the latest sequence when the cache is full, and
            computes it again.
        block_tokens: tokens of a block of the KV cache.
        graph_step, graph_most: batches of decodes are padded to the sizes of captured CUDA graphs: 1, 2, 4,
            then multiples of ``graph_step``; larger than ``graph_most`` they run as they are.
        dispatch: how requests are spread over attention-data-parallel ranks.
        polling: steps between two looks at the queue, while sequences run.
        checks_step: whether an engine refuses to start where a step has room for fewer tokens than sequences may run,
            or, where prompts are not cut, than the longest has; what nobody says is then made to fit.
        polls_for_ranks: such an engine looks earlier where requests wait for all its attention replicas, and at every
            step where it has one replica.
        variants: what it becomes under options that plans do not use, by a name of ours.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefill_first: bool
    mixed: bool
    chunked: bool
    mixes_from: int = Field(default=0, ge=0)
    reserve_share: float = Field(ge=0, le=1)
    block_tokens: int = Field(gt=0)
    graph_step: int = Field(gt=0)
    graph_most: int = Field(ge=0)
    dispatch: Literal["round_robin", "shortest_queue"]
    polling: int = Field(default=1, gt=0)
    checks_step: bool = False
    polls_for_ranks: bool = False
    variants: dict[str, Policy] = {}

    @model_validator(mode="before")
    @classmethod
    def _variants_say_what_they_change(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not fields.get("variants"):
            return fields
        plain = {name: value for name, value in fields.items() if name != "variants"}
        return {**plain, "variants": {name: {**plain, **changed} for name, changed in fields["variants"].items()}}

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
