"""What is asked of ``plan simulate``: a plan, and the requests that it is to serve."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator, model_validator

from planner.contract.deployment import DeploymentDocument
from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, checked
from planner.contract.engine import LIMITS
from planner.contract.options import LOAD, Option
from planner.contract.published import EDITED, EDITED_HINT
from planner.contract.workload.slo import SloOrNone
from planner.contract.workload.workload import Workload, WorkloadOrNone
from planner.serving.configuration import RecipeAsked
from planner.serving.document.opening import LENGTHS_HINT, RunningGiven, running_of
from planner.serving.document.plan import Plan
from profiles.values import shown

if TYPE_CHECKING:
    from costmodels.serving.simulator.arrivals import Requests

REQUESTS = 5000
"""Requests drawn for a rate: enough for a p99."""

MOST_REQUESTS = 10_000_000
"""Of one simulation: more than memory has room for."""

_GAMMA = re.compile(r"gamma:(?P<cv>[0-9]*\.?[0-9]+)", re.ASCII)

Tokens = Annotated[int, Field(gt=0, le=10**9), PLAIN_NUMBER]
Seconds = Annotated[float, Field(ge=0), PLAIN_NUMBER]


Seed = Annotated[
    int,
    Field(ge=0, le=2**63, description="of the arrivals and of the gateway's choices"),
    PLAIN_NUMBER,
    Option(panel=LOAD),
]


class Trace(Document):
    """Recorded requests, in the order they came."""

    name: str = Field(min_length=1, max_length=LONGEST_TEXT, description="what reports call it")
    arrival_s: tuple[Seconds, ...] = Field(min_length=1, description="after the first, which comes at 0")
    begins_s: Seconds = Field(
        default=0.0,
        description="when the first comes, after the start of a plan's schedule; without one it counts nothing",
    )
    skipped: Annotated[int, Field(ge=0), PLAIN_NUMBER] = Field(
        default=0, description="requests without output, left out"
    )
    isl: tuple[Tokens, ...] = Field(min_length=1, description="tokens of each prompt")
    osl: tuple[Tokens, ...] = Field(min_length=1, description="tokens of each answer")

    @classmethod
    def read(cls, path: Path, *, first: int | None = None, skip_failed: bool = False) -> Trace:
        """The trace in a file, or its ``first`` rows. Arguments and errors as of
        :func:`planner.contract.workload.traces.recorded`."""
        from planner.contract.workload.traces import recorded

        found = recorded(path, first=first, skip_failed=skip_failed)
        return cls(
            name=found.name,
            arrival_s=found.seconds.tolist(),
            begins_s=max(found.begins_s, 0.0),
            isl=found.isl.tolist(),
            osl=found.osl.tolist(),
            skipped=found.skipped,
        )

    @model_validator(mode="after")
    def _as_many_of_each(self) -> Trace:
        counts = {len(self.arrival_s), len(self.isl), len(self.osl)}
        if len(counts) > 1:
            raise ValueError("arrival_s, isl and osl are not equally long; give one of each for every request")
        return self


class LoadAsked(Document):
    """What is replayed, and the requests that come."""

    plan: Annotated[RunningGiven, Field(description="as `plan` or `plan import` made it")]
    trace: Trace | None = Field(default=None, description="recorded requests; or give a rate")
    workload: Annotated[
        WorkloadOrNone,
        Field(description="requests of other lengths than the plan's, at a rate: short form or object"),
        Option(
            "Requests that come at random: isl=4000,osl=500,rate=18[,spread=0.8-1,requests=5000], or "
            "dataset=sharegpt,rate=18, or a trace's. --rate and --requests go before it.",
            LOAD,
        ),
    ] = None
    rate: Annotated[
        Annotated[float, Field(gt=0, le=1e9), PLAIN_NUMBER] | None,
        Field(description="requests per second of the plan's lengths, that come at random; default: the plan's own"),
        Option(
            "Instead: requests per second of the plan's lengths. Default: the plan's own.",
            LOAD,
            metavar="RPS",
        ),
    ] = None
    requests: Annotated[
        Annotated[int, Field(le=MOST_REQUESTS), PLAIN_NUMBER] | None,
        Field(description=f"how many; default: {REQUESTS} of a rate, all of a trace"),
        Option(f"How many. Default: {REQUESTS:,}; all of a trace.", LOAD, metavar="N"),
    ] = None
    arrivals: Annotated[
        str | None,
        Field(
            max_length=LONGEST_TEXT,
            description="of a rate: poisson (default), or gamma:CV with the coefficient of variation of the gaps",
        ),
        Option(
            "Of --rate: poisson (default), or gamma:CV with the coefficient of variation of the gaps.",
            LOAD,
            metavar="KIND",
        ),
    ] = None
    speed: Annotated[
        Annotated[float, Field(gt=0, le=1e9), PLAIN_NUMBER] | None,
        Field(description="of a trace: requests come so many times as fast"),
        Option("Of --trace: requests come so many times as fast.", LOAD, metavar="FACTOR"),
    ] = None
    slo: Annotated[
        SloOrNone,
        Field(description="promises to judge by, short form or object; null: the plan's own, none of a deployment"),
        Option("Promises to judge by: ttft=1s,tpot=30ms. Default: the plan's; none of a deployment.", LOAD),
    ] = None
    service: Annotated[
        str | None,
        Field(
            max_length=LONGEST_TEXT, description="of a fleet: whose requests the trace holds; the others come at random"
        ),
        Option("Of a fleet: whose requests the trace holds; the others' come at random.", LOAD, metavar="NAME"),
    ] = None
    fail: Annotated[
        str | None,
        Field(max_length=LONGEST_TEXT, description="of a fleet: what is lost when, in the words of --fail"),
        Option(
            "Of a fleet: what is lost when: engine-0@3600 (all of a group, at second 3600), "
            "2*engine-0@3600+600 (two, for "
            "600 s), spot:H100-SXM@7200 (a pool's spot GPUs); several with commas.",
            LOAD,
            metavar="WHAT@SECOND",
        ),
    ] = None


Edited = Annotated[
    bool,
    Field(description="go on with a plan that was edited since it was made"),
    Option("Go on with a plan that was edited since it was made; the answer says so.", LOAD),
]


class SimulationRequest(RecipeAsked, LoadAsked):
    """Everything a report depends on, beside the measurements and the program's version."""

    seed: Seed = 0
    edited: Edited = False

    @property
    def limits(self) -> dict[str, float]:
        """What is said of how engines are started in place of what the plan says, under the plan's names."""
        said = {theirs: getattr(self, ours) for ours, theirs in LIMITS.items()}
        return {name: value for name, value in said.items() if value is not None}

    @field_validator("arrivals")
    @classmethod
    def _known(cls, text: str | None) -> str | None:
        if text not in (None, "poisson"):
            gamma = _GAMMA.fullmatch(text)
            if gamma is None or float(gamma["cv"]) == 0:
                raise ValueError(
                    f"{shown(text)} is not known; write poisson, or for example gamma:2 (gaps that vary by twice their "
                    "mean)"
                )
        return text

    @field_validator("requests")
    @classmethod
    def _some(cls, count: int | None) -> int | None:
        if count is not None and count < 1:
            raise ValueError(f"{count} is not at least 1; give the number of requests")
        return count

    @model_validator(mode="after")
    def _as_it_was_made(self) -> SimulationRequest:
        if self.plan.was_edited and not self.edited:
            raise ValueError(f"plan: {EDITED}; {EDITED_HINT}")
        return self

    def workload_of(self, load: Requests) -> Workload | None:
        """What the engines are asked to serve; None: what the plan was made for."""
        if isinstance(self.plan, Plan):
            return None
        if self.workload is not None:
            return self.workload
        isl, osl = (max(round(float(lengths.mean())), 1) for lengths in (load.isl, load.osl))
        return Workload(isl=isl, osl=osl)

    @model_validator(mode="after")
    def _one_load(self) -> SimulationRequest:
        if self.trace is not None and (self.rate is not None or self.workload is not None):
            beside = "rate" if self.rate is not None else "workload"
            raise ValueError(f"trace and {beside}: both are given; for example: --rate 18, or --trace requests.csv")
        scheduled = isinstance(self.plan, Plan) and bool(self.plan.decision.schedule)
        for name in ("service", "fail"):
            if getattr(self, name) is not None and not scheduled:
                raise ValueError(f"{name}: has no effect on a plan without a schedule; leave it out, or give a fleet")
        if scheduled and self.workload is not None:
            raise ValueError(
                "workload: a fleet has its own load; give --trace, --rate, or nothing for the load it is for"
            )
        if self.users is not None and any(group.role != "aggregated" for group in running_of(self.plan).engines):
            raise ValueError(
                "workload: concurrency: users at once are replayed on engines that both prefill and decode, each user "
                "at one of them; give a rate"
            )
        if self.users is not None and self.arrivals is not None:
            raise ValueError("arrivals: has no effect with users at once, who ask when they are answered; leave it out")
        if self.trace is None and self.rate_rps is None and self.users is None and not scheduled:
            raise ValueError(
                "trace and rate: one of them is needed; for example: --workload isl=4000,osl=500,rate=18, or --trace "
                "requests.csv"
            )
        if self.trace is not None and self.arrivals is not None:
            raise ValueError("arrivals: has no effect with a trace, which says when requests come; leave it out")
        if self.trace is None and self.speed is not None:
            raise ValueError("speed: has no effect with a rate; give the rate that you want")
        if isinstance(self.plan, DeploymentDocument):
            if self.trace is None and self.workload is None:
                raise ValueError(f"workload: a deployment does not say what requests are like; {LENGTHS_HINT}")
            return self
        engines = self.plan.request.workload
        for name in ("prefix_hit", "speculation", "routing"):
            work = self.workload
            given = work is not None and work.recorded is None and name in work.model_fields_set
            if given and getattr(work, name) != getattr(engines, name):
                raise ValueError(
                    f"workload: {name} is not the plan's, which chose its engines for it; leave it out, or plan anew"
                )
        return self

    @property
    def rate_rps(self) -> float | None:
        """Of requests that come at random; null: the trace says when they come, or nothing does."""
        if self.rate is None and self.is_own_load and isinstance(self.plan, Plan):
            return self.plan.prediction.request_rate_rps.value
        return self.rate or (None if self.workload is None else self.workload.rate_rps)

    @property
    def is_own_load(self) -> bool:
        """Whether nothing is said of the load: a plan is replayed at the rate that it promises."""
        return self.rate is None and self.workload is None and self.trace is None

    @property
    def users(self) -> int | None:
        """Users at once, each of whom asks again when it is answered; None: requests come when they come."""
        return None if self.workload is None or self.rate is not None else self.workload.concurrency

    @property
    def cv(self) -> float:
        """Coefficient of variation of the gaps between requests of a rate; 1 is Poisson."""
        gamma = None if self.arrivals is None else _GAMMA.fullmatch(self.arrivals)
        return 1.0 if gamma is None else float(gamma["cv"])


def parse_simulation_request(value: Mapping[str, Any]) -> SimulationRequest:
    """A request from a mapping. Raises InputError with the first field that is wrong."""
    return checked(SimulationRequest, value, "request", schema="simulation-request")
