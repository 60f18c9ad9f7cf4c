"""Whose measured rows speak for a serving framework: its own, those of the same kernels, and stand-ins."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from profiles.shipped import shipped


@cache
def _document() -> dict[str, Any]:
    def parse(document: Any) -> dict[str, Any]:
        same = frozenset(
            (entry["row_source"], entry["operation"], dtype)
            for entry in document["same_kernels"]
            for dtype in entry["dtypes"]
        )
        return {
            "stand_ins": tuple(document["stand_ins"]),
            "same": same,
            "tuned": frozenset(entry["row_source"] for entry in document["tuned_at_start"]),
        }

    return shipped(Path(__file__).parent / "row_sources.yaml", parse)


def sources_of(framework: str) -> tuple[str, ...]:
    """Whose rows speak for ``framework``: itself first, then stand-ins, the best first."""
    return (framework, *(name for name in _document()["stand_ins"] if name != framework))


def same_kernels(framework: str, row_source: str, operation: str, dtype: str) -> bool:
    """Whether rows of ``row_source`` time the kernels that ``framework`` itself runs."""
    return row_source == framework or (row_source, operation, dtype) in _document()["same"]


def tunes_at_start(row_source: str) -> bool:
    """Whether its engines time the kernels of experts when they start, and run the fastest of each size."""
    return row_source in _document()["tuned"]
