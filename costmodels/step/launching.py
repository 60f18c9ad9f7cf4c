"""Steps whose kernels the host launches one by one."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Floats


def no_earlier(kernels: Floats, launching: Floats) -> Floats:
    """What ``kernels`` take that the host needs ``launching`` to launch, in one unit: about the longer of both."""
    return np.asarray((kernels**4 + launching**4) ** 0.25)
