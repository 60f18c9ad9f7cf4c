"""Rows of very many servers, of which a part is simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.power.assembly import _by_kinds
from planner.power.judge import Days, Judge
from planner.power.large import SIMULATED, _smaller, _some_of, smaller
from planner.power.policy import none
from planner.power.racks import for_all
from planner.power.report import _by_nameplate
from planner.power.request import parse_power_request
from planner.power.row import row_of, row_without_load
from planner.power.series import timeline
from planner.power.traffic import Bursts, RecordedLoad, ReferenceLoad
from profiles.errors import Unsupported


def _row(fields: dict[str, Any], today: int, **more: Any) -> dict[str, Any]:
    server = {**fields["servers"][0], "today": today}
    return {**fields, "supply": {"name": "hall", "budget_watts": 5000 * today}, "servers": [server], **more}


def test_a_row_below_twice_as_many_is_itself(fields: dict[str, Any]) -> None:
    request = parse_power_request(_row(fields, 2 * SIMULATED - 1))
    found = smaller(request)
    assert found.request is request
    assert (found.block, found.stand_for) == (1.0, {})


def test_servers_budgets_and_training_shrink_alike(fields: dict[str, Any]) -> None:
    asked = _row(fields, 10_000, training={"servers": 100, "watts": 4000})
    made = smaller(parse_power_request(asked))
    found = made.request
    assert (found.today, made.block, found.supply.budget_watts) == (200, 50.0, 5000 * 200)
    assert found.training is not None
    assert (found.training.servers, found.training.watts) == (100, 80.0)


def test_nodes_keep_their_watts_a_server(fields: dict[str, Any]) -> None:
    halls = [{"name": f"pdu{i}", "budget_watts": 5000 * n, "servers": n} for i, n in enumerate((300, 500, 1200))]
    supply = {"name": "hall", "budget_watts": 9e6, "children": halls}
    made = smaller(parse_power_request({**_row(fields, 2000), "supply": supply}))
    found = made.request
    assert made.block == pytest.approx(7, rel=0.01)  # of the least node at least forty are simulated
    for node in found.supply.children:
        assert node.servers is not None
        assert node.budget_watts == pytest.approx(5000 * node.servers)
    assert found.supply.budget_watts == pytest.approx(9e6 * sum(n.servers or 0 for n in found.supply.children) / 2000)


def _hall(fields: dict[str, Any], pdus: int, racks: int, servers: int, **more: Any) -> dict[str, Any]:
    """Racks of a PDU, the first of the first with the fewest watts."""

    def node(pdu: int) -> dict[str, Any]:
        under = [
            {"name": f"rack{pdu}.{i}", "budget_watts": (5400 if pdu + i else 5250) * servers, "servers": servers}
            for i in range(racks)
        ]
        return {"name": f"pdu{pdu}", "budget_watts": 5200 * racks * servers, "children": under}

    supply = {"name": "hall", "budget_watts": 5200 * pdus * racks * servers, "children": [*map(node, range(pdus))]}
    return {**_row(fields, pdus * racks * servers, **more), "supply": supply}


def test_of_many_small_racks_some_are_simulated_whole(fields: dict[str, Any]) -> None:
    request = parse_power_request(_hall(fields, 10, 125, 8))
    made = smaller(request)
    pdus = made.request.supply.children
    assert (made.request.today, made.block, len(pdus)) == (200, 50.0, 5)
    racks = [rack for pdu in pdus for rack in pdu.children]
    assert [rack.servers for rack in racks] == [8] * 25
    assert racks[0].name == "rack0.0"  # the one with the fewest watts is among them
    assert {rack.budget_watts for rack in racks} == {42_000, 43_200}
    assert [pdu.budget_watts for pdu in pdus] == [5200 * 40] * 5
    assert made.request.supply.budget_watts == pytest.approx(5200 * 200)
    assert made.stand_for == {rack.name: (25, 1250) for rack in racks}


def test_large_nodes_beside_small_ones_have_a_share_of_their_servers(fields: dict[str, Any]) -> None:
    children = [{"name": "pdu", "budget_watts": 5e6, "servers": 1000}]
    children += [{"name": f"rack{i}", "budget_watts": 1e5, "servers": 20} for i in range(50)]
    supply = {"name": "hall", "budget_watts": 1e7, "children": children}
    made = smaller(parse_power_request({**_row(fields, 2000), "supply": supply}))
    kept = {node.name: node.servers for node in made.request.supply.children}
    assert 150 <= made.request.today <= 400
    assert made.stand_for
    assert all(kept[name] == 20 for name in made.stand_for)


def test_the_highest_of_all_racks_is_looked_out_for(fields: dict[str, Any]) -> None:
    """Of twelve racks that stand for fifty, and of fifty that are all simulated."""
    load = ReferenceLoad(0.024, Bursts(24, 0.5, 120, 20))
    whole = parse_power_request(_hall(fields, 1, 50, 8))
    some = _some_of(whole.supply, 96)
    part = _smaller(whole, some)
    highest = {}
    for name, request, stand_for in (("whole", whole, {}), ("some", part.request, part.stand_for)):
        row = row_without_load(request).under(load)
        plain = row.tree.budgets
        if stand_for:
            row = for_all(row, stand_for, 0)
            assert row.tree.own_budgets is plain
        judge = Judge(row, request, Days(60, 1), by_value=True, every_slot=True)
        n, racks = int(row.today * 1.25), row.tree.below.sum(axis=1) == 1
        peaks = [judge.busy_slot(none(), n, slot).peak[1:, racks].max() for slot in judge.slots()[:30]]
        highest[name] = float(np.mean(peaks))
        if stand_for:
            highest["as they are"] = float(np.mean(np.array(peaks) * (row.tree.budgets / plain)[racks].mean()))
    assert 0.993 < highest["some"] / highest["whole"] < 1.02  # on the careful side
    assert highest["as they are"] < highest["whole"] * 0.993


def test_a_hall_of_racks_is_answered(fields: dict[str, Any]) -> None:
    row, _ = row_of(parse_power_request(_hall(fields, 4, 30, 8, trace=_trace(20_000))))
    assert (row.today, row.told(row.today)) == (224, 960)
    assert row.tree.own_budgets is not None
    lowered = row.tree.budgets < row.tree.own_budgets
    assert lowered.sum() == row.tree.below.shape[1]
    assert (row.tree.budgets > 0.9 * row.tree.own_budgets).all()
    assert row.told(_by_nameplate(row)) == 960


def _trace(n: int) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    arrival = np.sort(draw.uniform(0, 700, n))
    return {
        "name": "t",
        "arrival_s": (arrival - arrival[0]).tolist(),
        "isl": draw.integers(500, 4000, n).tolist(),
        "osl": draw.integers(50, 800, n).tolist(),
    }


def test_its_trace_is_shared_by_the_servers_that_stand_for_others(fields: dict[str, Any]) -> None:
    """What a row of 400 draws, simulated whole and by halves."""
    trace = _trace(16_000)
    request = parse_power_request(_row(fields, 400, trace=trace))
    row, _ = row_of(request)
    assert (row.today, row.told(row.today), row.told(_by_nameplate(row))) == (200, 400, 400)
    part = timeline((request, row))
    whole = row_without_load(request)
    isl, osl = np.array(trace["isl"]), np.array(trace["osl"])
    all_of_it = timeline((request, whole.under(RecordedLoad(np.array(trace["arrival_s"]), isl, osl, 400))))
    assert len(part) == len(all_of_it)
    assert part[60:].mean() == pytest.approx(all_of_it[60:].mean(), rel=0.01)
    assert part.tolist() == timeline((request, row_of(request)[0])).tolist()


def test_of_a_large_row_fewer_slots_count_brakes_that_may_hardly_be(fields: dict[str, Any]) -> None:
    request = parse_power_request(_row(fields, 200))
    row = row_without_load(request).under(ReferenceLoad(0.02, Bursts(24, 0.4, 120, 20)))
    judge = Judge(row, request, Days(120, 1), by_value=True)
    assert len(judge.slots()) == 24
    assert len(Judge(row, request, Days(120, 1), by_value=True, every_slot=True).slots()) == 120
    many = request.model_copy(update={"max_brakes_per_year": 100.0})
    assert len(Judge(row, many, Days(120, 1), by_value=True).slots()) == 120
    assert judge.slots() == Judge(row, request, Days(120, 1), every_slot=True).slots()[:24]


def test_kinds_sum_to_all(fields: dict[str, Any]) -> None:
    servers = [{**fields["servers"][0], "kind": kind, "today": n} for kind, n in (("a", 7003), ("b", 2997))]
    asked = parse_power_request({**_row(fields, 10_000), "servers": servers})
    small, block = (made := smaller(asked)).request, made.block
    assert [each.today for each in small.servers] == [140, 60]
    row = replace(row_without_load(small), block=block)
    counts = [each.servers for each in _by_kinds(asked, row, 250)]
    assert sum(counts) == row.told(250) == 12_500
    assert counts[0] == pytest.approx(12_500 * 0.7, rel=0.01)


def test_a_kind_of_few_is_told_as_today_has_it(fields: dict[str, Any]) -> None:
    servers = [{**fields["servers"][0], "kind": kind, "today": n} for kind, n in (("a", 9990), ("b", 10))]
    asked = parse_power_request({**_row(fields, 10_000), "servers": servers})
    small, block = (made := smaller(asked)).request, made.block
    assert [each.today for each in small.servers] == [200, 1]  # which stands for 50
    row = replace(row_without_load(small), block=block)
    assert [each.servers for each in _by_kinds(asked, row, row.today)] == [9990, 10]


@pytest.mark.parametrize("today", [413, *(pytest.param(each, marks=pytest.mark.slow) for each in (400, 415))])
def test_no_more_servers_are_told_than_have_a_place(fields: dict[str, Any], today: int) -> None:
    """83 places of each of five nodes, of which half would be 41.5."""
    leaves = [{"name": f"pdu{i}", "budget_watts": 5000 * 83, "servers": 83} for i in range(5)]
    supply = {"name": "hall", "budget_watts": 5000 * 415, "children": leaves}
    row, _ = row_of(parse_power_request({**_row(fields, today), "supply": supply}))
    assert row.block > 1
    if today == 415:  # as many as there are places: these are shares of more
        assert row.tree.most is None
    else:
        assert row.tree.most is not None
        assert today <= row.told(row.tree.most) <= 415


def test_a_rare_priority_is_simulated_or_refused(fields: dict[str, Any]) -> None:
    def asked(today: int, share: float) -> Any:
        classes = [{"name": "hp", "share": 1 - share}, {"name": "lp", "share": share}]
        return parse_power_request(_row(fields, today, priorities=classes))

    small = smaller(asked(10_000, 0.002)).request
    assert small.today == 500
    assert np.bincount(row_without_load(small).servers(500).group).tolist() == [499, 1]
    with pytest.raises(Unsupported, match="so few of today's 100,000 servers that of the 800") as told:
        smaller(asked(100_000, 0.001))
    assert "0.125%" in told.value.hint
