"""``plan memory``: whether an engine starts, and where the memory of its GPUs goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.console import flowing, page, write_text
from api.cli.options import AsJson, Output, Request, takes
from api.cli.output import check_target, write_atomically
from api.cli.requests import gathered
from planner.serving.configuration import MemoryRequest

EXAMPLE = "plan memory --model Qwen/Qwen3-32B --gpu H100 --tp 2"


@takes(MemoryRequest)
@flowing
def memory(
    asked: dict[str, Any],
    profiles: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Know the GPU types that this store describes. May be given again."),
    ] = None,
    request: Request = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Tells whether an engine starts: how much KV cache it has, which part of a GPU's memory takes what, the longest
    request and how many fit, and which option would make it fit. Figures are those of the engine's own log, for the
    release that you name.

    Examples:

      plan memory --model Qwen/Qwen3-32B --gpu H100 --tp 2

      plan memory --model openai/gpt-oss-120b --gpu H100 --framework vllm@0.11 --max-model-len 16000
    """
    from api.cli.views.memory import show
    from planner.serving.memory import memory as memory_of
    from planner.serving.memory_document import parse_memory_request
    from profiles.descriptions import catalogue_with

    check_target(output)
    catalogue = catalogue_with(profiles or ())
    fields, _ = gathered(asked, request, "memory-request", catalogue, needed=("model", "gpu"), example=EXAMPLE)
    understood = parse_memory_request(fields)
    made = memory_of(understood, catalogue)
    if output is not None:
        write_atomically(output, made.to_json())
    if as_json:
        write_text(made.to_json())
    else:
        with page() as out:
            show(made, out)
