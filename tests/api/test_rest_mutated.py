"""Thousands of bodies that went wrong on their way: no answer of 5xx, none that takes a second."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service import Client, StubPlanner

from api.rest.app import create_app
from planner.contract.kind import Kind
from planner.kinds import KINDS, questions
from tests.contracts.mutations import spoilt_bytes, spoilt_document

JSON = {"Content-Type": "application/json"}
LONGEST_S = 1.0
"""Of the processor: the machine may be busy."""

QUESTIONS = list(questions())
APP = create_app(StubPlanner().kinds())


def spoilt(kind: Kind, draw: random.Random) -> bytes:
    """A request of ``kind`` that went wrong, as a document or as bytes."""
    document: Any = kind.request_example()
    if draw.random() < 0.5:
        for _ in range(draw.choice((1, 1, 2, 3))):
            document = spoilt_document(document, draw) if document else {}
        return json.dumps(document).encode("utf-8", "surrogatepass")
    return spoilt_bytes(json.dumps(document).encode(), draw)


async def told(bodies: list[tuple[str, bytes]]) -> Counter[int]:
    """How often each status answered ``bodies``, each a path and what is sent there."""
    statuses: Counter[int] = Counter()
    async with Client(APP).open() as client:
        for path, body in bodies:
            began = time.process_time()
            answer = await client.post(path, content=body, headers=JSON)
            took = time.process_time() - began
            assert answer.status_code < 500, (path, body[:2000], answer.text)
            assert took < LONGEST_S, (path, took, body[:2000])
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["hint"]
            statuses[answer.status_code] += 1
    return statuses


def many(count: int, seed: int) -> list[tuple[str, bytes]]:
    draw = random.Random(seed)
    kinds = [draw.choice(QUESTIONS) for _ in range(count)]
    return [(kind.route, spoilt(kind, draw)) for kind in kinds]


def warm() -> None:
    asyncio.run(told([(kind.route, json.dumps(kind.request_example()).encode()) for kind in QUESTIONS]))


def test_spoilt_requests_are_answered_or_refused() -> None:
    warm()
    statuses = asyncio.run(told(many(300, 0)))
    assert set(statuses) <= {200, 400, 413, 422}
    assert min(statuses[400], statuses[422]) > 20


@pytest.mark.parametrize("limit", [10**400, -(10**400), 1e308, True, None, [], {}])
def test_a_share_that_no_float_holds_is_refused(limit: Any) -> None:
    """As one of the ten thousand was."""
    power = KINDS["power"]
    body = json.dumps({**power.request_example(), "slo_impact": {"hp_p50": limit}}).encode()
    assert set(asyncio.run(told([(power.route, body)]))) == {422}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_ten_thousand_of_them(seed: int) -> None:
    warm()
    assert set(asyncio.run(told(many(1000, seed)))) <= {200, 400, 413, 422}


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_VALUES = st.recursive(
    _LEAVES, lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4)
)


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_whatever_json_there_is(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(QUESTIONS))
    names = st.sampled_from([*kind.request.model_fields, "profiles"])
    fields = data.draw(st.dictionaries(names, _VALUES, max_size=5))
    body = json.dumps({**kind.request_example(), **fields} if data.draw(st.booleans()) else fields)
    asyncio.run(told([(kind.route, body.encode("utf-8", "surrogatepass"))]))
