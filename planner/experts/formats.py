"""Files of expert counts, as engines and people write them: each becomes arrays of shape [windows, layers, experts].

Nothing is known of the model here; :mod:`planner.experts.inputs` checks the arrays against it.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.contract.documents import shown, strict_json
from planner.experts.placement import Floats, Ints
from profiles.errors import InputError, Unsupported

KEY = "logical_count"
_KEY_HINT = f'write {{"{KEY}": [[...], ...]}}: one row of counts per layer, or such tables for several windows'


@dataclass(frozen=True, eq=False)
class RawCounts:
    """``counts``: shape [windows, rows, experts]. ``layers``: index in the model of each row, where the file says
    so; else None."""

    where: str
    counts: Floats
    layers: Ints | None = None


def read_counts(path: Path) -> RawCounts:
    """The counts in one file, or in one folder of TensorRT-LLM statistics.

    Raises:
        InputError: unreadable, of an unknown kind, truncated, or not a table of numbers.
        Unsupported: a ``.pt`` file where torch is not installed.
    """
    where = f"loads {path}"
    if path.is_dir():
        return _trtllm_folder(path, where)
    reader = _READERS.get(path.suffix.casefold())
    if reader is None:
        raise InputError(
            f"{where}: {shown(path.suffix)} is not a kind of file that is read",
            f"give one of {', '.join(_READERS)}, or a folder of TensorRT-LLM statistics (meta_info.json beside it)",
        )
    try:
        return reader(path, where)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})", "check the path") from error


def _table(value: Any, where: str) -> Floats:
    try:
        counts = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {KEY} is not a table of numbers with rows of one length", _KEY_HINT) from error
    if counts.ndim not in (2, 3) or 0 in counts.shape:
        raise InputError(
            f"{where}: {KEY} has shape {list(counts.shape)}, not [layers, experts] or [windows, layers, experts]",
            _KEY_HINT,
        )
    return counts if counts.ndim == 3 else counts[None]


# ------------------------------------------------------------------ JSON and torch: dumps of SGLang's recorder


def _json(path: Path, where: str) -> RawCounts:
    try:
        document = strict_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error})", "record it again, or repair the file") from error
    return _recorded(document, where)


def _torch(path: Path, where: str) -> RawCounts:
    try:
        torch: Any = importlib.import_module("torch")  # by name: nothing else here needs it
    except ImportError as error:
        raise Unsupported(
            f"{where}: torch is needed to read a .pt file, and is not installed",
            f"pip install torch, or write {KEY} as .npy or JSON where the dump was made",
        ) from error
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch says "corrupt" in many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{where}: torch cannot read it ({reason})", f"give a recorder dump that holds {KEY} and plain tensors"
        ) from error
    return _recorded(document, where)


def _recorded(document: Any, where: str) -> RawCounts:
    """A mapping with ``logical_count``, or the bare table. SGLang's own dumps (which also have ``rank``) hold one
    table per forward pass, in a ring buffer that need not be full: together they are one window."""
    if not isinstance(document, dict):
        return RawCounts(where, _table(document, where))
    if KEY not in document:
        if "records" in document:
            raise Unsupported(
                f"{where}: holds per-pass records in place of {KEY}",
                "record with --expert-distribution-recorder-mode stat",
            )
        keys = ", ".join(shown(key) for key in list(document)[:5]) or "none"
        raise InputError(f"{where}: key {KEY} is missing (keys: {keys})", _KEY_HINT)
    counts = _table(document[KEY], where)
    return RawCounts(where, counts.sum(axis=0, keepdims=True) if "rank" in document else counts)


# ------------------------------------------------------------------ numpy


def _numpy(path: Path, where: str) -> RawCounts:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return RawCounts(where, _table(loaded, where))
        with loaded:
            names = loaded.files
            name = KEY if KEY in names else names[0] if len(names) == 1 else None
            if name is None:
                raise InputError(f"{where}: holds arrays {', '.join(names)}, none called {KEY}", f"call it {KEY}")
            return RawCounts(where, _table(loaded[name], where))
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{where}: numpy cannot read it ({error})", "write it with numpy.save or numpy.savez"
        ) from error


# ------------------------------------------------------------------ CSV

_CSV_HINT = "the header is layer,expert,count, and window where there are several; layers are counted in the model"


def _csv(path: Path, where: str) -> RawCounts:
    """Rows in any order; what is not named is zero. Layers are indices in the model."""
    windows: dict[str, int] = {}
    entries: dict[tuple[int, int, int], float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line, window, layer, expert, count in _csv_rows(csv.reader(file), where):
            key = (windows.setdefault(window, len(windows)), layer, expert)
            if key in entries:
                raise InputError(f"{where}: line {line}: layer {layer}, expert {expert} is given twice", _CSV_HINT)
            entries[key] = count
    if not entries:
        raise InputError(f"{where}: holds no counts", _CSV_HINT)
    layers = np.array(sorted({layer for _, layer, _ in entries}), np.int64)
    row = {int(layer): i for i, layer in enumerate(layers)}
    counts = np.zeros((len(windows), len(layers), 1 + max(expert for _, _, expert in entries)))
    for (window_index, layer, expert), count in entries.items():
        counts[window_index, row[layer], expert] = count
    return RawCounts(where, counts, layers)


def _csv_rows(rows: Iterator[list[str]], where: str) -> Iterator[tuple[int, str, int, int, float]]:
    header = [name.strip().casefold() for name in next(rows, [])]
    if set(header) not in ({"layer", "expert", "count"}, {"layer", "expert", "count", "window"}):
        raise InputError(f"{where}: line 1: the header is {shown(','.join(header))}", _CSV_HINT)
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(f"{where}: line {line} has {len(row)} fields, the header {len(header)}", _CSV_HINT)
        fields = dict(zip(header, row, strict=True))
        try:
            layer, expert, count = int(fields["layer"]), int(fields["expert"]), float(fields["count"])
        except ValueError as error:
            raise InputError(f"{where}: line {line}: {shown(','.join(row))} is not numbers", _CSV_HINT) from error
        if not (0 <= layer < 10**6 and 0 <= expert < 10**6):
            raise InputError(f"{where}: line {line}: layer {layer}, expert {expert} is out of range", _CSV_HINT)
        yield line, fields.get("window", ""), layer, expert, count


# ------------------------------------------------------------------ TensorRT-LLM

_TRTLLM_HINT = "give the folder that EXPERT_STATISTIC_PATH named: meta_info.json and rank*.safetensors"
_SAFETENSORS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "|u1", "F64": "<f8", "F32": "<f4"}


def _trtllm_folder(path: Path, where: str) -> RawCounts:
    """What TensorRT-LLM dumps under EXPERT_STATISTIC_ITER_RANGE: per rank a safetensors file with one [experts]
    tensor per ``iteration_layer``. Ranks and iterations are added up to one window."""
    files = sorted(file for file in path.glob("rank*.safetensors") if not file.stem.endswith("_raw"))
    if not files or not (path / "meta_info.json").is_file():
        raise InputError(f"{where}: a folder without meta_info.json or without rank*.safetensors", _TRTLLM_HINT)
    totals: dict[int, Floats] = {}
    for file in files:
        for name, tensor in _safetensors(file, where):
            iteration, _, layer = name.partition("_")
            if not (iteration.isdecimal() and layer.isdecimal() and tensor.ndim == 1):
                raise InputError(f"{where}: {file.name}: tensor {shown(name)} is not iteration_layer", _TRTLLM_HINT)
            known = totals.setdefault(int(layer), np.zeros(len(tensor)))
            if known.shape != tensor.shape:
                raise InputError(f"{where}: {file.name}: tensor {shown(name)} has another length", _TRTLLM_HINT)
            known += tensor
    if len({len(total) for total in totals.values()}) != 1:
        raise InputError(f"{where}: layers have different numbers of experts, or there are none", _TRTLLM_HINT)
    layers = sorted(totals)
    return RawCounts(where, np.array([[totals[layer] for layer in layers]]), np.array(layers, np.int64))


def _safetensors(file: Path, where: str) -> Iterator[tuple[str, Floats]]:
    """Tensors of a safetensors file: 8 bytes of header length, a JSON header, raw little-endian data."""
    try:
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        body = memoryview(data)[8 + length :]
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                tensor = np.frombuffer(body[start:end], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
                yield name, tensor.astype(np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: {file.name} is not a whole safetensors file ({error})", _TRTLLM_HINT) from error


_READERS: dict[str, Callable[[Path, str], RawCounts]] = {
    ".json": _json,
    ".npy": _numpy,
    ".npz": _numpy,
    ".csv": _csv,
    ".pt": _torch,
}
