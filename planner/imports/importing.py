"""``plan import``: text that starts engines → the deployment."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from costmodels.serving.frameworks.framework import Framework, find_framework
from planner.contract.deployment import DeploymentDocument
from planner.contract.exported import MANIFEST, ExportedDeployment
from planner.contract.models import ModelConfig
from planner.imports.assembling import assembled
from planner.imports.command_line import read_arguments
from planner.imports.config_file import with_config
from planner.imports.containers import PlacedStart, gpu_called
from planner.imports.dialects import said_by, with_variables
from planner.imports.engine_read import Beside, StartedEngine
from planner.imports.exported import exported_in
from planner.imports.manifests import config_maps, documents, kind_of, placed_in
from planner.imports.options import Options, meanings
from planner.imports.programs import Start, no_start, starts_of
from planner.imports.request import RunningText
from planner.imports.said import EngineSaid
from planner.imports.shell import names_in
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, Catalogue, Gpu

_YAML = re.compile(r"---|[\[{]|[\w./-]+:(?:\s|$)")

SCRIPTS = (".sh", ".sbatch", ".bash", "")
"""Ends of the names of scripts in a folder."""


def deployment_of(request: RunningText, catalogue: Catalogue = SHIPPED) -> DeploymentDocument:
    """The deployment that the text, or the files of a folder, start.

    Raises:
        InputError, UnknownName, Unsupported: what cannot be read, is not said, contradicts itself or is not modelled.
    """
    _check_variables(request)
    exported = exported_in(request.files)
    beside = Beside(
        request.model or _model_of(exported),
        None if request.gpu is None else catalogue.find_gpu(request.gpu),
        request.gpus_per_node,
        catalogue,
    )
    if request.text.strip():
        found, read_as = _read(request.text, request.form, request, catalogue, request.files)
        if not found:
            raise no_start("text")
    else:
        found, read_as = _folder(request, exported, catalogue)
    return assembled(found, beside, read_as, exported)


def _check_variables(request: RunningText) -> None:
    """Raises InputError for variables of manifests, which say their own, and UnknownName for one that no script reads
    or sets and no engine is told by: it would change nothing."""
    if not request.variables:
        return
    scripts = [] if _form(request.text, request.form) == "manifest" else [request.text]
    if not request.text.strip():
        scripts = [text for name, text in request.files.items() if PurePosixPath(name).suffix.casefold() in SCRIPTS]
    if not scripts:
        name = next(iter(request.variables))
        raise InputError("variables (--set): have no effect on manifests", f"give {name} under env in the manifest")
    known = {name for text in scripts for name in names_in(text)}
    for name in request.variables:
        if name not in known and not name.startswith(_OURS):
            raise UnknownName("variables (--set)", name, known, "name one that the text reads or sets")


def _form(text: str, form: str) -> str:
    """What a text is, where ``form`` does not say it."""
    return form if form != "auto" else "manifest" if _is_manifest(text) else "script"


def _model_of(exported: ExportedDeployment | None) -> str | ModelConfig | None:
    if exported is None:
        return None
    return exported.model if exported.config is None else ModelConfig(name=exported.model, config=exported.config)


def _read(
    text: str, form: str, request: RunningText, catalogue: Catalogue, files: Mapping[str, str], name: str = ""
) -> tuple[list[StartedEngine], str]:
    """(the engines that a text starts, what it is in words)."""
    if _form(text, form) == "manifest":
        placed, kinds, maps = placed_in(text, name or "manifest", catalogue)
        return [_placed(each, {**files, **maps}, request) for each in placed], " and ".join(kinds)
    starts, written = starts_of(text, request.variables)
    gpu = gpu_of_job(text, catalogue)
    found = [found_of(start, {**files, **written}, request, name=start.log, gpu=gpu) for start in starts]
    _check_branches(found)
    one_line = len(starts) == 1 and len(text.strip().splitlines()) <= 1
    program = " ".join(starts[0].program) if starts else ""
    return found, f"the command {program or 'of an image'}" if one_line else "a shell script"


_BY_NODE = re.compile(r"rank|node_?id|procid|index", re.IGNORECASE)


def _check_branches(found: Sequence[StartedEngine]) -> None:
    """Raises InputError where a script starts one engine or another, and nobody knows which; of branches by the node
    that runs them, each does."""
    either = [
        each
        for each in found
        if each.start.inside.startswith(("if", "case"))
        and not _BY_NODE.search(each.start.inside)
        and not each.said.secondary
    ]
    if len(either) > 1:
        lines = " and ".join(str(each.start.line) for each in either[:2])
        raise InputError(
            f"script lines {lines}: several engines are started inside {either[0].start.inside.split()[0]!r}, and "
            "which branch is taken is not known",
            "import the command of the branch that runs",
        )


def _folder(
    request: RunningText, exported: ExportedDeployment | None, catalogue: Catalogue
) -> tuple[list[StartedEngine], str]:
    """The engines that the scripts and manifests of a folder start.

    Raises:
        InputError: none does.
    """
    found: list[StartedEngine] = []
    maps = _config_maps(request.files)
    for name, text in sorted(request.files.items()):
        suffix = PurePosixPath(name).suffix.casefold()
        if PurePosixPath(name).name == MANIFEST or suffix == ".json":
            continue
        files = {**_seen_from(request.files, str(PurePosixPath(name).parent)), **maps}
        if suffix in (".yaml", ".yml"):
            if _is_manifest(text):
                placed, _, _ = placed_in(text, name, catalogue) if _has_kind(text) else ([], [], {})
                found += [_placed(each, files, request) for each in placed]
        elif suffix in SCRIPTS:
            found += _read(text, "script", request, catalogue, files)[0]
    if not found:
        raise no_start("folder")
    return found, "a folder that `plan export` wrote" if exported is not None else "a folder"


def _has_kind(text: str) -> bool:
    """Whether any document of a text is of a kind that starts engines: others lie beside them."""
    return any(kind_of(document) is not None for document in documents(text, "manifest"))


def _config_maps(files: Mapping[str, str]) -> dict[str, str]:
    """The files that the ConfigMaps of a folder hold."""
    found: dict[str, str] = {}
    for name, text in files.items():
        if name.endswith((".yaml", ".yml")) and "ConfigMap" in text:
            found |= config_maps(text, name)
    return found


def _seen_from(files: Mapping[str, str], folder: str) -> dict[str, str]:
    """``files`` by their paths from ``folder``."""
    return {posixpath.relpath(name, folder): text for name, text in files.items()}


def _placed(each: PlacedStart, files: Mapping[str, str], request: RunningText) -> StartedEngine:
    gpus = None if each.gpus is None else each.gpus * each.pods
    start = replace(each.start, role=each.start.role or each.role)
    own = {name.partition("/")[2]: text for name, text in files.items() if name.partition("/")[0] in each.maps}
    return found_of(
        start,
        {**files, **own},
        request,
        replicas=each.replicas,
        gpu=each.gpu,
        gpus=gpus,
        name=start.log or each.name,
        where=each.name,
    )


_OF_JOB = re.compile(
    r"^#SBATCH\s.*?(?:--gres[= ]gpu|--gpus[= ]|--gpus-per-(?:node|task|socket)[= ]|-G\s*):?([A-Za-z][\w.-]*):[0-9]+",
    re.MULTILINE,
)
"""How a Slurm job asks for GPUs of a type (sbatch, ``--gres=gpu:h100:8``)."""


def gpu_of_job(text: str, catalogue: Catalogue) -> Gpu | None:
    """The GPU type that a Slurm script asks for; None: none that is known, or several."""
    found = {each.casefold() for each in _OF_JOB.findall(text)}
    return gpu_called(found.pop().upper(), catalogue) if len(found) == 1 else None


def _is_manifest(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    return bool(_YAML.match(first.strip()))


def found_of(start: Start, files: Mapping[str, str], request: RunningText, **around: Any) -> StartedEngine:
    """A command, understood.

    Args:
        around: what stands around the command, as fields of :class:`StartedEngine`.
    """
    framework = framework_of(start, request)
    options = Options.of(framework)
    # An options file of its own is read with what the options mean.
    words = start.arguments if options.meanings.file else with_config(start.arguments, files)
    line = read_arguments(words, options)
    said = with_variables(said_by(framework, line, files), start.environment)
    if start.role is not None or said.role is None:
        said = replace(said, role=start.role or request.role or said.role)
    elif request.role is not None and request.role != said.role:
        raise InputError(f"role: {request.role} is given, and the command says {said.role}", "leave --role out")
    notes = filter(None, [options.note, *said.notes, _newest(start, request, framework)])
    said = replace(said, notes=tuple(notes), kept=(*said.kept, *_variables(start, said)))
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


def _newest(start: Start, request: RunningText, framework: Framework) -> str:
    """That nobody named the release whose defaults these are; "": somebody did."""
    if "@" in (request.framework or "") or (request.framework is None and start.release is not None):
        return ""
    return (
        f"no release is named: options and defaults are those of {framework.title}, the newest known "
        f"(another: --framework {framework.name}@RELEASE)"
    )


_OURS = ("VLLM_", "SGLANG_", "SGL_", "TRTLLM_", "TLLM_", "NCCL_", "CUDA_", "HIP_", "PYTORCH_", "RAY_", "OMP_")


def _variables(start: Start, said: EngineSaid) -> list[tuple[str, str | None]]:
    """Variables that a framework reads, kept without a meaning."""
    used = (said.experts.backend, str(said.experts.dispatch_tokens))
    read = meanings(start.framework).variables.names
    return [
        (name, value)
        for name, value in start.environment.items()
        if name.startswith(_OURS) and not (name in read and value in used)
    ]
