"""Rows of very many servers, of which a part is simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.power.assembly import _by_kinds
from planner.power.judge import Days, Judge
from planner.power.large import MOST_SIMULATED, SIMULATED, smaller
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
    found, block = smaller(request)
    assert found is request
    assert block == 1.0


def test_servers_budgets_and_training_shrink_alike(fields: dict[str, Any]) -> None:
    asked = _row(fields, 10_000, training={"servers": 100, "watts": 4000})
    found, block = smaller(parse_power_request(asked))
    assert (found.today, block, found.supply.budget_watts) == (200, 50.0, 5000 * 200)
    assert found.training is not None
    assert (found.training.servers, found.training.watts) == (100, 80.0)


def test_nodes_keep_their_watts_a_server(fields: dict[str, Any]) -> None:
    halls = [{"name": f"pdu{i}", "budget_watts": 5000 * n, "servers": n} for i, n in enumerate((300, 500, 1200))]
    supply = {"name": "hall", "budget_watts": 9e6, "children": halls}
    found, block = smaller(parse_power_request({**_row(fields, 2000), "supply": supply}))
    assert block == pytest.approx(7, rel=0.01)  # of the least node at least forty are simulated
    for node in found.supply.children:
        assert node.servers is not None
        assert node.budget_watts == pytest.approx(5000 * node.servers)
    assert found.supply.budget_watts == pytest.approx(9e6 * sum(n.servers or 0 for n in found.supply.children) / 2000)


def test_many_small_racks_are_refused_before_anything_is_simulated(fields: dict[str, Any]) -> None:
    racks = [{"name": f"rack{i}", "budget_watts": 100_000, "servers": 20} for i in range(100)]
    supply = {"name": "hall", "budget_watts": 1e7, "children": racks}
    with pytest.raises(Unsupported, match="today's 2,000 on 100 lowest nodes, the least of 20 servers") as told:
        row_of(parse_power_request({**_row(fields, 2000), "supply": supply}))
    assert "every lowest node has 120 and more" in str(told.value)
    assert f"of {MOST_SIMULATED} servers and fewer by itself" in told.value.hint


def test_its_trace_is_shared_by_the_servers_that_stand_for_others(fields: dict[str, Any]) -> None:
    """What a row of 400 draws, simulated whole and by halves."""
    draw, n = np.random.default_rng(0), 16_000
    arrival = np.sort(draw.uniform(0, 700, n))
    trace = {
        "name": "t",
        "arrival_s": (arrival - arrival[0]).tolist(),
        "isl": draw.integers(500, 4000, n).tolist(),
        "osl": draw.integers(50, 800, n).tolist(),
    }
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
    small, block = smaller(asked)
    assert [each.today for each in small.servers] == [140, 60]
    row = replace(row_without_load(small), block=block)
    counts = [each.servers for each in _by_kinds(asked, row, 250)]
    assert sum(counts) == row.told(250) == 12_500
    assert counts[0] == pytest.approx(12_500 * 0.7, rel=0.01)


def test_a_kind_of_few_is_told_as_today_has_it(fields: dict[str, Any]) -> None:
    servers = [{**fields["servers"][0], "kind": kind, "today": n} for kind, n in (("a", 9990), ("b", 10))]
    asked = parse_power_request({**_row(fields, 10_000), "servers": servers})
    small, block = smaller(asked)
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

    small, _ = smaller(asked(10_000, 0.002))
    assert small.today == 500
    assert np.bincount(row_without_load(small).servers(500).group).tolist() == [499, 1]
    with pytest.raises(Unsupported, match="so few of today's 100,000 servers that of the 800") as told:
        smaller(asked(100_000, 0.001))
    assert "0.125%" in told.value.hint
