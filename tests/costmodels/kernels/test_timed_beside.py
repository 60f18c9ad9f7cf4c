"""Rows that time another kernel with each product."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import MEASURED_GPUS, cost_model, questions

from costmodels.kernels.timed_beside import ProductsAlone
from profiles.store import ProfileStore


@pytest.mark.usefixtures("cache")
def test_what_is_timed_beside_goes_with_the_activations_down_to_the_roofline(synthetic_store: ProfileStore) -> None:
    cost = cost_model(MEASURED_GPUS[0], synthetic_store)
    asked = questions("gemm", 40)
    both = cost.estimate("gemm", asked)

    def alone(launch_us: float, bytes_per_element: float) -> np.ndarray:
        return ProductsAlone(cost, launch_us, bytes_per_element).estimate("gemm", asked).value

    np.testing.assert_array_equal(alone(0.0, 0.0), both.value)
    bandwidth = cost.gpu.memory_bandwidth_bytes_per_s
    less = 0.01 + np.asarray(asked["m"] * asked["k"], np.float64) * 1e-3 / bandwidth * 1e6
    least = alone(1e9, 0.0)
    assert np.all((least > 0) & (least <= both.value))
    np.testing.assert_allclose(alone(0.01, 1e-3), np.maximum(both.value - less, least))
