"""Rows of experts that were measured before their kernels were tuned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from costmodels.estimates import Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.sound_rows import UNTUNED, Curves, as_tuned
from costmodels.operations.roofline import code
from profiles.hardware import find_gpu

TOKENS, SPLITS, ROUTINGS = (1, 8, 64, 512), (1, 2, 4, 8), (0, 1)


def grid() -> tuple[dict[str, np.ndarray], Floats]:
    """(columns, times) of one shape: time grows with tokens and falls with either split."""
    rows = list(itertools.product(ROUTINGS, TOKENS, SPLITS, SPLITS))
    routing, tokens, tp, ep = np.array(rows).T
    alike = {name: np.full(len(rows), value) for name, value in (("dtype", 1), ("num_gpus", 1), ("gated", 1))}
    shape = {name: np.full(len(rows), 16) for name in ("hidden", "intermediate", "top_k", "experts")}
    columns = {**alike, **shape, "routing": routing, "tokens": tokens, "moe_tp": tp, "moe_ep": ep}
    return columns, 20 + 100 * tokens**0.5 / (tp * ep) * (1 + 0.2 * routing)


def rows_of(columns: dict[str, np.ndarray], **where: int) -> np.ndarray:
    return np.all([columns[name] == value for name, value in where.items()], axis=0)


def test_rows_that_agree_stay_as_they_are() -> None:
    columns, us = grid()
    noisy = us * np.exp(np.random.default_rng(0).uniform(-0.3, 0.3, len(us)))
    assert np.array_equal(as_tuned(columns, us), us)
    assert np.array_equal(as_tuned(columns, noisy), noisy)


def test_a_curve_of_one_routing_is_what_the_others_of_one_gpu_are() -> None:
    columns, us = grid()
    wrong = rows_of(columns, routing=1, moe_tp=4, moe_ep=1)
    mended = as_tuned(columns, np.where(wrong, 5 * us, us))
    assert np.array_equal(mended[~wrong], us[~wrong])
    assert np.allclose(mended[wrong], us[rows_of(columns, routing=0, moe_tp=4, moe_ep=1)])


def test_a_split_that_was_not_tuned_lies_between_a_wider_and_a_narrower_one() -> None:
    columns, us = grid()
    wrong = rows_of(columns, moe_tp=2)
    mended = as_tuned(columns, np.where(wrong, 8 * us, us))
    assert np.array_equal(mended[~wrong], us[~wrong])
    assert np.all(mended[wrong] < 2 * us[wrong])
    assert np.all(mended[wrong] > us[wrong] / 2)


def test_what_nothing_else_bounds_stays() -> None:
    columns, us = grid()
    most = rows_of(columns, tokens=TOKENS[-1], moe_tp=1, moe_ep=1)
    slow = np.where(most, 5 * us, us)
    assert np.array_equal(as_tuned(columns, slow), slow)


def test_between_two_near_rows_of_a_curve_lies_a_line() -> None:
    keys, size = [7, 7, 7, 9, 8], np.array([8, 16, 64, 8, 8])
    curves = Curves(np.array(keys, np.uint64), size, np.array([100.0, 200.0, 900.0, 5.0, 5.0]))
    asked = np.array([7, 7, 7, 7, 9, 8, 6], np.uint64), np.array([12, 15, 32, 128, 12, 4, 12])
    assert np.allclose(curves.between(*asked, np.full(7, 1.0)), [150, 187.5, 1, 1, 1, 1, 1])
    farther = Curves(np.array(keys, np.uint64), size, np.array([100.0, 200.0, 900.0, 5.0, 5.0]), apart=4)
    assert farther.between(*(each[2:3] for each in asked), np.ones(1)) == pytest.approx(200 + 700 / 3)


def test_experts_do_not_leap_beside_their_own_rows() -> None:
    """Those of Qwen3-30B-A3B in eight parts took 60 % more at 8,192 tokens, which were measured, than at 8,191."""
    tokens = np.array([6144, 8000, 8191, 8192, 8193])
    one = np.ones(len(tokens), np.int64)
    shape = {"hidden": 2048, "intermediate": 768, "top_k": 8, "experts": 128, "moe_tp": 8, "moe_ep": 1, "gated": 1}
    asked = {name: value * one for name, value in shape.items()}
    codes = {"dtype": code("dtype", "bf16") * one, "routing": code("routing", "power_law_1.01") * one, "num_gpus": one}
    us = CostModel(find_gpu("H100"), "vllm").estimate("moe", {**asked, **codes, "tokens": tokens}).value
    assert (np.diff(us) > 0).all()
    assert us[-1] < 1.001 * us[-3]


@pytest.mark.parametrize("routing", ["balanced", "power_law_1.01", "power_law_1.2"])
def test_experts_of_llama_4_on_four_h100_under_tensorrt_llm_do_not_leap(routing: str) -> None:
    """Those of one routing took five times as long at the measured numbers of tokens as between them."""
    tokens = np.array([32, 48, 64, 80, 96, 128])
    one = np.ones(len(tokens), np.int64)
    shape = {"hidden": 5120, "intermediate": 8192, "top_k": 1, "experts": 16, "moe_tp": 4, "moe_ep": 1, "gated": 1}
    asked = {name: value * one for name, value in shape.items()}
    codes = {"dtype": code("dtype", "bf16") * one, "routing": code("routing", routing) * one, "num_gpus": one}
    us = CostModel(find_gpu("H100"), "trtllm").estimate("moe", {**asked, **codes, "tokens": tokens}).value
    assert us.max() < UNTUNED * us.min()
