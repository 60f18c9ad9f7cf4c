"""What the planner's tests ask for."""

from __future__ import annotations

DENSE, EXPERTS, WINDOWS, LATENT = (
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-3-12b-it",
    "deepseek-ai/DeepSeek-V2-Lite",
)
WORKLOAD, SLO = "isl=2000,osl=200", "ttft=1s,tpot=25ms"
CLOSE = 1 + 1e-9  # a factor within which two figures are the same
