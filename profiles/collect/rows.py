"""From the journal to the profile store. The only part of the harness that needs pandas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from profiles import descriptions
from profiles.collect.journal import Entry, Header, Journal
from profiles.errors import DataError, InputError
from profiles.hardware import SHIPPED, Catalogue
from profiles.manifest import MANIFEST
from profiles.measured_rows import validate
from profiles.measurements import find_operation
from profiles.store import ProfileStore
from profiles.values import shown


def rows_of(entries: Sequence[Entry], where: str, catalogue: Catalogue = SHIPPED) -> dict[str, pd.DataFrame]:
    """Validated rows of the measured outcomes by operation, of devices that ``catalogue`` knows; skipped and failed
    outcomes have no rows.

    Raises:
        InputError: a device is of no type that the catalogue knows.
        DataError: an outcome makes no valid row.
    """
    names: dict[str, str] = {}
    records: dict[str, list[dict[str, object]]] = {}
    for entry in entries:
        if entry.outcome.timing is not None:
            device = str(entry.header.device)
            if device not in names:
                names[device] = _gpu_name(entry.header, where, catalogue)
            records.setdefault(entry.outcome.point.operation, []).append(_record(entry, names[device]))
    return {name: validate(find_operation(name), pd.DataFrame(found), where) for name, found in records.items()}


def _gpu_name(header: Header, where: str, catalogue: Catalogue) -> str:
    try:
        gpu = descriptions.match(header.device, catalogue)
        missing = descriptions.template(header.device)[1] if gpu is None else []
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise DataError(
            f"{where}: device: {shown(header.device.get('name'))} is not described as a run describes its device",
            "measure again, or remove the lines of that run",
        ) from error
    if gpu is None:
        raise InputError(
            f"{where}: {shown(header.device['name'])} is not in the catalogue; what it lacks is {', '.join(missing)}",
            "give these facts in a file: --gpu-facts FILE when collecting, --option gpu_facts=FILE when importing",
        )
    return gpu.name


def _record(entry: Entry, gpu: str) -> dict[str, object]:
    header, outcome, timing = entry.header, entry.outcome, entry.outcome.timing
    assert timing is not None
    return {
        "gpu": gpu,
        "num_gpus": outcome.point.num_gpus,
        "dtype": outcome.point.dtype,
        **outcome.point.shape,
        "latency_us": timing.median_us,
        "latency_p10_us": timing.p10_us,
        "latency_p90_us": timing.p90_us,
        "repeats": timing.repeats,
        "power_watts": outcome.power_watts,
        "clock_mhz": outcome.clock_mhz,
        "kernel": outcome.kernel,
        "framework": outcome.framework,
        "framework_version": outcome.framework_version,
        "driver": header.versions.get("driver"),
        "torch_version": header.versions.get("torch"),
        "cuda_version": header.versions.get("cuda"),
        "source": header.source,
        "date": header.date,
    }


def open_store(folder: Path) -> ProfileStore:
    """The store in ``folder``, made where there is none.

    Raises:
        InputError: the folder cannot be written.
        DataError: the store is broken, or of a newer version.
    """
    if (folder / MANIFEST).exists():
        return ProfileStore(folder)
    return ProfileStore.create(
        folder,
        name=folder.resolve().name,
        version="1",
        attribution="Measured with `plan profile collect`; each row names its source.",
    )


def folder_of(journal: Journal, store: ProfileStore, catalogue: Catalogue = SHIPPED) -> Callable[[], None]:
    """A call that takes over into ``store`` what the journal gained since the last one (at first: all)."""
    done = 0

    def fold() -> None:
        nonlocal done
        entries = journal.entries[done:]
        for operation, rows in rows_of(entries, f"journal {journal.path}", catalogue).items():
            store.add(operation, rows, where=f"journal {journal.path}")
        done += len(entries)

    return fold
