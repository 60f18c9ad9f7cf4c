"""Engines by their shape: what is understood, what is refused, and that the three commands answer for them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.main import application
from planner.contract.deployment import parse_deployment
from planner.imports.shapes import deployment_of_shapes, parse_shapes
from planner.serving.configuration import EngineAsked
from profiles.errors import InputError

ASKED = EngineAsked(model="Qwen/Qwen3-32B", gpu="H200")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2xTP4", [("aggregated", 2, {"tp": 4})]),
        ("tp4", [("aggregated", 1, {"tp": 4})]),
        ("2 x TP2 PP2", [("aggregated", 2, {"tp": 2, "pp": 2})]),
        ("4×TP2·PP2", [("aggregated", 4, {"tp": 2, "pp": 2})]),
        ("prefill=4xTP1,decode=1xTP4", [("prefill", 4, {"tp": 1}), ("decode", 1, {"tp": 4})]),
        ("Prefill = 1xTP1DP8EP8, decode=2xtp1-dp8-ep8", [
            ("prefill", 1, {"tp": 1, "dp": 8, "ep": 8}), ("decode", 2, {"tp": 1, "dp": 8, "ep": 8})]),
    ],
)  # fmt: skip
def test_shapes_are_understood(text: str, meant: list[Any]) -> None:
    assert [(shape.role, shape.count, shape.degrees) for shape in parse_shapes(text)] == meant


@pytest.mark.parametrize(
    "text",
    ["", "2x", "4", "2xTP", "2xXX4", "0xTP4", "2xTP0", "foo=2xTP4", "prefill=2xTP4", "2xTP4,decode=1xTP4", "TP4TP2"],
)
def test_what_is_not_understood_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"^engines: ") as caught:
        parse_shapes(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TP1 DP56 EP56+24", {"redundant": 24}),
        ("TP1 DP16 EP16 low-latency", {"exchange": "low_latency"}),
        (
            "2xTP1DP16EP16+32 low-latency two-batch",
            {"redundant": 32, "exchange": "low_latency", "overlap": "two_batch"},
        ),
        ("TP1 DP16 EP16 NVLink one-sided", {"exchange": "nvlink_one_sided"}),
        ("TP1-DP16-EP16-high_throughput-tbo", {"exchange": "high_throughput", "overlap": "two_batch"}),
        ("TP1 DP16 EP16 redundant=32 exchange=none", {"redundant": 32, "exchange": "none"}),
    ],
)
def test_a_label_says_its_experts_too(text: str, said: dict[str, Any]) -> None:
    (shape,) = parse_shapes(text)
    assert shape.experts == said


WIDE = EngineAsked(model="deepseek-ai/DeepSeek-R1", gpu="H200", framework="sglang")


def test_labels_of_wide_engines_are_read_back() -> None:
    text = "prefill=1xTP1 DP16 EP16 high-throughput,decode=2xTP1 DP16 EP16+32 low-latency two-batch"
    document = deployment_of_shapes(text, WIDE)
    labels = [group.layout.label for group in document.engines]
    assert labels == ["TP1 DP16 EP16 high-throughput", "TP1 DP16 EP16+32 low-latency two-batch"]
    again = deployment_of_shapes(f"prefill=1x{labels[0]},decode=2x{labels[1]}", WIDE)
    assert [group.layout for group in again.engines] == [group.layout for group in document.engines]


def test_what_a_label_does_not_say_of_experts_is_taken_as_a_prediction_takes_it_and_told() -> None:
    document = deployment_of_shapes("1xTP1 DP16 EP16", WIDE.model_copy(update={"gpu": "GB200", "framework": "trtllm"}))
    assert document.engines[0].layout.exchange == "nvlink_one_sided"
    assert "not given, so: exchange=nvlink_one_sided" in document.provenance.notes[0]


def test_a_low_latency_engine_holds_no_more_sequences_than_its_buffers() -> None:
    text = "prefill=1xTP1 DP16 EP16,decode=1xTP1 DP16 EP16"
    decode = deployment_of_shapes(text, WIDE).engines[1]
    assert (decode.limits.max_sequences, decode.layout.dispatch_tokens) == (128, 128)
    asked = deployment_of_shapes(text, WIDE.model_copy(update={"max_num_seqs": 200})).engines[1]
    assert (asked.limits.max_sequences, asked.layout.dispatch_tokens) == (200, 256)
    with pytest.raises(InputError, match="max_num_seqs: 200 sequences are more than the 128 tokens") as caught:
        deployment_of_shapes(text, WIDE.model_copy(update={"max_num_seqs": 200, "dispatch_tokens": 128}))
    assert "lower it to 128" in str(caught.value.hint)


def test_buffers_of_whole_steps_bound_the_step() -> None:
    """vLLM's since 0.20: a decode engine is started with small steps, one that does both is refused unless it is."""
    vllm = WIDE.model_copy(update={"framework": "vllm"})
    text = "prefill=1xTP1 DP16 EP16,decode=1xTP1 DP16 EP16 low-latency"
    decode = deployment_of_shapes(text, vllm).engines[1]
    assert decode.limits.max_tokens_per_step == decode.layout.dispatch_tokens == 256
    both = "1xTP1 DP16 EP16 low-latency"
    with pytest.raises(InputError, match=r"8192 tokens of a step are more than the 1024 .* whole steps") as caught:
        deployment_of_shapes(both, vllm)
    assert "max_num_batched_tokens=1024 or less" in str(caught.value.hint)
    small = deployment_of_shapes(both, vllm.model_copy(update={"max_num_batched_tokens": 1024}))
    assert small.engines[0].limits.max_tokens_per_step == small.engines[0].layout.dispatch_tokens == 1024


@pytest.mark.parametrize(
    ("text", "why", "hint"),
    [
        ("1xTP1 DP72 EP72+10", "redundant: 256 experts and 10 copies do not divide by ep 72", "redundant=32"),
        ("1xTP1 DP16 EP16 low-latency", "exchange: low_latency", "role=decode"),
        ("1xTP8 two-batch", "no GPUs share out the experts", "leave overlap out"),
    ],
)
def test_what_experts_cannot_be_is_refused_with_the_way_out(text: str, why: str, hint: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        deployment_of_shapes(text, WIDE)
    assert hint in str(caught.value.hint)


def test_the_deployment_is_a_document_like_any_other() -> None:
    document = deployment_of_shapes("prefill=4xTP1,decode=1xTP4", ASKED)
    assert parse_deployment(document.to_json()) == document
    assert [(group.role, len(group.replicas), group.layout.label) for group in document.engines] == [
        ("prefill", 4, "TP1"),
        ("decode", 1, "TP4"),
    ]
    assert document.gpus_used == 8
    assert document.pairs == (("engine-0", "engine-1"),)
    assert {each.field for each in document.assumed} >= {"limits.max_sequences", "kv_precision"}


def test_a_layout_that_the_model_refuses_is_refused_in_the_rules_words() -> None:
    with pytest.raises(InputError, match="engines: 64 attention heads do not divide by tp"):
        deployment_of_shapes("3xTP5", ASKED)
    hybrid = EngineAsked(model="Qwen/Qwen3-Next-80B-A3B-Instruct", gpu="H200")
    with pytest.raises(InputError, match="equal tp alone, and these have tp 2 and 4"):
        deployment_of_shapes("prefill=1xTP2,decode=1xTP4", hybrid)


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(application(), [*arguments, "--model", "Qwen/Qwen3-32B", "--gpu", "H200"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


LOAD = ("--workload", "isl=500,osl=50,rate=2")


def test_memory_answers_for_each_engine_of_a_shape() -> None:
    apart = ("--engines", "prefill=2xTP2,decode=1xTP4")
    memory = run("memory", *apart, "--engine", "engine-1", "--max-num-seqs", "64", "--json")
    assert memory["starts"]


@pytest.mark.slow  # learns forests
def test_predict_and_simulate_answer_for_shapes() -> None:
    apart = ("--engines", "prefill=2xTP2,decode=1xTP4")
    (row,) = run("predict", *apart, *LOAD, "--json", "-q")["rows"]
    assert row["engines"] == "prefill=2xTP2,decode=1xTP4"
    assert row["ttft_ms_low"] <= row["ttft_ms_mean"] <= row["ttft_ms_high"]
    report = run("simulate", *apart, *LOAD, "--requests", "300", "--json", "-q")
    assert report["load"]["requests"] == 300
    assert [group["replicas"] for group in report["groups"]] == [2, 1]
    rows = run("predict", "--engines", "2xTP4", *LOAD, "--json", "-q")["rows"]
    assert len(rows) == 1
    assert rows[0]["tp"] == 4
