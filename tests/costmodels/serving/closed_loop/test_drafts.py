"""Closed loops of models that draft for themselves: their steps verify what is drafted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.client import closed_loop_answers
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.served_model import ServedModel
from costmodels.serving.speculative_decoding import SpeculativeDecoding
from costmodels.step.communication import Network
from profiles.hardware import find_fabric, find_gpu
from profiles.store import ProfileStore

USERS = np.array([4, 256])


@pytest.fixture
def served(bare_store: ProfileStore) -> ServedModel:
    model = find_architecture("DeepSeek-V3")
    network = Network(8, find_fabric("ib-400g"))
    cost = CostModel(find_gpu("H200"), "sglang", bare_store)
    return ServedModel(model, choose_precision(model, "fp8_block"), find_framework("sglang"), cost, network)


def tpot_us(served: ServedModel, drafted: int, told: SpeculativeDecoding | None = None) -> np.ndarray:
    n = len(USERS)
    layouts, lengths = Layouts.of([(8, 1, 1, 1, 8)] * n), np.full(n, 1024)
    plain = Load.of(USERS, lengths, lengths, np.full(n, 8192), USERS, np.ones(n), np.zeros(n))
    load = replace(plain, drafted=np.full(n, drafted))
    return np.asarray(closed_loop_answers(served, layouts, load, "balanced", told).tpot.mean.value)


def test_drafts_of_the_calibration_are_those_that_a_workload_says_with_its_acceptance(served: ServedModel) -> None:
    told = SpeculativeDecoding(3, served.calibration.acceptance)
    np.testing.assert_allclose(tpot_us(served, 3), tpot_us(served, 0, told))


def test_a_step_that_verifies_takes_longer_than_one_that_does_not(served: ServedModel) -> None:
    tokens = SpeculativeDecoding(3, served.calibration.acceptance).tokens_per_step
    gained = tpot_us(served, 0) / tpot_us(served, 3)
    assert (gained < 0.95 * tokens).all()
