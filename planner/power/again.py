"""Which requests of a trace come again while all servers together get more than the trace has. The counts are numpy's
own Poisson draws, several times as fast: the exponential of a second is taken once, not for each of its requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.native.kept import Loop

_BY_PRODUCTS_BELOW = 10.0
"""Of a mean, numpy multiplies uniforms until they are below exp(−mean); from it on it draws otherwise."""


def come_again(expected: Floats, second: Ints, draw: np.random.Generator) -> Ints:
    """Places in ``second`` [requests, which second each comes in], each as often as it comes again: a Poisson number
    of the mean that ``expected`` [seconds] has; ``draw`` is left as ``draw.poisson(expected[second])`` leaves it."""
    mean = float(np.bincount(second, minlength=len(expected)) @ expected)
    if mean == 0.0:
        return np.zeros(0, np.int64)
    if expected.max() < _BY_PRODUCTS_BELOW:
        most = int(mean + 6.0 * math.sqrt(mean)) + 20
        uniforms, again = draw.random(len(second) + most), np.empty(most, np.int64)
        numbers = np.zeros(2, np.int64)  # of uniforms that were used, and of places
        none = np.array([math.exp(-each) for each in expected.tolist()])
        enough = _LOOP(expected, none, second, uniforms, again, numbers)
        used, count = numbers.tolist()
        bits: Any = draw.bit_generator
        bits.advance(used - len(uniforms))
        if enough:
            return again[:count]
    return np.repeat(np.arange(len(second)), draw.poisson(expected[second]))


def _products(expected: Any, none: Any, second: Any, uniforms: Any, again: Any, numbers: Any) -> int:
    """1; 0: too few uniforms or places. ``none`` [seconds]: the chance that a request does not come again."""
    used, count = 0, 0
    for i in range(len(second)):
        at = second[i]
        if expected[at] == 0.0:
            continue
        product = 1.0
        while True:
            if used == len(uniforms):
                return 0
            product *= uniforms[used]
            used += 1
            if product <= none[at]:
                break
            if count == len(again):
                return 0
            again[count] = i
            count += 1
    numbers[0], numbers[1] = used, count
    return 1


def _function() -> Callable[..., int]:
    from costmodels.native.compiling import compiled  # deferred: the compiler

    return compiled(_products)


_LOOP = Loop("again", [Path(__file__)], _function)
