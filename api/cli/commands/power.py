"""``plan power``: how many servers a row holds under its breaker, and under which caps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.console import flowing, page
from api.cli.options import SHOWN, AsJson, Output, Quiet, takes
from api.cli.output import check_target, hand_over, write_atomically
from api.cli.requests import measured_stores, read_request
from planner.contract.options import LOAD
from planner.power.request import REFERENCE, PowerRequest
from profiles.errors import InputError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.power.report import Solved
    from profiles.hardware import Catalogue
    from profiles.store import ProfileStore

_ONE = "One policy alone"

EXAMPLE = "plan power row.yaml --trace reference --slo-impact hp_p50=1%,hp_p99=5%,lp_p50=5%,lp_p99=50%"


@takes(PowerRequest)
@flowing
def power(
    asked: dict[str, Any],
    row_file: Annotated[
        Path | None, typer.Argument(metavar="ROW.yaml", help="The row, its supply and servers.", show_default=False)
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Recorded requests of today's servers together, or `reference`: traffic that ships and meets POLCA's "
            "published facts.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Lay this profile store over the shipped pack.", rich_help_panel=LOAD),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="nameplate, none, static, threshold, polca, ours or oracle: of --drive and --timeline.",
            rich_help_panel=_ONE,
        ),
    ] = None,
    drive: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Run --policy against this series (t_s,row_watts), on which its commands have no effect.",
            rich_help_panel=_ONE,
        ),
    ] = None,
    commands: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what it commands: t_s,priority,clock_mhz (empty: uncapped).",
            rich_help_panel=_ONE,
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write t_s,row_watts: of today's row as it is; with --policy, of the servers that this policy holds.",
            rich_help_panel=SHOWN,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw power over time of each policy, and servers against impact: .png, .svg or .html.",
            rich_help_panel=SHOWN,
        ),
    ] = None,
    as_json: AsJson = False,
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Decides how many servers a row holds: caps by priority and level, judged by simulating the row with its queues,
    control delays and bursts; what they cost whom; how often the brake is pulled; and which budget binds.

    Examples:

      plan power row.yaml --trace reference --slo-impact hp_p50=1%,hp_p99=5%,lp_p50=5%,lp_p99=50% -o power.json

      plan power row.yaml --policy polca --drive watts.csv --commands commands.csv

      plan power row.yaml --trace requests.csv --timeline today.csv
    """
    for path, option in ((output, "--output"), (commands, "--commands"), (timeline, "--timeline"), (plot, "--plot")):
        check_target(path, option)
    if plot is not None:
        from planner.pictures import check_kind

        check_kind(plot, "row.html")
    measured, catalogue = measured_stores(profiles)
    request = _understood(
        asked, row_file, trace, catalogue, driven=drive is not None and policy not in ("ours", "oracle")
    )
    if policy is not None:
        from planner.power.policy import NAMES

        if policy not in NAMES:
            raise UnknownName("--policy", policy, NAMES)
        if drive is None and commands is None and timeline is None:
            raise InputError(
                "--policy is of --drive and --timeline, and neither is given",
                "leave it out, as the answer has all policies; or add --timeline FILE, or --drive FILE --commands FILE",
            )
    if drive is not None or commands is not None:
        _drive(request, policy, (drive, commands), catalogue, measured)
        return
    from api.cli.progress import Reporter
    from planner.power.assembly import assembled
    from planner.power.report import solved

    with Reporter(f"power of {request.supply.name}", quiet=quiet) as report:
        if timeline is not None and output is None and not as_json and plot is None:
            from planner.power.series import timeline_csv

            write_atomically(timeline, timeline_csv(_watts(request, policy, measured, report)), "--timeline")
            return
        if not request.slo_impact:
            raise InputError("--slo-impact is missing", f"for example: {EXAMPLE}")
        made = solved(request, measured=measured, progress=report)
        document = assembled(made)
    if timeline is not None:
        from planner.power.series import timeline_csv

        write_atomically(timeline, timeline_csv(_held(made, policy)), "--timeline")
    if plot is not None:
        from planner.power.plots import draw

        write_atomically(plot, draw(made, document, plot.suffix.casefold()), "--plot")
    if hand_over(document.to_json(), output, as_json=as_json):
        from api.cli.views.power import show

        with page() as out:
            show(document, out)


def _drive(
    request: PowerRequest,
    policy: str | None,
    paths: tuple[Path | None, Path | None],
    catalogue: Catalogue,
    measured: Sequence[ProfileStore],
) -> None:
    """Runs one policy against a series."""
    drive, commands = paths
    if drive is None or commands is None or policy is None:
        missing = "--drive" if drive is None else "--commands" if commands is None else "--policy"
        raise InputError(
            f"{missing} is missing",
            "for example: plan power row.yaml --policy polca --drive watts.csv --commands c.csv",
        )
    if commands.resolve() == drive.resolve():
        raise InputError(f"--commands: {commands} is the file of --drive", "name another, it would be written over")
    from planner.power.series import commands_csv, commands_on, preset, read_drive

    series = read_drive(drive)
    chosen, by = preset(policy, request, catalogue), "as the row file has it" if policy == "static" else "as published"
    if policy in ("nameplate", "none"):
        by = "the brake alone"
    if policy == "threshold":
        by = "its deepest clock, as no --slo-impact limits it"
    if chosen is None:
        from planner.power.report import solved

        if not request.slo_impact:
            raise InputError(
                f"--slo-impact is missing: {policy} is chosen by it",
                "name the caps of the row file, or add --slo-impact hp_p50=1%,lp_p99=50%"
                if policy == "static"
                else f"for example: {EXAMPLE}",
            )
        chosen, by = solved(request, measured=measured, last=policy).policy(policy), "as the answer chooses it"
    found = commands_on(chosen, request, series, catalogue)
    write_atomically(commands, commands_csv(found), "--commands")
    clocks = ", ".join(f"{mhz:,}" for mhz in chosen.clocks_mhz if mhz is not None)
    sets = f"clocks {clocks} MHz" if clocks else "no clocks"
    counts = ((len(found), "command"), (len(series[0]), "row"))
    many, rows = (f"{n:,} {what}{'' if n == 1 else 's'}" for n, what in counts)
    typer.echo(f"{many} of {policy} ({by}: {sets}) on {rows}: {commands}", err=True)


def _watts(request: PowerRequest, policy: str | None, measured: Sequence[ProfileStore], report: Any) -> Any:
    """The row's power over time, when nothing else is asked for."""
    from planner.power.report import solved
    from planner.power.row import row_of
    from planner.power.series import timeline
    from profiles.descriptions import catalogue_with

    if policy is None:
        row, _ = row_of(request, catalogue_with(each.path for each in measured), measured)
        return timeline((request, row))
    if not request.slo_impact:
        raise InputError("--slo-impact is missing", f"for example: {EXAMPLE}")
    return _held(solved(request, measured=measured, progress=report, last=policy), policy)


def _held(made: Solved, policy: str | None) -> Any:
    from planner.power.series import timeline

    if policy is None:
        return timeline(made)
    made.policy(policy)
    judged = made.results[policy]
    return timeline(made, judged.policy, judged.verdict.servers)


def _understood(
    asked: dict[str, Any], row_file: Path | None, trace: str | None, catalogue: Catalogue, *, driven: bool
) -> PowerRequest:
    """The request, with the plans and the trace that it names read and put in.

    Raises:
        InputError: what their readers raise, and what contradicts itself.
    """
    from planner.contract.files import read_text
    from planner.power.request import parse_power_request
    from planner.replay.request import Trace
    from planner.serving.document.plan import parse_plan

    if row_file is None:
        raise InputError("ROW.yaml is missing", f"for example: {EXAMPLE}")
    document, folder = read_request(str(row_file), "power-request")
    fields = {**document, **asked}
    servers = fields.get("servers")
    if isinstance(servers, list):
        fields["servers"] = [
            {**each, "plan": parse_plan(read_text(folder / each["plan"], "plan"), f"plan {each['plan']}")}
            if isinstance(each, dict) and isinstance(each.get("plan"), str)
            else each
            for each in servers
        ]
    path: Path | None = None
    if trace is not None:
        path = None if trace == REFERENCE else Path(trace)
        fields["trace"] = REFERENCE
    elif isinstance(fields.get("trace"), str) and fields["trace"] != REFERENCE:
        path = folder / fields["trace"]
        fields["trace"] = REFERENCE
    elif "trace" not in fields and not driven:
        raise InputError("--trace is missing", "name a file of recorded requests, or write --trace reference")
    request = parse_power_request(fields, catalogue)  # what contradicts itself is refused before a long file is read
    if path is None:
        return request
    return parse_power_request({**fields, "trace": Trace.read(path)}, catalogue)
