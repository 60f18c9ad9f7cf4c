"""A closed loop in lock step: against single requests played one by one, and against arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.serving.closed_loop.client import percentiles
from costmodels.serving.closed_loop.protocol import GENERATIONS, SLOTS, Clients, ClosedLoop, Gate, StepGrid, closed_loop


def grid(n: int, decode_us: float, prompt_us: float, *, mixed: bool = False, most: int = 1) -> StepGrid:
    """Decode steps of constant length, prompts that take equally long each."""
    levels = np.array([1.0, float(most)])
    return StepGrid(
        np.tile([1.0, 1e6], (n, 1)),
        np.full((n, 2), decode_us),
        np.tile(levels, (n, 1)),
        np.tile(levels * prompt_us, (n, 1)),
        np.zeros((n, 2)),
        np.ones(n),
        np.ones(n, np.int64),
        np.full(n, mixed),
    )


def play(
    steps: StepGrid,
    concurrency: int,
    osl: int,
    *,
    running: int = 10**6,
    shortest: float = 1.0,
    gate: Gate | None = None,
    travel_us: float = 0.0,
    generations: int = GENERATIONS,
) -> ClosedLoop:
    n = len(steps.chunks)
    ones = np.ones(n, np.int64)
    sent = Clients.of(concurrency * ones, osl * ones, shortest, generations, travel_us=travel_us)
    return closed_loop(steps, sent, running * ones, ones, gate)


def gated(steps: float, *, enough: float = np.inf, free_running: bool = False) -> Gate:
    return Gate(np.array([steps]), np.array([enough]), np.array([free_running]))


def test_one_request_at_a_time_waits_for_its_prompt_and_its_steps_alone() -> None:
    loop = play(grid(1, 10.0, 1000.0), 1, 101)
    assert np.nanmean(loop.ttft) == pytest.approx(1000.0)
    assert np.nanmean(loop.tpot) == pytest.approx(10.0)
    assert np.nanmean(loop.e2e) == pytest.approx(1000.0 + 100 * 10.0)
    assert loop.output_tokens_per_s[0] == pytest.approx(101 / 2000.0 * 1e6)


def test_a_burst_of_equal_requests_queues_for_prefill_in_every_wave() -> None:
    # Equal lengths finish together, so each wave is a burst again: the k-th prompt waits for k.
    loop = play(grid(1, 10.0, 1000.0), 4, 1001)
    first = loop.ttft[0, :4]
    np.testing.assert_allclose(first, [1000.0, 2000.0, 3000.0, 4000.0])


@pytest.mark.parametrize("running", [11, 17, 100])
def test_more_clients_than_an_engine_holds_do_not_slow_it_down(running: int) -> None:
    """Slots stand for several clients each, and an engine of 11 sequences holds 11 of them however many wait."""
    rates = [
        float(play(grid(1, 10.0, 10.0), clients, 1001, running=running).output_tokens_per_s[0])
        for clients in (2 * running, 96, 130, 256, 320)
        if clients >= running
    ]
    assert min(rates) > 0.9 * max(rates)


def test_every_request_is_counted_once() -> None:
    for concurrency in (1, 3, SLOTS, 4 * SLOTS):
        loop = play(grid(1, 10.0, 100.0), concurrency, 200, shortest=0.8)
        expected = min(concurrency, SLOTS) * GENERATIONS
        for values in (loop.ttft, loop.tpot, loop.e2e):
            assert np.isfinite(values[0]).sum() == expected


def test_decodes_go_on_beside_prompts_where_the_engine_mixes_them() -> None:
    stalled, mixed = (play(grid(1, 10.0, 1000.0, mixed=m), 8, 200, shortest=0.8) for m in (False, True))
    assert np.nanmean(mixed.tpot) < np.nanmean(stalled.tpot)


@pytest.mark.parametrize("requests", [100, 500, 1000])
def test_requests_sent_at_once_meet_the_prompts_of_those_that_follow(requests: int) -> None:
    """Of many that wait an engine holds 16: as one is done the next has its prompt, in a step of all others. Each sees
    the prompts of the 15 others among its 99 steps."""
    loop = play(grid(1, 50.0, 500.0, mixed=True), requests, 100, running=16, generations=1)
    assert np.nanmedian(loop.tpot) == pytest.approx((15 * 500.0 + 84 * 50.0) / 99, rel=0.12)
    assert loop.tpot_prefill[0] > 0.5
    assert np.nanmax(loop.ttft) == pytest.approx(requests / 16 * (16 * 500.0 + 84 * 50.0), rel=0.15)


def test_the_first_prompts_of_a_burst_have_fewer_decodes_beside_them() -> None:
    """A step with prompts is asked with all decodes riding along; at the start nobody decodes."""
    steps = grid(1, 10.0, 1000.0, mixed=True)
    steps = replace(steps, decode_batch=np.array([[1.0, 8.0]]), decode_us=np.array([[10.0, 80.0]]))
    burst = play(steps, 8, 1000).ttft[0, :8]
    assert burst[0] == pytest.approx(1000.0 - 70.0)
    assert burst[7] == pytest.approx(8 * 1000.0 - sum(70.0 - max(10.0 * k - 10.0, 0.0) for k in range(8)))


def test_users_of_whom_an_engine_holds_few_meet_the_prompts_of_those_that_follow() -> None:
    """As above, of 500 users who each send ten."""
    loop = play(grid(1, 50.0, 500.0, mixed=True), 500, 100, running=16)
    assert np.nanmedian(loop.tpot) == pytest.approx((15 * 500.0 + 84 * 50.0) / 99, rel=0.12)


def test_a_full_cache_makes_requests_wait_and_those_that_run_faster_through() -> None:
    free, full = (play(grid(1, 10.0, 100.0), 16, 200, running=running) for running in (16, 4))
    assert np.nanmean(full.ttft) > 3 * np.nanmean(free.ttft)
    assert np.nanmean(full.tpot) <= np.nanmean(free.tpot)


def test_shares_say_how_much_was_spent_in_steps_with_prompts() -> None:
    loop = play(grid(1, 10.0, 1000.0), 1, 101)
    assert loop.ttft_prefill[0] == pytest.approx(1.0)
    assert loop.tpot_prefill[0] == pytest.approx(0.0)
    busy = play(grid(1, 10.0, 1000.0), 8, 50, shortest=0.8)
    assert 0.5 < busy.tpot_prefill[0] < 1.0


def test_all_time_is_at_a_level_of_the_grid_prompts_that_no_answer_waits_for_too() -> None:
    alone = play(grid(1, 10.0, 1000.0), 1, 101)  # a prompt of 1,000 and 100 steps of 10
    np.testing.assert_allclose([alone.time_at[0, 0], alone.time_at[0, 1:].sum()], [0.5, 0.5])
    steps = grid(1, 10.0, 1000.0, mixed=True)
    steps = replace(steps, decode_batch=np.array([[1.0, 8.0]]), decode_us=np.array([[10.0, 10.0]]))
    eight = play(steps, 8, 1000, shortest=0.8)
    assert eight.time_at.sum() == pytest.approx(1.0)
    assert eight.time_at[0, 0] < eight.time_at[0, 1]  # mostly all eight decode
    # Prompts take as long as those of all requests together.
    whole = eight.time_at[0, 2:].sum() / eight.output_tokens_per_s[0] * 1e6 * 900
    assert whole == pytest.approx(1000.0, rel=0.1)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.1, 10.0), concurrency=st.integers(1, 24), prompt=st.floats(10.0, 5000.0))
def test_a_machine_that_is_slower_in_everything_is_slower_by_as_much(
    scale: float, concurrency: int, prompt: float
) -> None:
    one = play(grid(1, 20.0, prompt), concurrency, 60, shortest=0.8)
    other = play(grid(1, 20.0 * scale, prompt * scale), concurrency, 60, shortest=0.8)
    assert np.nanmean(other.ttft) == pytest.approx(scale * np.nanmean(one.ttft), rel=1e-6)
    assert np.nanmean(other.tpot) == pytest.approx(scale * np.nanmean(one.tpot), rel=1e-6)


def test_what_ends_while_a_request_is_on_its_way_is_let_in_with_it() -> None:
    """Decodes ride along with prompts, one prompt a step: of four equal sequences each ends a step after another. Where
    the next request is there at once, it has the engine before the others end; where it is on its way meanwhile, all
    four come together, in every wave."""
    mixed = grid(1, 10.0, 1000.0, mixed=True)
    at_once, on_its_way = play(mixed, 4, 101), play(mixed, 4, 101, travel_us=50.0)
    assert np.nanmean(at_once.ttft[0, 8:]) == pytest.approx(1000.0, rel=0.02)
    assert np.nanmean(on_its_way.ttft[0, 8:]) == pytest.approx(2500.0, rel=0.02)
    assert np.nanmean(on_its_way.tpot) < np.nanmean(at_once.tpot)
    assert on_its_way.output_tokens_per_s[0] == pytest.approx(at_once.output_tokens_per_s[0], rel=0.05)


def test_a_lone_client_waits_for_its_own_way_between_requests() -> None:
    near, far = (play(grid(1, 10.0, 1000.0), 1, 101, travel_us=way) for way in (0.0, 500.0))
    np.testing.assert_allclose(near.ttft, far.ttft)
    assert far.output_tokens_per_s[0] == pytest.approx(101 / 2500.0 * 1e6)


def test_configurations_are_played_independently_of_their_neighbours() -> None:
    concurrency = np.array([1, 5, 16, 40])
    steps = grid(4, 10.0, 300.0)
    ones = np.ones(4, np.int64)
    together = closed_loop(steps, Clients.of(concurrency, 100 * ones), 10**6 * ones, ones)
    for i, count in enumerate(concurrency):
        alone = play(grid(1, 10.0, 300.0), int(count), 100, shortest=0.8)
        np.testing.assert_allclose(together.ttft[i], alone.ttft[0])
        assert together.output_tokens_per_s[i] == pytest.approx(alone.output_tokens_per_s[0])


def test_clusters_stand_for_single_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    clustered = play(grid(1, 5000.0, 900.0, most=8), 4 * SLOTS, 300, shortest=0.8)
    monkeypatch.setattr("costmodels.serving.closed_loop.protocol.SLOTS", 4 * SLOTS)
    single = play(grid(1, 5000.0, 900.0, most=8), 4 * SLOTS, 300, shortest=0.8)
    assert np.nanmean(clustered.tpot) == pytest.approx(np.nanmean(single.tpot), rel=0.02)
    assert np.nanmean(clustered.ttft) == pytest.approx(np.nanmean(single.ttft), rel=0.15)


def test_prompts_of_a_queue_follow_one_pipeline_stage_apart_and_a_lone_one_goes_through_all() -> None:
    # Four stages of 250: all four prompts of a burst, then each of the later ones on its own.
    steps = replace(grid(1, 10.0, 250.0), fill_us=np.full((1, 2), 750.0), stages=np.array([4]))
    loop = play(steps, 4, 1001)
    np.testing.assert_allclose(loop.ttft[0, :4], [1000.0, 1250.0, 1500.0, 1750.0])
    alone = play(steps, 1, 1001)
    np.testing.assert_allclose(alone.ttft[0, :GENERATIONS], 1000.0)


def test_prompts_that_wait_fill_the_steps_of_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each of 32 ranks takes a prompt in a step of 85, decode steps take 25. Where each step takes only what comes in
    # one, users of clusters wait 98 times as long as these.
    ranks, users = np.array([32]), np.array([2048])
    steps = replace(grid(1, 25.0, 1.0, mixed=True, most=32), prefill_us=np.array([[85.0, 85.0]]))
    sent = Clients.of(users, np.array([300]), 0.8)
    clustered = closed_loop(steps, sent, np.array([10**6]), ranks)
    monkeypatch.setattr("costmodels.serving.closed_loop.protocol.SLOTS", 2048)
    single = closed_loop(steps, sent, np.array([10**6]), ranks)
    assert np.nanmean(clustered.ttft) < 2.5 * np.nanmean(single.ttft)
    assert np.nanmean(clustered.tpot) == pytest.approx(np.nanmean(single.tpot), rel=0.15)
    assert clustered.output_tokens_per_s[0] == pytest.approx(single.output_tokens_per_s[0], rel=0.18)


@pytest.mark.parametrize("mixed", [False, True])
def test_prompts_of_clusters_come_one_by_one_after_the_burst(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # A prompt costs 800 alone and 100 beside others; few end in the same step.
    steps = grid(1, 100.0, 1.0, mixed=mixed, most=8)
    steps = replace(steps, prefill_us=np.array([[800.0, 1500.0]]))
    clustered = play(steps, 4 * SLOTS, 1000, shortest=0.8)
    monkeypatch.setattr("costmodels.serving.closed_loop.protocol.SLOTS", 4 * SLOTS)
    single = play(steps, 4 * SLOTS, 1000, shortest=0.8)
    for name in ("ttft", "tpot"):
        got, truth = (np.nanmean(getattr(loop, name)) for loop in (clustered, single))
        assert got == pytest.approx(truth, rel=0.1), name
    assert clustered.output_tokens_per_s[0] == pytest.approx(single.output_tokens_per_s[0], rel=0.05)


def test_a_gate_makes_prompts_wait_so_many_steps_while_others_decode() -> None:
    # Two requests of random lengths: each comes back while the other decodes, and prompts take next to no time.
    steps = grid(1, 10.0, 1e-3)
    free, shut = (play(steps, 2, 2000, shortest=0.8, gate=gate) for gate in (None, gated(20.0)))
    later = slice(2, None)  # the burst finds the engine idle
    np.testing.assert_allclose(np.nanmax(free.ttft[0, later]), 0.0, atol=1.0)
    np.testing.assert_allclose(np.nanmedian(shut.ttft[0, later]), 20 * 10.0, atol=1.0)
    assert np.nanmax(shut.ttft[0, :2]) < 1.0


def test_a_gate_that_counts_all_the_time_is_half_open_on_average() -> None:
    steps = grid(1, 10.0, 1e-3)
    polled = play(steps, 2, 2000, shortest=0.8, gate=gated(200.0, free_running=True))
    waits = polled.ttft[0, 2:]
    assert np.nanmax(waits) <= 200 * 10.0 + 1.0
    assert np.nanmean(waits) == pytest.approx(100 * 10.0, rel=0.35)


def test_a_gate_opens_early_for_enough_requests_and_never_for_an_idle_engine() -> None:
    steps = grid(1, 10.0, 100.0)
    plain = play(steps, 4, 500, shortest=0.8)
    one_is_enough = play(steps, 4, 500, shortest=0.8, gate=gated(1000.0, enough=1.0))
    np.testing.assert_array_equal(plain.ttft, one_is_enough.ttft)
    alone, behind = (play(steps, 1, 500, shortest=0.8, gate=gate) for gate in (None, gated(1000.0)))
    np.testing.assert_array_equal(alone.ttft, behind.ttft)


def test_gates_count_engine_steps_however_many_tokens_they_yield() -> None:
    assert gated(20.0).after(np.array([2.5])).steps[0] == 50.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 10**6), st.floats(0, 1))
def test_percentiles_are_numpys_of_each_row_to_the_last_bit(n: int, most: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.lognormal(size=(n, most))
    values[rng.random(values.shape) < share] = np.nan
    values[:, rng.integers(most)] = 1.0
    assert (percentiles(values, [0.5, 0.99]) == np.nanquantile(values, [0.5, 0.99], axis=1)).all()
