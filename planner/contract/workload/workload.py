"""What requests look like: lengths, rate, prefix hits, speculation."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from planner.contract.documents import PLAIN_NUMBER, Document, checked
from planner.contract.words import count
from planner.contract.workload.grammar import NUMBER, items
from profiles.errors import InputError, UnknownName
from profiles.values import shown

RoutingName = Literal["balanced", "power_law_1.01", "power_law_1.2"]
Tokens = Annotated[int, Field(gt=0, le=10**9), PLAIN_NUMBER]


class Speculation(Document):
    """Speculative decoding: a small model drafts, the model verifies the drafted tokens together in one step."""

    draft_tokens: Annotated[int, Field(gt=0, le=64), PLAIN_NUMBER] = Field(description="drafted per step")
    acceptance: Annotated[float, Field(ge=0, le=1), PLAIN_NUMBER] = Field(
        description="probability that a drafted token is accepted when those before it were"
    )
    draft_cost: Annotated[float, Field(ge=0, le=10), PLAIN_NUMBER] | None = Field(
        default=None,
        description="time to draft one token ÷ a step of the model; null: that of one layer (as MTP and EAGLE have)",
    )


class Workload(Document):
    """What requests look like. Lengths are those of every request."""

    isl: Tokens = Field(description="prompt length, tokens")
    osl: Tokens = Field(description="output length, tokens")
    rate_rps: Annotated[float, Field(gt=0, le=1e9), PLAIN_NUMBER] | None = Field(
        default=None, description="offered requests per second; null: as many as fit"
    )
    routing: RoutingName = Field(default="power_law_1.01", description="skew of tokens over experts (MoE models only)")
    prefix_hit: Annotated[float, Field(ge=0, le=1), PLAIN_NUMBER] = Field(
        default=0.0,
        description="share of prompt tokens found in the prefix cache (the last token of a prompt never is)",
    )
    speculation: Speculation | None = Field(default=None, description="null: one token a step")

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that are not computed again. One is always left: its step yields the first output token."""
        return min(int(self.prefix_hit * self.isl + 1e-9), self.isl - 1)


_WORKLOAD = {
    "isl": (re.compile(r"-?[0-9]+|[0-9.]+[kKmM]"), "a whole number of tokens, as in 4096 or 4K"),
    "osl": (re.compile(r"-?[0-9]+|[0-9.]+[kKmM]"), "a whole number of tokens, as in 512 or 1K"),
    "rate": (re.compile(rf"(-?{NUMBER})\s*(?:rps|/s)?", re.IGNORECASE | re.ASCII), "a rate"),
    "routing": (re.compile(r".+", re.DOTALL), "a routing"),
    "prefix_hit": (re.compile(rf"(-?{NUMBER})", re.IGNORECASE | re.ASCII), "a share, as in prefix_hit=0.5"),
    "draft": (re.compile(r"-?[0-9]+"), "a whole number of tokens, as in draft=4"),
    "acceptance": (re.compile(rf"(-?{NUMBER})", re.IGNORECASE | re.ASCII), "a probability, as in acceptance=0.7"),
    "draft_cost": (re.compile(rf"(-?{NUMBER})", re.IGNORECASE | re.ASCII), "a share of a step, as in draft_cost=0.05"),
}
_WORKLOAD_FIELDS = {"rate": "rate_rps", "draft": "draft_tokens"}
_SPECULATION = ("draft", "acceptance", "draft_cost")
_WORKLOAD_HELP = "write for example isl=4000,osl=500 or isl=4000,osl=500,rate=20 (rate in requests per second)"
_SPECULATION_HELP = "write both, for example draft=4,acceptance=0.7"


def parse_workload(text: str) -> Workload:
    """``isl=4000,osl=500[,rate=20][,routing=balanced][,prefix_hit=0.5][,draft=4,acceptance=0.7[,draft_cost=0.05]]``;
    rate in requests per second.

    Raises:
        InputError, UnknownName: naming the item that is not understood.
    """
    fields: dict[str, int | float | str] = {}
    for name, value in items(text, "workload", _WORKLOAD_HELP):
        if name not in _WORKLOAD:
            raise UnknownName("workload name", name, _WORKLOAD)
        if name in fields:
            raise InputError(f"workload: {name} is given twice", "keep one of them")
        pattern, kind = _WORKLOAD[name]
        match = pattern.fullmatch(value)
        if match is None:
            raise InputError(f"workload: {name}={shown(value)} is not {kind}", _WORKLOAD_HELP)
        amount = value if name == "routing" else float(match[1]) if pattern.groups else count(value)
        if amount is None:
            raise InputError(f"workload: {name}={shown(value)} is not {kind}", _WORKLOAD_HELP)
        fields[name] = amount
    speculation = {_WORKLOAD_FIELDS.get(name, name): fields.pop(name) for name in _SPECULATION if name in fields}
    for name, field in (("draft", "draft_tokens"), ("acceptance", "acceptance")):
        if speculation and field not in speculation:
            raise InputError(f"workload: {name} is missing, which speculative decoding needs", _SPECULATION_HELP)
    document: dict[str, object] = {_WORKLOAD_FIELDS.get(name, name): value for name, value in fields.items()}
    if speculation:
        document["speculation"] = checked(Speculation, speculation, "workload")
    return checked(Workload, document, "workload")
