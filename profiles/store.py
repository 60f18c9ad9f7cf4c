"""ProfileStore: a folder of measurement rows, one Parquet file per operation and a manifest.

Files are replaced whole (written beside, then renamed), so a store stays readable when its writer is killed:
an operation then has all of its old rows or all of its new ones. One writer at a time, any number of readers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from profiles.columns import Columns, Texts, joined, texts
from profiles.errors import DataError, InputError, UnknownName
from profiles.files import GIB, MIB, Source, is_file
from profiles.manifest import MANIFEST, Manifest, hash_of, write_manifest
from profiles.markup import read_json
from profiles.measurements import FORMAT_VERSION, OPERATIONS, Operation, columns_of, find_operation
from profiles.values import named, shown
from profiles.whole_files import whole_file

if TYPE_CHECKING:
    import pandas as pd  # deferred with all that needs it: predictions read :meth:`ProfileStore.columns`

_LARGEST_MANIFEST, _LARGEST_FILE = MIB, 64 * GIB  # bytes
_NAME, _SHA256 = re.compile(r"[a-z0-9_]{1,64}"), re.compile(r"[0-9a-f]{64}")
_PARTITION = ["framework", "gpu"]  # rows are sorted by these, so that a query reads few row groups


class ProfileStore:
    """Measured rows on disk.

    Args:
        path: the store's folder. It must exist; use :meth:`create` for a new one.
        trusted: the store is ours (the shipped pack): its files are not compared with the manifest, nor its rows
            looked at, before they answer.

    Raises:
        DataError: the folder is no store, is corrupt, was changed by hand, or was written by a newer version.
    """

    def __init__(self, path: Path | str, *, trusted: bool = False) -> None:
        self.path = Path(path)
        self._distinct: dict[tuple[str, str, str], list[str]] = {}
        self.manifest = self._read_manifest()
        if not trusted:
            self.verify()

    @classmethod
    def create(cls, path: Path | str, *, name: str, version: str, attribution: str) -> ProfileStore:
        """A new, empty store at ``path`` (parents are made). An existing store is refused, never overwritten.

        Raises:
            InputError: there is a store at ``path``, or no folder can be made there.
        """
        folder = Path(path)
        if (folder / MANIFEST).exists():
            raise InputError(f"store: {named(folder)} already holds a store", "open it, or choose another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_manifest(folder, Manifest(name, version, attribution, {}))
        except OSError as error:
            raise InputError(
                f"store: {named(folder)} cannot be made ({error})", "choose a folder that you may write to"
            ) from error
        return cls(folder)

    def _read_manifest(self) -> Manifest:
        hint = "restore the file from its source, or rebuild the store"
        source = Source(self.path / MANIFEST, "store", hint, _LARGEST_MANIFEST, DataError)
        if not is_file(source.path):
            raise DataError(f"store {named(self.path)}: no {MANIFEST} there", "give the folder of a profile store")
        document = read_json(source)
        version = document.get("format_version") if isinstance(document, dict) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise self._broken(MANIFEST, "holds no format_version")
        if version > FORMAT_VERSION:
            raise DataError(
                f"store {named(self.path)}: format_version {version} is newer than this program's {FORMAT_VERSION}",
                "upgrade shardwright",
            )
        for name, kind in (("name", str), ("version", str), ("attribution", str), ("hashes", dict)):
            if not isinstance(document.get(name), kind):
                raise self._broken(MANIFEST, f"holds no {name}")
        pending = document.get("pending") or {}
        for hashes in (document["hashes"], pending):
            if not isinstance(hashes, dict):
                raise self._broken(MANIFEST, "holds no pending")
            for operation, value in hashes.items():
                if not (_NAME.fullmatch(operation) and isinstance(value, str) and _SHA256.fullmatch(value)):
                    raise self._broken(MANIFEST, f"holds no hash of {shown(operation)}")
        manifest = Manifest(document["name"], document["version"], document["attribution"], dict(document["hashes"]))
        return self._settle(manifest, pending)

    def _settle(self, manifest: Manifest, pending: Mapping[str, str]) -> Manifest:
        """After a killed writer: its file counts if it got as far as putting it in place."""
        arrived = {}
        for operation, expected in pending.items():
            file = self._file(operation)
            if file.is_file() and hash_of(file) == expected:
                arrived[operation] = expected
        return replace(manifest, hashes={**manifest.hashes, **arrived})

    def _broken(self, file: str, what: str) -> DataError:
        return DataError(
            f"store {named(self.path)}: {file} {what}", "restore the file from its source, or rebuild the store"
        )

    @property
    def content_hash(self) -> str:
        """One hash over its rows and what else it teaches, a calibration or the response to clocks: same hash, same
        predictions."""
        beside = sorted(file for file in self.path.glob("*.json") if file.name != MANIFEST)
        rows = self.manifest.content_hash
        if not beside:
            return rows
        return hashlib.sha256(
            "".join([rows, *(f"{file.name}:{hash_of(file)};" for file in beside)]).encode()
        ).hexdigest()

    def operations(self) -> list[str]:
        """Names of the operations that have rows, in the order of the schema."""
        return [name for name in OPERATIONS if name in self.manifest.hashes]

    def _source(self, operation: str) -> Source:
        hint = "restore the file from its source, or rebuild the store"
        return Source(self._file(operation), "store", hint, _LARGEST_FILE, DataError)

    def _file(self, operation: str) -> Path:
        return self.path / f"{operation}.parquet"

    def _read(
        self,
        operation: str,
        columns: list[str],
        only: Mapping[str, Sequence[str]] = MappingProxyType({}),
        dictionary: Sequence[str] = (),
    ) -> pa.Table:
        """Rows whose text columns have one of the values in ``only``; ``dictionary`` columns as codes."""
        import pyarrow.compute as pc

        parts = []
        for part in self._row_groups(operation, columns, only, dictionary):
            for name, values in only.items():
                part = part.filter(pc.is_in(part[name], value_set=pa.array(values, pa.string())))
            parts.append(part.select(columns))
        if not parts:
            with self._source(operation).opened() as stream:
                parts = [pq.read_schema(stream).empty_table().select(columns)]
        table = pa.concat_tables(parts).unify_dictionaries()
        pa.default_memory_pool().release_unused()
        return table

    def _row_groups(
        self, operation: str, columns: list[str], only: Mapping[str, Sequence[str]], dictionary: Sequence[str]
    ) -> Iterator[pa.Table]:
        """Groups of rows of which some may have one of the values in ``only``; with the columns of ``only``, too.

        Rows are sorted by framework and GPU, so the statistics of most groups rule them out unread: half the time and
        memory of a filtered dataset scan.
        """
        with self._parquet(operation, dictionary) as file:
            needed = [*columns, *(name for name in only if name not in columns)]
            position = {name: i for i, name in enumerate(file.schema_arrow.names)}
            for group in range(file.metadata.num_row_groups):
                facts = file.metadata.row_group(group)
                ranges = {name: facts.column(position[name]).statistics for name in only}
                if all(_may_hold(ranges[name], values) for name, values in only.items()):
                    yield file.read_row_group(group, columns=needed, use_threads=False).select(needed)

    @contextmanager
    def _parquet(self, operation: str, dictionary: Sequence[str]) -> Iterator[pq.ParquetFile]:
        """The file of ``operation``, ``dictionary`` columns as codes; what is wrong with it in our words."""
        try:
            with (
                self._source(operation).opened() as stream,
                pq.ParquetFile(stream, read_dictionary=list(dictionary)) as file,
            ):
                yield file
        except KeyError as error:
            raise self._broken(f"{operation}.parquet", f"cannot be read (no column {error})") from error
        except (OSError, pa.ArrowException) as error:
            raise self._broken(f"{operation}.parquet", "cannot be read (it is no whole Parquet file)") from error

    def columns(
        self, operation: str, names: Sequence[str], *, gpu: str | None = None, framework: str | None = None
    ) -> Columns:
        """Columns of ``operation`` as arrays, optionally of the rows of one GPU type and framework; none may be
        optional.

        Raises:
            UnknownName, DataError: as :meth:`query`.
        """
        wanted = list(dict.fromkeys(names))
        only = {name: [value] for name, value in (("gpu", gpu), ("framework", framework)) if value is not None}
        kinds = {column.name: column.kind for column in columns_of(find_operation(operation))}
        self._check_names(operation, wanted)
        types = {"int": np.int64, "float": np.float64}
        parts: list[Columns] = [
            {name: Texts.of(()) if kinds[name] == "str" else np.zeros(0, types[kinds[name]]) for name in wanted}
        ]
        if operation in self.manifest.hashes:
            text = [name for name, kind in kinds.items() if kind == "str" and name in {*wanted, *only}]
            for group in self._row_groups(operation, wanted, only, text):
                part = {name: _array(group[name]) for name in group.column_names}
                keep = np.ones(group.num_rows, dtype=bool)
                for name, values in only.items():
                    keep &= texts(part, name).isin(values)
                parts.append({name: part[name][keep] for name in wanted})
            pa.default_memory_pool().release_unused()
        return joined(parts)

    def _check_names(self, operation: str, names: Sequence[str]) -> None:
        known = [column.name for column in columns_of(find_operation(operation))]
        for name in names:
            if name not in known:
                raise UnknownName(f"column of {operation}", name, known)

    def query(
        self,
        operation: str,
        *,
        gpu: str | None = None,
        framework: str | Iterable[str] | None = None,
        columns: list[str] | None = None,
        categories: bool = False,
    ) -> pd.DataFrame:
        """Rows of ``operation``, optionally of one GPU type and some frameworks; empty where there are none.

        With ``categories``, text columns come as pandas categories, which takes a fraction of the memory.

        Raises:
            UnknownName: unknown operation, or unknown column.
            DataError: the file is missing, unreadable, or lacks a column.
        """
        known = find_operation(operation)
        self._check_names(operation, columns or ())
        wanted = [column.name for column in columns_of(known)] if columns is None else columns
        only: dict[str, list[str]] = {}
        if gpu is not None:
            only["gpu"] = [gpu]
        if framework is not None:
            only["framework"] = [framework] if isinstance(framework, str) else list(framework)
        from profiles.measured_rows import empty_rows, typed

        if operation not in self.manifest.hashes:
            return empty_rows(known)[wanted]
        text = [c.name for c in columns_of(known) if c.kind == "str" and c.name in wanted] if categories else []
        found = self._read(operation, wanted, only, text)
        rows: pd.DataFrame = found.replace_schema_metadata(None).to_pandas()  # which may be damaged
        return typed(known, rows)

    def values(self, operation: str, column: str) -> list[str]:
        """The distinct values of a text column of ``operation``, sorted; read without loading the rows, and once for
        each file."""
        find_operation(operation)
        if operation not in self.manifest.hashes:
            return []
        key = (operation, column, self.manifest.hashes[operation])
        if key not in self._distinct:
            self._check_names(operation, [column])
            with self._parquet(operation, [column]) as file:
                read = file.read([column], use_threads=False)[column]
            self._distinct[key] = sorted(set().union(*(chunk.dictionary.to_pylist() for chunk in read.chunks)))
        return list(self._distinct[key])

    def verify(self) -> None:
        """Checks every file against the hash in the manifest, as both now lie on the disk, and the rows against what
        a row can be (:func:`profiles.measured_rows.validate`). A file that was checked is not checked again in this
        process until it changes.

        Raises:
            DataError: naming the first file that differs, or the first row.
        """
        while differs := self._first_that_differs():
            before, self.manifest = self.manifest, self._read_manifest()
            if self.manifest == before:  # else a writer put a new file in place since the manifest was read
                raise self._broken(f"{differs}.parquet", f"is not the file that {MANIFEST} describes")
        for operation in self.operations():
            file = self._file(operation)
            _check_rows(operation, file, _stamp(file))

    def _first_that_differs(self) -> str | None:
        for operation, expected in self.manifest.hashes.items():
            with self._source(operation).opened():  # it is there, and a regular file
                pass
            file = self._file(operation)
            if _hash_of(file, _stamp(file)) != expected:
                return operation
        return None

    def add(self, operation: str, rows: pd.DataFrame, where: str = "rows") -> int:
        """Validates ``rows`` and merges them in; returns how many rows the operation then has.

        Where an old and a new row have the same key, the new one wins. Nothing is written when a row is
        refused, or when there are no rows.

        Raises:
            UnknownName: unknown operation.
            DataError: a row is refused, or the store cannot be read or written.
        """
        from profiles.measured_rows import merge_rows, validate

        known = find_operation(operation)
        fresh = validate(known, rows, where)
        self.manifest = self._read_manifest()  # another process may have written since
        old = self.query(operation)
        if not len(fresh):
            return len(old)
        merged = merge_rows(known, [old, fresh])
        self._write(known, merged)
        return len(merged)

    def merge(self, other: ProfileStore) -> None:
        """Adds all rows of ``other``, and its attribution; where both have a key, ``other`` wins.

        Raises:
            DataError: one of the stores cannot be read, or this one not written. Operations before the one
                that failed are merged already; merging again does no harm.
        """
        for operation in other.operations():
            self.add(operation, other.query(operation), where=f"store {other.path}")
        mine, theirs = self.manifest.attribution, other.manifest.attribution
        if theirs not in mine:
            self.manifest = replace(self.manifest, attribution=f"{mine} {theirs}".strip())
            write_manifest(self.path, self.manifest)

    def _write(self, operation: Operation, rows: pd.DataFrame) -> None:
        text = [column.name for column in columns_of(operation) if column.kind == "str"]
        order = [*_PARTITION, "dtype", *(c.name for c in operation.shape if c.kind == "str")]
        order += [name for name in reversed(operation.shape_names) if name not in order]
        rows = rows.sort_values(order, kind="stable", ignore_index=True)
        target = self._file(operation.name)
        try:
            with whole_file(target) as beside:
                pq.write_table(
                    pa.Table.from_pandas(rows, preserve_index=False),
                    beside,
                    compression="zstd",
                    compression_level=15,
                    use_dictionary=[*text, *(n for n in operation.shape_names if n not in text)],
                    row_group_size=32_768,
                )
                # The manifest names the new file before it is in place: a reader that finds it there trusts it.
                written = hash_of(beside)
                write_manifest(self.path, replace(self.manifest, pending={operation.name: written}))
            self.manifest = replace(self.manifest, hashes={**self.manifest.hashes, operation.name: written})
            write_manifest(self.path, self.manifest)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"store {named(self.path)}: {target.name} cannot be written ({error})",
                "nothing is lost; free disk space, or choose a folder that you may write to",
            ) from error

    def summary(self, operation: str | None = None) -> pd.DataFrame:
        """Row counts: columns ``operation``, ``gpu``, ``framework``, ``dtype``, ``rows``, sorted by these.

        With ``operation``, only of that one.
        """
        import pandas as pd

        by = ["gpu", "framework", "dtype"]
        only = None if operation is None else find_operation(operation).name
        parts = []
        for name in self.operations():
            if only in (None, name):
                table = self._read(name, by, dictionary=by)
                counted = table.group_by(by).aggregate([([], "count_all")]).to_pandas()
                counted = counted.astype(dict.fromkeys(by, "str")).rename(columns={"count_all": "rows"})
                parts.append(counted.sort_values(by).assign(operation=name))
        columns = ["operation", *by, "rows"]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def shipped_pack() -> ProfileStore:
    """The measurements that come with the package.

    Raises:
        DataError: the installation is broken.
    """
    return ProfileStore(Path(str(files("profiles") / "packs" / "silicon")), trusted=True)


def _array(column: pa.ChunkedArray) -> Texts | NDArray[Any]:
    """A column without nulls. (DLPack, since ``to_numpy`` imports pandas.)"""
    if pa.types.is_dictionary(column.type):
        parts: list[Columns] = [{"": Texts.of(())}]
        for chunk in column.chunks:
            codes = np.from_dlpack(chunk.indices).astype(np.int64)
            parts.append({"": Texts(codes, tuple(chunk.dictionary.to_pylist()))})
        return joined(parts)[""]
    return np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks] or [np.zeros(0)])


def _may_hold(statistics: pq.Statistics | None, values: Sequence[str]) -> bool:
    """Whether a row group's column may hold one of ``values``, as far as its statistics tell."""
    if statistics is None or not statistics.has_min_max:
        return True
    return any(statistics.min <= value <= statistics.max for value in values)


Stamp = tuple[int, int, int]


def _stamp(file: Path) -> Stamp:
    """Changes when a file is replaced or written to."""
    facts = file.stat()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


@lru_cache(maxsize=256)
def _hash_of(file: Path, stamp: Stamp) -> str:
    return hash_of(file)


@lru_cache(maxsize=256)
def _check_rows(operation: str, file: Path, stamp: Stamp) -> None:
    """Raises DataError where a row of ``file``, whose hash is right, is none that could have been written."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype, is_string_dtype

    from profiles.measured_rows import validate
    from profiles.tables import read_parquet

    source = Source(file, "store", "rebuild the store", _LARGEST_FILE, DataError)
    rows, known = read_parquet(source), find_operation(operation)
    validate(known, rows, source.where)  # which is lenient with types that importers bring
    for column in columns_of(known):
        values = rows[column.name].dropna() if column.name in rows else pd.Series()
        right = is_string_dtype if column.kind == "str" else is_numeric_dtype
        if len(values) and not right(values):
            raise source.wrong(f"column {column.name!r} holds no {'text' if column.kind == 'str' else 'numbers'}")
