"""Uploads on this machine's disk: read and checked when they come, laid out for workers when a job names them."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.storage.uploads import Upload, Uploads
from costmodels.kernels.on_disk import cache_folder
from profiles.errors import DataError, InputError, UnknownName
from profiles.files import Source
from profiles.measurements import OPERATIONS
from profiles.values import shown
from profiles.whole_files import whole_folder

if TYPE_CHECKING:
    import pandas as pd

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PARQUET = b"PAR1"
GROWTH = 10
"""An upload may unpack to so many times the limit."""


@dataclass(frozen=True)
class Checked:
    """An upload that was read: what is stored, and what it is."""

    content: bytes
    about: Mapping[str, Any]


def check_name(name: str) -> str:
    """Raises InputError unless ``name`` is one."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"name: {shown(name)} is no name", "give up to 64 letters, digits, dots, - and _", field="name"
        )
    return name


def checked_profile(body: bytes, name: str, operation: str | None, most: int) -> Checked:
    """Measurement rows, as a profile store in a zip archive.

    Args:
        body: a Parquet file, or a CSV with a header.
        operation: whose rows they are; None: the column ``op`` says.
        most: bytes that they may unpack to.

    Raises:
        InputError: they cannot be read; a row is not one of its operation, or of a GPU that nobody knows.
    """
    from profiles.hardware import SHIPPED
    from profiles.store import ProfileStore

    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(body, Path(folder), most)
        if operation is None and "op" not in rows.columns:
            raise InputError("operation: is not said", "give ?operation=gemm, or a column op", field="operation")
        if not len(rows):
            raise InputError("body: holds no rows", "send a header and at least one row")
        parts = {operation: rows} if operation else {str(op): part for op, part in rows.groupby("op")}
        store = ProfileStore.create(Path(folder) / "store", name=name, version="1", attribution="uploaded")
        counts: dict[str, int] = {}
        try:
            for each, part in parts.items():
                if each not in OPERATIONS:
                    raise UnknownName("operation", each, OPERATIONS)
                for gpu in part["gpu"].unique() if "gpu" in part.columns else ():
                    SHIPPED.find_gpu(str(gpu))
                said = part.drop(columns="op", errors="ignore").replace("", None)
                counts[each] = store.add(each, said, f"rows of {each}")
        except DataError as error:
            raise InputError(error.message.replace(folder, ""), error.hint, **error.details) from error
        gpus = sorted({str(gpu) for each in counts for gpu in store.values(each, "gpu")})
        return Checked(_packed(Path(folder) / "store"), {"rows": counts, "gpus": gpus})


def checked_trace(body: bytes, name: str) -> Checked:
    """Recorded requests. Raises InputError as the reader of traces does."""
    from planner.contract.workload.traces import recorded

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / (f"{name}.jsonl" if body.lstrip()[:1] == b"{" else f"{name}.csv")
        file.write_bytes(body)
        try:
            found = recorded(file)
        except InputError as error:
            raise InputError(error.message.replace(str(file), name), error.hint) from error
    seconds = float(found.seconds[-1]) if len(found.seconds) else 0.0
    return Checked(body, {"requests": len(found.isl), "seconds": seconds})


def _rows(body: bytes, folder: Path, most: int) -> pd.DataFrame:
    from profiles.tables import read_parquet, read_table

    hint = "send a Parquet file, or a CSV with a header, as `plan profile show` prints rows"
    if not body:
        raise InputError("body: is empty", hint)
    if body[:4] != _PARQUET:
        file = folder / "rows.csv"
        file.write_bytes(body)
        try:
            return read_table(Source(file, "rows", hint))
        except InputError as error:
            raise InputError(error.message.replace(str(file), "body"), error.hint) from error
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        facts = pq.read_metadata(io.BytesIO(body))
    except (pa.ArrowException, OSError) as error:
        raise InputError("body: is no whole Parquet file", hint) from error
    size = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
    if size > most or facts.num_rows * max(facts.num_columns, 1) * 8 > 4 * most:
        raise InputError(f"body: unpacks to more than {most} bytes", "send fewer rows at a time")
    file = folder / "rows.parquet"
    file.write_bytes(body)
    try:
        return read_parquet(Source(file, "rows", hint))
    except InputError as error:
        raise InputError(error.message.replace(str(file), "body"), error.hint) from error


def _packed(folder: Path) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for file in sorted(folder.iterdir()):
            about = zipfile.ZipInfo(file.name)  # without a time: the same rows are the same bytes
            archive.writestr(about, file.read_bytes())
    return held.getvalue()


class Shelf:
    """Uploaded stores and traces of one database, on this machine's disk."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    def named(self, owner: str, family: Any, text: str, field: str) -> Upload:
        """The upload that ``NAME`` or ``NAME@VERSION`` is. Raises UnknownName."""
        name, _, version = text.partition("@")
        number = int(version) if version.isascii() and version.isdecimal() and len(version) < 9 else None
        found = None
        if _NAME.fullmatch(name) and (not version or number is not None):
            found = self._uploads.find(owner, family, name, number)
        if found is None:
            raise UnknownName(field, text, self._uploads.names(owner, family), f"POST /v1/{family}?name=… uploads one")
        return found

    def folder(self, id_: str) -> Path:
        """The profile store ``id_``, unpacked once.

        Raises:
            DataError: it is not there any more.
        """
        home = cache_folder() / "uploads"
        folder = home / id_
        if not folder.is_dir():
            content = self._uploads.content(id_)
            if content is None:
                raise DataError(f"profiles: the upload {id_} is not there any more", "upload it again")
            home.mkdir(parents=True, exist_ok=True)
            try:
                with whole_folder(folder) as beside, zipfile.ZipFile(io.BytesIO(content)) as archive:
                    archive.extractall(beside)  # of our own making: names without folders
            except OSError:
                if not folder.is_dir():  # else another worker was there first
                    raise
        return folder

    def trace(self, upload: Upload) -> dict[str, Any]:
        """An uploaded trace, as requests hold it."""
        from planner.replay.request import Trace

        content = self._uploads.content(upload.id) or b""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / (f"{upload.name}.jsonl" if content.lstrip()[:1] == b"{" else f"{upload.name}.csv")
            file.write_bytes(content)
            made: dict[str, Any] = Trace.read(file).model_dump(mode="json")
        return made
