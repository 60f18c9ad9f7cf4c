"""Reads the kernel timings of the PyPI package ``aiconfigurator-core`` (NVIDIA, Apache-2.0).

Layout: ``systems/data/<system>/<family>/<framework>/<version>/<table>.parquet``. What the columns mean is in
:mod:`profiles.importers.aiconfigurator_tables`.

A few files were copied from another framework or version, and their rows say so in ``framework`` and
``version``. Rows filed under another framework than their own are left out (each is also filed under its
own); the version that we note is the row's own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from packaging.version import InvalidVersion, Version

from profiles.errors import DataError, InputError, UnknownName
from profiles.files import GIB, Source
from profiles.importers import Importer, check_options
from profiles.importers.aiconfigurator_tables import BLOCKS, TABLES, Table, column
from profiles.importers.aiconfigurator_wide import WIDE_TABLES
from profiles.markup import Malformed
from profiles.measured_rows import merge_rows, validate
from profiles.measurements import OPERATIONS
from profiles.tables import read_parquet

PACKAGE = "aiconfigurator-core"
RETRIEVED = "2026-11-21"  # neither the package nor its tables say when each row was measured

SYSTEMS = {
    "a100_sxm": "A100-SXM-80GB",
    "h100_sxm": "H100-SXM",
    "h200_sxm": "H200",
    "b200_sxm": "B200",
    "b300_sxm": "B300",
    "gb200": "GB200",
    "gb300": "GB300",
    "l40s": "L40S",
    "rtx_pro_6000_server": "RTX-PRO-6000",
}


def find_data(source: Path | None) -> Path:
    """The package's ``systems/data`` folder: below ``source``, or where the package is installed.

    Raises:
        InputError: no ``source`` is given and the package is not installed.
        DataError: there is no such folder at ``source``.
    """
    if source is None:
        spec = importlib.util.find_spec("aiconfigurator_core")
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"aiconfigurator: the package {PACKAGE} is not installed",
                "pip install 'shardwright[silicon]', or give the folder of an unpacked wheel with --from",
            )
        source = Path(next(iter(spec.submodule_search_locations)))
    for below in (".", "data", "systems/data", "aiconfigurator_core/systems/data"):
        if any((source / below / system).is_dir() for system in SYSTEMS):
            return source / below
    raise DataError(f"aiconfigurator: no systems/data folder at {source}", "give the folder of the unpacked wheel")


def _source(data: Path) -> str:
    """Who measured, with the package's version where its metadata lie beside it."""
    infos = [
        info
        for folder in list(data.resolve().parents)[:3]
        for info in folder.glob(f"{PACKAGE.replace('-', '_')}-*.dist-info")
    ]
    version = infos[0].name.removesuffix(".dist-info").rpartition("-")[2] if infos else "(version not stated)"
    return f"NVIDIA, {PACKAGE} {version} on PyPI (Apache-2.0)"


def read(source: Path | None, options: dict[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of every table, newest framework version winning where two measured the same question.

    Args:
        source: folder of the package or of its data; None for the installed one.
        options: as ``IMPORTER.options`` says.

    Yields:
        (operation, rows), one pair per system and operation, so that memory stays bounded.

    Raises:
        InputError: an option is unknown, or names what is not there.
        DataError: a table cannot be read.
    """
    check_options("aiconfigurator", options, IMPORTER.options)
    data = find_data(source)
    operations = _wanted(options, "op", OPERATIONS)
    gpus = _wanted(options, "gpu", SYSTEMS.values())
    folders = {path.relative_to(data).parts for path in data.glob("*/*/*/*") if path.is_dir()}
    frameworks = _wanted(options, "framework", {parts[2] for parts in folders})
    versions = _wanted(options, "version", {parts[3] for parts in folders})
    source_text = _source(data)
    for system, gpu in SYSTEMS.items():
        if gpu not in gpus:
            continue
        origin = {"gpu": gpu, "source": source_text, "date": options.get("date", RETRIEVED)}
        for operation in (name for name in OPERATIONS if name in operations):
            parts = [
                _rows(table, path, origin)
                for table in (*TABLES, *WIDE_TABLES)
                if table.operation == operation
                for path in _versions(data / system / table.family, table)
                if path.parts[-3] in frameworks and path.parts[-2] in versions
            ]
            if any(len(part) for part in parts):
                yield operation, merge_rows(OPERATIONS[operation], _newest_blocks(operation, parts))


def _newest_blocks(operation: str, oldest_first: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """``oldest_first`` without the rows whose block a newer table of the same framework has."""
    columns = ["framework", "dtype", *BLOCKS[operation]]
    kept: list[pd.DataFrame] = []
    seen: pd.MultiIndex | None = None
    for table in reversed([table for table in oldest_first if len(table)]):
        blocks = pd.MultiIndex.from_frame(table[columns])
        kept.append(table if seen is None else table[~blocks.isin(seen)])
        seen = blocks.unique() if seen is None else seen.append(blocks.unique()).unique()
    return kept[::-1]


def _wanted(options: dict[str, str], option: str, known: Collection[str]) -> set[str]:
    if option not in options:
        return set(known)
    wanted = {name.strip() for name in options[option].split(",")}
    for name in sorted(wanted - set(known)):
        raise UnknownName(f"aiconfigurator option {option}", name, known)
    return wanted


def _versions(folder: Path, table: Table) -> list[Path]:
    """The table's files in all frameworks and versions, oldest version first."""

    def age(path: Path) -> tuple[str, Version]:
        try:
            return path.parts[-3], Version(path.parts[-2])
        except InvalidVersion:
            return path.parts[-3], Version("0")

    return sorted(folder.glob(f"{table.frameworks}/*/{table.file}.parquet"), key=age)


def _rows(table: Table, path: Path, origin: dict[str, str]) -> pd.DataFrame:
    """The rows of one file, the most ordinary kernel's last. ``origin``: columns equal in all rows."""
    framework, version = path.parts[-3], path.parts[-2]
    unchanged = f"give an unchanged copy of {PACKAGE} 0.12.0"
    try:
        raw = read_parquet(Source(path, "aiconfigurator:", unchanged, GIB, DataError))
        if framework != "nccl":  # whose tables name the framework that called it
            raw = raw[column(raw, "framework", framework).astype("str").str.lower() == framework]
        raw = table.prepare(raw)
        rows = table.translate(raw)
        rows = rows[rows["dtype"].notna()]
        raw = raw.loc[rows.index]
        rows = rows.assign(
            num_gpus=rows.get("num_gpus", 1),
            latency_us=raw["latency"] * 1e3,
            power_watts=column(raw, "power", np.nan),
            kernel=raw["kernel_source"].astype("str"),
            framework=framework,
            framework_version=column(raw, "version", version).astype("str"),
            **origin,
        )
    except Malformed as error:
        raise DataError(f"aiconfigurator: {path}: {error}", unchanged) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"aiconfigurator: {path}: is not the table that it should be",
            unchanged,
        ) from error
    valid = validate(OPERATIONS[table.operation], rows, where=str(path))
    # Some files hold one question measured with several kernels. The kernel with most rows of a precision is
    # the framework's ordinary path; the others only fill in what it lacks. (Later rows win in merge_rows.)
    commonness = valid.groupby(["dtype", "kernel"])["latency_us"].transform("size")
    return valid.iloc[np.argsort(commonness.to_numpy(), kind="stable")]


IMPORTER = Importer(
    "aiconfigurator",
    "kernel timings of the PyPI package aiconfigurator-core 0.12.0",
    read,
    {
        "gpu": "only these GPU types, comma-separated",
        "framework": "only these frameworks: vllm, sglang, trtllm, nccl",
        "version": "only these version folders, comma-separated",
        "op": "only these operations, comma-separated",
        "date": f"ISO date to record (default {RETRIEVED}, when 0.12.0 was retrieved)",
    },
)
