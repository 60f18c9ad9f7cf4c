"""What every document of the contract is built from, and how a refusal by its schema is put into words."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from profiles.errors import InputError, UnknownName, near
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import named, shown, whole

LONGEST_TEXT = 4096
"""Characters of a short form, a name or a path: more is a mistake or an attack."""

Name = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]

_NUMBERS = re.compile(r"\[\n\s+([-+.0-9eE,\s]+?)\n\s+\]")  # no string in JSON holds a line break

_CATALOGUE = "catalogue"  # in the context of a validation


class Document(BaseModel):
    """Base of everything in the contract: frozen, and refuses keys it does not know."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
        defer_build=True,  # of a command's many documents few are used
    )


def indented_json(document: Document) -> str:
    """``document`` as text: indented, keys in schema order, each row of numbers on one line; a newline at the end."""
    text = json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _plain_number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError(f"{shown(value)} is not a number; write a plain number")
    return value


PLAIN_NUMBER = BeforeValidator(_plain_number)
"""pydantic alone would read true as 1 and "16" as 16: neither is a number in JSON, and nothing is guessed."""


def _whole_numbers(value: Any) -> Any:
    """``"9,8"`` as a list."""
    if not isinstance(value, str):
        return value
    numbers = [whole(part) for part in value.split(",")]
    if any(number is None for number in numbers):
        raise ValueError(f"{shown(value)} is not whole numbers with commas between; write 9, or 9,8")
    return numbers


WHOLE_NUMBERS = BeforeValidator(_whole_numbers, json_schema_input_type=str | list[int])
"""Of a field that is a list of whole numbers, which may be written as text."""

D = TypeVar("D", bound=BaseModel)


def checked(kind: type[D], fields: object, where: str, catalogue: Catalogue = SHIPPED, schema: str = "") -> D:
    """``kind(**fields)`` with pydantic's report turned into one clear :class:`InputError`; ``catalogue`` is what its
    validators look names of hardware up in (:func:`catalogue_of`), ``schema`` what `plan schema` calls its schema."""
    try:
        return kind.model_validate(fields, context={_CATALOGUE: catalogue})
    except ValidationError as error:
        raise validation_error(error, where, schema, kind.model_fields) from error


def catalogue_of(info: ValidationInfo) -> Catalogue:
    """The catalogue of a validation; what ships where none was given."""
    given: Catalogue = (info.context or {}).get(_CATALOGUE, SHIPPED)
    return given


_WAYS_OUT = {
    "gpu": "name the GPU type; `plan gpus` lists them",
    "gpus": "say how many GPUs there are, e.g. gpus: 16",
    "nodes": "say how many nodes there are, e.g. nodes: 2",
    "pools": "list at least one pool with gpu and gpus",
    "model": "name one that `plan models` lists",
    "slo": "write for example ttft=1s,tpot=30ms, or an object with bounds",
    "cluster": "write for example 16xH200, or an object with name and pools",
    "workload": "write for example isl=4000,osl=500, or an object with isl and osl",
    "percentile": "a percentile lies between 0 and 100, without either, e.g. 90 or 99.9",
    "confidence": "a probability lies between 0 and 1, without either, e.g. 0.5 or 0.9",
    "limit_ms": "a limit is a positive time, e.g. 30 ms, of at most 1e12 ms",
    "isl": "give the prompt's length in tokens, e.g. isl=4000",
    "osl": "give the output's length in tokens, e.g. osl=500",
    "headroom": "give a share from 0 to 10, e.g. 0.2 or 20%",
    "requests": "give a whole number of requests from 1 to 10,000,000, e.g. 5000",
    "days": "give a number from 100 to 100,000, for example --days 1100, or leave it out",
    "rate_rps": "give a positive number of requests per second, or leave it out for as many as fit",
}
_UNKNOWN = ("extra_forbidden", "invalid_key")
_OF_A_LOAD = {"rate_rps": "give the requests per second that come, 0 or more"}
"""Of a service's load, all of which is to be carried."""


def _told_first(problems: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first problem; where that is a field that is missing, one beside it that is not known before it: most likely
    that is how it was written."""
    first = problems[0]
    unknown = (each for each in problems if each["type"] in _UNKNOWN and each["loc"][:-1] == first["loc"][:-1])
    return next(unknown, first) if first["type"] == "missing" else first


def validation_error(error: ValidationError, where: str, schema: str = "", fields: Collection[str] = ()) -> InputError:
    """The first problem of a pydantic report as an :class:`InputError`; arguments as of :func:`checked`, ``fields``:
    those that the document has."""
    command = f"`plan schema {schema}`" if schema else "`plan schema`"
    problems = error.errors(include_url=False)
    problem, lacking = _told_first(problems), [each["loc"] for each in problems if each["type"] == "missing"]
    steps = list(problem["loc"])
    either = bool(steps) and str(steps[-1]).startswith("literal[")  # a word, or something else
    if either or (steps and steps[-1] == problem.get("ctx", {}).get("class_name")):
        del steps[-1]  # of a union: which of its types was tried, which is no field
    path = [str(part) if isinstance(part, int) else named(part) for part in steps]
    field = ".".join(path)
    label = f"{where}: {field}" if field else where
    kind, value = problem["type"], problem.get("input")
    way_out = ({**_WAYS_OUT, **_OF_A_LOAD} if "load" in path else _WAYS_OUT).get(path[-1] if path else where)
    if kind == "missing":
        return InputError(f"{label} is missing", way_out or f"{command} says what is needed", field=field)
    if kind in _UNKNOWN:
        beside = [str(loc[-1]) for loc in lacking if loc[:-1] == problem["loc"][:-1]]
        known = [*beside, *(() if path[1:] else fields)]
        nearest, _ = near(str(problem["loc"][-1]), known, alike=0.6)
        meant = f"write {nearest[0]}, if you mean that, or remove it" if nearest else "remove it, or check its spelling"
        hint = f"{meant}; {command} lists what is known"
        return InputError(f"{label} is not known", hint, field=field)
    if kind == "literal_error" and isinstance(value, str):
        known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        other = f", or write an object; {command} says what it may hold" if either else ""
        return UnknownName(
            field if where == "request" else label, value, known, f"choose from {', '.join(known)}{other}"
        )
    if kind == "value_error":
        message, _, said = str(problem["ctx"]["error"]).partition("; ")
        return InputError(f"{label}: {message}", said or way_out or "correct it", field=field)
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        wrong = "is not an object"
        way_out = way_out or f"write an object; {command} says what it may hold"
    elif kind in ("tuple_type", "list_type"):
        wrong = "is not a list"
    elif kind in ("too_short", "too_long") and "actual_length" in problem["ctx"]:
        limit = problem["ctx"]["min_length" if kind == "too_short" else "max_length"]
        wrong = f"has {'fewer' if kind == 'too_short' else 'more'} than {limit} items"
    else:
        wrong = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
        wrong = f": {wrong}".replace(": input should", " should").replace(": string should", " should")
        return InputError(f"{label}: {shown(value)}{wrong}", way_out or "correct the value", field=field)
    return InputError(f"{label}: {shown(value)} {wrong}", way_out or "correct the value", field=field)
