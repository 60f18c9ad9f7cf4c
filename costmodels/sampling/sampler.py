"""Which shapes to measure next, so that the model's error on what real models ask falls fastest per second.

The errors of the model are a Gaussian process (:mod:`costmodels.kernels.error_process`). Its posterior variance does
not depend on the values that will be measured, so what a row would tell is known before it is measured: measuring
candidate c lowers the variance at target t by

    Δ_t(c) = C(t, c)² / (C(c, c) + noise_c),      C: posterior covariance given the rows so far,

and the next row is the c with the largest Σ_t w_t Δ_t(c) ÷ seconds_c: the reduction of the integrated variance (ALC;
Cohn, Ghahramani & Jordan, JAIR 4, 1996, §4; for Gaussian processes Seo et al., IJCNN 2000), which for a weighted
target set is A-optimality. Greedy choice with rank-one updates of the Cholesky factor: with V = L⁻¹K(rows, ·), a new
row c appends (K(c, ·) − V_cᵀV) / √(C(c, c) + noise_c) to V, and C(t, c) = K(t, c) − V_tᵀV_c. One row costs
O(rows·(targets + candidates) + targets·candidates).

Targets are questions of the bundled models over layouts and batches, weighted by their share of the predicted time
(:mod:`costmodels.sampling.targets`): a shape that no model asks is measured only for what it says of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
import pandas as pd

from costmodels.estimates import SIGMAS, Floats, Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.error_process import ErrorProcess, Points
from costmodels.kernels.kernel_models import coded
from costmodels.operations.registry import families
from costmodels.operations.roofline import CODES, Columns
from costmodels.sampling.targets import Targets, targets
from profiles.errors import InputError, UnknownName
from profiles.measurements import OPERATIONS

Order = Literal["active", "random", "grid"]

MEAN_ABSOLUTE = float(np.sqrt(2 / np.pi))
"""Mean |x| of a normal variable of unit variance."""


class Question(Protocol):
    """One point that can be measured; :class:`profiles.collect.points.Point` is one."""

    @property
    def operation(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Mapping[str, int | str]: ...
    @property
    def num_gpus(self) -> int: ...


def modelled(point: Question) -> bool:
    """Whether the cost model predicts ``point``: an operation, precision, kind and routing that it knows."""
    texts = {"dtype": point.dtype, **{name: value for name, value in point.shape.items() if name in CODES}}
    return point.operation in families().kernels and all(value in CODES[name] for name, value in texts.items())


class Sampler:
    """Chooses points of any modelled operations, within and across them.

    Args:
        cost: what is predicted now; its measured stores count as measured.
        points: what could be measured.
        seconds: shape [n], what measuring each would take.
        order: ``active`` as above; ``random``; ``grid``: evenly over the points as given, ever finer.
        seed: of ``random``.
        asked: by operation, the questions that matter; default those of the bundled models. An operation that no
            bundled model asks is judged on the candidates themselves.

    Raises:
        UnknownName: an unknown order.
        InputError: a point that is not :func:`modelled`, or no positive ``seconds`` for each point.
    """

    def __init__(
        self,
        cost: CostModel,
        points: Sequence[Question],
        seconds: Floats,
        *,
        order: Order = "active",
        seed: int = 0,
        asked: Mapping[str, Targets] | None = None,
    ) -> None:
        if order not in get_args(Order):
            raise UnknownName("order", order, get_args(Order))
        strange = next((point for point in points if not modelled(point)), None)
        if strange is not None:
            raise InputError(
                f"points: {strange.operation} {dict(strange.shape)} is nothing that the cost model predicts",
                "measure such points without the sampler",
            )
        if np.shape(seconds) != (len(points),) or not np.all(np.asarray(seconds) > 0):
            raise InputError("seconds: not one positive figure for each point", "give the estimated cost of each")
        names = list(dict.fromkeys(point.operation for point in points))
        if asked is None:
            asked = targets(cost, names)
        self._seconds = np.asarray(seconds, dtype=np.float64)
        self._parts: dict[str, _OneOperation] = {}
        self._place = np.zeros(len(points), np.int64)  # in its operation's part
        self._operation = [point.operation for point in points]
        self.predicted_us = np.zeros(len(points))
        for name in names:
            index = np.flatnonzero([point.operation == name for point in points])
            q = _columns(name, [points[i] for i in index.tolist()])
            self._place[index] = np.arange(len(index))
            self._parts[name] = _OneOperation(cost, name, q, index, asked.get(name))
            self.predicted_us[index] = cost.estimate(name, q).value
        self._left = np.ones(len(points), dtype=bool)
        self._queue: Ints | None = None
        if order == "random":
            self._queue = np.random.default_rng(seed).permutation(len(points))
        elif order == "grid":
            self._queue = _ever_finer(len(points))

    def take(self, count: int) -> list[int]:
        """The next ``count`` points, best first, as indices; fewer where no more are left."""
        taken: list[int] = []
        while len(taken) < count and self._left.any():
            best = self._next()
            self._left[best] = False
            self._part(best).add(int(self._place[best]))
            taken.append(best)
        return taken

    def _next(self) -> int:
        if self._queue is not None:
            return int(self._queue[self._left[self._queue]][0])
        gains = np.full(len(self._left), -np.inf)
        for part in self._parts.values():
            gains[part.index] = part.gains() / self._seconds[part.index]
        return int(np.argmax(np.where(self._left, gains, -np.inf)))

    def _part(self, index: int) -> _OneOperation:
        return self._parts[self._operation[index]]

    def observe(self, index: int, latency_us: float) -> None:
        """Point ``index`` took ``latency_us``: it was taken, or is known from elsewhere."""
        part, place = self._part(index), int(self._place[index])
        if self._left[index]:
            self._left[index] = False
            part.add(place)
        part.residuals[place] = float(np.log(latency_us / part.before_us[place]))

    def skip(self, index: int) -> None:
        """Point ``index`` cannot be measured: it is not offered again, and what it promised is withdrawn."""
        self._left[index] = False
        self._part(index).remove(int(self._place[index]))

    def errors(self) -> dict[str, float]:
        """By operation, the expected mean |log error| over what is asked, weighted by time: before anything is
        measured what the hold-outs say of such a GPU, then what the rows so far say."""
        return {name: part.error() for name, part in self._parts.items()}


def _columns(operation: str, points: Sequence[Question]) -> dict[str, np.ndarray]:
    names = OPERATIONS[operation].shape_names
    rows = [{"dtype": p.dtype, "num_gpus": p.num_gpus, **{name: p.shape[name] for name in names}} for p in points]
    return coded(operation, pd.DataFrame(rows))


def _ever_finer(n: int) -> Ints:
    """0 … n−1 so that every beginning is spread evenly (van der Corput's sequence in base 2)."""
    bits = max(int(n - 1).bit_length(), 1)
    whole = np.arange(2**bits)
    reversed_ = np.zeros_like(whole)
    for bit in range(bits):
        reversed_ |= ((whole >> bit) & 1) << (bits - 1 - bit)
    return reversed_[reversed_ < n]


class _OneOperation:
    """The process of one operation: candidates first, then targets, under the rows that were taken."""

    def __init__(self, cost: CostModel, operation: str, q: Columns, index: Ints, asked: Targets | None) -> None:
        self.index = index
        space, self._priors = cost.errors(operation)
        self._candidates, self.before_us = space.points(q, space.model.answer(q))
        if asked is None:
            self._targets, self._weights = self._candidates, np.full(len(index), 1.0 / len(index))
        else:
            self._targets, _ = space.points(asked.columns, space.model.answer(asked.columns))
            self._weights = asked.weights
        self.residuals: dict[int, float] = {}
        earlier = cost.overlay(operation)
        self._earlier: tuple[Points, Floats] | None = None
        if len(earlier):
            p, before = space.points(earlier.rows.columns, space.model.answer(earlier.rows.columns))
            self._earlier = (p, np.log(earlier.rows.latency_us / before))
        self._start()
        self._chosen: list[int] = []

    def _start(self) -> None:
        """The posterior before any candidate was taken; what a store had counts as taken."""
        self._cross = self._priors.covariance(self._targets, self._candidates)  # [targets, candidates], posterior
        self._variance = self._priors.variance(self._candidates)
        self._v = np.zeros((0, len(self._candidates)))
        if self._earlier is not None:
            before = ErrorProcess(self._priors, *self._earlier)
            v, t = before.told(self._candidates), before.told(self._targets)
            self._cross = self._cross - t.T @ v
            self._variance = self._variance - (v * v).sum(axis=0)
            self._v = v

    def gains(self) -> Floats:
        """Weighted variance that each candidate would take from the targets."""
        out: Floats = (self._weights @ self._cross**2) / (self._variance + self._priors.noise(self._candidates))
        return out

    def add(self, c: int) -> None:
        one = self._candidates.take(np.array([c]))
        spread = np.sqrt(self._variance[c] + self._priors.noise(one)[0])
        row = (self._priors.covariance(one, self._candidates)[0] - self._v[:, c] @ self._v) / spread
        self._cross = self._cross - np.outer(self._cross[:, c] / spread, row)
        self._variance = np.maximum(self._variance - row * row, 0.0)
        self._v = np.vstack([self._v, row])
        self._chosen.append(c)

    def remove(self, c: int) -> None:
        """Starts again without ``c``."""
        kept = [each for each in self._chosen if each != c]
        self.residuals.pop(c, None)
        if len(kept) == len(self._chosen):
            return
        self._start()
        self._chosen = []
        for each in kept:
            self.add(each)

    def error(self) -> float:
        rows = np.array(sorted(self.residuals), dtype=np.int64)
        p, residual = self._candidates.take(rows), np.array([self.residuals[c] for c in sorted(self.residuals)])
        if self._earlier is not None:
            p, residual = self._earlier[0].joined(p), np.concatenate([self._earlier[1], residual])
        if len(residual):
            _, width = ErrorProcess(self._priors, p, residual).at(self._targets)
            spread = width / SIGMAS
        else:
            spread = np.sqrt(self._priors.variance(self._targets) + self._priors.noise(self._targets))
        return float(self._weights @ spread / self._weights.sum() * MEAN_ABSOLUTE)
