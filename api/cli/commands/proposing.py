"""The cost model's sampler as the harness wants it: grids in, next points out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.kernel_models import coded
from costmodels.sampling.sampler import Sampler, modelled
from profiles.collect.devices import Device
from profiles.collect.operations.work import work
from profiles.collect.points import Outcome, Point, Settings
from profiles.collect.runner import Grids
from profiles.collect.sensors import Silent
from profiles.collect.session import Asked, measurable
from profiles.hardware import Gpu
from profiles.measurements import OPERATIONS

MOST_CANDIDATES = 2000  # of an operation: the grid's first, which spread over all of it; more would only cost time
BATCH = 4  # points that are chosen at once: choosing takes milliseconds, measuring one a second
OVERHEAD_S = 0.1  # of a point, beyond its runs: operands, warm-up, capture; only its proportion to the runs matters


def seconds_of(cost: CostModel, points: Sequence[Point], settings: Settings) -> Floats:
    """About what measuring each point takes, shape [n]: the runs that its median needs, and their preparation."""
    predicted_us = np.zeros(len(points))
    for name in {point.operation for point in points}:
        index = [i for i, point in enumerate(points) if point.operation == name]
        columns = ["dtype", "num_gpus", *OPERATIONS[name].shape_names]
        asked = ({**points[i].shape, "dtype": points[i].dtype, "num_gpus": points[i].num_gpus} for i in index)
        predicted_us[index] = cost.estimate(name, coded(name, pd.DataFrame(asked)[columns])).value
    moved = np.array([work(point)[1] for point in points])
    operands_s = moved / cost.gpu.memory_bandwidth_bytes_per_s  # drawn at random, and copied into place
    runs_s = 2 * settings.least * predicted_us / 1e6  # as many again to warm up
    return np.minimum(runs_s, settings.cap_s) + 10 * operands_s + OVERHEAD_S


def considered(grids: Mapping[str, Sequence[Point]]) -> list[Point]:
    """The points among which the sampler chooses: those that the cost model predicts."""
    return [
        point for points in grids.values() for point in [point for point in points if modelled(point)][:MOST_CANDIDATES]
    ]


class Active:
    """Asks for the points that lower the expected error of ``cost`` fastest, and in between, for its share of the
    time, for points of operations that no cost model predicts (copies, launches), in the order of their grids.

    Args:
        grids: by operation, what can be measured.
    """

    def __init__(self, cost: CostModel, grids: Mapping[str, Sequence[Point]], settings: Settings) -> None:
        self._points = considered(grids)
        others = {name: [point for point in points if not modelled(point)] for name, points in grids.items()}
        others = {name: points for name, points in others.items() if points}
        self._others = Grids(others)
        self._sampler = Sampler(cost, self._points, seconds_of(cost, self._points, settings))
        self._index = {point.key: i for i, point in enumerate(self._points)}
        self._taken: set[int] = set()
        # Seconds spent over the number of operations: who has less is asked next.
        self._shares = (len({point.operation for point in self._points}), len(others))
        self._seconds = [0.0, 0.0]

    def next(self) -> list[Point]:
        others_first = self._shares[1] and self._seconds[1] / self._shares[1] <= self._seconds[0] / self._shares[0]
        if others_first and (points := self._others.next()):
            return points
        taken = self._sampler.take(BATCH)
        self._taken.update(taken)
        return [self._points[i] for i in taken] or self._others.next()

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            index = self._index.get(outcome.point.key)
            self._seconds[0 if index is not None else 1] += outcome.seconds
            if index is None:
                self._others.learn([outcome])
            elif outcome.timing is not None:
                self._sampler.observe(index, outcome.timing.median_us)
            elif index in self._taken:
                self._sampler.skip(index)

    def expected_error(self) -> Mapping[str, float]:
        return self._sampler.errors()


def propose(cost: CostModel, points: Sequence[Point], settings: Settings, count: int) -> list[Point]:
    """The ``count`` points to measure first, best first."""
    sampler = Sampler(cost, points, seconds_of(cost, points, settings))
    return [points[i] for i in sampler.take(count)]


def candidates_elsewhere(gpu: Gpu, gpus: int, asked: Asked) -> list[Point]:
    """What the grids hold for a GPU type that is not here, as far as the cost model predicts it."""
    capability = None if gpu.compute_capability is None else divmod(round(gpu.compute_capability * 10), 10)
    device = Device(
        kind="cpu" if gpu.scale_up_link == "shared_memory" else "cuda",
        indices=tuple(range(gpus)),
        name=gpu.full_name,
        capability=capability,
        sm_count=gpu.sm_count,
        memory_bytes=gpu.memory_bytes,
        l2_bytes=gpu.l2_bytes,
        versions={},
        sensors=Silent(),
    )
    grids, _ = measurable(device, asked.benchmarks(), asked.precisions)
    return considered(grids)
