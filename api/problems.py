"""One error shape for programs everywhere: RFC 9457 problem documents.

``type`` is a URN made of the error's class name, ``detail`` and ``hint`` are the same two lines that the command line
prints, ``pointer`` is where in the request the trouble is (RFC 6901), and ``details`` holds what a program may want
(field, nearest names, ...).
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from profiles.errors import ShardwrightError

MEDIA_TYPE = "application/problem+json"
URN = "urn:shardwright:problem:"


class Problem(BaseModel):
    """What is wrong, and what to do about it (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description=f"{URN}<kind>", examples=[f"{URN}unknown-name"])
    title: str = Field(description="the kind of problem, in words", examples=["Unknown name"])
    status: int = Field(description="the HTTP status", ge=400, le=599, examples=[422])
    detail: str = Field(
        description="what is wrong, naming the field and the value",
        examples=["model: 'Qwen/Qwen3-33B' is not known"],
    )
    hint: str = Field(description="what to do about it", examples=["nearest: Qwen/Qwen3-32B"])
    pointer: str | None = Field(
        default=None, description="JSON pointer into the request; null where it is not about one field"
    )
    details: dict[str, object] = Field(
        default_factory=dict,
        description="the same for programs; which keys there are depends on type",
        examples=[{"field": "model", "value": "Qwen/Qwen3-33B", "nearest": ["Qwen/Qwen3-32B"]}],
    )

    def to_json(self) -> str:
        """ASCII only: a lone surrogate in a message cannot break its encoding."""
        return json.dumps(self.model_dump(), allow_nan=False) + "\n"


def problem_of(error: ShardwrightError, status: int | None = None) -> Problem:
    """The problem document of one of our own errors; ``status`` where it is not the error's usual one."""
    return Problem(
        type=URN + kind_of(type(error)),
        title=error.title,
        status=error.http_status if status is None else status,
        detail=error.message,
        hint=error.hint,
        pointer=pointer_of(error),
        details={key: value for key, value in error.details.items() if _is_json(value)},
    )


def pointer_of(error: ShardwrightError) -> str | None:
    """Where in the request it is: the error's field, or the one that its message begins with."""
    field = error.details.get("field")
    if field == "" and error.http_status == 422:
        return ""  # all of it
    if not isinstance(field, str) or not field:
        named = re.match(r"(?:request: )?([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)(?: GPU)?: ", error.message)
        if named is None or error.http_status != 422:
            return None
        field = named[1]
    steps = field.partition(" ")[0].split(".")  # "workload name" is about workload
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)


def kind_of(error: type[ShardwrightError]) -> str:
    """``UnknownName`` → ``unknown-name``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__).lower()


def internal(where: str) -> Problem:
    """A defect of ours: the log has its traceback, the client nothing of it."""
    return Problem(
        type=URN + "internal-error",
        title="Internal error",
        status=500,
        detail=f"{where}: the server failed",
        hint="this is a defect: please report it, with the request; the server's log has the traceback",
    )


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
