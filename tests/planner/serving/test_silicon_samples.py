"""Rows of aiconfigurator-core's samples: who measured them, and how they were sent."""

from __future__ import annotations

import pytest

from planner.serving.harness_words import in_our_terms


@pytest.mark.parametrize(
    ("framework", "isl", "spread", "budget", "campaign"),
    [
        ("vllm", "1024", "0.9922-1", "1032", None),
        ("sglang", "1024", "", "8192", None),
        ("sglang", "4000", "0.8-1", "8192", "NVIDIA Dynamo"),
    ],
)
def test_runs_of_the_samples_own_authors_are_no_campaigns(
    framework: str, isl: str, spread: str, budget: str, campaign: str | None
) -> None:
    said = {"framework": framework, "isl": isl, "osl": "512", "silicon_data_source": "source_file=/Users/x/y.csv"}
    found = in_our_terms({**said, "batch_size": "8", "precision": "fp8"}, [])
    assert (found.get("spread", ""), found.get("campaign")) == (spread, campaign)
    assert (found["max_num_batched_tokens"], found["kv_precision"]) == (budget, "fp8")
