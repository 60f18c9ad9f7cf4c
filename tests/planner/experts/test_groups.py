"""Groups pinned to nodes, the bound on them, and EPLB's function."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from planner.experts.balance import balance
from planner.experts.baseline import greedy
from planner.experts.eplb import Balancer
from planner.experts.placement import Floats, Ints, Topology
from profiles.errors import Infeasible, InputError
from tests.planner.experts.skewed import skewed, topology


@pytest.fixture(autouse=True)
def _short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.experts.balance.EFFORT", 2e6)


def nodes_of_groups(physical: Ints, gpus: Topology, group_size: int) -> int:
    """The most nodes that any group of any layer is on."""
    node = gpus.node[gpus.gpu_of_slot]
    return max(
        len(set(node[row // group_size == group].tolist()))
        for row in physical
        for group in range(int(physical.max()) // group_size + 1)
    )


@pytest.mark.parametrize("gpus", [Topology.uniform(8, 5, 2), Topology.uniform(8, 5, 4), topology([6] * 6, None, 2)])
def test_every_group_stays_on_one_node(gpus: Topology) -> None:
    loads = skewed(32, 4)
    found = balance(loads, gpus, groups=8)
    assert nodes_of_groups(found.placement.physical_to_logical, gpus, 4) == 1
    assert (found.placement.copies() >= 1).all()
    assert (found.certificate.bound <= found.certificate.load).all()


def test_the_bound_on_pinned_groups_holds_for_every_assignment_of_groups() -> None:
    """6 groups of 2 on 3 nodes of one GPU with 4 slots: no copies, so the optimum is over 90 assignments."""
    loads, gpus = skewed(12, 40), topology([4, 4, 4], None, 1)
    found = balance(loads, gpus, groups=6)
    grouped = loads.counts[0].reshape(40, 6, 2).sum(axis=2)
    best: Floats = np.min(
        [grouped[:, list(p)].reshape(40, 3, 2).sum(axis=2).max(axis=1) for p in itertools.permutations(range(6))],
        axis=0,
    )
    assert (found.certificate.bound[0] <= best * (1 + 1e-9)).all()
    assert found.certificate.load[0] == pytest.approx(best)


def test_groups_that_do_not_fit_are_refused() -> None:
    loads = skewed(32, 2)
    with pytest.raises(InputError, match="do not form 5 equal groups"):
        balance(loads, Topology.uniform(8, 5, 2), groups=5)
    with pytest.raises(Infeasible, match="2 groups of 16 experts cannot be pinned to 4 nodes"):
        balance(loads, Topology.uniform(8, 5, 2), groups=2)


def test_rebalance_experts_returns_arrays_that_agree() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.tensor(skewed(32, 3).counts[0])
    for groups, pinned in ((8, True), (6, False), (1, False)):
        phy2log, log2phy, count = Balancer().rebalance_experts(weight, 40, groups, 4, 8)
        assert phy2log.shape == (3, 40)
        assert count.sum(axis=1).tolist() == [40] * 3
        assert log2phy.shape == (3, 32, count.max())
        for layer, expert in itertools.product(range(3), range(32)):
            slots = log2phy[layer, expert]
            assert (slots[count[layer, expert] :] == -1).all()
            assert (phy2log[layer, slots[: count[layer, expert]]] == expert).all()
        assert (nodes_of_groups(phy2log, Topology.uniform(8, 5, 2), 4) == 1) == pinned


def test_rebalance_experts_takes_a_model_that_has_not_served_and_refuses_what_does_not_divide() -> None:
    count = Balancer().rebalance_experts(np.zeros((2, 8)), 12, 1, 1, 4)[2]
    assert count.sum(axis=1).tolist() == [12, 12]
    with pytest.raises(InputError, match="num_replicas: 13 is not a positive multiple of num_gpus = 4"):
        Balancer().rebalance_experts(np.ones((2, 8)), 13, 1, 1, 4)
    with pytest.raises(InputError, match=r"weight: shape \(8,\)"):
        Balancer().rebalance_experts(np.ones(8), 12, 1, 1, 4)


def test_the_greedy_baseline_is_never_better_where_it_too_keeps_copies_apart() -> None:
    """Two copies on one GPU give a hot expert shares in thirds, which placements without repeats cannot."""
    loads, gpus = skewed(32, 12), Topology.uniform(8, 5, 2)
    compared = 0
    for groups in (None, 8):
        usual, found = greedy(loads.counts[0], gpus, groups), balance(loads, gpus, groups=groups)
        assert (usual.copies() >= 1).all()
        held = np.sort(usual.physical_to_logical.reshape(12, 8, 5), axis=2)
        apart = (np.diff(held, axis=2) > 0).all(axis=(1, 2))
        load = usual.gpu_loads(loads.counts).max(axis=2)[0]
        assert (load >= found.certificate.bound[0] * (1 - 1e-9))[apart].all()
        assert (found.certificate.load[0] <= load * (1 + 1e-9))[apart].all()
        compared += int(apart.sum())
    assert compared > 3
