"""Classes of a trace laid together: how few of them say what an engine carries as well as many.

A trace comes in as fine classes. They are laid together to about as many as are asked for, each standing at the mean of
its members, so that requests and tokens stay; and split again, four for one, until splitting once more changes what the
engines carry by less than the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from costmodels.estimates import Floats
from planner.contract.workload.classes import LengthClass, LoadStep, SteppedLoad
from planner.serving.fleets.engines import EngineKind

Carried = Callable[[tuple[LengthClass, ...]], tuple[Sequence[EngineKind], Floats]]
"""Of classes: (kinds of engine, requests per second of each class on each of them, (classes, kinds); 0: none)."""


@dataclass(frozen=True)
class Coarse:
    """``load``: as coarse as it may be; ``change``: by how much of their capacity splitting it once more changes what
    engines carry, the largest of its steps, None where nothing was laid together. ``kinds``: of engine, and ``cells``:
    what they carry of classes of each isl and osl, (kinds,)."""

    load: SteppedLoad
    change: float | None
    kinds: Sequence[EngineKind] = ()
    cells: Mapping[tuple[float, float], Floats] = field(default_factory=dict)

    def capacity(self, classes: Sequence[LengthClass]) -> Floats:
        """(classes, kinds)."""
        return np.stack([self.cells[each.isl, each.osl] for each in classes])


def levels_of(load: SteppedLoad, first: int) -> list[SteppedLoad]:
    """``load`` laid together to about ``first`` classes and more finely, the finest as it is."""
    levels = [load]
    isl, osl = (_edges(load, name) for name in ("isl", "osl"))
    while (len(isl) - 1) * (len(osl) - 1) > first:
        isl, osl = _every_other(isl), _every_other(osl)
        levels.append(_laid_together(levels[-1], isl, osl))
    return levels[::-1]


def _every_other(edges: Floats) -> Floats:
    return np.array([*edges[:-1:2], edges[-1]])


def _edges(load: SteppedLoad, name: str) -> Floats:
    """Where ranges of prompts or outputs begin, and where the last one ends."""
    classes = [each for step in load.steps for each in step.classes]
    ends = max(getattr(each, f"{name}_to") for each in classes)
    return np.array(sorted({*(getattr(each, f"{name}_from") for each in classes), ends}))


def _laid_together(load: SteppedLoad, isl: Floats, osl: Floats) -> SteppedLoad:
    """``load`` with the classes between two edges as one."""
    steps = tuple(step.model_copy(update={"classes": _joined(step, isl, osl)}) for step in load.steps)
    return load.model_copy(update={"steps": steps})


def _joined(step: LoadStep, isl: Floats, osl: Floats) -> tuple[LengthClass, ...]:
    cells: dict[tuple[int, int], list[LengthClass]] = {}
    for each in step.classes:
        at = (int(np.searchsorted(isl, each.isl_from, "right")), int(np.searchsorted(osl, each.osl_from, "right")))
        cells.setdefault(at, []).append(each)
    return tuple(
        mean_class(cells[i, o], (float(isl[i - 1]), float(isl[i])), (float(osl[o - 1]), float(osl[o])))
        for i, o in sorted(cells)
    )


def mean_class(members: Sequence[LengthClass], isl: tuple[float, float], osl: tuple[float, float]) -> LengthClass:
    """One class of these ranges for several: their requests, at the mean of their lengths."""
    rate, prompts, outputs, hit = (
        np.array([getattr(each, name) for each in members]) for name in ("rate_rps", "isl", "osl", "prefix_hit")
    )
    total = float(rate.sum())
    weights = rate if total > 0 else np.ones(len(rate))
    seen = float(weights @ prompts)
    return LengthClass(
        isl_from=isl[0],
        isl_to=isl[1],
        osl_from=osl[0],
        osl_to=osl[1],
        isl=seen / float(weights.sum()),
        osl=float(np.average(outputs, weights=weights)),
        rate_rps=total,
        prefix_hit=float((weights * prompts) @ hit) / seen if seen > 0 else float(hit.mean()),
    )


def coarsened(load: SteppedLoad, first: int | None, tolerance: float, carried: Carried) -> Coarse:
    """The coarsest of the levels of ``load`` that splitting changes by less than ``tolerance``; where none is, the
    finest, with what the last split changed. ``first``: classes to begin with; None: it stays as it is."""
    levels = [load] if first is None else levels_of(load, first)
    every = tuple(each for level in levels for step in level.steps for each in step.classes)
    kinds, cells = carried(every)
    of_lengths = {(each.isl, each.osl): row for each, row in zip(every, cells, strict=True)}
    if len(levels) == 1:
        return Coarse(load, None, kinds, of_lengths)
    ways = _ways(kinds)
    gpus = np.array([kind.gpus for kind in kinds], np.float64)
    taken, at = [], 0
    for level in levels:
        steps = []
        for step in level.steps:
            rate = np.array([each.rate_rps for each in step.classes])
            steps.append(_gpus_of(rate, cells[at : at + len(rate)], gpus, ways))
            at += len(rate)
        taken.append(np.array(steps))
    change = 0.0
    for level, mine, finer in zip(levels, taken, taken[1:], strict=False):
        change = _change(mine, finer)
        if change <= tolerance:
            return Coarse(level, change, kinds, of_lengths)
    return Coarse(levels[-1], change, kinds, of_lengths)


def _ways(kinds: Sequence[EngineKind]) -> list[list[list[int]]]:
    """The ways to serve a request: of each, the kinds of every role that it sees."""
    sets = list(dict.fromkeys(kind.partners for kind in kinds))
    found = []
    for partners in sets:
        roles: dict[str, list[int]] = {}
        for i, kind in enumerate(kinds):
            if kind.partners == partners:
                roles.setdefault(kind.role, []).append(i)
        found.append(list(roles.values()))
    return found


def _gpus_of(rate: Floats, cells: Floats, gpus: Floats, ways: Sequence[Sequence[Sequence[int]]]) -> tuple[float, float]:
    """GPUs that a step keeps busy: each class on what carries it with fewest, and all on the one kind (or one of each
    role) that takes fewest (infinite where none carries all)."""
    with np.errstate(divide="ignore"):
        work = np.where(cells > 0, rate[:, None] * gpus / np.maximum(cells, 1e-300), np.inf)
    each = np.full(len(rate), np.inf)
    together = np.inf
    for way in ways:
        each = np.minimum(each, sum(work[:, mine].min(axis=1) for mine in way))
    served = np.isfinite(each)
    for way in ways:
        together = min(together, sum(float(work[served][:, mine].sum(axis=0).min(initial=np.inf)) for mine in way))
    return float(each[served].sum()), together


def _change(coarse: Floats, fine: Floats) -> float:
    """The largest relative difference of GPUs (steps, 2); what no kind carries alone is left out."""
    both = np.isfinite(coarse) & np.isfinite(fine) & (fine > 0)
    return float(np.abs(coarse[both] / fine[both] - 1).max(initial=0.0))
