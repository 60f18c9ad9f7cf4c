"""``plan train predict`` and ``plan train memory``: what training layouts that people name take and hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from api.cli.answering import answered
from api.cli.console import flowing, write_text
from api.cli.options import SHOWN, AsJson, Profiles, Quiet, Request
from api.cli.output import check_target, hand_over, write_atomically
from api.cli.requests import measured_stores, read_request, with_files
from planner.training.meanings import MEANINGS
from profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from planner.contract.published import Published
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
    request: Request = None,
    measured: _Measured = False,
    explain: _Explain = False,
    output: _Output = None,
    as_json: AsJson = False,
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
    _check(configs, layout, request, measured)
    check_target(output)
    stores, catalogue = measured_stores(profiles)
    if request is not None:
        _requested("training-predictions", layout, request, stores, catalogue, output, as_json, quiet)
    elif configs is not None:
        _predict_table(configs, stores, output, measured=measured, as_json=as_json, quiet=quiet)
    elif as_json or output is not None:
        from planner.training.layouts import predictions_of

        answer = _predicted(_one_row(layout), stores, quiet)
        _raise_first(answer)
        _hand_over(answer, predictions_of(answer, stores) if as_json else None, output)
    else:
        _show(_configuration(layout, catalogue), stores, explain, quiet)


@flowing
@with_layout
def memory(
    configs: _Configs = None,
    *,
    layout: dict[str, str],
    profiles: Profiles = None,
    request: Request = None,
    explain: _Explain = False,
    output: _Output = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Says where the memory of every stage of a training layout goes, whether it fits, and the cheapest change that
    would make it fit. No time is predicted.

    Examples:

      plan train memory --model meta-llama/Llama-3.1-8B --gpu H100 --framework torchtitan --dp 8 --seq-len 8192
    """
    _check(configs, layout, request, measured=False)
    check_target(output)
    stores, catalogue = measured_stores(profiles)
    if request is not None:
        _requested("training-memory", layout, request, stores, catalogue, output, as_json, quiet)
    elif configs is not None or as_json or output is not None:
        from planner.training.layouts import memories_of
        from planner.training.named import memories

        table = _one_row(layout) if configs is None else _read(configs)
        answer, stages = memories(table, catalogue)
        if configs is None:
            _raise_first(answer)
        _hand_over(answer, memories_of(answer, stages) if as_json else None, output)
        if configs is not None:
            _tell(configs, table, answer, quiet)
    else:
        from api.cli.views import train as view
        from planner.training.prediction import predicted

        configuration = _configuration(layout, catalogue)
        view.show_memory(configuration, predicted([configuration], None), explain=explain)


def _check(configs: Path | None, layout: dict[str, str], request: str | None, measured: bool) -> None:
    if configs is not None and (layout or request is not None):
        option = f"--{min(layout).replace('_', '-')}" if layout else "--request"
        raise InputError(f"{option}: has no effect beside {configs}", "give it as a column of the file")
    if configs is None and measured:
        raise InputError("--measured: has no effect without a CSV", "name a CSV with a measured column")
    if configs is None and request is None and not layout:
        raise InputError("--model is missing", f"name a CSV, or for example: {EXAMPLE}")


def _requested(
    kind: str,
    layout: dict[str, str],
    request: str,
    stores: list[ProfileStore],
    catalogue: Catalogue,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Answers a request document, whose files are put in; options go into every layout."""
    from planner.training.layouts import fields_of, parse_layouts_request

    document, folder = read_request(request, f"{kind}-request")
    rows = document.get("layouts")
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        beside = with_files(fields_of(layout), Path(), catalogue)
        document["layouts"] = [{**with_files(row, folder, catalogue), **beside} for row in rows]
    understood = parse_layouts_request(document, f"{kind}-request")
    made = answered(kind, understood, _doing(len(understood.layouts)), stores, quiet=quiet).to_json()
    hand_over(made, output, as_json=as_json or output is None)


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

        machines = Machines(stores, report)
        answer = predicted([configuration], machines)
        links = (machines.links(each.gpu, each.gpus_per_node, each.fabric) for each in configuration.places)
        notes = tuple(dict.fromkeys(note for each in links for note in each.own.notes))
    view.show_prediction(configuration, answer, notes, explain=explain)


def _one_row(layout: dict[str, str]) -> pd.DataFrame:
    """The layout as a table of one row."""
    import pandas as pd

    return pd.DataFrame([layout])


def _raise_first(answer: pd.DataFrame) -> None:
    if error := answer["error"].iloc[0]:
        message, _, hint = error.partition("; ")
        raise InputError(message, hint)


# ------------------------------------------------------------------ a table of them


def _predict_table(
    configs: Path, stores: list[ProfileStore], output: Path | None, *, measured: bool, as_json: bool, quiet: bool
) -> None:
    from planner.training.layouts import predictions_of

    table, told = _read(configs), None
    read = table
    if measured:
        from planner.training.named import is_measured, measured_columns, scores

        table, truth = measured_columns(table)
        read = read.drop(columns=[name for name in read.columns if is_measured(name)])
    answer = _predicted(table, stores, quiet)
    if measured:
        told = scores(answer, truth)
    _hand_over(answer, predictions_of(answer, stores, told) if as_json else None, output)
    _tell(configs, read, answer, quiet)
    for each in told or ():
        typer.echo(
            f"{each.quantity}: {each.rows:,} rows, MAPE {each.mape_pct:.1f}%, median {each.median_pct:.1f}%, "
            f"p90 {each.p90_pct:.1f}%, bias {each.bias_pct:+.1f}%, within the 80 % interval {each.coverage_pct:.0f}%",
            err=as_json or output is None,  # standard output is the table's, unless that goes to a file
        )


def _tell(configs: Path, table: pd.DataFrame, answer: pd.DataFrame, quiet: bool) -> None:
    """How many rows were predicted, and which columns were not read."""
    failed = int((answer["error"] != "").sum())
    if failed == len(answer):
        raise InputError(
            f"{configs}: no row could be predicted; the first: {answer['error'].iloc[0]}",
            "correct the rows: each one's column error says why",
        )
    if not quiet:
        _say_unknown(table)
        typer.echo(f"{len(answer) - failed:,} predicted, {failed:,} not", err=True)


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


def _doing(count: int) -> str:
    return f"predicting {count:,} training layout{'s' if count != 1 else ''}"


def _predicted(table: pd.DataFrame, stores: list[ProfileStore], quiet: bool) -> pd.DataFrame:
    from api.cli.progress import Reporter

    with Reporter(_doing(len(table)), quiet=quiet) as report:
        from planner.training.named import predict as predict_table

        return predict_table(table, measured=stores, progress=report)


def _hand_over(answer: pd.DataFrame, document: Published | None, output: Path | None) -> None:
    """To the file ``output`` the table (the document, where its name ends in .json), and to standard output the
    document where there is one, or else the table where it goes to no file."""
    in_json = document is not None and output is not None and output.suffix.casefold() == ".json"
    if output is not None:
        write_atomically(output, document.to_json() if document is not None and in_json else answer.to_csv(index=False))
    if document is not None:
        write_text(document.to_json())
    elif output is None:
        write_text(answer.to_csv(index=False))
