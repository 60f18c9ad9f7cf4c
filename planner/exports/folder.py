"""The folder that an export is: written whole or not at all, with a manifest that says what it was made from; and
whether it still is what the plan gave."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.contract.documents import checked
from planner.contract.exported import DEPLOYMENT, MANIFEST, ExportedDeployment
from planner.contract.published import Published, version_of
from planner.exports.registry import exported
from planner.exports.target import Asked
from planner.exports.values import Values
from planner.serving.document.placing import placed
from planner.serving.document.plan import Plan
from profiles.errors import InputError
from profiles.files import Source, reason
from profiles.markup import read_json
from profiles.values import named, shown
from profiles.whole_files import whole_folder

_FLAG = re.compile(r"--?[A-Za-z][A-Za-z0-9._-]*")
_MOST_TOLD = 3


def manifest(target: str, asked: Asked, framework: str, files: Mapping[str, str]) -> str:
    """What was exported, from what: enough to make it again. It holds no secrets, since no value is one."""
    document = asked.document
    fields = {
        "target": target,
        "kind": asked.kind,
        "schema_version": version_of(type(document)),
        "plan": document.digest,
        "edited": document.was_edited,
        "framework": framework,
        "assume_version": asked.assume_version,
        "values": asked.values.model_dump(mode="json", exclude_defaults=True),
        **_running(document),
        "files": {name: hashlib.sha256(text.encode("utf-8")).hexdigest() for name, text in sorted(files.items())},
    }
    return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def _running(document: Published) -> dict[str, Any]:
    """What `plan import` needs beside the files of a serving plan: ids, places, weights, what no command says."""
    if not isinstance(document, Plan):
        return {}
    plan = placed(document)
    asked, engines = plan.request, plan.decision.engines
    said = ExportedDeployment.of(asked.model, asked.config, asked.cluster, engines)
    return {DEPLOYMENT: said.model_dump(mode="json")}


def write_folder(folder: Path, files: Mapping[str, str], *, force: bool) -> None:
    """Writes the files of an export into ``folder``, which is new or empty, or ``force``: what is there and is not of
    an older export stays.

    Raises:
        InputError: files are there, or it cannot be written; what was there stays as it was.
    """
    try:
        _write(folder, files, force=force)
    except OSError as error:
        raise InputError(
            f"--output: {named(folder)} cannot be written ({reason(error)})", "name another folder, or make room"
        ) from error
    except ValueError as error:  # a name that no file can have
        raise InputError(f"--output: {named(folder)} cannot be written ({error})", "name another folder") from error


def _write(folder: Path, files: Mapping[str, str], *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output: {named(folder)} is not a folder", "name a new folder")
    there = folder.is_dir() and any(folder.iterdir())
    if there and not force:
        raise InputError(f"--output: {named(folder)} holds files", "name a new folder, or replace them with --force")
    parent = folder.resolve().parent
    if not parent.is_dir():
        raise InputError(f"--output: the directory {named(parent)} does not exist", f"make it first: mkdir -p {parent}")
    with whole_folder(folder.resolve(), replaces=force) as made:
        if there:
            _keep_others(folder, made)
        for name, text in files.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8"))
            path.chmod(0o755 if name.endswith(".sh") else 0o644)


def _keep_others(folder: Path, made: Path) -> None:
    """Copies what an older export did not write."""
    try:
        old = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        written = {*old, MANIFEST}
    except (OSError, ValueError, LookupError, TypeError):
        written = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in written:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, made / name)


@dataclass(frozen=True)
class Change:
    """A file that is not what the plan gave, and what is other in it, in words."""

    file: str
    what: str


def verify(folder: Path, asked: Asked, target: str | None = None) -> tuple[str, list[Change]]:
    """(the target, what is other than the plan gave) of a folder that was exported. The values are those that it was
    exported with, replaced by those of ``asked``; so are target and release.

    Raises:
        InputError: the folder has no manifest, or is of another plan.
    """
    said = _manifest(folder)
    name = target or said["target"]
    if said["kind"] != asked.kind or name != said["target"]:
        raise InputError(
            f"--verify: {named(folder)} was exported --to {said['target']} from a document of kind {said['kind']}",
            "name the document that it was exported from",
        )
    if said["plan"] != asked.document.digest:
        raise InputError(
            f"--verify: {named(folder)} was exported from another plan ({shown(str(said['plan'])[:16])}, not "
            f"{shown(str(asked.document.digest)[:16])})",
            "name the plan that it was exported from, or export this one",
        )
    given = {**said["values"], **asked.values.model_dump(mode="json", exclude_defaults=True)}
    again = Asked(
        asked.document,
        checked(Values, given, f"{MANIFEST}: values"),
        asked.framework or said["framework"] or None,
        asked.assume_version or said["assume_version"],
    )
    _, files = exported(name, again)
    return name, list(_changes(folder, files))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    hint = "name a folder that `plan export` wrote"
    if not path.is_file():
        raise InputError(f"--verify: {named(folder)} has no {MANIFEST}", hint)
    said = read_json(Source(path, "--verify", hint))
    kinds = {"target": str, "kind": str, "plan": str, "framework": str, "values": dict, "assume_version": bool}
    if not isinstance(said, dict) or not all(isinstance(said.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"--verify: {named(path)} is not as it was written", hint)
    return said


def _changes(folder: Path, files: Mapping[str, str]) -> Iterator[Change]:
    for name, text in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            yield Change(name, "is gone")
            continue
        found = Source(path, "--verify", "export again").text()
        if found != text:
            yield Change(name, _difference(text, found))


def _difference(given: str, found: str) -> str:
    """What is other, option by option where the lines have options, else line by line."""
    told: list[str] = []
    old, new = given.splitlines(), found.splitlines()
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            told += _of_lines(old, new, (a, b), (c, d))
    told = list(dict.fromkeys(told))
    shown_ = told[:_MOST_TOLD]
    more = len(told) - len(shown_)
    return "; ".join(shown_) + (f"; and {more} more" if more else "") if told else "line ends or blanks at the end"


def _of_lines(old: list[str], new: list[str], was: tuple[int, int], now: tuple[int, int]) -> list[str]:
    before, after = (_options(lines, *range_) for lines, range_ in ((old, was), (new, now)))
    out = []
    for flag in dict.fromkeys((*before, *after)):
        one, other = before.get(flag), after.get(flag)
        if one != other:
            out.append(
                f"{flag} is {other or 'set'}, the plan gave {one or 'it without a value'}"
                if one is not None and other is not None
                else f"{flag} is gone" if other is None else f"{flag} {other} was added"
            )  # fmt: skip
    if out:
        return out
    gone, come = " ".join(" ".join(old[slice(*was)]).split()), " ".join(" ".join(new[slice(*now)]).split())
    return [f"line {now[0] + 1}: {shown(come)}, the plan gave {shown(gone)}"]


def _options(lines: list[str], start: int, end: int) -> dict[str, str]:
    """Options and keys in a part of a file → their values. A list of arguments in YAML has a word a line, so that the
    line before belongs to it."""
    first = max(start - 1, 0)
    words = [word.strip("\"',\\") for line in lines[first : end + 1] for word in line.removeprefix("- ").split()]
    found: dict[str, str] = {}
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if _FLAG.fullmatch(word):
            found[word] = "" if _FLAG.fullmatch(following) else following
        elif re.fullmatch(r"[A-Za-z_][\w.-]*:", word) and following:
            found[word[:-1]] = following
    return found
