"""GPU types that users describe: facts asked for by name, kept in the store, never against the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from profiles import hardware
from profiles.descriptions import FILE, catalogue_with, keep, match, read_descriptions, template
from profiles.errors import DataError, InputError, UnknownName

DEVICE = {
    "kind": "cuda",
    "name": "NVIDIA H900 90GB",
    "count": 8,
    "capability": [9, 1],
    "sm_count": 140,
    "memory_bytes": 90 * 2**30,
    "l2_bytes": 50 * 2**20,
    "facts": {
        "max_sm_clock_mhz": 1980,
        "default_power_limit_watts": 700.0,
        "memory_bus_bits": 5120,
        "max_memory_clock_mhz": 2619,
        "pcie_generation": 5,
        "pcie_lanes": 16,
    },
}
CPU = {
    "kind": "cpu",
    "name": "Test(R) CPU @ 2GHz",
    "capability": None,
    "sm_count": 4,
    "memory_bytes": 2**33,
    "l2_bytes": 0,
    "facts": {"vendor": "amd"},
}
ANSWERS = {
    "generation": "hopper",
    "peak_flops": {"bf16": 1e15},
    "memory_bandwidth_bytes_per_s": 3e12,
    "boost_clock_mhz": 2000,
    "l2_bytes": 2**25,
    "tdp_watts": 300,
    "idle_watts": 70,
    "scale_up_link": "nvlink",
    "scale_up_bytes_per_s": 450e9,
    "pcie_bytes_per_s": 64e9,
    "node": {"gpus": 8, "default_fabric": "ib-400g"},
}


def filled(device: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The template of ``device`` as a user would fill it in."""
    text, _ = template(device)
    ((name, fields),) = yaml.safe_load(text).items()
    for field, value in fields.items():
        if field in ANSWERS and (value is None or isinstance(value, dict)):
            fields[field] = ANSWERS[field]
    fields["sources"]["*"] = "a data sheet, 2026"
    return {name: {**fields, **changes}}


def written(folder: Path, content: object) -> Path:
    file = folder / FILE
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def test_the_template_holds_what_the_driver_says_and_names_the_rest() -> None:
    text, missing = template(DEVICE)
    ((name, fields),) = yaml.safe_load(text).items()
    assert name == "H900-90GB"
    assert fields["memory_bandwidth_bytes_per_s"] == pytest.approx(3.352e12, rel=1e-3)
    assert fields["pcie_bytes_per_s"] == 64e9
    assert (fields["sm_count"], fields["tdp_watts"], fields["compute_capability"]) == (140, 700.0, 9.1)
    assert fields["sources"]["tdp_watts"] == "reported by the driver: default power limit"
    assert missing == [
        *("generation", "peak_flops.bf16", "idle_watts", "scale_up_link", "scale_up_bytes_per_s"),
        *("node.gpus", "node.default_fabric", "sources.*"),
    ]


def test_a_cpu_is_described_the_same_way() -> None:
    text, missing = template(CPU)
    ((name, fields),) = yaml.safe_load(text).items()
    assert (name, fields["vendor"]) == ("Test-2GHz", "amd")
    assert "compute_capability" not in fields
    assert {"l2_bytes", "tdp_watts", "boost_clock_mhz", "memory_bandwidth_bytes_per_s"} <= set(missing)


@pytest.mark.parametrize("device", [DEVICE, CPU], ids=["gpu", "cpu"])
def test_a_filled_template_makes_the_type_known_with_its_node(tmp_path: Path, device: dict[str, Any]) -> None:
    written(tmp_path, filled(device))
    known = catalogue_with([tmp_path, tmp_path])  # the same again changes nothing
    gpu = known.find_gpu(device["name"])
    assert match(device, known) == gpu
    node = known.default_node(gpu)
    assert (node.gpus, node.default_fabric) == (8, "ib-400g")
    assert known.find_node(node.name) == node
    assert match(device) is None  # and nobody else's catalogue has it


def test_a_store_without_descriptions_adds_nothing(tmp_path: Path) -> None:
    assert catalogue_with([tmp_path]) is hardware.SHIPPED


def test_facts_still_missing_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(template(DEVICE)[0])
    with pytest.raises(InputError, match=r"H900-90GB lacks generation, peak_flops\.bf16, idle_watts"):
        read_descriptions(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"node": None}, "lacks node"),
        ({"node": "x"}, "lacks node"),
        ({"node": {"gpus": 8}}, "default_fabric"),
        ({"node": {"gpus": 8, "default_fabric": "pigeons"}}, "pigeons"),
        ({"node": {"gpus": 2, "default_fabric": "ethernet-25g"}}, "8 GPUs share, and the node has 2"),
        ({"tdp_watts": -1}, "tdp_watts"),
        ({"made_up": 1}, "made_up"),
        ({"peak_flops": {"fp8": 1e15}}, "needs bf16 or fp16"),
        ({"sources": {"tdp_watts": "a data sheet"}}, "no source of"),
    ],
)
def test_wrong_facts_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = written(tmp_path, filled(DEVICE, **change))
    with pytest.raises((InputError, DataError), match=said) as caught:
        read_descriptions(file)
    assert isinstance(caught.value, UnknownName) or str(file) in caught.value.message


@pytest.mark.parametrize("text", ["a: [", "- 1", "H900: 3"])
def test_a_file_that_holds_no_facts_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="GPU facts"):
        read_descriptions(written(tmp_path, text))


@pytest.mark.parametrize("changes", [{"aliases": ["NVIDIA H200"]}, {"aliases": ["h-200"]}])
def test_a_shipped_type_is_not_contradicted(tmp_path: Path, changes: dict[str, Any]) -> None:
    written(tmp_path, filled(DEVICE, **changes))
    with pytest.raises(DataError, match="H200"):
        catalogue_with([tmp_path])
    ((_, fields),) = filled(DEVICE).items()
    written(tmp_path, {"H200": fields})
    with pytest.raises(DataError, match="facts of its own in the catalogue"):
        catalogue_with([tmp_path])


def test_two_stores_must_agree(tmp_path: Path) -> None:
    for name, watts in (("a", 700), ("b", 600)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, filled(DEVICE, tdp_watts=watts))
    known = catalogue_with([tmp_path / "a"])
    with pytest.raises(DataError, match="H900"):
        catalogue_with([tmp_path / "b"], known)


def test_a_slice_of_a_gpu_is_not_taken_for_the_whole() -> None:
    whole = hardware.find_gpu("H200")
    device = {"kind": "cuda", "name": "NVIDIA H200", "sm_count": whole.sm_count, "memory_bytes": whole.memory_bytes}
    assert match(device) == whole
    with pytest.raises(InputError, match="has 16 SMs") as caught:
        match({**device, "sm_count": 16})
    assert "MIG" in caught.value.hint
    with pytest.raises(InputError, match=r"70\.0 GiB"):
        match({**device, "memory_bytes": 70 * 2**30})
    assert match({**device, "name": "NVIDIA H200 MIG 1g.18gb"}) is None


def test_described_types_are_kept_with_a_store_and_shipped_ones_are_not(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    for folder in (source, target):
        folder.mkdir()
    written(source, filled(DEVICE))
    known = catalogue_with([source])
    keep(target, ["H200"], known)
    assert not (target / FILE).exists()
    written(target, filled(CPU))
    keep(target, ["H200", "H900-90GB"], known)
    assert [gpu.name for gpu, _ in read_descriptions(target / FILE)] == ["Test-2GHz", "H900-90GB"]
    before = (target / FILE).stat().st_mtime_ns
    keep(target, ["H900-90GB"], known)
    assert (target / FILE).stat().st_mtime_ns == before
    assert read_descriptions(target / FILE)[1] == read_descriptions(source / FILE)[0]


def test_a_device_whose_name_several_types_bear_is_told_by_its_size() -> None:
    part = hardware.find_gpu("H100-HBM2e")
    device = {"kind": "cuda", "name": "NVIDIA H100", "sm_count": part.sm_count, "memory_bytes": part.memory_bytes}
    assert match(device) == part
    assert match({**device, "memory_bytes": 80 * 2**30}) == hardware.find_gpu("H100")
    with pytest.raises(InputError, match=r"H100-SXM has 132 .*; H100-SXM-96GB-HBM2e has 132"):
        match({**device, "memory_bytes": 40 * 2**30})
    with pytest.raises(InputError, match="may mean"):  # MI300X and others of one size
        match({"kind": "cuda", "name": "AMD Radeon Graphics", "sm_count": 256, "memory_bytes": 309220868096})
