"""What is asked of ``plan export``: a document, a target, and what the document cannot know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from planner.contract.documents import LONGEST_TEXT, Document
from planner.contract.engine import FrameworkName
from planner.contract.published import EDITED, EDITED_HINT, Published
from planner.exports.values import Values
from planner.power.document import PowerPlan, parse_power_plan
from planner.serving.document.plan import Plan, parse_plan
from planner.training.document import TrainingPlan, parse_training_plan
from profiles.values import shown

_OPENS: dict[str, Callable[[str, str], Published]] = {
    "serving": parse_plan,
    "training": parse_training_plan,
    "power": parse_power_plan,
}


def _opened(value: Any) -> Any:
    """One of an older schema opens here as it does everywhere."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind", "serving")
    if not isinstance(kind, str) or kind not in _OPENS:
        raise ValueError(f"is of kind {shown(kind)}; exported are {', '.join(_OPENS)}")
    return _OPENS[kind](json.dumps(value), "request: plan")


class ExportRequest(Document):
    """A plan and where it is to run."""

    plan: Annotated[
        Plan | TrainingPlan | PowerPlan,
        BeforeValidator(_opened, json_schema_input_type=Plan | TrainingPlan | PowerPlan),
        Field(description="of kind serving, training or power"),
    ]
    to: str = Field(min_length=1, max_length=LONGEST_TEXT, description="the target: shell, kubernetes, …")
    values: Values = Field(default_factory=Values, description="what the plan cannot know")
    framework: FrameworkName | None = Field(default=None, description="another release than the plan's: vllm@0.33")
    assume_version: bool = Field(
        default=False, description="where a release's options are not known, take those of the nearest"
    )
    edited: bool = Field(default=False, strict=True, description="take a plan that was changed by hand")

    @model_validator(mode="after")
    def _as_it_was_made(self) -> ExportRequest:
        if self.plan.was_edited and not self.edited:
            raise ValueError(f"plan: {EDITED}; {EDITED_HINT.replace('--edited', 'edited: true')}")
        return self
