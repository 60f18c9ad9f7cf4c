"""Reads vidur's profiling tables ``mlp.csv`` and ``all_reduce.csv`` (microsoft/vidur, MIT).

``mlp.csv`` (vidur/profiling/mlp) times the matrix products of one decoder layer on one GPU, as a tensor split
over ``num_tensor_parallel_workers`` leaves them: ``time_stats.<op>.median`` in milliseconds, in float16, over
``num_tokens``. ``n_embd`` is the model width, ``n_expanded_embd`` the width of the feed-forward layer; with
``use_gated_mlp`` the up projection is gate and up in one, twice as wide. Heads are ``n_embd / n_head`` wide.

``all_reduce.csv`` (vidur/profiling/collectives) times NCCL over ``num_workers`` GPUs, ``devices_per_node`` of
them in each node; ``size`` is bytes of one rank's buffer. Rows that span nodes are left out: ours are of one
scale-up domain. The older layout, with ``num_tokens`` in place of ``size``, is refused.

Some questions come twice in a table; the median of their medians is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from profiles.errors import DataError, InputError, Unsupported
from profiles.files import GIB, Source, is_file
from profiles.hardware import find_gpu
from profiles.importers import Importer, check_options
from profiles.measured_rows import merge_rows, validate
from profiles.measurements import OPERATIONS
from profiles.tables import numbers, read_table
from profiles.values import number, shown

DTYPES = ("fp16", "bf16")
_MLP_COLUMNS = (
    *("num_tokens", "n_embd", "n_expanded_embd", "n_head", "n_kv_head"),
    *("use_gated_mlp", "num_tensor_parallel_workers"),
)

Shape = Callable[[pd.DataFrame], tuple[pd.Series, pd.Series]]

_PRODUCTS: dict[str, Shape] = {
    # op -> (n, k) of the product on one GPU; a split that leaves a fraction is refused by validate
    "mlp_up_proj": lambda t: (_gated(t) * t["n_expanded_embd"] / _tp(t), t["n_embd"]),
    "mlp_down_proj": lambda t: (t["n_embd"], t["n_expanded_embd"] / _tp(t)),
    "attn_pre_proj": lambda t: (
        t["n_embd"] / t["n_head"] * (t["n_head"] + 2 * t["n_kv_head"]) / _tp(t),
        t["n_embd"],
    ),
    "attn_post_proj": lambda t: (t["n_embd"], t["n_embd"] / _tp(t)),
}


def _tp(table: pd.DataFrame) -> pd.Series:
    return table["num_tensor_parallel_workers"]


def _gated(table: pd.DataFrame) -> pd.Series:
    return table["use_gated_mlp"].map({True: 2, False: 1, "True": 2, "False": 1})


def read(source: Path | None, options: dict[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of ``source``: a vidur CSV, or a folder that holds ``mlp.csv`` and/or ``all_reduce.csv``.

    Vidur's tables do not say on what they were measured, so the options must.

    Args:
        source: the file or folder.
        options: as ``IMPORTER.options`` says.

    Raises:
        InputError: no source, a provenance option is missing, or an option's value cannot be.
        DataError: a table is not one of vidur's.
    """
    check_options("vidur", options, IMPORTER.options)
    if source is None:
        raise InputError("vidur: no file or folder given", "name it with --from")
    for option in ("gpu", "date", "measured_by"):
        if not options.get(option):
            raise InputError(f"vidur: option {option} is missing", f"rows need provenance: give --option {option}=…")
    dtype = options.get("dtype", "fp16")
    if dtype not in DTYPES:
        raise InputError(f"vidur: dtype {shown(dtype)} is not one that vidur measures", "give fp16 or bf16")
    provenance = {
        "gpu": find_gpu(options["gpu"], "vidur option gpu").name,
        "dtype": dtype,
        "source": options["measured_by"],
        "date": options["date"],
        "framework": "vidur",
        "framework_version": options.get("version", "unknown"),
    }
    folder = [source / "mlp.csv", source / "all_reduce.csv"]
    present = [source] if is_file(source) else [file for file in folder if is_file(file)]
    if not present:
        raise InputError(f"vidur: neither mlp.csv nor all_reduce.csv at {source}", "give the file or its folder")
    for file in present:
        table = _load(file)
        if any(column.startswith("time_stats.all_reduce.") for column in table.columns):
            yield "collective", _all_reduce(table, provenance, file)
        else:
            yield "gemm", _mlp(table, provenance, file)


def _load(file: Path) -> pd.DataFrame:
    table = read_table(Source(file, "vidur:", "give an unchanged vidur CSV", GIB, DataError))
    return table.apply(_plain)


def _plain(column: pd.Series[str]) -> pd.Series[Any]:
    """Numbers where every value is one or blank, else text as it is."""
    values = numbers(column)
    if all(value is not None or not text.strip() for value, text in zip(values, column, strict=True)):
        return pd.Series(values, index=column.index, dtype="float64")
    return column


def _require(table: pd.DataFrame, columns: tuple[str, ...], file: Path) -> None:
    if not len(table):
        raise DataError(f"vidur: {file}: has no rows", "give an unchanged vidur CSV")
    for column in columns:
        if column not in table.columns:
            raise DataError(f"vidur: {file}: column {column!r} is missing", "give an unchanged vidur CSV")
        if column != "use_gated_mlp" and not pd.api.types.is_numeric_dtype(table[column].dtype):
            strange = next(text for text in table[column] if text.strip() and number(text) is None)
            raise DataError(
                f"vidur: {file}: column {column!r}: {shown(strange)} is not a number", "give an unchanged vidur CSV"
            )


def _medians(operation: str, parts: list[pd.DataFrame]) -> pd.DataFrame:
    rows = pd.concat(parts, ignore_index=True)
    medians = rows.groupby(OPERATIONS[operation].key, sort=False)["latency_us"].transform("median")
    return merge_rows(OPERATIONS[operation], [rows.assign(latency_us=medians)])


def _mlp(table: pd.DataFrame, provenance: dict[str, str], file: Path) -> pd.DataFrame:
    _require(table, _MLP_COLUMNS, file)
    timed = {op: f"time_stats.{op}.median" for op in _PRODUCTS if f"time_stats.{op}.median" in table.columns}
    if not timed:
        raise DataError(
            f"vidur: {file}: no time_stats.<op>.median column of a matrix product",
            f"known: {', '.join(_PRODUCTS)}",
        )
    _require(table, tuple(timed.values()), file)
    parts = []
    for op, median in timed.items():
        n, k = _PRODUCTS[op](table)
        rows = pd.DataFrame(
            {
                "num_gpus": 1,
                "m": table["num_tokens"],
                "n": n,
                "k": k,
                "latency_us": table[median] * 1e3,
                "kernel": f"vidur {op}",
                **provenance,
            }
        )
        measured = rows[rows["latency_us"].notna()]  # a table of many models has gaps
        parts.append(validate(OPERATIONS["gemm"], measured, where=f"{file}, {op}"))
    return _medians("gemm", parts)


def _all_reduce(table: pd.DataFrame, provenance: dict[str, str], file: Path) -> pd.DataFrame:
    median = "time_stats.all_reduce.median"
    _require(table, ("size", "num_workers", "devices_per_node", median), file)
    inside = table[(table["num_workers"] > 1) & (table["num_workers"] <= table["devices_per_node"])]
    if not len(inside):
        raise Unsupported(
            f"vidur: {file}: every row spans nodes (num_workers > devices_per_node) or has one worker",
            "import a table measured inside one node",
        )
    rows = pd.DataFrame(
        {
            "num_gpus": inside["num_workers"],
            "kind": "all_reduce",
            "message_bytes": inside["size"],
            "latency_us": inside[median] * 1e3,
            "kernel": "vidur all_reduce",
            **provenance,
        }
    )
    return _medians("collective", [validate(OPERATIONS["collective"], rows, where=str(file))])


IMPORTER = Importer(
    "vidur",
    "vidur's mlp.csv and all_reduce.csv",
    read,
    {
        "gpu": "GPU type that was measured (required)",
        "date": "ISO date of the measurement (required)",
        "measured_by": "who measured it (required)",
        "dtype": "fp16 (default) or bf16",
        "version": "vidur's version",
    },
)
