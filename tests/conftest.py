"""Shared by all tests: where fitted forests go, and which files are collected."""

from __future__ import annotations

import os
import re
from itertools import compress, product
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from costmodels.kernels.on_disk import CACHE_VARIABLE


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``test_*_slow.py`` holds slow tests alone, whose very collection takes minutes: left out where they are."""
    return True if collection_path.stem.endswith("_slow") and leaves_out("slow", config.option.markexpr) else None


def leaves_out(mark: str, asked: str) -> bool:
    """Whether no test with ``mark`` is among those that a ``-m`` asks for, whatever else it is marked with."""
    if not asked:
        return False
    expression = Expression.compile(asked)
    others = sorted(set(re.findall(r"\w+", asked)) - {mark, "and", "or", "not"})
    chosen = (set(compress(others, each)) for each in product((0, 1), repeat=len(others)))
    return not any(expression.evaluate(lambda name, has=has, **_: name == mark or name in has) for has in chosen)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_test_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fitted forests go to a folder of the run, unless $SHARDWRIGHT_CACHE says where."""
    if CACHE_VARIABLE in os.environ:
        return
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # xdist gives each worker its own folder: one beside them is shared
    os.environ[CACHE_VARIABLE] = str(base / "shardwright-cache")
