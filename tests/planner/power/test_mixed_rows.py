"""Rows of several kinds of servers: each is capped by its own clocks and gets what it can take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.power.judge import Days, Judge
from planner.power.policy import none, polca, static
from planner.power.report import _by_nameplate, _check_keeps_up, _limit
from planner.power.request import parse_power_request
from planner.power.row import row_without_load
from planner.power.server import own_clock
from planner.power.simulator import RowModel
from planner.power.traffic import Bursts, RecordedLoad, ReferenceLoad, whole_day
from profiles.errors import InputError


@pytest.fixture
def mixed(fields: dict[str, Any]) -> RowModel:
    """Six servers of A100s, and two of H100s that take twice as much."""
    server = {"gpus": 8, "other_watts": 1700}
    fields["servers"] = [
        {"kind": "a", "gpu": "A100", "nameplate_watts": 5000, "today": 6, **server},
        {"kind": "h", "gpu": "H100", "nameplate_watts": 9000, "today": 2, **server},
    ]
    row = row_without_load(parse_power_request(fields))
    slow, quick = row.kinds
    return replace(row, kinds=[slow, replace(quick, engines=2.0, most_sequences=2 * slow.most_sequences)])


def test_clocks_are_the_same_share_of_each_types_highest(mixed: RowModel) -> None:
    slow, quick = mixed.kinds
    assert mixed.main is slow
    assert own_clock(slow, 1110, mixed.main) == 1110
    assert own_clock(quick, 1110, mixed.main) == 1560  # 0.787 of 1,980, as it can be set
    assert own_clock(quick, 1410, mixed.main) == quick.highest_mhz
    assert own_clock(quick, 1110, None) == 1110


def test_what_is_set_today_is_as_many_mhz_on_all(mixed: RowModel) -> None:
    by_share, _, _ = mixed.under_policy(static((None, 1110)), 1200)
    as_set, _, _ = mixed.under_policy(replace(static((None, 1110)), same_mhz=True), 1200)
    assert by_share.prefill_speed[1, 1] > as_set.prefill_speed[1, 1]
    assert by_share.prefill_speed[0, 1] == as_set.prefill_speed[0, 1]
    assert polca(2, (1275, 1110), 1305).same_mhz is False


@pytest.mark.parametrize("rate", [0.3, 2.0])
def test_servers_get_what_they_can_take(mixed: RowModel, rate: float) -> None:
    load = ReferenceLoad(rate, Bursts(24, 0.1, 120, 20))
    shared = mixed.under(load).load
    assert shared is not None
    kind = mixed.servers(8).kind
    assert np.isclose(np.sum(shared.weights[:8]), 8.0)
    got, alike = whole_day(shared, 8, 0, 0), whole_day(load, 8, 0, 0)
    each = np.bincount(got.server, got.count, 8)
    assert each[kind == 1].mean() / each[kind == 0].mean() == pytest.approx(2.0, rel=0.03)
    assert got.count.sum() == pytest.approx(alike.count.sum(), rel=0.03)


def test_so_with_a_trace(mixed: RowModel) -> None:
    arrivals = np.sort(np.random.default_rng(0).uniform(0, 3600, 40_000))
    trace = RecordedLoad(arrivals, np.full(40_000, 1000), np.full(40_000, 100), 8)
    shared = mixed.under(trace).load
    assert isinstance(shared, RecordedLoad)
    kind = mixed.servers(16).kind
    for day, servers in ((shared.as_recorded(0), 8), (whole_day(shared, 16, 0, 0), 16)):
        each = np.bincount(day.server, day.count, servers)
        assert each[kind[:servers] == 1].mean() / each[kind[:servers] == 0].mean() == pytest.approx(2.0, rel=0.05)
    assert len(shared.as_recorded(0).server) == 40_000


def test_a_load_that_no_caps_would_help_is_refused(fields: dict[str, Any]) -> None:
    request = parse_power_request(fields)
    row = row_without_load(request)
    can = row.main.capacity_rps(*ReferenceLoad(1.0, Bursts(0, 0.0, 120, 20)).mean_lengths)
    for share, refused in ((0.5, False), (2.0, True)):
        judge = Judge(row.under(ReferenceLoad(share * can, Bursts(0, 0.0, 120, 20))), request, Days(3, 1))
        if not refused:
            _check_keeps_up(judge)
            continue
        with pytest.raises(InputError, match="today's 8 do not keep up with their load"):
            _check_keeps_up(judge)


def test_no_more_servers_are_said_than_were_tried(fields: dict[str, Any]) -> None:
    """Nameplates may allow many times today's, of whose load nothing was drawn."""
    request = parse_power_request({**fields, "supply": {"name": "row", "budget_watts": "1MW"}})
    judge = Judge(row_without_load(request), request, Days(3, 1))
    assert _by_nameplate(judge.row) == 200
    assert judge.most == 13
    assert _limit(judge, none(), 13, "nameplate") == "tried"
    assert _limit(judge, none(), 12, "nameplate") == "nameplate"
