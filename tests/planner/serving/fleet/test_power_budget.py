"""Watts as a limit of the programme: against every fleet that packs and keeps the budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.serving.fleet.fleet import Candidates, choose_fleet
from profiles.errors import Infeasible
from tests.planner.serving.fleet.fleet_twin import candidates, fleets, pool

ENGINE = st.tuples(
    st.just(0), st.sampled_from([1, 2, 4]), st.just(1), st.integers(1, 9).map(float), st.integers(1, 5).map(float)
)


@st.composite
def offered(draw: st.DrawFn) -> Candidates:
    rows = draw(st.lists(ENGINE, min_size=1, max_size=4))
    watts = np.array([draw(st.integers(1, 8)) * 100.0 for _ in rows])
    return replace(candidates(*rows), watts=watts)


@given(offered(), st.integers(1, 30), st.sampled_from(["throughput", "gpus", "cost"]))
@settings(max_examples=60, deadline=None)
def test_the_best_fleet_within_the_budget(c: Candidates, budget: int, objective: str) -> None:
    pools, watts = [pool(gpus=4)], budget * 100.0
    assert c.watts is not None
    counts = np.array(list(fleets(pools, c)))
    within = counts[counts @ c.watts <= watts]
    rate = None if objective == "throughput" else 7.0
    carried = within @ c.capacity_rps
    able = within[carried >= rate] if rate is not None else within[carried > 0]
    if not len(able):
        with pytest.raises(Infeasible):
            choose_fleet(pools, c, objective, rate, budget_watts=watts)  # type: ignore[arg-type]
        return
    found = choose_fleet(pools, c, objective, rate, budget_watts=watts)  # type: ignore[arg-type]
    price = 2.0 if objective == "cost" else 1.0
    best = (able @ c.capacity_rps).max() if rate is None else (able @ c.gpus).min() * price
    assert found.solution.objective == pytest.approx(best)
    assert found.engines @ c.watts <= watts


def test_the_hint_names_the_watts_and_the_rate_that_do() -> None:
    c = replace(candidates((0, 1, 1, 4.0, 1.0), (0, 2, 1, 9.0, 1.0)), watts=np.array([300.0, 500.0]))
    with pytest.raises(Infeasible, match=r"budget_watts: 700 W is less than any fleet .* draws, 800 W") as error:
        choose_fleet([pool()], c, "gpus", 13.0, budget_watts=700.0)
    assert error.value.details["watts_needed"] == 800
    assert error.value.details["highest_rate_rps"] == pytest.approx(9.0)
    assert choose_fleet([pool()], c, "gpus", 13.0, budget_watts=800.0).engines.tolist() == [1, 1]
    assert choose_fleet([pool()], c, "gpus", 9.0, budget_watts=700.0).engines.tolist() == [0, 1]


def test_what_binds_is_the_budget_only_where_it_does() -> None:
    c = replace(candidates((0, 1, 1, 4.0, 1.0)), watts=np.array([300.0]))
    assert choose_fleet([pool()], c, "throughput", budget_watts=700.0).binding == "power budget (600 of 700 W)"
    assert "pool H100" in choose_fleet([pool()], c, "throughput", budget_watts=7000.0).binding
