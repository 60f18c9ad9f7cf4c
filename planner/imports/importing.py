"""``plan import``: text that starts engines → the deployment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from costmodels.serving.frameworks.framework import Framework, find_framework
from planner.contract.deployment import DeploymentDocument
from planner.imports.assembling import assembled
from planner.imports.command_line import read_arguments
from planner.imports.config_file import with_config
from planner.imports.dialects import said_by
from planner.imports.engine_read import Beside, StartedEngine
from planner.imports.options import Options
from planner.imports.programs import Start, no_start, starts_of
from planner.imports.request import RunningText
from profiles.errors import InputError
from profiles.hardware import SHIPPED, Catalogue

_MANIFEST = re.compile(r"^\s*(?:---\s*$|apiVersion:|kind:|services:|version:|[\[{])", re.MULTILINE)


def deployment_of(request: RunningText, catalogue: Catalogue = SHIPPED) -> DeploymentDocument:
    """The deployment that the text starts.

    Raises:
        InputError, UnknownName, Unsupported: what cannot be read, is not said, contradicts itself or is not modelled.
    """
    beside = Beside(
        request.model,
        None if request.gpu is None else catalogue.find_gpu(request.gpu),
        request.gpus_per_node,
        catalogue,
    )
    form = request.form
    if form == "auto":
        form = "manifest" if _is_manifest(request.text) else "script"
    starts, files = starts_of(request.text, request.variables)
    if not starts:
        raise no_start("text")
    found = [found_of(start, {**request.files, **files}, request) for start in starts]
    lines = len(request.text.strip().splitlines())
    program = " ".join(starts[0].program) or f"an image of {starts[0].framework}"
    read_as = f"the command {program}" if len(starts) == 1 and lines <= 1 else "a shell script"
    return assembled(found, beside, read_as)


def _is_manifest(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    return bool(_MANIFEST.match(first))


def found_of(start: Start, files: Mapping[str, str], request: RunningText, **around: Any) -> StartedEngine:
    """A command, understood.

    Args:
        around: what stands around the command, as fields of :class:`StartedEngine`.
    """
    framework = framework_of(start, request)
    options = Options.of(framework)
    words = start.arguments if framework.name == "trtllm" else with_config(start.arguments, files)
    line = read_arguments(words, options)
    said = said_by(framework, line, files)
    if start.role is not None or said.role is None:
        said = replace(said, role=start.role or request.role)
    elif request.role is not None and request.role != said.role:
        raise InputError(f"role: {request.role} is given, and the command says {said.role}", "leave --role out")
    said = replace(said, notes=(*filter(None, [options.note]), *said.notes), kept=(*said.kept, *_variables(start)))
    return StartedEngine(said, start, **around)


def framework_of(start: Start, request: RunningText) -> Framework:
    """The framework at the release that runs: as the user says, else as the image's tag says, else the newest.

    Raises:
        InputError: the user names another framework than the command's.
    """
    if request.framework is not None:
        asked = find_framework(request.framework)
        if asked.name != start.framework:
            raise InputError(
                f"framework: {asked.full_name} is given, and the command starts "
                f"{find_framework(start.framework).full_name}",
                "leave --framework out, or name the release of the one that runs",
            )
        return asked
    return find_framework(start.framework if start.release is None else f"{start.framework}@{start.release}")


_OURS = ("VLLM_", "SGLANG_", "SGL_", "TRTLLM_", "TLLM_", "NCCL_", "CUDA_", "HIP_", "PYTORCH_", "RAY_", "OMP_")


def _variables(start: Start) -> list[tuple[str, str | None]]:
    """Variables that a framework reads, kept without a meaning."""
    return [(name, value) for name, value in start.environment.items() if name.startswith(_OURS)]
