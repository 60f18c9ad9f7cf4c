"""Shared by all tests: fitted forests go to a folder of the run, unless $SHARDWRIGHT_CACHE says where."""

from __future__ import annotations

import os

import pytest

from costmodels.kernels.on_disk import CACHE_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_test_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    if CACHE_VARIABLE in os.environ:
        return
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # xdist gives each worker its own folder: one beside them is shared
    os.environ[CACHE_VARIABLE] = str(base / "shardwright-cache")
