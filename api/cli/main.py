"""``plan``: from a model, GPUs and a promise to a layout with its proof. Errors become exit codes here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from api.cli import catalogue, collect, experts, few_shot, predict, profile, simulate
from api.cli.arguments import check_text, in_brief, strict_numbers
from api.cli.console import page, write_json, write_text
from profiles.errors import InputError, ShardwrightError, UnknownName
from profiles.values import shortened, shown

EXAMPLE = "plan --model Qwen/Qwen3-32B --cluster 16xH200 --slo ttft=1s,tpot=30ms --workload isl=4000,osl=500"
INTERRUPTED = 130
BROKEN_PIPE = 141

# What click calls a usage error; typer brings its own copy of click or uses the installed one, by version.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="plan",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Without a command, plans. Exit codes: 2 bad input, 3 no plan satisfies it, 4 out of time.",
)
app.command("models")(catalogue.models)
app.command("gpus")(catalogue.gpus)
app.command("predict")(predict.predict)
app.command("simulate")(simulate.simulate)
app.command("experts")(experts.experts)
profile.app.command("collect")(collect.collect)
profile.app.command("propose")(collect.propose)
profile.app.command("fit")(few_shot.fit)
profile.app.command("validate")(few_shot.validate)
app.add_typer(profile.app, name="profile")

_ASKED, _RESTRICTED, _SHOWN = "What to plan", "Restrictions", "Output"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"shardwright {version('shardwright')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def plan_command(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(help="Name (`plan models`), or path of a config.json.", rich_help_panel=_ASKED),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="16xH200, 2x8xH100 (nodes x GPUs), several joined by +, a YAML file, or a name "
            "(`plan gpus --clusters`).",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            help="ttft=1s,tpot=30ms,e2e_p99=20s: upper bounds, p90 unless said. Default: none.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="isl=4000,osl=500[,rate=20]: tokens in, tokens out, requests/s (default: as many as fit). Facts that "
            "help: prefix_hit=0.5 (share of a prompt in the prefix cache); draft=4,acceptance=0.7[,draft_cost=0.05] "
            "(speculative decoding).",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="throughput, cost, gpus or latency. Default: throughput without a rate, cost with one.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    framework: Annotated[str, typer.Option(help="vllm, sglang or trtllm.", rich_help_panel=_ASKED)] = "vllm",
    precision: Annotated[
        str | None,
        typer.Option(
            help="Weights: bf16, fp8, fp8_block, nvfp4, ...; several joined by commas, or any, to choose from. "
            "Default: as published.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    kv_precision: Annotated[
        str | None,
        typer.Option(help="KV cache: bf16 (default) or fp8; bf16,fp8 or any to choose from.", rich_help_panel=_ASKED),
    ] = None,
    disaggregation: Annotated[
        str | None,
        typer.Option(
            help="Engines that prefill apart from engines that decode: auto (where it is better), never or always. "
            "Default: auto.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    confidence: Annotated[
        float,
        typer.Option(
            help="Probability with which each bound of the SLO must hold, given the prediction's uncertainty.",
            rich_help_panel=_ASKED,
        ),
    ] = 0.5,
    max_tp: Annotated[
        int | None, typer.Option(help="Largest tensor-parallel degree.", rich_help_panel=_RESTRICTED)
    ] = None,
    max_pp: Annotated[int | None, typer.Option(help="Most pipeline stages.", rich_help_panel=_RESTRICTED)] = None,
    max_engine_gpus: Annotated[
        int | None, typer.Option(help="Most GPUs of one engine.", rich_help_panel=_RESTRICTED)
    ] = None,
    tp_across_nodes: Annotated[
        bool,
        typer.Option("--tp-across-nodes", help="Tensor parallel may span nodes.", rich_help_panel=_RESTRICTED),
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds for the solver. Default: 30.", rich_help_panel=_RESTRICTED),
    ] = None,
    simulation: Annotated[
        bool,
        typer.Option(
            help="Simulate the chosen engines, and count on no more than they carry there; without, by formulas alone.",
            rich_help_panel=_RESTRICTED,
        ),
    ] = True,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Lay this profile store over the shipped pack: its rows answer exactly and correct the others. "
            "May be given again, the last on top.",
            rich_help_panel=_RESTRICTED,
        ),
    ] = None,
    expert_loads: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Tokens that each expert received, as `plan experts --loads` reads them: also place the experts of "
            "engines with expert parallelism. May be given again: each is a workload.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print only the plan document.", rich_help_panel=_SHOWN)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the plan document there.", rich_help_panel=_SHOWN),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Also show what was rejected, where time goes, the frontier and the placement.",
            rich_help_panel=_SHOWN,
        ),
    ] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Decides how a language model is laid out on GPUs so that it keeps a promise to its users.

    Example:

      plan --model Qwen/Qwen3-32B --cluster 16xH200 --slo ttft=1s,tpot=30ms --workload isl=4000,osl=500
    """
    if context.invoked_subcommand is not None:
        _refuse_before_command(context)
        return
    fields: dict[str, Any] = {
        "model": model,
        "cluster": cluster,
        "workload": workload,
        "slo": slo,
        "objective": objective,
        "framework": framework,
        "precision": precision,
        "kv_precision": kv_precision,
        "disaggregation": disaggregation,
        "confidence": confidence,
        "max_tp": max_tp,
        "max_pp": max_pp,
        "max_engine_gpus": max_engine_gpus,
        "tp_across_nodes": tp_across_nodes,
        "time_limit_s": time_limit,
        "simulation": simulation,
    }
    _plan(
        {name: value for name, value in fields.items() if value is not None},
        profiles,
        expert_loads,
        as_json,
        output,
        explain,
    )


def _refuse_before_command(context: typer.Context) -> None:
    """Options of planning before another command would be silently without effect."""
    given = [name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
    if given:
        option = "--" + given[0].removeprefix("as_").replace("_", "-")
        raise InputError(
            f"{option}: has no effect before the command {shown(context.invoked_subcommand)}",
            f"put options after it, see `plan {context.invoked_subcommand} --help`",
        )


def _plan(
    fields: dict[str, Any],
    profiles: list[Path] | None,
    expert_loads: list[Path] | None,
    as_json: bool,
    output: Path | None,
    explain: bool,
) -> None:
    """Checks everything that can be checked before the slow part; writes nothing until there is a plan."""
    for name in ("model", "cluster", "workload"):
        if name not in fields:
            raise InputError(f"--{name} is missing", f"for example: {EXAMPLE}")
    from planner.contract.clusters import parse_cluster
    from planner.contract.engine import FrameworkName
    from planner.serving import request as requests

    if profiles:
        from profiles.descriptions import add_described

        for folder in profiles:
            add_described(folder)  # before names of GPUs are looked up
    for name, choices in (
        ("objective", requests.Objective),
        ("framework", FrameworkName),
        ("disaggregation", requests.Disaggregation),
    ):
        _check_choice(name, fields.get(name), get_args(choices))
    request = requests.parse_request({**fields, "cluster": parse_cluster(fields["cluster"])})
    if output is not None:
        from api.cli.output import check_target

        check_target(output)
    from costmodels.models.registry import find_architecture

    architecture = find_architecture(request.model)  # a misspelt name is refused before the slow imports
    loads = None
    if expert_loads:
        from planner.serving.expert_placement import read_expert_loads

        loads = read_expert_loads(expert_loads, architecture)
    from api.cli.progress import Reporter

    with Reporter(f"planning {request.model}") as report:
        from planner.serving.planning import plan
        from profiles.store import ProfileStore

        measured = [ProfileStore(folder) for folder in profiles or ()]
        made = plan(request, measured=measured, progress=report, expert_loads=loads)
    for store in made.provenance.measured:
        if not store.rows:
            print(f"note: store {store.name} has no rows of the planned GPU types", file=sys.stderr)
    document = made.to_json()
    if output is not None:
        from api.cli.output import write_atomically

        write_atomically(output, document)
    if as_json:
        write_text(document)
        return
    from api.cli import view

    with page() as out:
        view.show(made, out, explain=explain)


def _check_choice(name: str, value: str | None, choices: Iterable[str]) -> None:
    if value is not None and value not in choices:
        raise UnknownName(name, value, choices, f"choose from {', '.join(choices)}")


@app.command("schema")
def schema_command(
    what: Annotated[str, typer.Argument(metavar="[plan|request|experts]", help="Which document.")] = "plan",
) -> None:
    """JSON Schema of the plan document, of the request, or of an expert placement.

    Examples:

      plan schema

      plan schema request
    """
    from planner.serving.document.plan import schema

    if what == "plan":
        write_json(schema("plan"))
    elif what == "request":
        write_json(schema("request"))
    elif what == "experts":
        from planner.experts import document

        write_json(document.schema())
    else:
        raise UnknownName("schema", what, ("plan", "request", "experts"))


@app.command("serve")
def serve_command(
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Starts the REST service: POST /v1/plans takes the same request as JSON.

    It has no keys and no limits yet, so it listens to this machine only. Stop it with Ctrl-C.

    Examples:

      plan serve

      plan serve --port 9000
    """
    from api.cli.serving import serve

    serve(host, port)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script: runs ``arguments`` (default: the process's) and returns the exit code. What is
    wrong takes two lines on standard error, ``error:`` and ``hint:``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without × or ≤ is no reason to fail
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        check_text(given)
        code = strict_numbers(typer.main.get_command(app), given).main(given, prog_name="plan", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except ShardwrightError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except _ClickError as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _silence()
    except OSError as error:  # standard output on a full disk; our own files report theirs with a name
        _silence()
        return _complain(f"standard output cannot be written ({error.strerror})", "make room, or write elsewhere", 2)
    except SystemExit as stop:
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # typer's own way out of a broken pipe
            return _silence()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _usage(error: Any) -> int:
    """typer's usage errors in our shape; a group that was given nothing to do shows its help."""
    message = in_brief(str(error.format_message()))  # composing the help prints it
    if type(error).__name__ == "NoArgsIsHelpError":
        return 0
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "plan"
    return _complain(message.rstrip(".") or type(error).__name__, f"see `{command} --help`", 2)


def _complain(message: str, hint: str, code: int) -> int:
    for label, text in (("error", message), ("hint", hint)):
        print(f"{label}: {shortened(' '.join(text.split()))}", file=sys.stderr)
    return code


def _silence() -> int:
    """Nobody reads any more: keep the interpreter from complaining about it when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
