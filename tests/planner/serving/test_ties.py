"""Plans that predictions cannot tell apart: the simplest is taken, and the proof says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cases import DENSE, SLO, WORKLOAD

from planner.serving.document.plan import Plan
from planner.serving.engines.ties import TIE

Planned = Callable[..., Plan]

FLEETS: dict[str, dict[str, Any]] = {
    "one node": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "a rest": {"model": DENSE, "cluster": "11xH100", "workload": WORKLOAD, "slo": SLO},
    "large engines": {"model": "Qwen/Qwen3-32B", "cluster": "16xH200", "workload": "isl=4000,osl=500", "slo": SLO},
    "two pools": {"model": DENSE, "cluster": "4xH100 + 5xA100", "workload": WORKLOAD, "slo": SLO},
    "odd": {"model": "Qwen/Qwen3-32B", "cluster": "7xH200", "workload": "isl=4000,osl=500", "slo": SLO},
}


@pytest.mark.parametrize("name", FLEETS)
def test_no_more_than_a_tie_is_given_up_for_a_simpler_plan(planned: Planned, name: str) -> None:
    plan = planned(**FLEETS[name])
    proof = plan.proof
    assert proof.objective_value >= proof.bound * (1 - TIE) ** 2 * (1 - 1e-6)
    simpler = proof.gap > 1e-6
    assert (proof.status, proof.simplest_within) == (("feasible", TIE) if simpler else ("optimal", None))
    together = {row.serving: row.objective_value for row in proof.compared if row.objective_value is not None}
    if len(together) == 2 and together["aggregated"] >= together["disaggregated"] * (1 - TIE):
        assert plan.decision.engines[0].role == "aggregated"


@pytest.mark.parametrize("name", FLEETS)
def test_a_kind_more_is_worth_more_than_a_tie(planned: Planned, name: str) -> None:
    """In each pool one layout alone, where that comes so near."""
    plan = planned(**FLEETS[name], disaggregation="never")
    kinds: dict[str, set[str]] = {}
    for engine in plan.decision.engines:
        kinds.setdefault(engine.pool, set()).add(engine.layout.label)
    if any(len(layouts) > 1 for layouts in kinds.values()) and len(kinds) == 1:
        alone = max(each.score for each in plan.alternatives.ranked)
        assert alone < plan.proof.objective_value * (1 - TIE) * (1 + 1e-9)


def test_gpus_and_their_price_are_no_ties(planned: Planned) -> None:
    plan = planned(DENSE, "16xH100", f"{WORKLOAD},rate=200", SLO, objective="gpus")
    assert plan.proof.status == "optimal"
    assert plan.proof.simplest_within is None
