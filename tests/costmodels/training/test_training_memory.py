"""Memory of every stage: formulas of the literature, measured peaks, and what may never happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from layout_case import GPT, case

from costmodels.training.activations import layer_activations
from costmodels.training.memory import PARTS, TrainingMemory, in_flight, training_memory
from profiles.hardware import find_gpu

POINTS = Path(__file__).parents[2] / "benchmarks"
GIB = 2.0**30


def memory(**columns: Any) -> TrainingMemory:
    return training_memory(*case(**columns))


def test_a_layer_keeps_what_korthikanti_et_al_count() -> None:
    """arXiv:2205.05198, equations 1 and 2: s·b·h·(34 + 5·a·s/h) bytes, all of it split by t with sequence
    parallelism, and s·b·h·(10 + 24/t + 5·a·s/(h·t)) without. The masks of attention's dropout are theirs too."""
    s, h, a = 2048, 12288, 96
    for t, parallel, per_hidden in ((1, "false", 34.0), (8, "true", 34 / 8), (8, "false", 10 + 24 / 8)):
        setting, layouts = case(
            model=GPT, framework="megatron@3.0", seq_len=s, tp=t, sequence_parallel=parallel, global_batch=1, gpu="A100"
        )
        whole = layer_activations(setting, layouts, 0).whole[0]
        assert whole == pytest.approx(h * (per_hidden + 5 * a * s / h / t), rel=0.001)


def test_interleaving_holds_more_as_narayanan_et_al_say() -> None:
    """arXiv:2205.05198, §4.2.3: the first stage holds L·(1 + (p − 1) ÷ (p·m)) layers' activations."""
    for vpp in (1, 2, 3):
        _, layouts = case(model=GPT, seq_len=2048, tp=8, pp=8, vpp=vpp, global_batch=512)
        held = in_flight(layouts)[0]
        assert held[0] * 12 == pytest.approx(96 * (1 + 7 / (8 * vpp)) if vpp > 1 else 96)
        assert (np.diff(held) < 0).all()


def test_parts_add_up_to_what_is_allocated() -> None:
    told = memory(tp=2, pp=4, dp=2)
    assert told.allocated == pytest.approx(sum(getattr(told, part) for part in PARTS))
    assert (told.reserved > told.allocated).all()
    assert (told.used() > told.reserved).all()
    assert (told.used(expandable=False) >= told.used()).all()


@pytest.mark.parametrize(
    ("framework", "each"), [("megatron", 18), ("megatron-deepspeed", 18), ("deepspeed", 18), ("torchtitan", 16)]
)
def test_states_without_data_parallelism_do_not_depend_on_the_sharding_stage(framework: str, each: int) -> None:
    told = [memory(framework=framework, sharding=stage, global_batch=8) for stage in (0, 1, 2, 3)]
    for part in ("weights", "gradients", "optimizer"):
        assert [getattr(one, part)[0, 0] for one in told] == pytest.approx([getattr(told[0], part)[0, 0]] * 4)
    assert told[0].states[0, 0] == pytest.approx(each * 8.03e9, rel=0.002)


def test_each_stage_of_sharding_holds_less() -> None:
    states = [memory(sharding=stage, dp=8).states[0, 0] / 8.03e9 for stage in (0, 1, 2, 3)]
    assert states == pytest.approx([18, 6 + 12 / 8, 2 + 4 / 8 + 12 / 8, 18 / 8], rel=0.002)


def test_hybrid_sharding_shares_among_its_group() -> None:
    wide, narrow = memory(sharding="1", dp=8), memory(sharding="hybrid:4", dp=8)
    assert narrow.optimizer[0, 0] == pytest.approx(2 * wide.optimizer[0, 0])


@pytest.mark.parametrize("layout", [{"dp": 8}, {"pp": 4, "dp": 2}, {"pp": 4, "vpp": 4, "tp": 2, "dp": 1}])
@pytest.mark.parametrize("framework", ["megatron", "torchtitan"])
def test_recomputing_more_never_raises_memory(framework: str, layout: dict[str, Any]) -> None:
    selective = "selective:op" if framework == "torchtitan" else "selective:layernorm"
    each = [*(f"full:{n}" for n in range(1, 32 // layout.get("pp", 1))), "full"]
    used = [memory(framework=framework, **layout, recompute=r).allocated.max() for r in ("none", *each)]
    assert used == sorted(used, reverse=True)
    some = memory(framework=framework, **layout, recompute=selective).allocated.max()
    assert used[-1] <= some <= used[0]


def test_more_micro_batches_in_flight_never_lower_memory() -> None:
    few, many = memory(pp=4, dp=2, global_batch=8), memory(pp=4, dp=2, global_batch=64)
    assert (few.allocated <= many.allocated).all()


def test_the_ends_hold_the_tables_and_the_logits() -> None:
    told = memory(model="google/gemma-2-27b-it", tp=1, pp=4, dp=2, seq_len=8192)
    weights = told.weights[0]
    assert weights[0] > weights[1]
    assert weights[-1] > weights[1]
    assert told.logits[0, -1] > 0
    assert (told.logits[0, :-1] == 0).all()


def test_experts_are_split_by_their_own_mesh() -> None:
    moe = {"model": "Qwen/Qwen3-30B-A3B", "dp": 8, "moe_tp": 1}
    one, all_of_them = memory(**moe, ep=1), memory(**moe, ep=8)
    assert all_of_them.weights[0, 0] < one.weights[0, 0] / 4
    assert all_of_them.states[0, 0] < one.states[0, 0]


def test_adapters_have_no_states_of_the_frozen_weights() -> None:
    full, lora = memory(dp=8), memory(dp=8, mode="lora")
    assert lora.weights[0, 0] == full.weights[0, 0]
    assert lora.gradients[0, 0] < 0.02 * full.gradients[0, 0]


def test_published_peaks_of_torchtitan_are_met() -> None:
    """The rows that no pipeline schedule's caches disturb; tests/benchmarks/training.py has all of them."""
    rows = pd.read_csv(POINTS / "training_points.csv", dtype=str, keep_default_na=False)
    rows = rows[(rows["peak_mem_gib"] != "") & (rows["pp"] == "1")]
    columns = ("model", "gpu", "framework", "precision", "seq_len", "tp", "dp", "cp", "sharding", "micro_batch")
    ratios = []
    for _, row in rows.iterrows():
        told = memory(**{name: row[name] for name in (*columns, "global_batch", "recompute")})
        ratios.append(told.allocated.max() / GIB / float(row["peak_mem_gib"]))
    assert len(ratios) == 14
    assert np.abs(np.array(ratios) - 1).mean() < 0.04
    assert min(ratios) > 0.945


def test_measured_states_and_activations_of_galvatron_are_met() -> None:
    from tests.benchmarks.training import _galvatron_row

    rows = pd.read_csv(POINTS / "training_memory.csv")
    rows = rows[rows["source"].str.endswith("7b_all.json")]
    for what, most in (("model states", 0.02), ("activations held", 0.02), ("activations at peak", 0.08)):
        part = rows[rows["what"] == what]
        ratio = np.array([_galvatron_row(row) for row in part.itertuples()]) / part["mib"].to_numpy()
        assert np.abs(ratio - 1).mean() < most, what


def test_what_fits_is_judged_with_what_the_allocator_and_the_driver_take() -> None:
    told, gpu = memory(dp=8, micro_batch=2, seq_len=8192), find_gpu("H100")
    assert told.fits(gpu.memory_bytes)[0] == (told.used().max() <= gpu.memory_bytes)
    assert told.context[0, 0] > 0
    assert told.communication[0, 0] > 0


def test_without_a_pipeline_one_micro_batch_is_in_flight_whatever_the_schedule_is_called() -> None:
    alone = [memory(dp=4, schedule=each, framework="galvatron").activations[0, 0] for each in ("gpipe", "1f1b")]
    assert alone[0] == alone[1]
