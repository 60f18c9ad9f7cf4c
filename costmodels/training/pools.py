"""Stages of one pipeline on GPUs of several types: each costs what it costs on its own, and the transfers between two
types go over the slower of their networks.

All stages have the same tensor-, context- and data-parallel degrees, so that no group but the pipeline's crosses from
one type to another (Holmes, arXiv:2312.03549, §3.2); what differs is how many layers a stage holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.training.exchanges import Links
from costmodels.training.layer_time import LayerTimes, layer_times
from costmodels.training.layouts import TrainingLayouts
from costmodels.training.setting import Setting
from costmodels.training.stage_costs import StageCosts, idle_part, stage_costs, transfer_us, transfers


@dataclass(frozen=True)
class PooledTimes:
    """Times of the layers of ``n`` layouts in each pool of GPUs, and where their stages run.

    Attributes:
        links, layers: of each pool.
        pool: index of the pool of each stage, shape [n, stages]; what stands beyond a layout's stages means nothing.
            None: there is one pool.
    """

    links: tuple[Links, ...]
    layers: tuple[LayerTimes, ...]
    pool: Ints | None = None

    def take(self, index: Ints) -> PooledTimes:
        layers = tuple(each.take(index) for each in self.layers)
        return PooledTimes(self.links, layers, None if self.pool is None else self.pool[index])

    def places(self, layouts: TrainingLayouts) -> list[np.ndarray]:
        """Of each pool, which stages of ``layouts`` run there, shape [n, stages] each."""
        width = int(layouts.pp.max(initial=1))
        there = np.arange(width) < layouts.pp[:, None]
        if self.pool is None:
            return [there]
        return [there & (self.pool[:, :width] == index) for index in range(len(self.links))]


def pooled_times(
    setting: Setting, links: Sequence[Links], layouts: TrainingLayouts, pool: Ints | None = None
) -> PooledTimes:
    """Layer times of ``layouts`` in each pool; ``pool`` as in :class:`PooledTimes`."""
    return PooledTimes(tuple(links), tuple(layer_times(setting, each, layouts) for each in links), pool)


def pooled_costs(setting: Setting, layouts: TrainingLayouts, times: PooledTimes, *, once: bool = True) -> StageCosts:
    """What the stages of each layout cost where they run; ``once`` as in
    :func:`~costmodels.training.stage_costs.stage_costs`."""
    each = [
        stage_costs(setting, links, layouts, layers, once=once)
        for links, layers in zip(times.links, times.layers, strict=True)
    ]
    if times.pool is None:
        return each[0]
    pool = times.pool[:, : layouts.layers.shape[1]]

    def picked(of: Sequence[Floats]) -> Floats:
        return np.asarray(np.take_along_axis(np.stack(of), pool[None], axis=0)[0])

    parts = {name: picked([costs.parts[name] for costs in each]) for name in each[0].parts}
    waits, fill = _transfers(setting, layouts, times)
    parts["pipeline_transfers"] = np.where(layouts.stages, waits[:, : pool.shape[1]], 0.0)
    return StageCosts(
        np.asarray(sum(parts.values())),
        parts,
        picked([costs.reduction for costs in each]),
        picked([costs.gathering for costs in each]),
        picked([costs.optimizer for costs in each]),
        picked([costs.least for costs in each]),
        fill,
        idle_of(setting, layouts, times),
    )


def idle_of(setting: Setting, layouts: TrainingLayouts, times: PooledTimes) -> Floats:
    """:func:`~costmodels.training.stage_costs.idle_part` of the type whose weight gradients fill least, shape [n]."""
    idle = np.zeros(len(layouts))
    for layers, there in zip(times.layers, times.places(layouts), strict=True):
        idle = np.where(there.any(axis=1), np.maximum(idle, idle_part(setting, layers, layouts)), idle)
    return idle


def filling(setting: Setting, layouts: TrainingLayouts, times: PooledTimes) -> Floats:
    """:attr:`~costmodels.training.stage_costs.StageCosts.fill`, shape [n]."""
    if times.pool is None:
        return np.asarray(2.0 * (layouts.pp - 1) * transfer_us(setting, times.links[0], layouts))
    return _transfers(setting, layouts, times)[1]


def _transfers(setting: Setting, layouts: TrainingLayouts, times: PooledTimes) -> tuple[Floats, Floats]:
    """(what each stage waits for its neighbours in a micro-batch, shape [n, stages]; filling and draining, [n])."""
    assert times.pool is not None
    width = max(int(layouts.pp.max()), layouts.layers.shape[1])
    pool, rows = times.pool[:, :width], np.arange(len(layouts))
    stage = np.arange(width)
    following = np.where(stage[None, :] < layouts.pp[:, None] - 1, stage + 1, 0)
    then = pool[rows[:, None], following]
    inside = np.stack([transfer_us(setting, links, layouts) for links in times.links])
    across = np.stack([transfer_us(setting, links, layouts, crossing=True) for links in times.links])
    row = rows[:, None]
    hops = np.where(pool == then, inside[pool, row], np.maximum(across[pool, row], across[then, row]))
    last = layouts.pp - 1
    # Without virtual stages the ends have one neighbour, which they wait for twice.
    before = np.roll(hops, 1, axis=1)
    before[:, 0] = np.where(layouts.vpp > 1, hops[rows, last], hops[:, 0])
    after = hops.copy()
    after[rows, last] = np.where(layouts.vpp > 1, hops[rows, last], before[rows, last])
    waits = (before + after) * transfers(setting, layouts)[:, None]
    between = np.where(stage[None, :] < last[:, None], hops, 0.0)
    return np.where((layouts.pp > 1)[:, None], waits, 0.0), 2.0 * between.sum(axis=1)
