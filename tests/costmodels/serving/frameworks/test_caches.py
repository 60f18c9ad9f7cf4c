"""The KV cache that an engine keeps when nothing is said: of the release, the checkpoint, the model and the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from costmodels.models.architecture import CacheScheme
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.caches import CacheDefault, default_cache
from costmodels.serving.frameworks.framework import find_framework
from profiles.errors import Unsupported
from profiles.hardware import find_gpu

LLAMA, KIMI, V4 = "nvidia/Llama-3.1-70B-Instruct-FP8", "nvidia/Kimi-K2.5-NVFP4", "deepseek-ai/DeepSeek-V4-Flash"
MODELOPT = "the checkpoint's own (ModelOpt)"


def taken(framework: str, name: str, gpu: str = "H200", weights: str | None = None) -> CacheDefault:
    model = find_architecture(name)
    return default_cache(find_framework(framework), model, find_gpu(gpu), choose_precision(model, weights))


@pytest.mark.parametrize(
    ("framework", "name", "gpu", "precision", "why"),
    [
        ("vllm", LLAMA, "H100", "fp8", MODELOPT),  # kv_cache_quant_algo
        ("vllm@0.14.0", KIMI, "B200", "fp8", MODELOPT),  # kv_cache_scheme
        ("vllm@0.13.0", LLAMA, "H100", "bf16", "vLLM 0.13.0 is not known to take fp8, the checkpoint's own"),
        ("sglang@0.5.9", LLAMA, "H100", "fp8", MODELOPT),
        ("sglang@0.5.8", LLAMA, "H100", "bf16", "SGLang 0.5.8 is not known to take fp8"),
        ("trtllm@1.0", LLAMA, "H100", "fp8", MODELOPT),
        ("vllm", V4, "H200", "fp8", "vLLM's choice for"),
        ("sglang", V4, "H200", "fp8", "SGLang's choice for"),
        ("sglang", "deepseek-ai/DeepSeek-V3.2", "B200", "fp8", "SGLang's choice for sparse attention on B200"),
        ("sglang", "deepseek-ai/DeepSeek-V3.2", "H200", "bf16", ""),
        ("vllm", "moonshotai/Kimi-K2.5", "H200", "bf16", ""),  # "kv_cache_scheme": null
        ("vllm", "deepseek-ai/DeepSeek-R1", "H200", "bf16", ""),
        ("sglang", "Qwen/Qwen3-235B-A22B-FP8", "H100", "bf16", ""),
    ],
)
def test_what_a_framework_takes(framework: str, name: str, gpu: str, precision: str, why: str) -> None:
    got = taken(framework, name, gpu)
    assert got.precision == precision
    assert got.why.startswith(why)
    assert bool(got.why) == bool(why) == bool(got.told)


def test_converted_weights_are_another_checkpoint() -> None:
    assert taken("vllm", LLAMA, weights="bf16") == CacheDefault("bf16")
    assert taken("vllm", LLAMA, weights="fp32") == CacheDefault("fp32")
    assert taken("vllm", LLAMA, weights="fp8").precision == "fp8"  # as published
    assert taken("vllm", "deepseek-ai/DeepSeek-R1", "B200", "nvfp4").precision == "fp8"  # nvidia/DeepSeek-V3.1-NVFP4's
    assert taken("vllm@0.13.0", "deepseek-ai/DeepSeek-R1", "B200", "nvfp4") == CacheDefault("bf16")
    assert taken("vllm", "Qwen/Qwen3-32B", "B200", "nvfp4") == CacheDefault("bf16")


@pytest.mark.parametrize(
    ("framework", "kept"), [("vllm", None), ("vllm@0.20.0", "bf16"), ("sglang", "bf16"), ("trtllm", None)]
)
def test_a_format_that_is_not_modelled_is_refused_where_it_would_be_taken(framework: str, kept: str | None) -> None:
    model = replace(find_architecture(LLAMA), cache_scheme=CacheScheme("modelopt", "nvfp4"))
    asked = find_framework(framework), model, find_gpu("B200"), choose_precision(model)
    if kept is None:
        with pytest.raises(Unsupported, match=r"kv_precision: .* in nvfp4, the checkpoint's own .* not modelled"):
            default_cache(*asked)
    else:
        assert default_cache(*asked).precision == kept


@pytest.mark.parametrize(
    ("framework", "kept"), [("vllm@0.15", "fp8"), ("vllm@0.14", "bf16"), ("sglang", "bf16"), ("trtllm", "bf16")]
)
def test_compressed_tensors_are_taken_by_vllm_alone(framework: str, kept: str) -> None:
    model = replace(find_architecture(LLAMA), cache_scheme=CacheScheme("compressed-tensors", "fp8"))
    assert default_cache(find_framework(framework), model, find_gpu("H100"), choose_precision(model)).precision == kept
