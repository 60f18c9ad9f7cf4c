"""What tables call GPUs: with how many there are, or with the machine of a campaign."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from costmodels.operations.layouts import DEGREES
from planner.contract.words import folded, words
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, Catalogue, Gpu
from profiles.values import shown

_COUNTED = tuple(
    re.compile(text, re.ASCII | re.IGNORECASE)
    for text in (
        r"(?P<n>[1-9]\d{0,3})\s*[x\u00d7*]\s*(?P<gpu>.+)",
        r"(?P<n>[1-9]\d{0,1})\s+(?P<gpu>.+)",
        r"(?P<gpu>.+?)\s*[x\u00d7*]\s*(?P<n>[1-9]\d{0,3})",
        r"(?P<gpu>.+?)[\s-]*\(?(?P<n>[1-9]\d{0,3})[\s-]?GPUs?\)?",
        r"(?P<n>[1-9]\d{0,3})[\s-]?GPUs?\s+(?P<gpu>.+)",
        r"(?P<gpu>.+?)\s*:\s*(?P<n>[1-9]\d{0,3})",
        r"(?P<gpu>.+?)\s*\(\s*[x\u00d7]?\s*(?P<n>[1-9]\d{0,3})\s*[x\u00d7]?\s*\)",
    )
)
_BARE = re.compile(r".*[:(]\s*(?P<n>\d+)\s*\)?", re.ASCII)
"""A number that nothing says to be a count (``H100:8``, ``H100 (8)``)."""
_NODES = re.compile(
    r"(?P<nodes>[1-9]\d{0,2})\s*(?:nodes?)?\s*[x\u00d7*(]\s*(?P<each>[1-9].*?)\)?", re.ASCII | re.IGNORECASE
)
_JOINED = re.compile(
    r"[\s,]*\(?\b(?:SXM|NVLink|NVSwitch|PCIe|xGMI|OAM|Infinity Fabric)\b\)?$", re.ASCII | re.IGNORECASE
)
"""Behind a count (``8xH100 (NVLink)``): what joins them, which the GPU's machine says by itself."""


@dataclass(frozen=True)
class NamedGpu:
    """``count``: how many of them the name tells of, None where it does not. ``note`` for the reader."""

    gpu: Gpu
    count: int | None = None
    note: str = ""


def gpu_named(text: str, catalogue: Catalogue) -> NamedGpu:
    """The GPU that ``text`` means: as the catalogue calls it, with a count (``8xH100``, ``H100 x8``, ``8 H100``) or
    with the machine that a campaign ran it on (``b200-nvd``).

    Raises:
        as :meth:`Catalogue.find_gpu`; and InputError where a number may be one of GPUs or of gigabytes.
    """
    told = words().gpus.get(folded(text))
    if told is not None:
        return NamedGpu(catalogue.find_gpu(told.of), note=f"gpu: {told.of} is taken: {told.because}")
    try:
        return NamedGpu(catalogue.find_gpu(text, systems=True), _of_machine(text, catalogue))
    except (UnknownName, InputError):
        if (found := _counted(text.strip(), catalogue)) is not None:
            return found
        if nodes := _NODES.fullmatch(text.strip()):
            found = _counted(nodes["each"], catalogue)
            if found is not None and found.count is not None:
                return replace(found, count=found.count * int(nodes["nodes"]))
        head, *machine = re.split(r"[-_]", text.strip())
        if machine and set(map(str.casefold, machine)) <= set(words().machines):
            found = _known(head, catalogue)
            if found is not None:
                return found
        raise


def _counted(text: str, catalogue: Catalogue) -> NamedGpu | None:
    for pattern in _COUNTED:
        for said in (text, _JOINED.sub("", text)):
            counted = pattern.fullmatch(said)
            if counted and (found := _known(counted["gpu"], catalogue)) is not None:
                if _BARE.fullmatch(said):
                    _check_no_memory(text, found.gpu, int(counted["n"]), catalogue)
                return replace(found, count=int(counted["n"]))
    return None


def _check_no_memory(text: str, gpu: Gpu, number: int, catalogue: Catalogue) -> None:
    """Raises InputError where a number behind a GPU's name may be its gigabytes, or those of one of its kind."""
    kind, _, _ = gpu.name.partition("-")
    alike = [each for each in catalogue.gpus().values() if each.name.partition("-")[0] == kind]
    if any(0.95 <= number / (each.memory_bytes / 2**30) <= 1.1 for each in alike):
        raise InputError(
            f"gpu: {shown(text)} may be {number} GPUs or gigabytes of one",
            f"write {number}x{gpu.name}, or the GPU alone and how many in num_gpus",
        )


def _of_machine(text: str, catalogue: Catalogue) -> int | None:
    """The GPUs of a machine whose name ends in their number, where ``text`` is that name (``MI300X8``)."""
    said = re.sub(r"[^a-z0-9]", "", text.casefold())
    counted = (node for node in catalogue.nodes().values() if node.name.endswith(f"-{node.gpus}"))
    return next((node.gpus for node in counted if said == re.sub(r"[^a-z0-9]", "", node.name)), None)


def gpus_counted(text: str) -> int | None:
    """How many GPUs a name tells of that is understood; None: it does not."""
    try:
        return gpu_named(text, SHIPPED).count
    except (UnknownName, InputError):
        return None


def _known(text: str, catalogue: Catalogue) -> NamedGpu | None:
    told = words().gpus.get(folded(text))
    try:
        return NamedGpu(catalogue.find_gpu(told.of if told else text, systems=True), note=told.because if told else "")
    except (UnknownName, InputError):
        return None


def with_count(record: Mapping[str, str], named: NamedGpu, notes: list[str]) -> dict[str, str]:
    """``record`` whose GPUs are as many as the name of the GPU tells, where nothing else says how many; adds to
    ``notes``. Of an engine with degrees they are the machine's."""
    out = dict(record)
    if named.note:
        notes.append(named.note)
    if named.count is None or out.get("num_gpus"):
        return out
    if any(out.get(name) for name in DEGREES):
        notes.append(f"gpu: {record['gpu']} is taken for the machine, the degrees say how many the engine has")
    else:
        out["num_gpus"] = str(named.count)
    return out
