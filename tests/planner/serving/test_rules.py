"""What engines refuse is refused: each rule by a configuration that somebody could not start, and every plan of a grid
by rules that are written a second time here.

Sources of the cases: issues and messages of the engines, as each case names them; ``configs/qwen72-awq`` holds the
factual fields of the config.json of Qwen2-72B-Instruct-AWQ (Qwen licence).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costmodels.models.architecture import Architecture, DenseFeedForward, GroupedQueryAttention, MixtureOfExperts
from costmodels.models.mixers import Mixer
from costmodels.models.precision import Precision, choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.engine import EngineGroup
from planner.contract.models import read_model
from planner.serving.document.plan import Plan
from planner.serving.layouts import Restrictions, completed, degrees_of, legal_layouts, refused_on_nodes
from profiles.errors import Infeasible, Unsupported
from profiles.hardware import find_gpu

Planned = Callable[..., Plan]
CONFIGS = Path(__file__).parent / "fixtures" / "configs"

AWQ = str(CONFIGS / "qwen72-awq")

REFUSED = [
    # model, framework, degrees, what is said, who could not start it
    (AWQ, "vllm", {"tp": 4}, "29568 ÷ tp is not a multiple of the 128-wide", "vllm#21695, #5675"),
    (AWQ, "sglang", {"tp": 2}, "scale groups of int4", "vllm#5675"),
    ("Qwen/Qwen3-235B-A22B-FP8", "vllm", {"tp": 8}, "expert width 1536 ÷ tensor split is not a", "vllm#17569"),
    ("nvidia/Gemma-4-26B-A4B-NVFP4", "vllm", {"tp": 8, "ep": 1}, "704 ÷ tensor split is not a multiple of the 16-wide",
     "vllm modelopt.py: input width of nvfp4 must be a multiple of 16"),
    ("Qwen/Qwen2.5-7B-Instruct", "vllm", {"tp": 8}, "28 attention heads do not divide by tp",
     "vllm/config: attention heads must be divisible by tensor parallel size"),
    ("microsoft/phi-4", "vllm", {"tp": 4}, "10 KV heads neither divide by tp", "vllm: assert on KV heads"),
    ("Qwen/Qwen3-30B-A3B", "sglang", {"tp": 3, "ep": 3}, "32 attention heads do not divide", "sglang: tp and heads"),
    ("Qwen/Qwen3-30B-A3B", "vllm", {"tp": 4, "ep": 2}, "shares experts out over all GPUs of a stage or over none",
     "docs.vllm.ai expert_parallel_deployment"),
    ("Qwen/Qwen3-30B-A3B", "trtllm", {"tp": 2, "dp": 2}, "tensor parallel or data parallel, not both",
     "TensorRT-LLM parallel-strategy: attention DP spans the group"),
    ("Qwen/Qwen3-8B", "vllm", {"tp": 2, "pp": 64}, "more pipeline stages than the 36 layers", "vllm: pp and layers"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "framework", "degrees", "told", "source"), REFUSED)
def test_what_an_engine_does_not_start_is_refused_in_plan_and_predict_alike(
    model: str, framework: str, degrees: dict[str, int | None], told: str, source: str
) -> None:
    architecture = find_architecture(model)
    precision, at = choose_precision(architecture), find_framework(framework)
    layout = degrees_of(completed(architecture, degrees))
    (why,) = refused_on_nodes(architecture, precision, at, Layouts.of([layout]), 8)
    assert why is not None, source
    assert told in why
    legal, _, _ = legal_layouts(architecture, precision, at, Restrictions(128, 8))
    assert not (legal.rows == np.array(layout)).all(axis=1).any()


@pytest.mark.parametrize(
    ("model", "gpu", "framework", "told"),
    [
        ("Qwen/Qwen3-32B-FP8", "A100-SXM-80GB", "sglang@0.5.9", "no fp8 tensor cores"),  # sglang#12887
        ("Qwen/Qwen3-32B-FP8", "A100-SXM-80GB", "vllm", None),  # vllm#5975
        ("nvidia/Gemma-4-26B-A4B-NVFP4", "H100-SXM", "trtllm@1.2", "no fp4 tensor cores"),  # TensorRT-LLM#13476
        ("Qwen/Qwen3-8B", "MI300X", "trtllm", "does not run on MI300X"),
    ],
)
def test_precisions_that_a_gpu_lacks(model: str, gpu: str, framework: str, told: str | None) -> None:
    why = find_framework(framework).missing_hardware(choose_precision(find_architecture(model)), find_gpu(gpu))
    assert (why is None) if told is None else (why is not None and told in why)


# ------------------------------------------------------------------ a grid of plans

MODELS = (
    "Qwen/Qwen3-8B",
    "Qwen/Qwen2.5-7B-Instruct",
    "microsoft/phi-4",
    "meta-llama/Llama-3.1-70B-Instruct",
    "google/gemma-3-12b-it",
    "Qwen/Qwen3-32B-FP8",
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-235B-A22B-FP8",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "openai/gpt-oss-120b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-ai/DeepSeek-V3",
    AWQ,
)
CLUSTERS = ("8xH100", "16xH200", "8xB200", "8xA100-SXM-80GB", "8xB200+8xH100")
FRAMEWORKS = ("vllm", "sglang", "trtllm")
WAYS = ("never", "always")
FEW = (("Qwen/Qwen3-Next-80B-A3B-Instruct", AWQ), ("8xH100",), FRAMEWORKS, WAYS)

GROUPS = {"fp8_block": 128, "nvfp4": 16}


def broken(plan: Plan, model: Architecture, precision: Precision) -> list[str]:
    """The rules, written a second time, that an engine of ``plan`` breaks."""
    at = find_framework(plan.request.framework)
    pools = {pool.name: pool for pool in plan.request.cluster.pools}
    found = []
    for group in plan.decision.engines:
        tp, moe_tp = group.layout.tp, group.layout.moe_tp
        node = pools[group.pool].gpus_per_node
        checks = {
            "tp leaves the node": tp <= node,
            "experts": group.layout.ep * moe_tp == tp * group.layout.dp or not model.is_moe,
            "all or nothing": at.name != "vllm" or group.layout.ep in (1, tp * group.layout.dp),
            "tp and dp": at.name != "trtllm" or tp == 1 or group.layout.dp == 1,
            "pipeline in a role": group.role == "aggregated"
            or group.layout.pp == 1
            or group.role in at.kv_connector.pipeline,
            "runs": at.missing_hardware(precision, find_gpu(group.gpu)) is None,
            "layers": all(_divides(layer, precision, tp, moe_tp, group.layout.ep) for layer in model.layer_groups),
            "memory": all(replica.ranks for replica in group.replicas),
        }
        found += [f"{group.id}: {name}" for name, holds in checks.items() if not holds]
    return found + _broken_pairs(plan, model)


def _divides(layers: Any, precision: Precision, tp: int, moe_tp: int, ep: int) -> bool:
    attention, ffn = layers.attention, layers.feed_forward
    fine = attention.heads % tp == 0
    if isinstance(attention, GroupedQueryAttention):
        fine &= attention.kv_heads % tp == 0 or tp % attention.kv_heads == 0
    if isinstance(ffn, MixtureOfExperts):
        fine &= ffn.experts % ep == 0 and ffn.intermediate % moe_tp == 0
        fine &= _whole(ffn.intermediate, moe_tp, precision, "experts")
    if isinstance(ffn, DenseFeedForward):
        fine &= ffn.intermediate % tp == 0 and _whole(ffn.intermediate, tp, precision, "dense")
    return bool(fine)


def _whole(width: int, over: int, precision: Precision, part: str) -> bool:
    dtype = precision.of(part)
    group = precision.group if dtype == "int4" else GROUPS.get(dtype, 0)
    return over == 1 or not group or width // over % group == 0


def _broken_pairs(plan: Plan, model: Architecture) -> list[str]:
    groups: dict[str, EngineGroup] = {group.id: group for group in plan.decision.engines}
    apart = any(group.role != "aggregated" for group in groups.values())
    found = [] if apart == bool(plan.decision.pairs) else ["pairs are not those of the engines"]
    has_state = any(
        isinstance(layers.attention, Mixer) or "Delta" in type(layers.attention).__name__
        for layers in model.layer_groups
    )
    for first, second in ((groups[a], groups[b]) for a, b in plan.decision.pairs):
        if (first.role, second.role) != ("prefill", "decode") or first.kv_precision != second.kv_precision:
            found.append(f"{first.id} does not hand over to {second.id}")
        if has_state and first.layout.tp != second.layout.tp:
            found.append(f"{first.id} and {second.id} have states and unequal tp")
        if plan.request.framework.startswith("vllm") and first.gpu != second.gpu:
            majors = {int(find_gpu(group.gpu).compute_capability or 0) for group in (first, second)}
            flags = {"--attention-backend" in group.launch.command for group in (first, second)}
            if len(majors) > 1 and flags != {True}:
                found.append(f"{first.id} and {second.id} attend with what their GPUs choose")
    return found


def _check(planned: Planned, grid: tuple[tuple[str, ...], ...]) -> tuple[int, int]:
    """(plans made and checked, answered otherwise)."""
    made = refused = 0
    for model, cluster, framework, way in itertools.product(*grid):
        asked = {"framework": framework, "disaggregation": way, "max_engine_gpus": 8}
        given = read_model(model).model_dump(mode="json") if model == AWQ else model
        try:
            plan = planned(given, cluster, "isl=2000,osl=200", "ttft=10s,tpot=100ms", **asked)
        except (Infeasible, Unsupported):
            refused += 1
            continue
        architecture = find_architecture(model)
        precision = choose_precision(architecture, plan.request.weights_precision, plan.request.kv_precision)
        assert broken(plan, architecture, precision) == [], f"{model} on {cluster} under {framework}, {way} apart"
        made += 1
    return made, refused


def test_plans_obey_the_rules_of_their_release(planned: Planned) -> None:
    made, refused = _check(planned, FEW)
    assert made >= 8
    assert refused >= 1, "TensorRT-LLM does not hand states over"


@pytest.mark.slow
def test_every_plan_of_a_grid_obeys_the_rules_of_its_release(
    planned: Planned, capsys: pytest.CaptureFixture[str]
) -> None:
    made, refused = _check(planned, (MODELS, CLUSTERS, FRAMEWORKS, WAYS))
    with capsys.disabled():
        print(f"\n{made + refused} requests: {made} plans obey the rules, {refused} are refused")
    assert made > 200


def test_engines_of_a_rack_fill_their_hosts_evenly() -> None:
    """Two hosts of four GPUs that start six ranks: SGLang and TensorRT-LLM want as many on each."""
    architecture = find_architecture("deepseek-ai/DeepSeek-R1")
    precision, at = choose_precision(architecture), find_framework("trtllm")
    legal, rejected, _ = legal_layouts(architecture, precision, at, Restrictions(32, 72, gpus_per_host=4))
    assert set(legal.gpus.tolist()) == {1, 2, 3, 4, 8, 12, 16, 24, 32}
    assert any("a rack's hosts does not fill them evenly (4 GPUs each)" in each.reason for each in rejected)
    assert 6 in legal_layouts(architecture, precision, at, Restrictions(32, 72))[0].gpus
