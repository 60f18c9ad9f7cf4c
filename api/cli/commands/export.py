"""``plan export``: a document as the files that a platform reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.console import flowing, page
from api.cli.options import AsJson, Quiet
from api.cli.output import hand_over
from profiles.errors import InputError, ShardwrightError

if TYPE_CHECKING:
    from planner.contract.published import Published
    from planner.exports.target import Asked

_WHAT = "What the plan does not know"
_HINT = "give a plan, as `plan --output` wrote it"


@flowing
def export(
    document: Annotated[
        Path, typer.Argument(metavar="DOCUMENT", help="A plan, as `plan --output` or `plan train --output` wrote it.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="TARGET",
            help="shell, slurm, kubernetes, llm-d, dynamo, kserve, ray-serve, skypilot, gateway; of a training plan "
            "megatron, megatron-bridge, torchtitan, deepspeed, slurm, kubernetes, jobset; of a power plan nvidia-smi, "
            "prometheus, dynamo-power.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to write.", show_default=False)
    ] = None,
    values: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML or JSON with images, addresses, names (`plan schema values`).",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One of them; may be given again.", rich_help_panel=_WHAT),
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option(metavar="NAME@RELEASE", help="Another release than the plan's.", show_default=False),
    ] = None,
    assume_version: Annotated[
        bool,
        typer.Option("--assume-version", help="Where a release's options are not known, take the nearest's."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what an older export wrote there.")] = False,
    edited: Annotated[bool, typer.Option("--edited", help="Take a plan that was changed by hand.")] = False,
    as_json: AsJson = False,
    verify: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Say whether the files there are still what the plan gave.", show_default=False
        ),
    ] = None,
    _quiet: Quiet = False,
) -> None:
    """Writes what a launcher reads: scripts, manifests, a front that knows every engine, and bench.sh.

    Examples:

      plan export plan.json --to shell -o out --set nodes=10.0.0.1,10.0.0.2

      plan export plan.json --to kubernetes -o out --values values.yaml

      plan export plan.json --verify out
    """
    from planner.contract.published import check_not_edited
    from planner.exports.target import Asked
    from planner.exports.values import read_values

    read = _read(document)
    if not edited:
        check_not_edited(read, f"document {document}")
    _check_sense(read)
    asked = Asked(read, read_values(values, set_ or ()), framework, assume_version)
    if verify is not None:
        if output is not None:
            raise InputError("--output: nothing is written beside --verify", "give one of them")
        _verify(verify, asked, to)
        return
    if to is None:
        raise InputError("--to is missing", "for example: plan export plan.json --to shell -o out --set nodes=10.0.0.1")
    from planner.contract.exported import MANIFEST
    from planner.exports.folder import manifest, write_folder
    from planner.exports.registry import exported, find_target

    if as_json:
        _as_json(to, asked, output)
        return
    if output is None:
        find_target(to, asked.kind)
        raise InputError("--output is missing", f"for example: plan export {document} --to {to} -o out")
    target, files = exported(to, asked)
    write_folder(output, {**files, MANIFEST: manifest(to, asked, target.framework, files)}, force=force)
    with page() as out:
        from api.cli.views.export import show

        show(target, files, output, out)


def _as_json(to: str, asked: Asked, output: Path | None) -> None:
    """The files as one document, on stdout."""
    from planner.exports.exporting import exported_document

    if output is not None:
        raise InputError("--json: a folder is written, too (--output)", "give one of them")
    hand_over(exported_document(to, asked).to_json(), None, as_json=True)


def _read(path: Path) -> Published:
    """The document, of whatever kind it is.

    Raises:
        InputError: it cannot be read, is no document, or of no kind that is known.
    """
    from planner.contract.files import read_text
    from planner.kinds import KINDS
    from profiles.markup import Malformed, strict_json

    text = read_text(path, "document")
    try:
        found = strict_json(text)
    except Malformed as error:
        raise InputError(
            f"document {path}: not valid JSON ({error})", "give a plan, as `plan --output` wrote it"
        ) from error
    kind = found.get("kind", "serving") if isinstance(found, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"document {path}: is no document of ours", _HINT)
    try:
        return KINDS[kind].parse(text)
    except ShardwrightError as error:
        raise type(error)(f"document {path}: {error.message}", error.hint) from error


def _check_sense(document: Published) -> None:
    """Refuses a serving plan that contradicts itself."""
    from planner.serving.document.plan import Plan

    if isinstance(document, Plan):
        from planner.serving.document.contradictions import check_plan
        from planner.serving.document.placing import placed

        check_plan(placed(document))


def _verify(folder: Path, asked: object, to: str | None) -> None:
    from planner.exports.folder import verify
    from planner.exports.target import Asked
    from profiles.errors import Infeasible

    assert isinstance(asked, Asked)
    target, changes = verify(folder, asked, to)
    if changes:
        first, *rest = changes
        raise Infeasible(
            f"--verify: {folder}: {first.file}: {first.what}",
            "; ".join(f"{each.file}: {each.what}" for each in rest[:5]) or "export again into a new folder and compare",
        )
    with page() as out:
        out.print(f"{folder} is what the plan gave --to {target}")
