"""Experts placed as a part of a plan: whose, where, and how well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import DENSE, EXPERTS, LATENT, WORKLOAD

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from planner.contract.clusters import parse_cluster
from planner.contract.engine import EngineGroup
from planner.experts.model import moe_model
from planner.experts.placement import Loads, Placement, Topology
from planner.experts.placing import PlacementJob, place
from planner.experts.ranks import Ranks
from planner.experts.synthetic import synthetic_loads
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.planning import plan
from profiles.errors import InputError
from profiles.store import ProfileStore

MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
CASES = [
    (EXPERTS, "vllm", "ttft=1s,tpot=25ms"),  # prefill EP2, decode EP4
    (LATENT, "vllm", "tpot=5ms"),  # a dense layer; one group of three with ep 1
    (MIXTRAL, "sglang", "tpot=9ms"),  # EP2 of tensor-split experts
]


def loads_for(model: str, windows: int = 1) -> Loads:
    return synthetic_loads(moe_model(find_architecture(model)), 0.7, windows=windows, drift=0.2)


def planned_with(store: ProfileStore, case: tuple[str, str, str], loads: Loads | None, **more: Any) -> Plan:
    model, framework, slo = case
    request = {"model": model, "cluster": "8xH100", "workload": WORKLOAD, "slo": slo, "framework": framework, **more}
    return plan(request, store=store, expert_loads=loads)


def shared_out(made: Plan) -> list[EngineGroup]:
    groups = [group for group in made.decision.engines if group.layout.ep > 1]
    assert groups, "the case no longer chooses expert parallelism"
    return groups


@pytest.mark.parametrize("case", CASES)
def test_every_group_with_expert_parallelism_and_no_other_gets_a_placement(
    bare: ProfileStore, case: tuple[str, str, str]
) -> None:
    loads = loads_for(case[0])
    made = planned_with(bare, case, loads)
    assert all((g.expert_placement is not None) == (g.layout.ep > 1) for g in made.decision.engines)
    for group in shared_out(made):
        placed = group.expert_placement
        assert placed is not None
        assert placed.layer_index == tuple(loads.layer_index.tolist())
        assert placed.slots_per_rank * group.layout.ep == loads.experts
        rows = np.array(placed.physical_to_logical_map)
        assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(loads.experts), (loads.layers, 1)))
        assert 0 <= placed.gap < 1


@pytest.mark.parametrize("case", CASES)
def test_balance_is_that_of_the_map_never_worse_than_the_default_and_within_its_bound(
    bare: ProfileStore, case: tuple[str, str, str]
) -> None:
    loads = loads_for(case[0], windows=1 if case[0] == EXPERTS else 2)
    for group in shared_out(planned_with(bare, case, loads)):
        placed = group.expert_placement
        assert placed is not None
        topology = Topology.uniform(group.layout.ep, placed.slots_per_rank)
        rows = np.array(placed.physical_to_logical_map)
        reached = Placement(topology, rows, loads.experts).balancedness(loads.counts).mean(axis=1)
        assert [window.window for window in placed.balancedness] == list(loads.names)
        assert [window.after for window in placed.balancedness] == pytest.approx(reached.tolist(), abs=1e-9)
        for window in placed.balancedness:
            assert 0 < window.before <= window.after <= window.bound <= 1


def test_the_placement_is_the_one_that_plan_experts_writes(bare: ProfileStore) -> None:
    architecture, loads = find_architecture(EXPERTS), loads_for(EXPERTS)
    group = shared_out(planned_with(bare, CASES[0], loads))[-1]
    ranks = Ranks.of(parse_cluster(f"{group.layout.ep}xH100"))
    slots = np.full(ranks.gpus, loads.experts // ranks.gpus)
    job = PlacementJob(
        architecture, moe_model(architecture), choose_precision(architecture), "vllm", ranks, slots, loads
    )
    assert group.expert_placement is not None
    alone = place(job, store=bare).after.physical_to_logical
    assert np.array_equal(alone, group.expert_placement.physical_to_logical_map)


def test_statistics_change_nothing_else_and_the_plan_opens_again(bare: ProfileStore) -> None:
    """Where all ranks gather: an exchange takes as long as the busiest GPU under the loads."""
    without = planned_with(bare, CASES[0], None, exchange="none")
    made = planned_with(bare, CASES[0], loads_for(EXPERTS), exchange="none")
    assert parse_plan(made.to_json()) == made
    assert all(group.expert_placement is None for group in without.decision.engines)
    stripped = [group.model_copy(update={"expert_placement": None}) for group in made.decision.engines]
    assert stripped == list(without.decision.engines)
    assert (made.prediction, made.proof) == (without.prediction, without.proof)
    (note,) = set(made.provenance.notes) - set(without.provenance.notes)
    assert "predicted times take tokens as spread as power_law" in note


def test_plans_of_schema_1_1_from_before_there_were_placements_open() -> None:
    document = json.loads((Path(__file__).parent / "fixtures" / "plan-1.1.json").read_text("utf-8"))
    for group in document["decision"]["engines"]:
        del group["expert_placement"]
    assert all(group.expert_placement is None for group in parse_plan(json.dumps(document)).decision.engines)


def test_rows_of_the_map_take_a_line_each(bare: ProfileStore) -> None:
    made = planned_with(bare, CASES[0], loads_for(EXPERTS))
    row = shared_out(made)[0].expert_placement
    assert row is not None
    assert str(list(row.physical_to_logical_map[0])) in made.to_json()


def test_a_plan_without_expert_parallelism_says_that_there_is_nothing_to_place(bare: ProfileStore) -> None:
    made = planned_with(bare, CASES[0], loads_for(EXPERTS), max_engine_gpus=1)
    assert all(group.expert_placement is None for group in made.decision.engines)
    assert any("there is nothing to place" in note for note in made.provenance.notes)


def test_dense_models_are_refused(bare: ProfileStore) -> None:
    with pytest.raises(InputError, match=r"--expert-loads: Qwen/Qwen3-8B has no routed experts") as caught:
        planned_with(bare, (DENSE, "vllm", ""), loads_for(EXPERTS))
    assert "mixture-of-experts" in caught.value.hint


def test_counts_of_another_model_are_refused(bare: ProfileStore) -> None:
    with pytest.raises(InputError, match=r"--expert-loads: counts of 32 layers with 8 experts") as caught:
        planned_with(bare, CASES[0], loads_for(MIXTRAL))
    assert "48 MoE layers with 128 experts each" in caught.value.hint
