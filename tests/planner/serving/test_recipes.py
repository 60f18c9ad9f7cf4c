"""How engines are started, said by option or column: of predict, plan and simulate; what nobody says is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.framework import find_framework, registry
from costmodels.serving.recipe import Recipe
from planner.replay import planned_engines
from planner.replay.report import simulate
from planner.replay.request import SimulationRequest
from planner.replay.running import Running
from planner.serving import prediction_table as predicting
from planner.serving.configuration import RECIPE_FIELDS, MemoryRequest
from planner.serving.document.plan import Plan
from planner.serving.prediction_table import predict
from profiles.errors import Infeasible, InputError, Unsupported
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

Planned = Callable[..., Plan]

ROW = {
    "model": "Qwen/Qwen3-8B",
    "gpu": "H100",
    "framework": "vllm@0.19.0",
    "isl": "1000",
    "osl": "100",
    "concurrency": "64",
}


@pytest.fixture(autouse=True)
def roofline_only(monkeypatch: pytest.MonkeyPatch, bare: ProfileStore) -> None:
    for module in (predicting, planned_engines):
        monkeypatch.setattr(module, "CostModel", lambda gpu, framework, *_, **__: CostModel(gpu, framework, bare))


def row(**changes: str) -> pd.Series:
    return predict(pd.DataFrame([{**ROW, **changes}])).iloc[0]


# --- predict ----------------------------------------------------------------------------------------------


def test_what_nobody_says_is_the_release_s_default_and_named() -> None:
    got = row()
    assert got["error"] == ""
    assert "vLLM 0.19.0 has it on H100-SXM: max_num_seqs=1024, max_num_batched_tokens=8192" in got["note"]
    assert "gpu_memory_utilization=0.9, chunked_prefill=true" in got["note"]
    assert "max_num_seqs=256, max_num_batched_tokens=2048" in row(gpu="A100")["note"], "smaller limits on A100s"
    assert "gpu_memory_utilization=0.92" in row(framework="vllm@0.22")["note"]


def test_prompts_that_go_alone_are_not_said_to_be_cut() -> None:
    for model, cut in (("Qwen/Qwen3-8B", "true"), ("Qwen/Qwen2.5-7B-Instruct", "false")):
        assert f"chunked_prefill={cut}" in row(model=model, framework="vllm@0.7.3")["note"]


def test_states_that_are_as_large_whatever_a_length_are_counted_in_sequences() -> None:
    asked = {"model": "tiiuae/falcon-mamba-7b-instruct"}
    told = [re.search(r"the states of ([0-9,]+) sequences", row(**asked, isl=isl)["note"]) for isl in ("500", "2000")]
    short, long = (int(each[1].replace(",", "")) for each in told if each is not None)
    assert short == pytest.approx(long, rel=0.001)
    assert "the states of" not in row()["note"]


def test_a_model_drafts_for_itself_only_where_it_can() -> None:
    for spec in ("mtp3", "NEXTN"):
        assert "Qwen/Qwen3-8B has no layers that draft (MTP)" in row(spec=spec)["error"]
    three, usual = (row(spec=spec)["note"] for spec in ("eagle:3", "eagle3"))
    assert "3 drafted tokens" in three
    assert "nothing says what Qwen/Qwen3-8B drafts with" in usual
    unsaid = row(model="Qwen/Qwen3-Next-80B-A3B-Instruct", tp="4", spec="mtp2")
    assert "nothing says what" in unsaid["note"], "its checkpoint has such layers, its config.json says nothing"


def test_the_same_said_is_the_same_predicted() -> None:
    said = row(max_num_seqs="1024", max_num_batched_tokens="8192", gpu_memory_utilization="0.9", chunked_prefill="yes")
    assert said["ttft_ms_mean"] == row()["ttft_ms_mean"]
    assert "not given" not in said["note"]


def test_a_batch_below_the_requests_in_flight_is_a_queue_and_said() -> None:
    some, plain = row(max_num_seqs="16"), row()
    assert float(some["ttft_ms_mean"]) > 2 * float(plain["ttft_ms_mean"])
    assert float(some["tpot_ms_mean"]) < float(plain["tpot_ms_mean"])
    assert "16 of the 64 requests are in flight at once" in some["note"]
    assert "outgrow the cache" not in some["note"]
    assert "in flight at once" not in plain["note"]


def test_a_cache_below_the_requests_in_flight_is_said_to_overflow() -> None:
    assert "outgrow the cache" in row(concurrency="512", isl="4000", osl="8000")["note"]


def test_less_memory_holds_less() -> None:
    half, most = row(gpu_memory_utilization="0.5"), row(gpu_memory_utilization="0.9")
    assert int(half["kv_tokens"]) < int(most["kv_tokens"])
    assert float(half["memory_bytes_per_gpu"]) < float(most["memory_bytes_per_gpu"])


def test_a_larger_share_than_the_default_is_taken_only_where_nobody_says_one_and_said() -> None:
    tight = {"model": "Qwen/Qwen3-32B", "isl": "33000", "concurrency": "1"}
    taken = row(**tight)
    assert taken["error"] == ""
    assert "gpu_memory_utilization=0.95 is taken: 0.9 leaves no room for a context" in taken["note"]
    assert "memory:" in row(**tight, gpu_memory_utilization="0.9")["error"]


def test_an_engine_that_nobody_could_start_with_its_defaults_is_taken_to_have_more_memory() -> None:
    """70 billion parameters in bf16 on two H100: the sampler of vLLM 0.11 leaves room for 1,031 tokens."""
    tight = {"model": "meta-llama/Llama-3.1-70B-Instruct", "tp": "2", "isl": "400", "framework": "vllm@0.11.0"}
    taken, said = row(**tight), row(**tight, gpu_memory_utilization="0.9")
    assert "0.9 leaves no room for a context of 4,096 tokens" in taken["note"]
    assert int(taken["kv_tokens"]) > 20_000
    assert int(said["kv_tokens"]) < 4_096


def test_smaller_steps_take_longer_to_the_first_token() -> None:
    small, large = (row(isl="8000", concurrency="1", max_num_batched_tokens=each) for each in ("512", "8192"))
    assert float(small["ttft_ms_mean"]) > float(large["ttft_ms_mean"])


def test_looking_at_the_queue_less_often_makes_requests_wait() -> None:
    often, seldom = (row(spread="0.8-1", **more) for more in ({}, {"polling_interval": "30"}))
    assert float(seldom["ttft_ms_mean"]) > float(often["ttft_ms_mean"])


def test_at_a_rate_the_recipe_counts_too() -> None:
    plain, few = (row(concurrency="", rate="8", **more) for more in ({}, {"max_num_seqs": "8"}))
    assert float(few["ttft_ms_p99"]) > float(plain["ttft_ms_p99"])
    assert "not counted where requests arrive at a rate" in row(concurrency="", rate="1", polling_interval="9")["note"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_num_seqs": "many"}, "max_num_seqs: 'many'"),
        ({"gpu_memory_utilization": "1.2"}, "gpu_memory_utilization: '1.2'"),
        ({"max_model_len": "500"}, "max_model_len: 500 is less than the 1,100 tokens"),
        ({"max_model_len": "5000000"}, "max_model_len: 5,000,000"),
        ({"chunked_prefill": "perhaps"}, "chunked_prefill: 'perhaps'"),
        ({"chunked_prefill": "false", "max_num_batched_tokens": "512"}, "a prompt of 1,000 tokens does not fit"),
        ({"sampling": "best"}, "sampling: 'best'"),
        ({"framework": "sglang", "mem_fraction_static": "0.8", "gpu_memory_utilization": "0.9"}, "is given too"),
    ],
)
def test_a_row_that_contradicts_itself_says_so(changes: dict[str, str], message: str) -> None:
    error = row(**changes)["error"]
    assert message in error
    assert "; " in error, "the way out"


@pytest.mark.parametrize(
    ("framework", "theirs", "ours"),
    [
        ("sglang", "mem_fraction_static", "gpu_memory_utilization"),
        ("trtllm", "free_gpu_memory_fraction", "gpu_memory_utilization"),
    ],
)
def test_columns_may_be_in_the_framework_s_own_words(framework: str, theirs: str, ours: str) -> None:
    one, other = (row(framework=framework, **{word: "0.7"}) for word in (theirs, ours))
    assert one["error"] == other["error"] == ""
    assert one["kv_tokens"] == other["kv_tokens"]


def test_every_word_of_a_framework_means_one_of_ours() -> None:
    known = {*MemoryRequest.model_fields, *RECIPE_FIELDS}
    for name in registry().names:
        framework = find_framework(name)
        assert set(framework.words.values()) <= known
        assert set(framework.words_of_all_replicas) <= set(framework.words)
        assert not known & set(framework.words), "a word of ours is not renamed"


def test_a_recipe_is_whole_once_it_is_started() -> None:
    model, gpu = find_architecture("Qwen/Qwen3-8B"), find_gpu("H100")
    for name in registry().names:
        started = Recipe(max_num_seqs=7).started(find_framework(name), gpu, model)
        assert started.max_num_seqs == 7
        assert "max_num_seqs" not in started.assumed
        assert started.max_model_len == model.max_context_tokens
    with pytest.raises(InputError, match="max_model_len: 99,999"):
        Recipe(max_model_len=99_999).started(find_framework("vllm"), gpu, model)


# --- plan and simulate ------------------------------------------------------------------------------------

PLANNED: dict[str, Any] = {"model": "Qwen/Qwen3-8B", "cluster": "1xH100", "workload": "isl=1000,osl=200"}


def test_a_plan_starts_engines_as_asked(planned: Planned) -> None:
    asked = {"max_num_seqs": 32, "max_num_batched_tokens": 4096, "gpu_memory_utilization": 0.8, "max_model_len": 8192}
    plan = planned(**PLANNED, **asked, disaggregation="never")
    (engine,) = plan.decision.engines
    assert engine.limits.max_sequences <= 32
    assert engine.limits.max_tokens_per_step == 4096
    assert engine.limits.memory_fraction == 0.8
    assert engine.limits.max_model_len == 8192
    command = " ".join(engine.launch.command)
    for words in ("--max-num-batched-tokens 4096", "--gpu-memory-utilization 0.8", "--max-model-len 8192"):
        assert words in command
    free = planned(**PLANNED, disaggregation="never")
    assert plan.prediction.request_rate_rps.value < free.prediction.request_rate_rps.value


def test_a_length_that_the_cache_does_not_hold_is_no_plan(planned: Planned) -> None:
    large = {**PLANNED, "model": "Qwen/Qwen3-32B", "disaggregation": "never"}
    assert planned(**large, max_model_len=8192)
    with pytest.raises(Infeasible, match="holds no sequence"):
        planned(**large, max_model_len=40_960)
    with pytest.raises(InputError, match="max_model_len: 82 is not between"):
        planned(**PLANNED, max_model_len=82)


def test_a_simulation_starts_the_plan_s_engines_as_asked(planned: Planned, tmp_path: Path) -> None:
    plan = planned(**PLANNED, disaggregation="never").sealed()
    load = {"plan": plan, "rate": 5.0, "requests": 200}
    plain, few = (simulate(SimulationRequest(**load, **more)) for more in ({}, {"max_num_seqs": 2}))
    assert few.ttft_ms.p99.value > 5 * plain.ttft_ms.p99.value
    assert "max_num_seqs=2" in few.load.source
    assert not few.edited


def test_whole_prompts_are_planned_said_and_replayed(planned: Any) -> None:
    plan = planned("Qwen/Qwen3-8B", "1xH100", "isl=3000,osl=50", "ttft=1s,tpot=50ms", chunked_prefill=False)
    (group,) = plan.decision.engines
    assert group.limits.max_tokens_per_step >= 3000
    assert group.launch.command[-1] == "--disable-chunked-prefill"
    assert plan.request.chunked_prefill is False
    running = Running.of(plan)
    assert not running.started(group).scheduler.chunked
    assert running.with_prompts(True, None).started(group).scheduler.chunked
    with pytest.raises(InputError, match="chunked_prefill: without it a prompt of 3,000 tokens does not fit"):
        planned(
            "Qwen/Qwen3-8B",
            "1xH100",
            "isl=3000,osl=50",
            "ttft=1s,tpot=50ms",
            chunked_prefill=False,
            max_num_batched_tokens=2048,
        )
    with pytest.raises(Unsupported, match="no word that keeps SGLang from cutting prompts"):
        planned(
            "Qwen/Qwen3-8B", "1xH100", "isl=3000,osl=50", "ttft=1s,tpot=50ms", chunked_prefill=False, framework="sglang"
        )


def test_an_older_engine_that_is_told_to_cut_prompts_is_replayed_so(planned: Any) -> None:
    asked = {"framework": "vllm@0.7.3", "simulation": False}
    plan = planned("Qwen/Qwen2.5-7B-Instruct", "1xH100", "isl=3000,osl=50,rate=2", "ttft=1s,tpot=50ms", **asked)
    load = {"plan": plan.sealed(), "rate": 8.0, "requests": 300}
    plain, cut = (simulate(SimulationRequest(**load, **more)) for more in ({}, {"chunked_prefill": True}))
    assert "chunked_prefill=true" in cut.load.source
    assert cut.ttft_ms.p90.value > 1.05 * plain.ttft_ms.p90.value, "prompts no longer go first and alone"


def test_a_queue_that_is_looked_at_seldom_makes_requests_wait(planned: Any) -> None:
    asked = {"framework": "sglang", "simulation": True}
    often = planned("Qwen/Qwen3-8B", "1xH100", "isl=500,osl=100,rate=2", "", **asked)
    seldom = planned("Qwen/Qwen3-8B", "1xH100", "isl=500,osl=100,rate=2", "", polling_interval=20, **asked)
    (group,) = seldom.decision.engines
    assert group.launch.command[-2:] == ("--scheduler-recv-interval", "20")
    wait = seldom.prediction.ttft_ms.mean.value - often.prediction.ttft_ms.mean.value
    step = often.prediction.tpot_ms.mean.value
    assert 1.5 * step < wait < 12 * step, "half of twenty steps, while anything runs"
    with pytest.raises(Unsupported, match="polling_interval: vLLM has no option"):
        planned("Qwen/Qwen3-8B", "1xH100", "isl=500,osl=100,rate=2", "", polling_interval=20)
    with pytest.raises(Unsupported, match="polling_interval=20: of TensorRT-LLM") as refused:
        planned("Qwen/Qwen3-8B", "1xH100", "isl=500,osl=100,rate=2", "", polling_interval=20, framework="trtllm")
    assert "plan predict --concurrency" in refused.value.hint
