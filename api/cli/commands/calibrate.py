"""``plan calibrate``: what measured runs teach of the engines that they ran on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.console import flowing
from api.cli.options import SHOWN, Profiles, Quiet
from api.cli.requests import measured_stores
from profiles.errors import InputError
from profiles.values import shown

if TYPE_CHECKING:
    import pandas as pd

TRAINING = ("global_batch", "gbs")
"""Columns that only training runs have."""


@flowing
def calibrate(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS.csv...", help="Measured serving or training runs, one a row.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="STORE", help="Folder of the new store.", rich_help_panel=SHOWN),
    ],
    profiles: Profiles = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was learned as JSON.", rich_help_panel=SHOWN)
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Learns from measured runs what the engines that they ran on take beyond their kernels, and writes a store that
    `--profiles STORE` lays over what ships: `plan`, `plan predict` and `plan simulate` then answer as your engines do,
    and `plan train` as your training runs.

    Columns are those of `plan predict RUNS.csv --measured`: configuration, load, and TTFT or TPOT (mean or median) as
    measured, of users at once (`concurrency`) or requests at a `rate`. Constants move little from the shipped ones;
    GPU types, releases and your own way of measuring have effects of their own. Says how far predictions were and are,
    on rows left out, and what more runs would tell.

    A row with a global batch (`global_batch` or `gbs`) is a training run, with the columns of `plan train predict
    RUNS.csv --measured`.

    Examples:

      plan calibrate runs.csv -o mine

      plan predict configs.csv --profiles mine
    """
    from api.cli.progress import Reporter
    from api.cli.views.calibration import as_document, show
    from planner.calibrate.store import check_new, write

    check_new(output)
    serving, training = _tables(runs)
    if not len(serving) + len(training):
        raise InputError(
            f"runs: {' and '.join(shown(path.name) for path in runs)}: no rows",
            "give measured runs, one a row below the names of their columns",
        )
    measured, _ = measured_stores(profiles)
    names = ", ".join(path.name for path in runs)
    lesson = trained = None
    with Reporter(f"calibrating on {len(serving) + len(training):,} runs", quiet=quiet) as report:
        if len(serving):
            from planner.calibrate.learning import calibrate as learned_from

            lesson = learned_from(serving, measured=measured, said=f"{len(serving):,} runs of {names}", progress=report)
        if len(training):
            from planner.calibrate.training_runs import calibrate_training

            trained = calibrate_training(training, measured=measured, said=names, progress=report)
    try:
        write(
            output,
            None if lesson is None else (lesson, serving),
            None if trained is None else (trained, training),
        )
    except OSError as error:
        raise InputError(f"--output: {output} cannot be written ({error})", "name another folder") from error
    show(lesson, trained, output) if not as_json else as_document(lesson, trained)


def _tables(paths: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(serving runs, training runs) of all files: a row with a global batch is a training run."""
    import pandas as pd

    from api.cli.commands.predict import read_configurations
    from planner.serving.campaigns import WHO

    serving, training = [], []
    for path in paths:
        table = read_configurations(path)
        trains = (table[[name for name in TRAINING if name in table.columns]] != "").any(axis=1)
        training.append(_without_blanks(table[trains]))
        served = _without_blanks(table[~trains]) if trains.any() else table
        if len(served) and not set(WHO) & set(served.columns):
            served = served.assign(campaign=path.stem if len(paths) > 1 else "own")
        serving.append(served)
    return (
        pd.concat(serving, ignore_index=True).fillna(""),
        pd.concat(training, ignore_index=True).fillna(""),
    )


def _without_blanks(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` without the columns in which none of its rows has anything."""
    return table.loc[:, (table != "").any(axis=0)]
