"""What a user asks for: the request document and the short grammars of its parts.

Every part may be given as an object or in its short form (``"16xH200"``, ``"ttft=1s,tpot=30ms"``,
``"isl=4000,osl=500"``); both arrive at the same validated objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from planner.contract.clusters import (
    MOST_GPUS,
    Cluster,
    ClusterInput,
    cluster_input,
)
from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, checked
from planner.contract.engine import FrameworkName, KvPrecisionName, PrecisionName
from planner.contract.workload.slo import Slo, parse_slo
from planner.contract.workload.workload import Workload, parse_workload
from profiles.errors import UnknownName
from profiles.hardware import SHIPPED, Catalogue

Objective = Literal["throughput", "cost", "gpus", "latency"]
Disaggregation = Literal["auto", "never", "always"]


Degree = Annotated[int, Field(gt=0, le=MOST_GPUS), PLAIN_NUMBER]


# ------------------------------------------------------------------ the short forms


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
