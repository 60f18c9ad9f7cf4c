"""Weights against what engines say that they loaded."""

from __future__ import annotations

import pytest

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.step.memory import weights_bytes

# vLLM 0.19 on H100-80GB, GiB a GPU: start logs in llm-d-planner pull request 205, results_raw.csv at d3121e0
# (Apache-2.0). Columns: model, precision asked for, tp, pp, weights.
LOGGED = [
    ("google/gemma-2-9b-it", None, 1, 1, 17.22),
    ("google/gemma-2-27b-it", None, 1, 1, 50.72),
    ("google/gemma-3-4b-it", None, 1, 1, 8.58),
    ("google/gemma-3-12b-it", None, 1, 1, 23.31),
    ("google/gemma-7b", None, 1, 1, 15.91),
    ("ibm-granite/granite-3.1-8b-instruct", None, 1, 1, 15.25),
    ("ibm-granite/granite-vision-3.3-2b", None, 1, 1, 5.54),
    ("meta-llama/Llama-3.1-8B-Instruct", None, 1, 1, 14.99),
    ("meta-llama/Llama-3.1-8B-Instruct", "fp8", 1, 1, 8.49),
    ("meta-llama/Llama-3.1-8B-Instruct", None, 1, 4, 4.26),
    ("meta-llama/Llama-3.1-8B-Instruct", None, 4, 1, 3.77),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", None, 4, 1, 53.12),
    ("microsoft/phi-2", None, 1, 1, 5.19),
    ("moonshotai/Kimi-VL-A3B-Instruct", None, 1, 1, 30.74),
    ("Qwen/Qwen1.5-MoE-A2.7B", None, 1, 1, 26.67),
    ("Qwen/Qwen2.5-72B-Instruct", None, 2, 1, 67.8),
    ("Qwen/Qwen2.5-7B-Instruct", None, 1, 1, 14.25),
    ("RedHatAI/Qwen2.5-7B-Instruct-fp8-dynamic", None, 1, 1, 8.14),
    ("Qwen/Qwen3-8B", None, 1, 1, 15.27),
]


@pytest.mark.parametrize(("model", "precision", "tp", "pp", "logged"), LOGGED)
def test_weights_are_what_vllm_logs(model: str, precision: str | None, tp: int, pp: int, logged: float) -> None:
    architecture = find_architecture(model)
    layouts = Layouts.of([(tp, pp, 1, 1, tp)])
    loaded = float(weights_bytes(architecture, choose_precision(architecture, precision), layouts)[0]) / 2**30
    assert loaded == pytest.approx(logged, abs=0.1)
