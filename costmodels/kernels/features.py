"""What the forests see of an operation: physical features, the same for every GPU.

A feature is useful on a GPU that nobody measured only if it means the same there, hence sizes relative to
the machine (roofline times, waves of tiles per SM, weights per L2) beside the plain logarithms of the
shape. Here is what all operations have; what one has beside it, its family says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.operations.kernel import Kernel
from costmodels.operations.roofline import Columns, Hardware, times_us
from costmodels.operations.shape_features import Features, log

LAUNCH_US = 2.0
"""Added to the roofline before ratios are taken, so that tiny kernels (all launch, no work) do not need a
forest to learn the slope -1. About the time of an empty kernel on the GPUs in the pack."""


def base_us(kernel: Kernel, q: Columns, gpu: Ints, hw: Hardware) -> Floats:
    """The yardstick of the forest's target: log(measured ÷ base)."""
    return kernel.roofline_us(q, gpu, hw) + LAUNCH_US


def matrix(kernel: Kernel, q: Columns, gpu: Ints, hw: Hardware) -> NDArray[np.float32]:
    """Feature matrix, shape [n, features], float32."""
    todo = kernel.work(q)
    compute, transfer = times_us(todo, q["dtype"], gpu, hw)
    dtype = q["dtype"].astype(np.int64)
    features: Features = {
        "compute": log(compute),
        "transfer": log(transfer),
        "roofline": log(np.maximum(compute, transfer)),
        "balance": log(compute) - log(transfer),
        "flops": log(todo.flops),
        "dtype": dtype.astype(np.float64),
        "peak": np.log2(hw.peak_flops[gpu, dtype] / 1e12),
        "ridge": np.log2(hw.peak_flops[gpu, dtype] / hw.bandwidth[gpu]),
    }
    for position, trait in enumerate(hw.trait_names):
        features[trait] = hw.traits[gpu, position]
    features.update(kernel.features(q, hw, gpu))
    return np.column_stack(list(features.values())).astype(np.float32)
