"""Fleets of measured tables: Mélange's and AIBrix's files, answered with a plan document."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planner.kinds import schema
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.fleets.files import read_fleet
from planner.serving.fleets.planning import plan_fleet
from planner.serving.fleets.request import parse_fleet_request
from planner.solving.mix.question import MixQuestion, Survive
from planner.solving.mix.solve import solve_mix
from profiles.errors import Infeasible, InputError

MELANGE: dict[str, Any] = {
    "gpu_info": {
        "A10G": {"cost": 1.01, "tputs": [[2, 1], [5, 2]]},
        "A100-80GB": {"cost": 3.67, "tputs": [[20, 20], [40, 20]]},
    },
    "workload_distribution": [[0.2, 0.1], [0.5, 0.2]],
    "total_request_rate": 30,
    "slice_factor": 1,
}
"""The example of arXiv:2404.14527's repository, with its published answers 6.70, 5.69 and 4.68."""

SMALL = {
    "gpu": "small",
    "cost": 0.3,
    "tputs": [[9.0, 4.0], [3.0, 1.0], [1.0, 0.5]],
    "indexes": [[4, 8, 16], [128, 256]],
}
LARGE = {"gpu": "large", "cost": 1.0, "tputs": [[40.0, 20.0], [15.0, 9.0], [0.0, 0.0]], "indexes": SMALL["indexes"]}


def written(folder: Path, name: str, document: Any) -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


def planned(path: Path, **fields: Any) -> Plan:
    return plan_fleet(parse_fleet_request({**read_fleet(path), **fields}))


def counts(plan: Plan, step: int = 0) -> dict[str, int]:
    names = {group.id: group.gpu for group in plan.decision.engines}
    return {names[name]: count for name, count in plan.decision.schedule[step].engines.items()}


@pytest.mark.parametrize("slices", [1, 2, 3, 8])
@pytest.mark.parametrize(("route_by", "cost"), [("isl,osl", 4.68), ("isl", 5.69)])
def test_melange(tmp_path: Path, slices: int, route_by: str, cost: float) -> None:
    plan = planned(written(tmp_path, "m.json", {**MELANGE, "slice_factor": slices}), route_by=route_by)
    assert plan.decision.usd_per_hour == pytest.approx(cost)
    assert (plan.proof.status, plan.proof.gap) == ("optimal", 0.0)
    for route in plan.decision.schedule[0].routing:
        assert sum(route.weights.values()) == pytest.approx(1)
        assert (route.osl_from is None) == (route_by == "isl")
    jsonschema.Draft202012Validator(schema("plan")).validate(json.loads(plan.to_json()))
    assert parse_plan(plan.to_json()) == plan


def test_the_gateway_that_knows_less_pays_more_and_is_told_so(tmp_path: Path) -> None:
    plan = planned(written(tmp_path, "m.json", MELANGE))
    assert plan.proof.fleet is not None
    (demand,) = plan.proof.fleet.demands
    assert demand.costs_usd_per_hour == pytest.approx(1.01)
    compared = {row.name: row.usd_per_hour for row in plan.proof.fleet.compared}
    assert compared == pytest.approx({"A100-80GB alone": 7.34, "A10G alone": 12.12, "one kind of engine for all": 7.34})


FLEET = """
services:
- name: chat
  load: {classes: [{isl: 128, osl: 4, rate_rps: 12}, {isl: 256, osl: 16, rate_rps: 0.8}]}
  tables: [small.json, large.json]
"""


def test_aibrix_rows_are_outputs_and_zero_carries_nothing(tmp_path: Path) -> None:
    written(tmp_path, "small.json", SMALL)
    written(tmp_path, "large.json", LARGE)
    plan = planned(written(tmp_path, "fleet.yaml", FLEET))
    assert counts(plan) == {"small": 3}  # 12 ÷ 9 + 0.8 ÷ 0.5 engines
    step = plan.request.services[0].load.steps[0]
    assert [(each.isl, each.osl, each.rate_rps) for each in step.classes] == [(128, 4, 12), (256, 16, 0.8)]


def test_pools_limit_the_tables_gpus_and_say_their_price(tmp_path: Path) -> None:
    written(tmp_path, "small.json", SMALL)
    written(tmp_path, "large.json", LARGE)
    small = "{gpu: L4, name: small, gpus: 2, usd_per_gpu_hour: 0.5}"
    pools = f"cluster: {{name: c, pools: [{small}, {{gpu: H100, name: large, gpus: 4}}]}}"
    with pytest.raises(Infeasible, match="small") as caught:
        planned(written(tmp_path, "fleet.yaml", FLEET.replace("0.8", "1.8") + pools))
    assert "GPUs" in caught.value.hint
    plan = planned(written(tmp_path, "fleet.yaml", FLEET + pools))
    assert counts(plan)["small"] <= 2
    assert plan.proof.fleet is not None


def test_after_a_loss_requests_go_where_what_is_left_carries_them(tmp_path: Path) -> None:
    tables = [
        {"gpu": gpu, "usd_per_hour": usd, "isl": [100, 1000], "osl": [10], "rps": [[short], [long]]}
        for gpu, usd, short, long in (("a", 1, 10, 1), ("b", 3, 12, 9))
    ]
    classes = [{"isl": 100, "osl": 10, "rate_rps": 9.0}, {"isl": 1000, "osl": 10, "rate_rps": 17.0}]
    carried = {"a": (10, 1), "b": (12, 9)}
    asked = {"services": [{"name": "s", "load": {"classes": classes}, "tables": tables}], "survive": {"engines": 1}}
    plan = plan_fleet(parse_fleet_request(asked))
    (step,) = plan.decision.schedule
    gpu_of = {group.id: group.gpu for group in plan.decision.engines}
    told = {tuple(each.lost): each.routing for each in step.after_losses}
    assert told
    for lost in (name for name, count in step.engines.items() if count):
        left = {name: count - (name == lost) for name, count in step.engines.items()}
        busy = dict.fromkeys(left, 0.0)
        for i, route in enumerate(told.get((lost,), step.routing)):
            part = {n: w * (1.0 if (lost,) in told else left[n] / step.engines[n]) for n, w in route.weights.items()}
            for name, weight in part.items():
                share = weight / sum(part.values())
                busy[name] += share * classes[i]["rate_rps"] / carried[gpu_of[name]][i]
        assert all(busy[name] <= left[name] + 1e-6 for name in left), (lost, busy, left)


def test_loss_of_an_engine_is_survived(tmp_path: Path) -> None:
    one = planned(written(tmp_path, "m.json", MELANGE))
    safe = planned(written(tmp_path, "m.json", MELANGE), survive={"engines": 1})
    assert safe.decision.usd_per_hour is not None
    assert one.decision.usd_per_hour is not None
    assert safe.decision.usd_per_hour > one.decision.usd_per_hour


def test_hours_make_a_schedule_without_gaps(tmp_path: Path) -> None:
    written(tmp_path, "small.json", SMALL)
    rows = "hour,isl,osl,rate_rps\n" + "".join(f"{h},128,4,{5 + 4 * (h % 12)}\n" for h in range(24))
    written(tmp_path, "load.csv", rows)
    fleet = "services: [{name: s, load: {file: load.csv}, tables: [small.json]}]"
    plan = planned(written(tmp_path, "fleet.yaml", fleet))
    schedule = plan.decision.schedule
    assert (schedule[0].start_s, schedule[-1].end_s) == (0, 86_400)
    assert all(first.end_s == second.start_s for first, second in pairwise(schedule))
    assert counts(plan, 0) == {"small": 1}
    assert counts(plan, 11) == {"small": 6}


BAD = [
    ({**MELANGE, "workload_distribution": [[0.2, 0.1], [0.5, 0.3]]}, "sum to 1.1"),
    ({**MELANGE, "total_request_rate": -1}, "total_request_rate"),
    ({**MELANGE, "gpu_info": {"A": {"cost": 1, "tputs": [[1, 1]]}}}, "grid"),
    ({**SMALL, "indexes": [[4, 8], [128, 256]]}, "output"),
    ({**MELANGE, "gpu_info": {}}, "gpu_info"),
]


@pytest.mark.parametrize(("document", "said"), BAD)
def test_bad_tables_are_refused(tmp_path: Path, document: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        planned(written(tmp_path, "m.json", document))
    assert said in caught.value.message + caught.value.hint
    assert caught.value.hint


LOADS = [
    ("{rate_rps: 5, classes: [{isl: 128, osl: 4, share: 0.5}, {isl: 256, osl: 4, share: 0.4}]}", "sum to 0.9"),
    ("{classes: [{isl: 128, osl: 4, rate_rps: -1}]}", "rate_rps"),
    ("{classes: [{isl: 128, osl: 4, rate_rps: .nan}]}", "rate_rps"),
    ("{classes: [{isl: 128, osl: 4}]}", "rate_rps"),
    ("{classes: [{isl_from: 1, isl_to: 200, osl: 4, rate_rps: 1}, {isl: 128, osl: 4, rate_rps: 1}]}", "overlap"),
    ("{classes: []}", "classes"),
    ("{classes: [{isl: 4096, osl: 4, rate_rps: 1}]}", "isl 4096"),
]


@pytest.mark.parametrize(("load", "said"), LOADS)
def test_bad_loads_are_refused(tmp_path: Path, load: str, said: str) -> None:
    written(tmp_path, "small.json", SMALL)
    path = written(tmp_path, "fleet.yaml", f"services: [{{name: s, load: {load}, tables: [small.json]}}]")
    with pytest.raises((InputError, Infeasible)) as caught:
        planned(path)
    assert said in caught.value.message
    assert caught.value.hint


def test_classes_that_nothing_serves_are_named_and_the_rest_is_served(tmp_path: Path) -> None:
    written(tmp_path, "small.json", SMALL)
    load = "{classes: [{isl: 128, osl: 4, rate_rps: 1}, {isl: 4096, osl: 4, rate_rps: 2}]}"
    path = written(tmp_path, "fleet.yaml", f"services: [{{name: s, load: {load}, tables: [small.json]}}]")
    plan = planned(path, serve_rest=True)
    assert plan.proof.fleet is not None
    (lost,) = plan.proof.fleet.not_served
    assert (lost.isl, lost.rate_rps) == (4096, 2)


TRACE = "arrival_s,isl,osl\n" + "".join(
    f"{1800 + i * 0.5},{20 + (i * 37) % 230},{1 + (i * 13) % 16}\n" for i in range(2000)
)


def test_classes_of_a_trace_are_split_until_capacity_stays(tmp_path: Path) -> None:
    written(tmp_path, "small.json", SMALL)
    written(tmp_path, "t.csv", TRACE)
    load = "{trace: t.csv, classes: 4}"
    path = written(tmp_path, "fleet.yaml", f"services: [{{name: s, load: {load}, tables: [small.json]}}]")
    coarse, fine = planned(path, tolerance=1.0), planned(path, tolerance=0.01)
    counted = []
    for plan in (coarse, fine):
        assert plan.proof.fleet is not None
        counted.append(plan.proof.fleet)
        (step,) = plan.request.services[0].load.steps
        rate = sum(each.rate_rps for each in step.classes)
        tokens = [sum(each.rate_rps * getattr(each, name) for each in step.classes) for name in ("isl", "osl")]
        rows = [[int(x) for x in line.split(",")[1:]] for line in TRACE.splitlines()[1:]]
        assert tokens == pytest.approx([rate * sum(r[i] for r in rows) / len(rows) for i in (0, 1)])
    assert counted[0].classes < counted[1].classes
    assert counted[0].coarsening is not None
    assert counted[1].coarsening is not None
    assert counted[0].coarsening > 0.01


def test_times_of_a_trace_count_from_the_schedules_start(tmp_path: Path) -> None:
    written(tmp_path, "small.json", SMALL)
    rows = "".join(f"{3600 * hour + 7 + i},128,4\n" for hour in (1, 2) for i in range(100 * hour))
    written(tmp_path, "t.csv", "arrival_s,isl,osl\n" + "0.5,128,4\n" + rows)
    path = written(
        tmp_path,
        "fleet.yaml",
        "services: [{name: s, load: {trace: t.csv, step_s: 3600, seconds: 10800}, tables: [small.json]}]",
    )
    steps = planned(path).request.services[0].load.steps
    assert [round(step.rate_rps * 3600) for step in steps] == [1, 100, 200]
    written(tmp_path, "t.csv", "arrival_s,isl,osl\n" + rows)
    with pytest.raises(InputError, match="no requests from 0 to 3600"):
        planned(path)


def test_a_pool_of_spot_gpus_alone(tmp_path: Path) -> None:
    written(tmp_path, "small.json", SMALL)
    load = "{classes: [{isl: 128, osl: 4, rate_rps: 12}]}"
    pool = "{gpu: L4, name: small, spot_gpus: 8, spot_usd_per_gpu_hour: 0.2}"
    text = f"cluster: {{name: c, pools: [{pool}]}}\nservices: [{{name: s, load: {load}, tables: [small.json]}}]"
    plan = planned(written(tmp_path, "fleet.yaml", text))
    assert {group.supply for group in plan.decision.engines} == {"spot"}
    assert plan.decision.usd_per_hour == pytest.approx(0.4)
    with pytest.raises(InputError, match="zone"):
        planned(written(tmp_path, "zones.yaml", text + "\nsurvive: {zones: 1}"))
    with pytest.raises(InputError, match=r"survive\.spot_pools: 2, and small alone has spot GPUs"):
        planned(written(tmp_path, "two.yaml", text + "\nsurvive: {spot_pools: 2}"))
    with pytest.raises(InputError, match=r"survive\.spot_pools: 1, and no pool has spot GPUs"):
        planned(
            written(
                tmp_path,
                "none.yaml",
                text.replace("spot_gpus: 8, spot_usd_per_gpu_hour", "gpus: 8, usd_per_gpu_hour")
                + "\nsurvive: {spot_pools: 1}",
            )
        )


SUPPLIED = "cluster: {name: c, pools: [{gpu: H100, gpus: %d%s}, {gpu: L4, gpus: %d%s}]}\n"
SERVED = "services: [{name: s, load: {classes: [{isl: 100, osl: 4, rate_rps: %s}]}, tables: [h100.json, l4.json]}]"


def supplied(folder: Path, pools: tuple[Any, ...], rate: float, rest: str = "") -> Path:
    """Tables that call their GPUs H100 and L4, of which the pools have so many."""
    written(folder, "h100.json", {**LARGE, "gpu": "H100"})
    written(folder, "l4.json", {**SMALL, "gpu": "l4"})
    return written(folder, "fleet.yaml", SUPPLIED % pools + SERVED % rate + "\n" + rest)


def test_a_table_finds_its_pool_by_any_name_of_its_gpu(tmp_path: Path) -> None:
    plan = planned(supplied(tmp_path, (2, "", 8, ""), 100))
    assert {group.pool for group in plan.decision.engines} == {"H100-SXM", "L4"}
    written(tmp_path, "alone.yaml", SUPPLIED % (2, "", 8, "") + (SERVED % 9).replace("h100.json, ", ""))
    alone = planned(tmp_path / "alone.yaml")
    assert any("no table is of pool H100-SXM" in note for note in alone.provenance.notes)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (", preference: 1", "", {"H100-SXM": 1}),
        (", preference: 2", ", preference: 1", {"L4": 5}),
        ("", ", preference: 1", {"L4": 5}),
    ],
)
def test_pools_are_filled_in_their_order(tmp_path: Path, first: str, second: str, expected: dict[str, int]) -> None:
    plan = planned(supplied(tmp_path, (4, first, 8, second), 40))
    pools = {group.id: group.pool for group in plan.decision.engines}
    assert {pools[name]: count for name, count in plan.decision.schedule[0].engines.items()} == expected
    assert plan.decision.usd_per_hour == pytest.approx(plan.proof.objective_value)
    assert plan.proof.gap == 0
    spilled = planned(supplied(tmp_path, (4, first, 8, second), 100))
    assert spilled.decision.usd_per_hour is not None
    assert spilled.proof.bound <= spilled.decision.usd_per_hour + 1e-9


def test_what_would_survive_is_named_and_does(tmp_path: Path) -> None:
    with pytest.raises(Infeasible) as caught:
        planned(supplied(tmp_path, (1, "", 1, ""), 42, "survive: {engines: 1}"))
    found = re.fullmatch(
        r"have (\d+) GPUs of H100-SXM or (\d+) GPUs of L4, or carry .* \(survive: share: (.*)\)", caught.value.hint
    )
    assert found is not None, caught.value.hint
    h100, l4, share = found.groups()
    for pools, rest in (
        ((int(h100), "", 1, ""), ""),
        ((1, "", int(l4), ""), ""),
        ((1, "", 1, ""), f", share: {share}"),
    ):
        planned(supplied(tmp_path, pools, 42, f"survive: {{engines: 1{rest}}}"))


def test_what_todays_fleet_carries_is_said_where_it_is_known(tmp_path: Path) -> None:
    today = planned(supplied(tmp_path, (2, "", 8, ""), 40))

    def said(path: Path) -> str | None:
        fleet = planned(path, current=today.model_dump(mode="json")).proof.fleet
        assert fleet is not None
        return next(row.reason for row in fleet.compared if row.name == "today's fleet")

    assert said(supplied(tmp_path, (2, "", 8, ""), 40)) == "as its own document says"
    assert said(supplied(tmp_path, (2, "", 8, ""), 80)) == "it carries 50% of this load at most"
    text = SUPPLIED % (2, "", 8, "") + (SERVED % 9).replace("h100.json, ", "")
    (group,) = today.decision.engines
    assert group.gpu == "H100"
    others = "1 of its engines is of no kind that is chosen from here"
    assert said(written(tmp_path, "alone.yaml", text)) == f"as its own document says; {others}"


def test_of_many_losses_those_that_are_survived_are_found_by_halving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Survive] = []

    def counting(question: MixQuestion, **how: Any) -> Any:
        asked.append(question.survive)
        return solve_mix(question, **how)

    monkeypatch.setattr("planner.serving.fleets.ways_out.solve_mix", counting)
    with pytest.raises(Infeasible) as caught:
        planned(supplied(tmp_path, (4, "", 8, ""), 100, "survive: {engines: 16}"))
    found = re.search(r"or survive engines (\d+)", caught.value.hint)
    assert found is not None, caught.value.hint
    held = int(found[1])
    assert len({each.engines for each in asked}) <= 7
    planned(supplied(tmp_path, (4, "", 8, ""), 100, f"survive: {{engines: {held}}}"))
    with pytest.raises(Infeasible):
        planned(supplied(tmp_path, (4, "", 8, ""), 100, f"survive: {{engines: {held + 1}}}"))


def test_what_serves_less_is_no_cheaper_fleet() -> None:
    """Where the rest may be left out, a GPU type that leaves out more of it than the fleet does is told so."""
    tables = [
        {"gpu": "H100", "usd_per_hour": 3.0, "isl": [1000, 8000], "osl": [200], "rps": [[10.0], [3.0]]},
        {"gpu": "L40S", "usd_per_hour": 1.0, "isl": [1000, 8000], "osl": [200], "rps": [[3.0], [0.0]]},
    ]
    rates = {1000: 2, 4000: 2, 9000: 1}
    load = {"classes": [{"isl": isl, "osl": 100, "rate_rps": rate} for isl, rate in rates.items()]}
    asked = {"tables": tables, "services": [{"name": "s", "load": load}], "serve_rest": True}
    plan = plan_fleet(parse_fleet_request(asked))
    assert plan.proof.fleet is not None
    (lost,) = plan.proof.fleet.not_served
    assert (lost.isl, lost.reason) == (9000, "it is longer than the largest size of the tables, isl 8000 and osl 200")
    small = next(row for row in plan.proof.fleet.compared if row.name == "L40S alone")
    assert (small.usd_per_hour, small.reason) == (None, "it does not serve s: isl 4000, osl 100")


def test_money_is_money_where_gpus_are_counted() -> None:
    """With the objective gpus, what else there is costs dollars too, and is worse by its GPUs."""
    tables = [
        {"gpu": "H100", "usd_per_hour": 3.0, "isl": [1000, 8000], "osl": [200], "rps": [[10.0], [3.0]]},
        {"gpu": "L40S", "usd_per_hour": 1.0, "isl": [1000, 8000], "osl": [200], "rps": [[3.0], [0.6]]},
    ]
    load = {"classes": [{"isl": 1000, "osl": 100, "rate_rps": 5}, {"isl": 4000, "osl": 200, "rate_rps": 4}]}
    services = [{"name": "s", "load": load}]
    asked = {"tables": tables, "services": services, "objective": "gpus", "survive": {"engines": 1}}
    plan = plan_fleet(parse_fleet_request(asked))
    assert plan.proof.fleet is not None
    assert (plan.proof.objective_value, plan.decision.usd_per_hour) == (3, 9)
    compared = {row.name: row for row in plan.proof.fleet.compared}
    small = compared["L40S alone"]
    assert small.usd_per_hour == sum(small.engines.values())
    assert small.loses_by == pytest.approx(sum(small.engines.values()) / 3 - 1)
    assert all(demand.costs_usd_per_hour is None for demand in plan.proof.fleet.demands)


def test_nodes_that_are_not_there_cannot_be_lost(tmp_path: Path) -> None:
    path = supplied(tmp_path, (8, "", 8, ""), 5, "\nsurvive: {nodes: 3}")
    with pytest.raises(InputError, match=r"survive\.nodes: 3, and the pools have 2"):
        planned(path)
    with pytest.raises(Infeasible, match="nothing is left after that loss"):
        planned(supplied(tmp_path, (8, "", 8, ""), 5, "\nsurvive: {nodes: 2}"))


@pytest.mark.parametrize(
    ("pool", "engines", "said"),
    [
        ({"gpus": 32}, 6, "are spread over its 4 nodes of 8 GPUs, at most 2 on one"),
        ({"gpus": 8, "gpus_per_node": 4}, 8, "are spread over its 2 nodes of 4 GPUs, at most 4 on one"),
        ({"as_needed": True}, 5, "stand each on a node of its own"),
        ({"as_needed": True, "instance": "p5.48xlarge"}, 8, "are spread over its 2 nodes of 8 GPUs, at most "),
    ],
)
def test_engines_stand_on_nodes_that_may_be_lost(pool: dict[str, Any], engines: int, said: str) -> None:
    """What any packing would survive took 12 engines of each pool that has so many."""
    tables = [{"gpu": "H100", "usd_per_hour": 3.0, "isl": [1000], "osl": [200], "rps": [[10.0]]}]
    load = {"classes": [{"isl": 1000, "osl": 200, "rate_rps": 40}]}
    cluster = {"name": "c", "pools": [{"gpu": "H100", "usd_per_gpu_hour": 3.0, **pool}]}
    asked = {"cluster": cluster, "tables": tables, "services": [{"name": "s", "load": load}], "survive": {"nodes": 1}}
    plan = plan_fleet(parse_fleet_request(asked))
    assert sum(plan.decision.schedule[0].engines.values()) >= engines
    assert plan.proof.gap == 0
    assert any(note.startswith("survive nodes: engines on H100-SXM " + said) for note in plan.provenance.notes)


def test_tokens_that_nothing_serves_are_not_paid(tmp_path: Path) -> None:
    written(tmp_path, "small.json", SMALL)
    served, lost = "{isl: 128, osl: 4, rate_rps: 1}", "{isl: 99999, osl: 4, rate_rps: 1000}"
    text = "services: [{name: s, load: {classes: [%s]}, tables: [small.json]}]"
    plain = planned(written(tmp_path, "a.yaml", text % served))
    rest = planned(written(tmp_path, "b.yaml", (text % f"{served}, {lost}") + "\nserve_rest: true"))
    assert rest.prediction.usd_per_million_output_tokens == plain.prediction.usd_per_million_output_tokens
    assert rest.prediction.output_tokens_per_s == plain.prediction.output_tokens_per_s
