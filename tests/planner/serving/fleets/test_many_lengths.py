"""Classes of which there are so many that a grid is worked out between them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from planner.contract.workload.slo import parse_slo
from planner.serving.fleets import nearest
from planner.serving.fleets.capacities import DIRECT, Capacities, ModelEngine
from planner.serving.fleets.nearest import unserved

LONGEST = 800


def test_classes_beside_the_grids_edge_carry_what_a_longer_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """They carried nothing, where there were too many of them to be worked out each."""
    kind, asked = cast(ModelEngine, SimpleNamespace(key=("a",))), []

    def worked_out(_: Capacities, points: np.ndarray) -> tuple[list[ModelEngine], np.ndarray]:
        asked.append(points)
        return [kind], np.array([[1e4 / isl if isl <= LONGEST else 0.0] for isl, _ in points])

    monkeypatch.setattr(Capacities, "_worked_out", worked_out)
    isl, osl = np.linspace(500, 1000, 5 * DIRECT), np.full(5 * DIRECT, 100.0)
    cells, low = np.zeros((len(isl), 1)), np.zeros(len(isl), np.int64)
    Capacities._mend(object.__new__(Capacities), isl, osl, [kind], cells, np.ones((2, 2, 1)), (low, low))
    assert len(asked) <= 2 * DIRECT
    carried = cells[:, 0] > 0
    assert not carried[isl > LONGEST].any()
    assert carried[isl <= LONGEST * 0.98].all()
    assert (cells[carried, 0] <= 1e4 / isl[carried] * (1 + 1e-9)).all()


def test_a_class_that_was_not_looked_at_is_not_said_to_break_the_slo(monkeypatch: pytest.MonkeyPatch) -> None:
    points = SimpleNamespace(steady=SimpleNamespace(stable=np.array([True, True])))
    monkeypatch.setattr(nearest, "percentile_ms", lambda *_: np.array([5.0, 20.0]))
    found = unserved(cast(Any, [SimpleNamespace(coarse=points)]), parse_slo("ttft=10ms"), 0.5)
    assert "not each is worked out" in found.why
    assert not found.relax_ms
