"""Time of an iteration: its parts, its pipeline, its exchanges, and what may never happen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layout_case import GPT, case
from roofline_cost import roofline_links

from costmodels.training.flops import model_flops
from costmodels.training.iteration import PARTS, IterationTimes, iteration_times

LARGE = {"model": GPT, "gpu": "A100-SXM-80GB", "seq_len": 2048, "tp": 8}


def times(**columns: Any) -> IterationTimes:
    setting, layouts = case(**columns)
    return iteration_times(setting, roofline_links(str(columns.get("gpu", "H100-SXM"))), layouts)


def test_parts_add_up_to_the_iteration() -> None:
    for columns in (
        {"tp": 2, "dp": 4},
        {**LARGE, "pp": 8, "vpp": 3, "dp": 4, "recompute": "full"},
        {"model": "Qwen/Qwen3-30B-A3B", "dp": 8, "ep": 8, "moe_tp": 1},
        {"dp": 8, "sharding": 3, "framework": "torchtitan"},
    ):
        told = times(**columns)
        assert set(told.parts) == set(PARTS)
        assert sum(told.parts.values()) == pytest.approx(told.total.value)
        assert (told.total.low <= told.total.value).all()
        assert (told.total.value <= told.total.high).all()
        assert all((part >= 0).all() for part in told.parts.values())


def test_the_bubble_is_what_narayanan_et_al_say() -> None:
    """arXiv:2104.04473 §2.2: (p − 1) ÷ (v·m) of the time without it, for stages that are alike."""
    for vpp in (1, 2, 4):
        told = times(**LARGE, pp=8, vpp=vpp, global_batch=64)
        stages = told.stages[0]
        expected = (stages.sum() - stages.max()) / vpp
        assert told.parts["bubble"][0] == pytest.approx(expected)
        assert told.parts["bubble"][0] / (64 * stages.max()) == pytest.approx(7 / (vpp * 64), rel=0.1)


def test_one_more_virtual_stage_never_raises_the_bubble() -> None:
    bubbles = [times(**LARGE, pp=4, vpp=vpp, global_batch=64).parts["bubble"][0] for vpp in (1, 2, 3, 4, 6, 8, 12, 24)]
    assert bubbles == sorted(bubbles, reverse=True)


def test_zero_bubble_fills_the_bubble_with_weight_gradients() -> None:
    titan = {"framework": "torchtitan", "pp": 4, "dp": 2, "recompute": "none", "sharding": 0}
    plain, filled = times(**titan, schedule="1f1b"), times(**titan, schedule="zero-bubble")
    assert 0 < filled.parts["bubble"][0] < 0.6 * plain.parts["bubble"][0]
    assert filled.total.value[0] < plain.total.value[0]


def test_full_recomputation_costs_a_forward_pass() -> None:
    plain, again = times(dp=8), times(dp=8, recompute="full")
    forward = plain.parts["forward_products"][0] + plain.parts["attention_forward"][0]
    assert again.parts["recomputation"][0] > forward
    assert again.total.value[0] / plain.total.value[0] == pytest.approx(4 / 3, rel=0.08)


def test_backward_products_take_twice_their_forward() -> None:
    parts = times(dp=8).parts
    both = parts["data_gradient_products"][0] + parts["weight_gradient_products"][0]
    assert both / parts["forward_products"][0] == pytest.approx(2.0, rel=0.1)


def test_adapters_need_no_weight_gradients() -> None:
    assert times(dp=8, mode="lora").parts["weight_gradient_products"][0] == 0


def test_peers_that_share_no_node_exchange_more_slowly() -> None:
    """Of tp 8 each of the eight groups of a node has one card; of tp 1 the group shares all eight cards."""
    one = times(model=GPT, seq_len=2048, tp=1, dp=64, sharding=0, framework="megatron@2.5", gpu="A100")
    eight = times(model=GPT, seq_len=2048, tp=8, dp=64, sharding=0, framework="megatron@2.5", gpu="A100")
    per_byte = [each.parts["gradient_reduction"][0] * tp for each, tp in ((one, 1), (eight, 8))]
    assert per_byte[1] > 1.5 * per_byte[0]


def test_a_small_model_is_bound_by_its_host() -> None:
    small = "gpt:hidden=256,layers=4,heads=4,vocab=1024"
    told = times(model=small, seq_len=128, dp=1, global_batch=1)
    assert told.parts["host"][0] > 0.5 * told.total.value[0]


def test_context_parallelism_shares_attention_out() -> None:
    long = {"seq_len": 131072, "global_batch": 8, "recompute": "none"}
    one, four = times(**long, dp=8), times(**long, dp=2, cp=4)
    assert four.parts["attention_forward"][0] == pytest.approx(one.parts["attention_forward"][0], rel=0.02)


def test_unfused_attention_is_memory_traffic() -> None:
    old, fused = times(**LARGE, framework="megatron@2.5"), times(**LARGE, framework="megatron")
    assert old.parts["elementwise"][0] > 1.5 * fused.parts["elementwise"][0]


def test_model_flops_are_those_of_the_papers() -> None:
    """arXiv:2104.04473, eq. 3, without recomputation and with causal attention: 72·B·s·L·h²·(1 + s/12h + V/12Lh)."""
    setting, _ = case(model=GPT, seq_len=2048, tp=8, gpu="A100")
    s, layers, h, v = 2048, 96, 12288, 51200
    expected = 72 * s * layers * h * h * (1 + s / (12 * h) + v / (12 * layers * h))
    assert model_flops(setting, 1) == pytest.approx(expected, rel=0.002)


def test_layouts_are_answered_one_by_one_as_together() -> None:
    from planner.training.configuration import read_configuration
    from planner.training.prediction import layouts_of, setting_of

    texts = [{"tp": "2", "dp": "4"}, {"pp": "4", "dp": "2", "recompute": "full"}, {"tp": "4", "cp": "2", "dp": "1"}]
    base = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100", "seq_len": "4096", "global_batch": "64"}
    configurations = [read_configuration({**base, **each}) for each in texts]
    together = iteration_times(setting_of(configurations[0]), roofline_links(), layouts_of(configurations)).total.value
    alone = [iteration_times(setting_of(c), roofline_links(), layouts_of([c])).total.value[0] for c in configurations]
    assert together == pytest.approx(np.array(alone))


def test_a_host_that_launches_experts_one_after_the_other_takes_so_long_however_small_they_are() -> None:
    """What Qwen3-30B shows on 8 B200: 8.8 ms a layer in 8 bits with 16 experts a rank, whatever its kernels take."""
    moe = {"model": "Qwen/Qwen3-30B-A3B", "gpu": "B200", "dp": 8, "moe_tp": 1, "seq_len": 128, "global_batch": 8}
    for ep, local in ((8, 16), (2, 64)):
        told = times(**moe, ep=ep, precision="mxfp8")
        floor = 48 * 2 * (600 + 230 * local)
        assert float(told.stages[0, 0]) == pytest.approx(floor, rel=0.1)
    assert times(**moe, ep=8).stages[0, 0] < floor / 4  # in 16 bits they are launched together
    graphs = times(**moe, ep=8, precision="mxfp8", framework="megatron@25.09")
    assert graphs.stages[0, 0] < floor / 4
    staged = times(
        **moe | {"dp": 4, "pp": 2, "vpp": 12}, ep=4, precision="mxfp8"
    )  # twice as much, for 24 layers a stage
    assert float(staged.stages[0, 0]) == pytest.approx(24 * 2 * (600 + 2 * 230 * 32), rel=0.1)
    wide = times(**moe | {"seq_len": 4096, "global_batch": 64, "micro_batch": 8}, ep=8, precision="mxfp8")
    assert wide.parts["host"][0] < 0.05 * wide.total.value[0]


def test_biases_of_experts_are_memory_traffic_that_megatron_does_not_fuse() -> None:
    oss = {"model": "openai/gpt-oss-120b", "dp": 8, "ep": 8, "moe_tp": 1, "micro_batch": 4}
    setting, layouts = case(**oss)
    links = roofline_links()
    plain = replace(setting, framework=replace(setting.framework, expert_bias_traffic=0.0))
    more, less = (iteration_times(each, links, layouts).parts["elementwise"][0] for each in (setting, plain))
    rows = 64 * 4096 / 8 * 4 * 36  # tokens of a rank, experts of each, layers
    assert more - less == pytest.approx(68 * rows * 2880 / links.memory_rate * 1e6, rel=1e-6)
