"""``plan simulate``: what a plan does under a load, request by request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.console import flowing, page
from api.cli.engines import Engines, document_of_shapes
from api.cli.options import SHOWN, Quiet, Request, SkipFailed, takes
from api.cli.output import check_target, hand_over, write_atomically
from api.cli.requests import measured_stores, read_request, with_workload
from planner.contract.engine import LIMITS
from planner.contract.options import LOAD
from planner.replay.request import SimulationRequest
from profiles.errors import InputError

if TYPE_CHECKING:
    from costmodels.estimates import Floats
    from costmodels.serving.simulator.outcome import Outcome
    from planner.contract.deployment import DeploymentDocument

_SHAPE = "Engines by their shape"


@takes(SimulationRequest)
@flowing
def simulate(
    asked: dict[str, Any],
    plan_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="PLAN.json",
            help="A plan that `plan --output` wrote, or a deployment of `plan import`.",
            show_default=False,
        ),
    ] = None,
    engines: Engines = None,
    gpu: Annotated[
        str | None, typer.Option(help="GPU type (`plan gpus`), of --engines.", rich_help_panel=_SHAPE)
    ] = None,
    framework: Annotated[
        str | None,
        typer.Option(help="vllm, sglang or trtllm, vllm@0.33 for a release; of --engines.", rich_help_panel=_SHAPE),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of weights, of --engines. Default: as published.", rich_help_panel=_SHAPE)
    ] = None,
    kv_precision: Annotated[
        str | None,
        typer.Option(
            help="Of the KV cache, of --engines: bf16 or fp8 (default: what the framework takes for the checkpoint).",
            rich_help_panel=_SHAPE,
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Recorded requests: CSV with TIMESTAMP, ContextTokens, GeneratedTokens, or arrival_s, isl, osl; "
            "Mooncake's JSON lines.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Of --engines: a name (`plan models`) or the path of a config.json. Of a plan of schema 1.2 or older "
            "that was made from a config.json: its path.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Measured rows laid over the shipped pack, as the plan was made; may be given again.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    skip_failed: SkipFailed = False,
    per_request: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a CSV with a line a request: arrival_s, isl, osl, ttft_ms, tpot_ms; empty where refused.",
            rich_help_panel=SHOWN,
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write t_s,power_watts: of all GPUs, means of 250 ms, t_s when each begins.",
            rich_help_panel=SHOWN,
        ),
    ] = None,
    request: Request = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the report.", rich_help_panel=SHOWN)] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Also write the report there.", rich_help_panel=SHOWN),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the timeline: .png, .svg or .html.", rich_help_panel=SHOWN),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Replays a trace, or random arrivals at a rate, against a plan: latency percentiles, which promises hold, how
    busy the engines are, and whether they keep up.

    Examples:

      plan simulate plan.json --rate 18

      plan simulate plan.json --trace requests.csv --speed 2 --plot timeline.html

      plan simulate --model Qwen/Qwen3-32B --gpu H200 --engines 2xTP4 --workload isl=4000,osl=500,rate=9 --slo ttft=1s

      plan simulate plan.json --rate 18 --arrivals gamma:3 --json

      plan simulate plan.json --trace requests.csv --timeline watts.csv

      plan simulate fleet.json --trace day.csv --per-request requests.csv --fail engine-0@3600
    """
    check_target(output)
    check_target(per_request, "--per-request")
    check_target(timeline, "--timeline")
    if plot is not None:
        from planner.pictures import check_kind

        check_target(plot, "--plot")
        check_kind(plot, "timeline.html")
    measured, _ = measured_stores(profiles)
    running: DeploymentDocument | None = None
    shaped = {"gpu": gpu, "framework": framework, "precision": precision, "kv_precision": kv_precision}
    shaped = {name: value for name, value in shaped.items() if value is not None}
    if engines is not None:
        if plan_file is not None or request is not None:
            raise InputError("--engines: has no effect beside a plan or a request", "give one of them")
        started = {name: asked.pop(name) for name in LIMITS if name in asked}
        named = {} if model is None else {"model": model}
        running, model = document_of_shapes(engines, {**shaped, **named, **started}, profiles), None
    elif shaped:
        option = "--" + min(shaped).replace("_", "-")
        raise InputError(f"{option}: has no effect without --engines", "the document says it")
    understood = _understood(asked, running or plan_file, trace, request, skip_failed)
    from api.cli.progress import Reporter
    from planner.contract.models import read_model

    given = None if model is None else read_model(model)
    with Reporter(f"simulating {_model(understood)}", quiet=quiet) as report:
        from planner.replay.report import simulate as simulated

        seen: list[Outcome] = []
        watts: list[Floats] = []
        made = simulated(
            understood,
            model=given,
            measured=measured,
            progress=report,
            keep=seen.append,
            keep_watts=None if timeline is None else watts.append,
        )
    if per_request is not None:
        from planner.replay.per_request import rows_of

        write_atomically(per_request, rows_of(seen[0], _begins_s(understood)), "--per-request")
    if timeline is not None:
        from planner.replay.power import windows_csv

        write_atomically(timeline, windows_csv(watts[0], _begins_s(understood)), "--timeline")
        if not quiet:
            from api.cli.views.simulation import mean_of_windows

            typer.echo(mean_of_windows(float(watts[0].mean()), made.power_watts), err=True)
    if plot is not None:
        from api.cli.views.timeline import draw

        write_atomically(plot, draw(made, plot.suffix.casefold()), "--plot")
    if hand_over(made.to_json(), output, as_json=as_json):
        from api.cli.views.simulation import show

        with page() as out:
            show(made, out)


def _begins_s(understood: SimulationRequest) -> float:
    """What a trace's times were shifted by, where its plan has no schedule to count from."""
    document, trace = understood.plan, understood.trace
    scheduled = document.kind == "serving" and bool(document.decision.schedule)
    return 0.0 if trace is None or scheduled else trace.begins_s


def _model(understood: SimulationRequest) -> str:
    document = understood.plan
    return document.request.model if document.kind == "serving" else document.model


def _understood(
    asked: dict[str, Any],
    plan_file: Path | DeploymentDocument | None,
    trace: Path | None,
    request: str | None,
    skip_failed: bool,
) -> SimulationRequest:
    """The request, with the plan and the trace that it names read and put in.

    Raises:
        InputError: what their readers raise, and what contradicts itself.
    """
    from planner.replay.request import Trace, parse_simulation_request
    from planner.serving.document.opening import read_running

    document, folder = read_request(request, "simulation-request")
    fields = {
        **with_workload(document, folder, skip_failed=skip_failed),
        **with_workload(asked, Path(), skip_failed=skip_failed),
    }
    if plan_file is None and isinstance(fields.get("plan"), str):
        plan_file = folder / fields["plan"]
    if trace is None and isinstance(fields.get("trace"), str):
        trace = folder / fields["trace"]
    if plan_file is not None:
        fields["plan"] = read_running(plan_file) if isinstance(plan_file, Path) else plan_file
    if "plan" not in fields:
        raise InputError("PLAN.json is missing", "for example: plan simulate plan.json --rate 18")
    if trace is None:
        understood = parse_simulation_request(fields)
        if skip_failed and (understood.workload is None or understood.workload.recorded is None):
            raise InputError("--skip-failed: has no effect without a trace", "name one: --trace requests.csv")
        return understood
    # What contradicts itself is refused before a long file is read.
    stand_in = Trace(name="trace", arrival_s=(0.0,), isl=(1,), osl=(1,))
    first = parse_simulation_request({**fields, "trace": stand_in}).requests
    return parse_simulation_request({**fields, "trace": Trace.read(trace, first=first, skip_failed=skip_failed)})
