"""What a user asks for: the request document and the short grammars of its parts.

Every part may be given as an object or in its short form (``"16xH200"``, ``"ttft=1s,tpot=30ms"``,
``"isl=4000,osl=500"``); both arrive at the same validated objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from costmodels.power.state import check_words
from planner.contract.clusters import MOST_GPUS, ClusterGiven
from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, checked
from planner.contract.engine import FrameworkName, KvPrecisionName, PrecisionName
from planner.contract.models import ModelAsked
from planner.contract.options import ASKED, RELEASE_HELP, RESTRICTED, Option
from planner.contract.quantities import as_watts
from planner.contract.words import kv_precision, weights_word
from planner.contract.workload.slo import Slo, SloGiven
from planner.contract.workload.workload import WorkloadGiven
from planner.serving.configuration import (
    DispatchTokensAsked,
    EplbAsked,
    ExchangeAsked,
    OverlapAsked,
    RecipeAsked,
    RedundantAsked,
)
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import number, shown

Objective = Literal["throughput", "cost", "gpus", "latency", "energy"]
Disaggregation = Literal["auto", "never", "always"]


Degree = Annotated[int, Field(gt=0, le=MOST_GPUS), PLAIN_NUMBER]


# ------------------------------------------------------------------ the short forms


def _choices(field: str, known: tuple[str, ...], ours: Callable[[str], str], value: Any) -> Any:
    """``"fp8"``, ``"bf16,fp8"``, ``"any"`` or a list of names as a list of ``ours``, each once."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return value  # the schema says what is wrong with it
    names = [name if name in known else ours(name) for name in names]
    for name in names:
        if name not in (*known, "any"):
            raise UnknownName(field, name, (*known, "any"), f"choose from {', '.join(known)}, or any")
    return tuple(dict.fromkeys(names))


def _states(field: str, value: Any) -> Any:
    """``"1400MHz"``, ``"1400MHz,1100MHz"``, ``"any"`` or a list of them, as a list."""
    texts = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(each, str) for each in texts):
        return value  # the schema says what is wrong with it
    try:
        return tuple(dict.fromkeys(check_words(each, field) for each in texts))
    except InputError as error:
        raise ValueError(f"{error.message.removeprefix(f'{field}: ')}; {error.hint}") from error


# ------------------------------------------------------------------ the request

_weights = partial(_choices, "precision", get_args(PrecisionName), weights_word)
_caches = partial(_choices, "kv_precision", get_args(KvPrecisionName), kv_precision)
_Names = str | list[str] | None

Choices = Annotated[
    Annotated[tuple[PrecisionName | Literal["any"], ...], Field(min_length=1)] | None,
    BeforeValidator(_weights, json_schema_input_type=_Names),
    Field(description="of weights: one, several to choose from, or any; default: as published"),
]
KvChoices = Annotated[
    Annotated[tuple[KvPrecisionName | Literal["any"], ...], Field(min_length=1)] | None,
    BeforeValidator(_caches, json_schema_input_type=_Names),
    Field(
        description="of the KV cache: one, several to choose from, or any; default: what the framework takes for the "
        "checkpoint"
    ),
]


UsdPerKwh = Annotated[
    Annotated[float, Field(ge=0, le=1000), PLAIN_NUMBER] | None,
    Field(description="price of electricity; null: it is not priced"),
    Option("Price of electricity, in USD per kWh.", ASKED, metavar="USD"),
]


_State = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
States = Annotated[tuple[_State, ...], Field(min_length=1, max_length=64)]


def as_share(value: Any) -> Any:
    """``"20%"`` as 0.2."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    found = number(text.removesuffix("%"))
    if found is None:
        raise ValueError(f"{shown(value)} is not a share; write for example 20% or 0.2")
    return found / 100 if text.endswith("%") else found


class PlanAsked(Document):
    """What is to be planned."""

    model: Annotated[ModelAsked, Option("Name (`plan models`), or path of a config.json.", ASKED)]
    cluster: Annotated[
        ClusterGiven,
        Field(description="short form (16xH200, 2x8xH100, joined by +, a bundled name) or object"),
        Option(
            "16xH200, 2x8xH100 (nodes x GPUs), several joined by +, a YAML file, or a name (`plan gpus --clusters`).",
            ASKED,
        ),
    ]
    slo: Annotated[
        SloGiven,
        Field(description="short form (ttft=1s,tpot=30ms,e2e_p99=20s) or object"),
        Option("ttft=1s,tpot=30ms,e2e_p99=20s: upper bounds, p90 unless said. Default: none.", ASKED),
    ] = Slo()
    workload: Annotated[
        WorkloadGiven,
        Field(description="short form (isl=4000,osl=500,rate=20) or object"),
        Option(
            "isl=4000,osl=500[,rate=20]: tokens in, tokens out (128k, 1K), requests/s (default: as many as fit); or a "
            "trace: requests.csv[,rate=p95]. Also max_len=16k (longest request served); spread=0.8-1 (lengths even "
            "between these shares) or dataset=sharegpt (lengths of a public data set); prefix_hit=0.5 (share of a "
            "prompt in the prefix cache); draft=4,acceptance=0.7[,draft_cost=0.05] (speculative decoding).",
            ASKED,
        ),
    ]
    objective: Annotated[
        Objective | None,
        Field(
            description="default: throughput without a rate, cost with one (gpus where no price is known); energy: "
            "joules per output token"
        ),
        Option(
            "throughput, cost, gpus, latency or energy (joules per token). Default: throughput without a rate, cost "
            "with one.",
            ASKED,
        ),
    ] = None
    framework: Annotated[FrameworkName, Option(RELEASE_HELP, ASKED)] = "vllm"
    precision: Annotated[
        Choices,
        Option(
            "Weights: bf16, fp8, fp8_block, nvfp4, ...; several joined by commas, or any, to choose from. "
            "Default: as published.",
            ASKED,
        ),
    ] = None
    kv_precision: Annotated[
        KvChoices,
        Option(
            "KV cache: bf16 or fp8 (default: what the framework takes for the checkpoint); bf16,fp8 or any to choose "
            "from.",
            ASKED,
        ),
    ] = None


class PlanRequest(RecipeAsked, PlanAsked):
    """Everything a plan depends on, beside the measurements and the program's version."""

    clock: Annotated[
        States | None,
        BeforeValidator(partial(_states, "clock"), json_schema_input_type=_Names),
        Field(description="highest SM clock of each GPU: 1400MHz, several to choose from by role and pool, or any"),
        Option("Highest SM clock of each GPU: 1400MHz; several, or any, to choose from by role.", ASKED, None, "MHZ"),
    ] = None
    power_cap: Annotated[
        States | None,
        BeforeValidator(partial(_states, "power_cap"), json_schema_input_type=_Names),
        Field(description="board power limit of each GPU: 500W, several to choose from by role and pool, or any"),
        Option("Board power limit of each GPU: 500W; several, or any, to choose from by role.", ASKED, None, "WATTS"),
    ] = None
    budget_watts: Annotated[
        Annotated[float, Field(gt=0, le=1e10), PLAIN_NUMBER] | None,
        BeforeValidator(partial(as_watts, "budget_watts"), json_schema_input_type=float | str | None),
        Field(description="of all GPUs together, mean, with every engine at the load that it can carry: 12kW"),
        Option(
            "What all GPUs together may draw on average, each engine at the load that it can carry: 12kW.",
            ASKED,
            metavar="WATTS",
            text=True,
        ),
    ] = None
    usd_per_kwh: UsdPerKwh = None
    disaggregation: Annotated[
        Disaggregation,
        Field(
            description="engines that prefill apart from engines that decode: where that is better, never, or always"
        ),
        Option(
            "Engines that prefill apart from engines that decode: auto (where it is better), never or always. "
            "Default: auto.",
            ASKED,
            show_default=False,
        ),
    ] = "auto"
    confidence: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="probability with which each bound of the SLO must hold; the prediction is uncertain",
        ),
        PLAIN_NUMBER,
        Option("Probability with which each bound of the SLO must hold, given the prediction's uncertainty.", ASKED),
    ] = 0.5
    headroom: Annotated[
        Annotated[float, Field(ge=0, le=10), PLAIN_NUMBER],
        BeforeValidator(as_share, json_schema_input_type=float | str),
        Field(description="the plan is for the rate and this share of it more: 0.2 or 20%"),
        Option("Plan for this much more than the rate: 20%.", ASKED, metavar="SHARE", show_default=False, text=True),
    ] = 0.0
    max_tp: Annotated[
        Degree | None,
        Field(description="largest tensor-parallel degree"),
        Option(panel=RESTRICTED),
    ] = None
    max_pp: Annotated[Degree | None, Field(description="most pipeline stages"), Option(panel=RESTRICTED)] = None
    max_engine_gpus: Annotated[
        Degree | None,
        Field(description="most GPUs of one engine"),
        Option(panel=RESTRICTED),
    ] = None
    tp_across_nodes: Annotated[
        bool,
        Field(strict=True, description="allow a tensor-parallel group to span nodes"),
        Option("Tensor parallel may span nodes.", RESTRICTED),
    ] = False
    exchange: ExchangeAsked = None
    redundant: RedundantAsked = None
    overlap: OverlapAsked = None
    eplb: EplbAsked = None
    dispatch_tokens: DispatchTokensAsked = None
    time_limit_s: Annotated[
        float,
        Field(gt=0, le=3600, description="of the solver"),
        PLAIN_NUMBER,
        Option("Seconds for the solver. Default: 30.", RESTRICTED, name="time_limit", show_default=False),
    ] = 30.0
    solver: Annotated[
        Literal["highs", "cp-sat"],
        Field(description="of the integer programme: HiGHS, or OR-Tools' CP-SAT where all of it is whole numbers"),
        Option("What solves the integer programme: highs, or cp-sat to have it checked by another.", RESTRICTED),
    ] = "highs"
    simulation: Annotated[
        bool,
        Field(
            strict=True,
            description="simulate the chosen engines and count on no more than they carry there; false: formulas alone",
        ),
        Option(
            "Simulate the chosen engines, and count on no more than they carry there; without, by formulas alone.",
            RESTRICTED,
        ),
    ] = True

    @model_validator(mode="after")
    def _objective_fits(self) -> PlanRequest:
        if self.objective in ("cost", "gpus") and not self.workload.has_load:
            raise ValueError(f"objective: {self.objective} needs a rate; add rate=… to the workload")
        if self.objective == "throughput" and self.workload.concurrency is not None:
            raise ValueError(
                "objective: throughput is for as many requests as fit, not for so many users at once; leave out "
                "concurrency, or the objective"
            )
        if self.workload.requests is not None:
            raise ValueError(
                "workload: requests has no effect in a plan, which sends as many as its promises need; leave it out, "
                "or give it to `plan simulate`"
            )
        if self.headroom and not self.workload.has_load:
            raise ValueError("headroom: there is no rate to plan for more than; add rate=… to the workload")
        if any(pool.as_needed for pool in self.cluster.pools):
            open_ended = ", ".join(pool.name for pool in self.cluster.pools if pool.as_needed)
            if not self.workload.has_load:
                raise ValueError(
                    f"cluster: as many {open_ended} as are needed says nothing without a rate; add rate=… to the "
                    f"workload, or say how many: 8x{self.cluster.pools[0].gpu}"
                )
            if self.objective in ("throughput", "latency", "energy"):
                raise ValueError(
                    f"objective: {self.objective} has no end where there are as many {open_ended} as are needed; "
                    f"leave it out, or say how many: 8x{self.cluster.pools[0].gpu}"
                )
        if self.workload.osl == 1:
            if any(bound.metric == "tpot" for bound in self.slo.bounds):
                raise ValueError("slo: tpot with osl=1: no token follows the first; leave it out, or raise osl")
            if self.workload.speculation is not None:
                raise ValueError("workload: speculation with osl=1: no token follows the first; leave draft out")
            if self.disaggregation == "always":
                raise ValueError("disaggregation: always with osl=1: nothing is left to decode; leave it out")
        return self

    @property
    def with_headroom(self) -> PlanRequest:
        """The request for the rate, or the users at once, that are planned for."""
        work = self.workload
        update: dict[str, float] = {}
        if work.rate_rps is not None:
            update = {"rate_rps": work.rate_rps * (1 + self.headroom)}
        elif work.concurrency is not None:
            update = {"concurrency": math.ceil(work.concurrency * (1 + self.headroom) - 1e-9)}
        if not self.headroom or not update:
            return self
        more = work.model_copy(update=update)
        return self.model_copy(update={"workload": more})

    @property
    def goal(self) -> Objective:
        """The objective, defaults applied."""
        if self.objective is not None:
            return self.objective
        if not self.workload.has_load:
            return "throughput"
        priced = all(pool.usd_per_gpu_hour is not None for pool in self.cluster.pools)
        return "cost" if priced else "gpus"


def parse_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> PlanRequest:
    """A request from a mapping (JSON, YAML or keyword arguments), its GPUs looked up in ``catalogue``.

    Raises:
        InputError: with the first field that is wrong, its value and what to do.
    """
    return checked(PlanRequest, value, "request", catalogue, schema="serving-request")
