"""The hardware catalogue: complete, unambiguous, sourced, and physically possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from profiles import hardware
from profiles.errors import DataError, InputError, UnknownName
from profiles.hardware import Fabric, Fact, Gpu, Node

CATALOGUE = Path(hardware.__file__).parent / "hardware"
GPUS = list(hardware.gpus().values())
FACTS: list[Fact] = [*GPUS, *hardware.nodes().values(), *hardware.fabrics().values()]
SOURCED: list[Fact] = [*FACTS, *hardware.topologies().values()]

# Dense bf16/fp16 FLOP per clock and SM (compute unit on AMD) with FP32 accumulation, from whitepapers.
FLOP_PER_CLOCK: dict[tuple[str, float | None], int] = {
    ("volta", 7.0): 1024,
    ("turing", 7.5): 1024,
    ("ampere", 8.0): 2048,
    ("ampere", 8.6): 1024,
    ("ada", 8.9): 1024,
    ("hopper", 9.0): 4096,
    ("blackwell", 10.0): 8192,
    ("blackwell-ultra", 10.3): 8192,
    ("blackwell", 12.0): 1024,
    ("blackwell", 12.1): 1024,
    ("cdna2", None): 1024,
    ("cdna3", None): 2048,
    ("cdna4", None): 4096,
    ("gaudi3", None): 16384,  # matrix engines, shared out to the tensor cores
}
GEFORCE = {"RTX-3090", "RTX-3090-Ti", "RTX-4080", "RTX-4090", "RTX-4090D", "RTX-5080", "RTX-5090"}
HALF_RATE = {*GEFORCE, "A10G", "L20", "L40"}  # FP32 accumulation at half the chip's rate

each_gpu = pytest.mark.parametrize("gpu", GPUS, ids=[gpu.name for gpu in GPUS])


def half_precision(gpu: Gpu) -> float:
    return gpu.peak_flops.get("bf16", gpu.peak_flops["fp16"])


def names(fact: Fact) -> tuple[str, ...]:
    return (fact.name, *fact.aliases)


def fold(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


# -------------------------------------------------------------------------------- names and references


PROMISED = """
    V100-SXM T4 A10 A10G A30 A40 L4 L20 L40 L40S RTX-3090 RTX-4090 RTX-4090D RTX-5090 RTX-A6000 RTX-4000-Ada
    RTX-6000-Ada RTX-PRO-6000 RTX-PRO-6000-WS RTX-PRO-6000-Max-Q RTX-3090-Ti RTX-4080 RTX-5080 RTX-5000-Ada RTX-A5000
    GH200-144GB MI210 MI300A
    A100-SXM-80GB A100-SXM-40GB A100-PCIe-80GB A100-PCIe-40GB A800-SXM-80GB A800-PCIe-80GB
    H100-SXM H100-SXM-96GB-HBM2e H100-PCIe H100-NVL H800-SXM H800-PCIe H20 H20-3e H200 H200-NVL GH200
    B200 B300 GB200 GB300 GB10 MI250X MI300X MI308X MI325X MI350X MI355X Gaudi-3
"""


def test_the_catalogue_holds_every_gpu_promised() -> None:
    assert set(hardware.gpus()) == set(PROMISED.split())


def test_every_name_and_alias_finds_its_own_entry() -> None:
    finders = {Gpu: hardware.find_gpu, Node: hardware.find_node, Fabric: hardware.find_fabric}
    for fact in FACTS:
        for name in names(fact):
            assert finders[type(fact)](name) is fact


def test_no_name_means_two_things_anywhere_in_the_catalogue() -> None:
    uses = Counter(fold(name) for fact in FACTS for name in names(fact))
    assert [name for name, count in uses.items() if count > 1] == []


@pytest.mark.parametrize("file", ["gpus.yaml", "nodes.yaml", "fabrics.yaml", "topologies.yaml", "ambiguous.yaml"])
def test_no_entry_is_written_twice_in_a_file(file: str) -> None:
    # YAML keeps the last of two equal keys without a word.
    root = yaml.compose((CATALOGUE / file).read_text(encoding="utf-8"))
    assert isinstance(root, yaml.MappingNode)
    keys = Counter(key.value for key, _ in root.value)
    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("h100_sxm", "H100-SXM"),
        ("h100", "H100-SXM"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("h200_sxm", "H200"),
        ("nvidia h200", "H200"),
        ("a100", "A100-SXM-80GB"),
        ("a100_sxm", "A100-SXM-80GB"),
        ("a100_pcie", "A100-PCIe-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-PCIe-40GB"),
        ("b200_sxm", "B200"),
        ("b300_sxm", "B300"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("rtx_pro_6000_server", "RTX-PRO-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
        ("Tesla T4", "T4"),
        ("AMD Instinct MI300X", "MI300X"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 4090 D", "RTX-4090D"),
        ("rtx3090", "RTX-3090"),
        ("NVIDIA GeForce RTX 5090", "RTX-5090"),
        ("NVIDIA-A10", "A10"),
        ("NVIDIA_A10G", "A10G"),
        ("NVIDIA RTX A6000", "RTX-A6000"),
        ("NVIDIA RTX 4000 Ada Generation", "RTX-4000-Ada"),
        ("NVIDIA A800-SXM4-80GB", "A800-SXM-80GB"),
        ("NVIDIA H800", "H800-SXM"),
        ("NVIDIA H20-3e", "H20-3e"),
        ("H100-96GB HBM2e 500W", "H100-SXM-96GB-HBM2e"),
        ("RTX 3090 24GB", "RTX-3090"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA GB10", "GB10"),
        ("DGX Spark", "GB10"),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA A800 80GB PCIe", "A800-PCIe-80GB"),
        ("NVIDIA H800 PCIe", "H800-PCIe"),
        ("AMD Instinct MI250X / MI250", "MI250X"),
        ("AMD Instinct MI350X", "MI350X"),
        ("HL-325L", "Gaudi-3"),
    ],
)
def test_names_that_drivers_and_users_give_are_known(name: str, canonical: str) -> None:
    assert hardware.find_gpu(name).name == canonical


@pytest.mark.parametrize("name", ["H20X", "Tesla V100-SXM2-16GB", "V100", "L40G"])
def test_a_near_relative_with_other_facts_is_not_mistaken_for_the_gpu(name: str) -> None:
    with pytest.raises(UnknownName):
        hardware.find_gpu(name)


@pytest.mark.parametrize(
    "name", ["NVIDIA H100", "nvidia-h100", "H100 96GB", "RTX 6000", "AMD Radeon Graphics", "NVIDIA H20Z"]
)
def test_a_name_that_several_gpus_bear_is_refused_with_what_it_may_mean(name: str) -> None:
    with pytest.raises(InputError, match="may mean") as caught:
        hardware.find_gpu(name, "pool")
    meant = caught.value.details["may_mean"]
    assert isinstance(meant, list)
    assert len(meant) > 1
    assert [gpu.name for gpu in hardware.SHIPPED.candidates(name)] == meant
    assert all(each in caught.value.message for each in meant)


def test_an_unknown_gpu_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UnknownName, match="pool: 'H20O' is not known") as caught:
        hardware.find_gpu("H20O", field="pool")
    assert "H200" in caught.value.hint
    assert "H20" in caught.value.details["nearest"]  # type: ignore[operator]
    with pytest.raises(UnknownName) as caught:
        hardware.find_gpu("H101")
    assert caught.value.details["nearest"][0] == "H100-SXM"  # type: ignore[index]  # which is called H100, too


def test_unknown_nodes_and_fabrics_are_refused_with_the_nearest_names() -> None:
    with pytest.raises(UnknownName, match="node") as caught:
        hardware.find_node("hgx-h200-9")
    assert "hgx-h200-8" in caught.value.hint
    with pytest.raises(UnknownName, match="fabric") as caught:
        hardware.find_fabric("ib-401g")
    assert "ib-400g" in caught.value.hint


@each_gpu
def test_every_gpu_has_a_default_node(gpu: Gpu) -> None:
    assert hardware.default_node(gpu).gpu == gpu.name


def test_a_gpu_that_no_node_holds_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no node holds X1"):
        hardware.default_node(GPUS[0].model_copy(update={"name": "X1"}))


def test_nodes_name_gpus_and_fabrics_that_exist() -> None:
    for node in hardware.nodes().values():
        assert node.gpu in hardware.gpus()
        assert node.default_fabric in hardware.fabrics()
        assert node.joined_by in hardware.topologies()
        assert (node.joined_by == "none") == (node.gpus == 1)


def test_pcie_boxes_have_a_law_and_wider_intervals_and_switched_ones_have_not() -> None:
    for topology in hardware.topologies().values():
        through_pcie = topology.name in {"pcie", "pcie-host", "pcie-virtual", "nvlink-pairs"}
        assert (topology.bus_share is not None) == (topology.spread > 0) == through_pcie
        assert all(0 < share < 1 for share in (topology.bus_share or {}).values())
    for node in hardware.nodes().values():
        gpu = hardware.find_gpu(node.gpu)
        if node.joined_by in {"nvswitch", "nvlink"}:
            assert gpu.scale_up_link == "nvlink"
        if node.joined_by in {"pcie", "pcie-host", "pcie-virtual"}:
            assert gpu.scale_up_link == "pcie"
        if node.joined_by == "nvlink-pairs":
            assert gpu.bridge_bytes_per_s is not None


def test_prices_are_for_known_gpus_and_dated() -> None:
    for price in hardware.prices():
        assert price.gpu in hardware.gpus()
        assert 2024 <= price.date.year <= 2030
        known = [usd for usd in (price.usd_per_gpu_hour, price.spot_usd_per_gpu_hour) if usd is not None]
        assert known
        assert all(0.1 < usd < 30 for usd in known)
        assert price.source


def test_the_price_of_a_gpu_is_its_cheapest_offer_on_record() -> None:
    h100 = hardware.find_gpu("H100")
    best = hardware.on_demand_price(h100)
    assert best is not None
    offers = [price.usd_per_gpu_hour for price in hardware.prices() if price.gpu == "H100-SXM"]
    assert best.usd_per_gpu_hour == min(usd for usd in offers if usd is not None)


def test_a_gpu_without_a_public_price_has_none() -> None:
    assert hardware.on_demand_price(hardware.find_gpu("H20")) is None


# --------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("fact", SOURCED, ids=[fact.name for fact in SOURCED])
def test_every_field_says_where_it_is_from(fact: Fact) -> None:
    fields = fact.model_fields_set - {"name", "aliases", "sources"}
    assert "*" in fact.sources or fields <= set(fact.sources)
    for key, source in fact.sources.items():
        field, _, part = key.partition(".")
        assert key == "*" or field in fields, f"{fact.name}: source of a field that is not there: {key}"
        assert not part or part in getattr(fact, field)
        assert len(source) > 5


@each_gpu
def test_idle_power_is_never_passed_off_as_a_data_sheet_figure(gpu: Gpu) -> None:
    assert "idle_watts" in gpu.sources, "a data sheet has none: say where it was read"


# --------------------------------------------------------------------------------------------- physics


@each_gpu
def test_peak_rates_are_dense(gpu: Gpu) -> None:
    clock = gpu.boost_clock_mhz * 1e6
    assert (gpu.generation, gpu.compute_capability) in FLOP_PER_CLOCK, "a new generation: add its rate in this file"
    bound = FLOP_PER_CLOCK[gpu.generation, gpu.compute_capability] * gpu.sm_count * clock
    bound *= 0.5 if gpu.name in HALF_RATE else 1.0
    assert half_precision(gpu) <= 1.02 * bound
    if gpu.name not in {"H20", "H20-3e"}:  # its tensor cores are cut below the architecture's rate
        assert half_precision(gpu) >= 0.8 * bound


@each_gpu
def test_halving_the_bits_doubles_the_rate(gpu: Gpu) -> None:
    peak = gpu.peak_flops
    ultra = gpu.generation == "blackwell-ultra"
    if gpu.generation in {"gaudi3", "cdna2"}:  # bf16 and 8 bit at one rate
        assert peak["bf16"] == peak.get("fp8", peak.get("int8"))
        return
    whole = 2 if gpu.name in GEFORCE else 1  # integers and fp4 accumulate at the chip's whole rate
    assert peak["fp16"] == half_precision(gpu)
    if "tf32" in peak:
        assert peak["bf16"] == pytest.approx(2 * peak["tf32"], rel=0.02)
    if "fp8" in peak:
        assert peak["fp8"] == pytest.approx(2 * peak["bf16"], rel=0.025)  # L40S's own data sheet is 2.02
    if "int8" in peak and not ultra:  # Blackwell Ultra gave its int8 units up
        assert peak["int8"] == pytest.approx(2 * whole * half_precision(gpu), rel=0.025)
    if "fp4" in peak:  # Blackwell Ultra's extra fp4 units make it three times fp8
        assert peak["fp4"] == pytest.approx((3 if ultra else 2) * whole * peak["fp8"], rel=0.05)


def test_blackwell_ultra_has_next_to_no_int8() -> None:
    for name in ("B300", "GB300"):
        peak = hardware.find_gpu(name).peak_flops
        assert peak["int8"] < peak["bf16"] / 10


@each_gpu
def test_only_precisions_that_the_hardware_has_are_listed(gpu: Gpu) -> None:
    has = set(gpu.peak_flops)
    assert has <= {"bf16", "fp16", "tf32", "fp8", "int8", "fp4"}
    assert ("bf16" in has) == (gpu.generation not in {"volta", "turing"})
    assert ("tf32" in has) == (gpu.generation not in {"volta", "turing", "cdna2", "cdna4"})
    assert ("fp8" in has) == (gpu.generation not in {"volta", "turing", "ampere", "cdna2"})
    assert ("fp4" in has) == (gpu.generation in {"blackwell", "blackwell-ultra", "cdna4"})


@each_gpu
def test_memory_and_bandwidth_are_in_the_right_units(gpu: Gpu) -> None:
    assert gpu.memory_bytes % 2**20 == 0  # drivers report whole MiB
    slowest = 0.5 if gpu.name == "GB10" else 0.09  # the memory of a whole computer
    assert 0.017 < gpu.memory_bytes / gpu.memory_bandwidth_bytes_per_s < slowest  # seconds to read all of it once
    assert 30 < half_precision(gpu) / gpu.memory_bandwidth_bytes_per_s < 500  # the ridge, FLOP per byte
    assert 4e6 < gpu.l2_bytes < 2e8


@each_gpu
def test_power_is_idle_well_below_the_limit(gpu: Gpu) -> None:
    assert 0.03 * gpu.tdp_watts < gpu.idle_watts < 0.25 * gpu.tdp_watts


@each_gpu
def test_links_are_one_directional_and_consistent(gpu: Gpu) -> None:
    assert gpu.pcie_bytes_per_s in {16e9, 32e9, 64e9, 128e9}  # one direction of x16, generations 3 to 6
    if gpu.scale_up_link == "pcie":
        assert gpu.scale_up_bytes_per_s == gpu.pcie_bytes_per_s
    else:
        assert 3 * gpu.pcie_bytes_per_s < gpu.scale_up_bytes_per_s <= 900e9


@each_gpu
def test_cuda_gpus_and_only_they_have_a_compute_capability(gpu: Gpu) -> None:
    assert (gpu.compute_capability is not None) == (gpu.vendor == "nvidia")


def test_fabrics_carry_what_their_name_says() -> None:
    for fabric in hardware.fabrics().values():
        gigabits = int(fabric.name.split("-")[1].removesuffix("g"))
        assert fabric.bytes_per_s_per_gpu * fabric.shared_by_gpus == pytest.approx(gigabits * 1e9 / 8)


def test_a_gpu_reaches_its_node_faster_than_the_network() -> None:
    for node in hardware.nodes().values():
        fabric = hardware.find_fabric(node.default_fabric)
        if node.gpus > 1:
            assert fabric.bytes_per_s_per_gpu < hardware.find_gpu(node.gpu).scale_up_bytes_per_s
        assert node.gpus % fabric.shared_by_gpus == 0


# ---------------------------------------------------------------------------------------- broken files


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A catalogue folder of our own; the real one is back, and nothing of ours cached, afterwards."""
    readers = (hardware.gpus, hardware.nodes, hardware.fabrics, hardware.prices)
    folder = tmp_path / "hardware"
    folder.mkdir()
    monkeypatch.setattr(hardware, "_CATALOGUE", folder)
    for reader in readers:
        reader.cache_clear()
    yield folder
    for reader in readers:
        reader.cache_clear()


FABRIC = {"kind": "roce", "bytes_per_s_per_gpu": 1e9, "latency_us": 1.0, "sources": {"*": "a test"}}


def test_a_sound_catalogue_of_ones_own_is_read(broken: Path) -> None:
    (broken / "fabrics.yaml").write_text(yaml.safe_dump({"mine": FABRIC}))
    assert hardware.find_fabric("Mine").shared_by_gpus == 1


@pytest.mark.parametrize(
    "change",
    [
        {"bandwith": 1e9},  # a key nobody knows, as from a typing slip
        {"name": "other"},
        {"kind": "token ring"},
        {"bytes_per_s_per_gpu": -1.0},
        {"bytes_per_s_per_gpu": "fast"},
        {"sources": {}},
    ],
    ids=str,
)
def test_a_wrong_fact_is_refused(broken: Path, change: dict[str, object]) -> None:
    (broken / "fabrics.yaml").write_text(yaml.safe_dump({"mine": FABRIC | change}))
    with pytest.raises(DataError, match=r"fabrics\.yaml") as caught:
        hardware.fabrics()
    assert caught.value.hint


def test_a_message_names_the_entry_the_field_and_how_many_more(broken: Path) -> None:
    rest = {name: value for name, value in FABRIC.items() if name not in ("kind", "latency_us")}
    (broken / "fabrics.yaml").write_text(yaml.safe_dump({"good": FABRIC, "mine": rest}))
    with pytest.raises(DataError, match=r"\(mine\.kind: Field required; and 1 more\)"):
        hardware.fabrics()


@pytest.mark.parametrize("peaks", [{}, {"fp8": 1e12}, {"bf16": 0.0}, {"bf16": -1e12}], ids=str)
def test_a_gpu_needs_positive_peaks_with_a_half_precision(broken: Path, peaks: dict[str, float]) -> None:
    facts = yaml.safe_load((CATALOGUE / "gpus.yaml").read_text(encoding="utf-8"))["H200"]
    (broken / "gpus.yaml").write_text(yaml.safe_dump({"H200": facts | {"peak_flops": peaks}}))
    with pytest.raises(DataError, match="peak_flops"):
        hardware.gpus()


@pytest.mark.parametrize(
    "content",
    [b"a: [unclosed", b"- a\n- list\n", b"", b"just words", b"mine:\n", b"\xff\xfe\x00", b"!!python/none"],
    ids=["not yaml", "a list", "empty", "a string", "no facts", "not utf-8", "a python tag"],
)
def test_a_corrupt_file_is_a_data_error(broken: Path, content: bytes) -> None:
    (broken / "fabrics.yaml").write_bytes(content)
    with pytest.raises(DataError, match=r"fabrics\.yaml"):
        hardware.fabrics()


def test_a_missing_file_is_a_data_error(broken: Path) -> None:
    with pytest.raises(DataError, match=r"nodes\.yaml"):
        hardware.nodes()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "- just words\n",
        "- {gpu: H200}\n",
        "- {gpu: H200, usd_per_gpu_hour: 0, provider: a, instance: b, date: 2026-01-01, source: c}\n",
        "- {gpu: H200, usd_per_gpu_hour: 1, provider: a, instance: b, date: soon, source: c}\n",
        "- {gpu: H200, usd_per_gpu_hour: 1, provider: a, instance: b, date: 2026-01-01, source: c, x: 1}\n",
    ],
)
def test_a_corrupt_price_list_is_a_data_error(broken: Path, content: str) -> None:
    (broken / "prices.yaml").write_text(content)
    with pytest.raises(DataError, match=r"prices\.yaml"):
        hardware.prices()
