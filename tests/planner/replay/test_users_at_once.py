"""Users at once: what ``plan simulate`` plays is what ``plan predict`` says of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.client import closed_loop_answers
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.clusters import parse_cluster
from planner.imports.shapes import deployment_of_shapes
from planner.replay.loads import requested_load
from planner.replay.report import Sending, simulate_plan
from planner.replay.request import SimulationRequest
from planner.replay.running import Running
from planner.serving.configuration import EngineAsked
from planner.serving.layouts import degrees_of
from planner.serving.operating_points import served_on
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

BURST = re.compile(r"TTFT is ([\d.]+) (s|ms) on average, p99 ([\d.]+) (s|ms)")
USERS, ISL, OSL = 32, 1000, 200
DENSE, EXPERTS = ("meta-llama/Llama-3.1-8B", "TP1"), ("Qwen/Qwen3-30B-A3B", "TP1 DP8 EP8")


@pytest.mark.parametrize(
    ("framework", "shortest", "engine"),
    [
        ("vllm", 1.0, DENSE),
        ("vllm", 0.8, DENSE),
        ("sglang", 0.8, DENSE),
        ("trtllm", 0.2, DENSE),
        ("trtllm", 1.0, EXPERTS),
    ],
)
def test_users_at_once_wait_as_long_as_predicted(
    bare: ProfileStore, framework: str, shortest: float, engine: tuple[str, str]
) -> None:
    """The same front end, and the burst that benchmarks count."""
    spread = "" if shortest == 1 else f",spread={shortest}-1"
    model, shape = find_architecture(engine[0]), engine[1]
    asked: dict[str, Any] = {"model": model.name, "gpu": "H100-SXM", "framework": framework}
    document = deployment_of_shapes(f"1x{shape}", EngineAsked(**asked))
    request = SimulationRequest(plan=document, workload=f"isl={ISL},osl={OSL},concurrency={USERS}{spread}")
    load, source = requested_load(request)
    running = replace(Running.of(document, request.workload), users=request.users)
    report = simulate_plan(running, load, source, sending=Sending(warm=True), store=bare)

    limits = document.engines[0].limits
    served = served_on(
        parse_cluster("8xH100").pools[0],
        model,
        choose_precision(model),
        find_framework(framework),
        CostModel(find_gpu("H100-SXM"), framework, bare),
    )
    layouts = Layouts.of([degrees_of(document.engines[0].layout)])
    held = limits.max_sequences * int(layouts.dp[0])
    one = [np.array([value]) for value in (USERS, ISL, OSL, limits.max_tokens_per_step, held)]
    said = closed_loop_answers(served, layouts, Load.of(*one, shortest=shortest), running.workload.routing)

    assert report.ttft_ms is not None
    assert report.tpot_ms is not None
    (note,) = [found.groups() for found in map(BURST.search, report.warnings) if found]
    mean, p99 = (float(value) * {"s": 1e6, "ms": 1e3}[unit] for value, unit in (note[:2], note[2:]))
    assert mean == pytest.approx(said.ttft.mean.value[0], rel=0.1)
    assert p99 == pytest.approx(said.ttft.p99[0], rel=0.1)
    assert report.tpot_ms.mean.value * 1e3 == pytest.approx(said.tpot.mean.value[0], rel=0.1)
    if spread:
        assert report.ttft_ms.p50.value * 1e3 == pytest.approx(said.ttft.p50.value[0], rel=0.1)


def test_the_front_end_sees_the_images_of_users_at_once(bare: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"model": "Qwen/Qwen2.5-VL-7B-Instruct", "gpu": "H100-SXM", "framework": "vllm"}
    document = deployment_of_shapes("1xTP1", EngineAsked(**asked))
    images = {"count": 1, "width_pixels": 1024, "height_pixels": 1024, "tokens": 1369}
    workload = {"isl": 100, "osl": 20, "concurrency": 4, "images": images}
    request = SimulationRequest.model_validate({"plan": document, "workload": workload})
    load, source = requested_load(request)
    running = replace(Running.of(document, request.workload), users=request.users)
    seen: list[Load] = []

    def noted(*given: Any, **named: Any) -> Any:
        seen.append(given[2])
        return closed_loop_answers(*given, **named)

    monkeypatch.setattr("planner.replay.front_end.closed_loop_answers", noted)
    simulate_plan(running, load, source, sending=Sending(warm=True), store=bare)
    assert running.workload.image_tokens == 1369
    assert seen[0].mean_isl[0] == running.workload.mean_isl
