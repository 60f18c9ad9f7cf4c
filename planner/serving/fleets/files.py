"""Fleet files: what they name is read and put in, so that a request holds no path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.contract.clusters import cluster_from, offered_in, parse_cluster
from planner.contract.files import mapping_of, read_text
from planner.contract.models import read_model
from planner.contract.workload.classes import SteppedLoad
from planner.serving.fleets.load_files import read_load_table, read_load_trace
from planner.serving.fleets.tables import HINT, is_tables, read_tables
from profiles.errors import InputError
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import shown

_HINT = "it needs services, each with name, load, and model (beside a cluster) or tables; `plan schema fleet-request`"


def read_fleet(path: Path, catalogue: Catalogue = SHIPPED) -> dict[str, Any]:
    """The fields of a fleet request in a YAML or JSON file, or in Mélange's JSON.

    Raises:
        InputError: unreadable, not a mapping, or what the files that it names are wrong with.
    """
    if path.suffix.casefold() == ".json" and is_tables(path):
        return _of_tables(path)
    document = mapping_of(read_text(path, "fleet file"), f"fleet file {path}", _HINT)
    catalogue = offered_in(document, path.parent, catalogue)
    return with_fleet_files(document, path.parent, catalogue)


def _of_tables(path: Path) -> dict[str, Any]:
    tables, load, _ = read_tables(path)
    if load is None:
        raise InputError(
            f"fleet file {path}: is an AIBrix profile, which has no load",
            "name it under tables: in a fleet file, beside services with their load",
        )
    return {
        "name": path.stem,
        "services": [{"name": path.stem, "load": _as_input(load), "tables": [t.model_dump() for t in tables]}],
    }


def with_fleet_files(fields: Mapping[str, Any], folder: Path, catalogue: Catalogue) -> dict[str, Any]:
    """``fields`` with the files that cluster, tables, models and loads name put in; they are relative to ``folder``."""
    out = dict(fields)
    if isinstance(cluster := out.get("cluster"), str):
        out["cluster"] = parse_cluster(_at(folder, cluster), catalogue=catalogue)
    elif isinstance(cluster, dict):
        inner = {"name": "cluster", **cluster}
        prices = offered_in(inner, folder, catalogue)
        out["cluster"] = cluster_from(inner, "cluster", prices)
    if "tables" in out:
        out["tables"] = _tables(out["tables"], folder)
    services = out.get("services")
    if isinstance(services, list):
        out["services"] = [_service(each, folder, out) if isinstance(each, Mapping) else each for each in services]
    return out


def _service(service: Mapping[str, Any], folder: Path, fleet: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(service)
    if isinstance(model := out.get("model"), str):
        out["model"] = read_model(_at(folder, model))
    if "tables" in out:
        out["tables"] = _tables(out["tables"], folder)
    load = out.get("load")
    where = f"services {shown(out.get('name'))}: load"
    if isinstance(load, Mapping) and ("file" in load or "trace" in load):
        kind = "file" if "file" in load else "trace"
        rest = {key: value for key, value in load.items() if key != kind}
        if not isinstance(load[kind], str):
            raise InputError(f"{where}.{kind}: {shown(load[kind])} is not a path", "name a file")
        path = folder / load[kind]
        made = read_load_table(path, rest, where) if kind == "file" else read_load_trace(path, rest, where)
        if made.get("prefix_hit") is not None and "prefix_hit" not in out:
            out["prefix_hit"] = made["prefix_hit"]
        made.pop("prefix_hit", None)
        out["load"] = made
    return out


def _tables(named: Any, folder: Path) -> list[Any]:
    found: list[Any] = []
    for each in named if isinstance(named, list) else [named]:
        if not isinstance(each, str):
            found.append(each)
            continue
        found += [table.model_dump() for table in read_tables(folder / each)[0]]
    return found


def _as_input(load: SteppedLoad) -> dict[str, Any]:
    steps = [step.model_dump() for step in load.steps]
    return {"source": load.source, "steps": steps}


def _at(folder: Path, text: str) -> str:
    try:
        return str(folder / text) if text and (folder / text).exists() else text
    except (OSError, ValueError):  # no path, then
        return text


__all__ = ["HINT", "read_fleet", "with_fleet_files"]
