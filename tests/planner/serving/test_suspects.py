"""Which part of a prediction is said to be off."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from planner.serving.measured.columns import measured_columns
from planner.serving.measured.suspects import suspects


def answers(slow: float, part: str = "communication") -> pd.DataFrame:
    """Predictions of three parts in shares that differ, beside what an engine took whose ``part`` is ``slow``."""
    rng = np.random.default_rng(0)
    parts = {name: rng.uniform(0.5, 4.0, 30) for name in ("gemm", "communication", "host")}
    predicted = sum(parts.values())
    truth = predicted + (slow - 1) * parts[part]
    texts = ["; ".join(f"{name} {values[i]:.6g}" for name, values in parts.items()) for i in range(30)]
    return pd.DataFrame(
        {
            "tpot_ms_mean": truth.astype(str),
            "tpot_ms_mean_predicted": predicted.astype(str),
            "tpot_ms_low": (predicted * 0.93).astype(str),
            "tpot_ms_high": (predicted * 1.08).astype(str),
            "tpot_ms_by_part": texts,
            "error": "",
        }
    )


@pytest.mark.parametrize(("part", "slow"), [("communication", 2.0), ("host", 0.2)])
def test_the_part_that_is_off_is_named_with_its_factor(part: str, slow: float) -> None:
    table = answers(slow, part)
    (found,) = suspects(table, measured_columns(table[["tpot_ms_mean"]]))
    assert (found.quantity, found.part, found.rows) == ("tpot_ms_mean", part, 30)
    assert found.factor == pytest.approx(slow, rel=0.1)
    assert found.left < found.error / 5


def test_nothing_is_suspected_of_predictions_that_hold() -> None:
    table = answers(1.0)
    assert suspects(table, measured_columns(table[["tpot_ms_mean"]])) == []


def test_of_one_configuration_the_part_is_named_that_has_to_be_least_off() -> None:
    table = answers(1.0)
    table["tpot_ms_by_part"] = "gemm 6; attention 0.9; host 1.1"
    table["tpot_ms_mean_predicted"], table["tpot_ms_low"], table["tpot_ms_high"] = "8", "7.4", "8.6"
    table["tpot_ms_mean"] = "11"
    (found,) = suspects(table, measured_columns(table[["tpot_ms_mean"]]))
    assert found.part == "gemm", "1.5 times it, not 4.3 times the attention"
    assert found.factor == pytest.approx(1.5, rel=0.05)
