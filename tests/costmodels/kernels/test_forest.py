"""The forest: the same for a seed, right where it can be, honest where it cannot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from costmodels.estimates import COVERAGE
from costmodels.kernels import forest as forests
from costmodels.kernels.forest import Forest, Neighbours, correction, fit

NOISE = 0.05


@dataclass(frozen=True)
class World:
    """Shapes (a, b) measured at several x: target = smooth function + a quirk of the shape + noise."""

    features: np.ndarray
    target: np.ndarray
    group: np.ndarray
    place: np.ndarray
    gpu: np.ndarray

    def take(self, index: np.ndarray) -> World:
        return World(*(part[index] for part in vars(self).values()))


def truth(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    return 0.3 * np.sin(a) + 0.2 * b + 0.1 * x


def world(shapes: int, rows: int = 12, quirk: float = 0.1, seed: int = 0, gpus: int = 1) -> World:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 4, (2, shapes))
    group = np.repeat(np.arange(shapes), rows)
    x = rng.uniform(0, 5, len(group))
    target = truth(a[group], b[group], x) + rng.normal(0, quirk, shapes)[group]
    target += rng.normal(0, NOISE, len(group))
    features = np.column_stack([a[group], b[group], x, rng.normal(size=len(group))]).astype(np.float32)
    return World(features, target, group, features[:, :3] * 2, group % gpus)


def fitted(w: World, seed: int = 0) -> tuple[Forest, Neighbours]:
    return fit(w.features, w.target, w.group, w.place, np.zeros(len(w.target), np.int64), w.gpu, seed=seed)


def predicted(forest: Forest, memory: Neighbours, w: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, low, high) in log, as :class:`costmodels.kernels.kernel_models.KernelModel` puts them together."""
    ratio, spread = forest.raw(w.features)
    ratio = ratio + forest.correction_share * correction(memory, w.place, np.zeros(len(w.target), np.int64))
    down, up = forest.interval(spread)
    return ratio, ratio - down, ratio + up


def test_the_same_seed_gives_the_same_forest_and_another_seed_another() -> None:
    w = world(20)
    (one, memory), (again, other), (different, _) = fitted(w), fitted(w), fitted(w, seed=1)
    assert one.raw(w.features)[0].tolist() == again.raw(w.features)[0].tolist()
    assert (one.correction_share, one.low_score, one.high_score) == (
        again.correction_share,
        again.low_score,
        again.high_score,
    )
    assert memory.residual.tolist() == other.residual.tolist()
    assert one.raw(w.features)[0].tolist() != different.raw(w.features)[0].tolist()


def test_a_known_function_is_recovered_on_shapes_that_were_not_seen() -> None:
    seen, unseen = world(150, quirk=0.0), world(40, quirk=0.0, seed=1)
    value, _, _ = predicted(*fitted(seen), unseen)
    assert np.median(np.abs(value - unseen.target)) < 0.07
    assert np.median(np.abs(unseen.target - np.median(seen.target))) > 0.2  # what saying nothing would give


@pytest.mark.parametrize("seed", range(3))
def test_intervals_cover_the_stated_share_of_shapes_that_were_not_seen(seed: int) -> None:
    seen, unseen = world(200, rows=8, seed=seed), world(200, rows=8, seed=seed + 100)
    value, low, high = predicted(*fitted(seen, seed), unseen)
    assert np.all((low <= value) & (value <= high))
    assert np.mean((low <= unseen.target) & (unseen.target <= high)) == pytest.approx(COVERAGE, abs=0.1)


def test_residuals_are_those_of_trees_that_saw_nothing_of_the_shape() -> None:
    # Each shape has a quirk that nothing predicts: honest residuals are as large as the quirks.
    w = world(60, quirk=0.5)
    forest, memory = fitted(w)
    in_sample = w.target - forest.raw(w.features)[0]
    assert memory.residual.std() > 0.4
    assert in_sample.std() < 0.8 * memory.residual.std()


def test_rows_near_a_question_correct_it() -> None:
    # All of one corner is 30 % slower for a reason that the features do not show.
    w = world(100, quirk=0.0)
    slow = (w.place[:, 0] < 3) & (w.group % 2 == 0)
    place = np.column_stack([w.place, np.where(w.group % 2, 5.0, 0.0)]).astype(np.float32)
    w = World(w.features, w.target + 0.3 * slow, w.group, place, w.gpu)
    known, asked = w.take(np.flatnonzero(w.group < 80)), w.take(np.flatnonzero(w.group >= 80))
    forest, memory = fitted(known)
    assert forest.correction_share > 0.3
    with_rows = np.abs(predicted(forest, memory, asked)[0] - asked.target).mean()
    without = np.abs(forest.raw(asked.features)[0] - asked.target).mean()
    assert with_rows < 0.8 * without


def test_without_rows_there_is_no_correction() -> None:
    place, ones = np.zeros((3, 2), np.float32), np.ones(3, np.int64)
    assert correction(Neighbours.empty(2), place, ones).tolist() == [0, 0, 0]
    elsewhere = Neighbours(place, np.zeros(3, np.int64), np.arange(3), np.ones(3, np.float32))
    assert correction(elsewhere, place, ones).tolist() == [0, 0, 0]  # rows of another partition are silent


def test_correction_weighs_the_near_and_leaves_out_the_excluded() -> None:
    place = np.array([[0.0], [1.0], [9.0]], np.float32)
    memory = Neighbours(place, np.zeros(3, np.int64), np.arange(3), np.array([0.4, 0.2, -5.0], np.float32))
    here, zero = np.zeros((1, 1), np.float32), np.zeros(1, np.int64)
    weights = 1 / (np.array([0.0, 1.0, 9.0]) + 0.3) ** 2
    expected = weights @ [0.4, 0.2, -5.0] / (weights.sum() + 0.5)
    assert correction(memory, here, zero)[0] == pytest.approx(expected, rel=1e-6)
    kept = weights[1:] @ [0.2, -5.0] / (weights[1:].sum() + 0.5)
    assert correction(memory, here, zero, exclude=zero)[0] == pytest.approx(kept, rel=1e-6)
    alone = memory.take(np.array([0]))
    assert correction(alone, here, zero, exclude=zero)[0] == 0


def test_a_lone_far_row_says_little() -> None:
    memory = Neighbours(
        np.array([[20.0]], np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.float32)
    )
    assert 0 < correction(memory, np.zeros((1, 1), np.float32), np.zeros(1, np.int64))[0] < 0.01


@pytest.mark.parametrize("shapes", [1, 2, 3, 5])
def test_few_shapes_are_enough_to_fit_and_give_wide_intervals(shapes: int) -> None:
    w = world(shapes)
    forest, memory = fitted(w)
    assert len(memory.residual) == len(w.target)
    assert np.isfinite(memory.residual).all()
    value, low, high = predicted(forest, memory, w)
    assert np.all((low < value) & (value < high))


def test_with_one_shape_nothing_is_known_of_others_and_the_interval_says_so() -> None:
    w = world(1)
    forest, memory = fitted(w)
    assert forest.correction_share == 0
    np.testing.assert_allclose(memory.residual, 0, atol=1e-6)
    _, low, high = predicted(forest, memory, w)
    assert np.all(high - low >= 2 * np.log(1.9))


def test_more_rows_than_a_tree_takes_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forests, "MAX_ROWS_PER_TREE", 50)
    monkeypatch.setattr(forests, "_CALIBRATION_ROWS", 40)
    w = world(30)
    (one, _), (again, _) = fitted(w), fitted(w)
    nodes = np.diff([*one.trees.root, len(one.trees.left)])
    assert nodes.max() < 2 * 50 / 3  # of leaves with three rows at least
    assert one.raw(w.features)[0].tolist() == again.raw(w.features)[0].tolist()
