"""Containers of manifests → the commands that they run, and the GPUs that they are given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from planner.contract.engine import Role
from planner.imports.programs import Start, known_images, release_of, start_of, starts_of
from planner.imports.shell import Word
from planner.launchers.vendors import vendors
from profiles.errors import InputError, UnknownName
from profiles.hardware import Catalogue, Gpu
from profiles.shipped import shipped
from profiles.values import shown

_SHELLS = ("sh", "bash", "zsh", "dash")
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][\w.-]*)\)")
_MORE = "VLLM_ADDITIONAL_ARGS"
"""The variable whose words KServe and others put behind the arguments of vllm serve."""


class GpuLabels(BaseModel):
    """``gpu_labels.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    keys: tuple[str, ...]
    gpus: dict[str, str]


@cache
def gpu_labels() -> GpuLabels:
    return shipped(Path(__file__).parent / "gpu_labels.yaml", GpuLabels.model_validate)


@dataclass(frozen=True)
class PlacedStart:
    """A command of a manifest, and what stands around it.

    Attributes:
        name: of the workload.
        pods: that one engine has. ``replicas``: of the whole.
        gpus: of each pod. ``gpu``: their type.
        maps: ConfigMaps whose files it sees.
    """

    start: Start
    name: str
    replicas: int = 1
    pods: int = 1
    gpus: int | None = None
    gpu: Gpu | None = None
    role: Role | None = None
    maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class PodAround:
    """What a manifest says of a container's pod. ``program``: what runs where the container names no command."""

    name: str
    replicas: int = 1
    pods: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    role: Role | None = None
    program: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def mapping(value: Any) -> dict[str, Any]:
    """``value``, where it is a mapping; else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def count_of(value: Any, where: str, default: int = 1) -> int:
    """A whole number of 0 or more. Raises InputError where it is none."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100_000:
        raise InputError(f"{where}: {shown(str(value))} is not a whole number", "write a number of 0 or more")
    return value


def in_pod(spec: Mapping[str, Any], around: PodAround, catalogue: Catalogue) -> Iterator[PlacedStart]:
    """What the containers of a pod start."""
    gpu = _gpu_of(spec, around, catalogue)
    volumes = [mapping(each.get("configMap")).get("name") for each in items(spec.get("volumes"))]
    maps = tuple(str(name) for name in volumes if name)
    for container in items(spec.get("containers")):
        for start in starts_in(container, around):
            gpus = _gpus_of(container)
            role = start.role or around.role or _role_of(around.labels)
            yield PlacedStart(start, around.name, around.replicas, around.pods, gpus, gpu, role, maps)


def starts_in(container: Mapping[str, Any], around: PodAround) -> list[Start]:
    """The commands of a container that start engines, by its own command or its image's."""
    environment = {**around.environment, **_environment(container.get("env"))}
    words = [*_texts(container.get("command")), *_texts(container.get("args"))]
    image = container.get("image") if isinstance(container.get("image"), str) else ""
    found = release_of(image or "")
    shell = _shell_text(words)
    if shell is not None:
        starts, _ = starts_of(shell, environment)
    else:
        parts = [_referenced(word, environment) for word in words]
        if not container.get("command"):
            parts = [*(Word(word) for word in around.program), *parts]
            if not around.program and image:
                runs = next((command for name, command in known_images().runs.items() if name in image), ())
                parts = [*map(Word, runs), *parts]
        more = environment.get(_MORE)
        start = start_of(parts, environment, 0)
        if start is not None and more:
            start = replace(start, arguments=(*start.arguments, *(Word(word) for word in _split(more))))
        starts = [] if start is None else [start]
    return [each if each.release or found is None else replace(each, release=found[1]) for each in starts]


def _split(text: str) -> list[str]:
    from planner.imports.shell import commands

    return [word.text for command in commands(text) for word in command.words]


def _texts(value: Any) -> list[str]:
    """The words of a command: a list of them, or one text that a shell would split."""
    if isinstance(value, str):
        return _split(value)
    if not isinstance(value, list):
        return []
    return [each if isinstance(each, str) else json.dumps(each) for each in value if each is not None]


def _shell_text(words: Sequence[str]) -> str | None:
    """The script of ``sh -c SCRIPT``; None where no shell is asked."""
    if not words or words[0].rpartition("/")[2] not in _SHELLS:
        return None
    inline = next((at for at, word in enumerate(words[1:], 1) if re.fullmatch(r"-[a-z]*c", word)), None)
    if inline is None or inline + 1 >= len(words):
        return None
    return words[inline + 1]


def _referenced(text: str, environment: Mapping[str, str]) -> Word:
    """``$(NAME)`` replaced as Kubernetes does; ``$$`` is a dollar."""
    unknown = ""

    def value(found: re.Match[str]) -> str:
        nonlocal unknown
        if found[1] is None:
            return "$"
        if found[1] not in environment:
            unknown = unknown or found[0]
            return ""
        return environment[found[1]]

    return Word(_REFERENCE.sub(value, text), unknown)


def _environment(given: Any) -> dict[str, str]:
    """Variables with a value: a list of name and value, a mapping, or a list of NAME=VALUE."""
    if isinstance(given, dict):
        return {str(name): plain(value) for name, value in given.items() if isinstance(value, str | int | float)}
    found = {str(e["name"]): plain(e["value"]) for e in items(given) if "name" in e and "value" in e}
    for each in given if isinstance(given, list) else ():
        if isinstance(each, str) and "=" in each:
            name, _, value = each.partition("=")
            found[name] = value
    return found


def plain(value: Any) -> str:
    """A value of YAML as a word of a command: true and false are small."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _gpus_of(container: Mapping[str, Any]) -> int | None:
    resources = mapping(container.get("resources"))
    for part in ("limits", "requests"):
        for name in (*(each.kubernetes_resource for each in vendors().values()), "gpu"):  # Dynamo's graphs say gpu
            value = mapping(resources.get(part)).get(name)
            if isinstance(value, str | int) and re.fullmatch(r"[0-9]{1,9}", shown(value).strip("'")):
                return int(value)
    return None


def _role_of(labels: Mapping[str, str]) -> Role | None:
    """Where labels say it (``llm-d.ai/role``, ``shardwright/role``)."""
    roles: dict[str, Role] = {
        "prefill": "prefill",
        "decode": "decode",
        "aggregated": "aggregated",
        "both": "aggregated",
    }
    for name, value in labels.items():
        if name.rpartition("/")[2] == "role" and str(value) in roles:
            return roles[str(value)]
    return None


def _gpu_of(spec: Mapping[str, Any], around: PodAround, catalogue: Catalogue) -> Gpu | None:
    """The GPU type that a pod's node is selected by; None: nothing says it."""
    del around
    said = {name: value for name, value in mapping(spec.get("nodeSelector")).items() if isinstance(value, str)}
    affinity = mapping(mapping(mapping(spec.get("affinity")).get("nodeAffinity")))
    required = mapping(affinity.get("requiredDuringSchedulingIgnoredDuringExecution"))
    for term in items(required.get("nodeSelectorTerms")):
        for each in items(term.get("matchExpressions")):
            values = each.get("values")
            if each.get("operator") == "In" and isinstance(values, list) and len(values) == 1:
                said.setdefault(str(each.get("key")), str(values[0]))
    for key in gpu_labels().keys:
        if key in said and (gpu := gpu_called(said[key], catalogue)) is not None:
            return gpu
    return None


def gpu_called(name: str, catalogue: Catalogue) -> Gpu | None:
    """The GPU type of a name, of a label's value or of a node type; None: none that is known, or several."""
    own = gpu_labels().gpus.get(name)
    if own is not None:
        return catalogue.find_gpu(own)
    found = catalogue.candidates(name.replace("-SHARED", ""))
    if len(found) == 1:
        return found[0]
    try:
        return catalogue.find_gpu(catalogue.find_node(name).gpu)
    except UnknownName:
        return None
