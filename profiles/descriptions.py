"""GPU types that are not in the catalogue, described by whoever has them: a ``gpus.yaml`` in the profile store.

The file has the catalogue's own schema (``profiles/hardware/gpus.yaml``), sources included, and one thing more for each
type: ``node``, the server it comes in (``gpus`` and ``default_fabric``). What the driver reports is filled in for the
user; the rest is asked for by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from profiles.errors import DataError, InputError
from profiles.files import Source, is_file
from profiles.hardware import SHIPPED, Catalogue, Fact, Gpu, LastingLoad, Node, fabrics, find_fabric, gpus
from profiles.pcie import pcie_fact
from profiles.values import named
from profiles.whole_files import write_whole
from profiles.yaml_markup import read_yaml

FILE = "gpus.yaml"
LASTING = "sustained"

_ASKED: dict[str, str] = {
    # field -> what to write there, for those that no driver reports
    "generation": "hopper, blackwell, cdna3, sapphire-rapids, ...",
    "peak_flops": "dense FLOP/s by precision (bf16 or fp16 at least; no structured sparsity), written like 989.0e+12",
    "memory_bandwidth_bytes_per_s": "peak of the memory, bytes/s",
    "boost_clock_mhz": "published boost clock",
    "l2_bytes": "last cache before memory, bytes",
    "tdp_watts": "board power limit",
    "idle_watts": "power at rest without a process; a reading of your own will do, if its source says so",
    "scale_up_link": "nvlink, xgmi, pcie or (CPUs) shared_memory: how the devices of a node reach each other",
    "scale_up_bytes_per_s": "over that link, of one device, in one direction",
    "pcie_bytes_per_s": "host link, one direction",
}
"""What a driver may leave unsaid, and how to say it."""


def catalogue_with(folders: Iterable[Path | str], catalogue: Catalogue = SHIPPED) -> Catalogue:
    """``catalogue`` and the types that the ``gpus.yaml`` of these stores' folders describe, where they have one.

    Raises:
        DataError: a file cannot be read, lacks a fact, or contradicts the catalogue or another of the files.
    """
    for folder in folders:
        file = Path(folder) / FILE
        if is_file(file):
            catalogue = catalogue_with_file(file, catalogue)
        if is_file(Path(folder) / f"{LASTING}.parquet"):
            catalogue = catalogue.under_load(_lasting(Path(folder)))
    return catalogue


def _lasting(folder: Path) -> dict[str, LastingLoad]:
    """By GPU type, how much longer a layer took under lasting load than right after a rest, by the rows of a store: in
    16 bits where they have it. The ends are the 10th and 90th percentiles of both."""
    from profiles.store import ProfileStore  # pandas: only where there are such rows

    rows = ProfileStore(folder).query(LASTING)
    found: dict[str, LastingLoad] = {}
    for (gpu, dtype), group in rows.groupby(["gpu", "dtype"], sort=True):
        by_state = group.drop_duplicates("state", keep="last").set_index("state")
        if not {"rested", "sustained"} <= set(by_state.index) or (dtype != "bf16" and str(gpu) in found):
            continue
        names = ["latency_us", "latency_p10_us", "latency_p90_us"]
        rested, lasting = (by_state.loc[state, names].astype(float).to_numpy() for state in ("rested", "sustained"))
        factor = lasting[0] / rested[0]
        low, high = np.nan_to_num([lasting[1] / rested[2], lasting[2] / rested[1]], nan=factor)
        found[str(gpu)] = LastingLoad(factor=factor, low=min(low, factor), high=max(high, factor))
    return found


def catalogue_with_file(file: Path, catalogue: Catalogue = SHIPPED) -> Catalogue:
    """``catalogue`` and the types that ``file`` describes; errors as :func:`catalogue_with`, and where it cannot be
    opened."""
    for gpu, node in read_descriptions(file):
        catalogue = catalogue.describing(gpu, node, str(file))
    return catalogue


def read_descriptions(file: Path) -> list[tuple[Gpu, Node]]:
    """The types in ``file``, each with the node it comes in.

    Raises:
        DataError: the file cannot be read or a fact is invalid.
        InputError: facts are missing; all of them are named.
    """
    return [_described(name, fields, file) for name, fields in _read(file).items()]


def _read(file: Path) -> dict[str, Any]:
    entries = read_yaml(Source(file, "GPU facts", "correct the file", error=DataError))
    if not isinstance(entries, dict) or not all(isinstance(fields, dict) for fields in entries.values()):
        raise DataError(f"GPU facts {file}: not a mapping of names to facts", "write it as profiles/hardware/gpus.yaml")
    return entries


def _described(name: str, fields: Mapping[str, Any], file: Path) -> tuple[Gpu, Node]:
    if missing := _nulls(fields):
        raise InputError(
            f"GPU facts {file}: {name} lacks {', '.join(named(each) for each in missing)}",
            "fill them in, each with a source under sources",
        )
    facts = dict(fields)
    place = facts.pop("node", None)
    if not isinstance(place, dict):
        raise InputError(f"GPU facts {file}: {name} lacks node", "write node: {gpus: 8, default_fabric: ib-400g}")
    try:
        gpu = Gpu(name=name, **facts)
        node = Node(
            name=f"{name.lower()}-{place.get('gpus')}", gpu=name, sources={"*": f"described with {name}"}, **place
        )
    except (ValidationError, TypeError) as error:
        raise DataError(f"GPU facts {file}: {name}: {_plain(error)}", "correct the file") from error
    fabric = find_fabric(node.default_fabric, f"GPU facts {file}: {name}: node.default_fabric")
    if node.gpus % fabric.shared_by_gpus:
        fitting = [other.name for other in fabrics().values() if node.gpus % other.shared_by_gpus == 0]
        raise InputError(
            f"GPU facts {file}: {name}: node.default_fabric: {fabric.name} is one card that "
            f"{fabric.shared_by_gpus} GPUs share, and the node has {node.gpus}: its bandwidth would be wrong",
            f"the nearest in bytes/s of these: {', '.join(fitting)}",
        )
    unsourced = sorted(set(facts) - {"sources", "aliases", "full_name"} - set(gpu.sources))
    if "*" not in gpu.sources and unsourced:
        raise InputError(
            f"GPU facts {file}: {name}: no source of {', '.join(unsourced)}",
            'name where each figure is from under sources; "*" stands for all fields not named',
        )
    return gpu, node.model_copy(update={"default_fabric": fabric.name})


def _nulls(fields: Mapping[str, Any], where: str = "") -> list[str]:
    out = []
    for name, value in fields.items():
        if value is None:
            out.append(f"{where}{name}")
        elif isinstance(value, dict):
            out += _nulls(value, f"{where}{name}.")
    return out


def _plain(error: ValidationError | TypeError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(named(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
    return "its facts are not those of a GPU (keys that are no text?)"


def keep(folder: Path, names: Iterable[str], catalogue: Catalogue) -> None:
    """Writes the types among ``names`` that ``catalogue`` has described into the ``gpus.yaml`` of a store, beside those
    it has.

    Raises:
        DataError: the file is there and cannot be read, or it cannot be written.
    """
    chosen = set(names)
    wanted = {name: _document(gpu, node) for name, (gpu, node) in catalogue.described.items() if name in chosen}
    file = folder / FILE
    old = _read(file) if is_file(file) else {}
    if all(old.get(name) == document for name, document in wanted.items()):
        return
    try:
        write_whole(file, yaml.safe_dump({**old, **wanted}, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise DataError(
            f"{file}: cannot be written ({error.strerror})", "make room, or choose another folder"
        ) from error


def _document(gpu: Gpu, node: Node) -> dict[str, Any]:
    place = node.model_dump(mode="json", include={"gpus", "default_fabric", "gpus_per_host", "host_memory_bytes"})
    return {
        **gpu.model_dump(mode="json", exclude={"name"}, exclude_none=True),
        "node": {name: value for name, value in place.items() if value is not None},
    }


def match(device: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> Gpu | None:
    """The type of a device that describes itself (:meth:`profiles.collect.devices.Device.describe`), or None where
    nobody knows its name.

    Raises:
        InputError: the name is a type's, but its size is not: a slice of a GPU (MIG), or another board; or several
            types bear the name and have this size.
    """
    named = catalogue.candidates(device["name"]) or catalogue.candidates(type_name(device))
    found = [gpu for gpu in named if _is_whole(device, gpu)]
    if len(found) > 1:
        return catalogue.find_gpu(device["name"], "device")  # refuses the name, and says what it may mean
    if named and not found:
        sizes = "; ".join(f"{gpu.name} has {gpu.sm_count} and {gpu.memory_bytes / 2**30:.1f} GiB" for gpu in named)
        raise InputError(
            f"device {device['name']!r} has {device['sm_count']} SMs (CPUs: cores) and "
            f"{device['memory_bytes'] / 2**30:.1f} GiB; {sizes}",
            "a slice of a GPU (MIG) or a restricted CPU is no such device: measure the whole one, or describe it as a "
            "type with another name",
        )
    return found[0] if found else None


def _is_whole(device: Mapping[str, Any], gpu: Gpu) -> bool:
    return bool(device["sm_count"] == gpu.sm_count and abs(device["memory_bytes"] / gpu.memory_bytes - 1) < 0.1)


def type_name(device: Mapping[str, Any]) -> str:
    """What a device that nobody has listed is called: GPUs by their name, CPUs with the cores that may be used, since a
    part of a processor is another device."""
    cores = f"-{device['sm_count']}-cores" if device["kind"] == "cpu" else ""
    return f"{_slug(device['name'])}{cores}"


def measured_type(device: Mapping[str, Any], where: str) -> tuple[Gpu, Node]:
    """The type of a device that :func:`profiles.collect.detection.detect` has looked at, and the node it is in.

    Nothing here tells the network: the slowest of the catalogue's that suits so many devices is assumed.

    Raises:
        DataError: the facts are no valid ones; ``where`` names the file in it.
    """
    name, found = type_name(device), device["measured"]
    fields: dict[str, Any] = {"aliases": [], "full_name": device["name"], "vendor": _vendor(device), "peak_flops": {}}
    if _slug(device["name"]) == name:
        fields["aliases"] = [device["name"]]
    sources = {"vendor": _driver(device), "peak_flops": "each by itself"}
    for field, (value, source) in found.items():
        group, _, precision = field.partition(".")
        if precision:
            fields[group][precision] = value
        else:
            fields[field] = value
        sources[field] = source
    for known in gpus().values():
        if known.compute_capability is not None and known.compute_capability == fields.get("compute_capability"):
            fields["generation"] = known.generation
    count = int(device["count"])
    fitting = [fabric for fabric in fabrics().values() if count % fabric.shared_by_gpus == 0]
    slowest = min(fitting, key=lambda fabric: fabric.bytes_per_s_per_gpu)
    fields |= {"sources": sources, "node": {"gpus": count, "default_fabric": slowest.name}}
    return _described(name, fields, Path(where))


def in_words(gpu: Gpu) -> list[str]:
    """What a measured type was found to be, and what was assumed, a line each."""
    peaks = ", ".join(f"{rate / 1e12:.3g} TFLOP/s {name}" for name, rate in gpu.peak_flops.items())
    launch = "" if gpu.launch_us is None else f", {gpu.launch_us:.3g} µs a launch"
    lines = [f"{gpu.name}: {peaks}, {gpu.memory_bandwidth_bytes_per_s / 1e9:.3g} GB/s{launch}"]
    assumed = [field for field, source in gpu.sources.items() if source.startswith("assumed")]
    if assumed:
        lines.append(f"assumed, since nothing here tells: {', '.join(assumed)}, and the network between such machines")
    return lines


def measured_document(device: Mapping[str, Any]) -> str:
    """:func:`measured_type` as a ``gpus.yaml``: to be read over, corrected, and given back."""
    gpu, node = measured_type(device, "device")
    lines = [
        f"# Facts of {device['name']}, reported, measured or assumed as its sources say. Correct what a data sheet",
        "# knows better, with the source; then give this file with --gpu-facts.",
        f"# default_fabric is assumed: the network between such machines, one of {', '.join(fabrics())}.",
    ]
    text = yaml.safe_dump({gpu.name: _document(gpu, node)}, sort_keys=False, allow_unicode=True, width=1000)
    return "\n".join([*lines, text])


def template(device: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(a ``gpus.yaml`` with what ``device`` says of itself filled in and null elsewhere, the names of the nulls)."""
    facts = device["facts"]
    known = _known(device, facts)
    name = _slug(device["name"])
    fields: dict[str, Any] = {
        "aliases": [device["name"]],
        "full_name": device["name"],
        "vendor": _vendor(device),
        "generation": None,
        "compute_capability": None,
        "peak_flops": {"bf16": None},
    }
    for field, declared in Gpu.model_fields.items():
        if declared.is_required() and field not in {*Fact.model_fields, *fields}:
            fields[field] = None
    fields |= {field: value for field, (value, _) in known.items()}
    if fields["compute_capability"] is None:
        del fields["compute_capability"]
    fields["node"] = {"gpus": None, "default_fabric": None}
    fields["sources"] = {"*": None, **{field: source for field, (_, source) in known.items()}}
    lines = [
        f"# Facts of {device['name']}, as far as its driver reports them. Fill in every null, and under sources where",
        "# the figures are from (a data sheet and its year); then give this file with --gpu-facts.",
        f"# default_fabric is one of: {', '.join(fabrics())}.",
        f"{name}:",
    ]
    for field, value in fields.items():
        text = yaml.safe_dump({field: value}, sort_keys=False, allow_unicode=True, width=1000)
        remark = f"  # {_ASKED[field]}" if field in _ASKED and _nulls({field: value}) else ""
        first, *rest = text.rstrip().splitlines()
        lines += [f"  {first}{remark}", *(f"  {line}" for line in rest)]
    return "\n".join(lines) + "\n", _nulls(fields)


def _known(device: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Field -> (value, source) of what the driver reports."""
    out: dict[str, tuple[Any, str]] = {}
    driver = _driver(device)
    if device["capability"] is not None:
        major, minor = device["capability"]
        out["compute_capability"] = (float(f"{major}.{minor}"), driver)
    out["sm_count"] = (device["sm_count"], driver if device["kind"] == "cuda" else "cores that the process may use")
    out["memory_bytes"] = (device["memory_bytes"], driver)
    if device["l2_bytes"]:
        out["l2_bytes"] = (device["l2_bytes"], driver)
    if "max_sm_clock_mhz" in facts:
        out["boost_clock_mhz"] = (facts["max_sm_clock_mhz"], f"{driver}: highest clock")
    if "default_power_limit_watts" in facts:
        out["tdp_watts"] = (facts["default_power_limit_watts"], f"{driver}: default power limit")
    if "memory_bus_bits" in facts and "max_memory_clock_mhz" in facts:
        rate = facts["memory_bus_bits"] / 8 * facts["max_memory_clock_mhz"] * 1e6 * 2
        out["memory_bandwidth_bytes_per_s"] = (rate, f"{driver}: bus width times highest memory clock, twice a clock")
    if "pcie_generation" in facts and "pcie_lanes" in facts:
        out["pcie_bytes_per_s"] = pcie_fact(facts)
    return out


def _vendor(device: Mapping[str, Any]) -> str:
    return str(device["facts"].get("vendor", "nvidia" if device["kind"] == "cuda" else "other"))


def _driver(device: Mapping[str, Any]) -> str:
    return "reported by the driver" if device["kind"] == "cuda" else "reported by Linux"


def _slug(name: str) -> str:
    for noise in ("(R)", "(TM)", "NVIDIA ", "CPU "):
        name = name.replace(noise, "")
    return "-".join(word for word in "".join(c if c.isalnum() or c == "." else " " for c in name).split() if word)
