"""What features of several families are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.operations.roofline import Columns, Hardware

Features = dict[str, Floats]
"""Features of ``n`` questions by name, shape [n] each."""


def log(x: NDArray[np.generic]) -> Floats:
    """log2, of zeros a large negative number."""
    return np.log2(np.maximum(np.asarray(x, dtype=np.float64), 1e-9))


def logs(q: Columns, *names: str) -> Features:
    return {name: log(q[name]) for name in names}


def power_of_two(x: NDArray[np.generic], most: int) -> Floats:
    """log2 of the largest power of two that divides x, up to ``most``: alignment decides which kernel may
    run."""
    whole = x.astype(np.int64)
    aligned: Floats = np.log2(np.minimum(whole & -whole, most).astype(np.float64))
    return aligned


def waves(tiles: Floats, hw: Hardware, gpu: Ints) -> tuple[Floats, Floats]:
    """(log2 waves of ``tiles`` over the GPU's SMs, share of the last wave's SMs in use averaged over all waves)."""
    count = tiles / hw.traits[gpu, hw.trait_names.index("sm_count")]
    return np.log2(count), count / np.ceil(count)
