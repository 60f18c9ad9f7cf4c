"""What is said while an answer is made: lines of text, some of which know how far it is."""

from __future__ import annotations


class Step(str):
    """A line of progress, said when ``done`` of ``total`` equal parts are done.

    Attributes:
        percent: how far the whole is.
    """

    percent: float

    def __new__(cls, text: str, done: float, total: float) -> Step:
        made = super().__new__(cls, text)
        made.percent = min(max(100.0 * done / total, 0.0), 100.0) if total else 0.0
        return made


def percent_of(text: str) -> float | None:
    """How far the whole is, where a line says so."""
    return text.percent if isinstance(text, Step) else None
