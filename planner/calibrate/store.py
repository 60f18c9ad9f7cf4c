"""A profile store that holds what runs taught: ``calibration.json``, and the runs themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from costmodels.serving.frameworks.own_calibration import FILE, text_of
from planner.calibrate.learning import Lesson
from profiles.errors import InputError
from profiles.store import ProfileStore

if TYPE_CHECKING:
    import pandas as pd

RUNS = "runs.csv"


def check_new(folder: Path) -> None:
    """Raises InputError where ``folder`` holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output: {folder} is there already, and not empty", "name a new folder")


def write(folder: Path, lesson: Lesson, table: pd.DataFrame) -> None:
    """Makes the store; the constants last, so that a store that is cut short teaches nothing.

    Raises:
        InputError: no folder can be made there.
    """
    dates = {each.date for each in lesson.learned.calibrations.values()}
    ProfileStore.create(folder, name="calibration", version=max(dates), attribution="own runs: runs.csv")
    (folder / RUNS).write_text(table.to_csv(index=False), encoding="utf-8")
    whole = folder / f"{FILE}.part"
    whole.write_text(text_of(lesson.learned.calibrations), encoding="utf-8")
    whole.replace(folder / FILE)
