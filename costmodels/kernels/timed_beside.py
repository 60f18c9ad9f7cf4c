"""Rows that time another kernel with each product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Estimates
from costmodels.kernels.corrected_model import CorrectedModel
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.kernel_models import KernelModel
from costmodels.operations.registry import families
from costmodels.operations.roofline import Columns


@dataclass(frozen=True)
class ProductsAlone:
    """Answers for products by rows of ``cost`` that time the quantization of activations [m, k] with each.

    Attributes:
        launch_us: of that kernel, whatever it moves.
        bytes_per_element: that it reads and writes.
    """

    cost: CostModel
    launch_us: float
    bytes_per_element: float

    def kernel(self, operation: str) -> KernelModel | CorrectedModel:
        return self.cost.kernel(operation)

    def estimate(self, operation: str, q: Columns) -> Estimates:
        """As :meth:`CostModel.estimate`, µs: what is left is no less than the roofline."""
        both = self.cost.estimate(operation, q)
        elements = np.asarray(q["m"], np.float64) * np.asarray(q["k"], np.float64)
        beside = self.launch_us + elements * self.bytes_per_element / self.cost.gpu.memory_bandwidth_bytes_per_s * 1e6
        hardware = self.kernel(operation).hardware
        bounds = families().kernel(operation).times_us(q, np.zeros(len(elements), np.int64), hardware)
        least = np.minimum(np.maximum(*bounds), both.value)
        alone = np.maximum(both.value - beside, least)
        return both.scaled(np.divide(alone, both.value, out=np.ones(len(alone)), where=both.value > 0))
