"""Classes of which there are so many that a grid is worked out between them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from costmodels.kernels.kept import keeping
from planner.contract.workload.slo import parse_slo
from planner.serving.fleets import nearest
from planner.serving.fleets.capacities import DIRECT, Capacities, ModelEngine, _Carried
from planner.serving.fleets.engines import cluster_of
from planner.serving.fleets.nearest import unserved
from planner.serving.fleets.request import parse_fleet_request

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
    assert len(asked) == 1  # a service keeps few answers: one for all of them
    assert len(asked[0]) <= 2 * DIRECT
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


def test_what_engines_carry_is_kept_for_the_same_question_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def searched(self: Capacities, points: np.ndarray, slo: object) -> _Carried:
        asked.append(str(self._asked.slo))
        return _Carried(cells=np.full((len(points), 0), 1.0), searched=[1, 1, 2, 3], watts={("a",): 7.0})

    monkeypatch.setattr(Capacities, "_searched", searched)
    cost = cast(Any, lambda pool: SimpleNamespace(made_from=pool.gpu))

    def carried(points: float = 10.0, **fields: Any) -> Capacities:
        service = {"name": "s", "model": "Qwen/Qwen3-8B", "slo": "ttft=1s", "load": "isl=9,osl=9,rate=1", **fields}
        cluster = {"name": "c", "pools": [{"gpu": fields.pop("gpu", "H100"), "gpus": 8}]}
        service.pop("gpu", None)
        request = parse_fleet_request({"cluster": cluster, "services": [service]})
        made = Capacities(request, request.services[0], cluster_of(request), cost, lambda _: None)
        made._worked_out(np.array([[points, points]]))
        return made

    with keeping(9):
        assert [carried().searched, carried().searched] == [[1, 1, 2, 3]] * 2
        assert len(asked) == 1
        for other in ({"slo": "ttft=2s"}, {"gpu": "H200"}, {"points": 11.0}, {"prefix_hit": 0.5}):
            carried(**other)
    assert len(asked) == 5
    carried()
    carried()
    assert len(asked) == 7
