"""A load as classes of length and steps of time: how many requests of each come in each step.

As it may be written (:class:`LoadInput`: ranges or points, rates or shares of a rate, steps) and as it is understood
(:class:`SteppedLoad`: every class with its mean lengths and its rate). One class and one step is the simple case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document
from profiles.errors import InputError
from profiles.values import shown

MOST_CLASSES = 20_000
"""Of a step."""

MOST_STEPS = 2000

DAY_S = 86_400.0
HOUR_S = 3600.0

ROUNDING = 1e-6
"""By how much shares may miss 1 in sum: what rounding to six digits does."""

Size = Annotated[float, Field(ge=0, le=1e9), PLAIN_NUMBER]
Rate = Annotated[float, Field(ge=0, le=1e9), PLAIN_NUMBER]
Portion = Annotated[float, Field(ge=0, le=1), PLAIN_NUMBER]
Moment = Annotated[float, Field(ge=0, le=1e9), PLAIN_NUMBER]

# ------------------------------------------------------------------ as it is understood


class LengthClass(Document):
    """Requests of similar length: prompts of ``isl_from`` to below ``isl_to`` tokens, outputs likewise."""

    isl_from: float
    isl_to: float
    osl_from: float
    osl_to: float
    isl: float = Field(description="mean prompt of its requests, tokens, not rounded")
    osl: float = Field(description="mean output of its requests, tokens, not rounded")
    rate_rps: float = Field(description="requests per second")
    prefix_hit: float = Field(default=0.0, description="share of its prompt tokens found in the prefix cache")


class LoadStep(Document):
    """A stretch of time with one rate of each class."""

    start_s: float
    end_s: float
    classes: tuple[LengthClass, ...]

    @property
    def rate_rps(self) -> float:
        return math.fsum(each.rate_rps for each in self.classes)


class SteppedLoad(Document):
    """What is to be carried: steps without gaps from 0 on."""

    source: str = Field(description="where it is from, in words")
    steps: tuple[LoadStep, ...]
    requests: int | None = Field(default=None, description="of the trace that it was made from; null: of none")

    @property
    def seconds(self) -> float:
        return self.steps[-1].end_s


# ------------------------------------------------------------------ as it may be written


class ClassInput(Document):
    """A class as it may be written: a point or a range of each length, and a rate or a share."""

    isl: Size | None = Field(default=None, description="prompt, tokens; or a range")
    isl_from: Size | None = None
    isl_to: Size | None = Field(default=None, description="below which prompts are")
    osl: Size | None = Field(default=None, description="output, tokens; or a range")
    osl_from: Size | None = None
    osl_to: Size | None = Field(default=None, description="below which outputs are")
    rate_rps: Rate | None = Field(default=None, description="requests per second; or a share")
    share: Portion | None = Field(default=None, description="of the load's rate_rps")
    prefix_hit: Portion | None = Field(default=None, description="default: the service's")

    @model_validator(mode="after")
    def _says_all(self) -> ClassInput:
        for name in ("isl", "osl"):
            point, low, high = (getattr(self, name + end) for end in ("", "_from", "_to"))
            if (low is None) != (high is None):
                raise ValueError(f"{name}_from and {name}_to: one is given without the other; give both")
            if point is None and low is None:
                raise ValueError(f"{name}: is missing; give {name}, or {name}_from and {name}_to")
            if low is not None and high is not None:
                if high <= low:
                    raise ValueError(f"{name}_to: {high:g} is not above {name}_from {low:g}; the range is half open")
                if point is not None and not low <= point < high:
                    raise ValueError(f"{name}: {point:g} is outside of its range {low:g} to {high:g}; correct one")
        if self.rate_rps is None and self.share is None:
            raise ValueError("rate_rps: is missing; give each class rate_rps, or share and the load rate_rps")
        if self.rate_rps is not None and self.share is not None:
            raise ValueError("rate_rps and share: both are given; keep one of them")
        return self

    def range(self, name: str) -> tuple[float, float, float]:
        """(from, to, mean) of ``isl`` or ``osl``; a point reaches to the next token."""
        point, low, high = (getattr(self, name + end) for end in ("", "_from", "_to"))
        if low is None:
            return point, math.floor(point) + 1.0, point
        return low, high, (low + high - 1) / 2 if point is None else point


class StepInput(Document):
    """A step as it may be written."""

    hour: Annotated[int, Field(ge=0, le=100_000), PLAIN_NUMBER] | None = None
    start_s: Moment | None = None
    end_s: Moment | None = None
    rate_rps: Rate | None = None
    classes: tuple[ClassInput, ...] = Field(min_length=1, max_length=MOST_CLASSES)

    @property
    def span_s(self) -> tuple[float, float] | None:
        if self.hour is not None:
            return self.hour * HOUR_S, (self.hour + 1) * HOUR_S
        if self.start_s is not None and self.end_s is not None:
            return self.start_s, self.end_s
        return None


class LoadInput(Document):
    """A load as it may be written."""

    source: Annotated[str, Field(max_length=LONGEST_TEXT)] = "as given"
    rate_rps: Rate | None = Field(default=None, description="of which classes have shares")
    classes: tuple[ClassInput, ...] | None = Field(default=None, min_length=1, max_length=MOST_CLASSES)
    steps: tuple[StepInput, ...] | None = Field(default=None, min_length=1, max_length=MOST_STEPS)
    requests: Annotated[int, Field(gt=0), PLAIN_NUMBER] | None = Field(
        default=None, description="of the trace that it was made from"
    )
    coarsen_to: Annotated[int, Field(gt=0, le=MOST_CLASSES), PLAIN_NUMBER] | None = Field(
        default=None,
        description="the classes may be laid together to about so many, and more as far as the fleet's tolerance asks",
    )

    @model_validator(mode="after")
    def _one_way(self) -> LoadInput:
        if (self.classes is None) == (self.steps is None):
            raise ValueError(
                "classes or steps: give one of them; for example classes: [{isl: 1000, osl: 200, rate_rps: 5}]"
            )
        return self


def understood(asked: LoadInput, where: str, prefix_hit: float = 0.0) -> SteppedLoad:
    """The load that is meant; ``where`` is what messages call it.

    Raises:
        InputError: shares that do not sum to 1, ranges that overlap, steps with gaps, a step without requests.
    """
    if asked.classes is not None:
        steps = (StepInput(start_s=0.0, end_s=HOUR_S, rate_rps=asked.rate_rps, classes=asked.classes),)
        return SteppedLoad(source=asked.source, steps=(_step(steps[0], (0.0, HOUR_S), where, prefix_hit),))
    assert asked.steps is not None
    spans = _spans(asked.steps, where)
    steps_understood = tuple(
        _step(step, span, f"{where}.steps[{i}]", prefix_hit, asked.rate_rps)
        for i, (step, span) in enumerate(zip(asked.steps, spans, strict=True))
    )
    return SteppedLoad(source=asked.source, steps=steps_understood, requests=asked.requests)


def _spans(steps: Sequence[StepInput], where: str) -> list[tuple[float, float]]:
    spans = [step.span_s or (i * HOUR_S, (i + 1) * HOUR_S) for i, step in enumerate(steps)]
    at = 0.0
    for i, (start, end) in enumerate(spans):
        if abs(start - at) > 1e-6:
            raise InputError(
                f"{where}.steps[{i}]: begins at {start:g} s, and the one before it ends at {at:g} s",
                "give steps in order, from 0 on, without gaps (hour: 0, 1, 2 …)",
            )
        if end <= start:
            raise InputError(f"{where}.steps[{i}]: end_s {end:g} is not after start_s {start:g}", "correct one of them")
        at = end
    return spans


def _step(
    step: StepInput, span: tuple[float, float], where: str, prefix_hit: float, rate_rps: float | None = None
) -> LoadStep:
    total = step.rate_rps if step.rate_rps is not None else rate_rps
    shares = [each.share for each in step.classes if each.share is not None]
    if shares:
        if len(shares) < len(step.classes):
            raise InputError(f"{where}.classes: some have a share, others a rate_rps", "give all of them the same")
        if total is None:
            raise InputError(f"{where}.rate_rps: is missing, of which the classes have shares", "give it, e.g. 12.5")
        if abs(math.fsum(shares) - 1) > ROUNDING:
            raise InputError(
                f"{where}.classes: their shares sum to {math.fsum(shares):.9g}, not to 1",
                "correct them; they are never scaled silently",
            )
    elif total is not None:
        told = math.fsum(each.rate_rps or 0.0 for each in step.classes)
        if abs(told - total) > ROUNDING * max(total, told):
            raise InputError(
                f"{where}.rate_rps: {total:g} is not the sum {told:g} of the classes' rates", "leave it out"
            )
    classes = []
    for each in step.classes:
        isl, osl = each.range("isl"), each.range("osl")
        rate = each.rate_rps if each.rate_rps is not None else (each.share or 0.0) * (total or 0.0)
        hit = prefix_hit if each.prefix_hit is None else each.prefix_hit
        made = LengthClass(
            isl_from=isl[0], isl_to=isl[1], isl=isl[2], osl_from=osl[0], osl_to=osl[1], osl=osl[2], rate_rps=rate,
            prefix_hit=hit,
        )  # fmt: skip
        classes.append(made)
    check_apart(classes, where)
    if not math.fsum(each.rate_rps for each in classes) > 0:
        raise InputError(f"{where}: no requests come in it", "give it a rate above 0, or leave it out")
    return LoadStep(start_s=span[0], end_s=span[1], classes=tuple(classes))


def check_apart(classes: Sequence[LengthClass], where: str) -> None:
    """Raises InputError where two ranges overlap. Swept over prompts, so that thousands of classes take no time."""
    active: list[LengthClass] = []
    for each in sorted(classes, key=lambda c: (c.isl_from, c.osl_from)):
        active = [other for other in active if other.isl_to > each.isl_from]
        for other in active:
            if each.osl_from < other.osl_to and other.osl_from < each.osl_to:
                raise InputError(
                    f"{where}.classes: {told(each)} and {told(other)} overlap", "give every request one class"
                )
        active.append(each)


def told(each: LengthClass) -> str:
    """A class in words."""

    def lengths(low: float, high: float) -> str:
        return f"{low:g}" if high - low <= 1 else f"{low:g}-{high:g}"

    return f"isl {lengths(each.isl_from, each.isl_to)}, osl {lengths(each.osl_from, each.osl_to)}"


def load_input(value: Any) -> Any:
    """A load in the short form of a workload (``isl=4000,osl=500,rate=20``), or as it is."""
    if isinstance(value, str):
        from planner.contract.workload.workload import parse_workload

        work = parse_workload(value)
        if work.rate_rps is None:
            raise ValueError(f"{shown(value)} has no rate; add rate=20")
        pair = {"isl": work.isl, "osl": work.osl, "rate_rps": work.rate_rps, "prefix_hit": work.prefix_hit or None}
        return {"source": value, "classes": [{key: each for key, each in pair.items() if each is not None}]}
    if isinstance(value, Mapping) and "isl" in value and "osl" in value and "classes" not in value:
        return {"classes": [dict(value)]}
    return value
