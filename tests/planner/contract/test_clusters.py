"""Clusters: their short form, their files, what the catalogue fills in, and their refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.contract.clusters import Pool, bundled_clusters, parse_cluster, read_cluster
from planner.serving.request import parse_request
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, find_gpu, find_node

ASKED: dict[str, Any] = {"model": "m", "cluster": "16xH200", "workload": "isl=4000,osl=500"}


def refused(parse: Any, *arguments: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(*arguments)
    assert caught.value.message
    assert caught.value.hint
    return caught.value


def test_cluster_of_gpus_fills_in_what_the_catalogue_knows() -> None:
    (pool,) = parse_cluster("16xH200").pools
    assert (pool.name, pool.gpu, pool.gpus, pool.gpus_per_node, pool.nodes) == ("H200", "H200", 16, 8, 2)
    assert pool.fabric == "ib-400g"
    assert pool.usd_per_gpu_hour is not None
    assert pool.price_source


@pytest.mark.parametrize(
    "text", ["16xH200", "16 x h200", "16×H200", "16XH200", " 16xH200 ", "2x8xH200", "2 × 8 × H200"]
)
def test_cluster_spellings_of_sixteen_h200(text: str) -> None:
    (pool,) = parse_cluster(text).pools
    assert (pool.gpu, pool.gpus, pool.gpus_per_node) == ("H200", 16, 8)


def test_cluster_nodes_times_gpus_says_how_many_share_a_node() -> None:
    (pool,) = parse_cluster("4x4xH100").pools
    assert (pool.gpu, pool.gpus, pool.gpus_per_node, pool.nodes) == ("H100-SXM", 16, 4, 4)


def test_cluster_joined_by_plus_has_one_pool_each() -> None:
    cluster = parse_cluster("2x8xH100 + 16xH200+4xB200")
    assert [(pool.gpu, pool.gpus) for pool in cluster.pools] == [("H100-SXM", 16), ("H200", 16), ("B200", 4)]


@pytest.mark.parametrize("name", sorted(bundled_clusters()))
def test_bundled_cluster_loads(name: str) -> None:
    cluster = parse_cluster(name)
    assert cluster.name == name
    assert cluster == parse_request({**ASKED, "cluster": name}).cluster


@pytest.mark.parametrize(
    "text",
    [
        *("", "H201", "16", "x", "xH200", "-1xH200", "1.5xH200", "１６xH200", "16xH200+", "+16xH200"),
        *(
            "16*H200",
            "16xH200,,8xH100",
            "hgx-h200-1",
            "~nobody-has-this-name",
            "a\0b",
            "x" * 3000,
            "16x",
        ),
    ],
)
def test_cluster_that_is_not_understood_is_refused_with_the_forms(text: str) -> None:
    error = refused(parse_cluster, text)
    assert error.message.startswith("cluster: ")
    assert "is not understood" in error.message
    assert "16xH200" in error.hint
    assert "hgx-h200-16" in error.hint


def test_cluster_of_unknown_gpu_names_the_nearest() -> None:
    error = refused(parse_cluster, "16xH200x")
    assert isinstance(error, UnknownName)
    assert error.message == "cluster GPU: 'H200x' is not known"
    assert "H200" in error.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0xH200", "cluster: pools.0.gpus: 0 should be greater than 0"),
        ("0x8xH200", "cluster: pools.0.nodes: 0 should be greater than 0"),
        ("2x0xH200", "cluster: pools.0.gpus_per_node: 0 should be greater than 0"),
        ("100001xH200", "cluster: pools.0.gpus: 100001 should be less than or equal to 100000"),
        ("1000x1000xH200", "cluster: pools.0.gpus: 1000000 should be less than or equal to 100000"),
        ("16xH200+8xH200", "cluster: 2 pools are called 'H200'"),
        ("no/such.yaml", "cluster: no file at 'no/such.yaml'"),
        ("16x../../etc", "cluster: no file at '16x../../etc'"),
    ],
)
def test_cluster_refuses_naming_field_and_value(text: str, message: str) -> None:
    assert refused(parse_cluster, text).message == message


def test_cluster_file_and_object_mean_the_same(tmp_path: Path) -> None:
    pools = [{"name": "a", "gpu": "H200", "nodes": 2}, {"gpu": "h100", "gpus": 4, "fabric": "ib-400g"}]
    file = tmp_path / "ours.yaml"
    file.write_text(json.dumps({"pools": pools}))  # JSON is YAML
    assert parse_cluster(str(file)) == parse_request({**ASKED, "cluster": {"name": "ours", "pools": pools}}).cluster


def test_cluster_file_is_found_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("pools: [{gpu: H200, gpus: 8}]")
    assert parse_cluster("~/c.yaml").name == "c"


def test_a_request_never_reads_files(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("pools: [{gpu: H200, gpus: 8}]")
    error = refused(parse_request, {**ASKED, "cluster": str(file)})
    assert "is not understood" in error.message
    assert "YAML" not in error.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pools: [{gpu: H200, gpus: 8}", "not valid YAML at line 2"),
        ("a: b: c", "not valid YAML at line 1"),
        ("pools: !!python/object:os.system {}", "not valid YAML at line 1"),
        ("pools: []\npools: []", "not valid YAML at line 2 ('pools' is given twice)"),
        ("[" * 5000, "not valid YAML"),
        ("pools: 2024-99-99", "not valid YAML"),
        ("- 1", "not a mapping"),
        ("", "not a mapping"),
        ("name: x", "pools is missing"),
        ("pools: []", "pools: an empty list has fewer than 1 items"),
        ("pools: {gpu: H200}", "pools: an object is not a list"),
        ("pools: [5]", "pools.0: 5 is not an object"),
        ("pools: [{gpus: 8}]", "pools.0.gpu is missing"),
        ("pools: [{gpu: H200}]", "gpus of pool 'H200' is missing"),
        ("pools: [{gpu: H200, gpus: 8, color: red}]", "pools.0.color is not known"),
        ("fabric: x\npools: [{gpu: H200, gpus: 8}]", "fabric is not known"),
        ("pools: [{gpu: H200, gpus: 8, 5: red}]", "pools.0.5 is not known"),
        ("pools: [{gpu: H200, gpus: '8'}]", "pools.0.gpus: '8' is not a number"),
        ("pools: [{gpu: H200, nodes: true}]", "pools.0.nodes: true is not a number"),
        ("pools: [{gpu: H200, gpus: 8.5}]", "pools.0.gpus: 8.5 should be a valid integer"),
        ("pools: [{gpu: H200, gpus: -8}]", "pools.0.gpus: -8 should be greater than 0"),
        ("pools: [{gpu: H200, gpus: 8, usd_per_gpu_hour: .nan}]", "usd_per_gpu_hour: nan should be a finite"),
        (
            "pools: [{gpu: H200, gpus: 8, usd_per_gpu_hour: 0}]",
            "usd_per_gpu_hour: 0 should be greater than 0",
        ),
        (
            "pools: [{gpu: H200, gpus: 8, price_source: me}]",
            "price_source 'me' comes without usd_per_gpu_hour",
        ),
        ("pools: [{gpu: H200, gpus: 9, nodes: 2}]", "gpus 9 is not nodes 2 × gpus_per_node 8"),
        ("pools: [{gpu: H200, gpus: 9999999999999999999999}]", "should be less than or equal to 100000"),
        ("pools: [{gpu: H200, gpus: 8, gpus_per_node: 5000}]", "5000 should be less than or equal to 1024"),
        ("pools: [{gpu: H200, gpus: 8, fabric: string}]", "fabric: 'string' is not known"),
        ("pools: [{gpu: H200, gpus: 8, node: box}]", "node: 'box' is not known"),
        ("pools: [{gpu: H2000, gpus: 8}]", "gpu: 'H2000' is not known"),
    ],
)
def test_cluster_file_refuses_naming_the_file_and_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    error = refused(parse_cluster, str(file))
    assert error.message.startswith(f"cluster file {file}: ")
    assert message in error.message


def test_cluster_file_of_another_gpus_node_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("pools: [{gpu: H200, gpus: 8, node: hgx-h100}]")
    assert "'hgx-h100'" in refused(parse_cluster, str(file)).message


def test_cluster_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\xff\xfe\x00\x01")
    assert "not text in UTF-8" in refused(read_cluster, file).message
    assert "cannot be read" in refused(read_cluster, tmp_path).message


def test_a_price_of_ones_own_replaces_the_list_price() -> None:
    def pool(**fields: Any) -> Pool:
        pools = [{"gpu": "H200", "gpus": 8, **fields}]
        return parse_request({**ASKED, "cluster": {"name": "x", "pools": pools}}).cluster.pools[0]

    assert pool().price_source is not None
    assert (pool(usd_per_gpu_hour=2).usd_per_gpu_hour, pool(usd_per_gpu_hour=2).price_source) == (2.0, None)
    assert pool(usd_per_gpu_hour=None).usd_per_gpu_hour is None
    ours = pool(usd_per_gpu_hour=2, price_source="contract")
    assert ours.price_source == "contract"


def test_cluster_of_node_types_has_their_size_fabric_and_price() -> None:
    (pool,) = parse_cluster("2xp5.48xlarge").pools
    assert (pool.gpu, pool.gpus, pool.gpus_per_node, pool.fabric) == ("H100-SXM", 16, 8, "efa-400g")
    assert pool.price_source is not None
    assert pool.price_source.startswith("AWS")
    mixed = parse_cluster("1xDGX H200 + 8xH100 + 2 x standard_nd96isr_mi300x_v5").pools
    assert [(p.gpu, p.gpus, p.fabric) for p in mixed] == [
        ("H200", 8, "ib-400g"),
        ("H100-SXM", 8, "ib-400g"),
        ("MI300X", 16, "ib-400g"),
    ]


def test_cluster_of_nodes_that_cannot_be_meant_is_refused_with_the_way_out() -> None:
    error = refused(parse_cluster, "2x8xp5.48xlarge")
    assert "a node of 8 H100-SXM already" in error.message
    assert "2xp5.48xlarge" in error.hint
    assert "p5.48xlarge" in refused(parse_cluster, "2xp5.49xlarge").hint
    assert "may mean" in refused(parse_cluster, "8xNVIDIA H100").message


def test_a_name_that_is_a_gpu_and_a_node_is_refused() -> None:
    h200, node = find_gpu("H200"), find_node("hgx-h200-8")
    gpu = h200.model_copy(update={"name": "Zeta", "aliases": ("zeta-8",)})
    catalogue = SHIPPED.describing(gpu, node.model_copy(update={"name": "zeta-8", "gpu": "Zeta", "aliases": ()}), "x")
    with pytest.raises(InputError, match="is a GPU type and a node type"):
        parse_cluster("2xzeta-8", catalogue=catalogue)
    assert parse_cluster("2xzeta", catalogue=catalogue).pools[0].gpu == "Zeta"
