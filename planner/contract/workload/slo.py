"""Promises to users: bounds on latencies at percentiles."""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from planner.contract.documents import PLAIN_NUMBER, Document, checked
from planner.contract.workload.grammar import NUMBER, items
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
_METRIC = re.compile(
    r"(?P<metric>ttft|tpot|itl|e2e)(?:_p(?P<percentile>[0-9]+(?:\.[0-9]+)?))?", re.IGNORECASE | re.ASCII
)
_UNITS = "units are us, ms, s, min"
_SLO_HELP = "write for example ttft=1s,tpot=30ms or ttft_p99=2s,e2e=20s (itl means tpot)"


def parse_slo(text: str) -> Slo:
    """``ttft=1s,tpot=30ms,e2e_p99=20s``; ``itl`` is accepted for ``tpot``; without a percentile, p90.

    An empty text makes no promise.

    Raises:
        InputError: naming the item that is not understood.
    """
    bounds = []
    for name, value in items(text, "slo", _SLO_HELP):
        metric = _METRIC.fullmatch(name)
        if metric is None:
            raise InputError(f"slo: {shown(name)} is not a metric", _SLO_HELP)
        fields = {
            "metric": metric["metric"].lower().replace("itl", "tpot"),
            "percentile": float(metric["percentile"] or DEFAULT_PERCENTILE),
            "limit_ms": _milliseconds(name, value),
        }
        bounds.append(checked(Bound, fields, shown(f"slo {name}={value}").strip("'\"")))
    return checked(Slo, {"bounds": bounds}, "slo")


def _milliseconds(name: str, value: str) -> float:
    if not value:
        raise InputError(f"slo: {name} has no limit", f"{_UNITS}; {_SLO_HELP}")
    time = _TIME.fullmatch(value.replace("\u03bc", "\u00b5"))  # Greek mu for the micro sign
    if time is None:
        unit = "has no unit" if re.fullmatch(r"[0-9.]+", value) else "is not a time"
        raise InputError(f"slo: {name}={shown(value)} {unit}", f"{_UNITS}; {_SLO_HELP}")
    return float(Decimal(time["number"]) * Decimal(_MILLISECONDS[time["unit"].lower()]))
