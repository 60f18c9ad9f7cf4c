"""Answers among four rows of a grid: not much longer than the rows say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from costmodels.estimates import Floats
from costmodels.kernels.cells import LONGER, Cells
from costmodels.kernels.cost_model import CostModel
from costmodels.operations.roofline import Columns, code
from profiles.hardware import find_gpu

BATCH, CONTEXT = np.array([1, 2, 4, 8]), np.array([256, 512, 1024])


def _us(batch: NDArray[np.generic], context: NDArray[np.generic]) -> Floats:
    return np.asarray(5 + 0.5 * batch + 0.01 * np.asarray(batch, np.float64) * context)


def _lookup(q: Columns) -> tuple[Floats, NDArray[np.bool_]]:
    found = np.isin(q["batch"], BATCH) & np.isin(q["context"], CONTEXT)
    return np.where(found, _us(q["batch"], q["context"]), 0.0), found


def _among(batch: int, context: int, value: float) -> float:
    grid = {"batch": np.repeat(BATCH, len(CONTEXT)), "context": np.tile(CONTEXT, len(BATCH))}
    q = {"batch": np.array([batch]), "context": np.array([context])}
    return float(Cells(("batch", "context"), grid).no_longer(q, np.array([value]), _lookup)[0])


@pytest.mark.parametrize(("batch", "context"), [(3, 300), (6, 900), (4, 700), (5, 512), (8, 1024), (1, 256)])
def test_an_answer_that_leaps_is_what_the_rows_around_it_say_and_a_little(batch: int, context: int) -> None:
    said = float(_us(np.array([batch]), np.array([context]))[0])
    assert _among(batch, context, 9 * said) == pytest.approx(LONGER * said)
    assert _among(batch, context, 1.1 * said) == pytest.approx(1.1 * said)
    assert _among(batch, context, 0.5 * said) == pytest.approx(0.5 * said)


@pytest.mark.parametrize(("batch", "context"), [(9, 300), (3, 2000), (3, 100)])
def test_beyond_the_rows_the_answer_stands(batch: int, context: int) -> None:
    assert _among(batch, context, 1e6) == 1e6


def test_no_columns_leave_all_as_it_is() -> None:
    assert Cells((), {}).no_longer({}, np.array([3.0]), _lookup)[0] == 3.0


@pytest.mark.parametrize("batch", [48, 60, 64, 68, 96])
def test_decode_attention_on_blackwell_does_not_leap_among_its_rows(batch: int) -> None:
    """vLLM, B200, 48 heads, 8-bit cache: 32 µs (64 × 1,024 tokens) and 50 (64 × 2,048) are measured; 134 was said."""
    context = np.arange(1024, 2049, 64)
    n = len(context)
    sizes = {"heads": 48, "kv_heads": 8, "head_dim": 128, "window_tokens": 0, "num_gpus": 1, "batch": batch}
    q: Columns = {
        **{name: np.full(n, value) for name, value in sizes.items()},
        "dtype": np.full(n, code("dtype", "bf16")),
        "kv_dtype": np.full(n, code("kv_dtype", "fp8")),
        "context_tokens": context,
    }
    times = CostModel(find_gpu("B200"), "vllm").estimate("attention_decode", q).value
    assert (times < 1.3 * (10 + 46e-5 * batch * context)).all()
