"""What the manifest of an exported folder says beside its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.contract.documents import checked
from planner.contract.engine import EngineGroup, Role
from planner.contract.exported import DEPLOYMENT, MANIFEST, ExportedDeployment, ExportedEngines
from planner.imports.engine_read import EngineRead
from profiles.errors import InputError
from profiles.markup import strict_json


def exported_in(files: Mapping[str, str]) -> ExportedDeployment | None:
    """What the manifest among ``files`` says; None where there is none, or it says nothing.

    Raises:
        InputError: it is not as it was written.
    """
    text = files.get(MANIFEST)
    if text is None:
        return None
    try:
        said = strict_json(text)
    except ValueError as error:
        raise InputError(
            f"{MANIFEST}: not valid JSON ({error})", "export the plan again, or leave the file out"
        ) from error
    found = said.get(DEPLOYMENT) if isinstance(said, dict) else None
    return None if found is None else checked(ExportedDeployment, found, f"{MANIFEST}: {DEPLOYMENT}")


def role_of(exported: ExportedDeployment, name: str) -> Role | None:
    """The role of an engine called ``name``, or of all; None: nobody can tell."""
    group = _called(exported, name)
    roles = {each.role for each in exported.engines}
    return group.role if group is not None else roles.pop() if len(roles) == 1 else None


def gpu_of(exported: ExportedDeployment, name: str) -> str | None:
    """The GPU type of an engine called ``name``, or of all; None: nobody can tell."""
    group = _called(exported, name)
    types = {each.gpu for each in exported.engines}
    return group.gpu if group is not None else types.pop() if len(types) == 1 else None


def _called(exported: ExportedDeployment, name: str) -> ExportedEngines | None:
    """The group that has an engine of that name, or one whose parts are called after it (``engine-0-1-node-0``)."""
    for group in exported.engines:
        for each in (group.id, *(replica.id for replica in group.replicas)):
            if name == each or name.startswith(f"{each}-"):
                return group
    return None


def as_exported(
    engines: Sequence[EngineRead], exported: ExportedDeployment, groups: Sequence[EngineGroup]
) -> list[EngineGroup] | None:
    """``groups`` (of ``engines``, one by one) with the names, places and weights that the plan gave them; None where
    the files start other engines than were exported."""
    left = list(exported.engines)
    out: list[EngineGroup] = []
    for engine, group in zip(engines, groups, strict=True):
        same = next((each for each in left if _is_of(engine, group, each)), None)
        if same is None:
            return None
        left.remove(same)
        said = {name: getattr(same, name) for name in ("id", "pool", "replicas")}
        if not engine.said.quantize:
            said["weights_precision"] = same.weights_precision
        if engine.said.kv in (None, "auto"):
            said["kv_precision"] = same.kv_precision
        out.append(group.model_copy(update=said))
    if left:
        return None
    order = [each.id for each in exported.engines]
    return sorted(out, key=lambda group: order.index(group.id))


def _is_of(engine: EngineRead, group: EngineGroup, exported: ExportedEngines) -> bool:
    gpus = {len(replica.ranks) for replica in exported.replicas}
    return (group.role, group.gpu, len(group.replicas)) == (
        exported.role,
        exported.gpu,
        len(exported.replicas),
    ) and gpus == {engine.layout.gpus}
