"""What is wrong with a row is said in two lines that name the field and the value; nothing is clamped."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from planner.contract.kind import EXAMPLES
from planner.contract.quantities import as_mhz
from planner.power.policy import NAMES
from planner.power.request import parse_power_request
from planner.power.row import row_of, row_without_load
from planner.replay.request import Trace
from profiles.errors import InputError, UnknownName

Change = Callable[[dict[str, Any]], None]


def rack(name: str, watts: float, servers: int | None = 4) -> dict[str, Any]:
    return {"name": name, "budget_watts": watts, **({} if servers is None else {"servers": servers})}


def trace(seconds: float, count: int) -> Trace:
    return Trace(
        name="t.csv",
        arrival_s=tuple(seconds * i / (count - 1) for i in range(count)),
        isl=(100,) * count,
        osl=(10,) * count,
    )


def _plan(edited: bool = False, **changed: Any) -> dict[str, Any]:
    """The example's, ``changed``."""
    plan: dict[str, Any] = json.loads((EXAMPLES / "serving.json").read_text("utf-8"))
    if edited:
        plan["decision"]["engines"][0]["limits"]["max_sequences"] -= 1
    return {**plan, **changed}


WRONG: dict[str, tuple[Change, str]] = {
    "a brake for a breaker that nobody described": (
        lambda f: f.update(control={"brake_on": "breaker"}),
        "no breaker of the supply is a curve",
    ),
    "a kind twice": (lambda f: f["servers"].append(dict(f["servers"][0])), "is given twice"),
    "a reading between seconds": (
        lambda f: f.update(telemetry={"period_s": 2.5}),
        "period_s: 2.5 is not a whole number of seconds",
    ),
    "a reading within a second": (
        lambda f: f.update(telemetry={"period_s": "250ms"}),
        "period_s: 0.25 is shorter than a second",
    ),
    "a limit that may be meant in per cent": (
        lambda f: f.update(slo_impact={"hp_p50": 1}),
        "hp_p50: 1 is a share of 100%",
    ),
    "a child above its parent": (
        lambda f: f["supply"].update(children=[rack("a", 50_000), rack("b", 30_000)]),
        "a: budget_watts 50000 is above its parent's",
    ),
    "children that do not reach their parent": (
        lambda f: f["supply"].update(children=[rack("a", 15_000), rack("b", 15_000)]),
        "children's budgets sum to 30000 W",
    ),
    "a name twice": (
        lambda f: f["supply"].update(children=[rack("a", 20_000), rack("a", 20_000)]),
        "'a' is there twice",
    ),
    "fewer places than servers": (
        lambda f: f["supply"].update(children=[rack("a", 20_000, 3), rack("b", 20_000, 3)]),
        "hold 6 servers, and today there are 8",
    ),
    "places of some alone": (
        lambda f: f["supply"].update(children=[rack("a", 20_000, 8), rack("b", 20_000, None)]),
        "b: servers is missing",
    ),
    "no servers": (lambda f: f["servers"][0].update(today=0), "today is 0"),
    "no idle power": (lambda f: f["servers"][0].pop("other_watts"), "other_watts is missing"),
    "nameplate below idle": (lambda f: f["servers"][0].update(nameplate_watts=1000), "nameplate_watts 1000"),
    "today above the budget": (
        lambda f: f["supply"].update(budget_watts=15_000),
        "W without any work, more than the 15,000 W",
    ),
    "a clock above the range": (
        lambda f: f.update(caps=[{"priority": "lp", "clock_mhz": 1500}]),
        "1500 MHz is outside",
    ),
    "a clock between steps": (lambda f: f.update(caps=[{"priority": "lp", "clock_mhz": 1280}]), "1280 MHz is between"),
    "a cap of an unknown class": (lambda f: f.update(caps=[{"priority": "mp", "clock_mhz": 1275}]), "'mp'"),
    "a limit of an unknown class": (lambda f: f.update(slo_impact="mp_p50=1%"), "'mp'"),
    "a limit that is no share": (lambda f: f.update(slo_impact="hp_p50=x"), "'x' is not a share"),
    "a limit of no percentile": (lambda f: f.update(slo_impact="hp=1%"), "'hp' is not a class and a percentile"),
    "a limit twice": (lambda f: f.update(slo_impact="hp_p50=1%,hp_p50=2%"), "hp_p50 is given twice"),
    "priorities that overlap": (
        lambda f: f.update(priorities=[{"name": "hp", "share": 0.7}, {"name": "lp", "share": 0.5}]),
        "shares sum to 1.2 and overlap",
    ),
    "a priority twice": (
        lambda f: f.update(priorities=[{"name": "hp", "share": 0.5}, {"name": "hp", "share": 0.5}]),
        "'hp' is given twice",
    ),
    "too few days for the bound": (lambda f: f.update(days=300), "300 are too few for a bound of 1 brakes a year"),
    "a clock below the range": (lambda f: f.update(caps=[{"priority": "lp", "clock_mhz": 100}]), "100 MHz is outside"),
    "a clock of a GPU whose clocks are not known": (
        lambda f: (f["servers"][0].update(gpu="L4"), f.update(caps=[{"priority": "lp", "clock_mhz": 1275}])),
        "L4 has no known range of clocks",
    ),
    "a cap twice": (
        lambda f: f.update(caps=[{"priority": "lp", "clock_mhz": 1275}, {"priority": "lp", "clock_mhz": 1110}]),
        "lp is given twice",
    ),
    "no kind of server": (lambda f: f.update(servers=[]), "an empty list has fewer than 1"),
    "fewer servers than none": (lambda f: f["servers"][0].update(today=-1), "today: -1"),
    "days that hold no busy one": (lambda f: f.update(days=20), "days: 20 should be"),
    "an edited plan": (lambda f: f["servers"][0].update(plan=_plan(edited=True)), "edited since it was made"),
    "a plan of another schema": (lambda f: f["servers"][0].update(plan=_plan(schema_version="9.0")), "plan"),
    "a plan for other GPUs": (lambda f: f["servers"][0].update(plan=_plan()), "and the server has A100-SXM-80GB"),
    "an unknown GPU": (lambda f: f["servers"][0].update(gpu="Z9"), "'Z9'"),
    "a trace of a minute": (lambda f: f.update(trace=trace(60, 5000)), "60 s are too short"),
    "a trace of few requests": (lambda f: f.update(trace=trace(3600, 900)), "too few for p99"),
    "an unknown field": (lambda f: f.update(racks=3), "racks is not known"),
    "a number in words": (lambda f: f["supply"].update(budget_watts="40 kV"), "'40 kV' is not"),
    "milli or mega": (lambda f: f["supply"].update(budget_watts="40mw"), "'40mw' may be thousandths of a watt"),
    "a share without a sign": (lambda f: f.update(telemetry={"error": "0.5"}), "telemetry.error: '0.5' is not a share"),
    "a time in words": (lambda f: f.update(control={"brake_s": "soon"}), "control.brake_s: 'soon' is not a time"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    change, said = WRONG[name]
    change(fields)
    with pytest.raises(InputError) as refused:
        row_of(parse_power_request(fields))
    assert said in refused.value.message
    assert refused.value.hint


def test_a_trace_that_is_neither_word_nor_requests_is_told_both(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^trace: 'requests\.csv' is not known$") as refused:
        parse_power_request({**fields, "trace": "requests.csv"})
    assert refused.value.hint.startswith("choose from reference, or write an object; `plan schema power-request`")


def test_watts_are_written_as_everywhere(fields: dict[str, Any]) -> None:
    fields["supply"]["budget_watts"] = "60kW"
    fields["servers"][0]["other_watts"] = "1.7 kW"
    asked = parse_power_request(fields)
    assert (asked.supply.budget_watts, asked.servers[0].other_watts) == (60_000, 1700)
    fields["supply"]["budget_watts"] = "60 horses"
    with pytest.raises(InputError, match="budget_watts: '60 horses' is not understood") as refused:
        parse_power_request(fields)
    assert "12kW" in refused.value.hint


def test_children_may_have_more_than_their_parent_together(fields: dict[str, Any]) -> None:
    fields["supply"]["children"] = [rack("a", 30_000), rack("b", 30_000)]
    row = row_without_load(parse_power_request(fields))
    assert row.tree.names == ("row", "a", "b")
    assert row.tree.below.tolist() == [[True, True], [True, False], [False, True]]
    assert row.tree.most is None


def test_more_places_than_servers_are_all_there_are(fields: dict[str, Any]) -> None:
    fields["supply"]["children"] = [rack("a", 20_000, 5), rack("b", 20_000, 5)]
    assert row_without_load(parse_power_request(fields)).tree.most == 10


def test_the_short_form_of_limits_is_the_long_one(fields: dict[str, Any]) -> None:
    short = parse_power_request({**fields, "slo_impact": "hp_p50=1%,lp_p99.9=0.5"})
    long = copy.deepcopy(fields)
    long["slo_impact"] = [
        {"priority": "hp", "percentile": 50, "limit": 0.01},
        {"priority": "lp", "percentile": 99.9, "limit": 0.5},
    ]
    assert short.slo_impact == parse_power_request(long).slo_impact


def test_a_gpu_without_known_clocks_has_no_caps_to_choose(fields: dict[str, Any]) -> None:
    from planner.power.row import polca_for

    fields["servers"][0]["gpu"] = "L4"
    row = row_without_load(parse_power_request(fields))
    with pytest.raises(InputError, match="L4 has no known settable clocks"):
        polca_for(row)


def test_a_policy_alone_is_the_row_files_or_what_the_answer_chooses(fields: dict[str, Any]) -> None:
    """None: the answer chooses it, under the limits of impact."""
    from planner.power.series import preset

    asked = parse_power_request(fields)
    assert [preset(name, asked) is None for name in NAMES] == [False, False, True, True, False, True, True]
    capped = preset("static", parse_power_request({**fields, "caps": [{"priority": "lp", "clock_mhz": 1110}]}))
    assert capped is not None
    assert capped.always == (None, 1110)
    deepest = preset("threshold", parse_power_request({**fields, "slo_impact": []}))
    assert deepest is not None
    assert deepest.clocks_mhz == [None, 1110]


def test_polca_on_another_gpu_has_settable_clocks(fields: dict[str, Any]) -> None:
    from planner.power.row import polca_for

    fields["servers"][0].update(gpu="H100", nameplate_watts=9000)
    row = row_without_load(parse_power_request(fields))
    can = row.kinds[0].settable
    assert can is not None
    assert all(mhz in can.clocks for mhz in polca_for(row).clocks_mhz if mhz is not None)
    assert not row.kinds[0].response.measured


def test_a_plan_that_locks_its_clock_is_capped_from_there(fields: dict[str, Any]) -> None:
    """A cap above the clock that the plan sets changes nothing, one below is a share of it, and it is locked again."""
    from planner.power.row import polca_for
    from planner.power.server import clock_shares, tables_of

    plan = json.loads((EXAMPLES / "serving.json").read_text("utf-8"))
    server = {"kind": "one", "gpu": "H200", "gpus": 1, "nameplate_watts": 1000, "other_watts": 0, "today": 8}
    kinds = []
    for clock in (None, 1500):
        for group in plan["decision"]["engines"]:
            group.pop("clock_mhz", None)
            group.update({} if clock is None else {"clock_mhz": clock})
        row = row_without_load(parse_power_request({**fields, "servers": [{**server, "plan": plan}], "edited": True}))
        kinds += row.kinds
    free, locked = kinds
    assert (free.locked_mhz, locked.locked_mhz, locked.highest_mhz) == (None, 1500, 1500)
    assert polca_for(row).clocks_mhz == [None, 1185, 1350, 1395]
    capped = tables_of([locked], clock_shares([locked], [None, 1800, 1500, 750]))
    assert len(set(capped.token_s[0][:3])) == len(set(capped.prefill_watts[0][:3])) == 1
    # At 750 MHz it is what the plan without a clock is there.
    other = tables_of([free], clock_shares([free], [1500, 750]))
    for name in ("prefill_speed", "token_s"):
        mine, theirs = getattr(capped, name)[0], getattr(other, name)[0]
        assert mine[3] / mine[0] == pytest.approx(theirs[1] / theirs[0])


def test_names_are_of_the_row(fields: dict[str, Any]) -> None:
    with pytest.raises(UnknownName):
        parse_power_request({**fields, "slo_impact": "low_p50=1%"})


@pytest.mark.parametrize("breaker", [[[1.25, 60], [1.1, 600]], [[1.1, 60], [1.25, 600]], [[1.1, 0]], [[-1, 5]]])
def test_a_breaker_whose_curve_is_none_is_refused(fields: dict[str, Any], breaker: list[list[float]]) -> None:
    fields["supply"]["breaker"] = breaker
    with pytest.raises(InputError, match="supply: row: breaker"):
        parse_power_request(fields)


def test_a_breaker_that_trips_within_its_budget_is_refused(fields: dict[str, Any]) -> None:
    fields["supply"]["breaker"] = [[0.9, 600], [1.25, 60]]
    with pytest.raises(InputError, match=r"row: breaker: it begins at 0\.9 of the budget") as refused:
        parse_power_request(fields)
    assert "lower budget_watts" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("breaker", "points"),
    [("type C", 0), (None, 0), ({"rated_amps": 400}, 0), ({"1.25": 60, "1.1": 600}, 2), ([[1.1, 600], [1.25, 60]], 2)],
)
def test_a_breaker_is_a_curve_or_only_named(fields: dict[str, Any], breaker: Any, points: int) -> None:
    fields["supply"]["breaker"] = breaker
    (curve,) = row_without_load(parse_power_request(fields)).tree.curves
    assert len(curve) == points
    assert not points or curve[0] == (1.1, 600)


def test_units_may_be_words(fields: dict[str, Any]) -> None:
    plain, words = copy.deepcopy(fields), copy.deepcopy(fields)
    plain |= {"telemetry": {"period_s": 2, "error": 0.005}, "control": {"in_band_s": 1, "failure_rate": 0.01}}
    words |= {"telemetry": {"period_s": "2s", "error": "0.5%"}}
    words |= {"control": {"in_band_s": "1000ms", "failure_rate": "1 %"}}
    plain["caps"] = [{"priority": plain["priorities"][-1]["name"], "clock_mhz": 1275}]
    words["caps"] = [{**plain["caps"][0], "clock_mhz": "1.275 GHz"}]
    words["supply"]["budget_watts"] = f"{fields['supply']['budget_watts'] / 1e6!r}MW"
    assert parse_power_request(words) == parse_power_request(plain)


def test_watts_may_be_words(fields: dict[str, Any]) -> None:
    words = copy.deepcopy(fields)
    words["supply"]["budget_watts"] = f"{fields['supply']['budget_watts'] / 1000:g}kW"
    for name in ("nameplate_watts", "other_watts"):
        words["servers"][0][name] = f"{fields['servers'][0][name]} W"
    assert parse_power_request(words) == parse_power_request(fields)


def test_clocks_in_gigahertz_are_whole_megahertz() -> None:
    assert [as_mhz(f"{mhz / 1000:.3f}GHz") for mhz in range(1000, 1100)] == list(range(1000, 1100))
