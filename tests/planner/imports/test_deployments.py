"""Deployments where plans are taken: memory, predictions, simulations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planner.compare.contenders import memory_of
from planner.contract.deployment import DeploymentDocument, parse_deployment
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.replay.report import simulate
from planner.replay.request import parse_simulation_request
from planner.serving.predictions import engines_asked, parse_prediction_request
from profiles.errors import InputError, Unsupported
from profiles.hardware import SHIPPED

COMMAND = "vllm serve Qwen/Qwen3-8B --tensor-parallel-size 1 --max-model-len 8192 --max-num-seqs 64"


def imported(text: str, **fields: Any) -> DeploymentDocument:
    return deployment_of(parse_import_request({"text": text, "gpu": "H200", **fields}))


def refused(text: str, **fields: Any) -> str:
    with pytest.raises(InputError) as caught:
        imported(text, **fields)
    return f"{caught.value.message} | {caught.value.hint}"


# --- reading ----------------------------------------------------------------------------------------------


def test_what_is_left_to_defaults_is_marked_and_the_rest_is_not() -> None:
    got = imported(COMMAND)
    assert {each.field for each in got.assumed} == {
        "limits.max_tokens_per_step",
        "limits.memory_fraction",
        "chunked_prefill",
        "weights_precision",
        "kv_precision",
    }
    assert all(each.source for each in got.assumed)
    assert parse_deployment(got.to_json()) == got
    assert not got.was_edited


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vllm serve Qwen/Qwen3-8B --nonsense 3", "--nonsense: argument 2: is no option of vLLM"),
        ("vllm serve Qwen/Qwen3-8B --kv-cache-dtype int3", "is not one of its values"),
        ("vllm serve Qwen/Qwen3-8B --max-num-seqs many", "is not a whole number"),
        ("vllm serve Qwen/Qwen3-8B --max-num-seqs", "its value is missing"),
        ("vllm serve Qwen/Qwen3-8B --max-model-len 900000", "is more than the 40,960"),
        ("vllm serve Qwen/Qwen3-8B --quantization awq", "reads a checkpoint that is quantised so"),
        ("vllm serve Qwen/Qwen3-8B --decode-context-parallel-size 2", "is not modelled"),
        ('vllm serve Qwen/Qwen3-8B --kv-transfer-config \'{"kv_connector": "NixlConnector"\'', "is not valid JSON"),
        ("vllm serve Qwen/Qwen3-8B '--max-num-seqs", "a quote does not end"),
        ("for i in 0 1; do vllm serve Qwen/Qwen3-8B; done", "nobody knows how often"),
        ("python serve.py --model Qwen/Qwen3-8B", "nothing in it starts an engine"),
        ("sglang serve --model-path Qwen/Qwen3-8B --tp 1 --tp 2", "is given twice"),
        ("vllm serve Qwen/Qwen3-8B; sglang serve --model-path Qwen/Qwen3-8B", "several frameworks"),
        ("vllm serve Qwen/Qwen3-8B; vllm serve Qwen/Qwen3-32B", "several are served"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    assert said in refused(text)


def test_vllm_takes_the_last_of_repeated_options_and_says_so() -> None:
    got = imported("vllm serve Qwen/Qwen3-8B -tp 2 --tensor-parallel-size 4")
    assert got.engines[0].layout.tp == 4
    assert any("takes the last" in note for note in got.provenance.notes)


def test_beginnings_underscores_dots_and_units_are_read_as_vllm_does() -> None:
    got = imported(
        "vllm serve Qwen/Qwen3-8B --tensor-parallel 2 --max_num_seqs=32 --max-num-batched-tokens 4k "
        "--kv-transfer-config.kv_connector NixlConnector --kv-transfer-config.kv_role kv_producer"
    )
    engine = got.engines[0]
    assert (engine.layout.tp, engine.limits.max_sequences, engine.limits.max_tokens_per_step) == (2, 32, 4000)
    assert engine.role == "prefill"


def test_a_role_that_a_command_cannot_say_is_asked_for() -> None:
    both = """vllm serve Qwen/Qwen3-8B --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'"""
    assert "--role prefill" in refused(both)
    assert imported(both, role="decode").engines[0].role == "decode"


def test_several_engines_are_told_apart_and_placed() -> None:
    got = imported(f"{COMMAND} --port 1 & {COMMAND} --port 2 & {COMMAND.replace('64', '32')} --port 3 &")
    assert [len(group.replicas) for group in got.engines] == [2, 1]
    places = [(rank.node, rank.gpu) for group in got.engines for each in group.replicas for rank in each.ranks]
    assert len(set(places)) == 3
    assert sum(replica.weight for group in got.engines for replica in group.replicas) == pytest.approx(1)


def test_data_parallel_engines_of_a_dense_model_are_engines_of_their_own() -> None:
    got = imported("vllm serve Qwen/Qwen3-8B --data-parallel-size 4")
    assert (len(got.engines[0].replicas), got.engines[0].layout.dp) == (4, 1)
    experts = imported("vllm serve Qwen/Qwen3-30B-A3B --data-parallel-size 4")
    assert (len(experts.engines[0].replicas), experts.engines[0].layout.dp) == (1, 4)


def test_limits_of_all_attention_replicas_are_shared_out() -> None:
    got = imported(
        "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-R1 --tp 8 --attn-dp-size 4 "
        "--chunked-prefill-size 16384 --max-running-requests 512"
    )
    engine = got.engines[0]
    assert (engine.layout.tp, engine.layout.dp) == (2, 4)
    assert (engine.limits.max_tokens_per_step, engine.limits.max_sequences) == (4096, 128)


def test_an_image_says_the_release_and_options_go_before_it() -> None:
    text = "docker run --gpus 2 vllm/vllm-openai:v0.19.1 --model Qwen/Qwen3-8B --tensor-parallel-size 2"
    assert imported(text).framework == "vllm@0.19.1"
    assert imported(text, framework="vllm@0.33").framework == "vllm@0.33.0"
    assert "SGLang is given" in refused(text, framework="sglang")


# --- asking -----------------------------------------------------------------------------------------------


def test_a_deployment_is_predicted_under_its_share_of_the_load() -> None:
    got = imported("vllm serve Qwen/Qwen3-8B --data-parallel-size 4")
    with pytest.raises(InputError, match="does not say what requests are like"):
        engines_asked(got, None)
    request = parse_prediction_request({"plan": json.loads(got.to_json()), "workload": "isl=1000,osl=100,rate=8"})
    (one,) = request.asked
    assert one.workload is not None
    assert (one.workload.rate_rps, one.tp, one.max_num_seqs) == (2, 1, got.engines[0].limits.max_sequences)


def test_drafting_needs_its_acceptance() -> None:
    drafting = imported(f"""{COMMAND} --speculative-config '{{"method": "mtp", "num_speculative_tokens": 2}}'""")
    for work, said in (("isl=100,osl=10,rate=1", "draft=2"), ("isl=100,osl=10,rate=1,draft=4,acceptance=0.5", "4")):
        request = parse_simulation_request({"plan": drafting, "workload": work})
        with pytest.raises(InputError, match="workload"):
            simulate(request)
        del said


def test_a_deployment_is_simulated_and_judged_by_promises_of_the_request() -> None:
    got = imported(f"{COMMAND} & {COMMAND} &")
    report = simulate(
        parse_simulation_request(
            {"plan": json.loads(got.to_json()), "workload": "isl=500,osl=50,rate=4", "requests": 300, "slo": "ttft=2s"}
        )
    )
    assert report.served == 300
    assert [check.metric for check in report.slo] == ["ttft"]
    assert report.planned_rps is None
    assert report.slo[0].planned_ms is None


def test_an_edited_deployment_is_refused() -> None:
    document = json.loads(imported(COMMAND).to_json())
    document["engines"][0]["limits"]["max_sequences"] = 1
    with pytest.raises(InputError, match="edited since it was made"):
        parse_simulation_request({"plan": document, "workload": "isl=500,osl=50,rate=4"})


def test_unsupported_precision_is_said() -> None:
    with pytest.raises(Unsupported, match="float32"):
        imported("vllm serve Qwen/Qwen3-8B --dtype float32")


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        ("--disable-chunked-prefill", (1024, 40_960)),
        ("--max-num-batched-tokens 512", (512, 512)),
        ("--max-num-seqs 1 --max-model-len 4096", (1, 4096)),
    ],
)
def test_what_nobody_says_of_a_step_fits_the_rest_as_in_vllm(said: str, limits: tuple[int, int]) -> None:
    text = f"vllm serve Qwen/Qwen3-8B {said}"
    (group,) = deployment_of(parse_import_request({"text": text, "gpu": "H100", "framework": "vllm@0.33"})).engines
    assert (group.limits.max_sequences, group.limits.max_tokens_per_step) == limits


@pytest.mark.parametrize(
    ("said", "reason", "way"),
    [
        ("--max-num-batched-tokens 2048 --disable-chunked-prefill", "less than max_model_len", "--max-model-len 2048"),
        ("--max-num-batched-tokens 512 --max-num-seqs 1024", "less than max_num_seqs", "--max-num-seqs 512"),
    ],
)
def test_limits_that_vllm_refuses_do_not_start(said: str, reason: str, way: str) -> None:
    text = f"vllm serve Qwen/Qwen3-8B {said}"
    document = deployment_of(parse_import_request({"text": text, "gpu": "H100", "framework": "vllm@0.33"}))
    (starts,) = memory_of(document, SHIPPED)
    assert not starts.starts
    assert reason in starts.reasons[0]
    assert any(way in each for each in starts.ways_out)


@pytest.mark.parametrize("said", ["--tensor-parallel-size 1000000000", "--pipeline-parallel-size 100001"])
def test_more_gpus_than_any_deployment_has_are_refused_at_once(said: str) -> None:
    with pytest.raises(InputError, match="a deployment has at most"):
        imported(f"vllm serve Qwen/Qwen3-8B {said}")
