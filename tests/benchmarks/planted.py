"""Expert statistics whose best placement is known, because it was planted."""

from __future__ import annotations

import numpy as np

from planner.experts.placement import Floats, Ints, Routes

_TOKENS = 1e6  # of a layer


def planted_loads(layers: int, groups: int, size: int, sigma: float, *, seed: int = 0) -> tuple[Floats, Ints]:
    """Loads that have a perfectly balanced placement: experts in random groups of ``size``, lognormal loads of spread
    ``sigma``, scaled so that all groups of a layer weigh the same. Returns loads and group, shape [layers, experts]
    each."""
    random = np.random.default_rng(seed)
    experts = groups * size
    group = np.argsort(random.random((layers, experts)), axis=1) // size
    loads = np.exp(random.normal(0.0, sigma, (layers, experts)))
    row = np.arange(layers)[:, None]
    weight = np.zeros((layers, groups))
    np.add.at(weight, (row, group), loads)
    return loads / weight[row, group] * (_TOKENS / groups), group


def planted_routes(
    loads: Floats, group: Ints, follow: float, *, top_k: int, tokens: int, seed: int | None = None
) -> Routes:
    """Routes of which a share ``follow`` of the transitions leads from an expert to one of the same group in the next
    layer, and the rest anywhere, both in proportion to ``loads``: expected ones, or with a ``seed`` as many drawn at
    random.

    Args:
        loads, group: shape [layers, experts]; groups are numbered from 0.
    """
    share = loads / loads.sum(axis=1, keepdims=True)
    pairs = float(tokens) * top_k * top_k
    member = (group[:, :, None] == np.arange(int(group.max()) + 1)).astype(np.float64)
    weight = np.einsum("le,leg->lg", share, member)
    transitions = np.empty((len(loads) - 1, loads.shape[1], loads.shape[1]))
    for layer in range(len(transitions)):
        same = member[layer] @ (member[layer + 1] / weight[layer + 1]).T
        transitions[layer] = pairs * (follow * same + (1 - follow)) * np.outer(share[layer], share[layer + 1])
    if seed is not None:
        transitions = np.random.default_rng(seed).poisson(transitions).astype(np.float64)
    used = tokens * top_k * share
    coactivation = np.einsum("li,lj->lij", share, used) * (top_k - 1)  # as of independent choices
    experts = np.arange(loads.shape[1])
    coactivation[:, experts, experts] = used
    return Routes(transitions, coactivation, np.arange(len(loads), dtype=np.int64), tokens, top_k)
