"""Engines that prefill and decode apart: a plan and the same engines without their plan say the same front end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.replay.planned_engines import front_end_us, planned_engines
from planner.replay.running import Running
from profiles.store import ProfileStore
from tests.planner.conftest import Planned


def test_a_plan_and_its_engines_alone_have_one_front_end(planned: Planned, bare: ProfileStore) -> None:
    document = planned("Qwen/Qwen3-8B", "8xH200", "isl=2000,osl=200,rate=20", "ttft=1s", disaggregation="always")
    running = Running.of(document)
    alone = planned_engines(replace(running, prediction=None), store=bare)

    assert [each.group.id for each in alone] == [group.id for group in document.decision.engines]
    of_prompts = [each.engines["value"].overheads.request_us for each in alone if each.group.role == "prefill"]
    assert of_prompts == pytest.approx([front_end_us(running)] * len(of_prompts), rel=0.1)
    assert {each.engines["value"].overheads.request_us for each in alone if each.group.role == "decode"} == {0.0}
