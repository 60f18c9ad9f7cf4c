"""What an export wrote, as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from api.cli.views.quantities import several
from planner.exports.target import Target


def show(target: Target, files: Mapping[str, str], folder: Path, console: Console) -> None:
    """The folder, its files, and what to do next."""
    console.print(
        f"{folder}: {several(len(files), 'file')}, {target.writes}", markup=False, highlight=False, soft_wrap=True
    )
    for line in target.said(files):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    for step in target.steps(folder):
        console.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)
