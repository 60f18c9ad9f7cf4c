"""Re-planning within moved copies, lost GPUs, what a move takes, and windows held out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from planner.experts.balance import balance
from planner.experts.baseline import greedy
from planner.experts.placement import Placement, Topology
from planner.experts.replan import allot, replan, transfer
from planner.experts.walk import Reachable
from profiles.errors import Infeasible, InputError
from tests.benchmarks.held_out_windows import hold_out
from tests.planner.experts.skewed import skewed, topology


@pytest.fixture(autouse=True)
def _short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.experts.balance.EFFORT", 2e6)


GPUS = Topology.uniform(8, 5, 4)


def moved(before: Placement, after: Placement, gpus: Topology = GPUS) -> int:
    """Copies that some GPU did not hold, one by one."""
    edges = np.cumsum(gpus.slots)[:-1]
    rows = zip(before.physical_to_logical, after.physical_to_logical, strict=True)
    return sum(
        len(set(new.tolist()) - set(old.tolist()))
        for a, b in rows
        for old, new in zip(np.split(a, edges), np.split(b, edges), strict=True)
    )


@pytest.fixture
def stale() -> Placement:
    return balance(skewed(32, 3, seed=1), GPUS).placement


def test_no_moves_is_the_current_placement_even_where_it_repeats_experts(stale: Placement) -> None:
    for current in (stale, greedy(skewed(32, 3, seed=1, spread=2.0).counts[0], GPUS)):
        found = replan(skewed(32, 3, seed=2), current, max_moves=0)
        assert (found.placement.physical_to_logical == current.physical_to_logical).all()
        assert found.copies == 0


def test_moves_are_counted_exactly_and_more_never_buy_less(stale: Placement) -> None:
    loads = skewed(32, 3, seed=2)
    values = []
    for most in (0, 1, 5, 30, None):
        found = replan(loads, stale, max_moves=most)
        assert found.copies == moved(stale, found.placement) <= (10**9 if most is None else most)
        assert (found.placement.copies() >= 1).all()
        values.append(found.certificate.value.mean())
        assert found.frontier[0].tolist() == [0, pytest.approx(found.before)]
        assert (np.diff(found.frontier[:, 1]) < 0).all()
        at = found.frontier[found.frontier[:, 0] <= found.copies][-1]
        assert values[-1] == pytest.approx(at[1], rel=1e-6) or len(found.frontier) == 64
    assert (np.diff(values) <= 1e-9).all()
    assert values[-1] < 1.01 < values[0]


def test_the_allotment_over_layers_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    nothing = np.zeros((1, 1), np.int64)
    for _ in range(50):
        options = [
            [Reachable(0, 3.0, nothing)]
            + [Reachable(int(m), float(v), nothing) for m, v in zip(rng.integers(1, 5, 3), rng.random(3), strict=True)]
            for _ in range(3)
        ]
        for most in range(8):
            chosen, _ = allot(options, most)
            every = [
                sum(o.value for o in c)
                for c in ((a, b, d) for a in options[0] for b in options[1] for d in options[2])
                if sum(o.moves for o in c) <= most
            ]
            assert sum(o.moves for o in chosen) <= most
            assert sum(o.value for o in chosen) == pytest.approx(min(every))


def test_a_lost_gpu_leaves_every_expert_somewhere(stale: Placement) -> None:
    loads = skewed(32, 3, seed=1)
    found = replan(loads, stale, lost_gpus=(2,))
    assert found.placement.topology.gpus == 7
    assert (found.placement.copies() >= 1).all()
    least = replan(loads, stale, lost_gpus=(2,), max_moves=found.needed)
    assert least.copies == found.needed > 0
    assert (least.placement.copies() >= 1).all()
    with pytest.raises(Infeasible, match=f"cannot restore {found.needed} experts"):
        replan(loads, stale, lost_gpus=(2,), max_moves=found.needed - 1)


def test_too_few_slots_after_a_loss_says_how_many_are_missing(stale: Placement) -> None:
    with pytest.raises(Infeasible, match="20 remain for 32 experts: 12 are missing"):
        replan(skewed(32, 3), stale, lost_gpus=(0, 1, 2, 3))
    with pytest.raises(InputError, match="lost_gpus: 8"):
        replan(skewed(32, 3), stale, lost_gpus=(8,))


def test_unequal_gpus_are_replanned_too() -> None:
    gpus = topology([4, 6, 5, 5], [1.0, 2.0, 1.0, 1.0])
    current = balance(skewed(12, 2, 2, seed=5), gpus).placement
    found = replan(skewed(12, 2, 2, seed=6), current, max_moves=6)
    assert found.copies == moved(current, found.placement, gpus) <= 6
    assert found.certificate.value.mean() < found.before


def test_a_placement_of_another_shape_is_refused(stale: Placement) -> None:
    with pytest.raises(InputError, match="current: a placement of 3 layers and 32 experts in 40 slots"):
        replan(skewed(32, 4), stale)
    wrong = dataclasses.replace(stale, physical_to_logical=np.where(stale.physical_to_logical == 7, 40, 8))
    with pytest.raises(InputError, match=r"holds expert 40, of 0…31|holds expert"):
        replan(skewed(32, 3), wrong)
    with pytest.raises(InputError, match="max_moves: -1"):
        replan(skewed(32, 3), stale, max_moves=-1)


def test_the_busiest_gpu_sets_the_time_of_a_move_and_the_saving_when_it_pays_back() -> None:
    move = transfer(np.array([[1, 0], [2, 1]]), 50e6, 1e9, saved_s_per_step=1e-3, steps_per_s=20)
    assert (move.total_bytes, move.busiest_gpu_bytes) == (200e6, 150e6)
    assert move.seconds == pytest.approx(0.15)
    assert move.pays_back_s == pytest.approx(0.15 / 0.02)
    assert transfer(np.ones((1, 1)), 1e6, 1e9, 0.0, 20).pays_back_s == np.inf
    with pytest.raises(InputError, match="link_bytes_per_s"):
        transfer(np.ones((1, 1)), 1e6, 0.0, 1.0, 20)


def test_held_out_windows_are_scored_by_placements_that_never_saw_them() -> None:
    loads = skewed(64, 2, 3)
    scores = hold_out(loads, Topology.uniform(8, 9))
    assert scores.ours.shape == (3,)
    assert (scores.ours < scores.fitted).all()
    assert scores.ours.max() < 0.95 < scores.fitted.min()
    assert ((scores.baseline > 0.5) & (scores.average > 0.5)).all()
    with pytest.raises(InputError, match="1 recorded window"):
        hold_out(skewed(16, 2), Topology.uniform(4, 5))
