"""The power plan as people read it: what it says of breakers."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from typing import Any

import pytest
from rich.console import Console

from api.cli.views import power as view
from planner.power.document import PowerPlan

WEAR = {"node": "row", "wear": 0.42, "holds": 1.49, "brake_acts_s": 8.0, "lost_feed_load": 1.33, "lost_feed_s": 41.0}


def shown(**breaker: Any) -> str:
    """The view, each line's words with one blank between them; a breaker of the example says ``breaker``."""
    document = example()
    document["decision"]["breakers"] = [{**WEAR, **breaker}] if breaker else []
    return " ".join(lines(document))


def example() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("planner.examples").joinpath("power.json").read_text("utf-8"))
    return found


def lines(document: dict[str, Any]) -> list[str]:
    """Of the view, with one blank between words."""
    out = io.StringIO()
    console = Console(file=out, width=100, markup=False, emoji=False, highlight=False)
    view.show(PowerPlan.model_validate(document), console)
    assert all(len(line) <= 100 for line in out.getvalue().splitlines())
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("breaker", "words"),
    [
        ({"wear": 0.42}, "breaker of row 42% of the way to a trip at most"),
        (
            {"lost_feed_s": 41.0},
            "133% of the rest, which it holds for 41 s; in time, the brake acts in 8 s",
        ),
        ({"lost_feed_s": 5.0}, "which it holds for 5 s; too late, the brake acts in 8 s"),
        ({"lost_feed_load": 0.9, "lost_feed_s": None}, "90% of the rest, which it holds for ever; in time"),
    ],
)
def test_what_a_breaker_holds_is_said(breaker: dict[str, Any], words: str) -> None:
    assert words in shown(**breaker)


def test_a_row_without_curves_says_nothing_of_breakers() -> None:
    assert "breaker of" not in shown()


@pytest.mark.parametrize("classes", [1, 3, 5, 9])
def test_policies_are_named_whatever_the_number_of_priorities(classes: int) -> None:
    document = example()
    names = [f"class{i}" for i in range(classes)]
    document["request"]["priorities"] = [{"name": name, "share": 1 / classes} for name in names]
    document["request"]["slo_impact"] = []
    document["decision"]["levels"] = []
    for each in document["policies"]:
        each["impact"] = {name: {"p50": 0.161, "p99": 0.213} for name in names}
    said = lines(document)
    for words in ("by nameplate", "no control", "the same caps always", "oracle (no delay)"):
        assert sum(line.startswith(words) for line in said) >= 1
    assert sum(line.count("16.1% / 21.3%") for line in said) == classes * len(document["policies"])


def test_caps_that_are_always_set_are_named() -> None:
    document = example()
    clocks = [{"priority": "hp", "clock_mhz": None, "gpu_watts": None}, {"priority": "lp", "clock_mhz": 1275}]
    level = {"level": 1, "above": 0.0, "step_above": None, "below": 0.0, "back_to": 1, "time_share": 1.0}
    always = {**level, "clocks": [clocks[0], {**clocks[1], "gpu_watts": 360.0}]}
    document["decision"]["levels"] = [always]
    for each in document["policies"]:
        each["levels"] = {"static": [always], "threshold": [{**always, "above": 0.8, "below": 0.75}]}.get(
            each["name"], []
        )
    said = lines(document)
    assert "the same caps always: lp at most 1,275 MHz" in said
    assert "one threshold: lp at most 1,275 MHz above 80 %" in said
    assert "1 always – – 1,275 100.00%" in said


def test_a_node_that_binds_says_its_own_reading() -> None:
    """The row's own may be far from its budget."""
    document = example()
    binds = document["decision"]["binding"] = {"node": "pdu-a", "peak": 0.9825, "promise": "brakes"}
    words = "one server more brakes too often)"
    assert f"binds pdu-a (highest reading 98.2% of its own budget; {words}" in lines(document)
    binds["node"] = document["request"]["supply"]["name"]
    assert f"binds {binds['node']} ({words}" in lines(document)
