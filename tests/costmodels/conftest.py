"""Fixtures of the cost-model tests: the synthetic measurements, and cost models over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic

from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.on_disk import CACHE_VARIABLE
from profiles.store import ProfileStore


@pytest.fixture(scope="session")
def synthetic_store(tmp_path_factory: pytest.TempPathFactory) -> ProfileStore:
    """Rows of every operation on H100-SXM and H200, under vLLM; shared, not to be written to."""
    return synthetic.full_store(tmp_path_factory.mktemp("synthetic") / "store")


@pytest.fixture(scope="session")
def bare_store(tmp_path_factory: pytest.TempPathFactory) -> ProfileStore:
    """No rows at all: everything is answered by the roofline."""
    return synthetic.empty_store(tmp_path_factory.mktemp("bare") / "store")


@pytest.fixture(scope="session")
def synthetic_cost(synthetic_store: ProfileStore) -> CostModel:
    """H100-SXM under vLLM over the synthetic rows."""
    return synthetic.cost_model("H100-SXM", synthetic_store)


@pytest.fixture(scope="session")
def roofline_cost(bare_store: ProfileStore) -> CostModel:
    """H200 without a measurement: smooth and monotone, so that what is built on it can be judged exactly."""
    return synthetic.cost_model("H200", bare_store)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"
