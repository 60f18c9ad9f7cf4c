"""What is asked of ``plan compare``: plans or deployments, a load and promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from planner.contract.deployment import DeploymentDocument
from planner.contract.documents import Document, Name, checked
from planner.contract.options import LOAD, Option
from planner.contract.published import EDITED, EDITED_HINT
from planner.contract.workload.slo import SloOrNone
from planner.contract.workload.workload import WorkloadOrNone
from planner.replay.request import Edited, Seed
from planner.serving.document.opening import opened
from planner.serving.document.plan import Plan
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import shown

MOST_SIDES = 8


def _opened_all(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    return tuple(
        opened(each, f"request: documents.{place}") if isinstance(each, Mapping) else each
        for place, each in enumerate(value)
    )


WorkloadAsked = Annotated[
    WorkloadOrNone,
    Field(description="short form (isl=4000,osl=500,rate=20) or object; null: that of the first plan"),
    Option(
        "The load of all: isl=4000,osl=500,rate=18, or concurrency=64; without either, a little below what the "
        "weakest carries. Default: the first plan's.",
        LOAD,
    ),
]
SloAsked = Annotated[
    SloOrNone,
    Field(description="short form (ttft=1s,tpot=30ms) or object; null: that of the first plan"),
    Option("Promises to all: ttft=1s,tpot=30ms. Default: the first plan's.", LOAD),
]


class ComparisonRequest(Document):
    """Everything a comparison depends on, beside the measurements and the program's version."""

    documents: Annotated[
        tuple[Plan | DeploymentDocument, ...],
        BeforeValidator(_opened_all, json_schema_input_type=list[Plan | DeploymentDocument]),
        Field(
            min_length=1,
            max_length=MOST_SIDES,
            description="plans and deployments; one alone is compared with a new plan on the same GPUs",
        ),
    ]
    names: tuple[Name, ...] = Field(default=(), description="what the answer calls them; default: A, B, …")
    workload: WorkloadAsked = None
    slo: SloAsked = None
    seed: Seed = 0
    edited: Edited = False

    @model_validator(mode="after")
    def _says_enough(self) -> ComparisonRequest:
        for name, document in zip(self.called, self.documents, strict=False):
            if document.was_edited and not self.edited:
                raise ValueError(f"documents: {shown(name)} was {EDITED}; {EDITED_HINT}")
        if self.names and len(self.names) != len(self.documents):
            raise ValueError("names: are not as many as documents; give one for each, or none")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names: two are alike; give each its own")
        if self.workload is None and not any(isinstance(each, Plan) for each in self.documents):
            raise ValueError(
                "workload: a deployment does not say what requests are like; write isl=4000,osl=500,rate=18"
            )
        return self

    @property
    def called(self) -> tuple[str, ...]:
        """What each is called."""
        return self.names or tuple(chr(ord("A") + place) for place in range(len(self.documents)))


def parse_comparison_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> ComparisonRequest:
    """A request from a mapping. Raises InputError with the first field that is wrong."""
    return checked(ComparisonRequest, value, "request", catalogue, schema="comparison-request")
