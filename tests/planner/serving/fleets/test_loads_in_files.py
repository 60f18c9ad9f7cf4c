"""Loads that a fleet file names: tables, and documents written as a load is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.contract.workload.classes import LoadInput, understood
from planner.serving.fleets.load_files import read_load_table
from profiles.errors import InputError

SHARES = [{"isl": 500, "osl": 100, "share": 0.75}, {"isl": 3000, "osl": 200, "share": 0.25}]


def _rates(fields: dict[str, Any]) -> list[float]:
    return [each.rate_rps for each in understood(LoadInput.model_validate(fields), "load").steps[0].classes]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("load.csv", "isl,osl,share\n500,100,0.75\n3000,200,0.25\n"),
        ("load.json", json.dumps({"rate_rps": 8, "classes": SHARES})),
        ("list.json", json.dumps(SHARES)),
        (
            "load.yaml",
            "rate_rps: 8\nclasses:\n- {isl: 500, osl: 100, share: 0.75}\n- {isl: 3000, osl: 200, share: 0.25}\n",
        ),
        ("list.yml", "- {isl: 500, osl: 100, share: 0.75}\n- {isl: 3000, osl: 200, share: 0.25}\n"),
    ],
)
def test_one_load_in_any_form(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    rest = {} if "rate_rps" in text else {"rate_rps": 8}
    assert _rates(read_load_table(path, rest, "load")) == pytest.approx([6.0, 2.0])
    assert _rates(read_load_table(path, {**rest, "margin": 0.5}, "load")) == pytest.approx([9.0, 3.0])
    assert _rates(read_load_table(path, {"rate_rps": 4}, "load")) == pytest.approx([3.0, 1.0])


def test_rates_of_classes_and_steps_in_a_document_have_the_margin(tmp_path: Path) -> None:
    path = tmp_path / "day.json"
    each = {"isl": 500, "osl": 100, "rate_rps": 2.0}
    path.write_text(json.dumps({"steps": [{"hour": 0, "classes": [each]}, {"hour": 1, "classes": [each]}]}))
    found = understood(LoadInput.model_validate(read_load_table(path, {"margin": 0.1}, "load")), "load")
    assert [step.rate_rps for step in found.steps] == pytest.approx([2.2, 2.2])


@pytest.mark.parametrize(
    ("text", "told"),
    [("rate_rps: 3\n", "neither classes nor steps"), ("7\n", "not a mapping"), ("classes: [\n", "not valid YAML")],
)
def test_a_document_that_is_no_load_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "load.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        read_load_table(path, {}, "load")
