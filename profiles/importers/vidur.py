"""Reads vidur's profiling tables ``mlp.csv`` and ``all_reduce.csv`` (columns as in microsoft/vidur, MIT).

``mlp.csv`` times a decoder layer's matrix products for one model width and tensor split:
``time_stats.<op>.median`` in milliseconds over ``num_tokens``, with ``n_embd``, ``n_expanded_embd``, ``n_head``,
``n_kv_head``, ``use_gated_mlp`` and ``num_tensor_parallel_workers``. ``all_reduce.csv`` times
``time_stats.all_reduce.median`` over ``size`` (bytes) and ``num_workers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from profiles.errors import DataError, InputError
from profiles.hardware import find_gpu
from profiles.importers import Importer
from profiles.measurements import OPERATIONS, merge_rows, validate

_MLP_COLUMNS = ("num_tokens", "n_embd", "n_expanded_embd", "num_tensor_parallel_workers")
_WEIGHT_BYTES = {"bf16": 2, "fp16": 2}

Shape = Callable[[pd.DataFrame, pd.Series], tuple[pd.Series, pd.Series]]

_PRODUCTS: dict[str, Shape] = {
    # op -> (n, k) of the product on one GPU, as vidur's column- and row-parallel layers split it
    "mlp_up_proj": lambda t, tp: (_gated(t) * t["n_expanded_embd"] // tp, t["n_embd"]),
    "mlp_down_proj": lambda t, tp: (t["n_embd"], t["n_expanded_embd"] // tp),
    "attn_pre_proj": lambda t, tp: (
        t["n_embd"] // t["n_head"] * (t["n_head"] // tp + 2 * (t["n_kv_head"] // tp).clip(lower=1)),
        t["n_embd"],
    ),
    "attn_post_proj": lambda t, tp: (t["n_embd"], t["n_embd"] // tp),
}


def _gated(table: pd.DataFrame) -> pd.Series:
    gated = table["use_gated_mlp"] if "use_gated_mlp" in table else pd.Series(True, index=table.index)
    return gated.astype("bool").astype("int64") + 1


def read(source: Path | None, options: dict[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of ``source``: a vidur CSV, or a folder that holds ``mlp.csv`` and/or ``all_reduce.csv``.

    Vidur's tables do not say on what they were measured, so the options must.

    Args:
        options: ``gpu``, ``date``, ``measured_by`` required; ``dtype`` (default fp16, vidur's), ``torch``.
    """
    if source is None:
        raise InputError("vidur: no file or folder given", "name it with --from")
    for option in ("gpu", "date", "measured_by"):
        if not options.get(option):
            raise InputError(f"vidur: option {option} is missing", f"rows need provenance: give --option {option}=…")
    gpu = find_gpu(options["gpu"], "vidur option gpu").name
    dtype = options.get("dtype", "fp16")
    if dtype not in _WEIGHT_BYTES:
        raise InputError(f"vidur: dtype {dtype!r} is not one that vidur measures", "give bf16 or fp16")
    provenance = {
        "gpu": gpu,
        "dtype": dtype,
        "source": options["measured_by"],
        "date": options["date"],
        "framework": "vidur",
        "framework_version": options.get("version", "unknown"),
    }
    files = [source] if source.is_file() else [source / "mlp.csv", source / "all_reduce.csv"]
    present = [file for file in files if file.is_file()]
    if not present:
        raise InputError(f"vidur: neither mlp.csv nor all_reduce.csv at {source}", "give the file or its folder")
    for file in present:
        table = _load(file)
        if {"size", "num_workers"} <= set(table.columns):
            yield "collective", _all_reduce(table, provenance, file)
        else:
            yield "gemm", _mlp(table, provenance, file)


def _load(file: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise DataError(f"vidur: {file} cannot be read ({error})", "give an unchanged vidur CSV") from error


def _require(table: pd.DataFrame, columns: tuple[str, ...], file: Path) -> None:
    for column in columns:
        if column not in table.columns:
            raise DataError(f"vidur: {file}: column {column!r} is missing", "give an unchanged vidur CSV")


def _mlp(table: pd.DataFrame, provenance: dict[str, str], file: Path) -> pd.DataFrame:
    _require(table, _MLP_COLUMNS, file)
    tp = table["num_tensor_parallel_workers"]
    parts = []
    for op, shape in _PRODUCTS.items():
        median = f"time_stats.{op}.median"
        if median not in table.columns:
            continue
        if op == "attn_pre_proj":
            _require(table, ("n_head", "n_kv_head"), file)
        n, k = shape(table, tp)
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
        parts.append(validate(OPERATIONS["gemm"], rows.dropna(subset=["latency_us"]), where=str(file)))
    if not parts:
        raise DataError(
            f"vidur: {file}: no time_stats.<op>.median column of a matrix product",
            f"known: {', '.join(_PRODUCTS)}",
        )
    return merge_rows(OPERATIONS["gemm"], parts)


def _all_reduce(table: pd.DataFrame, provenance: dict[str, str], file: Path) -> pd.DataFrame:
    median = "time_stats.all_reduce.median"
    _require(table, ("size", "num_workers", median), file)
    rows = pd.DataFrame(
        {
            "num_gpus": table["num_workers"],
            "kind": "all_reduce",
            "message_bytes": table["size"],
            "latency_us": table[median] * 1e3,
            "kernel": "vidur all_reduce",
            **provenance,
        }
    )
    rows = rows[rows["num_gpus"] > 1]
    return merge_rows(OPERATIONS["collective"], [validate(OPERATIONS["collective"], rows, where=str(file))])


IMPORTER = Importer(
    "vidur",
    "vidur's mlp.csv and all_reduce.csv",
    read,
    {
        "gpu": "GPU type that was measured",
        "date": "ISO date of the measurement",
        "measured_by": "who measured it",
        "dtype": "fp16 (default) or bf16",
        "version": "vidur's version",
    },
)
