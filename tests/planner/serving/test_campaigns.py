"""How public campaigns start the engines behind their rows."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.frameworks.history import Release
from planner.contract.workload.workload import parse_workload
from planner.serving.asked_rows import AskedRow, asked_row
from planner.serving.campaigns import CampaignEngine, as_sent, as_started, campaigns
from planner.serving.harness_words import in_our_terms
from planner.serving.prediction_table import model_at, predict
from profiles.descriptions import catalogue_with
from profiles.errors import InputError

ROW = {
    "source": "inferencex",
    "model": "deepseek-ai/DeepSeek-R1",
    "gpu": "B200",
    "framework": "sglang",
    "precision": "fp8_block",
    "tp": "8",
    "isl": "1024",
    "osl": "1024",
    "concurrency": "64",
    "date": "2025-12-15",
}
ENGINE = CampaignEngine(
    "sglang", "deepseek-ai/DeepSeek-R1", "B200", "fp8_block", 8, 1, 1024, 64, False, Release(version="0.5.6")
)


def asked(**said: str) -> AskedRow:
    return asked_row(0, {**ROW, **said}, model_at, parse_workload, catalogue_with(()), [])


def test_a_row_of_a_campaign_is_started_as_its_script_does() -> None:
    recipe = asked().recipe
    assert (recipe.polling_interval, recipe.max_num_batched_tokens) == (30, 32768)
    assert asked(concurrency="4").recipe.polling_interval == 10
    assert any("as InferenceX starts it (dsr1_fp8_b200.sh): polling_interval=30" in note for note in asked().notes)


def test_a_row_without_a_precision_is_of_its_checkpoints() -> None:
    assert asked(precision="").kv_precision == "fp8"
    assert asked(precision="", model="Qwen/Qwen3-32B", tp="2").kv_precision is None
    assert asked(precision="", kv_precision="auto").kv_precision == "auto"


def test_a_row_names_the_campaign_in_either_column() -> None:
    assert asked(source="silicon", campaign="InferenceX").recipe.polling_interval == 30
    assert asked(campaign="my lab").recipe.polling_interval is None


def test_a_recipe_holds_from_a_release_on() -> None:
    qwen = {"model": "Qwen/Qwen3.5-397B-A17B", "gpu": "B300", "tp": "4"}
    early, late = (asked(**qwen, version=version).recipe for version in ("0.5.9", "0.5.10.post1"))
    assert (early.polling_interval, early.max_num_batched_tokens) == (30, 32768)
    assert (late.polling_interval, late.max_num_batched_tokens) == (10, 16384)


@pytest.mark.parametrize(
    ("said", "release"),
    [
        ({"date": "2025-12-15"}, "trtllm@1.1.0rc2.post2"),
        ({"date": "2026-01-28"}, "trtllm@1.1.0rc2.post2"),
        ({"date": "2026-01-29"}, "trtllm@1.2.0rc6.post2"),
        ({"date": "2026-01-29", "version": "1.1.0"}, "trtllm@1.1.0"),  # what the row says goes before
        ({"date": "2026-01-29", "source": "my lab"}, "trtllm@1.2.0rc6"),  # the newest of the day
    ],
)
def test_a_row_without_a_release_is_of_the_image_that_its_campaign_ran_that_day(
    said: dict[str, str], release: str
) -> None:
    assert asked(framework="trtllm", **said).framework == release


def test_what_a_row_says_goes_before() -> None:
    recipe = asked(polling_interval="2").recipe
    assert (recipe.polling_interval, recipe.max_num_batched_tokens) == (2, 32768)


@pytest.mark.parametrize(
    "said", [{"source": ""}, {"source": "my lab"}, {"gpu": "H100"}, {"concurrency": "", "rate": "3"}]
)
def test_other_rows_are_as_they_were(said: dict[str, str]) -> None:
    row = asked(**said)
    assert (row.recipe.polling_interval, row.recipe.max_num_batched_tokens) == (None, None)
    assert not any("as InferenceX starts it (" in note for note in row.notes)


def test_engines_are_warm_unless_said_otherwise() -> None:
    assert asked().cold
    assert asked(warmup_requests="0", source="my lab").cold
    assert not asked(warmup_requests="20").cold
    assert not asked(source="my lab").cold
    with pytest.raises(InputError, match="warmup_requests: 'some' is no number"):
        asked(warmup_requests="some")


@pytest.mark.parametrize(
    ("engine", "date", "tokens"),
    [
        (ENGINE, "2025-12-15", "1152"),  # (64 + 1024 + 64 + 63) // 64 * 64
        (replace(ENGINE, users=4), "2025-12-15", "1152"),
        (ENGINE, "2026-02-03", "8192"),
        (replace(ENGINE, drafts=True), "2026-02-03", "1344"),  # its scripts have no least
        (replace(ENGINE, isl=8192, drafts=True), "2026-02-03", "8512"),  # three tokens of each beside its own
        (replace(ENGINE, isl=8192, drafts=True, dp=8, tp=1), "2026-02-03", "8320"),
    ],
)
def test_a_budget_of_one_prompt(engine: CampaignEngine, date: str, tokens: str) -> None:
    notes: list[str] = []
    said = as_started({"source": "InferenceX", "date": date}, replace(engine, framework="trtllm"), notes)
    assert said["max_num_batched_tokens"] == tokens
    assert said.get("polling_interval") == ("60" if engine.dp > 1 else None)
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("date", "fewest"),
    [("20260105-101010", False), ("2026-01-05", False), ("1770076800", True), ("20260203", True), ("2026-02", True)],
)
def test_a_recipe_since_a_day_goes_by_the_day_however_it_is_written(date: str, *, fewest: bool) -> None:
    tokens = asked(framework="trtllm", date=date).recipe.max_num_batched_tokens
    assert tokens == (8192 if fewest else 1152)


def test_recipes_name_what_there_is() -> None:
    catalogue = catalogue_with(())
    for campaign in campaigns().values():
        for recipe in campaign.recipes:
            assert find_framework(recipe.framework).name == recipe.framework
            assert [catalogue.find_gpu(name).name for name in recipe.gpus] == list(recipe.gpus)


@pytest.mark.parametrize(
    ("said", "spread"),
    [
        ({}, (0.8, 1.0)),
        ({"source": "my lab"}, None),
        ({"isl": "1013", "osl": "977"}, None),  # means
        ({"osl_length_biased": "900"}, None),
        ({"spread": "0.5-1"}, (0.5, 1.0)),
    ],
)
def test_lengths_are_drawn_as_the_campaign_draws_them(said: dict[str, str], spread: tuple[float, float] | None) -> None:
    row = asked(**said)
    assert row.workload.spread == spread
    assert any(note.startswith("spread: not given") for note in row.notes) == (not said)


def test_fp8_of_a_model_that_is_published_in_mxfp4_alone_is_of_something_else_where_it_ran() -> None:
    row = {"model": "openai/gpt-oss-20b", "gpu": "H100", "framework": "vllm", "isl": "512", "osl": "64"}
    table = pd.DataFrame([{**row, "concurrency": "4", "precision": "fp8", "tpot_ms_mean": "5"}])
    ran = predict(table, beside_measured=True).iloc[0]
    assert ran["error"] == ""
    assert "'fp8' is not of openai/gpt-oss-20b's weights, which are published in mxfp4" in ran["note"]
    asked = predict(table.drop(columns="tpot_ms_mean")).iloc[0]
    assert "requantizing it to fp8 is not done" in asked["error"]


LLAMA = {"model": "meta-llama/Llama-3.1-70B", "precision": "fp8", "tp": "4"}


@pytest.mark.parametrize(
    ("said", "cache"),
    [
        ({**LLAMA, "framework": "vllm", "gpu": "H100"}, "fp8"),
        ({**LLAMA, "framework": "vllm", "gpu": "H100", "kv_precision": "bf16"}, "bf16"),
        ({**LLAMA, "framework": "vllm", "gpu": "H100", "precision": "bf16"}, None),
        ({**LLAMA, "framework": "vllm", "gpu": "H100", "source": "my lab"}, None),
        ({"gpu": "H200"}, "bf16"),
        ({"gpu": "B200"}, "fp8"),
        ({"model": "openai/gpt-oss-120b", "precision": "mxfp4", "framework": "vllm", "gpu": "MI300X"}, "bf16"),
        ({"model": "openai/gpt-oss-120b", "precision": "fp4", "framework": "vllm", "gpu": "B200"}, "fp8"),
    ],
)
def test_caches_are_kept_in_what_the_scripts_say(said: dict[str, str], cache: str | None) -> None:
    assert asked(**said).kv_precision == cache


@pytest.mark.parametrize(
    ("said", "recipe"),
    [
        ({"gpu": "B200"}, (20, 16384)),
        ({"gpu": "B200", "tp": "8"}, (None, 16384)),
        ({"gpu": "B200", "precision": "nvfp4"}, (20, 1024 + 1024 + 200)),
        ({"gpu": "H200", "osl": "8192"}, (None, 1024 + 8192 + 200)),
        ({"gpu": "MI325X", "framework": "vllm"}, (None, 131072)),
    ],
)
def test_llamas_engines_of_inferencex(said: dict[str, str], recipe: tuple[int | None, int]) -> None:
    row = asked(**{**LLAMA, "framework": "trtllm", **said}).recipe
    assert (row.polling_interval, row.max_num_batched_tokens) == recipe


@pytest.mark.parametrize(
    ("framework", "model", "gpu", "precision"),
    [
        ("vllm", "moonshotai/Kimi-K2.5", "MI355X", "int4"),
        ("vllm", "MiniMaxAI/MiniMax-M2.5", "MI300X", "fp8"),
        ("sglang", "zai-org/GLM-5-FP8", "MI355X", "fp8"),
        ("sglang", "Qwen/Qwen3.5-397B-A17B-FP8", "MI325X", "fp8"),
    ],
)
def test_amds_scripts_without_a_word_keep_caches_in_16_bits(
    framework: str, model: str, gpu: str, precision: str
) -> None:
    row = asked(framework=framework, model=model, gpu=gpu, precision=precision)
    assert row.kv_precision == "bf16"


def test_what_a_row_of_nvidias_own_samples_says_of_its_start_goes_before() -> None:
    said = {"framework": "trtllm", "isl": "1024", "osl": "512", "silicon_data_source": "source_file=/Users/x/y.csv"}
    notes: list[str] = []
    found = in_our_terms({**said, "precision": "fp8", "max_num_tokens": "16384"}, notes)
    assert "max_num_batched_tokens" not in found, "trtllm's own word stands for it"
    assert any(note.endswith("seem to be: kv_precision=fp8") for note in notes)
    found = in_our_terms({**said, "precision": "bf16", "max_num_batched_tokens": "4096"}, notes := [])
    assert found["max_num_batched_tokens"] == "4096"
    assert not any("seem to be" in note for note in notes)


@pytest.mark.parametrize(
    ("said", "requests"),
    [
        ({}, "300"),
        ({"model": "meta-llama/Llama-3.1-70B"}, "200"),
        ({"isl": "28650"}, "200"),
        ({"requests": "50"}, "50"),
        ({"rate": "", "concurrency": "8"}, ""),
        ({"source": "dstack"}, ""),
    ],
)
def test_at_a_rate_the_campaign_sends_so_many_requests(said: dict[str, str], requests: str) -> None:
    run = {"source": "accelmark", "model": "meta-llama/Llama-3.1-8B", "isl": "236", "rate": "5", **said}
    assert as_sent(run, []).get("requests", "") == requests


def test_a_rate_that_an_engine_does_not_keep_is_answered_for_the_requests_that_are_sent() -> None:
    run = {"model": "Qwen/Qwen3-8B", "gpu": "L40S", "framework": "vllm", "isl": "236", "osl": "346", "rate": "50"}
    table = pd.DataFrame([{**run, "source": who, "ttft_ms_p50": "300"} for who in ("", "accelmark")])
    nobody, accelmark = predict(table, beside_measured=True).to_dict("records")
    assert nobody["ttft_ms_p50_predicted"] == ""
    assert float(accelmark["ttft_ms_p50_predicted"]) > 0
    assert "300, as AccelMark sends" in accelmark["note"]


def test_long_prompts_of_accelmark_fill_the_longest_sequence_that_it_allows() -> None:
    run = {"source": "accelmark", "version": "0.7.3", "model": "meta-llama/Llama-3.1-8B", "gpu": "A100-SXM-40GB"}
    load = {"framework": "vllm", "isl": "28650", "osl": "256", "concurrency": "8"}
    found = predict(pd.DataFrame([{**run, **load}])).iloc[0]
    assert "max_model_len=30208" in found["note"]
    assert "chunked_prefill=false" in found["note"]
