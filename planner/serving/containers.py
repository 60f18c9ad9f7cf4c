"""Containers that engines ran in: which framework and which release their names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from costmodels.serving.frameworks.framework import find_framework
from planner.contract.words import folded, words
from profiles.errors import InputError, UnknownName
from profiles.values import shown

if TYPE_CHECKING:
    import pandas as pd

CONTAINER = "container"
"""Our column of the container's name."""

CONTAINERS = (CONTAINER, "container_image", "container_name", "docker", "docker_image", "docker_container", "image")

CLIENTS = "openai"
"""What ``backend`` begins with where it says how a client speaks to whatever server."""

OF_DYNAMO = re.compile(r"(?<![a-z])dynamo(?![a-z])")
"""In names whose tag is Dynamo's release."""

_RELEASED = re.compile(
    r".*:(v?\d+\.\d+[\w.]*?)((?:-(?:cu\d{2,3}|amd64|arm64|aarch64|x86_64|runtime|ubuntu[\d.]+))*)",
    re.ASCII | re.IGNORECASE,
)
"""A framework's own container: its release, and what it was built for."""

VERSIONED = re.compile(r"(.*?[a-z])[\s_:=-]+(v?\d+\.\d+\S*)", re.ASCII | re.IGNORECASE)
"""A framework's name and its release behind it (``vLLM v0.11.0``)."""


_NO_SIZE = re.compile("[/:]")
"""In cells of a column ``image`` that name a container; pictures are 640x480."""


def container_column(table: pd.DataFrame) -> str | None:
    """The column of ``table`` that names containers; one that is called ``image`` may be of the pictures in prompts."""
    for column in map(str, table.columns):
        if folded(column) in CONTAINERS:
            if folded(column) != "image":
                return column
            if "images" not in table.columns and table[column].astype(str).str.contains(_NO_SIZE).any():
                return column
    return None


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    return {
        name: re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, each))})(?![a-z])")
        for name, each in words().containers.items()
    }


def framework_in(container: str) -> str | None:
    """The one framework that a container's name tells; None: none, or several."""
    found = [name for name, pattern in _patterns().items() if pattern.search(container.casefold())]
    return found[0] if len(found) == 1 else None


def with_framework_told(given: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """``given``, in our columns, with the framework that one of its file's ``columns`` tells, where none says it."""
    told = None if "framework" in given.columns else framework_column(list(map(str, columns)))
    return given if told is None else given.assign(framework=told)


def framework_column(columns: list[str]) -> str | None:
    """The framework that the name of the one column of a release tells (``vllm_version``)."""
    found = {name for column in columns if (name := _prefix(folded(column))) is not None}
    return found.pop() if len(found) == 1 else None


def _prefix(column: str) -> str | None:
    name = column.removesuffix("_version")
    try:
        return find_framework(name).name if name != column else None
    except (UnknownName, InputError):
        return None


def with_container(record: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """``record`` with the framework and the release that its container's name tells, or its ``version``
    (``vLLM-0.10.1``), where nothing else does; adds to ``notes`` what was taken.

    Raises:
        InputError: the container tells no framework and nothing else does, or another one.
    """
    out, container = dict(record), record.get(CONTAINER, "")
    if not out.get("images") and _NO_SIZE.search(out.get("image", "")):  # beside a column container
        container, out["image"] = container or out["image"], ""
    if not container:
        told = VERSIONED.fullmatch(out.get("version", "")) if not out.get("framework") else None
        return out | {"framework": told[1], "version": told[2]} if told else out
    found = framework_in(container)
    if out.get("framework", "").casefold().startswith(CLIENTS) and found is not None:
        out["framework"] = ""
    if not out.get("framework"):
        if found is None:
            raise InputError(
                f"{CONTAINER}: {shown(container)} does not tell the framework", "name it in a column framework"
            )
        out["framework"] = found
        notes.append(f"framework: {found} is taken, of the container {container}")
    elif found is not None and _known(out["framework"]) not in (None, found):
        raise InputError(
            f"framework, {CONTAINER}: {shown(out['framework'])} and {shown(container)} contradict each other",
            "keep the one that holds",
        )
    if not out.get("version") and not OF_DYNAMO.search(container.casefold()):
        own = _RELEASED.fullmatch(container)
        out["version"] = own[1] if own else container
    return out


def _known(framework: str) -> str | None:
    """Its own name, None where it is not known (which is said elsewhere)."""
    told = VERSIONED.fullmatch(framework)
    try:
        return find_framework(told[1] if told else framework).name
    except (UnknownName, InputError):
        return None
