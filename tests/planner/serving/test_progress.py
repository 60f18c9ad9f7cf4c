"""What plans say of themselves while they are made."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from cases import DENSE, SLO

from planner.contract.progress import Step, in_words, is_passing, part, percent_of
from planner.serving.planning import plan
from profiles.errors import Infeasible
from profiles.store import ProfileStore

LOAD = "isl=2000,osl=200,rate=2"


def told(store: ProfileStore, **request: Any) -> list[tuple[str, float | None]]:
    said: list[str] = []
    asked = {"model": DENSE, "cluster": "4xH200", "workload": LOAD, "slo": SLO, **request}
    try:
        plan(asked, store=store, progress=said.append)
    except Infeasible:
        said.append("refused")
    return [(str(text), percent_of(text)) for text in said]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "simulating the engines of fleet 1"),
        ({"precision": ["bf16", "fp8"], "simulation": False}, "searching layouts in fp8 with bf16 KV cache"),
        ({"cluster": "H200,H100", "simulation": False}, "planning on all of them together"),
        ({"workload": "isl=2000,osl=200,concurrency=40", "simulation": False}, "trying "),
    ],
    ids=["one", "precisions", "pools to choose from", "users at once"],
)
def test_a_plan_says_how_far_it_is(bare: ProfileStore, asked: dict[str, Any], words: str) -> None:
    said = told(bare, **asked)
    known = [percent for _, percent in said if percent is not None]
    assert known[0] == 0.0
    assert all(before <= after for before, after in itertools.pairwise(known)), "never backwards"
    assert len(set(known)) >= 3
    assert 40 <= known[-1] < 100
    assert any(text.startswith(words) for text, _ in said)


def test_what_would_work_instead_is_not_a_part_of_the_way(bare: ProfileStore) -> None:
    said = told(bare, workload="isl=2000,osl=200,rate=100000")
    assert said[-1] == ("refused", None)
    after = said[next(n for n, (text, _) in enumerate(said) if text.startswith("trying what would")) :]
    assert {percent for _, percent in after} == {None}


def test_a_part_is_told_as_of_the_whole() -> None:
    said: list[str] = []
    tell = part(part(said.append, 50, 100), 0, 50)
    for text in ("words", Step("begun", 0), Step("half", 1, 2, passing=True), Step("over", 3, 2)):
        tell(text)
    in_words(tell)(Step("inside", 1, 2, passing=True))
    assert [percent_of(text) for text in said] == [None, 50.0, 62.5, 75.0, None]
    assert [is_passing(text) for text in said] == [False, False, True, False, True]
