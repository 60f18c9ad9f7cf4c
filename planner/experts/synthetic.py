"""Made-up statistics for users who have none, with a stated skew.

Published counts of DeepSeek-V3 and R1 have ln(load ÷ mean) of standard deviation 0.6–0.8 in most layers.
"""

from __future__ import annotations

import numpy as np

from planner.experts.model import MoeModel
from planner.experts.placement import Loads
from profiles.errors import InputError

_TOKENS = 1e6  # per window and layer: large enough that sampling noise does not matter


def synthetic_loads(model: MoeModel, sigma: float, *, windows: int = 1, drift: float = 0.0, seed: int = 0) -> Loads:
    """Expected counts, lognormal with standard deviation ``sigma`` of the logarithm; windows share a popularity and
    differ by a lognormal factor of ``drift``.

    Raises:
        InputError: sigma or drift outside 0…3.
    """
    for name, value in (("sigma", sigma), ("drift", drift)):
        if not 0 <= value <= 3:
            raise InputError(f"synthetic: {name}={value:g} is not between 0 and 3", "0.6–0.8 is like DeepSeek-V3")
    random = np.random.default_rng(seed)
    shape = (len(model.moe_layers), model.experts)
    popularity = random.normal(0.0, sigma, shape)
    counts = np.exp(popularity[None] + drift * random.normal(0.0, 1.0, (windows, *shape)))
    counts *= _TOKENS * model.top_k / counts.sum(axis=2, keepdims=True)
    names = tuple(f"synthetic[{i}]" for i in range(windows))
    return Loads(np.maximum(np.rint(counts), 1.0), model.layer_index, names, np.full(windows, 1 / windows))
