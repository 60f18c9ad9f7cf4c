"""``plan`` itself: how one model is served."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.answering import told
from api.cli.console import page
from api.cli.options import SHOWN, AsJson, Output, Prices, Quiet, Request, SkipFailed, refuse_before_command, takes
from api.cli.output import check_target
from api.cli.requests import gathered, measured_stores, with_prices
from planner.contract.options import ASKED, RESTRICTED
from planner.serving.request import PlanRequest
from profiles.errors import InputError

EXAMPLE = "plan --model Qwen/Qwen3-32B --cluster 16xH200 --slo ttft=1s,tpot=30ms --workload isl=4000,osl=500"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"shardwright {version('shardwright')}")
        raise typer.Exit


def _print_config(asked: bool) -> None:
    if asked:
        from api.cli.views.settings import show
        from api.settings import settings

        with page() as out:
            show(settings(), out)
        raise typer.Exit


@takes(PlanRequest)
def plan(
    context: typer.Context,
    asked: dict[str, Any],
    profiles: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Lay this profile store over the shipped pack: its rows answer exactly and correct the others. "
            "May be given again, the last on top.",
            rich_help_panel=RESTRICTED,
        ),
    ] = None,
    expert_loads: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Tokens that each expert received, as `plan experts --loads` reads them: also place the experts of "
            "engines with expert parallelism. May be given again: each is a workload.",
            rich_help_panel=ASKED,
        ),
    ] = None,
    skip_failed: SkipFailed = False,
    prices: Prices = None,
    request: Request = None,
    as_json: AsJson = False,
    output: Output = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Also show what was rejected, where time goes, the frontier and the placement.",
            rich_help_panel=SHOWN,
        ),
    ] = False,
    quiet: Quiet = False,
    _config: Annotated[
        bool,
        typer.Option(
            "--print-config",
            callback=_print_config,
            is_eager=True,
            help="Print the settings (shardwright.toml, SHARDWRIGHT_…), where each is from, and exit.",
        ),
    ] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Decides how a language model is laid out on GPUs so that it keeps a promise to its users.

    Example:

      plan --model Qwen/Qwen3-32B --cluster 16xH200 --slo ttft=1s,tpot=30ms --workload isl=4000,osl=500
    """
    if context.invoked_subcommand is not None:
        refuse_before_command(context)
        return
    from api.cli.progress import Reporter
    from planner.contract.models import architecture_of
    from planner.serving.request import parse_request

    measured, catalogue = measured_stores(profiles)
    catalogue = with_prices(catalogue, prices)
    needed = ("model", "cluster", "workload")
    fields, _ = gathered(asked, request, "request", catalogue, needed=needed, example=EXAMPLE, skip_failed=skip_failed)
    understood = parse_request(fields, catalogue)
    if skip_failed and understood.workload.recorded is None:
        raise InputError("--skip-failed: has no effect without a trace", "name one: --workload requests.csv")
    check_target(output)
    architecture = architecture_of(understood.model)  # a misspelt name is refused before the slow imports
    loads = None
    if expert_loads:
        from planner.serving.expert_placement import read_expert_loads

        loads = read_expert_loads(expert_loads, architecture)
    with Reporter(f"planning {architecture.name}", quiet=quiet) as report:
        from planner.serving.planning import plan

        made = plan(understood, measured=measured, progress=report, expert_loads=loads)
    from costmodels.serving.frameworks.own_calibration import CALIBRATIONS

    learned = {store.manifest.name for store in measured if (store.path / CALIBRATIONS.name).is_file()}
    for store in made.provenance.measured:
        if not store.rows and not quiet and store.name not in learned:
            print(f"note: store {store.name} has no rows of the planned GPU types", file=sys.stderr)
    from api.cli.views.plan import show

    told(made, output, as_json=as_json, show=show, explain=explain)
