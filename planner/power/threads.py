"""Replicates on all cores: the kernel and numpy's draws let other threads run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

_AHEAD = 4
"""Items of each thread that are begun before the first of them is asked for."""


@cache
def _pool() -> tuple[ThreadPoolExecutor | None, int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (None if cores == 1 else ThreadPoolExecutor(cores, "row")), cores


def in_order(make: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """``make`` of each, in their order; whoever stops early has a few made for nothing."""
    pool, cores = _pool()
    if pool is None:
        yield from map(make, items)
        return
    left = iter(items)
    while some := list(itertools.islice(left, _AHEAD * cores)):
        yield from pool.map(make, some)
