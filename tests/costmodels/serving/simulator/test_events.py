"""The simulator against its twin, and against what must hold of any engine."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_simulator import constant_table, naive, rising_table

from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.frameworks.names import framework_names
from costmodels.serving.frameworks.policies import Policy
from costmodels.serving.simulator.arrivals import Requests, closed_loop, open_loop
from costmodels.serving.simulator.events import Engine, Overheads, simulate
from costmodels.serving.simulator.outcome import Outcome
from profiles.errors import InputError
from tests.costmodels.lengths import constant_lengths, uniform_lengths

SCHEDULERS = {name: find_framework(name).scheduler for name in framework_names()}
POLICIES: dict[str, Policy] = {
    **SCHEDULERS,
    **{f"{name}/{what}": each for name, plain in SCHEDULERS.items() for what, each in plain.variants.items()},
}
CASES = 100


def random_case(seed: int, policy: str, stages: int = 1) -> tuple[Engine, Requests]:
    """A small engine under a load that often overflows its cache, and that its limits sometimes refuse."""
    rng = np.random.default_rng(seed)
    queries = int(rng.choice([1, 1, 4]))
    engine = Engine(
        rising_table(seed, int(rng.choice([1, 1, 2, 3])), stages, queries),
        POLICIES[policy],
        kv_tokens=int(rng.integers(300, 3000)),
        token_budget=int(rng.choice([8, 64, 256, 1000])),
        max_sequences=int(rng.integers(1, 30)),
        max_model_len=int(rng.choice([300, 1000])),
        cached_share=float(rng.choice([0.0, 0.0, 0.5, 1.0])),
        role=str(rng.choice(["aggregated", "aggregated", "prefill", "decode"])),
        first_token_here=bool(rng.random() < 0.5),
        tokens_per_step=1.0 if queries == 1 else float(rng.choice([1.0, 2.0, 2.37])),
        draft_share=0.1 if queries > 1 else 0.0,
        overheads=Overheads(*rng.choice([0.0, 700.0], 2), float(rng.choice([0.0, 7.0])), float(rng.choice([1.0, 1.3]))),
    )
    n = int(rng.integers(1, 30))
    isl, osl = rng.integers(1, 400, n), rng.integers(1, 80, n)
    if rng.random() < 0.5:
        return engine, open_loop(isl, osl, float(np.exp(rng.uniform(0, 6))), cv=float(rng.choice([1, 3])), seed=seed)
    return engine, closed_loop(isl, osl, int(rng.integers(1, 20)), ramp_us=float(rng.choice([0.0, 1e5])))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=1e-9, atol=1e-3, equal_nan=True)


# --- twins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("policy", POLICIES)
def test_jumping_is_stepping(policy: str, stages: int) -> None:
    preempted = 0
    for seed in range(CASES):
        engine, requests = random_case(seed, policy, stages)
        got, twin = simulate(engine, requests), naive(engine, requests)
        assert same(got.first_us, twin.first), seed
        assert same(got.finish_us, twin.finish), seed
        assert same(got.arrival_us, twin.sent), seed
        assert (got.preemptions == twin.preemptions).all(), seed
        assert got.steps == twin.steps, seed
        assert twin.kv_most <= engine.kv_tokens + 1e-6, seed
        assert twin.kv_left == 0, seed
        preempted += int(got.preemptions.sum())
    assert (preempted > 0) == (POLICIES[policy].reserve_share < 1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_conservation(policy: str, stages: int) -> None:
    for seed in range(40):
        engine, requests = random_case(seed, policy, stages)
        got = simulate(engine, requests)
        served = got.served
        assert (np.isnan(got.finish_us) == ~served).all(), seed
        assert (np.isnan(got.first_us) == ~served).all(), seed
        assert (got.first_us[served] >= got.arrival_us[served]).all(), seed
        assert (got.finish_us[served] >= got.first_us[served]).all(), seed
        assert got.timeline[:, 4].max() <= 1 + 1e-9, seed
        assert np.allclose(got.timeline[-1, 2:5], 0, atol=1e-9), seed  # nobody is left, and neither is their cache
        assert 0 <= got.busy_us <= got.end_us * (1 + 1e-9), seed
        prompt_us, steps, tokens = got.timeline[-1, 5:]
        assert 0 <= prompt_us <= got.busy_us * (1 + 1e-9), seed
        assert steps <= got.steps, seed
        if engine.role != "decode" and not engine.cached_share and not got.preemptions.any():
            assert tokens == got.isl[served].sum(), seed


def test_same_input_same_outcome() -> None:
    engine, requests = random_case(3, "vllm", 2)
    first, second = simulate(engine, requests), simulate(engine, requests)
    for name in ("first_us", "finish_us", "preemptions", "timeline"):
        assert np.array_equal(getattr(first, name), getattr(second, name), equal_nan=True)


# --- the theory of queues ---------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_prompts_one_at_a_time_are_a_queue_with_one_server_and_equal_services(load: float) -> None:
    """Pollaczek–Khinchine: mean wait of M/D/1 is ρ·s / (2·(1 − ρ))."""
    service = 1000.0
    isl, osl = constant_lengths(100_000, 64, 1)
    engine = Engine(constant_table(service), POLICIES["vllm"], 10_000, token_budget=64, max_sequences=100)
    got = simulate(engine, open_loop(isl, osl, load / service * 1e6, seed=1))
    wait = got.ttft_us.mean() - service
    assert wait == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)
    assert got.utilisation == pytest.approx(load, rel=0.02)


@pytest.mark.parametrize(("isl", "osl"), [(200, 400), (400, 100)])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_full_cache_holds_as_many_sequences_as_admission_counts_tokens_for(policy: str, isl: int, osl: int) -> None:
    kv_tokens, below = 10_000, 0.5
    engine = Engine(constant_table(100.0), POLICIES[policy], kv_tokens, token_budget=2048, max_sequences=1000)
    got = simulate(engine, closed_loop(*uniform_lengths(2000, isl, osl, below=below, seed=0), 300))
    running = (got.finish_us - got.first_us).sum() / got.finish_us.max()
    held = POLICIES[policy].held_tokens(isl, osl) * (1 - below / 2)
    assert running == pytest.approx(kv_tokens / held, rel=0.15)


def test_littles_law_holds() -> None:
    isl, osl = uniform_lengths(4000, 200, 60, below=0.5, seed=2)
    engine = Engine(rising_table(1), POLICIES["vllm"], 100_000, token_budget=256, max_sequences=256)
    got = simulate(engine, open_loop(isl, osl, 30.0, seed=2), sample_us=1.0)
    time, _, running, waiting = got.timeline.T[:4]
    # Counted at the starts of steps: what arrives during one is seen at its end.
    mean = np.sum((running + waiting)[:-1] * np.diff(time)) / (time[-1] - time[0])
    assert mean == pytest.approx(got.rate_rps / 1e6 * got.e2e_us.mean(), rel=0.05)


def test_steps_of_a_lone_request_add_up() -> None:
    engine = Engine(constant_table(1000.0), POLICIES["vllm"], 10_000, token_budget=100, max_sequences=8)
    got = simulate(engine, Requests(np.array([250]), np.array([11]), np.array([5000.0])))
    assert got.ttft_us[0] == pytest.approx(3 * 1000)  # chunks of 100, 100 and 50
    assert got.tpot_us[0] == pytest.approx(1000)
    assert got.e2e_us[0] == pytest.approx(13 * 1000)


def test_pipeline_stages_overlap_the_chunks_of_one_prompt() -> None:
    engine = Engine(constant_table(1000.0, stages=4), POLICIES["vllm"], 10_000, token_budget=100, max_sequences=8)
    got = simulate(engine, Requests(np.array([300]), np.array([3]), np.array([0.0])))
    assert got.ttft_us[0] == pytest.approx(2 * 1000 + 4000)
    assert got.tpot_us[0] == pytest.approx(4000)  # one sequence cannot fill the pipeline


def test_full_pipelines_give_a_token_per_stage_time() -> None:
    engine = Engine(constant_table(1000.0, stages=4), POLICIES["vllm"], 10_000, token_budget=100, max_sequences=8)
    isl, osl = constant_lengths(4, 100, 100)
    got = simulate(engine, closed_loop(isl, osl, 4))
    assert got.e2e_us.max() == pytest.approx(1000 * (4 + 100 * 4), rel=0.02)
    assert got.utilisation == pytest.approx(1.0, rel=0.03)


def test_faster_steps_answer_nobody_later() -> None:
    """First come first served on one rank, fixed lengths, no preemption."""
    isl, osl = constant_lengths(300, 100, 20)
    slow = Engine(rising_table(5), POLICIES["trtllm"], 4000, token_budget=128, max_sequences=16)
    load = open_loop(isl, osl, 40.0, seed=3)
    finish = [
        simulate(replace(slow, overheads=Overheads(step_factor=factor)), load).finish_us
        for factor in (1.0, 0.9, 0.5, 0.1)
    ]
    for later, sooner in pairwise(finish):
        assert (sooner <= later + 1e-6).all()


# --- schedulers -------------------------------------------------------------------------------------------


def busy_engine(policy: str, **changes: object) -> Engine:
    engine = Engine(constant_table(1000.0), POLICIES[policy], 10_000, token_budget=100, max_sequences=8)
    return replace(engine, **changes)


def two(late_us: float, isl: tuple[int, int] = (100, 300), osl: tuple[int, int] = (20, 5)) -> Requests:
    return Requests(np.array(isl), np.array(osl), np.array([0.0, late_us]))


def test_a_prompt_rides_along_with_decodes_in_vllm_and_stops_them_in_sglang() -> None:
    mixed = simulate(busy_engine("vllm"), two(5500.0))
    assert mixed.tpot_us[0] == pytest.approx(1000)
    stopping = simulate(busy_engine("sglang"), two(5500.0))
    assert stopping.tpot_us[0] == pytest.approx(1000 * (19 + 3) / 19)  # three chunks of 100
    assert stopping.first_us[1] < mixed.first_us[1]  # the decodes take of the token budget
    along = simulate(busy_engine("sglang/mixed_chunk"), two(5500.0))
    assert along.tpot_us[0] == pytest.approx(1000)


def test_whole_prompts_wait_for_a_step_that_holds_them() -> None:
    got = simulate(busy_engine("trtllm/whole_prompts"), two(5500.0, isl=(50, 100)))
    assert got.first_us[1] > got.finish_us[0]  # 99 tokens are left beside the decode
    assert simulate(busy_engine("trtllm"), two(5500.0, isl=(50, 100))).first_us[1] < got.first_us[1]


def test_what_no_engine_admits_is_refused_by_name() -> None:
    isl, osl = np.array([300, 90, 9000, 90]), np.array([10, 500, 2000, 10])
    load = Requests(isl, osl, np.zeros(4))
    got = simulate(busy_engine("trtllm/whole_prompts", max_model_len=550), load)
    assert got.refused.tolist() == [3, 1, 1, 0]
    assert simulate(busy_engine("vllm"), load).refused.tolist() == [0, 0, 2, 0]
    assert got.attainment({"e2e": 1e12}) == 0.25


def test_refused_requests_keep_a_closed_loop_going() -> None:
    isl = np.array([9000 if i % 2 else 50 for i in range(10)])
    got = simulate(busy_engine("vllm", max_model_len=200), closed_loop(isl, np.full(10, 5), 2))
    assert got.served.sum() == 5
    assert np.isfinite(got.finish_us[got.served]).all()


def test_reservation_never_preempts_and_no_reservation_does() -> None:
    isl, osl = constant_lengths(8, 100, 200)
    load = closed_loop(isl, osl, 8)
    tight = {"kv_tokens": 1000, "token_budget": 1000}
    assert simulate(busy_engine("trtllm", **tight), load).preemptions.sum() == 0
    assert simulate(busy_engine("vllm", **tight), load).preemptions.sum() > 0


def test_cached_prefixes_save_their_steps() -> None:
    load = two(1e6, isl=(1000, 1000))
    assert simulate(busy_engine("vllm"), load).ttft_us[0] == pytest.approx(10_000)
    assert simulate(busy_engine("vllm", cached_share=0.5), load).ttft_us[0] == pytest.approx(5000)
    assert simulate(busy_engine("vllm", cached_share=1.0), load).ttft_us[0] == pytest.approx(1000)


def test_ranks_share_the_requests_and_wait_for_the_slowest() -> None:
    engine = busy_engine("vllm", table=constant_table(1000.0, ranks=4))
    isl, osl = constant_lengths(8, 100, 10)
    got = simulate(engine, closed_loop(isl, osl, 8))
    assert np.bincount(got.rank).tolist() == [2, 2, 2, 2]
    rising = replace(engine, table=rising_table(2, ranks=2))
    short = Requests(np.array([100, 10]), np.array([10, 10]), np.zeros(2))
    together = simulate(rising, short)
    assert together.first_us[0] == pytest.approx(
        together.first_us[1]
    )  # the short prompt's step ends with the long one's


def test_speculation_takes_fewer_steps() -> None:
    engine = busy_engine("vllm", table=rising_table(1, queries=4))
    load = two(1e6, osl=(21, 21))
    plain, drafted = (simulate(replace(engine, tokens_per_step=gain), load) for gain in (1.0, 2.0))
    assert plain.steps == 2 * drafted.steps - 4  # two requests of one and three chunks
    assert drafted.tpot_us[0] < 0.6 * plain.tpot_us[0]


def test_decode_engines_start_with_the_prompts_cache() -> None:
    load = two(1e6, isl=(1000, 1000))
    handed = simulate(busy_engine("vllm", role="decode"), load)
    assert handed.ttft_us[0] == 0  # the token came along, and the engine was idle
    assert handed.e2e_us[0] == pytest.approx(19_000)
    here = simulate(busy_engine("vllm", role="decode", first_token_here=True), load)
    assert here.ttft_us[0] == pytest.approx(1000)
    prefill = simulate(busy_engine("vllm", role="prefill"), load)
    assert prefill.e2e_us[0] == prefill.ttft_us[0] == pytest.approx(10_000)


def test_a_burst_queues_in_the_front_end() -> None:
    isl, osl = constant_lengths(4, 10, 1)
    overheads = Overheads(request_us=500.0, serial_us=2000.0)
    got = simulate(busy_engine("vllm", overheads=overheads), closed_loop(isl, osl, 4))
    assert got.ttft_us.tolist() == pytest.approx([3500, 5500, 7500, 9500])


# --- loads and outcomes -----------------------------------------------------------------------------------


@given(cv=st.sampled_from([0.5, 1.0, 3.0]), rate=st.floats(0.1, 1000))
@settings(max_examples=20, deadline=None)
def test_arrivals_have_the_rate_and_the_burstiness_asked_for(cv: float, rate: float) -> None:
    isl, osl = constant_lengths(20_000, 10, 10)
    gaps = np.diff(open_loop(isl, osl, rate, cv=cv, seed=1).arrival_us, prepend=0.0)
    assert gaps.mean() == pytest.approx(1e6 / rate, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: open_loop(np.ones(3, int), np.ones(3, int), 0.0), "rate: 0.0"),
        (lambda: open_loop(np.ones(3, int), np.ones(3, int), float("nan")), "rate: nan"),
        (lambda: open_loop(np.ones(3, int), np.ones(3, int), 1.0, cv=0.0), "cv 0.0"),
        (lambda: closed_loop(np.ones(3, int), np.ones(3, int), 0), "concurrency: 0"),
        (lambda: Requests(np.zeros(1, int), np.ones(1, int), np.zeros(1)), "isl"),
        (lambda: Requests(np.ones(1), np.ones(1, int), np.zeros(1)), "isl"),
        (lambda: Requests(np.ones(0, int), np.ones(0, int), np.zeros(0)), "there are none"),
        (lambda: Requests(np.ones(2, int), np.ones(2, int), np.array([1.0, 0.0])), "ascending"),
        (lambda: Requests(np.ones(2, int), np.ones(1, int), np.zeros(2)), "2 isl, 1 osl"),
        (lambda: busy_engine("vllm", kv_tokens=0), "kv_tokens 0"),
        (lambda: busy_engine("vllm", cached_share=1.5), "cached_share 1.5"),
        (lambda: busy_engine("vllm", tokens_per_step=2.0), "2.0 tokens a step"),
    ],
)
def test_bad_input_is_named(make: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()  # type: ignore[operator]


def outcome() -> Outcome:
    isl, osl = constant_lengths(100, 100, 10)
    return simulate(busy_engine("vllm"), open_loop(isl, osl, 50.0, seed=1))


def test_percentiles_attainment_and_goodput_are_those_of_the_requests() -> None:
    got = outcome()
    limit = got.percentile_us("ttft", 0.8)
    assert got.attainment({"ttft": limit}) == pytest.approx(0.8, abs=0.02)
    assert got.goodput_rps({"ttft": limit}) == pytest.approx(got.rate_rps * got.attainment({"ttft": limit}))
    assert got.attainment({}) == 1.0
    assert np.isnan(simulate(busy_engine("vllm", role="prefill"), two(0.0)).mean_us("tpot"))


def test_trimming_leaves_the_middle() -> None:
    got = outcome()
    middle = got.trimmed(0.1, 0.2)
    assert len(middle) == 70
    assert np.array_equal(middle.arrival_us, got.arrival_us[10:80])
    assert len(got.trimmed()) == 100
    with pytest.raises(InputError, match="leave nothing"):
        got.trimmed(0.5, 0.5)
