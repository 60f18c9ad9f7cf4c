"""Words that people paste are understood as ours, in the request and in tables."""

from __future__ import annotations

import pandas as pd
import pytest

from costmodels.models.registry import find_architecture
from planner.contract.words import columns_of, precision_of, weights_precision, words
from planner.contract.workload.slo import parse_slo
from planner.serving.layouts import completed
from planner.serving.prediction_table import OPTIONAL, REQUIRED, predict
from planner.serving.request import parse_request
from profiles.errors import InputError

DENSE, OSS, R1 = "Qwen/Qwen3-8B", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-R1"


@pytest.mark.parametrize(
    ("model", "word", "own"),
    [
        (DENSE, "fp4", "nvfp4"),
        (OSS, "fp4", "mxfp4"),
        (OSS, "mxfp4", "mxfp4"),
        (OSS, "w4a16", "mxfp4"),
        (DENSE, "w4a16", "int4"),
        (DENSE, "AWQ", "int4"),
        (DENSE, "auto", None),
        (R1, "auto", None),
        (DENSE, "BFloat16", "bf16"),
        (DENSE, "unquantized", "bf16"),
        (R1, "e4m3", "fp8_block"),
        (DENSE, "FP8", "fp8"),
        (R1, "fp8", "fp8_block"),
        (R1, "nvfp4", "nvfp4"),
        (OSS, "nvfp4", "mxfp4"),
    ],
)
def test_precisions_of_weights_by_how_the_model_is_published(model: str, word: str, own: str | None) -> None:
    assert weights_precision(word, find_architecture(model)) == own


@pytest.mark.parametrize("floats", ["nvfp4", "mxfp4"])
def test_a_checkpoint_in_four_bit_integers_is_published_in_floats_too_with_the_same_layers_left(floats: str) -> None:
    found = precision_of(find_architecture("moonshotai/Kimi-K2.5"), floats, None)
    assert (found.experts, found.attention_qkv, found.attention_output) == (floats, "bf16", "bf16")
    with pytest.raises(InputError, match="requantizing"):
        precision_of(find_architecture("moonshotai/Kimi-K2.5"), "fp8_block", None)


def test_a_conversion_to_four_bit_integers_has_their_usual_groups() -> None:
    precision = precision_of(find_architecture(DENSE), "awq", "fp8_e4m3")
    assert (precision.dense, precision.kv, precision.converted, precision.group) == ("int4", "fp8", True, 128)


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        ("fp4", ("fp4",)),
        ("auto", ("auto",)),
        ("awq,bf16", ("int4", "bf16")),
        (["FP8"], ("fp8",)),
        ("any", ("any",)),
    ],
)
def test_a_request_takes_them_too(asked: object, own: tuple[str, ...]) -> None:
    request = parse_request({"model": DENSE, "cluster": "8xH100", "workload": "isl=1k,osl=1K", "precision": asked})
    assert request.precision == own
    assert (request.workload.isl, request.workload.osl) == (1000, 1024)


@pytest.mark.parametrize(
    ("text", "label", "limit_ms"),
    [
        ("ttft<=1s", "ttft_p90", 1000),
        ("ttft:1s", "ttft_p90", 1000),
        ("ttft ≤ 500ms", "ttft_p90", 500),
        ("e2el=20s", "e2e_p90", 20_000),
        ("request_latency<20s", "e2e_p90", 20_000),
        ("median_ttft=1s", "ttft_p50", 1000),
        ("ttft_median=1s", "ttft_p50", 1000),
        ("p99-itl=40ms", "tpot_p99", 40),
        ("tokens/s/user>=20", "tpot_p90", 50),
        ("tps/user: 50 tok/s", "tpot_p90", 20),
    ],
)
def test_promises_in_the_words_of_harnesses(text: str, label: str, limit_ms: float) -> None:
    (bound,) = parse_slo(text).bounds
    assert (bound.label, bound.limit_ms) == (label, limit_ms)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ttft>=1s", "asks for at least"),
        ("tokens/s/user<20", "asks for at most"),
        ("mean_ttft=1s", "not about their mean"),
        ("avg_itl<20ms", "not about their mean"),
        ("tps/user>=fast", "is not a number of tokens per second"),
        ("ttft_p50_p90=1s", "is not a metric"),
    ],
)
def test_promises_that_cannot_be_kept_as_they_are_written(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_slo(text)


def test_a_dense_model_may_be_said_to_have_the_same_split_everywhere() -> None:
    model = find_architecture(DENSE)
    assert completed(model, {"tp": 4, "moe_tp": 4, "ep": 1}) == completed(model, {"tp": 4})
    with pytest.raises(InputError, match="has no experts"):
        completed(model, {"tp": 4, "moe_tp": 2})


def test_every_column_of_the_table_is_one_that_is_read() -> None:
    assert set(words().columns.values()) <= {*REQUIRED, *OPTIONAL}


def test_columns_that_mean_ours_are_found_in_their_order() -> None:
    assert columns_of(["Hardware", "model", "other"], ("model", "gpu")) == {"gpu": ("Hardware",)}
    assert columns_of(["hw", "gpu", "system"], ("gpu",)) == {"gpu": ("hw", "system")}


@pytest.mark.parametrize(
    ("columns", "meant"),
    [
        (["isl", "conc", "rps", "output_tokens"], {"conc": "concurrency", "output_tokens": "osl"}),
        (["qps", "users"], {"users": "concurrency"}),
        (["qps", "prompt_tokens"], {"qps": "rate", "prompt_tokens": "isl"}),
        (["qps", "request_rate"], {"request_rate": "rate"}),
        (["prompt_tokens", "input_len", "completion_tokens", "total_output_tokens"], {"input_len": "isl"}),
        (["mean_concurrency", "max_concurrency"], {"max_concurrency": "concurrency"}),
    ],
)
def test_what_results_also_call_what_they_measured_is_asked_where_nothing_else_is(
    columns: list[str], meant: dict[str, str]
) -> None:
    found = columns_of(columns, ("isl", "osl", "concurrency", "rate"))
    assert {name: own for own, names in found.items() for name in names} == meant


def test_words_that_only_say_that_a_checkpoint_is_quantized_need_one_that_is() -> None:
    assert weights_precision("compressed-tensors", find_architecture(R1)) is None
    with pytest.raises(InputError, match=r"'modelopt' does not say to how many bits, and .* is published in bf16"):
        weights_precision("modelopt", find_architecture(DENSE))
    with pytest.raises(InputError, match="precision: 'modelopt' is not known"):
        parse_request({"model": DENSE, "cluster": "8xH100", "workload": "isl=1k,osl=1K", "precision": "modelopt"})
    with pytest.raises(InputError, match="is published in fp16"):
        weights_precision("compressed-tensors", find_architecture("upstage/SOLAR-10.7B-Instruct-v1.0"))


INFERENCEX = {
    "hw": "h200",
    "framework": "vllm",
    "model": DENSE,
    "precision": "bf16",
    "tp": "2",
    "ep": "1",
    "dp_attention": "false",
    "conc": "8",
    "isl": "1024",
    "osl": "128",
}
AICONFIGURATOR = {
    "model_path": DENSE,
    "system": "h200_sxm",
    "backend": "TRTLLM",
    "backend_version": "1.2.0",
    "tp_size": "2",
    "pp_size": "1",
    "attention_dp_size": "1",
    "moe_tp_size": "2",
    "moe_ep_size": "1",
    "gemm_quant_mode": "bfloat16",
    "kvcache_quant_mode": "fp8",
    "concurrency": "8",
    "isl": "1024",
    "osl": "128",
}


@pytest.mark.parametrize("row", [INFERENCEX, AICONFIGURATOR], ids=["inferencex", "aiconfigurator"])
def test_a_table_in_others_words_is_predicted_and_says_how_it_was_read(row: dict[str, str]) -> None:
    answer = predict(pd.DataFrame([row])).iloc[0]
    assert answer["error"] == ""
    assert answer["note"].startswith("columns read: ")
    assert {name: answer[name] for name in row} == row, "given columns are kept"
    own = {"model": DENSE, "gpu": "H200", "framework": answer["framework"] if "framework" in row else "trtllm@1.2.0"}
    same = {**own, "precision": "bf16", "tp": "2", "isl": "1024", "osl": "128", "concurrency": "8"}
    if row is AICONFIGURATOR:
        same["kv_precision"] = "fp8"
    assert predict(pd.DataFrame([same])).iloc[0]["tpot_ms_mean"] == answer["tpot_ms_mean"]


def test_attention_data_parallel_in_inferencex_words_counts_the_replicas() -> None:
    row = {
        **INFERENCEX,
        "model": "openai/gpt-oss-20b",
        "precision": "fp4",
        "tp": "4",
        "ep": "4",
        "dp_attention": "True",
    }
    same = {**INFERENCEX, "model": "openai/gpt-oss-20b", "precision": "mxfp4", "tp": "1", "dp": "4", "ep": "4"}
    first, second = (predict(pd.DataFrame([each])).iloc[0] for each in (row, same))
    assert first["error"] == second["error"] == ""
    assert first["tpot_ms_mean"] == second["tpot_ms_mean"]
