"""``plan train predict`` and ``plan train memory``: what training layouts that people name take and hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from api.cli.console import as_json_text, flowing, write_text
from api.cli.options import SHOWN, Profiles, Quiet
from api.cli.output import check_target, write_atomically
from api.cli.requests import measured_stores
from planner.training.meanings import MEANINGS
from profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from planner.training.configuration import TrainingConfiguration
    from profiles.hardware import Catalogue
    from profiles.store import ProfileStore

EXAMPLE = (
    "plan train predict --model meta-llama/Llama-3.1-70B --gpu H100 --tp 4 --pp 8 --vpp 5 --dp 2 --seq-len 8192 "
    "--global-batch 128"
)
_ONE = "One layout"


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
    typer.Option("--output", "-o", metavar="FILE", help="Write the CSV there.", rich_help_panel=SHOWN),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object a layout.", rich_help_panel=SHOWN)]
_Measured = Annotated[
    bool,
    typer.Option(
        "--measured",
        help="Score against the columns iteration_s (or s_iter) and memory_bytes_per_gpu (or peak_mem_gib).",
        rich_help_panel=SHOWN,
    ),
]
_Explain = Annotated[bool, typer.Option("--explain", help="Also show every part and stage.", rich_help_panel=SHOWN)]


@flowing
@with_layout
def predict(
    configs: _Configs = None,
    *,
    layout: dict[str, str],
    profiles: Profiles = None,
    measured: _Measured = False,
    explain: _Explain = False,
    output: _Output = None,
    as_json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Predicts training layouts that you name: time of an iteration with its 80 % interval, tokens/s, MFU, bubble,
    exposed communication and memory.

    With a CSV, its columns are kept and those of the prediction added; a row that cannot be predicted says why in
    `error`. Blank means the framework's default; `defaults` says which that was.

    Examples:

      plan train predict --model meta-llama/Llama-3.1-70B --gpu H100 --tp 4 --pp 8 --seq-len 8192 --global-batch 128

      plan train predict configs.csv -o out.csv --measured
    """
    _check(configs, layout, measured)
    check_target(output)
    stores, catalogue = measured_stores(profiles)
    if configs is not None:
        _many(configs, stores, output, measured=measured, as_json=as_json, quiet=quiet, times=True)
    elif as_json or output is not None:
        _hand_over(_row(layout, stores, quiet, times=True), output, as_json)
    else:
        _show(_configuration(layout, catalogue), stores, explain, quiet)


@flowing
@with_layout
def memory(
    configs: _Configs = None,
    *,
    layout: dict[str, str],
    profiles: Profiles = None,
    explain: _Explain = False,
    output: _Output = None,
    as_json: _Json = False,
    quiet: Quiet = False,
) -> None:
    """Says where the memory of every stage of a training layout goes, whether it fits, and the cheapest change that
    would make it fit. No time is predicted.

    Examples:

      plan train memory --model meta-llama/Llama-3.1-8B --gpu H100 --framework torchtitan --dp 8 --seq-len 8192
    """
    _check(configs, layout, measured=False)
    check_target(output)
    stores, catalogue = measured_stores(profiles)
    if configs is not None:
        _many(configs, stores, output, measured=False, as_json=as_json, quiet=quiet, times=False)
        return
    from planner.training.prediction import predicted

    configuration = _configuration(layout, catalogue)
    told = predicted([configuration], None)
    if as_json or output is not None:
        from planner.training.columns import stage_rows

        row = _row(layout, stores, quiet, times=False)
        if output is not None:
            write_atomically(output, row.to_csv(index=False))
        if as_json:
            write_text(as_json_text([{**_as_json(row.to_dict("records")[0]), "stages": stage_rows(told)}]))
        return
    from api.cli.views import train as view

    view.show_memory(configuration, told, explain=explain)


def _check(configs: Path | None, layout: dict[str, str], measured: bool) -> None:
    if configs is not None and layout:
        raise InputError(
            f"--{min(layout).replace('_', '-')}: has no effect beside {configs}", "give it as a column of the file"
        )
    if configs is None and measured:
        raise InputError("--measured: has no effect without a CSV", "name a CSV with a measured column")
    if configs is None and not layout:
        raise InputError("--model is missing", f"name a CSV, or for example: {EXAMPLE}")


# ------------------------------------------------------------------ one layout


def _configuration(layout: dict[str, str], catalogue: Catalogue) -> TrainingConfiguration:
    from planner.training.configuration import HardwareNames, read_configuration
    from planner.training.rules import check

    configuration = read_configuration(layout, HardwareNames(catalogue))
    check(configuration)
    return configuration


def _show(configuration: TrainingConfiguration, stores: list[ProfileStore], explain: bool, quiet: bool) -> None:
    from api.cli.progress import Reporter
    from api.cli.views import train as view

    with Reporter(f"predicting {configuration.model.name}", quiet=quiet) as report:
        from planner.training.machines import Machines
        from planner.training.prediction import predicted

        answer = predicted([configuration], Machines(stores, report))
    view.show_prediction(configuration, answer, explain=explain)


def _row(layout: dict[str, str], stores: list[ProfileStore], quiet: bool, *, times: bool) -> pd.DataFrame:
    """The layout as a table of one row; what is wrong with it is raised."""
    import pandas as pd

    answer = _predicted(pd.DataFrame([layout]), stores, quiet, times=times)
    if error := answer["error"].iloc[0]:
        message, _, hint = error.partition("; ")
        raise InputError(message, hint)
    return answer


# ------------------------------------------------------------------ a table of them


def _many(
    configs: Path,
    stores: list[ProfileStore],
    output: Path | None,
    *,
    measured: bool,
    as_json: bool,
    quiet: bool,
    times: bool,
) -> None:
    table = _read(configs)
    truth = None
    if measured:
        from planner.training.named import measured_columns

        table, truth = measured_columns(table)
    answer = _predicted(table, stores, quiet, times=times)
    failed = int((answer["error"] != "").sum())
    _hand_over(answer, output, as_json)
    if failed == len(answer):
        raise InputError(
            f"{configs}: no row could be predicted; the first: {answer['error'].iloc[0]}",
            "correct the rows: each one's column error says why",
        )
    if not quiet:
        _say_unknown(table)
        typer.echo(f"{len(answer) - failed:,} predicted, {failed:,} not", err=True)
    if truth is not None:
        from planner.training.named import errors

        for each in errors(answer, truth):
            typer.echo(
                f"{each.quantity}: {each.rows:,} rows, MAPE {each.mape:.1%}, median {each.median:.1%}, "
                f"p90 {each.p90:.1%}, bias {each.bias:+.1%}, within the 80 % interval {each.coverage:.0%}",
                err=output is None,  # standard output is the table's, unless that goes to a file
            )


def _read(path: Path) -> pd.DataFrame:
    from profiles.files import Source
    from profiles.tables import read_table

    # Everything stays text: input columns are handed back as they came.
    source = Source(path, "", "give a CSV with a header: model,gpu,framework,tp,pp,dp,seq_len,global_batch,...")
    return read_table(source, skipinitialspace=True)


def _say_unknown(table: pd.DataFrame) -> None:
    from planner.training.configuration import column_names

    _, strangers = column_names([str(name) for name in table.columns])
    if strangers:
        typer.echo(f"note: kept and not read: {', '.join(strangers)}", err=True)


def _predicted(table: pd.DataFrame, stores: list[ProfileStore], quiet: bool, *, times: bool) -> pd.DataFrame:
    from api.cli.progress import Reporter

    doing = f"predicting {len(table):,} training layout{'s' if len(table) != 1 else ''}"
    with Reporter(doing, quiet=quiet) as report:
        from planner.training.named import predict as predict_table

        return predict_table(table, measured=stores, times=times, progress=report)


def _hand_over(answer: pd.DataFrame, output: Path | None, as_json: bool) -> None:
    if output is not None:
        write_atomically(output, answer.to_csv(index=False))
    if as_json:
        write_text(as_json_text([_as_json(row) for row in answer.to_dict("records")]))
    elif output is None:
        write_text(answer.to_csv(index=False))


def _as_json(row: dict[Any, Any]) -> dict[str, Any]:
    """Blank cells as null (an ``error`` that is none stays empty), and ``fits`` as what it is."""
    out = {str(name): None if value == "" and name != "error" else value for name, value in row.items()}
    return {**out, "fits": {"true": True, "false": False}.get(str(out["fits"]))}
