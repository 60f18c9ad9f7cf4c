"""A closed loop in lock step: against single requests played one by one, and against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.serving.closed_loop import GENERATIONS, SLOTS, ClosedLoop, StepGrid, closed_loop


def grid(n: int, decode_us: float, prompt_us: float, *, mixed: bool = False, most: int = 1) -> StepGrid:
    """Decode steps of constant length, prompts that take equally long each."""
    levels = np.array([1.0, float(most)])
    return StepGrid(
        np.tile([1.0, 1e6], (n, 1)),
        np.full((n, 2), decode_us),
        np.tile(levels, (n, 1)),
        np.tile(levels * prompt_us, (n, 1)),
        np.ones(n),
        np.full(n, mixed),
    )


def play(steps: StepGrid, concurrency: int, osl: int, *, running: int = 10**6, shortest: float = 1.0) -> ClosedLoop:
    n = len(steps.chunks)
    ones = np.ones(n, np.int64)
    return closed_loop(steps, concurrency * ones, running * ones, ones, osl * ones, shortest)


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


def test_every_request_is_counted_once() -> None:
    for concurrency in (1, 3, SLOTS, 4 * SLOTS):
        loop = play(grid(1, 10.0, 100.0), concurrency, 200, shortest=0.8)
        expected = min(concurrency, SLOTS) * GENERATIONS
        for values in (loop.ttft, loop.tpot, loop.e2e):
            assert np.isfinite(values[0]).sum() == expected


def test_decodes_go_on_beside_prompts_where_the_engine_mixes_them() -> None:
    stalled, mixed = (play(grid(1, 10.0, 1000.0, mixed=m), 8, 200, shortest=0.8) for m in (False, True))
    assert np.nanmean(mixed.tpot) < np.nanmean(stalled.tpot)


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


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.1, 10.0), concurrency=st.integers(1, 24), prompt=st.floats(10.0, 5000.0))
def test_a_machine_that_is_slower_in_everything_is_slower_by_as_much(
    scale: float, concurrency: int, prompt: float
) -> None:
    one = play(grid(1, 20.0, prompt), concurrency, 60, shortest=0.8)
    other = play(grid(1, 20.0 * scale, prompt * scale), concurrency, 60, shortest=0.8)
    assert np.nanmean(other.ttft) == pytest.approx(scale * np.nanmean(one.ttft), rel=1e-6)
    assert np.nanmean(other.tpot) == pytest.approx(scale * np.nanmean(one.tpot), rel=1e-6)


def test_configurations_are_played_independently_of_their_neighbours() -> None:
    concurrency = np.array([1, 5, 16, 40])
    steps = grid(4, 10.0, 300.0)
    ones = np.ones(4, np.int64)
    together = closed_loop(steps, concurrency, 10**6 * ones, ones, 100 * ones)
    for i, count in enumerate(concurrency):
        alone = play(grid(1, 10.0, 300.0), int(count), 100, shortest=0.8)
        np.testing.assert_allclose(together.ttft[i], alone.ttft[0])
        assert together.output_tokens_per_s[i] == pytest.approx(alone.output_tokens_per_s[0])


def test_clusters_stand_for_single_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    clustered = play(grid(1, 5000.0, 900.0, most=8), 4 * SLOTS, 300, shortest=0.8)
    monkeypatch.setattr("costmodels.serving.closed_loop.SLOTS", 4 * SLOTS)
    single = play(grid(1, 5000.0, 900.0, most=8), 4 * SLOTS, 300, shortest=0.8)
    assert np.nanmean(clustered.tpot) == pytest.approx(np.nanmean(single.tpot), rel=0.02)
    assert np.nanmean(clustered.ttft) == pytest.approx(np.nanmean(single.ttft), rel=0.15)
