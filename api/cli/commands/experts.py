"""``plan experts``: which GPU holds which expert, and which copies of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.console import flowing, page, write_text
from api.cli.options import SHOWN, AsJson, Edited, Quiet, Request, takes
from api.cli.output import check_target, write_atomically
from api.cli.requests import gathered, measured_stores, taken_paths
from planner.experts.request import PlacementRequest
from profiles.errors import InputError, UnknownName

if TYPE_CHECKING:
    from planner.experts.placing import Placed

_STATISTICS, _RULES = "Statistics", "Rules"

EXAMPLE = "plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --loads counts.json --redundant 32"


@takes(PlacementRequest)
@flowing
def experts(
    asked: dict[str, Any],
    loads: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Expert counts: .json, .npy, .npz, .csv, SGLang's .pt, a TensorRT-LLM folder. Repeat for windows.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    routes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Token routes: .jsonl, or .npy: tokens x layers x top-k.", rich_help_panel=_STATISTICS
        ),
    ] = None,
    holdout: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Counts to score on and not fit on. Repeatable.", rich_help_panel=_STATISTICS
        ),
    ] = None,
    current: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The placement that runs now, in any --format.", rich_help_panel=_RULES),
    ] = None,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Lay this profile store over the shipped pack.", rich_help_panel=_RULES),
    ] = None,
    edited: Edited = False,
    request: Request = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the placement there.", rich_help_panel=SHOWN),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="Of --output: shardwright, sglang, trtllm, vllm-ascend or eplb (npz).",
            rich_help_panel=SHOWN,
        ),
    ] = "shardwright",
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Heat-map of load per GPU and layer: .png, .svg or .html.", rich_help_panel=SHOWN
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Places the experts of a mixture-of-experts model, and copies of the busy ones, on GPUs.

    The slowest GPU of each layer sets the pace, so loads are balanced over GPUs, with a bound that no placement beats.
    With --routes, a token's next experts are brought near as well.

    Examples:

      plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --loads counts.json --redundant 32

      plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --loads monday.json --loads tuesday.json
      --holdout today.json --slots-per-gpu 9 -o sglang.json --format sglang

      plan experts --model mistralai/Mixtral-8x7B-v0.1 --cluster 4xH200 --routes routes.jsonl --objective traffic

      plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --loads today.json --slots-per-gpu 9
      --current placement.json --max-moves 200

      plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --synthetic sigma=0.7 --plot load.png
    """
    from planner.experts.outputs import FORMATS

    if form not in FORMATS:
        raise UnknownName("--format", form, FORMATS, f"choose from {', '.join(FORMATS)}")
    _check_targets(output, form, plot)
    measured, catalogue = measured_stores(profiles)
    fields, folder = gathered(
        asked, request, "experts-request", catalogue, needed=("model", "cluster"), example=EXAMPLE
    )
    named = {name: taken_paths(fields, name, folder) for name in ("loads", "routes", "holdout", "current")}
    from api.cli.progress import Reporter
    from planner.contract.models import architecture_of
    from planner.experts.request import parse_placement_request

    understood = parse_placement_request(fields, catalogue)
    model = architecture_of(understood.model).name
    with Reporter(f"placing the experts of {model}", quiet=quiet) as report:
        from planner.experts.decision import Files, place_experts

        files = Files(
            loads=loads or named["loads"],
            routes=routes or _one(named["routes"]),
            holdout=holdout or named["holdout"],
            current=current or _one(named["current"]),
            edited=edited,
        )
        placed, made = place_experts(understood, files=files, form=form, measured=measured, progress=report)
    document = made.to_json()
    _write(placed, document, output, form, plot)
    if as_json:
        write_text(document)
        return
    from api.cli.views.experts import show

    with page() as out:
        show(made, out, written=[str(path) for path in (output, plot) if path is not None])


def _one(paths: list[Path]) -> Path | None:
    return paths[0] if paths else None


def _check_targets(output: Path | None, form: str, plot: Path | None) -> None:
    if form != "shardwright" and output is None:
        raise InputError(f"--format {form} is given without a file", "name it with -o FILE")
    check_target(output)
    if plot is not None:
        from planner.pictures import check_kind

        check_target(plot, "--plot")
        check_kind(plot, "load.png")


def _write(placed: Placed, document: str, output: Path | None, form: str, plot: Path | None) -> None:
    from planner.experts.outputs import written

    if output is not None:
        write_atomically(output, document if form == "shardwright" else written(placed.after, placed.job.model, form))
    if plot is not None:
        from planner.experts.plots import heat_map

        write_atomically(plot, heat_map(placed, plot.suffix.casefold()), "--plot")
