"""The requests that one kind of engine gets: a mixture of classes, as the workload of one engine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from costmodels.estimates import Floats, Ints
from planner.contract.workload.classes import LengthClass
from planner.contract.workload.lengths import MOST_LENGTHS, Recorded
from planner.contract.workload.workload import Speculation, Workload

SEED = 0


def members(low: float, high: float, mean: float, place: Floats) -> Floats:
    """Lengths of a class at ``place`` (n,) in 0 to 1, evenly spread over as much of its range as has its mean."""
    if high - low <= 1:
        return np.full(len(place), mean)
    reach = min(mean - low, high - 1 - mean)
    return mean - reach + 2 * reach * place


def drawn_from(
    classes: Sequence[LengthClass], weight: Floats, n: int, seed: int, *, evenly: bool = False
) -> tuple[Ints, Ints]:
    """(isl, osl) of ``n`` requests, (n,) each: classes by ``weight`` (classes,), as near to their shares as whole
    requests go. Lengths lie at random within their class; ``evenly``: so that those of each have its means, where
    they are to stand for all."""
    rng = np.random.default_rng(seed)

    def places(many: int) -> Floats:
        return (rng.permutation(many) + 0.5) / many if evenly else rng.random(many)

    share = np.cumsum(weight) / weight.sum()
    which = np.minimum(np.searchsorted(share, (np.arange(n) + rng.random()) / n, side="right"), len(classes) - 1)
    which = which[rng.permutation(n)]
    isl, osl = np.zeros(n), np.zeros(n)
    for i in np.unique(which).tolist():
        mine, each = np.flatnonzero(which == i), classes[i]
        isl[mine] = members(each.isl_from, each.isl_to, each.isl, places(len(mine)))
        osl[mine] = members(each.osl_from, each.osl_to, each.osl, places(len(mine)))
    return tuple(np.maximum(np.rint(lengths), 1).astype(np.int64) for lengths in (isl, osl))  # type: ignore[return-value]


def longest_of(classes: Sequence[LengthClass], context: int) -> int:
    """Tokens of the longest request that the ranges of ``classes`` hold, in whole 256s; no more than ``context``."""
    longest = max(max(each.isl_to - 1, each.isl) + max(each.osl_to - 1, each.osl) for each in classes)
    return min(-(-math.ceil(longest) // 256) * 256, context)


def workload_of(
    classes: Sequence[LengthClass],
    rate_rps: Floats,
    *,
    speculation: Speculation | None,
    name: str,
    max_len: int | None = None,
) -> Workload:
    """A mixture of ``classes`` at ``rate_rps`` (classes,), of which a thousand requests stand for all; engines admit
    ``max_len`` tokens."""
    kept = np.flatnonzero(rate_rps > 0)
    chosen, rate = [classes[i] for i in kept.tolist()], rate_rps[kept]
    isl, osl = drawn_from(chosen, rate, MOST_LENGTHS, SEED, evenly=True)
    weights = rate / rate.sum()
    prompts = np.array([each.isl for each in chosen])
    hit = float((weights * prompts * np.array([each.prefix_hit for each in chosen])).sum() / (weights * prompts).sum())
    recorded = Recorded(
        name=name,
        requests=MOST_LENGTHS,
        seconds=max(MOST_LENGTHS / float(rate.sum()), 1e-6),
        rate_of="the busiest step",
        isl=tuple(isl.tolist()),
        osl=tuple(osl.tolist()),
    )
    return Workload(
        isl=max(round(float(weights @ prompts)), 1),
        osl=max(round(float(weights @ np.array([each.osl for each in chosen]))), 1),
        rate_rps=float(rate.sum()),
        prefix_hit=min(max(hit, 0.0), 1.0),
        speculation=speculation,
        recorded=recorded,
        max_len=max_len,
    )
