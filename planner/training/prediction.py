"""Training layouts → time and memory, many at a time: configurations that share a model and a machine together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from costmodels.training.layouts import TrainingLayouts, stage_kinds
from costmodels.training.memory import TrainingMemory, training_memory
from costmodels.training.setting import Setting
from planner.training.configuration import TrainingConfiguration
from planner.training.places import pool_of_stages

if TYPE_CHECKING:  # memory alone is asked for without them, and they take a second to load
    from costmodels.training.iteration import IterationTimes
    from planner.training.machines import Machines


@dataclass(frozen=True)
class Predicted:
    """Of one group of configurations, in their order; ``times`` is None where only memory was asked for."""

    setting: Setting
    layouts: TrainingLayouts
    memory: TrainingMemory
    times: IterationTimes | None


def setting_of(c: TrainingConfiguration) -> Setting:
    return Setting(c.model, c.framework, c.sequence, c.precision, c.mode, c.optimizer, c.mtp)  # type: ignore[arg-type]


def layouts_of(configurations: Sequence[TrainingConfiguration]) -> TrainingLayouts:
    """The layouts of configurations of one model."""

    def column(name: str) -> np.ndarray:
        return np.array([getattr(c, name) for c in configurations], dtype=np.int64)

    most = max(c.pp for c in configurations)
    layers = np.zeros((len(configurations), most, len(configurations[0].model.kinds)))
    recomputed = np.zeros(layers.shape[:2])
    kinds: dict[tuple[object, ...], np.ndarray] = {}
    for row, c in enumerate(configurations):
        key = (c.split, c.pp, c.mtp)
        if key not in kinds:
            kinds[key] = stage_kinds(c.model, c.split, c.pp, c.mtp)
        layers[row, : c.pp] = kinds[key]
        held = kinds[key].sum(axis=1)
        recomputed[row, : c.pp] = held if c.recomputed is None else np.minimum(held, c.recomputed)
    names = (
        "tp", "pp", "vpp", "dp", "cp", "ep", "etp", "sharding", "shard_ranks", "micro_batch", "microbatches",
        "schedule", "selective", "attention",
    )  # fmt: skip
    return TrainingLayouts(
        **{name: column(name) for name in names},
        sequence_parallel=np.array([c.sequence_parallel for c in configurations], dtype=np.bool_),
        recomputed=recomputed,
        layers=layers,
    )


def predicted(configurations: Sequence[TrainingConfiguration], machines: Machines | None) -> Predicted:
    """Time and memory of configurations of one group (``TrainingConfiguration.group``); memory
    alone without ``machines``."""
    first = configurations[0]
    setting, layouts = setting_of(first), layouts_of(configurations)
    memory = training_memory(setting, layouts)
    if machines is None:
        return Predicted(setting, layouts, memory, None)
    from costmodels.training.iteration import pooled_iterations
    from costmodels.training.pools import pooled_times

    links = [machines.links(place.gpu, place.gpus_per_node, place.fabric) for place in first.places]
    pool = pool_of_stages(first.places)
    where = None if pool is None else np.broadcast_to(pool, (len(layouts), len(pool)))
    times = pooled_iterations(setting, layouts, pooled_times(setting, links, layouts, where))
    return Predicted(setting, layouts, memory, times)
