"""What a user names to ``plan import`` and ``plan check``: a command, or a file or folder that starts engines."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.errors import InputError
from profiles.files import MIB, Source, is_file, is_folder
from profiles.values import shown

if TYPE_CHECKING:
    from planner.contract.deployment import DeploymentDocument
    from planner.serving.document.plan import Plan
    from profiles.hardware import Catalogue

EXAMPLE = 'plan import "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2" --gpu H100'
LARGEST = 4 * MIB
MOST_FILES = 2000
READ = (".sh", ".yaml", ".yml", ".json", ".env", ".conf", ".sbatch", ".toml", "")
"""Ends of the names of files that a folder is read for."""

_NAMED = re.compile(r"[\w./~-]+\.(?:ya?ml|json)\b")
_STDIN = "-"


def fields_of(source: str, asked: Mapping[str, Any], set_: list[str] | None, catalogue: Catalogue) -> dict[str, Any]:
    """The fields of a request about ``source``.

    Args:
        asked: those that options gave.
        set_: ``NAME=VALUE`` of variables.

    Raises:
        InputError: a file that cannot be read, or a word that is neither a command nor a file.
    """
    fields = dict(asked)
    if isinstance(model := fields.get("model"), str):
        from planner.contract.models import read_model

        fields["model"] = read_model(model)
    if set_:
        fields["variables"] = _variables(set_)
    path = Path(source)
    if source == _STDIN or is_file(path):
        text = _text(path)
        return {**fields, "text": text, "files": _beside(text, path.parent)}
    if is_folder(path):
        return {**fields, "files": _folder(path)}
    if not re.search(r"\s", source.strip()):
        raise InputError(
            f"{shown(source)}: is neither a file, a folder nor a command",
            f"give the command in quotes, for example: {EXAMPLE}",
        )
    return {**fields, "text": source, "files": _beside(source, Path())}


def _text(path: Path) -> str:
    return Source(path, "", "give a command, a shell script or YAML", LARGEST).text()


def _variables(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise InputError(f"--set: {shown(each)} is not NAME=VALUE", "write for example --set TP=8")
        found[name] = value
    return found


def _beside(text: str, folder: Path) -> dict[str, str]:
    """Files that the text names and that are there: their names as the text has them."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(_NAMED.findall(text)):
        path = Path(name).expanduser() if name.startswith("~") else folder / name
        if is_file(path) and len(found) < MOST_FILES:
            found[name] = _text(path)
    return found


def _folder(folder: Path) -> dict[str, str]:
    """The text files of a folder, by their path in it."""
    found: dict[str, str] = {}
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(above) / name
            if path.suffix.casefold() not in READ or name.startswith("."):
                continue
            if len(found) == MOST_FILES:
                raise InputError(
                    f"{folder}: has more than {MOST_FILES:,} files", "name the folder that starts the engines"
                )
            found[path.relative_to(folder).as_posix()] = _text(path)
    if not found:
        raise InputError(f"{folder}: has no script and no YAML", "name the folder that `plan export` wrote, or a file")
    return found


def document_at(path: Path, gpu: str | None, catalogue: Catalogue) -> Plan | DeploymentDocument:
    """The plan or the deployment in a file; one that starts engines (YAML, a script) is imported.

    Raises:
        InputError: what the readers raise.
    """
    if path.suffix.casefold() == ".json":
        from planner.serving.document.opening import read_running

        return read_running(path)
    from planner.imports.importing import deployment_of
    from planner.imports.request import parse_import_request

    asked = {} if gpu is None else {"gpu": gpu}
    fields = fields_of(str(path), asked, None, catalogue)
    return deployment_of(parse_import_request(fields, catalogue), catalogue)
