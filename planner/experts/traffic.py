"""Which search answers a request for few crossings, and how sure its answer is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.experts import exact
from planner.experts.affinity import LoadLimit, near, relabelled
from planner.experts.crossings import Distance
from planner.experts.placement import Floats, Ints, Placement


@dataclass(frozen=True, eq=False)
class Near:
    """``proven``: no placement within the limit has a smaller total distance."""

    placement: Placement
    proven: bool


def fewest(
    balanced: Placement, transitions: Floats, distance: Distance, limit: LoadLimit | None, fence: Ints | None
) -> Near:
    """Fewest crossings within ``limit``: exactly where a layer has few assignments, or one expert per GPU on one
    domain (renaming is then all there is); by search elsewhere.

    Args:
        balanced: within the limit.
        transitions: shape [layers − 1, experts, experts].
        fence: shape [gpus], GPUs between which experts may move share a number; None: all may.
    """
    topology = balanced.topology
    alike = len(np.unique(topology.speed)) == 1 and distance.near >= 1.0 and fence is None
    if alike and topology.total_slots == balanced.experts and int(topology.slots.max()) == 1:
        return Near(relabelled(balanced, transitions, distance), True)
    if fence is None:
        found = exact.nearest(topology, transitions, distance, limit, balanced.layer_index)
        if found is not None:
            return Near(found, True)
    return Near(near(balanced, transitions, distance, limit, fence), False)
