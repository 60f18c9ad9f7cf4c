"""Custom resources whose fields are known: what is written of them has none that they have not.

A file a kind and version: names, types, choices and what is required, with its source. ``core``: a part that Kubernetes
itself defines; an object without ``properties``: open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from profiles.errors import Unsupported
from profiles.shipped import shipped

HERE = Path(__file__).parent
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": Mapping,
    "array": (list, tuple),
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


@cache
def known() -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """The schema of the spec of each resource that is known, by apiVersion and kind."""
    files = [shipped(path, dict) for path in sorted(HERE.glob("*.json"))]
    return {(each["apiVersion"], each["kind"]): each["spec"] for each in files}


def wrong(document: Mapping[str, Any]) -> Iterator[str]:
    """What the resource does not take of an object, a line each; nothing of kinds that are not known."""
    schema = known().get((str(document.get("apiVersion")), str(document.get("kind"))))
    if schema is not None:
        yield from _wrong("spec", document.get("spec"), schema)


def check_resource(document: object) -> None:
    """Refuses what :func:`wrong` finds.

    Raises:
        Unsupported: naming the field.
    """
    if isinstance(document, Mapping) and (problem := next(wrong(document), None)) is not None:
        raise Unsupported(f"{document['kind']}: {problem}", "report this as a defect")


def _wrong(where: str, value: object, schema: Mapping[str, Any]) -> Iterator[str]:
    type_ = schema.get("type")
    if type_ is None:
        return
    if not isinstance(value, _TYPES[type_]) or (isinstance(value, bool) and type_ != "boolean"):
        yield f"{where} is not of type {type_}"
    elif isinstance(value, Mapping):
        yield from _wrong_fields(where, value, schema)
    elif isinstance(value, list | tuple):
        if len(value) > schema.get("maxItems", len(value)):
            yield f"{where} has {len(value)} items, and may have {schema['maxItems']}"
        for place, each in enumerate(value):
            yield from _wrong(f"{where}[{place}]", each, schema.get("items", {}))
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is not one of {', '.join(map(str, schema['enum']))}"
    elif isinstance(value, str):
        if len(value) > schema.get("maxLength", len(value)):
            yield f"{where} is longer than {schema['maxLength']} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{where}: {value!r} is not as it must be written"
    elif isinstance(value, int | float) and not (schema.get("minimum", value) <= value <= schema.get("maximum", value)):
        yield f"{where}: {value} is out of its range"


def _wrong_fields(where: str, value: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    properties, others = schema.get("properties"), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}.{name} is missing"
    for name, each in value.items():
        if properties is not None and name in properties:
            yield from _wrong(f"{where}.{name}", each, properties[name])
        elif isinstance(others, Mapping):
            yield from _wrong(f"{where}.{name}", each, others)
        elif properties is not None and not others:
            yield f"{where}.{name} is not known"
