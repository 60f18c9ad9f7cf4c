"""A cost model without measurements: rooflines. What the search must find does not depend on what layers take."""

from __future__ import annotations

from typing import Any

import numpy as np

from costmodels.estimates import Estimates
from costmodels.operations.registry import families
from costmodels.operations.roofline import Columns, Hardware
from costmodels.step.communication import Network
from costmodels.training.exchanges import Links
from profiles.hardware import Gpu, find_fabric, find_gpu
from profiles.store import ProfileStore, shipped_pack


class RooflineCost:
    """Answers every operation with its roofline and a launch."""

    version = "roofline"
    notes: tuple[str, ...] = ()
    measured: tuple[Any, ...] = ()

    topology = None

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    @property
    def store(self) -> ProfileStore:
        return shipped_pack()

    def estimate(self, operation: str, q: Columns) -> Estimates:
        n = len(q["dtype"])
        time = families().kernel(operation).roofline_us(q, np.zeros(n, np.int64), Hardware.of([self.gpu])) + 2.0
        return Estimates(time, time * 0.9, time * 1.1, np.full(n, 2, np.int8), np.zeros(n, np.bool_))


def roofline_links(gpu: str = "H100-SXM", gpus_per_node: int = 8, fabric: str = "ib-400g") -> Links:
    return Links(RooflineCost(find_gpu(gpu)), Network(gpus_per_node, find_fabric(fabric)))  # type: ignore[arg-type]
