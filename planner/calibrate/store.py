"""A profile store that holds what runs taught, and the runs themselves: ``calibration.json`` and ``runs.csv`` of
serving, ``training_calibration.json`` and ``training_runs.csv`` of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from costmodels.serving.frameworks.own_calibration import CALIBRATIONS, text_of
from costmodels.training.calibration import OWN_CALIBRATION
from profiles.errors import InputError
from profiles.store import ProfileStore
from profiles.whole_files import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from planner.calibrate.learning import Lesson
    from planner.calibrate.training_runs import TrainingLesson

RUNS, TRAINING_RUNS = "runs.csv", "training_runs.csv"


def check_new(folder: Path) -> None:
    """Raises InputError where ``folder`` holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output: {folder} is there already, and not empty", "name a new folder")


def write(
    folder: Path,
    serving: tuple[Lesson, pd.DataFrame] | None = None,
    training: tuple[TrainingLesson, pd.DataFrame] | None = None,
) -> None:
    """Makes the store of lessons and the tables that taught them; the constants last, so that a store that is cut short
    teaches nothing.

    Raises:
        InputError: no folder can be made there.
    """
    texts, tables, date = {}, {}, ""
    if serving is not None:
        calibrations = serving[0].learned.calibrations
        date = max(each.date for each in calibrations.values())
        texts[CALIBRATIONS.name], tables[RUNS] = text_of(calibrations), serving[1]
    if training is not None:
        lesson, tables[TRAINING_RUNS] = training
        date = max(date, lesson.date)
        texts[OWN_CALIBRATION.name] = lesson.calibration.model_dump_json(indent=1) + "\n"
    ProfileStore.create(folder, name="calibration", version=date, attribution=f"own runs: {', '.join(tables)}")
    for name, table in tables.items():
        (folder / name).write_text(table.to_csv(index=False), encoding="utf-8")
    for name, text in texts.items():
        write_whole(folder / name, text)
