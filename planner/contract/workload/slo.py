"""Promises to users: bounds on latencies at percentiles."""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from planner.contract.documents import PLAIN_NUMBER, Document, checked
from planner.contract.words import folded, words
from planner.contract.workload.grammar import NUMBER, split
from profiles.errors import InputError
from profiles.values import shown

Metric = Literal["ttft", "tpot", "e2e"]


DEFAULT_PERCENTILE = 90.0
"""An SLO without a percentile is a promise to nine requests in ten, as in DistServe (arXiv:2401.09670 §6)."""


class Bound(Document):
    """One promise: ``metric`` at ``percentile`` is at most ``limit_ms``."""

    metric: Metric
    percentile: Annotated[float, Field(gt=0, lt=100), PLAIN_NUMBER] = DEFAULT_PERCENTILE
    limit_ms: Annotated[float, Field(gt=0, le=1e12), PLAIN_NUMBER]

    @property
    def label(self) -> str:
        return f"{self.metric}_p{self.percentile:.15g}"


class Slo(Document):
    """All promises together; none at all is allowed (maximum throughput at any latency)."""

    bounds: tuple[Bound, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _each_once(self) -> Slo:
        for label, times in Counter(bound.label for bound in self.bounds).most_common(1):
            if times > 1:
                raise ValueError(f"{label} is given {'twice' if times == 2 else f'{times} times'}; keep one of them")
        return self


_TIME = re.compile(rf"(?P<number>{NUMBER})\s*(?P<unit>us|µs|ms|s|min)", re.IGNORECASE | re.ASCII)
_MILLISECONDS = {"us": "0.001", "µs": "0.001", "ms": "1", "s": "1000", "min": "60000"}
_SIGN = re.compile(r"\s*(?P<sign><=|>=|≤|≥|<|>|=|:)\s*")
_PERCENTILE = re.compile(r"p(?P<percentile>[0-9]+(?:\.[0-9]+)?)", re.ASCII)
_SPEED = re.compile(rf"(?P<number>{NUMBER})\s*(?:(?:tokens|tok|t)/s(?:/user)?|tps)?", re.IGNORECASE | re.ASCII)
_METRICS = ("ttft", "tpot", "e2e")
_MEANS = ("mean", "avg", "average")
_UNITS = "units are us, ms, s, min"
_SLO_HELP = "write for example ttft=1s,tpot=30ms or ttft_p99=2s,e2e=20s (itl means tpot)"


def parse_slo(text: str) -> Slo:
    """``ttft=1s,tpot=30ms,e2e_p99=20s``; without a percentile, p90. The signs ``<=``, ``<`` and ``:`` do for ``=``,
    other harnesses' names (``itl``, ``e2el``, ``request_latency``, ``median_ttft``, …) for ours, and tokens per second
    of a user for ``tpot``, whose inverse they are (``tokens/s/user>=20``).

    An empty text makes no promise.

    Raises:
        InputError: naming the item that is not understood.
    """
    bounds = []
    for item in split(text, "slo", _SLO_HELP):
        sign = _SIGN.search(item)
        name, value = (item, "") if sign is None else (item[: sign.start()], item[sign.end() :])
        metric, percentile = _promised(name)
        least = sign is not None and sign["sign"] in (">=", "≥", ">")
        if least != (metric is None) and sign is not None and sign["sign"] not in ("=", ":"):
            low, high = ("least", "most") if least else ("most", "least")
            raise InputError(f"slo: {shown(item)} asks for at {low}, where a promise is of at {high}", _SLO_HELP)
        limit_ms = _milliseconds(name, value) if metric is not None else 1000 / _speed(name, value)
        fields = {"metric": metric or "tpot", "percentile": percentile, "limit_ms": limit_ms}
        bounds.append(checked(Bound, fields, shown(f"slo {item}").strip("'\"")))
    return checked(Slo, {"bounds": bounds}, "slo")


def _promised(name: str) -> tuple[Metric | None, float]:
    """(metric, percentile); the metric is None where it is a user's tokens per second."""
    table, word = words(), folded(name)
    if word in table.speeds:
        return None, DEFAULT_PERCENTILE
    said: list[float] = []
    rest: list[str] = []
    for part in word.split("_"):
        found = _PERCENTILE.fullmatch(part)
        if part in _MEANS:
            other = "_".join(each for each in word.split("_") if each not in _MEANS)
            metric = table.metrics.get(other, other)
            metric = metric if metric in _METRICS else "ttft"
            raise InputError(
                f"slo: {shown(name)}: a promise is about a percentile of requests, not about their mean",
                f"write {metric}_median (half of the requests), or {metric} for nine in ten",
            )
        if found is not None or part in table.statistics:
            said.append(float(found["percentile"]) if found else table.statistics[part])
        else:
            rest.append(part)
    own = table.metrics.get("_".join(rest), "_".join(rest))
    if own not in _METRICS or len(said) > 1:
        raise InputError(f"slo: {shown(name)} is not a metric", _SLO_HELP)
    return own, said[0] if said else DEFAULT_PERCENTILE  # type: ignore[return-value]


def _speed(name: str, value: str) -> float:
    found = _SPEED.fullmatch(value)
    if found is None or not float(found["number"]) > 0:
        raise InputError(f"slo: {name}={shown(value)} is not a number of tokens per second", _SLO_HELP)
    return float(found["number"])


def _milliseconds(name: str, value: str) -> float:
    if not value:
        raise InputError(f"slo: {name} has no limit", f"{_UNITS}; {_SLO_HELP}")
    time = _TIME.fullmatch(value.replace("\u03bc", "\u00b5"))  # Greek mu for the micro sign
    if time is None:
        unit = "has no unit" if re.fullmatch(r"[0-9.]+", value) else "is not a time"
        raise InputError(f"slo: {name}={shown(value)} {unit}", f"{_UNITS}; {_SLO_HELP}")
    return float(Decimal(time["number"]) * Decimal(_MILLISECONDS[time["unit"].lower()]))


def slo_input(value: Any) -> Any:
    """Promises in their short form, or as they are."""
    return parse_slo(value) if isinstance(value, str) else value


SloGiven = Annotated[Slo, BeforeValidator(slo_input, json_schema_input_type=str | Slo)]
"""Of a request: short form or object."""

SloOrNone = Annotated[Slo | None, BeforeValidator(slo_input, json_schema_input_type=str | Slo | None)]
