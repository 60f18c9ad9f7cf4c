"""The measurement row: one timed operation on one GPU type, with its shape, its latency and where it is from.

The tables below are the single statement of which columns exist, what they mean and in which unit. Validation,
importers, the store and ``plan profile show`` all read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from profiles.errors import DataError, InputError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Column:
    """One column: ``kind`` is ``int``, ``float`` or ``str``; ``minimum`` is inclusive."""

    name: str
    kind: str
    meaning: str
    required: bool = True
    minimum: float = 0.0


@dataclass(frozen=True)
class Operation:
    """A family of kernels that share their shape columns and their cost model."""

    name: str
    meaning: str
    shape: tuple[Column, ...]

    @property
    def shape_names(self) -> list[str]:
        return [column.name for column in self.shape]

    @property
    def key(self) -> list[str]:
        """The columns that identify a question: same key, same answer up to noise."""
        return ["gpu", "framework", "num_gpus", "dtype", *self.shape_names]


def _count(name: str, meaning: str, minimum: int = 1) -> Column:
    return Column(name, "int", meaning, minimum=minimum)


_KV_DTYPE = Column("kv_dtype", "str", "precision of the KV cache")
_QUERY = _count("query_tokens", "new tokens of each sequence")
_PREFIX = _count("prefix_tokens", "tokens of each sequence already in the KV cache", 0)
_CONTEXT = _count("context_tokens", "tokens in the KV cache that the one new token attends to, itself included")
_BATCH = _count("batch", "sequences")
_HEADS = _count("heads", "query heads on this GPU")
_GQA = (
    _HEADS,
    _count("kv_heads", "key/value heads on this GPU"),
    _count("head_dim", "elements per head"),
    _count("window_tokens", "sliding window; 0 = full attention", 0),
    _KV_DTYPE,
)

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "gemm",
            "dense matrix product [m, k] × [k, n], weights stationary",
            (_count("m", "rows: tokens"), _count("n", "output features"), _count("k", "input features")),
        ),
        Operation("attention_prefill", "causal attention of new tokens", (_BATCH, _QUERY, _PREFIX, *_GQA)),
        Operation("attention_decode", "attention of one new token per sequence", (_BATCH, _CONTEXT, *_GQA)),
        Operation(
            "mla_prefill",
            "latent attention of new tokens (heads 128+64 wide, values 128), projections excluded",
            (_BATCH, _QUERY, _PREFIX, _HEADS, _KV_DTYPE),
        ),
        Operation(
            "mla_decode",
            "latent attention of one new token per sequence on the 512+64 latent, projections excluded",
            (_BATCH, _CONTEXT, _HEADS, _KV_DTYPE),
        ),
        Operation(
            "mla_bmm",
            "per-head product that absorbs (pre) or rebuilds (post) the latent: [tokens, 128] × [128, 512] per head",
            (Column("kind", "str", "pre or post"), _count("tokens", "new tokens"), _HEADS),
        ),
        Operation(
            "moe",
            "routed experts of one layer on the busiest GPU of its group: grouped gate/up, activation, grouped down",
            (
                _count("tokens", "tokens that enter the layer, over all GPUs of the expert group"),
                _count("hidden", "model width"),
                _count("intermediate", "width of one expert, before the tensor split"),
                _count("top_k", "experts per token"),
                _count("experts", "routed experts of the layer"),
                _count("moe_tp", "GPUs that split each expert"),
                _count("moe_ep", "GPUs that share out the experts"),
                _count("gated", "1: gate, up and down; 0: up and down", 0),
                Column("routing", "str", "balanced, or power_law_<alpha>: skew of tokens over experts"),
            ),
        ),
        Operation(
            "collective",
            "one collective over num_gpus GPUs of one scale-up domain, as launched inside a CUDA graph where possible",
            (
                Column("kind", "str", "all_reduce, all_gather, reduce_scatter or all_to_all"),
                Column("message_bytes", "int", "the full buffer of one rank (input or output, the larger)", minimum=1),
            ),
        ),
    )
}

COMMON: tuple[Column, ...] = (
    Column("gpu", "str", "GPU type, as the hardware catalogue names it"),
    Column("num_gpus", "int", "GPUs that took part", minimum=1),
    Column("dtype", "str", "precision of the operation"),
    Column("latency_us", "float", "median latency, microseconds", minimum=1e-3),
    Column("latency_p10_us", "float", "10th percentile, or null", required=False, minimum=1e-3),
    Column("latency_p90_us", "float", "90th percentile, or null", required=False, minimum=1e-3),
    Column("repeats", "int", "timed repeats, or null", required=False, minimum=1),
    Column("power_watts", "float", "mean board power under the operation, or null", required=False),
    Column("clock_mhz", "float", "mean SM clock under the operation, or null", required=False),
    Column("kernel", "str", "kernel or library path that ran"),
    Column("framework", "str", "vllm, sglang, trtllm, nccl, torch, ..."),
    Column("framework_version", "str", "its version"),
    Column("driver", "str", "driver version, or null", required=False),
    Column("torch_version", "str", "PyTorch version, or null", required=False),
    Column("cuda_version", "str", "CUDA version, or null", required=False),
    Column("source", "str", "who measured it and where it was published"),
    Column("date", "str", "ISO date of the measurement, or of its retrieval where nothing better is known"),
)

DTYPES = (
    "fp32", "bf16", "fp16", "int8", "int8_wo", "fp8", "fp8_block", "nvfp4", "mxfp4", "mxfp4_fp8", "int4",
)
"""Precisions of an operation. ``fp8`` is per tensor or channel, ``fp8_block`` has 128-wide scales; ``mxfp4``,
``int4`` and ``int8_wo`` are weights only (products in bf16), ``mxfp4_fp8`` has fp4 weights and fp8 activations."""

_LEVELS = {"dtype": DTYPES, "kv_dtype": DTYPES}
_NULLABLE: dict[str, tuple[object, str]] = {"int": (pd.NA, "Int64"), "float": (np.nan, "float64"), "str": (None, "str")}


def find_operation(name: str) -> Operation:
    if name not in OPERATIONS:
        raise InputError(f"operation: {name!r} is not known", f"known: {', '.join(OPERATIONS)}")
    return OPERATIONS[name]


def columns_of(operation: Operation) -> tuple[Column, ...]:
    return (*COMMON[:3], *operation.shape, *COMMON[3:])


def validate(operation: Operation, rows: pd.DataFrame, where: str = "rows") -> pd.DataFrame:
    """``rows`` with exactly the operation's columns, in order and typed.

    Optional columns that are missing are added as null. ``where`` names the origin in errors.

    Raises:
        DataError: a required column is missing or null (a row without provenance is refused), a column is not
            known (a unit in the wrong column must not pass silently), or a value is out of range. The message
            names the column and the first offending row.
    """
    known = {column.name: column for column in columns_of(operation)}
    strangers = [str(name) for name in rows.columns if name not in known]
    if strangers:
        raise DataError(
            f"{where}: column {strangers[0]!r} is not a column of operation {operation.name}",
            f"known: {', '.join(known)} (times in microseconds, sizes in bytes)",
        )
    out: dict[str, pd.Series] = {}
    for column in known.values():
        if column.name not in rows.columns:
            if column.required:
                raise DataError(
                    f"{where}: column {column.name!r} is missing", f"every row needs it: {column.meaning}"
                )
            null, dtype = _NULLABLE[column.kind]
            out[column.name] = pd.Series(null, index=rows.index, dtype=dtype)
            continue
        out[column.name] = _typed(column, rows[column.name], where)
    return pd.DataFrame(out, index=rows.index).reset_index(drop=True)


def _typed(column: Column, values: pd.Series, where: str) -> pd.Series:
    if column.kind == "str":
        blank = values.isna() | (values.astype("str").str.strip() == "")
        _refuse(where, column, values, blank & column.required, "is empty")
        typed = values.astype("str").where(~blank, None)
        if column.name in _LEVELS:
            levels = _LEVELS[column.name]
            _refuse(where, column, values, ~typed.isin(levels) & ~blank, f"is not one of {', '.join(levels)}")
        return typed
    numbers = pd.to_numeric(values, errors="coerce")
    _refuse(where, column, values, numbers.isna() & (column.required | values.notna()), "is not a number")
    finite = pd.Series(np.isfinite(numbers.to_numpy(dtype=float, na_value=0.0)), index=values.index)
    _refuse(where, column, values, ~finite, "is not finite")
    _refuse(where, column, values, (numbers < column.minimum).fillna(False), f"is below {column.minimum:g}")
    if column.kind == "int":
        fractional = (numbers % 1 != 0).fillna(False) & numbers.notna()
        _refuse(where, column, values, fractional, "is not a whole number")
        return numbers.astype("int64") if column.required else numbers.astype("Int64")
    return numbers.astype("float64")


def _refuse(where: str, column: Column, values: pd.Series, bad: pd.Series, why: str) -> None:
    positions = np.flatnonzero(bad.to_numpy(dtype=bool))
    if len(positions):
        first = int(positions[0])
        raise DataError(
            f"{where}: row {first}, column {column.name!r}: {values.iloc[first]!r} {why}"
            + (f" ({len(positions)} such rows)" if len(positions) > 1 else ""),
            f"{column.name} is: {column.meaning}",
        )


def merge_rows(operation: Operation, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows of ``tables``; where two have the same key, the one in the later table wins."""
    rows = pd.concat([table for table in tables if len(table)] or list(tables[:1]), ignore_index=True)
    return rows.drop_duplicates(operation.key, keep="last").reset_index(drop=True)
