"""Racks that stand for others of their like: of very many some are simulated whole, under their own budgets; the
highest of all is higher than the highest of these, by as much as their budgets are lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from costmodels.estimates import Floats
from planner.power.reference import UNCAPPED
from planner.power.simulator import RowModel, chance_of, simulate
from planner.power.threads import in_order
from planner.power.traffic import SLOT_S, WARM_S, busiest, stretch

_DAYS = range(3_000_000, 3_000_060)
_SLOTS = 40
"""Of which the highest readings of racks are taken, in five minutes each."""

_ERRORS = 3.0
"""Standard errors of the mean highest reading of racks over these slots, by which budgets are lowered beside: some that
stand for all err either way, and a hall is to hold what it is said to."""

_MORE = 1.25
"""Servers of today's that they have."""


def for_all(row: RowModel, stand_for: Mapping[str, tuple[int, int]], seed: int) -> RowModel:
    """``row``, whose nodes of these names are so many and stand for so many: each budget is lowered by how much higher
    the highest of all reads in five busy minutes than that of those that are simulated, and by the error of that."""
    tree, n = row.tree, int(row.today * _MORE)
    assert row.load is not None
    load, servers = row.load, row.servers(n)

    def highest(slot: tuple[int, int]) -> Floats:
        requests = row.requests(stretch(load, n, seed, *slot, "exponential"), followed=False)
        made = simulate(row, UNCAPPED, n, requests, chance_of(seed, sum(slot)), WARM_S + SLOT_S)
        return np.asarray(made.peak[1:] * tree.budgets)

    # [stretches of five minutes, nodes]
    watts = np.concatenate(list(in_order(highest, busiest(load, seed, _DAYS, _SLOTS, "exponential"))))
    each = tree.below @ np.bincount(servers.leaf, minlength=tree.below.shape[1]).astype(np.float64)
    most = tree.below @ np.bincount(
        servers.leaf, [row.kinds[kind].most_watts for kind in servers.kind], tree.below.shape[1]
    )
    budgets = tree.budgets.copy()
    for some, of in set(stand_for.values()):
        mine = np.array([stand_for.get(name) == (some, of) for name in tree.names])
        drawn, held = watts[:, mine], each[mine]
        # Of one server, as far as nodes differ by chance: that goes with the root of their servers.
        apart = (drawn - held * (drawn.sum(axis=1) / held.sum())[:, None]) / np.sqrt(held)
        more = (_highest_of(apart.ravel(), of) - _highest_of(apart.ravel(), some)) * np.sqrt(held)
        highest_read = (drawn / budgets[mine]).max(axis=1).reshape(_SLOTS, -1).max(axis=1)
        more = more + _ERRORS * np.std(highest_read, ddof=1) / np.sqrt(_SLOTS) * budgets[mine]
        budgets[mine] -= np.clip(more, 0.0, np.maximum(most[mine] - drawn.max(axis=0), 0.0))
    return replace(row, tree=replace(tree, budgets=budgets, own_budgets=tree.budgets))


def _highest_of(values: Floats, many: int) -> float:
    """Mean of the highest of ``many`` that are drawn from ``values``."""
    up_to = np.arange(len(values) + 1) / len(values)
    return float(np.sum(np.sort(values) * np.diff(up_to**many)))
