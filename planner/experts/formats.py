"""Files of expert counts, as engines and people write them: each becomes arrays of shape [windows, layers, experts].

Nothing is known of the model here; :mod:`planner.experts.inputs` checks the arrays against it.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.experts.arrays import LARGEST, read_array, read_arrays
from planner.experts.placement import Floats, Ints
from profiles.errors import InputError, Unsupported
from profiles.files import GIB, Source, is_file, is_folder
from profiles.markup import read_json, strict_json
from profiles.values import named, number, shown, whole

KEY = "logical_count"

LARGEST_JSON = GIB  # bytes of a file that is read whole
MOST_COUNTS = 10**8  # of a table that is written entry by entry

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
    if is_folder(path):
        return _trtllm_folder(path, f"loads {named(path)}")
    reader = _READERS.get(path.suffix.casefold())
    if reader is None:
        raise InputError(
            f"loads {named(path)}: {shown(path.suffix)} is not a kind of file that is read",
            f"give one of {', '.join(_READERS)}, or a folder of TensorRT-LLM statistics (meta_info.json beside it)",
        )
    return reader(path)


def _table(value: Any, where: str) -> Floats:
    try:
        counts = np.asarray(value)
        if counts.dtype.kind not in "biuf":  # text that looks like a number is none
            raise TypeError
        counts = counts.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: {KEY} is not a table of numbers with rows of one length", _KEY_HINT) from error
    if counts.ndim not in (2, 3) or 0 in counts.shape:
        raise InputError(
            f"{where}: {KEY} has shape {list(counts.shape)}, not [layers, experts] or [windows, layers, experts]",
            _KEY_HINT,
        )
    return counts if counts.ndim == 3 else counts[None]


# ------------------------------------------------------------------ JSON and torch: dumps of SGLang's recorder


def _json(path: Path) -> RawCounts:
    source = Source(path, "loads", "record it again, or repair the file", LARGEST_JSON)
    return _recorded(read_json(source), source.where)


def _torch(path: Path) -> RawCounts:
    source = Source(path, "loads", f"give a recorder dump that holds {KEY} and plain tensors", LARGEST)
    try:
        torch: Any = importlib.import_module("torch")  # by name: nothing else here needs it
    except ImportError as error:
        raise Unsupported(
            f"{source.where}: torch is needed to read a .pt file, and is not installed",
            f"pip install torch, or write {KEY} as .npy or JSON where the dump was made",
        ) from error
    with source.opened() as stream:
        try:
            document = torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # torch says "corrupt" in many types
            raise source.wrong("torch cannot read it: it is damaged, or holds more than plain tensors") from error
    return _recorded(document, source.where)


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
        if {"kind", "schema_version"} <= document.keys():
            raise InputError(
                f"{where}: is a document of kind {shown(document['kind'])}, which holds no counts of tokens",
                "give the recorded counts themselves, which `plan experts --loads` takes, too",
            )
        keys = ", ".join(shown(key) for key in list(document)[:5]) or "none"
        raise InputError(f"{where}: key {KEY} is missing (keys: {keys})", _KEY_HINT)
    counts = _table(document[KEY], where)
    return RawCounts(where, counts.sum(axis=0, keepdims=True) if "rank" in document else counts)


# ------------------------------------------------------------------ numpy


def _numpy(path: Path) -> RawCounts:
    source = Source(path, "loads", "write it with numpy.save or numpy.savez", LARGEST)
    if path.suffix.casefold() == ".npy":
        return RawCounts(source.where, _table(read_array(source), source.where))
    arrays = read_arrays(source)
    name = KEY if KEY in arrays else next(iter(arrays)) if len(arrays) == 1 else None
    if name is None:
        names = ", ".join(shown(each) for each in list(arrays)[:5]) or "none"
        raise source.wrong(f"none of its arrays ({names}) is called {KEY}", f"call it {KEY}")
    return RawCounts(source.where, _table(arrays[name], source.where))


# ------------------------------------------------------------------ CSV

_CSV_HINT = "the header is layer,expert,count, and window where there are several; layers are counted in the model"


def _csv(path: Path) -> RawCounts:
    """Rows in any order; what is not named is zero. Layers are indices in the model."""
    source = Source(path, "loads", _CSV_HINT, LARGEST_JSON)
    windows: dict[str, int] = {}
    entries: dict[tuple[int, int, int], float] = {}
    for line, window, layer, expert, count in _csv_rows(source):
        key = (windows.setdefault(window, len(windows)), layer, expert)
        if key in entries:
            raise source.wrong(f"line {line}: layer {layer}, expert {expert} is given twice")
        entries[key] = count
    if not entries:
        raise source.wrong("holds no counts")
    layers = np.array(sorted({layer for _, layer, _ in entries}), np.int64)
    experts = 1 + max(expert for _, _, expert in entries)
    if len(windows) * len(layers) * experts > MOST_COUNTS:
        raise source.wrong(
            f"{len(windows):,} windows × {len(layers):,} layers × {experts:,} experts are more than {MOST_COUNTS:,}"
        )
    row = {int(layer): i for i, layer in enumerate(layers)}
    counts = np.zeros((len(windows), len(layers), experts))
    for (window_index, layer, expert), count in entries.items():
        counts[window_index, row[layer], expert] = count
    return RawCounts(source.where, counts, layers)


def _csv_rows(source: Source) -> Iterator[tuple[int, str, int, int, float]]:
    """(line, window, layer, expert, count) of each row."""
    rows = csv.reader(io.StringIO(source.text(), newline=""))
    try:
        header = [name.strip().casefold() for name in next(rows, [])]
        if sorted(header) not in (["count", "expert", "layer"], ["count", "expert", "layer", "window"]):
            raise source.wrong(f"line 1: the header is {shown(','.join(header))}")
        for line, row in enumerate(rows, start=2):
            if not row:
                continue
            if len(row) != len(header):
                raise source.wrong(f"line {line} has {len(row)} fields, the header {len(header)}")
            fields = dict(zip(header, row, strict=True))
            layer, expert, count = whole(fields["layer"]), whole(fields["expert"]), number(fields["count"])
            if layer is None or expert is None or count is None:
                raise source.wrong(f"line {line}: {shown(','.join(row))} is not numbers")
            if not (0 <= layer < 10**6 and 0 <= expert < 10**6):
                raise source.wrong(f"line {line}: layer {shown(layer)}, expert {shown(expert)} is out of range")
            yield line, fields.get("window", ""), layer, expert, count
    except csv.Error as error:
        raise source.wrong(f"line {rows.line_num}: is not CSV") from error


# ------------------------------------------------------------------ TensorRT-LLM

_TRTLLM_HINT = "give the folder that EXPERT_STATISTIC_PATH named: meta_info.json and rank*.safetensors"
_SAFETENSORS = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "|u1", "F64": "<f8", "F32": "<f4"}


def _trtllm_folder(path: Path, where: str) -> RawCounts:
    """What TensorRT-LLM dumps under EXPERT_STATISTIC_ITER_RANGE: per rank a safetensors file with one [experts]
    tensor per ``iteration_layer``. Ranks and iterations are added up to one window."""
    files = sorted(file for file in path.glob("rank*.safetensors") if not file.stem.endswith("_raw"))
    if not files or not is_file(path / "meta_info.json"):
        raise InputError(f"{where}: a folder without meta_info.json or without rank*.safetensors", _TRTLLM_HINT)
    totals: dict[int, Floats] = {}
    for file in files:
        for name, tensor in _safetensors(file, where):
            iteration, _, layer = name.partition("_")
            if whole(iteration) is None or whole(layer) is None or tensor.ndim != 1:
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
    source = Source(file, "loads", _TRTLLM_HINT, LARGEST_JSON)
    data = source.read()
    length = int.from_bytes(data[:8], "little")
    try:
        header = strict_json(data[8 : 8 + length])
        body = memoryview(data)[8 + length :]
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                tensor = np.frombuffer(body[start:end], _SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
                yield name, tensor.astype(np.float64)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{where}: {file.name} is not a whole safetensors file", _TRTLLM_HINT) from error


_READERS: dict[str, Callable[[Path], RawCounts]] = {
    ".json": _json,
    ".npy": _numpy,
    ".npz": _numpy,
    ".csv": _csv,
    ".pt": _torch,
}
