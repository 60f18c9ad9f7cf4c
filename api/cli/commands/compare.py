"""``plan compare``: plans and deployments side by side under one load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.answering import answered, told
from api.cli.console import flowing
from api.cli.options import AsJson, Output, Profiles, Quiet, Request, SkipFailed, takes
from api.cli.output import check_target
from api.cli.requests import measured_stores, read_request, with_workload
from planner.compare.request import ComparisonRequest
from profiles.errors import InputError

EXAMPLE = "plan compare running.json plan.json --workload isl=4000,osl=500,rate=8 --slo ttft=1s,tpot=30ms"


@takes(ComparisonRequest)
@flowing
def compare(
    asked: dict[str, Any],
    documents: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DOCUMENT.json...",
            help="Plans and deployments. One alone: beside a new plan on the same GPUs.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="GPU type of what is no document yet (YAML, a script), where it does not say it.")
    ] = None,
    profiles: Profiles = None,
    skip_failed: SkipFailed = False,
    request: Request = None,
    output: Output = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Shows plans and deployments side by side under one load: which start, which promises hold, what each carries
    within the promises, what that costs and what energy it takes, each with its 80 % interval, and how sure the order
    is. One document alone is compared with a new plan on the same GPUs.

    Examples:

      plan compare running.json plan.json --workload isl=4000,osl=500,rate=8 --slo ttft=1s,tpot=30ms

      plan compare deployment.yaml --gpu H100 --workload isl=4000,osl=500 --slo tpot=30ms
    """
    from api.cli.views.compare import show
    from planner.compare.request import parse_comparison_request

    check_target(output)
    measured, catalogue = measured_stores(profiles)
    document, folder = read_request(request, "comparison-request")
    fields = {
        **with_workload(document, folder, skip_failed=skip_failed),
        **with_workload(asked, Path(), skip_failed=skip_failed),
    }
    if gpu is not None and not any(path.suffix.casefold() != ".json" for path in documents or ()):
        raise InputError("--gpu: has no effect beside documents", "they say it; leave it out")
    if documents:
        from api.cli.running_text import document_at

        fields["documents"] = [document_at(path, gpu, catalogue) for path in documents]
        fields["names"] = _names(documents)
    elif "documents" not in fields:
        raise InputError("DOCUMENT is missing", f"for example: {EXAMPLE}")
    made = answered("comparison", parse_comparison_request(fields, catalogue), "comparing", measured, quiet=quiet)
    told(made, output, as_json=as_json, show=show)


def _names(paths: list[Path]) -> list[str]:
    """The file names, where these differ; else the paths, those of one file numbered."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    names = [str(path) for path in paths]
    return [
        name if names.index(name) == place else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]
