"""How long one iteration takes: layers to stages, stages to a pipeline, and what the replicas exchange. By part.

A pipeline of uneven stages takes m − 1 times its slowest stage, and once the way through all of them, of which virtual
stages leave the v-th part (Narayanan et al., arXiv:2104.04473 §2.2; zero-bubble: Qi et al., arXiv:2401.10241 §2.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Estimates, Floats
from costmodels.training.exchanges import Links
from costmodels.training.layer_time import LayerTimes
from costmodels.training.layouts import TrainingLayouts
from costmodels.training.pools import PooledTimes, pooled_costs, pooled_times
from costmodels.training.setting import Setting
from costmodels.training.stage_costs import PARTS, StageCosts

EXCHANGES = (
    "tensor_exchange",
    "context_exchange",
    "expert_exchange",
    "pipeline_transfers",
    "gradient_reduction",
    "parameter_gathering",
)
"""Parts that are communication, as far as it is exposed."""


@dataclass(frozen=True)
class IterationTimes:
    """Time of one iteration, µs.

    Attributes:
        total: with its interval, shape [n].
        parts: shape [n] each, named by :data:`PARTS`; they add up to the total. Those of a micro-batch are of the
            slowest stage.
        stages: forward and backward time of one micro-batch by stage, shape [n, stages].
        slowest: index of the slowest stage, shape [n].
    """

    total: Estimates
    parts: dict[str, Floats]
    stages: Floats
    slowest: NDArray[np.int64]

    @property
    def bubble_share(self) -> Floats:
        """Of the total, shape [n]."""
        return np.asarray(self.parts["bubble"] / self.total.value)

    @property
    def exchange_share(self) -> Floats:
        """Exposed communication, of the total, shape [n]."""
        return np.asarray(sum(self.parts[name] for name in EXCHANGES) / self.total.value)


def iteration_times(setting: Setting, links: Links, layouts: TrainingLayouts) -> IterationTimes:
    """Time of one iteration of each layout, on GPUs of one type."""
    return pooled_iterations(setting, layouts, pooled_times(setting, (links,), layouts))


def pooled_iterations(setting: Setting, layouts: TrainingLayouts, times: PooledTimes) -> IterationTimes:
    """Time of one iteration of each layout, its stages where ``times`` has them."""
    costs = pooled_costs(setting, layouts, times)
    rows = np.arange(len(layouts))
    slowest, worst = costs.time.argmax(axis=1), costs.rest.argmax(axis=1)
    m, most = layouts.microbatches.astype(np.float64), costs.time.max(axis=1)
    parts = {name: m * part[rows, slowest] for name, part in costs.parts.items()}
    parts["pipeline_transfers"] += costs.fill
    parts["bubble"] = costs.idle * (costs.time.sum(axis=1) - most)
    parts["gradient_reduction"] = costs.reduction[rows, worst]
    parts["parameter_gathering"] = costs.gathering[rows, worst]
    parts["optimizer"] = costs.optimizer[rows, worst]
    parts = {name: parts[name] for name in PARTS}
    total = total_us(layouts, costs)
    each = [
        _interval(setting, links, layers, total, parts) for links, layers in zip(times.links, times.layers, strict=True)
    ]
    there = np.stack([places.any(axis=1) for places in times.places(layouts)])
    widest = Estimates(  # of the types that a layout runs on: nothing says that their errors cancel
        total,
        np.where(there, [one.low for one in each], np.inf).min(axis=0),
        np.where(there, [one.high for one in each], 0.0).max(axis=0),
        np.where(there, [one.how for one in each], 0).max(axis=0).astype(np.int8),
        np.asarray((~there | [one.inside for one in each]).all(axis=0)),
    )
    return IterationTimes(widest, parts, costs.time, slowest)


def total_us(layouts: TrainingLayouts, costs: StageCosts) -> Floats:
    """Time of one iteration, shape [n]."""
    m, most = layouts.microbatches.astype(np.float64), costs.time.max(axis=1)
    through = costs.idle * costs.time.sum(axis=1)
    return np.asarray((m - costs.idle) * most + through + costs.fill + costs.rest.max(axis=1))


def _interval(setting: Setting, links: Links, layers: LayerTimes, total: Floats, parts: dict[str, Floats]) -> Estimates:
    """The kernels' interval on their share of the time, that of lasting load, and what is left on sources left
    out of the fit (``spread`` in calibration.yaml); independent of each other."""
    known, factor = links.calibration.spread, links.lasting_load
    busy = 1 - np.asarray(sum(parts[name] for name in EXCHANGES)) / total
    spread = known.fp8 if setting.precision not in ("bf16", "fp16") else known.dense
    if setting.model.experts is not None:
        spread = float(np.hypot(spread, known.experts))
    if not links.calibration.knows(links.cost.gpu):
        spread = float(np.hypot(spread, known.unmeasured_gpu))
    # Errors of many kernels average out; a third of what they would be together is what composed layers show.
    down = np.hypot(busy * np.log(1 / np.maximum(layers.low, 1e-3)) / 3, spread)
    up = np.hypot(busy * np.log(layers.high) / 3, spread)
    down, up = (
        np.hypot(down, busy * np.log(factor.factor / factor.low)),
        np.hypot(up, busy * np.log(factor.high / factor.factor)),
    )
    return Estimates(total, total * np.exp(-down), total * np.exp(up), layers.how, layers.inside)
