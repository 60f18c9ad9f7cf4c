"""Prompts and decodes in shared steps: the formulas against the processes they describe, and against the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_simulator import GRID, curve

from costmodels.arrays import concatenate_rows, take_rows
from costmodels.estimates import Floats
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.simulator.arrivals import Requests, open_loop
from costmodels.serving.simulator.events import Engine, simulate
from costmodels.serving.simulator.step_table import StepTable
from costmodels.serving.steady.chunked_prefill import (
    EngineLoad,
    Equilibrium,
    equilibrium,
    gamma_quantile,
    step_mix,
    wait_percentile_us,
)
from tests.costmodels.lengths import constant_lengths

D = 10_000.0


def work(concurrency: float | list[float], **changed: float) -> EngineLoad:
    """One engine at several concurrencies: steps of 10 ms, 500 a request, and prompts of 40 ms."""
    b = np.atleast_1d(np.asarray(concurrency, np.float64))
    columns = {
        "ranks": 1,
        "stages": 1,
        "decode": D,
        "own": 0.0,
        "shared": 40_000.0,
        "chunks": 1.0,
        "room": 1.0,
        "sequence": 0.0,
    } | changed
    steps = columns.pop("steps", 500.0)
    made = {name: np.full(len(b), value) for name, value in columns.items()}
    return EngineLoad(concurrency=b, steps=steps, **made)  # type: ignore[arg-type]


KINDS = {
    "one prompt a step": {},
    "cut prompts": {"chunks": 3.4},
    "short prompts": {"room": 20.0, "shared": 3000.0},
    "pipeline": {"stages": 4, "decode": D / 4, "shared": 10_000.0},
    "lock step": {"ranks": 8, "own": 25_000.0, "shared": 5000.0},
    "lock step, cut prompts": {"ranks": 8, "chunks": 4.0, "own": 25_000.0, "shared": 5000.0},
    "pipeline in lock step": {"ranks": 4, "stages": 2, "own": 25_000.0, "shared": 5000.0},
}
kinds = pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))


def quantiles(it: Equilibrium, p: float) -> tuple[Floats, Floats]:
    """(wait and own steps, decode time) that a share ``p`` stays below."""
    met = it.mixture
    decode = it.shortest + gamma_quantile(it.time - it.shortest, it.deviation, p)
    return wait_percentile_us(met.wait, met.delayed, met.run, p) + met.service, np.minimum(decode, it.longest)


# --- limits -----------------------------------------------------------------------------------------------


@kinds
def test_an_idle_engine_takes_its_own_steps(kind: dict[str, float]) -> None:
    x = work(1e-4, **kind)
    it = equilibrium(x)
    chunk = float(x.own[0] + x.shared[0])
    whole = float(np.ceil(x.chunks[0]))
    own = x.chunks[0] * chunk + whole * x.decode[0] if x.gated[0] == 0 else whole * (x.decode[0] + chunk)
    assert it.mixture.service[0] == pytest.approx(own)
    assert it.mixture.wait[0] == pytest.approx(0, abs=0.02 * own)
    assert it.time[0] == pytest.approx(500 * D if x.stages[0] != 2 else 1000 * D, rel=2e-3)
    assert quantiles(it, 0.9)[0][0] == pytest.approx(own, rel=0.02)


@kinds
def test_more_sequences_never_shorten_anything(kind: dict[str, float]) -> None:
    b = np.geomspace(0.01, 400, 60)
    x = work(b.tolist(), sequence=20.0, **kind)
    x = take_rows(x, np.flatnonzero(x.load < 1))
    assert len(x.load) > 30
    it = equilibrium(x)
    for values in (it.rate, it.time, it.mixture.busy, it.mixture.wait, *quantiles(it, 0.5), *quantiles(it, 0.9)):
        assert (np.diff(values) >= -1e-5 * values[1:]).all()


@kinds
def test_littles_law_and_the_bounds_hold(kind: dict[str, float]) -> None:
    x = work([0.1, 3, 40, 100], **kind)
    it = equilibrium(x)
    assert it.rate * it.time == pytest.approx(x.concurrency * x.ranks)
    assert (it.shortest <= it.time).all()
    assert (it.time <= it.longest * (1 + 1e-12)).all()


def test_points_do_not_depend_on_each_other() -> None:
    every = [work(float(b), **kind) for kind in KINDS.values() for b in (0.5, 20)]
    together = equilibrium(concatenate_rows(every, [np.array([i]) for i in range(len(every))]))
    alone = [equilibrium(x) for x in every]
    assert together.rate == pytest.approx([float(it.rate[0]) for it in alone], rel=1e-6)
    assert together.mixture.wait == pytest.approx([float(it.mixture.wait[0]) for it in alone], rel=1e-4)


def test_rows_are_put_back_where_they_were() -> None:
    x = work([1, 2, 3, 4, 5])
    rows = [np.array([4, 0]), np.array([2]), np.array([1, 3])]
    assert concatenate_rows([take_rows(x, index) for index in rows], rows).concurrency.tolist() == [1, 2, 3, 4, 5]


def test_with_nothing_to_decode_the_load_is_the_time_that_prefill_is_busy() -> None:
    it = equilibrium(work([0.2, 0.8], steps=0.0, decode=1000.0))
    assert it.mixture.busy == pytest.approx([0.2, 0.8])
    assert it.rate == pytest.approx(np.array([0.2, 0.8]) / 41_000)
    assert it.time.tolist() == [0, 0]


# --- one prompt a step -------------------------------------------------------------------------------------


def test_prompts_that_take_turns_wait_as_in_m_d_1() -> None:
    met = step_mix(work([1.0, 1.0]), np.array([5e-6, 15e-6]))
    busy = np.array([5e-6, 15e-6]) * 50_000
    assert met.busy == pytest.approx(busy)
    assert met.wait == pytest.approx(busy * 50_000 / (2 * (1 - busy)))
    # Decodes get the time that chunks leave over.
    assert met.step == pytest.approx(D / (1 - np.array([5e-6, 15e-6]) * 40_000))


@pytest.mark.parametrize("busy", [0.2, 0.5, 0.8])
def test_the_wait_in_m_d_1_has_the_percentiles_of_a_simulation(busy: float) -> None:
    n = 400_000
    gaps = np.random.default_rng(3).exponential(1 / busy, n)
    walk = np.concatenate([[0], np.cumsum(1 - gaps)])
    waits = walk - np.minimum.accumulate(walk)  # Lindley
    mean, delayed, run = (np.array([value]) for value in (busy / (2 * (1 - busy)), busy, 1.0))
    assert waits.mean() == pytest.approx(mean[0], rel=0.03)
    for p in (0.5, 0.9, 0.99):
        assert wait_percentile_us(mean, delayed, run, p)[0] == pytest.approx(np.quantile(waits, p), rel=0.1, abs=0.03)


def test_nobody_waits_below_the_share_that_is_not_delayed() -> None:
    assert wait_percentile_us(np.array([3.0]), np.array([0.3]), np.array([2.0]), 0.7)[0] == 0


# --- gated ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "shared", "rate"), [(0, 3000, 120e-6), (25_000, 5000, 20e-6), (25_000, 1000, 60e-6)])
def test_gated_steps_are_those_of_the_chain(own: float, shared: float, rate: float) -> None:
    rng, n = np.random.default_rng(5), 200_000
    steps = np.empty(n)
    step = D
    for i in range(n):
        came = rng.poisson(rate * step)
        step = steps[i] = D + (own + shared * came if came else 0)
    met = step_mix(work(1.0, ranks=1 if own == 0 else 400, room=400.0, own=own, shared=shared), np.array([rate]))
    assert met.step[0] == pytest.approx(steps.mean(), rel=0.03)
    assert met.mixed_share[0] == pytest.approx((steps > D).mean(), rel=0.06)
    # Many steps scatter by more than independent ones.
    sums = steps.reshape(-1, 500).sum(1)
    noise = step_mix(
        work(1.0, ranks=1 if own == 0 else 400, room=400.0, own=own, shared=shared), np.array([rate])
    ).noise
    assert np.sqrt(noise[0]) == pytest.approx(sums.std(), rel=0.25)


# --- against the event simulator ---------------------------------------------------------------------------

TOKEN_US, BASE_US, BUDGET = 20.0, 9000.0, 2048


def table(ranks: int, stages: int) -> StepTable:
    """Steps that are linear in their tokens; experts take half of what a token does."""
    tokens, alone = np.array(GRID.tokens, np.float64), np.array(GRID.alone, np.float64)

    def made(share: float) -> object:
        experts = share * TOKEN_US / 2 * tokens if ranks > 1 else None
        return curve(share * (BASE_US + TOKEN_US * tokens), alone=share * (BASE_US + TOKEN_US * alone), expert=experts)

    return StepTable(ranks, stages, made(1.0), made(1 / stages))  # type: ignore[arg-type]


CASES = {
    "one prompt a step": (1, 1, 1800, 300),
    "cut prompts": (1, 1, 5000, 300),
    "short prompts": (1, 1, 200, 60),
    "pipeline": (1, 2, 1800, 300),
    "lock step": (4, 1, 1800, 300),
}


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
@pytest.mark.parametrize("busy", [0.3, 0.6])
def test_the_closed_form_agrees_with_the_simulator(case: tuple[int, int, int, int], busy: float) -> None:
    ranks, stages, isl, osl = case
    seconds = (BASE_US / stages * isl / BUDGET + TOKEN_US * isl / stages) / 1e6
    rate = busy / seconds * (1 if ranks == 1 else 1.3)
    n = 1500
    sent = open_loop(*constant_lengths(n, isl, osl), rate, seed=2)
    sent = Requests(sent.isl, sent.osl, sent.arrival_us * (n / rate * 1e6 / sent.arrival_us[-1]))
    engine = Engine(table(ranks, stages), find_framework("vllm").scheduler, 1e7, BUDGET, 1024)
    seen = simulate(engine, sent).trimmed(0.2, 0.1)
    b = rate / ranks * seen.mean_us("tpot") * (osl - 1) / 1e6
    room = BUDGET - b / stages
    chunk = min(room, isl) * TOKEN_US / stages
    experts = 0.5 if ranks > 1 else 1.0
    x = work(
        b,
        steps=osl - 1,
        ranks=ranks,
        stages=stages,
        decode=(BASE_US + TOKEN_US * (b / stages + 4)) / stages,
        own=chunk * (1 - experts),
        shared=chunk * (experts / ranks if ranks > 1 else 1.0),
        chunks=max(isl / room, 1.0),
        room=max(room / isl, 1.0),
        sequence=TOKEN_US / stages,
    )
    it = equilibrium(x)
    met = it.mixture
    assert it.rate[0] * 1e6 == pytest.approx(rate, rel=0.08)
    pipe = chunk * (stages - 1) + x.decode[0] * (stages - 1)
    rest = x.decode[0] * (1 - met.busy[0])
    assert met.wait[0] + met.service[0] + pipe + rest / 2 == pytest.approx(seen.mean_us("ttft"), rel=0.15)
    first, decode = quantiles(it, 0.9)
    assert decode[0] / (osl - 1) == pytest.approx(seen.percentile_us("tpot", 0.9), rel=0.12)
    assert first[0] + pipe + rest * 0.9 == pytest.approx(seen.percentile_us("ttft", 0.9), rel=0.25)


@settings(max_examples=40, deadline=None)
@given(
    b=st.floats(0.01, 300),
    ranks=st.sampled_from([1, 2, 8]),
    stages=st.sampled_from([1, 2, 8]),
    own=st.floats(0, 1e5),
    shared=st.floats(1, 1e5),
    chunks=st.floats(1, 20),
    room=st.floats(1, 100),
)
def test_every_engine_has_finite_answers(
    b: float, ranks: int, stages: int, own: float, shared: float, chunks: float, room: float
) -> None:
    x = work(b, ranks=ranks, stages=stages, own=own if ranks > 1 else 0, shared=shared, sequence=30.0)
    x = replace(x, chunks=np.array([chunks if room < 2 else 1.0]), room=np.array([room if room >= 2 else 1.0]))
    it = equilibrium(x)
    for value in (it.rate, it.time, it.deviation, it.mixture.wait, it.mixture.delayed, it.mixture.burst):
        assert np.isfinite(value).all()
        assert (value >= 0).all()
