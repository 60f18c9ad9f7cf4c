"""Which of several carries more, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

from costmodels.facts import read_numbers
from planner.compare.carrying import log_spread
from planner.compare.contenders import Contender
from planner.compare.document import Ordered, Side
from planner.serving.document.opening import framework_of, running_of

TIE = 0.01
"""What carries within this share of another is level with it: runs of the simulator differ by as much."""


@dataclass(frozen=True)
class Shared:
    """``order.yaml``: correlation of the errors of two predictions that share model, GPU, framework and precision, or
    all but one of these."""

    all: float
    but_precision: float
    but_framework: float
    but_gpu: float


@cache
def shared_errors() -> Shared:
    return read_numbers(Path(__file__).parent / "order.yaml", Shared)


def ordered(sides: Sequence[Contender], shown: Sequence[Side]) -> list[Ordered]:
    """Each side beside the next best: by what it carries, of other GPU counts by what each GPU does."""
    by_gpu = len({side.gpus for side in shown}) > 1
    ranked = sorted(range(len(shown)), key=lambda i: (-_worth(shown[i], by_gpu), not shown[i].keeps_promises, i))
    found = []
    for better, worse in pairwise(ranked):
        first, second = shown[better], shown[worse]
        a, b = _worth(first, by_gpu), _worth(second, by_gpu)
        if a <= 0:
            continue
        level = b > 0 and a <= b * (1 + TIE)
        found.append(
            Ordered(
                better=first.name,
                worse=second.name,
                by=0.0 if level else (a / b - 1 if b > 0 else None),
                quantity="requests per second per GPU" if by_gpu else "requests per second",
                confidence=0.5 if level else _sure(sides[better], sides[worse], first, second, a, b),
            )
        )
    return found


def _worth(side: Side, by_gpu: bool) -> float:
    carries = 0.0 if side.carries_rps is None else side.carries_rps.value
    return carries / side.gpus if by_gpu else carries


def _sure(one: Contender, other: Contender, first: Side, second: Side, a: float, b: float) -> float:
    """Probability that the first carries more, both lognormal with their intervals and their errors correlated as far
    as they share what these come from."""
    if b <= 0 or first.carries_rps is None or second.carries_rps is None:
        return _sure_of_some(first)
    sa, sb = log_spread(first.carries_rps), log_spread(second.carries_rps)
    if not math.isfinite(sa) or not math.isfinite(sb):
        sa = sb = max((each for each in (sa, sb) if math.isfinite(each)), default=1.0)
    variance = sa**2 + sb**2 - 2 * _correlation(one, other) * sa * sb
    return NormalDist().cdf(math.log(a / b) / max(math.sqrt(max(variance, 0.0)), 1e-6))


def _sure_of_some(side: Side) -> float:
    """Probability that a side carries anything where the other carries nothing."""
    carries = side.carries_rps
    return 0.5 if carries is None or carries.value <= 0 else 0.9 if carries.low > 0 else 0.7


def _correlation(one: Contender, other: Contender) -> float:
    shared = shared_errors()
    a, b = (_kind_of(each) for each in (one, other))
    differ = [name for name in a if a[name] != b[name]]
    if not differ:
        return shared.all
    return 0.0 if len(differ) > 1 else float(getattr(shared, f"but_{differ[0]}"))


def _kind_of(side: Contender) -> dict[str, object]:
    engines = running_of(side.document).engines
    return {
        "gpu": {group.gpu for group in engines},
        "framework": framework_of(side.document).partition("@")[0],
        "precision": {group.weights_precision for group in engines},
    }
