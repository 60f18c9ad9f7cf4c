"""Hints of requests that have no plan, followed to the letter."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from planner.serving.planning import plan
from planner.serving.request import PlanRequest, parse_request
from planner.serving.ways_out import with_tried_hint
from profiles.errors import Infeasible
from profiles.store import ProfileStore

DENSE, EXPERTS = "Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"
EASY = {"model": DENSE, "cluster": "1xH100", "workload": "isl=1000,osl=100", "slo": "ttft=1s,tpot=50ms"}


def followed(request: dict[str, Any], hint: str) -> list[dict[str, Any]]:
    """The requests that a hint says have a plan."""
    ways = []
    rates = re.findall(r"offer at most ([0-9.e+-]+) requests/s", hint)
    if " and offer at most" in hint:  # both, or neither helps
        request, rates = {**request, "workload": re.sub(r"rate=[^,]+", f"rate={rates[0]}", request["workload"])}, []
    for rate in rates:
        ways.append({**request, "workload": re.sub(r"rate=[^,]+", f"rate={rate}", request["workload"])})
    for gpus in re.findall(r"\b([0-9]+) GPUs of pool", hint):
        ways.append({**request, "cluster": re.sub(r"^[0-9]+", gpus, request["cluster"])})
    limits = dict(item.split("=") for item in request["slo"].split(","))
    relaxed = re.findall(r"(\w+_p[0-9.]+) to ([0-9.]+) ms", hint)
    if relaxed:
        new = limits | {label: f"{ms}ms" for label, ms in relaxed}
        ways.append({**request, "slo": ",".join(f"{label}={limit}" for label, limit in new.items())})
    return ways


@st.composite
def too_much(draw: st.DrawFn) -> dict[str, Any]:
    """Requests of which most have no plan: too fast for any engine, or more than the GPUs carry."""
    isl, osl = draw(st.integers(50, 6000)), draw(st.integers(2, 600))
    rate = round(10 ** draw(st.floats(-3, 3.5)), 4)
    metrics = {"ttft": draw(st.floats(5, 2000)), "tpot": draw(st.floats(1, 40))}
    percentile = draw(st.sampled_from(["p90", "p99"]))
    return {
        "model": draw(st.sampled_from([DENSE, EXPERTS])),
        "cluster": draw(st.sampled_from(["1xH100", "2xH100", "4xL40S"])),
        "workload": f"isl={isl},osl={osl},rate={rate}",
        "slo": ",".join(f"{metric}_{percentile}={limit:.3f}ms" for metric, limit in metrics.items()),
        "disaggregation": "never",
    }


@pytest.mark.slow
@given(request_=too_much())
@settings(max_examples=36, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_hint_followed_to_the_letter_has_a_plan(bare: ProfileStore, request_: dict[str, Any]) -> None:
    hint = ""
    try:
        plan(request_, store=bare)
    except Infeasible as error:
        hint = error.hint
    assume(hint)
    for way in followed(request_, hint):
        assert plan(way, store=bare), (hint, way)


def test_a_rate_that_the_simulation_does_not_carry_is_not_offered(bare: ProfileStore) -> None:
    request = {
        "model": DENSE,
        "cluster": "1xH100",
        "workload": "isl=3000,osl=300,rate=400",
        "slo": "ttft_p99=800ms,tpot_p99=12ms",
    }
    with pytest.raises(Infeasible) as caught:
        plan(request, store=bare)
    ways = followed(request, caught.value.hint)
    assert ways
    for way in ways:
        assert plan(way, store=bare)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workload": "isl=3000,osl=300,rate=400", "headroom": 0.25}, "offer at most"),
        ({"workload": "isl=3000,osl=300,rate=400", "slo": "ttft_p99=1ms,tpot_p99=12ms"}, " and offer at most"),
        ({"workload": "isl=3000,osl=300,concurrency=400"}, "concurrency="),
        pytest.param(
            {"cluster": "L40S", "workload": "isl=3000,osl=300,rate=1", "slo": "tpot_p99=1ms"},
            "relax tpot_p99 to",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_hints_are_planned_as_they_were_asked_for(bare: ProfileStore, changes: dict[str, Any], said: str) -> None:
    """With the headroom on top, for users at once, on as many GPUs as are needed; a bound that no rate of that load
    holds with a rate that does."""
    request = {"model": DENSE, "cluster": "1xH100", "slo": "ttft_p99=800ms,tpot_p99=12ms", **changes}
    with pytest.raises(Infeasible) as caught:
        plan(request, store=bare)
    hint = caught.value.hint
    assert said in hint
    assert "about" not in hint
    ways = followed(request, hint)
    for users in re.findall(r"concurrency=([0-9]+)", hint):
        ways.append({**request, "workload": re.sub(r"concurrency=[0-9]+", f"concurrency={users}", request["workload"])})
    assert ways
    for way in ways:
        assert plan(way, store=bare), (hint, way)


@pytest.mark.parametrize("objective", ["cost", "latency"])
@pytest.mark.parametrize("enough", [9, 13, 37, 44, 48])
def test_so_many_gpus_are_about_the_fewest_that_do(enough: int, objective: str) -> None:
    """Whatever formulas say (48 were told where 37 do), and whether or not plans take more than they need."""
    asked = {**EASY, "cluster": "8xH100", "workload": "isl=2000,osl=200,rate=30", "objective": objective}
    request = parse_request(asked)

    def tries(changed: PlanRequest) -> Infeasible | dict[str, int]:
        gpus = changed.cluster.pools[0].gpus
        taken = enough if changed.goal == "cost" else gpus
        return {"H100-SXM": taken} if gpus >= enough else Infeasible("", "", highest_rate_rps=30 * gpus / enough)

    error = Infeasible("more than it carries", "", highest_rate_rps=5.0, gpus_needed={"H100-SXM": 48})
    hint = with_tried_hint(request, error, tries).hint
    (told,) = map(int, re.findall(r"have ([0-9]+) GPUs", hint))
    assert enough <= told <= max(math.ceil(enough * 1.06), enough + 2)


@pytest.mark.parametrize("enough", [78.0, 100.0, 149.0])
def test_a_relaxed_bound_is_about_the_least_that_does(enough: float) -> None:
    request = parse_request({**EASY, "slo": "ttft_p90=40ms,tpot_p90=50ms"})

    def tries(changed: PlanRequest) -> Infeasible | dict[str, int]:
        return {} if changed.slo.bounds[0].limit_ms >= enough else Infeasible("", "")

    error = Infeasible("slo binds", "relax ttft_p90 to 50 ms or more", relax_ms={"ttft_p90": 50.0})
    (told,) = map(float, re.findall(r"ttft_p90 to ([0-9.]+) ms", with_tried_hint(request, error, tries).hint))
    assert enough <= told <= enough * 1.15  # two digits, upwards


def test_where_memory_and_the_slo_bind_the_hint_names_the_room(bare: ProfileStore) -> None:
    asked = {"model": EXPERTS, "cluster": "1xL40S", "workload": "isl=3000,osl=600,rate=8", "slo": "ttft=37ms,tpot=20ms"}
    with pytest.raises(Infeasible) as refused:
        plan(asked, store=bare)
    assert re.fullmatch(r"[0-9]+ L40S would do \(1 are offered\), for a looser SLO or less load", refused.value.hint)
    gpus = refused.value.hint.split()[0]
    plan({**asked, "cluster": f"{gpus}xL40S", "workload": "isl=3000,osl=600", "slo": ""}, store=bare)
