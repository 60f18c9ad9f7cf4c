"""``plan simulate``: what a plan does under a load, request by request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.console import flowing, page, write_text
from profiles.errors import InputError
from profiles.values import shown

if TYPE_CHECKING:
    from costmodels.serving.simulator.arrivals import Requests
    from planner.serving.document.plan import Plan

_LOAD, _SHOWN = "The load", "Output"

REQUESTS = 5000
"""Requests drawn for a rate: enough for a p99."""

MOST_REQUESTS = 10_000_000
"""Of one simulation: some GiB of memory."""

_GAMMA = re.compile(r"gamma:(?P<cv>[0-9]*\.?[0-9]+)")


@flowing
def simulate(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN.json", help="A plan that `plan --output` wrote.")],
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens, or arrival_s, isl, osl.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="RPS", help="Instead: requests per second of the plan's lengths.", rich_help_panel=_LOAD),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(metavar="N", help=f"How many. Default: {REQUESTS:,}; all of a trace.", rich_help_panel=_LOAD),
    ] = None,
    arrivals: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of --rate: poisson (default), or gamma:CV with the coefficient of variation of the gaps.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(metavar="FACTOR", help="Of --trace: requests come so many times as fast.", rich_help_panel=_LOAD),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the arrivals and of the gateway's choices.", rich_help_panel=_LOAD)
    ] = 0,
    model: Annotated[
        str | None,
        typer.Option(help="Path of the config.json, where the plan was made from one.", rich_help_panel=_LOAD),
    ] = None,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Measured rows laid over the shipped pack, as the plan was made; may be given again.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the report.", rich_help_panel=_SHOWN)] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the report there.", rich_help_panel=_SHOWN)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the timeline: .png, .svg or .html.", rich_help_panel=_SHOWN),
    ] = None,
) -> None:
    """Replays a trace, or random arrivals at a rate, against a plan: latency percentiles, which promises hold, how
    busy the engines are, and whether they keep up.

    Examples:

      plan simulate plan.json --rate 18

      plan simulate plan.json --trace requests.csv --speed 2 --plot timeline.html

      plan simulate plan.json --rate 18 --arrivals gamma:3 --json
    """
    cv = _check(trace, rate, requests, arrivals, speed)
    from api.cli.output import check_target, write_atomically

    if output is not None:
        check_target(output)
    if plot is not None:
        from planner.pictures import check_kind

        check_target(plot, "--plot")
        check_kind(plot, "timeline.html")
    if profiles:
        from profiles.descriptions import add_described

        for folder in profiles:
            add_described(folder)  # before names of GPUs are looked up
    from planner.serving.document.plan import read_plan

    plan = read_plan(plan_file)
    from api.cli.progress import Reporter

    with Reporter(f"simulating {plan.request.model}") as report:
        load, source = _load(plan, trace, rate, requests, cv, speed, seed)
        from planner.replay.report import simulate_plan
        from profiles.store import ProfileStore

        measured = [ProfileStore(folder) for folder in profiles or ()]
        made = simulate_plan(plan, load, source, seed=seed, model=model, measured=measured, progress=report)
    document = made.to_json()
    if output is not None:
        write_atomically(output, document)
    if plot is not None:
        from api.cli.timeline import draw

        write_atomically(plot, draw(made, plot.suffix.casefold()), "--plot")
    if as_json:
        write_text(document)
        return
    from api.cli import simulation_view

    with page() as out:
        simulation_view.show(made, out)


def _check(
    trace: Path | None, rate: float | None, requests: int | None, arrivals: str | None, speed: float | None
) -> float:
    """Refuses options that contradict each other; the coefficient of variation of the gaps."""
    if (trace is None) == (rate is None):
        raise InputError(
            "--trace and --rate: " + ("both are given" if trace is not None else "one of them is needed"),
            "for example: plan simulate plan.json --rate 18, or --trace requests.csv",
        )
    if trace is not None and arrivals is not None:
        raise InputError("--arrivals: has no effect with --trace, which says when requests come", "leave it out")
    if rate is not None and speed is not None:
        raise InputError("--speed: has no effect with --rate", "give the --rate that you want")
    if requests is not None and not 1 <= requests <= MOST_REQUESTS:
        raise InputError(
            f"--requests: {requests:,} is not between 1 and {MOST_REQUESTS:,}",
            f"{REQUESTS:,} tell a p99, {100 * REQUESTS:,} a p99.99",
        )
    if arrivals is None or arrivals == "poisson":
        return 1.0
    gamma = _GAMMA.fullmatch(arrivals)
    if gamma is None or float(gamma["cv"]) == 0:
        raise InputError(
            f"--arrivals: {shown(arrivals)} is not known",
            "write poisson, or for example gamma:2 (gaps that vary by twice their mean)",
        )
    return float(gamma["cv"])


def _load(
    plan: Plan, trace: Path | None, rate: float | None, requests: int | None, cv: float, speed: float | None, seed: int
) -> tuple[Requests, str]:
    """(the requests, in words where they come from)."""
    from planner.contract.workload.traces import read_trace
    from planner.replay.report import drawn_load

    if trace is not None:
        factor = 1.0 if speed is None else speed
        load = read_trace(trace, first=requests, speed=factor)
        return load, trace.name if factor == 1 else f"{trace.name} at {factor:g} times its speed"
    assert rate is not None
    kind = "Poisson arrivals" if cv == 1 else f"gamma arrivals (coefficient of variation {cv:g})"
    return drawn_load(plan, rate, requests or REQUESTS, cv=cv, seed=seed), kind
