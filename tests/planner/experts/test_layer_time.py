"""Predicted time of a layer: what it grows with, and what it is made of. On the roofline alone, so figures are
checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.exchanges import HIGH_THROUGHPUT, LOW_LATENCY
from costmodels.operations.questions import ExpertExchange
from costmodels.operations.roofline import code
from costmodels.serving.frameworks.facts import EngineRole
from costmodels.serving.frameworks.framework import find_framework
from costmodels.step.communication import Network
from costmodels.step.expert_exchange import expert_exchange_times
from planner.experts.crossings import Distance, crossings
from planner.experts.layer_time import LayerClock, usual_exchange
from planner.experts.placement import Placement, Topology
from profiles.hardware import find_fabric, find_gpu
from profiles.store import ProfileStore

ONE = np.ones(1)


@pytest.fixture(scope="module")
def mixtral() -> Architecture:
    return find_architecture("mistralai/Mixtral-8x7B-v0.1")


def clock(
    model: Architecture, store: ProfileStore, kinds: tuple[str, ...], tokens: float, per_node: int = 8
) -> LayerClock:
    costs = {kind: CostModel(find_gpu(kind), "vllm", store) for kind in kinds}
    network = Network(per_node, find_fabric("ib-400g"))
    return LayerClock(model, choose_precision(model), costs, kinds, network, tokens)


def in_order(topology: Topology, layers: int = 2) -> Placement:
    return Placement(topology, np.tile(np.arange(8), (layers, 1)), 8, np.arange(layers))


def test_time_is_the_slowest_gpus(mixtral: Architecture, bare: ProfileStore) -> None:
    """Mixtral's experts are 3 × 4096 × 14336 weights of 2 bytes; at 10⁵ pairs they are bound by compute."""
    times = clock(mixtral, bare, ("H200",) * 4, 1e5)
    topology = Topology.uniform(4, 2)
    counts = np.ones((1, 2, 8))
    even = times.times(in_order(topology), counts, ONE, None, "home")
    flops = 1e5 * 2 / 4 * 2 * 3 * 4096 * 14336
    assert even.experts[0] == pytest.approx(flops / find_gpu("H200").peak_flops["bf16"] * 1e6, rel=0.02)
    counts[:, :, :2] = 3.0  # the first GPU has 6 of 12
    skewed = times.times(in_order(topology), counts, ONE, None, "home")
    assert skewed.experts[0] == pytest.approx(2 * even.experts[0], rel=0.02)
    assert skewed.exchange[0] == pytest.approx(2 * even.exchange[0], rel=0.1)


def test_few_tokens_cost_the_reading_of_the_weights(mixtral: Architecture, bare: ProfileStore) -> None:
    times = clock(mixtral, bare, ("H200",) * 4, 64)
    read = 2 * 3 * 4096 * 14336 * 2 / find_gpu("H200").memory_bandwidth_bytes_per_s * 1e6
    value = times.times(in_order(Topology.uniform(4, 2)), np.ones((1, 2, 8)), ONE, None, "home").experts[0]
    assert read * 0.95 < value < read * 1.2


def test_curves_rise_with_load_and_with_slots(mixtral: Architecture, measured: ProfileStore) -> None:
    times = clock(mixtral, measured, ("H200",) * 4, 1e5)
    few, many = times.products("H200", 2), times.products("H200", 4)
    for curve in (few, many):
        assert (np.diff(curve.value) >= 0).all()
        assert (curve.low <= curve.value).all()
        assert (curve.value <= curve.high).all()
    load = np.geomspace(1, 1e5, 20)
    assert few.at(load).shape == (20, 3)
    assert (many.at(load)[:8, 0] >= few.at(load)[:8, 0]).all()


def test_across_nodes_the_fabric_sets_the_exchange(mixtral: Architecture, bare: ProfileStore) -> None:
    counts = np.ones((1, 2, 8))
    inside = clock(mixtral, bare, ("H200",) * 4, 1e5).times(in_order(Topology.uniform(4, 2)), counts, ONE, None, "home")
    across = clock(mixtral, bare, ("H200",) * 4, 1e5, per_node=2).times(
        in_order(Topology.uniform(4, 2, 2)), counts, ONE, None, "home"
    )
    sent = 1e5 * 2 / 4 * 4096 * 2 * (1 - 1 / 2)  # of the pairs of a GPU, half come from the other node
    fabric = find_fabric("ib-400g")
    assert across.exchange[0] == pytest.approx(
        2 * (fabric.latency_us + sent / fabric.bytes_per_s_per_gpu * 1e6), rel=0.02
    )
    assert across.exchange[0] > inside.exchange[0]
    assert across.experts[0] == pytest.approx(inside.experts[0])


def test_tokens_that_stay_are_exchanged_once_and_as_far_as_they_cross(
    mixtral: Architecture, bare: ProfileStore
) -> None:
    topology = Topology.uniform(4, 2)
    times, counts = clock(mixtral, bare, ("H200",) * 4, 1e5), np.ones((1, 2, 8))
    placement = in_order(topology)
    even, none = np.ones((1, 8, 8)), np.eye(8)[None]
    home = times.times(placement, counts, ONE, None, "home").exchange[0]
    spread = times.times(placement, counts, ONE, crossings(placement, even, Distance(1.0)), "stay").exchange[0]
    local = times.times(placement, counts, ONE, crossings(placement, none, Distance(1.0)), "stay").exchange[0]
    assert spread == pytest.approx(home / 2, rel=0.02)
    assert local < 0.05 * spread


@pytest.mark.parametrize(("role", "tokens"), [("prefill", 4096), ("decode", 128)])
def test_experts_and_their_exchange_are_those_of_an_engine_of_the_role(
    role: EngineRole, tokens: int, bare: ProfileStore
) -> None:
    """By hand from the law: nine nodes, eight experts a token in four of eight groups."""
    model, gpu = find_architecture("deepseek-ai/DeepSeek-V3"), find_gpu("H100-SXM")
    network, cost = Network(8, find_fabric("ib-400g")), CostModel(gpu, "sglang", bare)
    name = usual_exchange(find_framework("sglang").parallelism, role, [gpu] * 72, network, model)
    assert name == {"prefill": "high_throughput", "decode": "low_latency"}[role]
    times = LayerClock(
        model, choose_precision(model), {gpu.name: cost}, (gpu.name,) * 72, network, tokens * 72.0, exchange=name
    )
    topology = Topology.uniform(72, 4, 8)
    rows = np.tile(np.arange(288) % 256, (1, 1))
    counts = np.where(np.bincount(rows[0]) > 1, 2.0, 1.0)[None, None]  # every slot receives as much
    even = times.times(Placement(topology, rows, 256, np.arange(1)), counts, ONE, None, "home")
    kind = HIGH_THROUGHPUT if role == "prefill" else LOW_LATENCY
    one = np.ones(1, np.int64)
    asked = ExpertExchange(kind * one, tokens * np.ones(1), np.ones(1), 7168, 8, 256, 8, 4, 72 * one, 0 * one, 1.0)
    sent = expert_exchange_times(cost, network, [asked], 1)
    assert even.exchange[0] == pytest.approx(sent.dispatch.value[0] + sent.combine.value[0], rel=0.02)
    products = {
        "tokens": tokens,
        "hidden": 7168,
        "intermediate": 2048,
        "top_k": 8,
        "slots": 4,
        "num_gpus": 1,
        "dtype": code("dtype", "fp8_block"),
        "routing": code("routing", "balanced"),
        "kind": code("kind", {"prefill": "contiguous", "decode": "masked"}[role]),
    }
    alone = cost.estimate("wide_moe", {name: value * one for name, value in products.items()})
    assert even.experts[0] == pytest.approx(alone.value[0], rel=0.02)


def test_exchanges_are_those_that_reach(bare: ProfileStore) -> None:
    deepseek, oss = find_architecture("deepseek-ai/DeepSeek-V3"), find_architecture("openai/gpt-oss-120b")
    can, h100, gb200 = find_framework("vllm").parallelism, find_gpu("H100-SXM"), find_gpu("GB200")
    ib, slow = find_fabric("ib-400g"), find_fabric("ethernet-100g")
    assert usual_exchange(can, "decode", [h100] * 16, Network(8, ib), deepseek) == "low_latency"
    assert usual_exchange(can, "decode", [h100] * 16, Network(8, slow), deepseek) is None
    assert usual_exchange(can, "decode", [h100] * 4, Network(8, ib), deepseek) is None
    assert usual_exchange(can, "prefill", [gb200] * 16, Network(72, ib), deepseek) == "nvlink_one_sided"
    assert usual_exchange(find_framework("sglang").parallelism, "decode", [h100] * 16, Network(8, ib), oss) is None
    assert usual_exchange(can, "decode", [h100] * 16, Network(8, ib), oss) == "low_latency"
    few = find_framework("trtllm").parallelism
    assert usual_exchange(few, "decode", [gb200] * 8, Network(72, ib), deepseek) is None
    assert usual_exchange(few, "decode", [gb200] * 16, Network(72, ib), deepseek) == "nvlink_one_sided"


def test_faster_gpus_have_a_higher_speed(mixtral: Architecture, bare: ProfileStore) -> None:
    times = clock(mixtral, bare, ("H200", "H200", "A100-SXM-80GB", "A100-SXM-80GB"), 1e5)
    speed = times.speeds(np.full(4, 2))
    assert speed.mean() == pytest.approx(1.0)
    peaks = [find_gpu(kind).peak_flops["bf16"] for kind in ("H200", "A100-SXM-80GB")]
    assert speed[0] / speed[2] == pytest.approx(peaks[0] / peaks[1], rel=0.05)


def test_windows_and_layers_are_averaged(mixtral: Architecture, bare: ProfileStore) -> None:
    times = clock(mixtral, bare, ("H200",) * 4, 1e5)
    placement = in_order(Topology.uniform(4, 2))
    random = np.random.default_rng(1)
    counts = random.gamma(2.0, 1.0, (2, 2, 8)) + 0.1
    whole = times.times(placement, counts, np.array([0.25, 0.75]), None, "home").total[0]
    one = Placement(placement.topology, placement.physical_to_logical[:1], 8, np.arange(1))
    parts = [
        [times.times(one, counts[w : w + 1, k : k + 1], ONE, None, "home").total[0] for k in (0, 1)] for w in (0, 1)
    ]
    assert whole == pytest.approx(0.25 * np.mean(parts[0]) + 0.75 * np.mean(parts[1]))
