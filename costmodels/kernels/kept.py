"""What a process that answers one question after the other keeps: loaded cost models, and what was asked of them for
long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


class _Kept:
    """The values that were asked for last, ``most`` of them."""

    def __init__(self, most: int) -> None:
        self._most, self._values = most, OrderedDict[object, Any]()

    def find(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._values:
            self._values[key] = make()
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        found: T = self._values[key]
        return found


@contextmanager
def keeping(most: int) -> Iterator[None]:
    """Within it, cost models share loaded operations (of about 14 MB each), whichever question asked first, and fleets
    what engines carry of the same lengths: the ``most`` that were asked for last. Elsewhere each cost model loads its
    own, and lets go of them with itself."""
    token = _kept.set(_Kept(most))
    try:
        yield
    finally:
        _kept.reset(token)


def kept(key: object, make: Callable[[], T]) -> T:
    """The value of ``key``: ``make()``, or what it was before. ``key`` says everything that the value is made from."""
    keeper = _kept.get()
    return make() if keeper is None else keeper.find(key, make)
