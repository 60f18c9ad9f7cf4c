"""What a framework's own configuration refuses is never planned, exported or imported as if it ran."""

from __future__ import annotations

import pytest

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.framework import find_framework
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.serving.layouts import Restrictions, layout_at, legal_layouts
from planner.serving.planning import precisions_of
from planner.serving.request import parse_request
from profiles.errors import InputError
from profiles.hardware import find_gpu

NEMOTRON, V4 = "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8", "deepseek-ai/DeepSeek-V4-Flash"


def legal(framework: str, name: str, *, drafting: bool = False) -> list[tuple[int, int, int]]:
    """(tp·dp, pp, ep) of the layouts that are planned on two nodes."""
    model = find_architecture(name)
    allowed = Restrictions(16, 8, drafting=drafting)
    found, _, _ = legal_layouts(model, choose_precision(model), find_framework(framework), allowed)
    layouts = [layout_at(found, row) for row in range(len(found))]
    return [(each.tp * each.dp, each.pp, each.ep) for each in layouts]


def test_sglang_shares_experts_of_nemotron_out_over_all_gpus_or_none() -> None:
    assert all(ep in (1, group) for group, _, ep in legal("sglang", NEMOTRON))
    assert any(1 < ep < group for group, _, ep in legal("sglang", "Qwen/Qwen3-235B-A22B"))


def test_sglang_drafts_in_one_stage() -> None:
    assert {pp for _, pp, _ in legal("sglang", "Qwen/Qwen3-32B", drafting=True)} == {1}
    assert len({pp for _, pp, _ in legal("sglang", "Qwen/Qwen3-32B")}) > 1
    assert len({pp for _, pp, _ in legal("vllm", "Qwen/Qwen3-32B", drafting=True)}) > 1


def asked(framework: str, **fields: object) -> list[str]:
    request = {"model": V4, "cluster": "8xH200", "workload": "isl=1000,osl=100", "slo": "tpot=50ms"}
    parsed = parse_request({**request, "framework": framework, **fields})
    return [each.kv for each in precisions_of(parsed, find_architecture(V4), [find_gpu("H200")])]


def test_caches_are_those_that_the_framework_keeps_of_the_model() -> None:
    assert asked("vllm") == ["fp8"]
    assert asked("sglang") == ["fp8"]
    assert asked("sglang", kv_precision=["bf16"]) == ["bf16"]
    assert asked("vllm", kv_precision=["any"]) == ["fp8"]
    with pytest.raises(InputError, match=r"keeps no 'bf16' cache of deepseek-ai/DeepSeek-V4-Flash"):
        asked("vllm", kv_precision=["bf16"])


@pytest.mark.parametrize(
    ("command", "gpu", "kept"),
    [
        (f"vllm serve {V4} --tensor-parallel-size 8", "H200", "fp8"),
        (f"python -m sglang.launch_server --model {V4} --tp 8", "H200", "fp8"),
        (f"python -m sglang.launch_server --model {V4} --tp 8 --kv-cache-dtype bfloat16", "H200", "bf16"),
        ("python -m sglang.launch_server --model deepseek-ai/DeepSeek-V3.2 --tp 8", "B200", "fp8"),
        ("python -m sglang.launch_server --model deepseek-ai/DeepSeek-V3.2 --tp 8", "H200", "bf16"),
        ("vllm serve Qwen/Qwen3-8B", "H200", "bf16"),
    ],
)
def test_what_a_command_leaves_open_is_what_its_release_takes(command: str, gpu: str, kept: str) -> None:
    got = deployment_of(parse_import_request({"text": command, "gpu": gpu}))
    assert {group.kv_precision for group in got.engines} == {kept}


def test_a_cache_that_is_not_kept_does_not_start() -> None:
    with pytest.raises(InputError, match=r"keeps the cache .* in fp8 alone"):
        deployment_of(parse_import_request({"text": f"vllm serve {V4} --kv-cache-dtype bfloat16", "gpu": "H200"}))


@pytest.mark.parametrize(
    ("flags", "label"),
    [
        ("--tp 8 --moe-a2a-backend deepep", "TP8 EP8 high-throughput"),
        ("--tp 8 --ep 2 --moe-a2a-backend deepep", "TP8 EP8 high-throughput"),
        (
            "--tp 8 --attn-dp-size 8 --moe-a2a-backend deepep --disaggregation-mode decode",
            "TP1 DP8 EP8 low-latency",
        ),
        ("--tp 8 --moe-a2a-backend none --ep 4", "TP8 EP4"),
        ("--tp 8 --moe-a2a-backend ascend_tp", "TP8"),
    ],
)
def test_exchanges_of_sglang_are_read(flags: str, label: str) -> None:
    text = f"python -m sglang.launch_server --model deepseek-ai/DeepSeek-R1 {flags}"
    got = deployment_of(parse_import_request({"text": text, "gpu": "H200"}))
    assert [group.layout.label for group in got.engines] == [label]
    assert any("not modelled" in note for note in got.provenance.notes) == ("ascend" in flags)
