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
    document = json.loads(files("planner.examples").joinpath("power.json").read_text("utf-8"))
    document["decision"]["breakers"] = [{**WEAR, **breaker}] if breaker else []
    out = io.StringIO()
    console = Console(file=out, width=100, markup=False, emoji=False, highlight=False)
    view.show(PowerPlan.model_validate(document), console)
    assert all(len(line) <= 100 for line in out.getvalue().splitlines())
    return " ".join(out.getvalue().split())


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
