"""One error shape for programs everywhere: RFC 9457 problem documents.

``type`` is a URN made of the error's class name, ``detail`` and ``hint`` are the same two lines that the command line
prints, ``pointer`` is where in the request the trouble is (RFC 6901), and ``details`` holds what a program may want
(field, nearest names, ...).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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


def problem_of(error: ShardwrightError, status: int | None = None, *, asked: object = None) -> Problem:
    """The problem document of one of our own errors; ``status`` where it is not the error's usual one, ``asked`` the
    request that it is about."""
    return Problem(
        type=URN + kind_of(type(error)),
        title=error.title,
        status=error.http_status if status is None else status,
        detail=error.message,
        hint=error.hint,
        pointer=None if asked is None else pointer_of(error, asked),
        details={key: value for key, value in error.details.items() if _is_json(value)},
    )


def pointer_of(error: ShardwrightError, asked: object) -> str | None:
    """Where in the request it is: the error's field, or the one that its message begins with; as far as the request
    has it (short forms are text), or where that which is missing would stand."""
    field = error.details.get("field")
    message = error.message.removeprefix("request: ")
    if field == "" and error.http_status == 422:
        return ""  # all of it
    if not isinstance(field, str) or not field:
        named = re.match(r"([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)(?: GPU)?: ", message)
        if named is None or error.http_status != 422:
            return None
        field = named[1]
    elif message.partition(":")[2].startswith(f" {field}"):  # "cluster: pools.0.gpus …": of a part by itself
        field = f"{message.partition(':')[0]}.{field}"
    steps = [
        part.partition(" ")[0] for part in field.replace(": ", ".").split(".")
    ]  # "workload name" is about workload
    found = _steps_into(asked, steps, missing=message.endswith(" is missing"))
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in found) or None


def _steps_into(asked: object, steps: list[str], *, missing: bool) -> list[str]:
    """Those of ``steps`` that ``asked`` has, and the next where that is what is ``missing``."""
    for number, step in enumerate(steps):
        if isinstance(asked, Mapping) and step in asked:
            asked = asked[step]
        elif isinstance(asked, list | tuple) and step.isdecimal() and int(step) < len(asked):
            asked = asked[int(step)]
        else:
            return steps[: number + (missing and isinstance(asked, Mapping))]
    return steps


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
