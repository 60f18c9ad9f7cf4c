"""How many layers each stage holds and how many of them are recomputed: exact, for one layout.

The time of an iteration is (m − z)·max t + z·Σ t + max x over the stages, where t is a stage's time for a micro-batch
and x what it exchanges once (:class:`costmodels.training.iteration.StageCosts`). Both grow with what a stage holds, so
for a stage and a run of layers only the least recomputation that fits matters, and a dynamic programme over stages
with labels (max t, Σ t, max x), of which dominated ones are dropped, finds the best split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.training.layouts import ZERO_BUBBLE, TrainingLayouts
from costmodels.training.memory import training_memory
from costmodels.training.pools import PooledTimes, pooled_costs
from costmodels.training.setting import Setting

Label = tuple[float, float, float]
"""(max t, Σ t, max x), µs."""


@dataclass(frozen=True)
class StageTable:
    """What each stage costs with each content.

    Attributes:
        contents: layers of each kind, shape [contents, kinds].
        time, rest: with the least recomputation that fits, shape [contents, stages]; infinite where none does.
        recomputed: layers recomputed whole, shape [contents, stages].
        fill: what is added to the total, µs.
        idle: z.
    """

    contents: Floats
    time: Floats
    rest: Floats
    recomputed: Floats
    fill: float
    idle: float


@dataclass(frozen=True)
class Split:
    """A choice for all stages of one layout."""

    total_us: float
    layers: tuple[int, ...]  # of each stage
    recomputed: tuple[int, ...]


def whole_layers(layouts: TrainingLayouts) -> NDArray[np.bool_]:
    """Whether layers may be recomputed whole, shape [n]: not where weight gradients come after the activations
    are gone, and not beside parts of others (Megatron-LM's --recompute-granularity is full or selective, torchtitan's
    activation_checkpoint.mode too)."""
    return np.asarray((layouts.schedule != ZERO_BUBBLE) & (layouts.selective == 0))


def recomputable(setting: Setting, layers: int) -> NDArray[np.bool_]:
    """Whether the framework can recompute 0, 1, … ``layers`` of that many layers whole, shape [layers + 1]."""
    way, possible = setting.framework.recompute_layers, np.ones(layers + 1, np.bool_)
    if way != "any":
        possible[1:] = False
        possible[[layers // every for every in range(1, layers + 1 if way == "every" else 2)]] = True
    return possible


def stage_table(
    setting: Setting,
    layout: TrainingLayouts,
    times: PooledTimes,
    contents: Floats,
    capacity: Floats,
    *,
    recompute: bool,
) -> StageTable:
    """Costs of every stage of one ``layout`` (n = 1) with each of ``contents``; ``capacity``: bytes of a GPU of each
    stage, shape [1, stages or 1]."""
    stages = layout.layers.shape[1]
    most = contents.sum(axis=1).astype(np.int64) if recompute else np.zeros(len(contents), np.int64)
    which = np.repeat(np.arange(len(contents)), most + 1)
    again = np.concatenate([np.arange(each + 1) for each in most])
    rows = layout.take(np.zeros(len(which), np.int64)).with_stages(
        np.broadcast_to(contents[which][:, None, :], (len(which), stages, contents.shape[1])),
        np.broadcast_to(again[:, None], (len(which), stages)).astype(np.float64),
    )
    costs = pooled_costs(setting, rows, times.take(np.zeros(len(which), np.int64)))
    fits = training_memory(setting, rows).used() <= capacity
    # Time grows with recomputation: of each content the first row that fits is its best.
    time, rest, recomputed = (np.full((len(contents), stages), np.inf) for _ in range(3))
    starts = np.concatenate([[0], np.cumsum(most + 1)[:-1]])
    for index in range(len(contents)):
        part = slice(starts[index], starts[index] + most[index] + 1)
        can = fits[part] & recomputable(setting, int(most[index]))[:, None]
        first = can.argmax(axis=0)
        column = np.arange(stages)
        fine = can[first, column]
        time[index] = np.where(fine, costs.time[part][first, column], np.inf)
        rest[index] = np.where(fine, costs.rest[part][first, column], np.inf)
        recomputed[index] = first
    return StageTable(contents, time, rest, recomputed, float(costs.fill[0]), float(costs.idle[0]))


def best_split(
    table: StageTable, index: NDArray[np.int64], layers: int, microbatches: int, cutoff_us: float
) -> Split | None:
    """The best split of ``layers`` layers over the stages of ``table``, or None where none beats ``cutoff_us``.

    Args:
        index: content of the run of layers from i to j, shape [layers + 1, layers + 1]; −1 where there is none.
    """
    stages = table.time.shape[1]
    m, idle = float(microbatches), table.idle
    # The least time that the layers from i on still add to Σ t: their shortest content by layer, in any stage.
    per_layer = np.where(np.isfinite(table.time), table.time, np.inf).min(axis=1) / np.maximum(
        table.contents.sum(axis=1), 1
    )
    least = float(per_layer.min()) if len(per_layer) else 0.0
    labels: dict[int, list[tuple[Label, tuple[int, ...]]]] = {0: [((0.0, 0.0, 0.0), ())]}
    for stage in range(stages):
        behind = stages - stage - 1
        following: dict[int, list[tuple[Label, tuple[int, ...]]]] = {}
        for start, found in labels.items():
            ends = np.flatnonzero(index[start] >= 0) if behind else np.array([layers])
            for end in ends.tolist():
                content = int(index[start, end])
                if content < 0 or not np.isfinite(table.time[content, stage]):
                    continue
                t, x = float(table.time[content, stage]), float(table.rest[content, stage])
                for (most, total, rest), chosen in found:
                    label = (max(most, t), total + t, max(rest, x))
                    bound = (m - idle) * label[0] + idle * (label[1] + least * (layers - end)) + table.fill + label[2]
                    if bound < cutoff_us:
                        following.setdefault(end, []).append((label, (*chosen, content)))
        labels = {place: _undominated(found) for place, found in following.items()}
    finished = labels.get(layers)
    if not finished:
        return None

    def total_of(label: Label) -> float:
        return (m - idle) * label[0] + idle * label[1] + table.fill + label[2]

    label, chosen = min(finished, key=lambda each: total_of(each[0]))
    held = tuple(int(table.contents[content].sum()) for content in chosen)
    again = tuple(int(table.recomputed[content, stage]) for stage, content in enumerate(chosen))
    return Split(total_of(label), held, again)


def _undominated(found: list[tuple[Label, tuple[int, ...]]]) -> list[tuple[Label, tuple[int, ...]]]:
    """Labels that no other is at least as good as in all three."""
    kept: list[tuple[Label, tuple[int, ...]]] = []
    for label, chosen in sorted(found):
        if not any(other[1] <= label[1] and other[2] <= label[2] for other, _ in kept):
            kept.append((label, chosen))
    return kept
