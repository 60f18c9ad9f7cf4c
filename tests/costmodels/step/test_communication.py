"""Collectives: what was measured within a node, never faster than the wire between nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import rows

from costmodels.estimates import Estimates
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.kernel_models import hardware_of, load_rows
from costmodels.operations.questions import Exchange
from costmodels.operations.roofline import code
from costmodels.origins import MEASURED, ROOFLINE
from costmodels.step.communication import (
    FABRIC_SPREAD,
    Network,
    across_nodes,
    collective_facts,
    exchange_times,
    in_boxes_of,
    point_to_point_us,
)
from profiles.boxes import unlike_boxes
from profiles.hardware import SHIPPED, find_fabric, find_gpu, topologies
from profiles.store import ProfileStore, shipped_pack

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
    between += 2 * collective_facts().pass_start_us
    assert got == pytest.approx(within + between)


@pytest.mark.parametrize(("framework", "measured"), [("sglang", 110.0), ("trtllm", 62.0)])
def test_a_small_all_reduce_across_nodes_takes_as_long_as_two_clusters_measured(
    framework: str, measured: float
) -> None:
    """They are two and a half times apart: each within the interval of the same law."""
    got = times(CostModel(find_gpu("H100-SXM"), framework), "all_reduce", np.array([7168 * 2.0]), 16)
    assert got.value[0] == pytest.approx(measured, rel=0.6)
    assert got.low[0] < 1.05 * measured
    assert got.high[0] > 0.95 * measured


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


# ------------------------------------------------------------------------------------- what joins the GPUs of a node


def questions(ranks: int, kind: str = "all_reduce") -> dict[str, np.ndarray]:
    n = len(SIZES)
    return {
        "dtype": np.full(n, code("dtype", "bf16")),
        "kind": np.full(n, code("kind", kind)),
        "message_bytes": SIZES.astype(np.int64),
        "num_gpus": np.full(n, ranks),
    }


def in_box(name: str, gpu: str, ranks: int, measured: bool = True) -> Estimates:
    plain = Estimates.exact(10.0 + SIZES / 1e4)
    return in_boxes_of(topologies()[name], find_gpu(gpu), questions(ranks), plain, (ranks,) if measured else ())


@pytest.mark.parametrize("name", ["nvswitch", "xgmi", "none"])
def test_rows_of_switched_nodes_are_taken_as_they_are(name: str) -> None:
    got = in_box(name, "H100", 8)
    np.testing.assert_array_equal(got.value, 10.0 + SIZES / 1e4)
    np.testing.assert_array_equal(got.low, got.high)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_boxes_with_pcie_differ_in_their_intervals_and_without_peer_access_in_their_times(ranks: int) -> None:
    plain = 10.0 + SIZES / 1e4
    pcie, host = in_box("pcie", "RTX-4090", ranks), in_box("pcie-host", "RTX-4090", ranks)
    np.testing.assert_array_equal(pcie.value, plain)
    assert pcie.inside.all()
    assert (pcie.high > pcie.value).all()
    assert (host.value > pcie.value).all()
    assert (host.high / host.value > pcie.high / pcie.value).all()
    assert not host.inside.any()
    shares = [topologies()[name].bus_share or {} for name in ("pcie", "pcie-host")]
    slower = shares[0][ranks] / shares[1][ranks]
    assert host.value[-1] / plain[-1] == pytest.approx(slower, rel=0.01)  # large messages: bandwidth alone
    assert host.value[0] / plain[0] < 1.1  # small ones: as long as before


@pytest.mark.parametrize(
    ("name", "rate"), [("pcie", 0.38 * 32e9), ("pcie-host", 0.20 * 32e9), ("pcie-virtual", 0.09 * 32e9)]
)
def test_rows_of_switches_do_not_answer_for_pcie(name: str, rate: float) -> None:
    got = in_box(name, "RTX-4090", 8, measured=False)
    assert SIZES[-1] * 2 * 7 / 8 / got.value[-1] * 1e6 == pytest.approx(rate, rel=0.01)
    assert got.value[0] == pytest.approx(8 * 3.1, rel=0.2)
    assert (got.how == ROOFLINE).all()
    assert not got.inside.any()
    measured = in_box(name, "RTX-4090", 8)
    assert (got.high / got.value > measured.high / measured.value).all()


def test_bridges_are_fast_between_two_and_not_beyond() -> None:
    two, four = in_box("nvlink-pairs", "H100-NVL", 2), in_box("nvlink-pairs", "H100-NVL", 4)
    assert two.value[-1] < 0.25 * (10.0 + SIZES[-1] / 1e4)
    np.testing.assert_array_equal(four.value, in_box("pcie", "H100-NVL", 4).value)


@pytest.mark.parametrize(("gpu", "switched"), [("RTX-4090", False), ("H100", True)])
def test_the_usual_node_of_a_gpu_decides(synthetic_store: ProfileStore, gpu: str, switched: bool) -> None:
    cost = CostModel(find_gpu(gpu), "vllm", synthetic_store)
    got = times(cost, "all_reduce", SIZES, 8)
    bare = cost.estimate("collective", questions(8))
    assert np.array_equal(got.value, bare.value) == switched
    named = times(cost, "all_reduce", SIZES, 8, Network(8, IB, topologies()["pcie-virtual"]))
    assert (named.value > bare.value).all()  # what the network says goes first


def test_what_was_measured_on_ones_own_box_is_not_corrected(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    own = ProfileStore.create(tmp_path / "own", name="own", version="1", attribution="us")
    table = rows("collective", "H100-SXM").assign(gpu="RTX-4090", framework="nccl")
    table["latency_us"] *= 100  # no box of these is as fast
    own.add("collective", table)
    cost = CostModel(find_gpu("RTX-4090"), "vllm", synthetic_store, None, [own])
    mine = table[(table["kind"] == "all_gather") & (table["num_gpus"] == 8)]
    got = times(cost, "all_gather", mine["message_bytes"].to_numpy(dtype=np.float64), 8)
    np.testing.assert_allclose(got.value, mine["latency_us"])


def test_l40s_rows_of_a_box_without_peer_access_do_not_answer_for_every_l40s() -> None:
    pack = shipped_pack()
    (box,) = unlike_boxes(pack.manifest.name, "collective", SHIPPED)
    assert (box.gpu, box.num_gpus, box.joined_by) == ("L40S", (4, 8), "pcie-virtual")
    assert box.joined_by in topologies()
    hardware = hardware_of(pack, "collective")
    whole = load_rows(pack, "collective", "vllm", hardware)
    kept = load_rows(pack, "collective", "vllm", hardware, left_out=(box,))
    gone = len(whole.gpu) - len(kept.gpu)
    l40s = hardware.names.index("L40S")
    assert set(kept.columns["num_gpus"][kept.gpu == l40s].tolist()) == {2}
    assert gone == int(np.isin(whole.columns["num_gpus"][whole.gpu == l40s], (4, 8)).sum()) > 0
    assert unlike_boxes("somebody's", "collective", SHIPPED) == ()
