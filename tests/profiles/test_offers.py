"""Prices of a user's own: catalogues in, offers out, and which price a pool has then."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from planner.contract.clusters import parse_cluster
from profiles.errors import InputError
from profiles.hardware import SHIPPED
from profiles.offers import Imported, read_catalogue, read_offers, with_offers, written_offers

HEADER = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice\n"
ROWS = (
    "eight,H100,8,128,1600,23.6,eu,x,10.0\n"
    "eight,H200,8,128,1600,28.0,eu,x,\n"
    "eight,H100,8,128,1600,40.0,us,x,9.6\n"
    "cpu,,,4,16,0.1,eu,,\n"
    "other,Gaudi9,8,1,1,5,eu,,\n"
)


def imported(folder: Path, text: str = HEADER + ROWS, region: str | None = None) -> Imported:
    path = folder / "vms.csv"
    path.write_text(text, "utf-8")
    return read_catalogue(path, provider="Cloud", date=dt.date(2026, 11, 26), source="a test", region=region)


def test_prices_of_instances_become_prices_of_a_gpu(tmp_path: Path) -> None:
    found = imported(tmp_path)
    prices = {(each.gpu, each.region): (each.usd_per_gpu_hour, each.spot_usd_per_gpu_hour) for each in found.offers}
    assert prices == {("H100-SXM", "eu"): (2.95, 1.25), ("H100-SXM", "us"): (5.0, 1.2), ("H200", "eu"): (3.5, None)}
    assert found.skipped == ("Gaudi9",)
    assert len(imported(tmp_path, region="us").offers) == 1


def test_an_a100_of_a_catalogue_has_40_gb_unless_it_says_more(tmp_path: Path) -> None:
    info = "\"{'Gpus': [{'Name': 'A100', 'Count': 8.0, 'MemoryInfo': {'SizeInMiB': %d}}]}\""
    rows = (
        "p4d,A100,8,96,1152,32.0,us,,\n"
        f"nd,A100,8,96,1152,27.2,us,{info % 40960},\n"
        f"nd80,A100,8,96,1152,40.0,us,{info % 81920},\n"
        "p4de,A100-80GB,8,96,1152,36.0,us,,\n"
        "mega,H100-MEGA,8,96,1152,80.0,us,,\n"
    )
    found = {each.instance: (each.gpu, each.usd_per_gpu_hour) for each in imported(tmp_path, HEADER + rows).offers}
    assert found == {
        "p4d": ("A100-SXM-40GB", 4.0),
        "nd": ("A100-SXM-40GB", 3.4),
        "nd80": ("A100-SXM-80GB", 5.0),
        "p4de": ("A100-SXM-80GB", 4.5),
        "mega": ("H100-SXM", 10.0),
    }


def test_a_card_is_not_its_sxm_sister(tmp_path: Path) -> None:
    """Lambda's and RunPod's catalogues call both by one name: the card's price was the module's."""
    info = "\"{'Gpus': [{'Name': '%s', 'Manufacturer': 'Nvidia', 'Count': 1, 'MemoryInfo': {'SizeInMiB': 80}}]}\""
    rows = (
        "gpu_1x_h100_pcie,H100,1,26,200,2.49,us,,\n"
        "gpu_8x_h100_sxm5,H100,8,208,1800,31.92,us,,\n"
        f"1x_A100-80GB_SECURE,A100-80GB,1,8,117,1.39,us,{info % 'A100 PCIe'},0.99\n"
        f"1x_A100-80GB-SXM_SECURE,A100-80GB-SXM,1,8,117,1.49,us,{info % 'A100 SXM'},\n"
        "gpu_1x_l40s_pcie,L40S,1,8,117,1.1,us,,\n"
    )
    found = imported(tmp_path, HEADER + rows)
    assert {each.gpu: each.usd_per_gpu_hour for each in found.offers} == {
        "H100-PCIe": 2.49, "H100-SXM": 3.99, "A100-PCIe-80GB": 1.39, "A100-SXM-80GB": 1.49, "L40S": 1.1,
    }  # fmt: skip


def test_of_zones_the_least_on_demand_and_the_least_on_spot_count(tmp_path: Path) -> None:
    rows = "p5,H100,8,1,1,80,us,,40\np5,H100,8,1,1,80,us,,16\np5,H100,8,1,1,,us,,8\np5,H100,8,1,1,72,us,,\n"
    (offer,) = imported(tmp_path, HEADER + rows).offers
    assert (offer.usd_per_gpu_hour, offer.spot_usd_per_gpu_hour) == (9.0, 1.0)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    offers = imported(tmp_path).offers
    path = tmp_path / "offers.yaml"
    path.write_text(written_offers(offers), "utf-8")
    assert read_offers(path) == offers


def test_a_catalogue_in_place_of_offers_is_told_what_imports_it(tmp_path: Path) -> None:
    """A class of ours was named."""
    (path := tmp_path / "vms.csv").write_text(HEADER + ROWS, "utf-8")
    with pytest.raises(InputError, match="holds no list of offers") as caught:
        read_offers(path)
    assert "plan prices import" in caught.value.hint


def test_own_offers_go_before_those_that_ship_and_the_pool_names_the_one_that_counts(tmp_path: Path) -> None:
    catalogue = with_offers(SHIPPED, imported(tmp_path).offers)
    (pool,) = parse_cluster("8xH100", catalogue=catalogue).pools
    assert pool.usd_per_gpu_hour == 2.95
    assert pool.price_source == "Cloud, eight in eu, 2026-11-26 (on demand)"
    (other,) = parse_cluster("8xL40S", catalogue=catalogue).pools
    assert other.usd_per_gpu_hour == parse_cluster("8xL40S").pools[0].usd_per_gpu_hour


def test_a_cluster_file_names_offers(tmp_path: Path) -> None:
    (tmp_path / "offers.yaml").write_text(written_offers(imported(tmp_path).offers), "utf-8")
    path = tmp_path / "cluster.yaml"
    path.write_text("offers: offers.yaml\npools: [{gpu: H100, gpus: 8, spot_gpus: 8}]\n", "utf-8")
    (pool,) = parse_cluster(str(path)).pools
    assert (pool.usd_per_gpu_hour, getattr(pool, "spot_usd_per_gpu_hour", None)) == (2.95, 1.2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("InstanceType,AcceleratorName\na,b\n", "AcceleratorCount"),
        (HEADER + "a,H100,8,1,1,minus,eu,x,\n", "minus"),
        (HEADER + "a,H100,,1,1,5,eu,x,\n", "AcceleratorCount"),
        (HEADER + "a,Gaudi9,8,1,1,5,eu,x,\n", "no price"),
        ("", "empty"),
    ],
)
def test_bad_catalogues_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        imported(tmp_path, text)
    assert said in caught.value.message
    assert caught.value.hint


def test_shipped_spot_prices_stand_where_a_source_has_them() -> None:
    found = {gpu: SHIPPED.spot_price(gpu) for gpu in ("H100-SXM", "H200", "B200")}
    assert {gpu: each and each.spot_usd_per_gpu_hour for gpu, each in found.items()} == {
        "H100-SXM": 1.25, "H200": 1.45, "B200": None,
    }  # fmt: skip
