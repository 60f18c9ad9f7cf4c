"""What is asked of ``plan check``: what runs, a load and promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from planner.compare.request import SloAsked, WorkloadAsked
from planner.contract.documents import checked
from planner.contract.published import EDITED, EDITED_HINT
from planner.imports.request import RunningText
from planner.replay.request import Edited, Seed
from planner.serving.document.opening import RunningOrNone
from planner.serving.document.plan import Plan
from profiles.hardware import SHIPPED, Catalogue


class CheckRequest(RunningText):
    """What runs, the load and the promises."""

    plan: Annotated[RunningOrNone, Field(description="instead of a text: a plan or a deployment")] = None
    workload: WorkloadAsked = None
    slo: SloAsked = None
    seed: Seed = 0
    edited: Edited = False

    @model_validator(mode="after")
    def _one_thing(self) -> CheckRequest:
        if self.plan is not None:
            if self.text.strip() or self.files:
                raise ValueError("text: a plan is given too; give one of them")
            if self.plan.was_edited and not self.edited:
                raise ValueError(f"plan: {EDITED}; {EDITED_HINT}")
        if self.slo is not None and self.workload is None and not isinstance(self.plan, Plan):
            raise ValueError("slo: needs a workload; write isl=4000,osl=500,rate=8")
        return self


def parse_check_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> CheckRequest:
    """A request from a mapping. Raises InputError with the first field that is wrong."""
    return checked(CheckRequest, value, "request", catalogue, schema="check-request")
