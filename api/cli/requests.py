"""From the command line to a request: the document of ``--request``, options beside it, and the files that they name,
read and put in. A request itself holds no path."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.cli.options import option_name
from profiles.errors import InputError
from profiles.files import is_folder
from profiles.values import named, shown

if TYPE_CHECKING:
    from planner.contract.documents import Document
    from profiles.hardware import Catalogue
    from profiles.store import ProfileStore

STDIN = "-"


def read_request(source: str | None, schema: str) -> tuple[dict[str, Any], Path]:
    """(the fields of a request document, the folder that its files are relative to); no fields without a ``source``.

    Args:
        source: a file in YAML or JSON, or ``-`` for standard input.
        schema: what says what it may hold, for hints.

    Raises:
        InputError: it cannot be read, or is not a mapping.
    """
    if source is None:
        return {}, Path()
    from planner.contract.files import mapping_of, read_text

    hint = f"give a mapping of fields; `plan schema {schema}` says which there are, with --example for one"
    if source == STDIN:
        return mapping_of(sys.stdin.read(), "request from standard input", hint), Path()
    path = Path(source)
    return mapping_of(read_text(path, "request"), f"request {path}", hint), path.parent


def gathered(
    asked: Mapping[str, Any],
    source: str | None,
    schema: str,
    catalogue: Catalogue,
    *,
    needed: Sequence[str] = (),
    example: str = "",
    skip_failed: bool = False,
) -> tuple[dict[str, Any], Path]:
    """The fields of a request: those of its document, replaced by the options ``asked`` beside it, and what the user's
    settings say where neither does; with the files that ``model`` and ``cluster`` name put in. And the folder that
    other files of the document are relative to.

    Raises:
        InputError, UnknownName: what :func:`read_request` and the readers of files raise; a ``needed`` field is
            missing (``example`` shows how it is given).
    """
    document, folder = read_request(source, schema)
    usual: Mapping[str, Any] = getattr(asked, "usual", {})
    asked = {**{name: value for name, value in usual.items() if name not in document}, **asked}
    for name in needed:
        if name not in asked and name not in document:
            raise InputError(f"--{name.replace('_', '-')} is missing", f"for example: {example}")
    rest = {name: value for name, value in document.items() if name not in asked}
    return {
        **with_files(rest, folder, catalogue, skip_failed=skip_failed),
        **with_files(asked, Path(), catalogue, skip_failed=skip_failed),
    }, folder


def check_words(asked: Mapping[str, Any], request: type[Document]) -> None:
    """Raises InputError for a word that leaves a cell of a table blank: an option that is not meant is left out. Where
    nothing is the default, ``none`` says so."""
    from planner.contract.engine import NOTHING
    from planner.contract.words import cell

    for name, value in asked.items():
        text, default = str(value), request.model_fields[name].default
        if not cell(text) and not (text.casefold() == NOTHING and default in (None, NOTHING)):
            raise InputError(f"{option_name(request, name)}: {shown(text)} is not known", "leave it out")


def with_files(
    fields: Mapping[str, Any], folder: Path, catalogue: Catalogue, *, skip_failed: bool = False
) -> dict[str, Any]:
    """``fields`` with the ``config.json`` that ``model`` names, the YAML file that ``cluster`` names, and the trace or
    the mapping that ``workload`` names put in.

    Args:
        skip_failed: leave out rows of a trace without output.
    """
    out = dict(fields)
    if isinstance(model := out.get("model"), str):
        from planner.contract.models import read_model

        out["model"] = read_model(_at(folder, model))
    if isinstance(draft := out.get("draft_model"), str):
        from planner.contract.models import read_draft

        out["draft_model"] = read_draft(_at(folder, draft))
    if isinstance(cluster := out.get("cluster"), str):
        from planner.contract.clusters import parse_cluster

        out["cluster"] = parse_cluster(_at(folder, cluster), catalogue=catalogue)
    return with_workload(out, folder, skip_failed=skip_failed)


def with_workload(fields: Mapping[str, Any], folder: Path, *, skip_failed: bool = False) -> dict[str, Any]:
    """``fields`` with the trace or the mapping that ``workload`` names put in. Arguments as of :func:`with_files`."""
    out = dict(fields)
    if isinstance(workload := out.get("workload"), str):
        from planner.contract.workload.files import workload_at

        out["workload"] = workload_at(workload, folder, skip_failed=skip_failed) or workload
    return out


def _at(folder: Path, text: str) -> str:
    """``text`` as a path in ``folder``, where something is there."""
    try:
        return str(folder / text) if folder != Path() and text and (folder / text).exists() else text
    except (OSError, ValueError):  # no path, then
        return text


def taken_paths(document: dict[str, Any], name: str, folder: Path) -> list[Path]:
    """Takes the files that a request document names under ``name`` out of it; none where it holds statistics itself."""
    value = document.get(name)
    named = [value] if isinstance(value, str) else value
    if not isinstance(named, list) or not named or not all(isinstance(each, str) for each in named):
        return []
    del document[name]
    return [folder / each for each in named]


def with_prices(catalogue: Catalogue, prices: Sequence[Path] | None) -> Catalogue:
    """``catalogue`` with a user's own offers. Raises what :func:`profiles.offers.read_offers` raises."""
    if not prices:
        return catalogue
    from profiles.offers import read_offers, with_offers

    for path in prices:
        catalogue = with_offers(catalogue, read_offers(path), f"--prices {path}")
    return catalogue


def described(profiles: Sequence[Path] | None) -> Catalogue:
    """The catalogue with the GPU types that these folders describe."""
    from profiles.descriptions import catalogue_with

    for folder in profiles or ():
        if not is_folder(folder):
            raise InputError(f"--profiles: {named(folder)} is no folder", "give the folder of a profile store")
    return catalogue_with(profiles or ())


def measured_stores(profiles: Sequence[Path] | None) -> tuple[list[ProfileStore], Catalogue]:
    """The profile stores in folders, and the catalogue with the GPU types that they describe."""
    from profiles.descriptions import catalogue_with

    catalogue = catalogue_with(profiles or ())
    if not profiles:
        return [], catalogue
    from profiles.store import ProfileStore

    return [ProfileStore(folder) for folder in profiles], catalogue
