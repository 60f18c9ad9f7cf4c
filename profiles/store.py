"""ProfileStore: a folder of measurement rows, one Parquet file per operation and a manifest.

Files are replaced whole (written beside, then renamed), so a store is readable whenever a writer is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from profiles.errors import DataError, InputError
from profiles.measurements import FORMAT_VERSION, OPERATIONS, Operation, columns_of, find_operation, merge_rows, validate

MANIFEST = "manifest.json"
_PARTITION = ["framework", "gpu"]  # rows are sorted by these, so that a query reads few row groups


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself. ``hashes`` holds the SHA-256 of each operation's file."""

    name: str
    version: str
    attribution: str
    hashes: Mapping[str, str]

    @property
    def content_hash(self) -> str:
        """One hash over all rows: same hash, same predictions."""
        digest = hashlib.sha256()
        for operation in sorted(self.hashes):
            digest.update(f"{operation}:{self.hashes[operation]};".encode())
        return digest.hexdigest()


class ProfileStore:
    """Measured rows on disk.

    Args:
        path: the store's folder. It must exist; use :meth:`create` for a new one.

    Raises:
        DataError: the folder is no store, is corrupt, or was written by a newer version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = self._read_manifest()

    @classmethod
    def create(cls, path: Path | str, *, name: str, version: str, attribution: str) -> ProfileStore:
        """A new, empty store at ``path`` (parents are made). An existing store is refused, never overwritten."""
        folder = Path(path)
        if (folder / MANIFEST).exists():
            raise InputError(f"store: {folder} already holds a store", "open it, or choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        _write_manifest(folder, Manifest(name, version, attribution, {}))
        return cls(folder)

    def _read_manifest(self) -> Manifest:
        file = self.path / MANIFEST
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            format_version = int(document["format_version"])
            if format_version > FORMAT_VERSION:
                raise DataError(
                    f"store {self.path}: format_version {format_version} is newer than this program's {FORMAT_VERSION}",
                    "upgrade shardwright",
                )
            return Manifest(
                document["name"], document["version"], document["attribution"], dict(document["hashes"])
            )
        except FileNotFoundError as error:
            raise DataError(
                f"store {self.path}: no {MANIFEST} there", "give the folder of a profile store"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"store {self.path}: {MANIFEST} cannot be read ({error})", "restore the folder from its source"
            ) from error

    def operations(self) -> list[str]:
        """Names of the operations that have rows, in the order of the schema."""
        return [name for name in OPERATIONS if name in self.manifest.hashes]

    def _file(self, operation: str) -> Path:
        return self.path / f"{operation}.parquet"

    def query(
        self,
        operation: str,
        *,
        gpu: str | None = None,
        framework: str | Iterable[str] | None = None,
        columns: list[str] | None = None,
    ) -> pd.DataFrame:
        """Rows of ``operation``, optionally of one GPU type and some frameworks; empty where there are none.

        Raises:
            InputError: unknown operation.
            DataError: the file is missing, unreadable, or is not the one that the manifest describes.
        """
        known = find_operation(operation)
        if operation not in self.manifest.hashes:
            return _empty(known, columns)
        conditions: list[tuple[str, str, object]] = []
        if gpu is not None:
            conditions.append(("gpu", "==", gpu))
        if framework is not None:
            wanted = [framework] if isinstance(framework, str) else list(framework)
            conditions.append(("framework", "in", wanted))
        try:
            table = pq.read_table(self._file(operation), columns=columns, filters=conditions or None)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise DataError(
                f"store {self.path}: {operation}.parquet cannot be read ({error})",
                "restore the file from its source, or rebuild the pack",
            ) from error
        return table.to_pandas(strings_to_categorical=False)

    def verify(self) -> None:
        """Checks every file against the hash in the manifest.

        Raises:
            DataError: naming the first file that differs.
        """
        for operation, expected in self.manifest.hashes.items():
            try:
                actual = _hash(self._file(operation))
            except OSError as error:
                raise DataError(
                    f"store {self.path}: {operation}.parquet cannot be read ({error})", "restore the file"
                ) from error
            if actual != expected:
                raise DataError(
                    f"store {self.path}: {operation}.parquet is not the file that {MANIFEST} describes",
                    "restore the file from its source, or rebuild the pack",
                )

    def add(self, operation: str, rows: pd.DataFrame, where: str = "rows") -> int:
        """Validates ``rows`` and merges them in (same key: the new row wins). Returns the operation's row count.

        Nothing is written when a row is refused.
        """
        known = find_operation(operation)
        fresh = validate(known, rows, where)
        merged = merge_rows(known, [self.query(operation), fresh]) if len(fresh) else self.query(operation)
        self._write(known, merged)
        return len(merged)

    def merge(self, other: ProfileStore) -> None:
        """Adds all rows of ``other``; where both have a key, ``other`` wins."""
        for operation in other.operations():
            self.add(operation, other.query(operation), where=f"store {other.path}")

    def _write(self, operation: Operation, rows: pd.DataFrame) -> None:
        names = [column.name for column in columns_of(operation)]
        order = [*_PARTITION, "dtype", *(c.name for c in operation.shape if c.kind == "str")]
        order += [name for name in reversed(operation.shape_names) if name not in order]
        rows = rows[names].sort_values(order, kind="stable", ignore_index=True)
        target = self._file(operation.name)
        temporary = target.with_suffix(".tmp")
        text = [column.name for column in columns_of(operation) if column.kind == "str"]
        pq.write_table(
            pa.Table.from_pandas(rows, preserve_index=False),
            temporary,
            compression="zstd",
            compression_level=15,
            use_dictionary=[*text, *(n for n in operation.shape_names if n not in text)],
            row_group_size=32_768,
        )
        os.replace(temporary, target)
        hashes = {**self.manifest.hashes, operation.name: _hash(target)}
        self.manifest = Manifest(
            self.manifest.name, self.manifest.version, self.manifest.attribution, hashes
        )
        _write_manifest(self.path, self.manifest)

    def summary(self) -> pd.DataFrame:
        """Row counts by operation, GPU, framework and dtype."""
        parts = []
        for operation in self.operations():
            rows = self.query(operation, columns=["gpu", "framework", "framework_version", "dtype"])
            counts = rows.groupby(["gpu", "framework", "dtype"], observed=True).size().rename("rows").reset_index()
            parts.append(counts.assign(operation=operation))
        columns = ["operation", "gpu", "framework", "dtype", "rows"]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def shipped_pack() -> ProfileStore:
    """The measurements that come with the package.

    Raises:
        DataError: the installation is broken.
    """
    return ProfileStore(Path(str(files("profiles") / "packs" / "silicon")))


def _empty(operation: Operation, columns: list[str] | None) -> pd.DataFrame:
    kinds = {"int": "int64", "float": "float64", "str": "str"}
    series = {c.name: pd.Series(dtype=kinds[c.kind]) for c in columns_of(operation)}
    frame = pd.DataFrame(series)
    return frame[columns] if columns is not None else frame


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    document = {
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "version": manifest.version,
        "attribution": manifest.attribution,
        "hashes": dict(sorted(manifest.hashes.items())),
    }
    temporary = folder / (MANIFEST + ".tmp")
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / MANIFEST)
