"""Which expert gets how much: deterministic, whole, and as skewed as the shipped rows' routing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.collect.operations.routing import busiest_loads

_routing = st.sampled_from(["balanced", "power_law_1.01", "power_law_1.2", "power_law_1"])


@given(
    tokens=st.integers(1, 5000),
    top_k=st.integers(1, 8),
    experts=st.sampled_from([8, 64, 128]),
    moe_ep=st.sampled_from([1, 2, 8]),
    routing=_routing,
)
def test_the_busiest_gpu_has_at_least_its_share_and_no_expert_more_than_the_tokens(
    tokens: int, top_k: int, experts: int, moe_ep: int, routing: str
) -> None:
    loads = busiest_loads(tokens, top_k, experts, moe_ep, routing)
    assert len(loads) == experts // moe_ep
    assert min(loads) >= 0
    assert max(loads) <= tokens
    assert sum(loads) >= min(tokens * top_k / moe_ep, tokens * len(loads))
    assert sum(loads) <= tokens * top_k
    assert loads == busiest_loads(tokens, top_k, experts, moe_ep, routing)


@given(tokens=st.integers(1, 5000), top_k=st.integers(1, 8), routing=_routing)
def test_one_gpu_has_all_pairs(tokens: int, top_k: int, routing: str) -> None:
    assert sum(busiest_loads(tokens, top_k, 64, 1, routing)) == tokens * top_k


def test_balanced_loads_differ_by_one_at_most() -> None:
    loads = busiest_loads(1000, 6, 64, 4, "balanced")
    assert sum(loads) == 1500
    assert max(loads) - min(loads) <= 1


def test_a_greater_alpha_is_more_skewed_than_balance() -> None:
    def share(routing: str) -> float:
        loads = busiest_loads(4096, 8, 128, 1, routing)
        return max(loads) / sum(loads)

    assert share("balanced") == pytest.approx(1 / 128, rel=0.01)
    assert share("balanced") < share("power_law_1.01") < share("power_law_1.2")


@pytest.mark.parametrize(
    ("tokens", "top_k", "experts", "moe_ep", "alpha"),
    [(128, 8, 128, 8, 1.2), (4096, 8, 256, 8, 1.01), (4096, 8, 256, 32, 1.2), (16384, 8, 384, 16, 1.01)],
)
def test_the_load_is_what_random_draws_of_the_same_law_give(
    tokens: int, top_k: int, experts: int, moe_ep: int, alpha: float
) -> None:
    """The published collector draws at random; ours must lie within one standard deviation of its mean."""
    random = np.random.default_rng(0)
    low, high, power = 1.0, 0.8 * tokens, 1 - alpha
    draws = (low**power + random.random((400, experts)) * (high**power - low**power)) ** (1 / power)
    loads = draws / draws.sum(axis=1, keepdims=True) * tokens * top_k
    busiest = loads.reshape(400, moe_ep, -1).sum(axis=2).max(axis=1)
    ours = sum(busiest_loads(tokens, top_k, experts, moe_ep, f"power_law_{alpha}"))
    assert abs(ours - busiest.mean()) <= busiest.std()


def test_experts_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(ValueError, match="10 experts cannot be shared out evenly over moe_ep=4"):
        busiest_loads(10, 2, 10, 4, "balanced")
    with pytest.raises(ValueError, match="zipf"):
        busiest_loads(10, 2, 8, 4, "zipf_1.2")
