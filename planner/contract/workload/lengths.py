"""How long requests are: all alike, spread evenly, or as they were recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document

if TYPE_CHECKING:
    from costmodels.estimates import Ints

MOST_LENGTHS = 1000
"""Recorded requests that a workload keeps: enough for a p99 of their lengths."""

Tokens = Annotated[int, Field(gt=0, le=10**9), PLAIN_NUMBER]
Share = Annotated[float, Field(gt=0, le=10), PLAIN_NUMBER]


class Recorded(Document):
    """Requests of a trace, or of a public data set, that a workload was made from."""

    name: str = Field(min_length=1, max_length=LONGEST_TEXT, description="what reports call the trace")
    requests: Annotated[int, Field(gt=0), PLAIN_NUMBER] = Field(description="with an output, refused ones among them")
    skipped: Annotated[int, Field(ge=0), PLAIN_NUMBER] = Field(default=0, description="without an output, left out")
    seconds: Annotated[float, Field(ge=0), PLAIN_NUMBER] = Field(
        description="from the first to the last; 0: they have no times"
    )
    rate_of: str = Field(max_length=200, description="what part of the trace the rate is of")
    fullest_second: Annotated[int, Field(gt=0), PLAIN_NUMBER] = Field(
        default=1, description="requests that came within one second, at most: bursts that a rate does not show"
    )
    refused_share: Annotated[float, Field(ge=0, lt=1), PLAIN_NUMBER] = Field(
        default=0.0, description="share of the requests longer than max_len, which are counted nowhere else"
    )
    prefix: Literal["hashes", "recorded"] | None = Field(
        default=None, description="what prefix_hit was estimated from; null: the trace does not tell"
    )
    isl: tuple[Tokens, ...] = Field(
        min_length=1,
        max_length=MOST_LENGTHS,
        description="prompt lengths of requests that stand for all: each for as many as the others",
    )
    osl: tuple[Tokens, ...] = Field(min_length=1, max_length=MOST_LENGTHS, description="their output lengths")

    @property
    def timed(self) -> bool:
        """Whether they came at times of their own, as those of a trace; not those of a data set."""
        return self.seconds > 0


def standing_for(isl: Ints, osl: Ints) -> tuple[Ints, Ints]:
    """At most :data:`MOST_LENGTHS` of the requests (n,), so that each stands for as many of all, by total length; the
    longest is among them."""
    import numpy as np  # what only names options needs none of it

    order = np.argsort(isl + osl, kind="stable")
    if len(order) > MOST_LENGTHS:
        order = order[np.rint(np.linspace(0, len(order) - 1, MOST_LENGTHS)).astype(np.int64)]
    return isl[order], osl[order]


def spread_over(low: float, high: float, isl: int, osl: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(shortest, longest) prompt and output of lengths spread evenly over these shares of ``isl`` and ``osl``."""

    def ends(length: int) -> tuple[int, int]:
        return max(round(length * low), 1), max(round(length * high), 1)

    return ends(isl), ends(osl)


def share_longer(prompts: tuple[int, int], outputs: tuple[int, int], tokens: int) -> float:
    """Share of requests longer than ``tokens``, of prompts and outputs spread evenly and independently between their
    ends."""
    first, last = prompts
    width, least = outputs[1] - outputs[0] + 1, tokens - outputs[0] + 1
    steps = 1000 if last > first else 0
    prompt = [first + (last - first) * step / max(steps, 1) for step in range(steps + 1)]
    return 1 - sum(min(max((least - isl) / width, 0.0), 1.0) for isl in prompt) / (steps + 1)
