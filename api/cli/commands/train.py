"""``plan train``: which layout trains a model fastest; and what layouts that people already run take and hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from api.cli.console import flowing, write_text
from planner.training.meanings import MEANINGS
from profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_ONE, _SHOWN = "One layout", "Output"
EXAMPLE = (
    "plan train predict --model meta-llama/Llama-3.1-70B --gpu H100 --tp 4 --pp 8 --vpp 5 --dp 2 --seq-len 8192 "
    "--global-batch 128"
)

PLANNED = "plan train --model meta-llama/Llama-3.1-70B --cluster 8x8xH100 --global-batch 128 --seq-len 8192"

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
_ASKED, _RESTRICTED = "What to plan", "Restrictions"
_DEGREES = ("tp", "pp", "vpp", "dp", "cp", "ep", "moe_tp", "micro_batch", "sharding")


_Choices = Annotated[
    str | None,
    typer.Option(metavar="N,M", help="To choose from. Default: any.", rich_help_panel=_RESTRICTED),
]


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help=MEANINGS["model"], rich_help_panel=_ASKED)] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="128xH100, 16x8xH100 (nodes x GPUs), a YAML file, or a name.", rich_help_panel=_ASKED),
    ] = None,
    global_batch: Annotated[int | None, typer.Option(help="Sequences of an iteration.", rich_help_panel=_ASKED)] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of a sequence.", rich_help_panel=_ASKED)] = None,
    framework: Annotated[str | None, typer.Option(help=MEANINGS["framework"], rich_help_panel=_ASKED)] = None,
    precision: Annotated[str | None, typer.Option(help=MEANINGS["precision"], rich_help_panel=_ASKED)] = None,
    mode: Annotated[str | None, typer.Option(help=MEANINGS["mode"], rich_help_panel=_ASKED)] = None,
    optimizer: Annotated[str | None, typer.Option(help=MEANINGS["optimizer"], rich_help_panel=_ASKED)] = None,
    attention: Annotated[str | None, typer.Option(help=MEANINGS["attention"], rich_help_panel=_ASKED)] = None,
    mtp: Annotated[int | None, typer.Option(help=MEANINGS["mtp"], rich_help_panel=_ASKED)] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="time (default), memory (of the fullest GPU) or gpus (fewest).", rich_help_panel=_ASKED),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="The request as JSON; options replace its fields.", rich_help_panel=_ASKED),
    ] = None,
    tp: _Choices = None,
    pp: _Choices = None,
    vpp: _Choices = None,
    dp: _Choices = None,
    cp: _Choices = None,
    ep: _Choices = None,
    moe_tp: _Choices = None,
    micro_batch: _Choices = None,
    sharding: _Choices = None,
    recompute: Annotated[
        bool | None, typer.Option(help="Activations may be recomputed (default).", rich_help_panel=_RESTRICTED)
    ] = None,
    uneven: Annotated[
        bool | None,
        typer.Option(help="Stages may hold different numbers of layers (default).", rich_help_panel=_RESTRICTED),
    ] = None,
    tp_across_nodes: Annotated[
        bool, typer.Option("--tp-across-nodes", help="Tensor parallel may span nodes.", rich_help_panel=_RESTRICTED)
    ] = False,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds for the search. Default: 60.", rich_help_panel=_RESTRICTED)
    ] = None,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Lay this profile store over the shipped pack. May be given again."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print only the plan document.", rich_help_panel=_SHOWN)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Also write the document there.", rich_help_panel=_SHOWN),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also show what was rejected and every part.", rich_help_panel=_SHOWN)
    ] = False,
) -> None:
    """Decides how a model is laid out to be trained: tensor, pipeline, data, context and expert parallelism, sharding,
    micro-batch, schedule, layers of every stage and recomputation.

    Examples:

      plan train --model meta-llama/Llama-3.1-70B --cluster 8x8xH100 --global-batch 128 --seq-len 8192

      plan train --model gpt:hidden=12288,layers=96,heads=96,vocab=51200 --cluster 128x8xA100 --global-batch 1536
      --seq-len 2048
    """
    given = {name: value for name, value in context.params.items() if value not in (None, False, ())}
    if context.invoked_subcommand is not None:
        if given:
            option = min(given).removeprefix("as_").replace("_", "-")
            raise InputError(
                f"--{option}: has no effect before the command {context.invoked_subcommand!r}",
                f"put options after it, see `plan train {context.invoked_subcommand} --help`",
            )
        return
    own = ("request", "profiles", "as_json", "output", "explain", "time_limit")
    fields: dict[str, Any] = {name: value for name, value in given.items() if name not in own}
    for name, flag in (("recompute", recompute), ("uneven", uneven)):
        if flag is not None:
            fields[name] = flag
    if time_limit is not None:
        fields["time_limit_s"] = time_limit
    _plan(fields, request, profiles, as_json, output, explain)


def _plan(
    options: dict[str, Any],
    request_file: str | None,
    profiles: list[Path] | None,
    as_json: bool,
    output: Path | None,
    explain: bool,
) -> None:
    """Checks everything that can be checked before the slow part; writes nothing until there is a plan."""
    if output is not None:
        from api.cli.output import check_target

        check_target(output)
    _add_described(profiles)
    fields = _request_fields(request_file)
    fields.update({name: _numbers(name, value) if name in _DEGREES else value for name, value in options.items()})
    for name in ("model", "cluster", "global_batch", "seq_len"):
        if name not in fields:
            raise InputError(f"--{name.replace('_', '-')} is missing", f"for example: {PLANNED}")
    from planner.contract.clusters import parse_cluster
    from planner.training.request import parse_training_request

    if isinstance(fields["cluster"], str):
        fields["cluster"] = parse_cluster(fields["cluster"])
    asked = parse_training_request(fields)
    from api.cli.progress import Reporter

    with Reporter(f"planning the training of {asked.model}") as report:
        from planner.training.planning import plan_training
        from profiles.store import ProfileStore

        stores = [ProfileStore(folder) for folder in profiles or ()]
        made = plan_training(asked, measured=stores, progress=report, allow_paths=True)
    document = made.to_json()
    if output is not None:
        from api.cli.output import write_atomically

        write_atomically(output, document)
    if as_json:
        write_text(document)
        return
    from api.cli.views import train_plan as train_plan_view

    train_plan_view.show(made, explain=explain)


def _request_fields(source: str | None) -> dict[str, Any]:
    """The fields of a request file, ``-`` for standard input."""
    if source is None:
        return {}
    import sys

    from planner.contract.documents import strict_json

    hint = "`plan schema training-request` says what it holds"
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        fields = strict_json(text)
    except (OSError, ValueError) as error:
        raise InputError(f"--request: {source} cannot be read ({error})", hint) from error
    if not isinstance(fields, dict):
        raise InputError(f"--request: {source} is not an object", hint)
    return fields


def _numbers(name: str, text: str) -> list[int]:
    """``2,4,8``."""
    parts = [part.strip() for part in str(text).split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        option = name.replace("_", "-")
        raise InputError(f"--{option}: {text!r} is not a list of numbers", f"write for example --{option} 2,4,8")
    return [int(part) for part in parts]


def with_layout(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with one option for each column of a layout; those that are given arrive as ``layout``."""

    def run(**values: Any) -> None:
        layout = {name: values.pop(name) for name in MEANINGS}
        command(layout={name: text for name, text in layout.items() if text is not None}, **values)

    kinds = get_type_hints(command, include_extras=True)
    own = {name: each for name, each in inspect.signature(command).parameters.items() if name != "layout"}
    given = {
        name: Annotated[str | None, typer.Option(help=text, rich_help_panel=_ONE)] for name, text in MEANINGS.items()
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, keyword, default=each.default, annotation=kinds[name]) for name, each in own.items()
    ]
    parameters[1:1] = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in given.items()]
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


_Configs = Annotated[
    Path | None, typer.Argument(metavar="[CONFIGS.csv]", help="One layout a row; columns as the options are called.")
]
_Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the CSV there.", rich_help_panel=_SHOWN),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object a layout.", rich_help_panel=_SHOWN)]
_Profiles = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="Lay this profile store over the shipped pack. May be given again."),
]
_Measured = Annotated[
    bool,
    typer.Option(
        "--measured",
        help="Score against the columns iteration_s (or s_iter) and memory_bytes_per_gpu (or peak_mem_gib).",
        rich_help_panel=_SHOWN,
    ),
]
_Explain = Annotated[bool, typer.Option("--explain", help="Also show every part.", rich_help_panel=_SHOWN)]


def _predict(
    configs: _Configs = None,
    *,
    layout: dict[str, str],
    profiles: _Profiles = None,
    measured: _Measured = False,
    explain: _Explain = False,
    output: _Output = None,
    as_json: _Json = False,
) -> None:
    """Predicts training layouts that you name: time of an iteration with its 80 % interval, tokens/s, MFU, bubble,
    exposed communication and memory.

    With a CSV, its columns are kept and those of the prediction added; a row that cannot be predicted says why in
    `error`. Blank means the framework's default; `defaults` says which that was.

    Examples:

      plan train predict --model meta-llama/Llama-3.1-70B --gpu H100 --tp 4 --pp 8 --seq-len 8192 --global-batch 128

      plan train predict configs.csv -o out.csv --measured
    """
    _run(configs, layout, profiles, measured, explain, output, as_json, times=True)


def _memory(
    configs: _Configs = None,
    *,
    layout: dict[str, str],
    explain: _Explain = False,
    output: _Output = None,
    as_json: _Json = False,
) -> None:
    """Says where the memory of every stage of a training layout goes, whether it fits, and the cheapest change that
    would make it fit. No time is predicted.

    Examples:

      plan train memory --model meta-llama/Llama-3.1-8B --gpu H100 --framework torchtitan --dp 8 --seq-len 8192
    """
    _run(configs, layout, None, False, explain, output, as_json, times=False)


predict = with_layout(_predict)
memory = with_layout(_memory)
app.command("predict")(flowing(predict))
app.command("memory")(flowing(memory))


def _run(
    configs: Path | None,
    layout: dict[str, str],
    profiles: list[Path] | None,
    measured: bool,
    explain: bool,
    output: Path | None,
    as_json: bool,
    *,
    times: bool,
) -> None:
    if configs is not None and layout:
        raise InputError(
            f"--{min(layout).replace('_', '-')}: has no effect beside {configs}", "give it as a column of the file"
        )
    if configs is None and measured:
        raise InputError("--measured: has no effect without a CSV", "name a CSV with a measured column")
    if output is not None:
        from api.cli.output import check_target

        check_target(output)
    if configs is None:
        _one(layout, profiles, explain, output, as_json, times=times)
    else:
        _many(configs, profiles, measured, output, as_json, times=times)


def _one(
    layout: dict[str, str],
    profiles: list[Path] | None,
    explain: bool,
    output: Path | None,
    as_json: bool,
    *,
    times: bool,
) -> None:
    if not layout:
        raise InputError("--model is missing", f"name a CSV, or for example: {EXAMPLE}")
    if as_json or output is not None:
        import pandas as pd

        answer = _answer(pd.DataFrame([layout]), profiles, times=times)
        if error := answer["error"].iloc[0]:
            message, _, hint = error.partition("; ")
            raise InputError(message, hint)
        _hand_over(answer, output, as_json)
        return
    from planner.training.configuration import read_configuration
    from planner.training.rules import check

    _add_described(profiles)
    configuration = read_configuration(layout)
    check(configuration)
    from api.cli.views import train as train_view

    if not times:
        from planner.training.prediction import predicted

        train_view.show_memory(configuration, predicted([configuration], None), explain=explain)
        return
    from api.cli.progress import Reporter

    with Reporter(f"predicting {configuration.model.name}") as report:
        from planner.training.machines import Machines
        from planner.training.prediction import predicted
        from profiles.store import ProfileStore

        machines = Machines([ProfileStore(folder) for folder in profiles or ()], report)
        answer_one = predicted([configuration], machines)
    train_view.show_prediction(configuration, answer_one, explain=explain)


def _many(
    configs: Path, profiles: list[Path] | None, measured: bool, output: Path | None, as_json: bool, *, times: bool
) -> None:
    from api.cli.commands.predict import read_configs

    table = read_configs(configs)
    truth = None
    if measured:
        from planner.training.named import measured_columns

        table, truth = measured_columns(table)
    answer = _answer(table, profiles, times=times)
    failed = int((answer["error"] != "").sum())
    _hand_over(answer, output, as_json)
    _say_unknown(table)
    typer.echo(f"{len(answer) - failed:,} predicted, {failed:,} not", err=True)
    if failed == len(answer):
        raise InputError(
            f"{configs}: no row could be predicted; the first: {answer['error'].iloc[0]}",
            "correct the rows: each one's column error says why",
        )
    if truth is not None:
        from planner.training.named import errors

        for each in errors(answer, truth):
            typer.echo(
                f"{each.quantity}: {each.rows:,} rows, MAPE {each.mape:.1%}, median {each.median:.1%}, "
                f"p90 {each.p90:.1%}, bias {each.bias:+.1%}, within the 80 % interval {each.coverage:.0%}",
                err=output is None,  # standard output is the table's, unless that goes to a file
            )


def _say_unknown(table: pd.DataFrame) -> None:
    from planner.training.configuration import column_names

    _, strangers = column_names([str(name) for name in table.columns])
    if strangers:
        typer.echo(f"note: kept and not read: {', '.join(strangers)}", err=True)


def _answer(table: pd.DataFrame, profiles: list[Path] | None, *, times: bool) -> pd.DataFrame:
    from api.cli.progress import Reporter

    with Reporter(f"predicting {len(table):,} training layout{'s' if len(table) != 1 else ''}") as report:
        from planner.training.named import predict as predict_table
        from profiles.store import ProfileStore

        _add_described(profiles)
        stores = [ProfileStore(folder) for folder in profiles or ()]
        return predict_table(table, measured=stores, times=times, progress=report)


def _add_described(profiles: list[Path] | None) -> None:
    if profiles:
        from profiles.descriptions import add_described

        for folder in profiles:
            add_described(folder)


def _hand_over(answer: pd.DataFrame, output: Path | None, as_json: bool) -> None:
    if output is not None:
        from api.cli.output import write_atomically

        write_atomically(output, answer.to_csv(index=False))
    if as_json:
        write_text(answer.to_json(orient="records", indent=1))
    elif output is None:
        write_text(answer.to_csv(index=False))
