"""What must never get worse: more GPUs, a looser promise, a lower rate."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from cases import DENSE, EXPERTS

from planner.serving.document.plan import Plan
from planner.serving.engines.ties import TIE

Planned = Callable[..., Plan]

NO_WORSE = (1 - TIE) * (1 - 1e-9)
"""Of plans that differ by no more nobody can tell which is better: the simplest of them is taken."""


@pytest.mark.parametrize("model", [DENSE, EXPERTS])
def test_more_gpus_never_cost_goodput(planned: Planned, model: str) -> None:
    rates = [
        planned(model, f"{gpus}xH100", "isl=2000,osl=200", "ttft=1s,tpot=40ms").proof.objective_value
        for gpus in (1, 2, 3, 4, 6, 8)
    ]
    for fewer, more in pairwise(rates):
        assert more >= fewer * NO_WORSE


def test_a_looser_promise_never_costs_more(planned: Planned) -> None:
    costs = [
        planned(DENSE, "16xH100", "isl=2000,osl=200,rate=40", slo).proof.objective_value
        for slo in ("ttft=0.5s,tpot=20ms", "ttft=0.5s,tpot=30ms", "ttft=1s,tpot=30ms", "ttft=2s,tpot=60ms", "")
    ]
    assert costs == sorted(costs, reverse=True)


def test_a_lower_rate_never_costs_more(planned: Planned) -> None:
    costs = [
        planned(DENSE, "16xH100", f"isl=2000,osl=200,rate={rate}", "ttft=1s,tpot=30ms").proof.objective_value
        for rate in (0.001, 0.1, 1, 5, 10, 20, 40, 80)
    ]
    assert costs == sorted(costs)


@pytest.mark.parametrize("model", [DENSE, EXPERTS])
def test_more_to_choose_from_is_never_worse(planned: Planned, model: str) -> None:
    """Of layouts, of ways to serve and of precisions: each space holds the one before it."""
    spaces: list[dict[str, Any]] = [
        {"max_tp": 1, "disaggregation": "never"},
        {"max_tp": 2, "disaggregation": "never"},
        {"disaggregation": "never"},
        {},
        {"precision": ["bf16", "fp8"]},
    ]
    rates = [
        planned(model, "8xH100", "isl=2000,osl=200", "ttft=1s,tpot=40ms", **space).proof.objective_value
        for space in spaces
    ]
    for smaller, larger in pairwise(rates):
        assert larger >= smaller * NO_WORSE
