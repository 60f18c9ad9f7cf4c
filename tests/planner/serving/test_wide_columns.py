"""Columns of how experts are reached: in our words, in engines' own options, and as data frames write them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from planner.serving.memory import memory
from planner.serving.memory_document import parse_memory_request
from planner.serving.planning import plan
from planner.serving.request import parse_request
from profiles.errors import InputError
from tests.planner.serving.test_wide_experts import asked

SAME = {"dp": "16", "ep": "16", "redundant": "32", "concurrency": "256", "gpu_memory_utilization": ""}
OWN = {**SAME, "redundant": "", "ep_num_redundant_experts": "32"}
PREFILL = {**SAME, "role": "prefill"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {**SAME, "exchange": "low_latency", "eplb": "dynamic", "overlap": "two_batch"},
            {
                **OWN,
                "moe_a2a_backend": "deepep",
                "deepep_mode": "low_latency",
                "enable_eplb": "true",
                "enable_two_batch_overlap": "True",
                "enable_single_batch_overlap": "false",
            },
        ),
        ({**SAME, "exchange": "none"}, {**OWN, "moe_a2a_backend": "none", "deepep_mode": "auto"}),
        (
            {**PREFILL, "exchange": "high_throughput", "redundant": "0", "eplb": "off"},
            {
                **PREFILL,
                "redundant": "",
                "moe_a2a_backend": "deepep",
                "deepep_mode": "normal",
                "enable_eplb": "0",
            },
        ),
        (
            {**SAME, "framework": "vllm", "exchange": "low_latency", "eplb": "dynamic", "overlap": "two_batch"},
            {
                **SAME,
                "redundant": "",
                "framework": "vllm",
                "all2all_backend": "deepep_low_latency",
                "num_redundant_experts": "32",
                "enable_eplb": "1",
                "enable_dbo": "yes",
            },
        ),
        ({**SAME, "exchange": "none"}, {**SAME, "exchange": "none", "redundant": "32.0", "dispatch_tokens": "0"}),
        (SAME, {**SAME, "tp": "", "dp": "", "decode_tp": "1", "decode_dp": "16.0"}),
    ],
)
def test_engines_own_options_say_what_our_columns_say(ours: dict[str, str], theirs: dict[str, str]) -> None:
    table = asked(ours, theirs)
    assert list(table["error"]) == ["", ""]
    for name in ("tpot_ms_mean", "ttft_ms_mean", "input_tokens_per_s_per_gpu", "memory_bytes_per_gpu"):
        assert table[name][0] == table[name][1], name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"moe_a2a_backend": "mooncake", "exchange": "low_latency"}, "exchange is given too; give one of them"),
        ({"enable_eplb": "perhaps"}, "enable_eplb: 'perhaps' is not known; give one of true, false"),
        ({"enable_eplb": "true", "eplb": "static"}, "enable_eplb: 'true' contradicts eplb 'static'"),
        (
            {"enable_two_batch_overlap": "1", "enable_single_batch_overlap": "1"},
            "enable_single_batch_overlap: '1' contradicts overlap 'two_batch'",
        ),
        ({"decode_tp": "4"}, "decode_tp: '4' contradicts tp '1'; keep one of them"),
        ({"redundant": "100000"}, "more than one of each on every GPU; give at most 3840"),
        ({"redundant": "32.5"}, "redundant: '32.5' is no whole number"),
        ({"exchange": "low_latency", "dispatch_tokens": "0"}, "dispatch_tokens: 0, but .* give 1 to 1024"),
        (
            {"framework": "vllm", "role": "", "exchange": "low_latency"},
            "8192 tokens of a step are more than the 1024 .* for whole steps .* max_num_batched_tokens=1024 or less$",
        ),
        ({"role": "prefill", "dispatch_tokens": "256"}, "no buffers of a fixed size; leave dispatch_tokens out$"),
        ({"framework": "trtllm", "gpu": "GB200", "overlap": "two_batch"}, "has no two_batch; give overlap=none$"),
        (
            {"framework": "trtllm", "gpu": "B200", "exchange": "nvlink_one_sided"},
            "no further than one NVLink domain of 8 GPUs; give one of none, low_latency$",
        ),
    ],
)
def test_contradictions_and_words_that_are_not_known_are_refused(change: dict[str, str], says: str) -> None:
    error = asked({**SAME, **change})["error"][0]
    assert re.search(says, error), error


def test_buffers_of_vllm_hold_a_step_since_the_variable_went() -> None:
    row = {**SAME, "redundant": "", "exchange": "low_latency", "dispatch_tokens": "512"}
    old, new = asked({**row, "framework": "vllm@0.19.1"}, {**row, "framework": "vllm"}).to_dict("records")
    assert "buffers for max_num_batched_tokens" in new["note"]
    assert "buffers for max_num_batched_tokens" not in old["note"]
    assert new["error"] == old["error"] == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"exchange": "none", "overlap": "two_batch"},
            "overlap: two_batch is said of an exchange, and exchange is none",
        ),
        ({"framework": "vllm", "redundant": 32, "eplb": "off"}, "redundant: vLLM keeps no copies .* eplb is off"),
        (
            {"framework": "trtllm", "cluster": "16xGB200", "overlap": "two_batch"},
            "overlap: TensorRT-LLM has no two_batch",
        ),
        ({"redundant": 7}, "256 experts and 7 copies divide by no group of GPUs here"),
    ],
)
def test_plans_refuse_what_no_engine_can_be_in_the_words_of_predictions(change: dict[str, Any], says: str) -> None:
    asked_for = {"model": "deepseek-ai/DeepSeek-R1", "cluster": "16xH200", "framework": "sglang", "slo": "ttft=5s"}
    request = parse_request({**asked_for, "workload": "isl=2000,osl=500", **change})
    with pytest.raises(InputError, match=says) as caught:
        plan(request)
    assert "48" not in str(caught.value.hint)  # GPUs that the cluster does not have


def test_models_that_no_exchange_reaches_gather() -> None:
    """SGLang's gpt-oss: nothing said gathers, and a named exchange is refused by name."""
    model = {
        "model": "openai/gpt-oss-120b",
        "gpu": "MI355X",
        "dp": "8",
        "ep": "8",
        "redundant": "",
        "concurrency": "512",
    }
    model["gpu_memory_utilization"] = ""
    said, named, vllm = asked(model, model | {"exchange": "mori"}, model | {"framework": "vllm"}).itertuples()
    assert said.error == ""
    assert "exchange=" not in said.note
    assert "SGLang has no exchange for experts of gpt_oss (all ranks gather)" in re.sub(r" 0\.\S+", "", named.error)
    assert "exchange=mori_low_latency" in vllm.note


def test_memory_tells_of_more_sequences_than_buffers_hold() -> None:
    def told(**recipe: int) -> str:
        said = {"model": "deepseek-ai/DeepSeek-R1", "gpu": "H100", "framework": "sglang", "tp": 1, "dp": 16, "ep": 16}
        asked = {**said, "role": "decode", "exchange": "low_latency", "dispatch_tokens": 256, **recipe}
        return " ".join(memory(parse_memory_request(asked)).notes)

    assert "hold 256 of max_num_seqs 512; a step of more fails: give max_num_seqs 256, or dispatch_tokens 512" in told(
        max_num_seqs=512
    )
    assert "buffers hold" not in told(max_num_seqs=256)
    assert "buffers hold" not in told()
