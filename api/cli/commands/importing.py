"""``plan import``: what runs, as a deployment that can be predicted, simulated and compared."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.answering import told
from api.cli.console import flowing
from api.cli.options import AsJson, Described, Output, Quiet, Request, takes
from api.cli.output import check_target
from api.cli.requests import measured_stores, read_request
from api.cli.running_text import EXAMPLE, fields_of
from planner.imports.request import ImportRequest
from profiles.errors import InputError

SET_HELP = "A shell variable that the text does not set: TP=8. May be given again."

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help=SET_HELP, rich_help_panel="What it cannot say"),
]


@takes(ImportRequest)
@flowing
def import_(
    asked: dict[str, Any],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar='["COMMAND" | FILE | FOLDER]',
            help="A command in quotes; a shell script, Kubernetes, LeaderWorkerSet, Dynamo, KServe or compose YAML; "
            "a folder that `plan export` wrote.",
            show_default=False,
        ),
    ] = None,
    set_: Set = None,
    profiles: Described = None,
    request: Request = None,
    output: Output = None,
    as_json: AsJson = False,
    _quiet: Quiet = False,
) -> None:
    """Reads what already runs: engines with their layout, limits and precision, as `plan predict`, `plan simulate`,
    `plan memory` and `plan compare` take them. What the framework's defaults decide is filled in and listed, flags
    without a meaning for predictions are kept, and unknown ones refused with the nearest.

    Examples:

      plan import "vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2" --gpu H100 -o running.json

      plan import serve.sh --framework sglang@0.5.11 --set TP=8 --gpu H200

      plan import deployment.yaml --json
    """
    from api.cli.views.deployment import show
    from planner.imports.importing import deployment_of
    from planner.imports.request import parse_import_request

    check_target(output)
    _, catalogue = measured_stores(profiles)
    document, _ = read_request(request, "deployment-request")
    if source is None and not document:
        raise InputError("COMMAND is missing", f"for example: {EXAMPLE}")
    fields = fields_of(source, asked, set_, catalogue) if source is not None else dict(asked)
    made = deployment_of(parse_import_request({**document, **fields}, catalogue), catalogue)
    told(made, output, as_json=as_json, show=show)
