"""A fleet that is a little too small, made large enough: so that there is an answer whenever time ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.solving.mix.master import fits, left
from planner.solving.mix.question import losses, remaining
from planner.solving.solvers import Floats

if TYPE_CHECKING:
    from planner.solving.mix.solve import _Search

MOST_TRIES = 200


def mend(search: _Search, engines: Floats) -> Floats | None:
    """``engines`` (steps, n) with engines added, step by step, until every step carries its load after every loss. Each
    that is added gains most, at the prices of what is lacking, for what it costs; None: no supply has one left, or time
    is up."""
    q, out = search.q, engines.copy()
    cost = np.maximum(q.kinds.cost, 1e-9)
    for block in q.blocks:
        if block.unit > 1:
            each = np.zeros(len(cost))
            each[block.kinds] = block.each / block.unit * block.unit_cost
            cost = np.maximum(cost, each)
    for t in range(q.steps):
        for _ in range(MOST_TRIES):
            if left(search.deadline) < 0:
                return None
            lack = _lack(search, t, out[t])
            if lack is None:
                break
            price, short, loss = lack
            gain = search.pool[price].copy()
            lost = {v for v, count in loss if count > 10**5}
            for v in range(len(gain)):
                if v in lost or out[t][v] >= search.master.upper[t][v]:
                    gain[v] = 0.0
                else:
                    more = out[t].copy()
                    more[v] += 1
                    if q.blocks and not fits(q, more).all():
                        gain[v] = 0.0
            if not gain.any():
                return None
            # The last one needed is the cheapest that closes what is left; before, the cheapest by what it gains.
            closing = np.flatnonzero(gain >= short - 1e-12)
            v = int(closing[np.argmin(cost[closing])]) if len(closing) else int(np.argmax(gain / cost))
            if len(closing) == 0 or cost[v] > short * float((cost / np.maximum(gain, 1e-300)).min()) * 3:
                v = int(np.argmax(gain / cost))
            room = min((b.most - float(b.each @ out[t][b.kinds])) // float(b.each[list(b.kinds).index(v)])
                       for b in q.blocks if v in b.kinds) if any(v in b.kinds for b in q.blocks) else np.inf
            count = max(min(np.floor(short / gain[v]), room, search.master.upper[t][v] - out[t][v]), 1.0)
            out[t][v] += count
        else:
            return None
    return out if _timely(search, out) else None


def _lack(search: _Search, t: int, engines: Floats) -> tuple[int, float, tuple[tuple[int, int], ...]] | None:
    """(prices, what is lacking at them, after which loss); None: nothing is."""
    for loss in losses(search.q, engines.astype(np.int64)):
        found = search.wanting(t, engines, loss, worst=1)
        price = found[0] if found else search.theta(t, engines, loss)[1]
        if price is not None:
            need = float(search.known[price][t]) * (search.share if loss else 1.0)
            return price, need - float(search.pool[price] @ remaining(engines, loss)), loss
    return None


def _timely(search: _Search, engines: Floats) -> bool:
    """Whether what a mended fleet changes from step to step is allowed: supplies while replacements start, the least
    time up, and the most changes."""
    q = search.q
    if q.steps == 1 and q.before is None:
        return True
    before = engines[-1] if q.cyclic else (None if q.before is None else q.before.astype(np.float64))
    for t in range(q.steps):
        if before is not None:
            starts = np.maximum(engines[t] - before, 0)
            for block in q.blocks:
                if np.isfinite(block.most) and float(block.each @ (before + starts)[block.kinds]) > block.most + 1e-9:
                    return False
            leaves = np.maximum(before - engines[t], 0)
            if q.most_changes is not None and starts.sum() + leaves.sum() > q.most_changes:
                return False
        before = engines[t]
    return not (q.kinds.min_up_s > 0).any()
