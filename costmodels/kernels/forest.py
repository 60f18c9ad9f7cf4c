"""A random forest on log(measured ÷ base), with honest residuals, local correction and calibrated intervals.

Three things differ from the textbook forest, all for the same reason: our rows come in *shapes* (for a
GEMM, all m of one (n, k)), and the question is usually a shape that nobody measured.

1. Trees are bootstrapped by shape, so a row's out-of-bag prediction comes from trees that saw nothing of
   its shape.
2. What the forest still gets wrong is smooth in the neighbourhood of a question; the out-of-bag residuals
   of the nearest measured rows of the *same GPU* correct it, by a share that is itself fitted out of bag. A
   GPU without rows gets no correction; the first few rows measured of a new GPU anchor it here.
3. Intervals are the trees' spread, scaled so that they cover the stated share of out-of-bag residuals
   (conformal prediction; Johansson et al., Machine Learning 97, 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from costmodels.arrays import Rowwise
from costmodels.estimates import COVERAGE, Floats, Ints
from costmodels.kernels.trees import Trees

if TYPE_CHECKING:
    from scipy.spatial import cKDTree
    from sklearn.tree import DecisionTreeRegressor

TREES = 20
SHAPE_SHARE = 0.6  # of shapes that each tree sees
RESERVED_SHARES = (0.05, 0.15)  # of shapes that no tree sees (many rows, few rows): to calibrate on
FEATURE_SHARE = 0.45  # of features that each split considers
MAX_ROWS_PER_TREE = 60_000
NEIGHBOURS = 12
SETTINGS = (TREES, SHAPE_SHARE, RESERVED_SHARES, FEATURE_SHARE, MAX_ROWS_PER_TREE, NEIGHBOURS)
"""Everything above: a forest fitted with other settings is another forest."""

_SPREAD_FLOOR = 0.02  # no interval is narrower than two trees that agree by luck
_UNTESTED = 0.7  # half-width (log) where too few shapes were measured to hold one out: a factor of two
_CALIBRATION_ROWS = 20_000
_ENOUGH_ROWS = 150


@dataclass(frozen=True)
class Neighbours(Rowwise):
    """Measured rows as the local correction sees them.

    Attributes:
        place: shape [n, d], scaled coordinates in which near rows behave alike.
        partition: shape [n], rows correct only questions of their own partition (GPU, precision, kind, ...).
        group: shape [n], the row's shape.
        residual: shape [n], log measured − log predicted, out of bag.
    """

    place: NDArray[np.float32]
    partition: Ints
    group: Ints
    residual: NDArray[np.float32]

    @cached_property
    def partitions(self) -> Ints:
        """Those that have rows."""
        return np.unique(self.partition)

    @cached_property
    def _near(self) -> dict[int, tuple[Ints, cKDTree]]:
        return {}

    def near(self, part: int) -> tuple[Ints, cKDTree] | None:
        """The rows of a partition, and where they lie; None: it has none. Kept: a plan asks some hundred times."""
        from scipy.spatial import cKDTree  # deferred: half a second of a command that asks for no forest

        if part not in self._near:
            rows = np.flatnonzero(self.partition == part)
            if not len(rows):
                return None
            self._near[part] = rows, cKDTree(self.place[rows])
        return self._near[part]

    @classmethod
    def empty(cls, dimensions: int) -> Neighbours:
        none = np.zeros(0, np.int64)
        return cls(np.zeros((0, dimensions), np.float32), none, none, np.zeros(0, np.float32))


@dataclass(frozen=True)
class Forest:
    """Fitted trees; see :func:`fit`."""

    trees: Trees
    correction_share: float
    low_score: float
    high_score: float

    def raw(self, features: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """(median, spread) over the trees of the log ratio; shape [n] each."""
        votes = self.trees.predict(features)
        return np.median(votes, axis=0), votes.std(axis=0)

    def interval(self, spread: Floats) -> tuple[Floats, Floats]:
        """How far below and above (in log) the interval reaches."""
        width = spread + _SPREAD_FLOOR
        return self.low_score * width, self.high_score * width


def fit(
    features: NDArray[np.float32],
    target: Floats,
    group: Ints,
    place: NDArray[np.float32],
    partition: Ints,
    gpu: Ints,
    leaf_rows: int = 3,
    seed: int = 0,
) -> tuple[Forest, Neighbours]:
    """Fits the trees, the correction and the intervals.

    Args:
        features: shape [n, f].
        target: shape [n], log(measured ÷ base).
        group: shape [n], the shape that each row belongs to.
        place, partition: see :class:`Neighbours`.
        gpu: shape [n], the GPU of each row: rows of different GPUs do not correct each other.
        leaf_rows: least rows of a leaf.
        seed: same seed and data, same forest.
    """
    from joblib import Parallel, delayed  # type: ignore[import-untyped]  # to answer, neither is needed
    from sklearn.tree import DecisionTreeRegressor

    names, codes = np.unique(group, return_inverse=True)
    rng = np.random.default_rng(seed)
    in_bag = np.zeros((TREES, len(names)), dtype=bool)
    shuffled = rng.permutation(len(names))
    wanted = np.clip(2 * _ENOUGH_ROWS / len(target), *RESERVED_SHARES)
    reserved, drawn = np.split(shuffled, [round(float(wanted) * len(names))])
    for tree in range(TREES):
        in_bag[tree, rng.choice(drawn, size=max(1, round(SHAPE_SHARE * len(names))), replace=False)] = True

    def grow(tree: int) -> tuple[DecisionTreeRegressor, NDArray[np.float32]]:
        rows = np.flatnonzero(in_bag[tree, codes])
        if len(rows) > MAX_ROWS_PER_TREE:
            rows = np.random.default_rng((seed, tree)).choice(rows, MAX_ROWS_PER_TREE, replace=False)
        model = DecisionTreeRegressor(max_features=FEATURE_SHARE, min_samples_leaf=leaf_rows, random_state=seed + tree)
        model.fit(features[rows], target[rows])
        votes = np.full(len(target), np.nan, dtype=np.float32)
        out = ~in_bag[tree, codes]
        if out.any():
            votes[out] = model.predict(features[out])
        return model, votes

    grown = Parallel(n_jobs=-1, prefer="threads")(delayed(grow)(tree) for tree in range(TREES))
    trees = Trees.of([model for model, _ in grown])
    votes = np.array([vote for _, vote in grown])
    never_out = np.isnan(votes).all(axis=0)
    # With one or two shapes only, nothing is out of bag and nothing is learnt.
    votes[:, never_out] = target[never_out]
    out_of_bag = np.nanmedian(votes, axis=0)
    spread = np.nanstd(votes, axis=0).astype(np.float64)
    residual = (target - out_of_bag).astype(np.float32)
    neighbours = Neighbours(place, partition, codes.astype(np.int64), residual)

    parts = np.unique(partition, return_inverse=True)[1].astype(np.int64)
    one_gpu = parts * (int(gpu.max(initial=0)) + 1) + gpu
    by_gpu = Neighbours(place, one_gpu, neighbours.group, residual)
    sample = _sample(~never_out, rng)
    if not len(sample):
        return Forest(trees, 0.0, _UNTESTED / _SPREAD_FLOOR, _UNTESTED / _SPREAD_FLOOR), neighbours
    nearby = correction(by_gpu, place[sample], one_gpu[sample], exclude=codes[sample])
    errors = residual[sample].astype(np.float64)
    power = float(nearby @ nearby)
    share = float(np.clip(nearby @ errors / power, 0.0, 1.0)) if power > 0 else 0.0

    # Rows of reserved shapes were judged by all trees, as a question will be; the others by those that did
    # not see them.
    fair = np.isin(codes, reserved)
    if fair.sum() >= _ENOUGH_ROWS:
        sample = _sample(fair, rng)
        nearby = correction(by_gpu, place[sample], one_gpu[sample], exclude=codes[sample])
        errors = residual[sample].astype(np.float64)
    scores = (errors - share * nearby) / (spread[sample] + _SPREAD_FLOOR)
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Forest(trees, share, float(max(-low, 1e-3)), float(max(high, 1e-3))), neighbours


def _sample(eligible: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    rows = np.flatnonzero(eligible)
    return rng.choice(rows, _CALIBRATION_ROWS, replace=False) if len(rows) > _CALIBRATION_ROWS else rows


def correction(
    neighbours: Neighbours, place: NDArray[np.float32], partition: Ints, exclude: Ints | None = None
) -> Floats:
    """Distance-weighted mean residual of the nearest rows, shape [n]; zero where the partition has no rows.

    Args:
        exclude: shape [n], groups whose rows must not speak (out-of-bag use).
    """
    out = np.zeros(len(place))
    for part in np.unique(partition):
        asked = np.flatnonzero(partition == part)
        if (near_it := neighbours.near(int(part))) is None:
            continue
        rows, tree = near_it
        wanted = NEIGHBOURS if exclude is None else 4 * NEIGHBOURS
        count = min(wanted, len(rows))
        found = tree.query(place[asked], k=count)
        distance, near = (np.reshape(part, (len(asked), count)) for part in found)
        weight = 1.0 / (distance + 0.3) ** 2
        if exclude is not None:
            weight = weight * (neighbours.group[rows][near] != exclude[asked][:, None])
        # A lone far neighbour says little: the constant pulls the mean towards no correction.
        out[asked] = (weight * neighbours.residual[rows][near]).sum(axis=1) / (weight.sum(axis=1) + 0.5)
    return out
