"""``plan memory`` as a document: whether an engine starts, why not, and which option would make it."""

from __future__ import annotations

from typing import Any

import pytest

from planner.serving.memory import memory
from planner.serving.memory_document import MemoryDocument, parse_memory, parse_memory_request
from profiles.errors import InputError, ShardwrightError, UnknownName, Unsupported

LLAMA = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100", "framework": "vllm@0.19.0"}


def asked(**changes: Any) -> MemoryDocument:
    return memory(parse_memory_request({**LLAMA, **changes}))


def ways_out(document: MemoryDocument) -> str:
    return next(note for note in document.notes if note.startswith(("it would", "no single")))


def test_the_answer_is_that_of_the_log() -> None:
    got = asked(max_model_len=8192, gpu_memory_utilization=0.95)
    assert got.starts
    assert not got.reasons
    assert (got.framework, got.version) == ("vllm", "0.19.0")
    assert got.memory.kv_cache_bytes / 2**30 == pytest.approx(58.11, abs=0.02)
    assert got.memory.logged_kv_tokens == pytest.approx(476_000, rel=1e-3)
    assert got.largest.concurrency == pytest.approx(58.11, abs=0.05)
    assert got.memory.kv_bytes_per_token == 131_072
    assert got.memory.kv_cache_tokens == got.memory.kv_cache_bytes // 131_072


def test_the_parts_fill_the_share() -> None:
    parts = asked(gpu_memory_utilization=0.9).memory
    total = parts.weights_bytes + parts.activation_bytes + parts.other_bytes + parts.kv_cache_bytes
    assert total == pytest.approx(0.9 * 79.19 * 2**30, abs=4)


def test_windowed_layers_make_the_log_count_less_than_fits() -> None:
    got = asked(model="google/gemma-3-27b-it", max_model_len=8192, gpu_memory_utilization=0.95)
    assert got.memory.logged_kv_tokens == pytest.approx(36_560, rel=0.01)
    assert got.memory.kv_cache_tokens > 4 * got.memory.logged_kv_tokens


def test_a_state_of_each_sequence_is_counted_in_sequences() -> None:
    got = asked(model="tiiuae/falcon-mamba-7b-instruct")
    assert got.memory.kv_cache_sequences == pytest.approx(got.largest.concurrency, abs=1)
    hybrid = asked(model="LiquidAI/LFM2-1.2B").memory
    assert hybrid.kv_cache_sequences is None, "some of its layers keep a cache of each token"
    assert "kv_cache_sequences" not in hybrid.model_dump()


def test_a_cache_without_room_for_the_longest_request_is_a_reason_in_vllm_and_a_note_elsewhere() -> None:
    large = {"model": "Qwen/Qwen3-32B", "gpu": "H100"}
    refused = asked(**large, framework="vllm@0.19")
    assert not refused.starts
    assert "holds no request of max_model_len=40,960" in refused.reasons[0]
    assert f"--max-model-len {refused.largest.context_tokens}" in ways_out(refused)
    assert asked(**large, max_model_len=refused.largest.context_tokens).starts
    taken = asked(**large, framework="sglang")
    assert taken.starts
    assert any(f"more than {taken.largest.context_tokens:,} tokens" in note for note in taken.notes)


@pytest.mark.parametrize(
    ("changes", "reason", "way_out"),
    [
        ({"model": "deepseek-ai/DeepSeek-R1", "tp": 8}, "the weights take", "no single option"),
        (
            {"model": "openai/gpt-oss-120b", "framework": "vllm@0.11", "max_model_len": 16000},
            "are lacking",
            "utilization 0.93",
        ),
        ({"gpu_memory_utilization": 0.995}, "are free when the engine starts", "--gpu-memory-utilization 0.98"),
        ({"gpu_memory_utilization": 0.2}, "no room for a cache", "--tensor-parallel-size"),
        ({"model": "Qwen/Qwen3-235B-A22B-FP8", "tp": 8}, "is not a multiple of the 128-wide scale blocks", ""),
        ({"tp": 64}, "do not divide by tp", ""),
    ],
)
def test_why_an_engine_does_not_start_and_what_would_make_it(
    changes: dict[str, Any], reason: str, way_out: str
) -> None:
    got = asked(**changes)
    assert not got.starts
    assert reason in got.reasons[0]
    assert not way_out or way_out in ways_out(got)


def test_every_way_out_that_is_named_starts() -> None:
    stuck = {"model": "Qwen/Qwen3-32B", "gpu_memory_utilization": 0.85, "max_model_len": 20_000}
    assert not asked(**stuck).starts
    words = ways_out(asked(**stuck))
    fields = {
        "--max-model-len": ("max_model_len", int),
        "--gpu-memory-utilization": ("gpu_memory_utilization", float),
        "--max-num-seqs": ("max_num_seqs", int),
        "--tensor-parallel-size": ("tp", int),
    }
    tried = 0
    for option, (field, kind) in fields.items():
        if option in words:
            value = words.split(option)[1].split(",")[0].strip()
            assert asked(**{**stuck, field: kind(value)}).starts, option
            tried += 1
    assert tried >= 2
    assert ("fp8 KV cache" in words) == asked(**stuck, kv_precision="fp8").starts


def test_what_nobody_said_is_named_with_the_release() -> None:
    got = asked()
    assert "not given, so as vLLM 0.19.0 has it on H100-SXM: max_num_seqs=1024, max_num_batched_tokens=8192" in str(
        got.notes
    )
    all_said = asked(
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        gpu_memory_utilization=0.9,
        max_model_len=4096,
        chunked_prefill=True,
    )
    assert "not given" not in str(all_said.notes)
    assert all_said.memory.activation_bytes < got.memory.activation_bytes
    assert "predicted as 0.33.0" in str(asked(framework="vllm@0.99").notes)


def test_a_pipeline_logs_the_first_stage_and_has_the_tokens_of_the_last() -> None:
    got = asked(pp=4, gpu_memory_utilization=0.95, max_model_len=8192)
    assert got.memory.kv_cache_bytes / 2**30 == pytest.approx(69.80, abs=0.1)
    assert got.memory.logged_kv_tokens == pytest.approx(2_257_264, rel=0.005)
    assert "first stage" in str(got.notes)


def test_more_gpus_hold_more_and_longer_requests() -> None:
    sizes = [asked(model="Qwen/Qwen3-32B", tp=tp) for tp in (1, 2, 4)]
    assert [each.memory.kv_cache_tokens for each in sizes] == sorted(each.memory.kv_cache_tokens for each in sizes)
    lengths = [asked(max_model_len=length).largest.concurrency for length in (1024, 8192, 65_536)]
    assert lengths == sorted(lengths, reverse=True)


def test_a_draft_module_is_counted_where_there_is_one() -> None:
    plain, drafting = (asked(model="deepseek-ai/DeepSeek-R1", gpu="B200", tp=8, draft=draft) for draft in (False, True))
    assert drafting.memory.weights_bytes > plain.memory.weights_bytes
    assert drafting.memory.kv_bytes_per_token > plain.memory.kv_bytes_per_token


EAGLE3 = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "draft_vocab_size": 32000,
}


def test_a_draft_head_of_its_own_is_counted() -> None:
    head = {"name": "eagle3", "config": EAGLE3}
    plain, drafting = asked(), asked(draft_model=head)
    h = 4096
    weights = 2 * h * (h + 2 * 1024) + h * h + 3 * h * 14336 + 4 * h + 3 * h * h + 32000 * h
    assert drafting.memory.weights_bytes - plain.memory.weights_bytes == pytest.approx(2 * weights, abs=2)
    assert drafting.memory.kv_bytes_per_token - plain.memory.kv_bytes_per_token == 2 * 2 * 1024
    in_fp8, drafting_in_fp8 = asked(precision="fp8"), asked(precision="fp8", draft_model=head)
    assert drafting_in_fp8.memory.weights_bytes > in_fp8.memory.weights_bytes
    with pytest.raises(InputError, match=r"draft_model: eagle3: .* drafts for another model"):
        asked(model="Qwen/Qwen3-32B", draft_model=head)
    with pytest.raises(Unsupported, match=r"draft_model: m: .* is not a draft head"):
        asked(draft_model={"name": "m", "config": EAGLE3 | {"architectures": ["MedusaModel"]}})


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"draft_model": "some/head"}, InputError, "no draft heads are bundled"),
        ({"model": "nobody/knows"}, UnknownName, "nobody/knows"),
        ({"gpu": "H1000"}, UnknownName, "H1000"),
        ({"framework": "vllm@2026-13"}, InputError, "2026-13"),
        ({"precision": "fp3"}, UnknownName, "fp3"),
        ({"max_model_len": 10**7}, InputError, "max_model_len: 10,000,000"),
        ({"gpu_memory_utilization": 1.5}, InputError, "gpu_memory_utilization"),
        ({"num_gpus": 3}, InputError, "num_gpus: 3"),
        ({"ep": 2}, InputError, "ep: 2"),
        ({"draft": True}, Unsupported, "no draft module"),
        ({"max_num_seqs": 0}, InputError, "max_num_seqs"),
        ({"isl": 5}, InputError, "isl"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(
    changes: dict[str, Any], error: type[ShardwrightError], words: str
) -> None:
    with pytest.raises(error) as raised:
        asked(**changes)
    assert words in raised.value.message
    assert raised.value.hint


def test_the_document_opens_again() -> None:
    got = asked()
    assert parse_memory(got.to_json()) == got


@pytest.mark.parametrize("name", ["chunked_prefill", "draft"])
@pytest.mark.parametrize("value", [0, 1, "true"])
def test_a_switch_is_true_or_false_and_nothing_like_it(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name}: .* should be a valid boolean"):
        parse_memory_request({"model": "Qwen/Qwen3-14B", "gpu": "H100", name: value})
