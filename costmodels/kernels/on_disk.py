"""What a cost model keeps on disk: fitted forests, and the rows of each GPU that lie around a question."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from numpy.typing import NDArray

import costmodels.operations
import profiles.boxes
import profiles.columns
import profiles.exclusions
import profiles.store
from costmodels.kernels import kernel_models, sound_rows
from costmodels.kernels.forest import Forest, Neighbours
from costmodels.kernels.kernel_models import Fitted, Rows
from costmodels.kernels.trees import Trees
from costmodels.operations.roofline import CODES
from profiles.whole_files import whole_file, whole_folder

CACHE_VARIABLE = "SHARDWRIGHT_CACHE"
_PATIENCE_S = 120.0  # no forest takes as long to fit: one that does belongs to a process that was stopped


def cache_folder() -> Path:
    """Where all this is kept: $SHARDWRIGHT_CACHE, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("shardwright"))


@contextmanager
def alone(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keeps other processes and threads from fitting the forest of ``folder`` while this one does; ``waiting`` is
    called where another is at it. Where nothing can be locked (read-only home, a file system without locks), and after
    two minutes, two may fit the same."""
    lock = FileLock(cache_folder() / "locks" / f"{folder.name}.lock")
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):  # a lock that is not had in time is an OSError too
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                waiting()
                lock.acquire(timeout=_PATIENCE_S)
            held.callback(lock.release)
        yield


def write_fitted(folder: Path, fitted: Fitted) -> None:
    """Keeps it where it can. A cache that cannot be written (read-only home, full disk, another's forest that is there
    by now) costs time at the next start and nothing else."""
    model = fitted.forest
    scores = [model.correction_share, model.low_score, model.high_score]
    with suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as beside:
            _write_arrays(beside / "forest.npz", {"scores": np.array(scores), **model.trees.arrays()})
            for name, memory in fitted.neighbours.items():
                _write_arrays(beside / f"{name}.npz", vars(memory))


def _write_arrays(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    # Opened here: numpy would add .npz to another ending.
    with file.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # the stub takes any name for its own keyword


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    # Opened here: numpy would leave a damaged file open.
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return dict(arrays)


def read_fitted(folder: Path, gpu: str, *, has_rows: bool) -> Fitted | None:
    """The cached forest with the memory of one GPU (where it ``has_rows``), or None where it is not there or
    does not read: it is then fitted again."""
    try:
        if not folder.is_dir():
            return None
        content = _read_arrays(folder / "forest.npz")
        share, low, high = content.pop("scores").tolist()
        forest = Forest(Trees(**content), share, low, high)
        neighbours = {gpu: Neighbours(**_read_arrays(folder / f"{gpu}.npz"))} if has_rows else {}
    except Exception:  # damage shows in any of zip's and numpy's ways; the cure is the same
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return Fitted(forest, neighbours)


@cache
def _reading() -> str:
    """The code that chooses and codes rows, and the codes: rows that another code read are not used."""
    parts = (kernel_models, sound_rows, profiles.boxes, profiles.columns, profiles.exclusions, profiles.store)
    operations = sorted(Path(costmodels.operations.__path__[0]).glob("*.py"))
    sources = [*(Path(part.__file__) for part in parts if part.__file__), *operations]
    return hashlib.sha256(repr(CODES).encode() + b"".join(source.read_bytes() for source in sources)).hexdigest()


def kept_rows(operation: str, made_from: str, load: Callable[[], Rows]) -> Rows:
    """The rows that ``load`` reads, from the disk where they were read before: a store of a million rows takes twenty
    times as long. ``made_from`` says everything that they depend on but the code."""
    name = hashlib.sha256(f"{_reading()}:{made_from}".encode()).hexdigest()[:16]
    file = cache_folder() / "rows" / f"{operation}-{name}.npz"
    try:
        arrays = _read_arrays(file)
        plain = {part: arrays.pop(f"{part} of row") for part in ("gpu", "latency_us", "origin")}
        return Rows({name: arrays[name] for name in arrays}, **plain)
    except Exception:  # not there, or damaged in any of zip's and numpy's ways; the cure is the same
        rows = load()
    plain = {f"{part} of row": getattr(rows, part) for part in ("gpu", "latency_us", "origin")}
    with suppress(OSError):  # as of write_fitted
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file, durable=False) as beside:
            _write_arrays(beside, {**rows.columns, **plain})
    return rows
