"""How the constants of the engines are fitted, and how intervals are read off, on made-up rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from costmodels.arrays import concatenate_rows
from costmodels.serving.calibration_fit import fit as calibrate
from costmodels.serving.calibration_fit import intervals
from costmodels.serving.calibration_fit.fit import NAMES, Constants, fit, held_out, linear_ms, nowhere, play, predict_ms
from costmodels.serving.calibration_fit.runs import DECODE_LEVELS, LEVELS, PARTS, MeasuredRuns

CAMPAIGNS = ("one laboratory", "another", "a third")


def rows(n: int, truth: dict[str, float], campaigns: tuple[str, ...] = CAMPAIGNS[:1], seed: int = 0) -> MeasuredRuns:
    """Runs whose engine has the constants ``truth`` (the others neutral)."""
    rng = np.random.default_rng(seed)
    concurrency = 2 ** rng.integers(0, 6, n)
    share = np.array([0.25, 0.5, 0.75, 1.0])
    decode_batch = np.maximum(np.rint(concurrency[:, None] * share), 1)
    parts = rng.uniform(0.2, 2.0, (n, LEVELS, len(PARTS)))
    parts[:, DECODE_LEVELS:] *= 20
    table = pd.DataFrame(
        {
            "campaign": rng.choice(campaigns, n),
            "family": rng.choice(["one", "two"], n),
            "gpu": "some",
            "pp": 1,
            "concurrency": concurrency,
            "dp": 1,
            "isl": 1024,
            "osl": rng.choice([256, 1024], n),
            "shortest": 0.8,
            "drafted": 0,
            "gate_steps": 0.0,
            "gate_enough": np.inf,
            "gate_free_running": False,
        }
    )
    asked = MeasuredRuns(
        table,
        np.sort(parts, axis=1),
        decode_batch,
        np.tile([1.0, 2.0, 4.0], (n, 1)),
        np.ones(n),
        np.ones(n, bool),
        rng.integers(30, 90, n),
        np.full(n, 10**6),
        np.zeros(n),
        CAMPAIGNS,
    )
    x = nowhere(asked)
    for name, value in truth.items():
        x[:, NAMES.index(name)] = value
    ttft, tpot = predict_ms(x, asked)
    return replace(asked, table=table.assign(ttft_ms=ttft, tpot_ms=tpot))


def test_a_fit_finds_the_engine_that_made_the_rows() -> None:
    made = rows(150, {"gemm": 0.3, "step": 1.0, "request": 40.0})
    x, _ = fit(made)
    ttft, tpot = predict_ms(x, made)
    assert np.median(np.abs(tpot / made.table["tpot_ms"] - 1)) < 0.03  # priors pull a little
    assert np.median(np.abs(ttft / made.table["ttft_ms"] - 1)) < 0.05


def test_the_linearised_loop_is_the_loop_where_it_was_played() -> None:
    made = rows(20, {"request": 10.0})
    c = Constants.of(nowhere(made), made)
    played = play(c, made)
    ttft, tpot = linear_ms(c, made, played)
    expected = predict_ms(nowhere(made), made)
    np.testing.assert_allclose(ttft, expected[0])
    np.testing.assert_allclose(tpot, expected[1])


def test_campaigns_differ_where_rows_say_so_and_one_without_rows_is_the_frameworks() -> None:
    slow, fast = rows(60, {"step": 3.0}, CAMPAIGNS[:1]), rows(60, {"step": 0.0}, CAMPAIGNS[1:2], seed=1)
    both = concatenate_rows([slow, fast])
    both = replace(both, table=pd.concat([slow.table, fast.table], ignore_index=True))
    x, _ = fit(both)
    step = x[:, NAMES.index("step")]
    assert step[1] > step[0] > step[2]
    assert x[3].tolist() == x[0].tolist()


def test_held_out_groups_never_see_their_own_rows() -> None:
    made = rows(60, {"step": 0.5})
    groups = np.array(["a"] * 30 + ["b"] * 30)
    x, played = fit(made)
    before = held_out(made, x, played, groups)
    wrong = made.table.assign(tpot_ms=np.where(groups == "a", 100.0, 1.0) * made.table["tpot_ms"])
    other = replace(made, table=wrong)
    after = held_out(other, x, played, groups)
    np.testing.assert_array_equal(before[1][groups == "a"], after[1][groups == "a"])
    assert not np.allclose(before[1][groups == "b"], after[1][groups == "b"])


def test_every_group_has_the_same_say_in_a_quantile() -> None:
    errors = np.array([0.0] * 1000 + [1.0, 1.0])
    groups = np.array(["many"] * 1000 + ["few"] * 2)
    assert intervals.quantile(errors, groups, 0.25) == 0.0
    assert intervals.quantile(errors, groups, 0.75) == 1.0


def test_coverage_is_that_of_the_other_groups_interval() -> None:
    errors = np.concatenate([np.linspace(-1, 1, 101), np.full(50, 5.0)])
    by_row, by_group = intervals.coverage(errors, np.array(["a"] * 101 + ["b"] * 50))
    assert by_row == pytest.approx(0.0, abs=0.01)
    assert by_group == pytest.approx(0.0, abs=0.01)


def test_every_constant_has_a_prior_within_its_bounds() -> None:
    assert (calibrate.START >= calibrate.LEAST).all()
    assert (calibrate.START <= calibrate.MOST).all()
    assert (calibrate.WIDTH > 0).all()
