"""Forms of the engines' constants: robust least squares, uneven experts, gathered ranks, trends and loads."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares

from costmodels.estimates import Floats
from costmodels.models.architecture import MixtureOfExperts
from costmodels.operations.layouts import DEGREES, Layouts
from costmodels.operations.moe import uneven_experts
from costmodels.serving.calibration_fit import intervals
from costmodels.serving.calibration_fit.least import Drawn, least_soft_l1
from costmodels.serving.closed_loop.client import opening_us
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.protocol import GENERATIONS
from costmodels.serving.frameworks.calibration import (
    LOADS,
    NEUTRAL,
    TREND_ORIGIN,
    Effect,
    Effects,
    HalfWidths,
    Slow,
    Spread,
    Spreads,
    model_kind,
    steps_to_gather,
)
from costmodels.serving.frameworks.framework import find_framework
from profiles.hardware import find_gpu


@pytest.mark.parametrize("bound", [0.3, 10.0])
def test_least_squares_finds_what_scipy_finds(bound: float) -> None:
    rng = np.random.default_rng(0)
    matrix, truth = rng.normal(size=(200, 3)), np.array([1.0, -0.5, 0.2])
    target = np.exp(0.3 * matrix @ truth) + rng.standard_t(2, 200)
    drawn = Drawn(np.zeros(3), np.full(3, 5.0), np.full(3, -bound), np.full(3, bound))

    def errors(x: Floats) -> Floats:
        return np.asarray(np.exp(0.3 * matrix @ x) - target)

    def slopes(x: Floats, _: Floats) -> Floats:
        return np.asarray(0.3 * matrix * np.exp(0.3 * matrix @ x)[:, None])

    found = least_soft_l1(errors, slopes, np.zeros(3), drawn, 40)
    twin = least_squares(
        lambda x: np.concatenate([errors(x), x / 5.0]), np.zeros(3), bounds=(-bound, bound), loss="soft_l1"
    )
    np.testing.assert_allclose(found, twin.x, atol=0.02)


@pytest.mark.parametrize("tokens", [1, 4, 32, 256])
def test_experts_spread_whole_are_as_uneven_as_tokens_at_random_make_them(tokens: int) -> None:
    layer = MixtureOfExperts(experts=128, top_k=8, intermediate=1024)
    ep = 8
    rng = np.random.default_rng(0)
    busiest = []
    for _ in range(300):
        chosen = np.unique(np.concatenate([rng.choice(128, 8, replace=False) for _ in range(tokens)]))
        counts = np.bincount(chosen // (128 // ep), minlength=ep)
        busiest.append(counts.max() / counts.mean())
    degrees = [1] * len(DEGREES)
    degrees[DEGREES.index("tp")] = degrees[DEGREES.index("ep")] = ep
    one = Layouts.of([tuple(degrees)])
    told = float(np.exp(uneven_experts(layer, np.array([tokens]), one)[0]))
    assert told == pytest.approx(float(np.mean(busiest)), rel=0.45 if tokens == 1 else 0.25)
    assert uneven_experts(layer, np.array([tokens]), Layouts.of([(1,) * len(DEGREES)]))[0] == 0


def test_ranks_gather_in_half_of_the_time_that_a_collector_takes() -> None:
    ranks = np.array([1, 2, 8])
    collected = np.array([1.0, 2 * 1.5, 8 * sum(1 / k for k in range(1, 9))])
    told = steps_to_gather(ranks, np.full(3, 256.0), 1024.0)
    np.testing.assert_allclose(told[1:], (0.5 * collected * 1024 / 256)[1:], rtol=0.02)
    with_cap = NEUTRAL.model_copy(update={"rank_steps": 5.0})
    front = with_cap.front_us(np.zeros(3), np.full(3, 256.0), np.ones(3), ranks, 1024.0)
    np.testing.assert_allclose(front, [0.0, 5.0, 5.0])


def test_who_says_how_often_the_engine_looks_does_not_wait_twice() -> None:
    waits = NEUTRAL.model_copy(update={"request_steps": 4.0})
    users = np.array([64.0, 64.0])
    front = waits.front_us(np.zeros(2), users, np.ones(2), polled=np.array([False, True]))
    np.testing.assert_allclose(front, [4 * 63 / 64, 0.0])


def test_of_requests_at_random_few_find_others_in_the_front_end() -> None:
    told = NEUTRAL.model_copy(
        update={
            "request_us": 9e3,
            "request_us_per_token": 1.0,
            "request_us_per_concurrent": 300.0,
            "request_steps": 2.0,
        }
    )
    prompt, users, tpot = np.full(3, 1000.0), np.full(3, 65.0), np.full(3, 1e4)
    at_once = told.front_us(prompt, users, tpot)[0]
    assert at_once == pytest.approx(10e3 + 64 * 300 + 2 * 64 / 65 * 1e4)
    rates = np.array([0.0, 20e-6, 1.0])  # a microsecond
    random = told.front_us(prompt, users, tpot, coming_per_us=rates)
    steps = 1.5 * 64 / 65 * 1e4  # half of the step in progress is played
    np.testing.assert_allclose(random, [10e3 + steps, 10e3 + 0.2 * 300 + steps, 10e3 + 64 * 300 + steps])
    alone = told.front_us(prompt, np.ones(3), tpot, coming_per_us=np.zeros(3))
    np.testing.assert_allclose(alone, told.front_us(prompt, np.ones(3), tpot))


def test_between_the_ends_of_steps_and_front_end_lie_as_many_runs_as_claimed() -> None:
    rng = np.random.default_rng(0)
    n, share = 4000, 0.5
    steps, front = rng.normal(0, 0.08, n), rng.normal(0.0, 0.4, n)
    errors = np.log(share * np.exp(steps) + share * np.exp(front))
    ends = np.full(n, -0.1), np.full(n, 0.1)
    groups = rng.choice(np.array(list("abcdef")), n)
    told = intervals.front_spread(errors, np.full(n, share), ends, groups)
    assert told is not None
    at = NEUTRAL.model_copy(update={"front": told}).front_ends
    assert at["low"] < 1 == at["value"] < at["high"]
    low, high = (share * np.exp(end) + share * at[name] for end, name in ((-0.1, "low"), (0.1, "high")))
    assert 0.78 < ((np.exp(errors) >= low) & (np.exp(errors) <= high)).mean() < 0.82
    assert intervals.front_spread(errors, np.full(n, 0.1), ends, groups) is None  # steps are all of it


def test_releases_follow_a_trend_that_ends() -> None:
    until = dt.date(2026, 7, 1)
    effects = Effects(trends={"nvidia": Effect(step=-0.1)}, trend_until=until)
    gpu = ("H200", "hopper", "nvidia")
    at = [effects.at(gpu, day, "")[0] for day in (TREND_ORIGIN, TREND_ORIGIN + dt.timedelta(180), until, None)]
    assert at[:2] == pytest.approx([0.0, -0.1])
    assert at[2] == at[3] == effects.at(gpu, dt.date(2027, 1, 1), "")[0] < -0.1
    assert effects.at(("MI300X", "cdna3", "amd"), until, "")[0] == 0


def test_a_model_has_its_own_effect_or_that_of_its_shape() -> None:
    fp8, fp4 = (model_kind(61, 7168, precision, "latent") for precision in ("fp8_block", "nvfp4"))
    other, plain = model_kind(78, 6144, "bf16", "latent"), model_kind(80, 8192, "bf16", "plain")
    own = {"61x7168 fp8_block": Effect(step=0.3), "61x7168": Effect(step=0.1), "latent": Effect(step=0.2)}
    effects, gpu = Effects(models=own), ("H200", "hopper", "nvidia")
    assert [effects.at(gpu, None, kind)[0] for kind in (fp8, fp4, other, plain)] == [0.3, 0.1, 0.2, 0.0]


def test_intervals_know_at_which_loads_errors_are_larger() -> None:
    rng = np.random.default_rng(0)
    users = rng.choice(np.array(LOADS), 3000)
    errors = rng.normal(0, np.where(users == LOADS[-1], 0.3, 0.1))
    groups = rng.choice(np.array(list("abcdef")), 3000)
    whole = intervals.spread(errors, groups)
    factors = intervals.at_load(errors, [whole] * 3000, groups, users)
    assert factors[0] < 0.9 < 1.3 < factors[2]
    told = NEUTRAL.model_copy(update={"tpot": Spread(low=-0.1, high=0.2), "at_load": {"tpot": (0.5, 1.0, 2.0)}})
    low, high = told.spread_at("tpot", np.array([1.0, 32.0, 1000.0]))
    np.testing.assert_allclose(low, [-0.05, -0.1, -0.2])
    np.testing.assert_allclose(high, [0.1, 0.2, 0.4])


@pytest.mark.parametrize(
    ("asked", "gpu", "weights", "wait_s"),
    [
        ("sglang@0.5.5", "B200", "nvfp4", 65),
        ("sglang@0.5.6.post2", "B300", "fp8_block", 18),
        ("sglang@0.5.6", "B200", "bf16", 0),
        ("sglang@0.5.6", "H200", "fp8_block", 0),
        ("sglang@0.5.6", "MI355X", "fp8_block", 0),
        ("sglang@0.5.4", "B200", "nvfp4", 0),
        ("sglang@0.5.7", "B200", "nvfp4", 0),
        ("vllm", "B200", "nvfp4", 0),
    ],
)
def test_releases_tune_when_prompts_first_fill_a_step(asked: str, gpu: str, weights: str, wait_s: float) -> None:
    framework = find_framework(asked)
    tuned = framework.capabilities.tuned_first
    wait_us = tuned.wait_us(framework.release, find_gpu(gpu), weights) if tuned is not None else 0.0
    assert wait_us == wait_s * 1e6


@pytest.mark.parametrize(
    ("asked", "gpu", "launched", "least_us"),
    [
        ("sglang@0.5.9", "B200", 105, 126_000),
        ("sglang@0.5.10", "B200", 0, 0),
        ("sglang@0.5.10", "MI355X", 105, 0),
    ],
)
def test_kernels_of_prompts_are_launched_one_by_one_until_graphs_hold_them(
    asked: str, gpu: str, launched: int, least_us: float
) -> None:
    framework = find_framework(asked)
    singly = framework.capabilities.launched_singly
    assert singly is not None
    assert singly.layers_and_us(framework.release, find_gpu(gpu), 60, 45) == (launched, least_us)


@pytest.mark.parametrize(("users", "fills"), [(81, False), (82, True)])
def test_prompts_wait_where_they_fill_the_step(users: int, fills: bool) -> None:
    load = Load.of(*(np.array([value]) for value in (users, 100, 50, 8192, 256)))
    assert load.first_wait(1.0, 64.0)[0] == (65.0 if fills else 1.0)
    at = NEUTRAL.model_copy(update={"first_us": 1.0, "first_full_us": 64.0})
    waits = opening_us(at, replace(load, cold=np.ones(1, np.bool_)), users * GENERATIONS)
    assert waits[0, 0] == (65.0 if fills else 1.0)


def test_first_requests_wait_for_kernels_to_be_compiled_and_longer_on_amd() -> None:
    told = NEUTRAL.model_copy(update={"first_us": 1e6, "first_on_amd": 3.0})

    def on(gpu: str) -> float:
        at = told.resolved(find_gpu(gpu), None, "", "1x1 bf16", greedy=True, slow=Slow(compiled=True))
        warm = Load.of(*(np.array([value]) for value in (4, 100, 50, 8192, 256)))
        load = replace(warm, cold=np.ones(1, np.bool_))
        waits = opening_us(at, load, 4 * GENERATIONS)
        assert (opening_us(at, warm, 4 * GENERATIONS) == 0).all()
        assert (waits[0, :4] > 0).all()
        assert (waits[0, 4:] == 0).all()  # nine of ten find them compiled
        return float(waits.mean())

    assert told.resolved(find_gpu("H200"), None, "", "1x1 bf16", greedy=True, slow=Slow()).first_us == 0
    assert on("H200") == pytest.approx(1e6 / GENERATIONS)
    assert on("MI300X") == pytest.approx(3e6 / GENERATIONS)


def test_intervals_know_which_kinds_of_models_are_further_off() -> None:
    """Of two kinds, whose runs are as many: those of one lie four times as far off, and where a model is new, too."""
    rng = np.random.default_rng(0)
    n = 2000
    cut = np.arange(n) % 2
    errors = rng.normal(0, np.where(cut == 0, 0.05, 0.2))
    whole = intervals.spread(errors, np.full(n, "one"))
    factors = intervals.wider(errors, [whole] * n, np.full(n, "one"), cut, 2)
    assert factors[0] < 0.6 < 1.2 < factors[1]
    told = NEUTRAL.model_copy(
        update={
            "tpot": Spread(low=-0.1, high=0.2),
            "of_kind": {"tpot": (0.5, 2.0)},
            "rows": 1,
            "unknown_model": HalfWidths(tpot=0.3),
            "unknown_of_kind": {"dense": {"model": HalfWidths(tpot=0.0)}},
            "on_gpus": {"H200": Spreads(**dict.fromkeys(("ttft", "tpot", "e2e"), Spread(low=-0.1, high=0.2)))},
        }
    )
    gpu = find_gpu("H200")
    dense, experts = (
        told.resolved(gpu, None, "new", "", greedy=True, slow=Slow(experts=each)).tpot for each in (False, True)
    )
    assert dense == Spread(low=-0.05, high=0.1)
    assert experts.high == pytest.approx(math.hypot(0.4, 0.3))
