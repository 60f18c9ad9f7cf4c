"""The function that DeepSeek's EPLB and vLLM call to place experts, answered by our search, so that it drops in."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.experts.balance import balance
from planner.experts.groups import hierarchical
from planner.experts.placement import Ints, Loads, Placement, Topology
from profiles.errors import InputError


class Balancer:
    """EPLB's signature and arrays, in numpy.

    seed, time_limit_s: of each call, as :func:`planner.experts.balance.balance` takes them.
    """

    def __init__(self, *, seed: int = 0, time_limit_s: float = 60.0) -> None:
        self.seed = seed
        self.time_limit_s = time_limit_s

    def rebalance_experts(
        self, weight: Any, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> tuple[Ints, Ints, Ints]:
        """Where every copy goes, for ``weight`` [layers, experts] (numpy, or anything that numpy can read, as a CPU
        tensor of torch): loads of experts, statistics of one window.

        Slots are ``num_replicas`` ÷ ``num_gpus`` on each GPU. Groups stay on nodes where they divide among the nodes,
        and may be anywhere otherwise, as EPLB decides. A layer without any load, which engines ask about before they
        have served, is placed as if evenly used.

        Returns phy2log [layers, num_replicas], the expert of each slot; log2phy [layers, experts, most copies], slots
        of each expert's copies, padded with −1; and copies of each expert [layers, experts]. Raises InputError or
        Infeasible for numbers that do not divide or do not fit.
        """
        counts = np.asarray(weight, np.float64)
        if counts.ndim != 2:
            raise InputError(
                f"weight: shape {counts.shape} is not [layers, experts]", "give one row of loads per layer"
            )
        for name, value, of, count in (
            ("num_replicas", num_replicas, "num_gpus", num_gpus),
            ("num_gpus", num_gpus, "num_nodes", num_nodes),
        ):
            if count < 1 or value < 1 or value % count:
                raise InputError(
                    f"{name}: {value} is not a positive multiple of {of} = {count}",
                    "every GPU has as many slots and every node as many GPUs as any other",
                )
        layers = len(counts)
        loads = Loads(counts[None], np.arange(layers), ("recorded",), np.ones(1))
        topology = Topology.uniform(num_gpus, num_replicas // num_gpus, num_gpus // num_nodes)
        groups = num_groups if hierarchical(num_groups, num_nodes) else None
        found = balance(
            loads, topology, groups=groups, unused="even", seed=self.seed, time_limit_s=self.time_limit_s
        ).placement
        return found.physical_to_logical, logical_to_physical(found), found.copies()


def logical_to_physical(placement: Placement) -> Ints:
    """Slots of each expert's copies in order, shape [layers, experts, most copies of any], padded with −1."""
    copies = placement.copies()
    order = np.argsort(placement.physical_to_logical, axis=1, kind="stable")
    expert = np.take_along_axis(placement.physical_to_logical, order, axis=1)
    first = np.cumsum(copies, axis=1) - copies
    rank = np.arange(order.shape[1]) - np.take_along_axis(first, expert, axis=1)
    out = np.full((*copies.shape, int(copies.max())), -1, np.int64)
    out[np.arange(len(order))[:, None], expert, rank] = order
    return out
