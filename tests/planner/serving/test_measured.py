"""A plan over measured stores: they change the prediction, and the document says which they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner import plan
from profiles.store import ProfileStore, shipped_pack

REQUEST = {"model": "Qwen/Qwen3-0.6B", "cluster": "1xH200", "workload": "isl=500,osl=100", "max_tp": 1}


@pytest.mark.slow
def test_a_plan_names_the_stores_laid_over_the_pack_and_follows_them(tmp_path: Path) -> None:
    store = ProfileStore.create(tmp_path / "ours", name="ours", version="7", attribution="us")
    rows = shipped_pack().query("gemm", gpu="H200", framework="vllm")
    rows = rows[rows["dtype"] == "bf16"].sample(100, random_state=0)
    store.add("gemm", rows.assign(latency_us=rows["latency_us"] * 1.5, framework="torch"))
    plain, laid = plan(REQUEST), plan(REQUEST, measured=[store])
    assert plain.provenance.measured == ()
    (named,) = laid.provenance.measured
    assert (named.name, named.version, named.hash, named.rows) == ("ours", "7", store.manifest.content_hash, 100)
    assert laid.provenance.cost_model_version == f"{plain.provenance.cost_model_version}+{named.hash[:12]}"
    assert any("100 measured rows are laid over the pack" in note for note in laid.provenance.notes)
    assert laid.prediction.request_rate_rps.value < plain.prediction.request_rate_rps.value
