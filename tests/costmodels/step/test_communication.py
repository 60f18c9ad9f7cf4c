"""Collectives: what was measured within a node, never faster than the wire between nodes."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import rows

from costmodels.estimates import Estimates
from costmodels.kernels.cost_model import CostModel
from costmodels.operations.questions import Exchange
from costmodels.operations.roofline import code
from costmodels.origins import MEASURED, ROOFLINE
from costmodels.step.communication import (
    FABRIC_SPREAD,
    Network,
    across_nodes,
    exchange_times,
    point_to_point_us,
)
from profiles.hardware import find_fabric

IB = find_fabric("ib-400g")
NODE = Network(8, IB)
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
SIZES = 2.0 ** np.arange(12, 30)


def exchange(kind: str, sizes: np.ndarray, ranks: int, count: float = 1.0) -> Exchange:
    n = len(sizes)
    return Exchange(code("kind", kind), sizes, np.full(n, ranks), np.arange(n), np.full(n, count))


def times(
    cost: CostModel, kind: str, sizes: np.ndarray, ranks: int, network: Network = NODE, count: float = 1.0
) -> Estimates:
    return exchange_times(cost, network, [exchange(kind, sizes, ranks, count)], len(sizes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_within_a_node_the_measured_rows_are_given_back(synthetic_cost: CostModel, kind: str, ranks: int) -> None:
    table = rows("collective", "H100-SXM")
    table = table[(table["kind"] == kind) & (table["num_gpus"] == ranks)]
    got = times(synthetic_cost, kind, table["message_bytes"].to_numpy(dtype=np.float64), ranks, count=3.0)
    np.testing.assert_allclose(got.value, 3 * table["latency_us"])
    assert np.all(got.how == MEASURED)
    assert got.inside.all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ranks", "gpus_per_node"), [(16, 8), (32, 8), (8, 4), (4, 1), (64, 8)])
def test_across_nodes_nothing_is_faster_than_the_wire(
    roofline_cost: CostModel, kind: str, ranks: int, gpus_per_node: int
) -> None:
    got = times(roofline_cost, kind, SIZES, ranks, Network(gpus_per_node, IB))
    nodes, inside = ranks // gpus_per_node, min(ranks, gpus_per_node)
    # What must leave a node, over all its network cards; a rank's own share stays.
    passes = 2 if kind == "all_reduce" else 1
    leaves = passes * SIZES * (nodes - 1) / nodes * (inside if kind == "all_to_all" else 1)
    wire_us = leaves / (inside * IB.bytes_per_s_per_gpu) * 1e6
    assert np.all(got.low >= wire_us)
    assert np.all(got.value >= wire_us + IB.latency_us)
    assert np.all((got.low <= got.value) & (got.value <= got.high))
    assert np.all(got.how == ROOFLINE)
    assert not got.inside.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranks", [4, 8, 16, 64])
def test_time_grows_with_the_message(roofline_cost: CostModel, kind: str, ranks: int) -> None:
    assert np.all(np.diff(times(roofline_cost, kind, SIZES, ranks).value) > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_time_grows_with_the_nodes(roofline_cost: CostModel, kind: str) -> None:
    large = np.array([1e8])
    by_nodes = [times(roofline_cost, kind, large, ranks).value[0] for ranks in (8, 16, 32, 64)]
    assert by_nodes == sorted(by_nodes)
    slow = Network(8, find_fabric("ethernet-100g"))
    assert times(roofline_cost, kind, large, 16, slow).value[0] > by_nodes[1]


def test_an_all_reduce_across_nodes_scatters_reduces_and_gathers(roofline_cost: CostModel) -> None:
    size = np.array([2.0**26])
    got = times(roofline_cost, "all_reduce", size, 16).value[0]
    within = sum(times(roofline_cost, kind, size, 8).value[0] for kind in ("reduce_scatter", "all_gather"))
    between = 2 * (IB.latency_us + size[0] / 8 / 2 / IB.bytes_per_s_per_gpu * 1e6)
    assert got == pytest.approx(within + between)


def test_each_candidate_pays_for_its_own_exchanges(roofline_cost: CostModel) -> None:
    sizes = np.array([1e6, 1e6])
    both = [exchange("all_reduce", sizes, 8, 2.0), exchange("all_gather", sizes[:1], 16, 1.0)]
    got = exchange_times(roofline_cost, NODE, both, 3)
    reduced, gathered = (
        times(roofline_cost, kind, sizes[:1], ranks).value[0] for kind, ranks in (("all_reduce", 8), ("all_gather", 16))
    )
    np.testing.assert_allclose(got.value, [2 * reduced + gathered, 2 * reduced, 0])
    assert (got.low[2], got.high[2], bool(got.inside[2])) == (0, 0, True)


def test_without_exchanges_nothing_is_spent(roofline_cost: CostModel) -> None:
    got = exchange_times(roofline_cost, NODE, [], 4)
    assert got.value.tolist() == got.high.tolist() == [0, 0, 0, 0]


def test_a_message_between_nodes_takes_its_latency_and_its_bytes() -> None:
    got = point_to_point_us(IB, np.array([0.0, 1.0, 5e9]))
    assert got[0] == 0
    assert got[1] == pytest.approx(IB.latency_us, rel=1e-3)
    assert got[2] == pytest.approx(IB.latency_us + 1e5)


def test_a_fabric_time_may_be_longer_but_not_shorter() -> None:
    got = across_nodes(np.array([0.0, 10.0]), IB)
    assert got.low.tolist() == [0, 10]
    shared = IB.model_copy(update={"shared_by_gpus": 8})
    assert across_nodes(np.array([8.0]), shared).low[0] == pytest.approx(1.0)  # alone on a NIC that eight share
    assert got.high[1] == pytest.approx(10 * np.exp(FABRIC_SPREAD))
    assert got.inside.tolist() == [True, False]
    assert got.how.tolist() == [MEASURED, ROOFLINE]
