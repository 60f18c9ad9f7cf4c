"""Every command takes the same KV cache when nothing is said, and says what decided it."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from costmodels.models.architecture import CacheScheme
from costmodels.models.registry import find_architecture
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.imports.shapes import deployment_of_shapes
from planner.serving.configuration import EngineAsked
from planner.serving.memory import memory
from planner.serving.memory_document import parse_memory_request
from planner.serving.planning import precisions_of
from planner.serving.prediction_table import predict
from planner.serving.request import parse_request
from profiles.errors import Unsupported
from profiles.hardware import find_gpu

LLAMA, V4 = "nvidia/Llama-3.1-70B-Instruct-FP8", "deepseek-ai/DeepSeek-V4-Flash"
SGLANG = "python -m sglang.launch_server --model"
CASES = [
    (LLAMA, "vllm@0.19.0", 4, "vllm serve", "fp8", "the checkpoint's own (ModelOpt)"),
    (LLAMA, "vllm@0.13.0", 4, "vllm serve", "bf16", "vLLM 0.13.0 is not known to take fp8"),
    (LLAMA, "sglang@0.5.10", 4, SGLANG, "fp8", "the checkpoint's own (ModelOpt)"),
    (V4, "vllm@0.33.0", 8, "vllm serve", "fp8", f"vLLM's choice for {V4}"),
    (V4, "sglang@0.5.23", 8, SGLANG, "fp8", f"SGLang's choice for {V4}"),
    ("Qwen/Qwen3-32B", "vllm@0.19.0", 2, "vllm serve", "bf16", ""),
]


@pytest.mark.parametrize(("model", "framework", "tp", "program", "kept", "why"), CASES)
def test_commands_agree(model: str, framework: str, tp: int, program: str, kept: str, why: str) -> None:
    engine = {"model": model, "framework": framework, "gpu": "H200"}
    asked = {"model": model, "framework": framework, "cluster": f"{tp}xH200", "workload": "isl=1000,osl=100"}
    planned = precisions_of(parse_request(asked | {"slo": "tpot=50ms"}), find_architecture(model), [find_gpu("H200")])
    assert [each.kv for each in planned] == [kept]

    flag = "--tp" if program == SGLANG else "--tensor-parallel-size"
    imported = deployment_of(
        parse_import_request({"text": f"{program} {model} {flag} {tp}", "gpu": "H200", "framework": framework})
    )
    shaped = deployment_of_shapes(f"1xTP{tp}", EngineAsked(**engine))
    for document in (imported, shaped):
        assert [group.kv_precision for group in document.engines] == [kept]
        (taken,) = (each for each in document.assumed if each.field == "kv_precision")
        assert taken.value == kept
        assert why in taken.source

    def room(**said: str) -> float:
        return memory(parse_memory_request({**engine, "tp": tp, **said})).memory.kv_bytes_per_token

    assert room() == room(kv_precision=kept)
    notes = memory(parse_memory_request({**engine, "tp": tp})).notes
    assert any(f"kv_precision={kept}: {why}" in note for note in notes) == bool(why)


def test_predictions_take_it_and_say_so() -> None:
    row = {"model": LLAMA, "gpu": "H100", "framework": "vllm", "version": "0.19.0", "tp": "4", "isl": "1000"}
    row |= {"osl": "500", "concurrency": "32"}
    table = pd.DataFrame([row | {"kv_precision": said} for said in ("", "fp8", "bf16")])
    silent, own, wide = predict(table).to_dict("records")
    assert silent["tpot_ms_mean"] == own["tpot_ms_mean"] != wide["tpot_ms_mean"]
    assert "kv_precision=fp8: the checkpoint's own (ModelOpt)" in silent["note"]
    assert "kv_precision=" not in own["note"] + wide["note"]


def test_any_precision_does_not_hide_a_cache_that_is_not_modelled() -> None:
    asked = {"model": LLAMA, "cluster": "8xB200", "workload": "isl=1000,osl=100", "slo": "tpot=50ms"}
    request = parse_request(asked | {"precision": ["any"], "framework": "vllm@0.33.0"})
    model = find_architecture(LLAMA)
    model = replace(model, cache_scheme=CacheScheme("modelopt", "nvfp4"))
    with pytest.raises(Unsupported, match=r"kv_precision: .* nvfp4"):
        precisions_of(request, model, [find_gpu("B200")])
