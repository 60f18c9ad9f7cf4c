"""Time between two tokens: steps of which some hold prompts, against steps drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest

from costmodels.serving.closed_loop.client import JITTER, itl_percentiles

PLAIN, LONGER = 20.0, 30.0


def answered(prompts: float, most: float = 99.0, varied: float = 0.0) -> tuple[float, float]:
    p50, p90 = itl_percentiles(np.array([PLAIN]), np.array([LONGER]), np.array([prompts]), most, varied)
    return float(p50[0]), float(p90[0])


def test_few_prompts_of_one_length_make_two_kinds_of_steps() -> None:
    assert answered(0.0) == (PLAIN, JITTER * PLAIN)
    assert answered(0.05) == (PLAIN, JITTER * PLAIN)
    assert answered(0.15) == pytest.approx((PLAIN, LONGER), rel=0.05)


@pytest.mark.parametrize("prompts", [0.3, 0.8, 1.5, 3.0, 8.0])
@pytest.mark.parametrize("shape", [1.0, 4.0])
def test_prompts_that_come_together_add_up(prompts: float, shape: float) -> None:
    """Half a prompt is a step of lengths that vary, and a length alike is a whole number of them: within that."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(prompts, 200_000)
    held = np.where(counts > 0, rng.gamma(np.maximum(counts, 1) * shape) / shape, 0.0)
    drawn = PLAIN + (LONGER - PLAIN) * np.quantile(held, [0.5, 0.9])
    assert answered(prompts, varied=1 / shape) == pytest.approx((drawn[0], max(drawn[1], JITTER * drawn[0])), rel=0.08)


def test_a_step_holds_no_more_than_fit_and_more_prompts_take_longer() -> None:
    assert answered(50.0, most=3.0) == (PLAIN + 3 * 10, JITTER * (PLAIN + 3 * 10))
    several = [answered(prompts, varied=1.0) for prompts in (0.1, 0.4, 1.0, 3.0, 10.0, 1e4)]
    assert several == sorted(several)
