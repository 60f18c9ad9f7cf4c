"""Fixtures of the planner's tests: small worlds to plan in, and plans that several tests look at."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.serving.document.plan import Plan
from planner.serving.planning import plan
from profiles.store import ProfileStore

sys.path.append(str(Path(__file__).parents[1] / "costmodels"))

import synthetic  # the synthetic measurements of the cost-model tests

Planned = Callable[..., Plan]


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> ProfileStore:
    """Synthetic rows of every operation on H100-SXM and H200: forests that fit in a second."""
    return synthetic.full_store(tmp_path_factory.mktemp("measured") / "store")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> ProfileStore:
    """No rows: every time is the roofline's, smooth and monotone in everything."""
    return synthetic.empty_store(tmp_path_factory.mktemp("unmeasured") / "store")


def _planner(store: ProfileStore) -> Planned:
    @functools.cache
    def cached(request: str) -> Plan:
        return plan(json.loads(request), store=store)

    def planned(model: str, cluster: Any, workload: str, slo: str = "", **more: Any) -> Plan:
        # Simulations are tested by themselves (test_confirmation.py).
        request = {"model": model, "cluster": cluster, "workload": workload, "slo": slo, "simulation": False, **more}
        return cached(json.dumps(request, sort_keys=True))

    return planned


@pytest.fixture(scope="session")
def planned(bare: ProfileStore) -> Planned:
    """``plan()`` over the roofline alone; equal requests are planned once."""
    return _planner(bare)


@pytest.fixture(scope="session")
def planned_from_rows(measured: ProfileStore) -> Planned:
    """``plan()`` over the synthetic rows; equal requests are planned once."""
    return _planner(measured)
