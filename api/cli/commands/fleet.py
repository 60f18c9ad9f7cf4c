"""``plan fleet``: which GPUs, how many, for which requests, in which hour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.answering import told
from api.cli.console import flowing
from api.cli.options import SHOWN, AsJson, Output, Prices, Quiet, takes
from api.cli.output import check_target, write_atomically
from api.cli.requests import measured_stores, with_prices
from planner.contract.options import ASKED
from planner.serving.fleets.request import FleetRequest
from profiles.errors import InputError

EXAMPLE = "plan fleet fleet.yaml -o fleet.json"


@takes(FleetRequest)
@flowing
def fleet(
    asked: dict[str, Any],
    fleet_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FLEET.yaml",
            help="The fleet's request; or Mélange's JSON, tables and load in one.",
            show_default=False,
        ),
    ] = None,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Lay this profile store over the shipped pack. May be given again, the last on top.",
            rich_help_panel=ASKED,
        ),
    ] = None,
    current: Annotated[
        Path | None,
        typer.Option(
            metavar="FLEET.json",
            help="The fleet that runs now: what it has need not start, and changes count from it.",
            rich_help_panel=ASKED,
        ),
    ] = None,
    prices: Prices = None,
    as_json: AsJson = False,
    output: Output = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also show every step, every route and every class.", rich_help_panel=SHOWN),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the day, or of one step the cost against the rate: .png, .svg or .html.",
            rich_help_panel=SHOWN,
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Decides which GPUs, and how many of which, serve which requests in which hour.

    Services with their loads (classes of length, by the hour or from a trace) share pools with prices and limits; the
    answer says what to run when, where a gateway sends which prompts, and how far from the best it can be.

    Examples:

      plan fleet fleet.yaml -o fleet.json

      plan fleet melange.json --route-by isl,osl --plot cost.svg
    """
    if fleet_file is None:
        raise InputError("FLEET.yaml is missing", f"for example: {EXAMPLE}")
    check_target(output)
    if plot is not None:
        from planner.pictures import check_kind

        check_target(plot, "--plot")
        check_kind(plot, "fleet.svg")
    from api.cli.progress import Reporter
    from planner.serving.document.plan import read_plan
    from planner.serving.fleets.files import read_fleet
    from planner.serving.fleets.request import parse_fleet_request

    measured, catalogue = measured_stores(profiles)
    catalogue = with_prices(catalogue, prices)
    fields = {**read_fleet(fleet_file, catalogue), **asked}
    if isinstance(fields.get("current"), str):
        fields["current"] = read_plan(fleet_file.parent / fields["current"])
    if current is not None:
        fields["current"] = read_plan(current)
    understood = parse_fleet_request(fields, catalogue)
    with Reporter(f"planning {understood.name}", quiet=quiet) as report:
        from planner.serving.fleets.planning import plan_fleet

        made = plan_fleet(understood, measured=measured, progress=report)
    from api.cli.views.fleet import show

    told(made, output, as_json=as_json, show=show, explain=explain)
    if plot is not None:  # after the answer: what cannot be drawn is not lost
        from api.cli.views.fleet_picture import draw

        write_atomically(plot, draw(made, plot.suffix.casefold()), "--plot")
