"""``plan calibrate``: what measured runs teach of the engines that they ran on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.console import flowing
from api.cli.options import SHOWN, Profiles, Quiet
from api.cli.requests import measured_stores
from profiles.errors import InputError, Unsupported

if TYPE_CHECKING:
    import pandas as pd

TRAINING = ("global_batch", "gbs")
"""Columns that only training runs have."""


@flowing
def calibrate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS.csv...", help="Measured serving runs, one a row.")],
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
    `--profiles STORE` lays over what ships: `plan`, `plan predict` and `plan simulate` then answer as your engines do.

    Columns are those of `plan predict RUNS.csv --measured`: configuration, load, and TTFT or TPOT (mean or median) as
    measured, of users at once (`concurrency`). Constants move little from the shipped ones; GPU types, releases and
    your own way of measuring have effects of their own. Says how far predictions were and are, on rows left out, and
    what more runs would tell.

    Examples:

      plan calibrate runs.csv -o mine

      plan predict configs.csv --profiles mine
    """
    import pandas as pd

    from api.cli.commands.predict import read_configurations
    from api.cli.progress import Reporter
    from api.cli.views.calibration import as_document, show
    from planner.calibrate.learning import CAMPAIGNS
    from planner.calibrate.learning import calibrate as learned_from
    from planner.calibrate.store import check_new, write

    check_new(output)
    tables = []
    for path in runs:
        table = read_configurations(path)
        if found := set(TRAINING) & set(table.columns):
            raise Unsupported(
                f"{path}: column {min(found)}: training runs do not calibrate yet",
                "score them with plan train predict --measured, and give serving runs here",
            )
        if not set(CAMPAIGNS) & set(table.columns):
            table = table.assign(campaign=path.stem if len(runs) > 1 else "own")
        tables.append(table)
    whole: pd.DataFrame = pd.concat(tables, ignore_index=True).fillna("")
    measured, _ = measured_stores(profiles)
    with Reporter(f"calibrating on {len(whole):,} runs", quiet=quiet) as report:
        names = ", ".join(path.name for path in runs)
        lesson = learned_from(whole, measured=measured, said=f"{len(whole):,} runs of {names}", progress=report)
    try:
        write(output, lesson, whole)
    except OSError as error:
        raise InputError(f"--output: {output} cannot be written ({error})", "name another folder") from error
    show(lesson, output) if not as_json else as_document(lesson)
