"""What a user asks for: the request document and the short grammars of its parts.

Every part may be given as an object or in its short form (``"16xH200"``, ``"ttft=1s,tpot=30ms"``,
``"isl=4000,osl=500"``); both arrive at the same validated objects.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from planner.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, checked, shown, validation_error
from planner.pools import (
    MOST_GPUS,
    Cluster,
    ClusterInput,
    Pool,
    bundled_clusters,
    cluster_input,
    parse_cluster,
    read_cluster,
)
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, Catalogue

Metric = Literal["ttft", "tpot", "e2e"]
Objective = Literal["throughput", "cost", "gpus", "latency"]
FrameworkName = Literal["vllm", "sglang", "trtllm"]
PrecisionName = Literal["bf16", "fp8", "fp8_block", "nvfp4", "mxfp4", "int4"]
KvPrecisionName = Literal["bf16", "fp8"]
Disaggregation = Literal["auto", "never", "always"]
RoutingName = Literal["balanced", "power_law_1.01", "power_law_1.2"]

DEFAULT_PERCENTILE = 90.0
"""An SLO without a percentile is a promise to nine requests in ten, as in DistServe (arXiv:2401.09670 §6)."""


Tokens = Annotated[int, Field(gt=0, le=10**9), PLAIN_NUMBER]
Degree = Annotated[int, Field(gt=0, le=MOST_GPUS), PLAIN_NUMBER]


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


# ------------------------------------------------------------------ the short forms

_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?"
_TIME = re.compile(rf"(?P<number>{_NUMBER})\s*(?P<unit>us|µs|ms|s|min)", re.IGNORECASE | re.ASCII)
_MILLISECONDS = {"us": "0.001", "µs": "0.001", "ms": "1", "s": "1000", "min": "60000"}
_METRIC = re.compile(
    r"(?P<metric>ttft|tpot|itl|e2e)(?:_p(?P<percentile>[0-9]+(?:\.[0-9]+)?))?", re.IGNORECASE | re.ASCII
)
_UNITS = "units are us, ms, s, min"
_SLO_HELP = "write for example ttft=1s,tpot=30ms or ttft_p99=2s,e2e=20s (itl means tpot)"


def _items(text: str, field: str, hint: str) -> Iterator[tuple[str, str]]:
    """``a=1,b=2`` as (name, value) pairs; a value may be empty, an item not."""
    if len(text) > LONGEST_TEXT:
        raise InputError(f"{field}: {shown(text)} is longer than {LONGEST_TEXT} characters", hint)
    if not text.strip():
        return
    for item in text.split(","):
        name, _, value = (piece.strip() for piece in item.partition("="))
        if not name and not value:
            raise InputError(f"{field}: {shown(text)} has a comma too many", hint)
        yield name, value


def parse_slo(text: str) -> Slo:
    """``ttft=1s,tpot=30ms,e2e_p99=20s``; ``itl`` is accepted for ``tpot``; without a percentile, p90.

    An empty text makes no promise.

    Raises:
        InputError: naming the item that is not understood.
    """
    bounds = []
    for name, value in _items(text, "slo", _SLO_HELP):
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


_WORKLOAD = {
    "isl": (re.compile(r"-?[0-9]+"), "a whole number of tokens"),
    "osl": (re.compile(r"-?[0-9]+"), "a whole number of tokens"),
    "rate": (re.compile(rf"(-?{_NUMBER})\s*(?:rps|/s)?", re.IGNORECASE | re.ASCII), "a rate"),
    "routing": (re.compile(r".+", re.DOTALL), "a routing"),
    "prefix_hit": (re.compile(rf"(-?{_NUMBER})", re.IGNORECASE | re.ASCII), "a share, as in prefix_hit=0.5"),
    "draft": (re.compile(r"-?[0-9]+"), "a whole number of tokens, as in draft=4"),
    "acceptance": (re.compile(rf"(-?{_NUMBER})", re.IGNORECASE | re.ASCII), "a probability, as in acceptance=0.7"),
    "draft_cost": (re.compile(rf"(-?{_NUMBER})", re.IGNORECASE | re.ASCII), "a share of a step, as in draft_cost=0.05"),
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
    for name, value in _items(text, "workload", _WORKLOAD_HELP):
        if name not in _WORKLOAD:
            raise UnknownName("workload name", name, _WORKLOAD)
        if name in fields:
            raise InputError(f"workload: {name} is given twice", "keep one of them")
        pattern, kind = _WORKLOAD[name]
        match = pattern.fullmatch(value)
        if match is None:
            raise InputError(f"workload: {name}={shown(value)} is not {kind}", _WORKLOAD_HELP)
        fields[name] = value if name == "routing" else float(match[1]) if pattern.groups else int(value)
    speculation = {_WORKLOAD_FIELDS.get(name, name): fields.pop(name) for name in _SPECULATION if name in fields}
    for name, field in (("draft", "draft_tokens"), ("acceptance", "acceptance")):
        if speculation and field not in speculation:
            raise InputError(f"workload: {name} is missing, which speculative decoding needs", _SPECULATION_HELP)
    document: dict[str, object] = {_WORKLOAD_FIELDS.get(name, name): value for name, value in fields.items()}
    if speculation:
        document["speculation"] = checked(Speculation, speculation, "workload")
    return checked(Workload, document, "workload")


def _choices(field: str, known: tuple[str, ...], value: Any) -> Any:
    """``"fp8"``, ``"bf16,fp8"``, ``"any"`` or a list of names as a list of names, each once."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return value  # the schema says what is wrong with it
    for name in names:
        if name not in (*known, "any"):
            raise UnknownName(field, name, (*known, "any"), f"choose from {', '.join(known)}, or any")
    return tuple(dict.fromkeys(names))


def _from_slo(value: Any) -> Any:
    return parse_slo(value) if isinstance(value, str) else value


def _from_workload(value: Any) -> Any:
    return parse_workload(value) if isinstance(value, str) else value


# ------------------------------------------------------------------ the request

_Names = str | list[str] | None


class PlanRequest(Document):
    """Everything a plan depends on, beside the measurements and the program's version."""

    model: str = Field(
        min_length=1,
        max_length=LONGEST_TEXT,
        description="bundled name (`plan models`), or path of a config.json (CLI only)",
    )
    cluster: Annotated[
        Cluster,
        BeforeValidator(cluster_input, json_schema_input_type=str | ClusterInput),
        Field(description="short form (16xH200, 2x8xH100, joined by +, a bundled name) or object"),
    ]
    slo: Annotated[
        Slo,
        BeforeValidator(_from_slo, json_schema_input_type=str | Slo),
        Field(description="short form (ttft=1s,tpot=30ms,e2e_p99=20s) or object"),
    ] = Slo()
    workload: Annotated[
        Workload,
        BeforeValidator(_from_workload, json_schema_input_type=str | Workload),
        Field(description="short form (isl=4000,osl=500,rate=20) or object"),
    ]
    objective: Objective | None = Field(
        default=None,
        description="default: throughput without a rate, cost with one (gpus where no price is known)",
    )
    framework: FrameworkName = "vllm"
    precision: Annotated[
        Annotated[tuple[PrecisionName | Literal["any"], ...], Field(min_length=1)] | None,
        BeforeValidator(partial(_choices, "precision", get_args(PrecisionName)), json_schema_input_type=_Names),
        Field(description="of weights: one, several to choose from, or any; default: as published"),
    ] = None
    kv_precision: Annotated[
        Annotated[tuple[KvPrecisionName | Literal["any"], ...], Field(min_length=1)] | None,
        BeforeValidator(partial(_choices, "kv_precision", get_args(KvPrecisionName)), json_schema_input_type=_Names),
        Field(description="of the KV cache: one, several to choose from, or any; default: bf16"),
    ] = None
    disaggregation: Disaggregation = Field(
        default="auto",
        description="engines that prefill apart from engines that decode: where that is better, never, or always",
    )
    confidence: Annotated[float, Field(gt=0, lt=1), PLAIN_NUMBER] = Field(
        default=0.5,
        description="probability with which each bound of the SLO must hold; the prediction is uncertain",
    )
    simulation: bool = Field(
        default=True,
        strict=True,
        description="simulate the chosen engines and count on no more than they carry there; false: formulas alone",
    )
    max_tp: Degree | None = Field(default=None, description="largest tensor-parallel degree")
    max_pp: Degree | None = Field(default=None, description="most pipeline stages")
    max_engine_gpus: Degree | None = Field(default=None, description="most GPUs of one engine")
    tp_across_nodes: bool = Field(default=False, strict=True, description="allow a tensor-parallel group to span nodes")
    time_limit_s: Annotated[float, Field(gt=0, le=3600), PLAIN_NUMBER] = Field(
        default=30.0, description="of the solver"
    )

    @model_validator(mode="after")
    def _objective_fits(self) -> PlanRequest:
        if self.objective in ("cost", "gpus") and self.workload.rate_rps is None:
            raise ValueError(f"objective: {self.objective} needs a rate; add rate=… to the workload")
        if self.workload.osl == 1:
            if any(bound.metric == "tpot" for bound in self.slo.bounds):
                raise ValueError("slo: tpot with osl=1: no token follows the first; leave it out, or raise osl")
            if self.workload.speculation is not None:
                raise ValueError("workload: speculation with osl=1: no token follows the first; leave draft out")
            if self.disaggregation == "always":
                raise ValueError("disaggregation: always with osl=1: nothing is left to decode; leave it out")
        return self

    @property
    def goal(self) -> Objective:
        """The objective, defaults applied."""
        if self.objective is not None:
            return self.objective
        if self.workload.rate_rps is None:
            return "throughput"
        priced = all(pool.usd_per_gpu_hour is not None for pool in self.cluster.pools)
        return "cost" if priced else "gpus"


def parse_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> PlanRequest:
    """A request from a mapping (JSON, YAML or keyword arguments), its GPUs looked up in ``catalogue``.

    Raises:
        InputError: with the first field that is wrong, its value and what to do.
    """
    return checked(PlanRequest, value, "request", catalogue)


__all__ = [
    "DEFAULT_PERCENTILE",
    "Bound",
    "Cluster",
    "Disaggregation",
    "Document",
    "FrameworkName",
    "KvPrecisionName",
    "Metric",
    "Objective",
    "PlanRequest",
    "Pool",
    "PrecisionName",
    "RoutingName",
    "Slo",
    "Speculation",
    "Workload",
    "bundled_clusters",
    "parse_cluster",
    "parse_request",
    "parse_slo",
    "parse_workload",
    "read_cluster",
    "validation_error",
]
