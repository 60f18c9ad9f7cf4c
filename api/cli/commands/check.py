"""``plan check``: does it start, does it keep its promises, and what would be better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.answering import answered, told
from api.cli.commands.importing import Set
from api.cli.console import flowing
from api.cli.options import AsJson, Output, Profiles, Quiet, Request, SkipFailed, takes
from api.cli.output import check_target
from api.cli.requests import measured_stores, read_request, with_workload
from api.cli.running_text import fields_of
from planner.compare.check_request import CheckRequest
from profiles.errors import InputError

EXAMPLE = (
    'plan check "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2" --gpu H100 --workload isl=4000,osl=500,rate=1'
)
NOT_WELL = 3


@takes(CheckRequest)
@flowing
def check(
    asked: dict[str, Any],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar='["COMMAND" | FILE | FOLDER | DOCUMENT.json]',
            help="What `plan import` reads, or a plan or a deployment.",
            show_default=False,
        ),
    ] = None,
    set_: Set = None,
    profiles: Profiles = None,
    skip_failed: SkipFailed = False,
    request: Request = None,
    output: Output = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Says in fifteen lines whether what runs, or is to run, starts, and why not, with how much cache, which promise
    breaks under a load, what would be better on the same GPUs, and by how much. Exit code 0: it starts and keeps its
    promises; 3: it does not.

    Examples:

      plan check "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2" --gpu H100

      plan check "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 4 --max-num-batched-tokens 2048" --gpu H100
      --workload isl=4000,osl=500,rate=2 --slo ttft=1s,tpot=30ms
    """
    from api.cli.views.check import show
    from planner.compare.check_request import parse_check_request

    check_target(output)
    measured, catalogue = measured_stores(profiles)
    document, folder = read_request(request, "check-request")
    if source is None and not document:
        raise InputError("COMMAND is missing", f"for example: {EXAMPLE}")
    given = with_workload(asked, Path(), skip_failed=skip_failed)
    if source is not None and source.casefold().endswith(".json"):
        from planner.serving.document.opening import read_running

        fields = {**given, "plan": read_running(Path(source))}
    else:
        fields = given if source is None else fields_of(source, given, set_, catalogue)
    whole = {**with_workload(document, folder, skip_failed=skip_failed), **fields}
    made = answered("check", parse_check_request(whole, catalogue), "checking", measured, quiet=quiet)
    told(made, output, as_json=as_json, show=show)
    if not made.is_well:
        raise typer.Exit(NOT_WELL)
