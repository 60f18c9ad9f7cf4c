"""Which frameworks there are: each has a YAML file in this folder. (Apart, so that a command's help needs no more.)"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
CALIBRATION = "calibration.yaml"
"""The one file in the folder that is no framework's own: the constants fitted for all of them."""


def framework_names(folder: Path = FOLDER) -> tuple[str, ...]:
    """Every framework, ascending."""
    return tuple(path.stem for path in sorted(folder.glob("*.yaml")) if path.name != CALIBRATION)


def framework_choices() -> str:
    """The names in a sentence: ``a, b or c``."""
    *others, last = framework_names()
    return f"{', '.join(others)} or {last}" if others else last
