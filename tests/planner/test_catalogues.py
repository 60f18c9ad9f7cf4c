"""GPU types that a request's stores describe are that request's alone, in one process and in threads."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner import plan
from planner.contract.clusters import parse_cluster
from planner.experts.ranks import Ranks
from planner.serving.document.plan import Plan
from planner.serving.prediction_table import predict
from planner.serving.request import parse_request
from profiles.descriptions import FILE, catalogue_with
from profiles.errors import UnknownName
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

REQUEST: dict[str, Any] = {
    "model": "Qwen/Qwen3-0.6B",
    "cluster": "1xZeta-9",
    "workload": "isl=500,osl=100",
    "simulation": False,
}


def describing(folder: Path, bare: ProfileStore, bandwidth: float) -> ProfileStore:
    """A store without rows whose Zeta-9 is an H200 with another bandwidth."""
    shutil.copytree(bare.path, folder)
    facts = find_gpu("H200").model_dump(mode="json", exclude={"name", "aliases"}, exclude_none=True)
    facts |= {"aliases": ["Zeta"], "memory_bandwidth_bytes_per_s": bandwidth, "sources": {"*": "made up for a test"}}
    facts["node"] = {"gpus": 8, "default_fabric": "ib-400g"}
    (folder / FILE).write_text(yaml.safe_dump({"Zeta-9": facts}))
    return ProfileStore(folder)


@pytest.fixture
def slow(tmp_path: Path, bare: ProfileStore) -> ProfileStore:
    return describing(tmp_path / "slow", bare, 1e12)


@pytest.fixture
def fast(tmp_path: Path, bare: ProfileStore) -> ProfileStore:
    return describing(tmp_path / "fast", bare, 4e12)


def rate(made: Plan) -> float:
    return made.prediction.request_rate_rps.value


def test_two_requests_that_describe_one_name_do_not_see_each_other(slow: ProfileStore, fast: ProfileStore) -> None:
    alone = {store.path: rate(plan(REQUEST, store=store)) for store in (slow, fast)}
    assert alone[fast.path] > 1.5 * alone[slow.path]
    stores = [slow, fast] * 4
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda store: rate(plan(REQUEST, store=store)), stores))
    assert together == [alone[store.path] for store in stores]
    with pytest.raises(UnknownName, match="Zeta-9"):
        plan(REQUEST)


def test_a_described_name_is_known_wherever_its_catalogue_is_given(slow: ProfileStore) -> None:
    catalogue = catalogue_with([slow.path])
    cluster = parse_cluster("2xzeta", catalogue=catalogue)
    assert cluster.pools[0].gpu == "Zeta-9"
    assert parse_request({**REQUEST, "cluster": "2xzeta"}, catalogue).cluster == cluster
    assert Ranks.of(cluster, catalogue).distance == pytest.approx(50e9 / 450e9)
    for lacking in (lambda: parse_cluster("2xzeta"), lambda: parse_request(REQUEST)):
        with pytest.raises(UnknownName, match=r"(?i)zeta"):
            lacking()


def test_a_table_is_predicted_with_the_types_of_its_own_stores(slow: ProfileStore, tmp_path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame(
        {"model": ["Nobody/Knows"], "gpu": ["Zeta"], "framework": ["vllm"], "isl": ["9"], "osl": ["9"], "rate": ["1"]}
    )
    assert "Nobody" in predict(table, measured=[slow])["error"][0]
    table["model"] = "Qwen/Qwen3-0.6B"
    assert "'Zeta' is not known" in predict(table)["error"][0]


@pytest.mark.parametrize(("cluster", "joined_by"), [("8xL40S", "pcie"), ("1xg6e.48xlarge", "pcie-virtual")])
def test_a_plan_says_what_joins_the_gpus_of_its_nodes(bare: ProfileStore, cluster: str, joined_by: str) -> None:
    request = {**REQUEST, "model": "Qwen/Qwen3-32B", "cluster": cluster, "disaggregation": "never"}
    made = plan(request, store=bare)
    assert made.decision.engines[0].layout.gpus > 1
    assert any(f"joined by {joined_by}: " in note for note in made.provenance.notes)
    h100 = plan({**request, "cluster": "4xH100", "model": "meta-llama/Llama-3.3-70B-Instruct"}, store=bare)
    assert not any("joined by" in note for note in h100.provenance.notes)


def test_boxes_without_peer_access_serve_less(bare: ProfileStore) -> None:
    request = {**REQUEST, "model": "Qwen/Qwen3-32B", "disaggregation": "never", "max_pp": 1}
    switched, host = (rate(plan({**request, "cluster": each}, store=bare)) for each in ("8xL40S", "1xg6e.48xlarge"))
    assert host < switched
