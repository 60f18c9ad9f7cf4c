"""Classes at the edge of what an engine serves: few requests that miss a promise which all of them together keep.

A promise over all requests of a service leaves a share of them free (a tenth at p90). A class that misses it by itself,
or keeps it only on an engine that does little else, is therefore no reason to shun an engine as long as such requests
are few: what an engine carries of them is then counted as it is within a promise that is longer, and the simulation of
the engine under its own mixture says whether all requests together keep the one that was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from costmodels.estimates import Floats, Ints
from planner.contract.workload.classes import LengthClass
from planner.contract.workload.slo import Slo
from planner.serving.fleets.engines import EngineKind

HALF = 0.5
"""Of the requests that a promise leaves free: the others miss it now and then too."""

LONGER = (4.0, 16.0)
"""Times as long as the promise, one after the other, within which such classes are counted."""

KEPT = 0.8
"""Of what an engine carries of a class within a longer promise that is counted on beside others; the simulation of the
mixture corrects it."""

LOOKED_AT = 8
"""Lengths of these classes that are worked out; a class between them is taken for the next longer one."""

Beyond = Callable[[Floats, float, Sequence[EngineKind]], Floats]
"""Of lengths (n, 2), times as long a promise, kinds of engine: requests per second (n, kinds); 0: none."""


def share_left_free(slo: Slo) -> float:
    """Of all requests, those that the tightest bound lets miss it."""
    return 1.0 - max((bound.percentile for bound in slo.bounds), default=100.0) / 100.0


def at_the_edge(
    classes: Sequence[LengthClass], rates: Sequence[Floats], slo: Slo, cells: Floats, kinds: Sequence[EngineKind],
    beyond: Beyond,
) -> Floats:  # fmt: skip
    """``cells`` (classes, kinds) with classes counted on kinds of engine that serve all but few requests.

    Args:
        rates: of each step, (classes,).
        beyond: what engines carry within a longer promise.
    """
    free = HALF * share_left_free(slo)
    whole = [i for i, kind in enumerate(kinds) if kind.role == "aggregated"]
    if free <= 0 or not whole:
        return cells
    share = np.max([rate / max(float(rate.sum()), 1e-300) for rate in rates], axis=0)
    lost = (cells <= 0) & (share > 0)[:, None]
    lacking = (lost * share[:, None]).sum(axis=0)
    mine = [k for k in whole if 0 < lacking[k] <= free or (cells[share > 0, k] > 0).all()]
    longest = _longest(classes, share, free)
    wanted = np.union1d(np.flatnonzero(lost[:, mine].any(axis=1)), longest) if mine else longest[:0]
    if not len(wanted):
        return cells
    of = [kinds[k] for k in mine]
    found = np.zeros((len(wanted), len(of)))
    for times in LONGER:
        if not (found <= 0).any():
            break
        more = _taken(classes, wanted, beyond, times, of)
        found = np.where(found > 0, found, more)
    out = cells.copy()
    for column, k in enumerate(mine):
        out[:, k] = _counted(cells[:, k], wanted, KEPT * found[:, column], share, free)
    return out


def _longest(classes: Sequence[LengthClass], share: Floats, free: float) -> Ints:
    """The classes of the longest prompts, as many as ``free`` of the requests are."""
    order = [i for i in np.argsort([-each.isl for each in classes], kind="stable").tolist() if share[i] > 0]
    within = np.cumsum(share[order]) <= free
    return np.sort(np.array(order, np.int64)[within])


def _taken(
    classes: Sequence[LengthClass], wanted: Ints, beyond: Beyond, times: float, kinds: Sequence[EngineKind]
) -> Floats:
    """What ``kinds`` carry of the classes ``wanted`` within a promise so many ``times`` as long, (wanted, kinds)."""
    lengths = np.array([(classes[i].isl, classes[i].osl) for i in wanted.tolist()])
    order = np.lexsort((lengths[:, 1], lengths[:, 0]))
    at = np.unique(np.linspace(0, len(order) - 1, min(LOOKED_AT, len(order))).round().astype(np.int64))
    # Each point stands for those before it: as long as the longest of them in both.
    begins = np.concatenate([[0], at[:-1] + 1])
    points = np.array([lengths[order[a : b + 1]].max(axis=0) for a, b in zip(begins, at, strict=True)])
    worked = beyond(points, times, kinds)
    out = np.zeros((len(wanted), len(kinds)))
    for row, (a, b) in enumerate(zip(begins, at, strict=True)):
        out[order[a : b + 1]] = worked[row]
    return out


def _counted(cells: Floats, wanted: Ints, longer: Floats, share: Floats, free: float) -> Floats:
    """One kind's ``cells`` (classes,), those of ``wanted`` as much as ``longer`` where that is more: first what is not
    served at all, then what is served least for it, as many as ``free`` of the requests are."""
    now = cells[wanted]
    gain = np.flatnonzero(longer > now)
    missing = gain[now[gain] <= 0]
    if np.any((now <= 0) & (longer <= 0)):  # too long for its memory, or for any promise: it is not whole
        return cells
    left = free - float(share[wanted[missing]].sum())
    out = cells.copy()
    out[wanted[missing]] = longer[missing]
    rest = gain[now[gain] > 0]
    rest = rest[np.argsort(now[rest] / longer[rest], kind="stable")]
    raised = rest[np.cumsum(share[wanted[rest]]) <= left]
    out[wanted[raised]] = longer[raised]
    return out


def words_of_edges(
    name: str, classes: Sequence[LengthClass], sent: Sequence[tuple[Floats, Floats]], slo: Slo
) -> list[str]:
    """What is told of requests that are counted on though they miss the promise by themselves.

    Args:
        sent: of each kind of engine that runs, what it gets of each class at its busiest step and what it carries of
            each where every class keeps the promise, (classes,).
    """
    missing = sum((np.where(strict <= 0, rates, 0.0) for rates, strict in sent), np.zeros(len(classes)))
    total = float(sum(float(rates.sum()) for rates, _ in sent))
    if not missing.any():
        return []
    few = [classes[i].isl for i in np.flatnonzero(missing).tolist()]
    span = f"{min(few):,.0f}" + ("" if min(few) == max(few) else f" to {max(few):,.0f}")
    bounds = " and ".join(bound.label for bound in slo.bounds)
    share = f"{100 * float(missing.sum()) / total:.2g} %"
    return [
        f"{name}: {share} of the requests, isl {span}, may miss {bounds} by themselves and are served: the promise is "
        "over all requests (promise: class makes it for each)"
    ]
