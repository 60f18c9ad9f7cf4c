"""``plan memory``: whether an engine starts, and where the memory of its GPUs goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.console import flowing, page, write_text
from api.cli.engines import Engines, document_of_shapes
from api.cli.options import AsJson, Described, Output, Quiet, Request, takes
from api.cli.output import check_target, hand_over, write_atomically
from api.cli.requests import described, gathered, with_files
from planner.serving.configuration import MemoryRequest
from profiles.errors import InputError, UnknownName

if TYPE_CHECKING:
    from planner.contract.deployment import DeploymentDocument
    from planner.serving.document.plan import Plan
    from profiles.hardware import Catalogue

EXAMPLE = "plan memory --model Qwen/Qwen3-32B --gpu H100 --tp 2"


@takes(MemoryRequest)
@flowing
def memory(
    asked: dict[str, Any],
    document: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIGS.csv | DOCUMENT.json]",
            help="One engine a row; columns as the options are called. Or a plan or a deployment: the memory of its "
            "engines.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Of a document with several groups of engines: the one to answer for."),
    ] = None,
    engines: Engines = None,
    profiles: Described = None,
    request: Request = None,
    output: Output = None,
    as_json: AsJson = False,
    _quiet: Quiet = False,
) -> None:
    """Tells whether an engine starts: how much KV cache it has, which part of a GPU's memory takes what, the longest
    request and how many fit, and which option would make it fit. Figures are those of the engine's own log, for the
    release that you name.

    Examples:

      plan memory --model Qwen/Qwen3-32B --gpu H100 --tp 2

      plan memory --model openai/gpt-oss-120b --gpu H100 --framework vllm@0.11 --max-model-len 16000

      plan memory running.json

      plan memory configs.csv -o memory.csv

      plan memory --model Qwen/Qwen3-32B --gpu H100 --engines prefill=4xTP1,decode=1xTP4
    """
    from api.cli.views.memory import show
    from planner.serving.memory import memory as memory_of
    from planner.serving.memory_document import parse_memory_request

    check_target(output)
    catalogue = described(profiles)
    if document is not None and document.suffix.casefold() == ".csv":
        if asked or engine is not None or engines is not None or request is not None or as_json:
            raise InputError(f"{document}: options have no effect beside a CSV", "give them as columns of the file")
        _table(document, catalogue, output)
        return
    if engines is not None:
        if document is not None or request is not None:
            raise InputError("--engines: has no effect beside a document or a request", "give one of them")
        beside: dict[str, Any] = {name: asked[name] for name in ("draft", "draft_model", "workload") if name in asked}
        understood = _engines(
            document_of_shapes(engines, asked, profiles), engine, with_files(beside, Path(), catalogue)
        )
    elif document is None:
        if engine is not None:
            raise InputError("--engine: has no effect without a document", "name one: plan memory plan.json")
        fields, _ = gathered(asked, request, "memory-request", catalogue, needed=("model", "gpu"), example=EXAMPLE)
        understood = {"": parse_memory_request(fields)}
    else:
        if request is not None:
            raise InputError("--request: has no effect beside a document", "give one of them")
        from planner.serving.document.opening import read_running

        understood = _engines(read_running(document), engine, with_files(asked, Path(), catalogue))
    made = {name: memory_of(each, catalogue) for name, each in understood.items()}
    if len(made) > 1 and (as_json or output is not None):
        raise InputError(
            f"{document or '--engines'}: has several groups of engines: {', '.join(made)}",
            "choose one with --engine for a document",
        )
    first = next(iter(made.values()))
    if hand_over(first.to_json(), output, as_json=as_json):
        with page() as out:
            for name, each in made.items():
                show(each, out, f"{name}, " if len(made) > 1 else "")


def _table(path: Path, catalogue: Catalogue, output: Path | None) -> None:
    """The CSV with its columns added, on stdout or to a file."""
    from planner.serving.memory_table import memory_table
    from profiles.files import Source
    from profiles.tables import read_table

    source = Source(path, "", "give a CSV with a header: model,gpu,framework,tp,max_model_len,...")
    answer = memory_table(read_table(source, skipinitialspace=True), catalogue)
    text = answer.to_csv(index=False)
    if output is None:
        write_text(text)
    else:
        write_atomically(output, text)
    if (answer["error"] != "").all():
        raise InputError(
            f"{path}: no row could be answered; the first: {answer['error'].iloc[0]}",
            "correct the rows: each one's column error says why",
        )


def _engines(
    document: Plan | DeploymentDocument, engine: str | None, asked: dict[str, Any]
) -> dict[str, MemoryRequest]:
    """What is asked of each group of engines of a document, by its id; options replace what the document says."""
    from planner.serving.document.opening import drafts, engine_fields, running_of
    from planner.serving.memory_document import parse_memory_request

    groups = {group.id: group for group in running_of(document).engines}
    if engine is not None and engine not in groups:
        raise UnknownName("engine", engine, groups)
    return {
        name: parse_memory_request(
            {**engine_fields(document, group), "draft": drafts(document) and group.role != "prefill", **asked}
        )
        for name, group in groups.items()
        if engine in (None, name)
    }
