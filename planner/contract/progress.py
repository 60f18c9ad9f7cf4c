"""What is said while an answer is made: lines of text, some of which know how far it is."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str], None]


class Step(str):
    """A line of progress, said when ``done`` of ``total`` equal parts are done.

    Attributes:
        percent: how far the whole is; None: not known.
        passing: the next comes within seconds, so it is no line of its own where lines stay.
    """

    percent: float | None
    passing: bool

    def __new__(cls, text: str, done: float | None, total: float = 100.0, *, passing: bool = False) -> Step:
        made = super().__new__(cls, text)
        made.passing = passing
        made.percent = None
        if done is not None:
            made.percent = min(max(100.0 * done / total, 0.0), 100.0) if total else 0.0
        return made


def percent_of(text: str) -> float | None:
    """How far the whole is, where a line says so."""
    return text.percent if isinstance(text, Step) else None


def is_passing(text: str) -> bool:
    return isinstance(text, Step) and text.passing


def silent(_: str) -> None:
    """Tells nobody."""


def part(tell: Tell, first: float, last: float) -> Tell:
    """Tells of a part that is ``first`` to ``last`` percent of the whole."""

    def said(text: str) -> None:
        percent = percent_of(text)
        if percent is not None:
            text = Step(str(text), first + (last - first) * percent / 100, passing=is_passing(text))
        tell(text)

    return said


def in_words(tell: Tell) -> Tell:
    """Tells of a part of which nobody knows how much of the whole it is."""

    def said(text: str) -> None:
        tell(text if percent_of(text) is None else Step(str(text), None, passing=is_passing(text)))

    return said
