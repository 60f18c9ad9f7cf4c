"""What the planner's tests ask for."""

from __future__ import annotations

from typing import Any

DENSE, EXPERTS, WINDOWS, LATENT = (
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-3-12b-it",
    "deepseek-ai/DeepSeek-V2-Lite",
)
WORKLOAD, SLO = "isl=2000,osl=200", "ttft=1s,tpot=25ms"
ONE_EACH: dict[str, dict[str, Any]] = {
    "dense": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "several nodes": {"model": "Qwen/Qwen3-32B", "cluster": "2x8xH200", "workload": "isl=4000,osl=500", "slo": SLO},
    "experts": {"model": EXPERTS, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "windows": {"model": WINDOWS, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "latent": {"model": LATENT, "cluster": "8xH100", "workload": WORKLOAD, "slo": SLO},
    "fastest": {"model": DENSE, "cluster": "8xH100", "workload": WORKLOAD, "objective": "latency"},
    "fastest at a rate": {
        "model": DENSE,
        "cluster": "8xH100",
        "workload": f"{WORKLOAD},rate=7",
        "slo": SLO,
        "objective": "latency",
    },
}
"""A request of each kind of model, and those of least latency."""
CLOSE = 1 + 1e-9  # a factor within which two figures are the same
