"""Commands as people write them: containers, tags of images, levels, dashes, variables, jobs."""

from __future__ import annotations

from typing import Any

import pytest

from planner.contract.deployment import DeploymentDocument
from planner.contract.engine import EngineGroup
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.replay.predicted import predictions
from planner.serving.predictions import parse_prediction_request
from profiles.errors import InputError

MODEL = "Qwen/Qwen3-32B"
SERVE = f"vllm serve {MODEL} -tp 4"


def imported(text: str, **fields: Any) -> DeploymentDocument:
    return deployment_of(parse_import_request({"text": text, "gpu": "H100-SXM", **fields}))


def only(text: str, **fields: Any) -> EngineGroup:
    (group,) = imported(text, **fields).engines
    return group


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("vllm/vllm-openai:v0.10.1.1", "vllm@0.10.1.1"),
        ("vllm/vllm-openai:v0.20.0-cu129@sha256:00ff", "vllm@0.20.0"),
        ("vllm/vllm-openai:latest", "vllm@0.33.0"),
    ],
)
def test_the_tag_of_an_image_says_the_release(image: str, release: str) -> None:
    assert imported(f"docker run --gpus all {image} --model {MODEL} -tp 4").framework == release


@pytest.mark.parametrize(
    "command",
    [
        f"--entrypoint python3 vllm/vllm-openai:v0.20.0 -m vllm.entrypoints.openai.api_server --model {MODEL} -tp 4",
        f'--entrypoint=bash vllm/vllm-openai:v0.20.0 -c "{SERVE}"',
        f"--entrypoint '' vllm/vllm-openai:v0.20.0 {SERVE}",
    ],
)
def test_an_entrypoint_runs_behind_its_image(command: str) -> None:
    document = imported(f"docker run --rm --gpus '\"device=0,1,2,3\"' {command}")
    assert (document.framework, document.engines[0].layout.tp) == ("vllm@0.20.0", 4)


@pytest.mark.parametrize("level", ["-O3", "-O=3", "-O 3", "--optimization-level 3"])
def test_levels_are_read_as_vllm_reads_them(level: str) -> None:
    kept = {each.flag: each.value for each in imported(f"{SERVE} {level} -cc.cudagraph_mode=FULL").kept}
    assert kept == {"--optimization-level": "3", "-cc": '{"cudagraph_mode": "FULL"}'}


@pytest.mark.parametrize("dash", ["–", "—", "––", "−−"])
def test_a_dash_that_is_no_hyphen_is_named(dash: str) -> None:
    with pytest.raises(InputError, match=r"argument 2: .* no hyphen") as refused:
        imported(f"vllm serve {MODEL} {dash}tensor-parallel-size 4")
    assert refused.value.hint == "write --tensor-parallel-size"


def test_a_command_over_ssh_is_the_command() -> None:
    assert only(f'ssh me@node1 "{SERVE}"').layout.tp == 4


def test_a_variable_names_the_exchange_where_the_release_reads_it() -> None:
    text = "VLLM_ALL2ALL_BACKEND=deepep_low_latency vllm serve deepseek-ai/DeepSeek-R1 -dp 8 --enable-expert-parallel"
    old = imported(text, framework="vllm@0.14")
    assert (old.engines[0].layout.exchange, old.kept) == ("low_latency", ())
    new = imported(text)
    assert new.engines[0].layout.exchange == only(text.partition(" ")[2]).layout.exchange
    assert any("from 0.16 on" in note for note in new.provenance.notes)


def test_replicas_on_other_nodes_need_no_gpus_of_this_one() -> None:
    """As `plan export` starts a wide engine on the first of four hosts."""
    wide = "vllm serve deepseek-ai/DeepSeek-R1 -dp 16 --enable-expert-parallel"
    shared = f"CUDA_VISIBLE_DEVICES=0,1,2,3 {wide} --data-parallel-size-local 4 --data-parallel-address a"
    assert only(shared, gpu="GB200").layout.gpus == 16
    with pytest.raises(InputError, match="given 4, and its degrees take 16"):
        imported(f"CUDA_VISIBLE_DEVICES=0,1,2,3 {wide}", gpu="GB200")


def test_ranks_on_other_nodes_need_no_gpus_of_this_one() -> None:
    wide = "CUDA_VISIBLE_DEVICES=0,1,2,3 trtllm-serve Qwen/Qwen3-235B-A22B --tp_size 8 --ep_size 8"
    assert only(f"{wide} --gpus_per_node 4", gpu="GB200").layout.gpus == 8
    with pytest.raises(InputError, match="given 4, and its degrees take 8"):
        imported(wide, gpu="GB200")
    with pytest.raises(InputError, match="gpus_per_node"):
        imported(f"{wide} --gpus_per_node 0", gpu="GB200")


def test_what_balances_experts_without_an_exchange_is_said() -> None:
    eplb = "--enable-eplb --eplb-config '{\"num_redundant_experts\": 32}'"
    document = imported(f"vllm serve deepseek-ai/DeepSeek-R1 -dp 8 --enable-expert-parallel {eplb}")
    assert document.engines[0].layout.redundant == 0
    assert any("without copies and moves" in note for note in document.provenance.notes)


@pytest.mark.parametrize(("inner", "hands_over"), [("NixlConnector", True), ("OffloadingConnector", False)])
def test_one_of_several_connectors_may_hand_caches_over(inner: str, hands_over: bool) -> None:
    joined = f'{{"connectors": [{{"kv_connector": "{inner}", "kv_role": "kv_both"}}]}}'
    config = f'{{"kv_connector": "MultiConnector", "kv_role": "kv_both", "kv_connector_extra_config": {joined}}}'
    text = f"{SERVE} --kv-transfer-config '{config}'"
    if hands_over:
        with pytest.raises(InputError, match="whether it prefills or decodes"):
            imported(text)
    assert only(text, **({"role": "decode"} if hands_over else {})).role == ("decode" if hands_over else "aggregated")


@pytest.mark.parametrize("asks", ["--gres=gpu:h200:8", "--gpus-per-node=h200:8", "-N 2 --gpus h200:8", "-G h200:8"])
def test_a_slurm_job_says_its_gpus(asks: str) -> None:
    text = f"#!/bin/bash\n#SBATCH {asks}\nsrun {SERVE}\n"
    assert only(text, gpu=None).gpu == "H200"
    with pytest.raises(InputError, match="H100-SXM is given, and command asks for H200"):
        imported(text)


@pytest.mark.parametrize("asks", ["--gres=gpu:8", "--gres=gpu:mine:8"])
def test_a_slurm_job_that_does_not_say_its_gpus_is_asked(asks: str) -> None:
    with pytest.raises(InputError, match="does not say which GPUs"):
        imported(f"#SBATCH {asks}\n{SERVE}\n", gpu=None)


def test_values_of_an_unknown_chart_are_no_manifest() -> None:
    with pytest.raises(InputError, match="replicaCount") as refused:
        imported("replicaCount: 2\nimage:\n  tag: latest\n")
    assert "helm template" in refused.value.hint


OPTIONS = """\
enable_attention_dp: true
moe_config: {backend: WIDEEP, load_balancer: %s}
"""
BALANCED = "{num_slots: 288, layer_updates_per_iter: %d, initial_global_assignments: {3: [0, 1]}}"
TRTLLM = (
    "TRTLLM_FORCE_COMM_METHOD=NVLINK_ONE_SIDED trtllm-serve deepseek-ai/DeepSeek-R1 --tp_size 8 --ep_size 8 "
    "--extra_llm_api_options options.yaml"
)


@pytest.mark.parametrize(("updates", "eplb"), [(0, "static"), (2, "dynamic")])
@pytest.mark.parametrize("apart", [False, True])
def test_the_balancer_of_tensorrt_llm_is_read(updates: int, eplb: str, apart: bool) -> None:
    files = {"options.yaml": OPTIONS % ("/work/balancer.yaml" if apart else BALANCED % updates)}
    if apart:
        files["balancer.yaml"] = f"num_slots: 288\nlayer_updates_per_iter: {updates}\n"
    layout = only(TRTLLM, files=files, gpu="B200").layout
    assert (layout.redundant, layout.eplb) == (32, eplb)


@pytest.mark.parametrize(
    ("balancer", "said"),
    [
        ("balancer.yaml", "what the file says is not known"),
        ("{num_slots: 200}", "200 do not hold the 256 experts"),
        ("{num_slots: many}", "'many' is not a whole number"),
        ("[1]", "is no mapping"),
    ],
)
def test_a_balancer_that_does_not_fit_is_refused(balancer: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        imported(TRTLLM, files={"options.yaml": OPTIONS % balancer}, gpu="B200")


HANDED = f'{SERVE} --kv-transfer-config \'{{"kv_connector": "NixlConnector", "kv_role": "kv_both"}}\''


@pytest.mark.parametrize(("role", "known", "unknown"), [("decode", "tpot", "ttft"), ("prefill", "ttft", "tpot")])
def test_engines_of_one_role_are_predicted_at_a_batch(role: str, known: str, unknown: str) -> None:
    document = imported(HANDED, role=role)
    load = {"isl": 2000, "osl": 200}
    (row,) = predictions(parse_prediction_request({"plan": document, "workload": {**load, "concurrency": 8}})).rows
    assert float(row[f"{known}_ms_mean"] or 0) > 0
    assert not row[f"{unknown}_ms_mean"]
    (row,) = predictions(parse_prediction_request({"plan": document, "workload": {**load, "rate_rps": 1}})).rows
    assert "asked at a batch" in str(row["error"])
