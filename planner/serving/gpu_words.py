"""What tables call GPUs: with how many there are, or with the machine of a campaign."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from costmodels.operations.layouts import DEGREES
from planner.contract.words import folded, words
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, Catalogue, Gpu

_COUNTED = tuple(
    re.compile(text, re.ASCII | re.IGNORECASE)
    for text in (
        r"(?P<n>[1-9]\d{0,3})\s*[x\u00d7*]\s*(?P<gpu>.+)",
        r"(?P<n>[1-9]\d{0,1})\s+(?P<gpu>.+)",
        r"(?P<gpu>.+?)\s*[x\u00d7*]\s*(?P<n>[1-9]\d{0,3})",
        r"(?P<gpu>.+?)[\s-]*\(?(?P<n>[1-9]\d{0,3})[\s-]?GPUs?\)?",
    )
)


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
        as :meth:`Catalogue.find_gpu`.
    """
    told = words().gpus.get(folded(text))
    if told is not None:
        return NamedGpu(catalogue.find_gpu(told.of), note=f"gpu: {told.of} is taken: {told.because}")
    try:
        return NamedGpu(catalogue.find_gpu(text, systems=True))
    except (UnknownName, InputError):
        for pattern in _COUNTED:
            counted = pattern.fullmatch(text.strip())
            if counted and (found := _known(counted["gpu"], catalogue)) is not None:
                return NamedGpu(found.gpu, int(counted["n"]), found.note)
        head, *machine = re.split(r"[-_]", text.strip())
        if machine and set(map(str.casefold, machine)) <= set(words().machines):
            found = _known(head, catalogue)
            if found is not None:
                return found
        raise


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
