"""What requests look like: lengths, rate, prefix hits, speculation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from costmodels.serving.request_shape import RequestShape
from costmodels.serving.speculative_decoding import SpeculativeDecoding
from planner.contract.documents import PLAIN_NUMBER, Document, checked
from planner.contract.workload.grammar import DRAWN_HELP, NUMBER, UNITS_HELP, drawn, items, tokens
from planner.contract.workload.images import Images, parse_images
from planner.contract.workload.lengths import Recorded, Share, Tokens, share_longer, spread_over
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.values import shown

if TYPE_CHECKING:
    from costmodels.estimates import Ints

RoutingName = Literal["balanced", "power_law_1.01", "power_law_1.2"]
ROUTING: RoutingName = "power_law_1.01"
"""Where none is given."""

Count = Annotated[int, Field(gt=0, le=10**7), PLAIN_NUMBER]

FEWEST_SERVED = 0.01
"""Share of the requests that max_len must let through."""


MEAN_OF = 10_000
"""Requests that the mean length is taken of, where max_len leaves some out."""


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
    """What requests look like. Lengths are those of every request, or what ``spread`` and ``recorded`` say of them."""

    isl: Tokens = Field(description="prompt length, tokens; the mean of recorded ones")
    osl: Tokens = Field(description="output length, tokens; the mean of recorded ones")
    spread: tuple[Share, Share] | None = Field(
        default=None,
        description="lengths are spread evenly between these shares of isl and osl, independently; null: all are alike",
    )
    max_len: Tokens | None = Field(
        default=None,
        description="longest request that is served, prompt and output, tokens; null: the longest that comes",
    )
    rate_rps: Annotated[float, Field(gt=0, le=1e9), PLAIN_NUMBER] | None = Field(
        default=None, description="offered requests per second; null: as many as fit"
    )
    concurrency: Count | None = Field(
        default=None,
        description="instead of a rate: users at once, each of whom asks again as soon as the answer is there",
    )
    requests: Count | None = Field(default=None, description="how many are sent in all, where they are counted")
    routing: RoutingName = Field(default=ROUTING, description="skew of tokens over experts (MoE models only)")
    prefix_hit: Annotated[float, Field(ge=0, le=1), PLAIN_NUMBER] = Field(
        default=0.0,
        description="share of prompt tokens found in the prefix cache (the last token of a prompt never is)",
    )
    speculation: Speculation | None = Field(default=None, description="null: one token a step")
    recorded: Recorded | None = Field(
        default=None, description="the trace that lengths and rate are of; null: they are as given"
    )
    images: Images | None = Field(
        default=None, description="in every prompt, beside its isl tokens of text; null: text alone"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Workload:
        if self.spread is not None:
            low, high = self.spread
            if low > high:
                raise ValueError(f"spread: {low:g} is more than {high:g}; write the smaller share first")
            if self.recorded is not None:
                raise ValueError("spread: has no effect beside recorded lengths; leave it out")
        if self.rate_rps is not None and self.concurrency is not None:
            raise ValueError("rate and concurrency: both are given; requests come at a rate, or from so many users")
        if self.recorded is not None and len(self.recorded.isl) != len(self.recorded.osl):
            raise ValueError("recorded: isl and osl are not equally long; give one of each for every request")
        if self.images is not None and self.images.tokens is None:
            return self  # how long requests are is known when a model has counted them
        if self.max_len is not None and self.max_len < self.shortest_tokens:
            raise ValueError(
                f"max_len: {self.max_len} tokens is less than every request has, {self.shortest_tokens} and more; "
                f"give at least {self.longest_that_comes} to serve them all"
            )
        if 1 - self.refused_share < FEWEST_SERVED:
            raise ValueError(
                f"max_len: {self.max_len} tokens refuses {self.refused_share:.1%} of the requests; give at least "
                f"{self.longest_that_comes} to serve them all"
            )
        return self

    @property
    def image_tokens(self) -> int:
        """Tokens of a prompt's images; lengths below include them.

        Raises:
            InputError: no model has counted them yet.
        """
        if self.images is None:
            return 0
        if self.images.tokens is None:
            raise InputError(
                f"workload: {self.images.told} have as many tokens as a model makes of them, and none is asked here",
                "leave images out, and add their tokens to isl",
            )
        return self.images.count * self.images.tokens

    @property
    def _ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        low, high = self.spread or (1.0, 1.0)
        prompts, outputs = spread_over(low, high, self.isl, self.osl)
        return (prompts[0] + self.image_tokens, prompts[1] + self.image_tokens), outputs

    def _recorded(self, recorded: Recorded) -> tuple[Ints, Ints]:
        """Prompt and output lengths."""
        import numpy as np  # what only names options needs none of it

        return np.array(recorded.isl, np.int64) + self.image_tokens, np.array(recorded.osl, np.int64)

    def _recorded_tokens(self, recorded: Recorded) -> Ints:
        isl, osl = self._recorded(recorded)
        return isl + osl

    @property
    def shortest_tokens(self) -> int:
        """Prompt and output of the shortest request that comes."""
        if self.recorded is not None:
            return int(self._recorded_tokens(self.recorded).min())
        return sum(shortest for shortest, _ in self._ends)

    @property
    def longest_that_comes(self) -> int:
        """Prompt and output of the longest request that comes, served or not."""
        if self.recorded is not None:
            return int(self._recorded_tokens(self.recorded).max())
        return sum(longest for _, longest in self._ends)

    @property
    def longest_tokens(self) -> int:
        """Prompt and output of the longest request that is served."""
        return self.longest_that_comes if self.max_len is None else self.max_len

    @property
    def longest_isl(self) -> int:
        """Tokens of the longest prompt that is served."""
        longest = self._ends[0][1] if self.recorded is None else int(self._recorded(self.recorded)[0].max())
        return min(longest, self.longest_tokens)

    @property
    def mean_isl(self) -> int:
        """Tokens of a prompt that is served, on average."""
        return self._means[0]

    @property
    def mean_osl(self) -> int:
        """Tokens of an output that is served, on average."""
        return self._means[1]

    @cached_property
    def _means(self) -> tuple[int, int]:
        if self.spread is None:
            return self.isl + self.image_tokens, self.osl
        if self.refused_share:
            isl, osl = (round(float(lengths.mean())) for lengths in self.drawn(MEAN_OF))
            return isl, osl
        isl, osl = (max(round(sum(ends) / 2), 1) for ends in self._ends)
        return isl, osl

    @property
    def has_load(self) -> bool:
        """Whether it says how many requests come, by their rate or by the users at once."""
        return self.rate_rps is not None or self.concurrency is not None

    @property
    def varies(self) -> bool:
        """Whether requests differ in length."""
        return self.recorded is not None or any(shortest < longest for shortest, longest in self._ends)

    @property
    def refused_share(self) -> float:
        """Share of the requests that are longer than ``max_len``."""
        if self.recorded is not None:
            return self.recorded.refused_share
        return share_longer(*self._ends, self.longest_tokens)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that are not computed again. One is always left: its step yields the first output token."""
        return min(int(self.prefix_hit * self.mean_isl + 1e-9), self.mean_isl - 1)

    @property
    def shares(self) -> tuple[Share, Share]:
        """What lengths are spread between, of ``isl`` and ``osl``; recorded ones as from nothing to twice the mean."""
        return self.spread or ((1.0, 1.0) if self.recorded is None else (0.0, 2.0))

    @property
    def of_data_set(self) -> bool:
        """Whether lengths are those of a data set, whose requests came at no time of their own."""
        return self.recorded is not None and not self.recorded.timed

    @property
    def shape(self) -> RequestShape:
        """A request as the cost model knows it: where they vary, one of mean lengths."""
        drafting = None if self.speculation is None else SpeculativeDecoding(**self.speculation.model_dump())
        return RequestShape(self.mean_isl, self.mean_osl, self.routing, self.cached_tokens, drafting)

    def drawn(self, n: int, seed: int = 0) -> tuple[Ints, Ints]:
        """Prompt and output lengths of ``n`` requests that are served, shape [n] each: recorded ones, each as often as
        the others, in random order over all of them (parts differ as draws do); or drawn evenly; or all alike. Those
        longer than ``max_len`` are not among them."""
        import numpy as np  # what only names options needs none of it

        rng = np.random.default_rng(seed)
        if self.recorded is not None:
            isl, osl = self._recorded(self.recorded)
            every = rng.permutation(len(isl))
            if n < len(isl):  # of all lengths, as they are in order
                every = np.rint(np.linspace(0, len(isl) - 1, n)).astype(np.int64)
            order = rng.permutation(np.resize(every, n))
            return isl[order], osl[order]
        (first, last), (fewest, most) = self._ends
        isl, osl = rng.integers(first, last + 1, n), rng.integers(fewest, most + 1, n)
        while len(over := np.flatnonzero(isl + osl > self.longest_tokens)):
            isl[over], osl[over] = rng.integers(first, last + 1, len(over)), rng.integers(fewest, most + 1, len(over))
        return isl, osl

    def told(self) -> str:
        """Its lengths in words."""
        words = f"{self.isl:,} tokens in, {self.osl:,} out"
        if self.recorded is not None:
            words += f" on average, as {'recorded in' if self.recorded.timed else 'those of'} {self.recorded.name}"
        elif self.spread is not None:
            low, high = self.spread
            words += f", each between {low * 100:g} and {high * 100:g} % of that"
        return words if self.images is None else f"{words}, beside {self.images.told}"


# ------------------------------------------------------------------ the short form


def tokens_input(value: Any) -> Any:
    """A number of tokens where a request may have it with its unit: ``"128k"``."""
    if not isinstance(value, str):
        return value
    found = tokens(value)
    if found is None and drawn(value):
        raise ValueError(f"{shown(value)} is how lengths are drawn; {DRAWN_HELP}")
    if found is None:
        raise ValueError(f"{shown(value)} is not a whole number of tokens; write for example 4000 or 4k; {UNITS_HELP}")
    return found


def workload_input(value: Any) -> Any:
    """A workload in its short form, or as it is."""
    return parse_workload(value) if isinstance(value, str) else value


WorkloadGiven = Annotated[Workload, BeforeValidator(workload_input, json_schema_input_type=str | Workload)]
"""Of a request: short form or object."""

WorkloadOrNone = Annotated[
    Workload | None, BeforeValidator(workload_input, json_schema_input_type=str | Workload | None)
]


_RATE = re.compile(rf"(-?{NUMBER})\s*(?:rps|/s)?", re.IGNORECASE | re.ASCII)
_PLAIN = re.compile(rf"(-?{NUMBER})", re.IGNORECASE | re.ASCII)
_SPREAD = re.compile(rf"({NUMBER})\s*(?:-|–|to)\s*({NUMBER})", re.IGNORECASE | re.ASCII)

DATA_SET = "dataset"
"""Name of pairs and columns for the public data set whose lengths requests have."""

_KINDS = {
    **dict.fromkeys(("isl", "osl", "max_len"), "a whole number of tokens"),
    "spread": "two shares of a length, as in spread=0.8-1",
    DATA_SET: "a public data set, as in dataset=sharegpt",
    "rate": "a rate",
    **dict.fromkeys(("concurrency", "requests"), "a whole number"),
    "routing": "a routing",
    "prefix_hit": "a share, as in prefix_hit=0.5",
    "draft": "a whole number of tokens, as in draft=4",
    "acceptance": "a probability, as in acceptance=0.7",
    "draft_cost": "a share of a step, as in draft_cost=0.05",
    "images": "a whole number",
    "image": "a size, as in image=1024x1024",
}
"""Names in the short form, and what their values are."""

WORDS = (*_KINDS, "rps")
"""Names that pairs may have."""

_FIELDS = {"rate": "rate_rps", "draft": "draft_tokens"}
_SAME = {"rps": "rate"}
_SPECULATION = ("draft", "acceptance", "draft_cost")
WORKLOAD_HELP = (
    "write for example isl=4000,osl=500 or isl=4000,osl=500,rate=20 (rate in requests per second; in lengths "
    f"{UNITS_HELP})"
)
LORA_HELP = (
    "leave it out; one adapter merged into the weights is predicted as the model itself, and for several plan with "
    "--confidence 0.9 and leave memory for them: adapters x rank x 2 bytes x the widths of the layers they change"
)
_SPECULATION_HELP = "write both, for example draft=4,acceptance=0.7"


def parse_workload(text: str) -> Workload:
    """``isl=4000,osl=500[,spread=0.8-1|,dataset=sharegpt][,max_len=8K][,rate=20|,concurrency=64][,requests=5000][,routing=balanced]
    [,prefix_hit=0.5][,draft=4,acceptance=0.7[,draft_cost=0.05]][,images=2,image=1024x1024]``; rate in requests per
    second, in lengths 1k is 1,000 and 1K is 1,024.

    Raises:
        InputError, UnknownName: naming the item that is not understood.
    """
    return workload_of(items(text, "workload", WORKLOAD_HELP))


def workload_of(pairs: Iterable[tuple[str, str]], beside: Mapping[str, Any] | None = None) -> Workload:
    """The workload of (name, value) pairs in the words of the short form.

    Args:
        beside: fields that stand where the pairs do not say otherwise (of a trace).

    Raises:
        InputError, UnknownName: as :func:`parse_workload`.
    """
    fields: dict[str, Any] = {}
    for given, value in pairs:
        name = _SAME.get(given, given)
        if name == "lora":
            raise Unsupported(f"workload: lora={shown(value)}: what adapters take is not modelled", LORA_HELP)
        if name not in _KINDS:
            raise UnknownName("workload name", name, _KINDS)
        if name in fields:
            raise InputError(f"workload: {name} is given twice", "keep one of them")
        fields[name] = _value(name, value)
        if fields[name] is None and name in ("isl", "osl") and drawn(value):
            raise InputError(f"workload: {given}={shown(value)} is how lengths are drawn", DRAWN_HELP)
        if fields[name] is None:
            raise InputError(f"workload: {given}={shown(value)} is not {_KINDS[name]}", WORKLOAD_HELP)
    speculation = {_FIELDS.get(name, name): fields.pop(name) for name in _SPECULATION if name in fields}
    for name, field in (("draft", "draft_tokens"), ("acceptance", "acceptance")):
        if speculation and field not in speculation:
            raise InputError(f"workload: {name} is missing, which speculative decoding needs", _SPECULATION_HELP)
    images, size = fields.pop("images", ""), fields.pop("image", "")
    if beside and beside.get("recorded"):
        _check_beside(beside["recorded"], fields, beside)
    named = fields.pop(DATA_SET, "")
    document = {**(beside or {}), **{_FIELDS.get(name, name): value for name, value in fields.items()}}
    if named:
        from planner.contract.workload.data_sets import lengths_of  # deferred: few workloads name a data set

        document |= lengths_of(named, *(document.get(name) for name in ("isl", "osl", "max_len")))
    if speculation:
        document["speculation"] = checked(Speculation, speculation, "workload")
    if images or size:
        document["images"] = parse_images(images, size, "workload")
    return checked(Workload, document, "workload")


def _check_beside(recorded: Recorded, given: Mapping[str, Any], means: Mapping[str, Any]) -> None:
    """Raises InputError where ``given`` says other lengths than those ``recorded``, whose ``means`` are rounded."""
    for name in ("isl", "osl", DATA_SET):
        if name in given and (name == DATA_SET or abs(given[name] - means[name]) > 1):
            raise InputError(
                f"workload: {name} has no effect beside {recorded.name}, which says how long requests are",
                f"leave it out, or give the lengths in one place, as in {DATA_SET}=sharegpt,isl=500",
            )


def _value(name: str, text: str) -> Any:
    """The value of a pair; None where it is not of its kind."""
    if name in ("routing", "images", "image", DATA_SET):
        return text or None
    if name in ("isl", "osl", "max_len"):
        return tokens(text)
    if name in ("concurrency", "requests", "draft"):
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) else None
    if name == "spread":
        shares = _SPREAD.fullmatch(text)
        return None if shares is None else (float(shares[1]), float(shares[2]))
    match = (_RATE if name == "rate" else _PLAIN).fullmatch(text)
    return None if match is None else float(match[1])
