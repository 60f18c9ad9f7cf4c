"""How surely engines keep a promise together, under requests that stand for all that they get."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planner.contract.workload.classes import LengthClass
from planner.serving.confirmation.trial import errors_for
from planner.serving.fleets.mixtures import drawn_from, workload_of
from planner.serving.fleets.tails import keeping_together


def test_another_draw_asks_for_less_the_more_requests_it_has() -> None:
    assert errors_for(10_000, 1_000) > errors_for(10_000, 10_000) > errors_for(10_000, 100_000) > 1.6


def fleet(counts: list[int], rates: list[float], promise: str = "all") -> Any:
    """What :func:`keeping_together` looks at: kinds of one service, each with a share of its only class."""
    total = sum(rates)
    engines = [SimpleNamespace(role="aggregated") for _ in counts]
    service = SimpleNamespace(
        asked=SimpleNamespace(promise=promise), engines=engines, classes=(None,), rates=(np.array([total]),)
    )
    variants = [SimpleNamespace(service=0, engine=v) for v in range(len(counts))]
    answer = SimpleNamespace(engines=np.array([counts]), shares=[np.array([rates]) / total])
    group = SimpleNamespace(service=0, classes=(0,))
    return SimpleNamespace(
        fleet=SimpleNamespace(services=(service,), chosen=SimpleNamespace(variants=variants)), answer=answer,
        groups=((group,),),
    )  # fmt: skip


def test_engines_of_several_kinds_keep_a_promise_together() -> None:
    assert keeping_together(fleet([4], [10.0]), 0, 0) == pytest.approx(4)
    assert keeping_together(fleet([4, 4], [10.0, 10.0]), 0, 0) == pytest.approx(8)
    assert 4 < keeping_together(fleet([4, 4], [10.0, 1.0]), 0, 0) < 8  # the others' few requests say little
    assert keeping_together(fleet([4, 4], [10.0, 10.0], promise="class"), 0, 0) == 4


def test_requests_that_stand_for_a_mixture_have_its_means() -> None:
    ranges = [
        {"isl_from": 50, "isl_to": 632, "isl": 340.5, "osl_from": 50, "osl_to": 447, "osl": 248.0, "rate_rps": 88},
        {"isl_from": 632, "isl_to": 8000, "isl": 4315.5, "osl_from": 50, "osl_to": 266, "osl": 157.5, "rate_rps": 32},
    ]
    classes = [LengthClass(**each) for each in ranges]
    rates = np.array([each.rate_rps for each in classes])
    kept = workload_of(classes, rates, speculation=None, name="mixture").recorded
    assert kept is not None
    at_random = drawn_from(classes, rates, 1000, 0)
    for lengths, drawn, metric in zip((kept.isl, kept.osl), at_random, ("isl", "osl"), strict=True):
        mean = rates @ [getattr(each, metric) for each in classes] / rates.sum()
        assert np.mean(lengths) == pytest.approx(mean, rel=0.005)
        assert drawn.std() == pytest.approx(np.std(lengths), rel=0.05)  # as spread out as those of a replay
