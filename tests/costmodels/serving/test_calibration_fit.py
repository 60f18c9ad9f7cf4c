"""How the constants of the engines are fitted, and how intervals are read off, on made-up runs."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from costmodels.serving.calibration_fit import intervals
from costmodels.serving.calibration_fit.constants import NAMES, START, OfRuns, constants_of, predicted_ms
from costmodels.serving.calibration_fit.effects import IN_EFFECT, KINDS, WIDTHS, at_knots, groups_of
from costmodels.serving.calibration_fit.fit import (
    FittedEngines,
    adjusted,
    beside,
    fit,
    linear_at,
    linear_ms,
    nothing_known,
)
from costmodels.serving.calibration_fit.learned import effects_of, folds_of, learn
from costmodels.serving.calibration_fit.runs import PARTS, MeasuredRuns, day_of
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.frameworks.calibration import MEMORY_DAYS, NEUTRAL, Dated, Effect, Effects, Spread, Spreads
from costmodels.serving.frameworks.framework import find_framework

LEVELS = 7


def made(n: int, truth: dict[str, float], slower: dict[str, float] | None = None, seed: int = 0) -> MeasuredRuns:
    """Runs whose engine has the constants ``truth`` (the others as a fit starts), on GPU types that are ``slower``."""
    rng = np.random.default_rng(seed)
    concurrency = 2 ** rng.integers(0, 5, n)
    decode_batch = np.maximum(np.rint(concurrency[:, None] * np.array([0.25, 0.5, 0.75, 1.0])), 1)
    parts = np.sort(rng.uniform(0.2, 2.0, (n, LEVELS, len(PARTS))), axis=1)
    parts[:, 4:] *= 20

    def chosen(*names: str) -> np.ndarray:
        return rng.choice(np.array(names, dtype=object), n)

    gpu = chosen("H100-SXM", "H200", "B200")
    runs = MeasuredRuns(
        parts_ms=parts,
        uneven=np.zeros((n, LEVELS)),
        decode_batch=decode_batch,
        prompts=np.tile([1.0, 2.0, 4.0], (n, 1)),
        chunks=np.ones(n),
        stages=np.ones(n, np.int64),
        mixed=np.ones(n, bool),
        layers=rng.integers(30, 90, n),
        slow_blocks=np.zeros(n, bool),
        slow_experts=np.zeros(n, bool),
        launched_early=np.zeros(n, bool),
        sequence_ms=np.zeros(n),
        compiled=np.zeros(n, bool),
        first_full_ms=np.zeros(n),
        launched=np.zeros(n, np.int64),
        launching_ms=np.zeros(n),
        greedy=np.ones(n, bool),
        ranks=np.ones(n, np.int64),
        load=Load.of(concurrency, np.full(n, 1024), rng.choice([64, 128], n), np.full(n, 8192), np.full(n, 10**6), 0.8),
        days=rng.choice([100.0, 200.0, 300.0], n),
        row=np.arange(n),
        framework=np.full(n, "vllm", dtype=object),
        gpu=gpu,
        generation=np.where(gpu == "B200", "blackwell", "hopper").astype(object),
        vendor=np.full(n, "nvidia", dtype=object),
        model=chosen("one", "two"),
        kind=np.full(n, "60x4096 fp8 linear", dtype=object),
        campaign=chosen("lab", "other lab"),
        offset=np.zeros((n, 4)),
        at_rate=np.full(n, None, dtype=object),
        coming_per_ms=np.full(n, np.nan),
        measured=np.full((4, n), np.nan),
    )
    values = np.tile(START, (n, 1))
    for name, value in truth.items():
        values[:, NAMES.index(name)] = value
    step = np.array([(slower or {}).get(name, 0.0) for name in gpu])
    told = predicted_ms(OfRuns(values, step, 0 * step, 0 * step, 0 * step), runs)
    told[1] = np.nan  # medians of TTFT and means of TPOT are not published
    told[2] = np.nan
    return replace(runs, measured=told)


def errors(runs: MeasuredRuns, c: OfRuns) -> np.ndarray:
    ratio = np.abs(predicted_ms(c, runs) / runs.measured - 1)
    return np.array([np.median(values[np.isfinite(values)]) for values in (ratio[0], ratio[3])])


def test_a_fit_finds_the_engine_that_made_the_runs() -> None:
    runs = made(120, {"gemm": 0.2, "step": 1.0, "request": 40.0}, {"B200": 0.3})
    fitted, _ = fit(runs, nothing_known(runs))
    assert np.all(errors(runs, fitted.of(runs, fitted.groups)) < [0.08, 0.05])
    step = fitted.groups.matrix @ fitted.coefficients[0]
    blackwell = runs.gpu == "B200"
    assert step[blackwell].mean() - step[~blackwell].mean() == pytest.approx(0.3, abs=0.15)


def test_the_linearised_loop_is_the_loop_where_it_was_played() -> None:
    runs = made(16, {"request": 10.0})
    c = OfRuns(np.tile(START, (len(runs), 1)), *np.zeros((4, len(runs))))
    logs = linear_ms(c, runs, linear_at(c, runs))
    np.testing.assert_allclose(np.exp(logs), predicted_ms(c, runs))


def test_what_is_held_out_teaches_nothing() -> None:
    runs = made(40, {"step": 1.0})
    prior = nothing_known(runs)
    c = OfRuns(np.tile(START, (len(runs), 1)), *np.zeros((4, len(runs))))
    known = runs.gpu != "B200"
    spoiled = replace(runs, measured=np.where(known, runs.measured, 5 * runs.measured))
    linear = linear_at(c, runs)
    first, second = (adjusted(each, linear, prior, known) for each in (runs, spoiled))
    np.testing.assert_array_equal(first.constants, second.constants)
    assert "B200" not in first.groups.key


def test_own_runs_move_effects_more_than_constants() -> None:
    runs = made(30, {})
    known = {"vllm": find_framework("vllm").fitted}
    near, prior = beside(runs, known)
    slow = replace(near, measured=1.4 * near.measured)
    learned = learn(slow, prior, known, ("mine", "2026-11-26"), lambda _: None)
    calibration = learned.calibrations["vllm"]
    assert calibration.fitted_on == "mine"
    assert set(learned.residuals) == {"nothing", "rows", "model", "gpu", "campaign", "date"}
    assert calibration.factors["gemm"] == pytest.approx(known["vllm"].factors["gemm"], rel=0.1)
    assert set(calibration.on_gpus) == {"H100-SXM", "H200", "B200"}


def test_folds_hold_out_each_thing_once() -> None:
    folds = folds_of(made(40, {}))
    for name in ("model", "gpu", "campaign", "rows"):
        assert np.sum(list(folds[name].values()), axis=0).tolist() == [1] * 40


def test_constants_go_to_a_calibration_and_back() -> None:
    calibration = find_framework("vllm").fitted
    values = constants_of(calibration)
    assert values[NAMES.index("step")] == pytest.approx(calibration.step_us / 1e3)
    assert np.exp(values[NAMES.index("gemm")]) == pytest.approx(calibration.factors["gemm"])


def test_releases_are_drawn_to_their_neighbours() -> None:
    runs = made(60, {})
    groups = groups_of(runs, np.ones(60, bool))
    at = [i for i, name in enumerate(groups.group) if groups.key[i] == "vllm H200" and name == "release"]
    knots, values = groups.day[at], np.array([0.1, 0.2, -0.1])
    coefficients = np.linalg.solve(np.linalg.cholesky(np.exp(-np.abs(knots[:, None] - knots) / MEMORY_DAYS)), values)
    assert at_knots(coefficients, knots) == pytest.approx(values, abs=1e-4)
    here = (runs.gpu == "H200") & (runs.days == knots[1])
    assert groups.matrix[here][:, at] @ coefficients == pytest.approx(np.full(here.sum(), 0.2), abs=1e-3)


def test_effects_fade_from_release_to_release_and_fall_back_to_the_generation() -> None:
    day = dt.date(2026, 1, 1)
    effects = Effects(
        vendors={"amd": Effect(step=0.3)},
        generations={"cdna3": Effect(step=0.1)},
        gpus={"MI300X": Effect(step=0.5)},
        releases={"MI300X": (Dated(day=day, effect=Effect(step=0.2)), Dated(day=dt.date(2026, 3, 2), effect=Effect()))},
    )
    assert effects.at(("MI325X", "cdna3", "amd"), day, "60x4096 fp8 linear")[0] == pytest.approx(0.4)
    assert effects.at(("MI300X", "cdna3", "amd"), None, "60x4096 fp8 linear")[0] == 0.5
    assert effects.at(("MI300X", "cdna3", "amd"), day, "60x4096 fp8 linear")[0] == pytest.approx(0.7)
    assert effects.at(("MI300X", "cdna3", "amd"), dt.date(2026, 1, 31), "60x4096 fp8 linear")[0] == pytest.approx(0.6)
    before = effects.at(("MI300X", "cdna3", "amd"), dt.date(2025, 7, 5), "60x4096 fp8 linear")[0]
    assert 0.5 < before < 0.7
    assert effects.at(("H200", "hopper", "nvidia"), day, "60x4096 fp8 linear") == (0, 0, 0, 0)


def test_releases_of_amd_are_those_of_a_generation_and_take_time_a_layer() -> None:
    day = dt.date(2026, 1, 1)
    slow = Effect(step=0.1, layer_us=50)
    effects = Effects(vendors={"amd": Effect(layer_us=20)}, releases={"cdna3": (Dated(day=day, effect=slow),)})
    for gpu in ("MI300X", "MI325X"):
        assert effects.at((gpu, "cdna3", "amd"), day, "60x4096 fp8 linear") == pytest.approx((0.1, 0, 0, 70))
    assert effects.at(("MI355X", "cdna4", "amd"), day, "60x4096 fp8 linear") == (0, 0, 0, 20)
    told = effects.model_copy(update={"layers_of": ("61x7168",)})
    assert told.at(("MI325X", "cdna3", "amd"), day, "61x7168 fp8_block")[3] == pytest.approx(70)
    another = told.at(("MI325X", "cdna3", "amd"), day, "60x4096 fp8 linear")
    assert another[3] == pytest.approx(35)  # of another model: half
    later = effects.at(("MI300X", "cdna3", "amd"), day + dt.timedelta(MEMORY_DAYS), "60x4096 fp8 linear")
    assert later[3] == pytest.approx(20 + 50 / np.e)
    calibration = NEUTRAL.model_copy(update={"effect": slow})
    assert calibration.host_us(60, np.array([8, 8]), np.array([0, 1])) == pytest.approx([3000, 3000])
    assert calibration.model_copy(update={"effect": Effect(layer_us=-5)}).host_us(60, np.array([8]), np.array([0])) == 0


def test_time_that_each_layer_takes_on_amd_is_learned_as_that() -> None:
    plain = made(60, {})
    runs = replace(plain, vendor=np.full(60, "amd", object), generation=np.full(60, "cdna3", object))
    values, nothing = np.tile(START, (60, 1)), np.zeros(60)
    told = predicted_ms(OfRuns(values, nothing, nothing, nothing, nothing + 0.1), runs)
    runs = replace(runs, measured=told)
    found, _ = fit(runs, nothing_known(runs))
    c = found.of(runs, found.groups)
    assert np.median(c.layer) > 0.05
    assert np.median(np.abs(np.log(runs.measured / predicted_ms(c, runs))[2])) < 0.05
    assert np.all(fit(plain, nothing_known(plain))[0].coefficients[3] == 0)


def test_every_group_that_is_learned_is_written_and_read_back() -> None:
    """A group whose effect no :meth:`Effects.at` adds would be a fit that nobody is told."""
    runs, rng = made(80, {}), np.random.default_rng(3)
    amd = runs.gpu == "H200"
    runs = replace(
        runs,
        framework=rng.choice(np.array(["trtllm", "sglang"], dtype=object), 80),
        campaign=np.full(80, "lab", dtype=object),
        kind=rng.choice(
            np.array(["60x4096 fp8 linear", "60x4096 nvfp4 linear", "32x4096 bf16 plain"], dtype=object), 80
        ),
        gpu=np.where(amd, "MI300X", runs.gpu),
        generation=np.where(amd, "cdna3", runs.generation),
        vendor=np.where(amd, "amd", runs.vendor),
    )
    groups = groups_of(runs, np.ones(80, bool))
    assert set(groups.group) == set(WIDTHS)
    widths = np.stack([groups.widths(kind) for kind in range(KINDS)])
    coefficients = widths * rng.standard_normal(widths.shape)
    fitted = FittedEngines(("sglang", "trtllm"), np.tile(START, (2, 1)), coefficients, groups)
    meant = IN_EFFECT[:, None] * np.stack(fitted.of(runs, groups).effects)
    for name in fitted.frameworks:
        effects = effects_of(fitted, runs, name, Effects())
        for i in np.flatnonzero(runs.framework == name):
            on = str(runs.gpu[i]), str(runs.generation[i]), str(runs.vendor[i])
            told = effects.at(on, day_of(float(runs.days[i])), str(runs.kind[i]))
            assert told == pytest.approx(meant[:, i], rel=1e-3, abs=1e-3)  # sums of figures with four digits


def test_intervals_hold_what_they_claim_and_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    logs = rng.normal(0, 0.1, 2000)
    groups = rng.choice(np.array(["a", "b", "c"]), 2000)
    found = intervals.spread(logs, groups)
    assert found.high - found.low == pytest.approx(2 * 1.28 * 0.1, rel=0.1)
    few = intervals.Residuals(dict.fromkeys(("ttft", "tpot", "e2e"), 10 * logs[:5]), groups[:5])
    whole = Spreads(ttft=found, tpot=found, e2e=found)
    pooled = intervals.pooled(few, whole)
    own = few.spread("tpot")
    assert own is not None
    assert found.high < pooled.tpot.high < own.high
    assert intervals.added(few, whole).tpot > 0
    assert (
        intervals.added(
            intervals.Residuals(few.errors, groups[:5]),
            Spreads(**dict.fromkeys(("ttft", "tpot", "e2e"), Spread(low=-9, high=9))),
        ).tpot
        == 0
    )
