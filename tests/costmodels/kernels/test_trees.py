"""Flat trees answer as the trees they were made of."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from costmodels.kernels.trees import Trees
from profiles.store import ProfileStore


@pytest.mark.parametrize("seed", range(20))
def test_they_say_what_scikit_learns_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 400)), int(rng.integers(1, 6))
    # Whole numbers meet thresholds half way and repeat; single precision rounds what lies between.
    features = rng.integers(0, 20, (rows, columns)).astype(np.float32) if seed % 2 else rng.normal(size=(rows, columns))
    features = features.astype(np.float32)
    models = [
        DecisionTreeRegressor(min_samples_leaf=int(rng.integers(1, 5)), max_features=0.5, random_state=k).fit(
            features, rng.normal(size=rows)
        )
        for k in range(3)
    ]
    asked = np.concatenate([features, rng.normal(0, 10, (50, columns)).astype(np.float32)])
    flat = Trees.of(models)
    np.testing.assert_array_equal(flat.predict(asked), [model.predict(asked) for model in models])
    np.testing.assert_array_equal(Trees(**flat.arrays()).predict(asked[:1]), [m.predict(asked[:1]) for m in models])
    assert flat.predict(asked[:0]).shape == (3, 0)


HEAVY = (
    *("pandas", "pyarrow.compute", "pyarrow.dataset", "scipy.optimize", "scipy.stats", "sklearn", "torch", "joblib"),
    *("ortools", "matplotlib", "rich.progress", "planner.experts.placing"),
    *("numba", "planner.kinds", "planner.power.request", "planner.training.document", "api.cli.commands.serve"),
)


def test_a_warm_plan_does_without_heavy_packages(synthetic_store: ProfileStore) -> None:
    """Reading rows of the pack, and all that planning and its view import: half of a plan's time from the shell was
    imports, of which half were not needed to plan."""
    code = f"""
import sys, planner.serving.planning, api.cli.main, api.cli.progress, api.cli.views.plan
from costmodels.kernels.kernel_models import hardware_of, load_rows
from profiles.store import ProfileStore
import costmodels.serving.simulator.events
api.cli.main.application([])
store = ProfileStore({str(synthetic_store.path)!r}, trusted=True)
hardware = hardware_of(store, "gemm")
assert len(load_rows(store, "gemm", "vllm", hardware).gpu) > 0
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
