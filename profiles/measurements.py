"""The measurement row: one timed operation on one GPU type, its shape, its latency and where it is from.

The tables below are the single statement of which columns exist, what they mean and in which unit.
Validation, importers, the store and ``plan profile show`` all read them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from profiles.errors import DataError, UnknownName
from profiles.values import shown

FORMAT_VERSION = 1

DTYPE_MEANINGS: dict[str, str] = {
    "fp32": "32-bit floats",
    "bf16": "bfloat16",
    "fp16": "half",
    "int8": "8-bit integers, weights and activations",
    "int8_wo": "8-bit integer weights only, products in bf16",
    "fp8": "8-bit floats, scaled per tensor or per channel",
    "fp8_block": "8-bit floats, one scale per 128-wide block",
    "nvfp4": "4-bit floats, weights and activations, one scale per 16",
    "mxfp4": "4-bit float weights only, one scale per 32, products in bf16",
    "mxfp4_fp8": "4-bit float weights, one scale per 32, 8-bit float activations",
    "int4": "4-bit integer weights only, products in bf16",
}
DTYPES = tuple(DTYPE_MEANINGS)
"""Precisions of an operation, in a fixed order: cost models encode a precision by its place here."""


@dataclass(frozen=True)
class Column:
    """One column: ``kind`` is ``int``, ``float`` or ``str``.

    ``minimum`` and ``maximum`` are inclusive. A text is one of ``levels`` where there are any, and matches all of
    ``pattern`` (a regular expression) where there is one.
    """

    name: str
    kind: str
    meaning: str
    required: bool = True
    minimum: float = 0.0
    maximum: float = math.inf
    unit: str = ""
    levels: tuple[str, ...] = ()
    pattern: str = ""


@dataclass(frozen=True)
class Operation:
    """A family of kernels that share their shape columns and their cost model, where they are ``predicted``: others
    are measured for people to read."""

    name: str
    meaning: str
    shape: tuple[Column, ...]
    predicted: bool = True

    @property
    def shape_names(self) -> list[str]:
        return [column.name for column in self.shape]

    @property
    def key(self) -> list[str]:
        """The columns that identify a question: same key, same answer up to noise."""
        return ["gpu", "framework", "num_gpus", "dtype", *self.shape_names]


def _count(name: str, meaning: str, minimum: int = 1, unit: str = "") -> Column:
    return Column(name, "int", meaning, minimum=minimum, unit=unit)


def _tokens(name: str, meaning: str, minimum: int = 1) -> Column:
    return _count(name, meaning, minimum, "tokens")


_KV_DTYPE = Column("kv_dtype", "str", "precision of the KV cache", levels=DTYPES)
_QUERY = _tokens("query_tokens", "new tokens of each sequence")
_PREFIX = _tokens("prefix_tokens", "tokens of each sequence already in the KV cache", 0)
_CONTEXT = _tokens("context_tokens", "KV cache length that the one new token attends to, itself included")
_BATCH = _count("batch", "sequences")
_HEADS = _count("heads", "query heads on this GPU")
_GQA = (
    _HEADS,
    _count("kv_heads", "key/value heads on this GPU"),
    _count("head_dim", "width of one head", unit="elements"),
    _tokens("window_tokens", "sliding window; 0 = full attention", 0),
    _KV_DTYPE,
)

_GDN = (
    _count("key_heads", "query and key heads on this GPU"),
    _count("value_heads", "value heads on this GPU"),
)
_DSA = (
    _HEADS,
    _KV_DTYPE,
    _count("hidden", "model width", unit="elements"),
    _count("q_rank", "width of the query's latent", unit="elements"),
    _count("qk_dim", "width of one query head, rotary part included", unit="elements"),
    _count("v_dim", "width of one value head", unit="elements"),
    _count("index_heads", "heads of the indexer (128 wide, on every GPU)"),
)

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "gemm",
            "dense matrix product [m, k] × [k, n], weights stationary",
            (
                _tokens("m", "rows of the activations"),
                _count("n", "output features on this GPU", unit="elements"),
                _count("k", "input features on this GPU", unit="elements"),
            ),
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
            "per-head product that absorbs (pre) or rebuilds (post) the latent: [tokens, 128] × [128, 512]",
            (
                Column("kind", "str", "pre or post", levels=("pre", "post")),
                _tokens("tokens", "new tokens"),
                _HEADS,
            ),
        ),
        Operation(
            "gdn_prefill",
            "gated delta rule over new tokens behind its causal convolution (heads 128 wide, kernel of 4), projections "
            "excluded",
            (_BATCH, _QUERY, *_GDN),
        ),
        Operation(
            "gdn_decode",
            "one step of the gated delta rule per sequence behind its convolution, state in fp32, projections excluded",
            (_BATCH, *_GDN),
        ),
        Operation(
            "dsa_prefill",
            "DeepSeek sparse attention of new tokens, whole module with its projections and indexer (the best 2048 of "
            "all tokens); dtype is that of the projections",
            (_BATCH, _QUERY, _PREFIX, *_DSA),
        ),
        Operation(
            "dsa_decode",
            "the same module for one new token per sequence",
            (_BATCH, _CONTEXT, *_DSA),
        ),
        Operation(
            "moe",
            "routed experts of one layer on the busiest GPU of its group: gate/up, activation, down",
            (
                _tokens("tokens", "tokens that enter the layer, over all GPUs of the expert group"),
                _count("hidden", "model width", unit="elements"),
                _count("intermediate", "width of one expert, before the tensor split", unit="elements"),
                _count("top_k", "experts per token"),
                _count("experts", "routed experts of the layer"),
                _count("moe_tp", "GPUs that split each expert"),
                _count("moe_ep", "GPUs that share out the experts"),
                _count("gated", "1: gate, up and down; 0: up and down", 0),
                Column(
                    "routing",
                    "str",
                    "balanced, or power_law_<alpha>: skew of tokens over experts",
                    pattern=r"balanced|power_law_\d+(\.\d+)?",
                ),
            ),
        ),
        Operation(
            "collective",
            "one collective over num_gpus GPUs of a scale-up domain, in a CUDA graph where possible",
            (
                Column(
                    "kind",
                    "str",
                    "all_reduce, all_gather, reduce_scatter, all_to_all, or send_recv (rank 0 to 1)",
                    levels=("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"),
                ),
                _count("message_bytes", "the full buffer of one rank (input or output, the larger)", unit="bytes"),
            ),
        ),
        Operation(
            "memcpy",
            "one copy of a contiguous buffer; dtype is int8 by convention",
            (
                Column(
                    "kind",
                    "str",
                    "device_to_device, host_to_device or device_to_host (pinned host memory)",
                    levels=("device_to_device", "host_to_device", "device_to_host"),
                ),
                _count("copied_bytes", "bytes that arrive at the target", unit="bytes"),
            ),
            predicted=False,
        ),
        Operation(
            "launch",
            "an empty kernel, one after the other: what a launch costs; dtype is int8 by convention",
            (
                Column(
                    "kind",
                    "str",
                    "kernel (from the host) or graph_kernel (replayed from a CUDA graph)",
                    levels=("kernel", "graph_kernel"),
                ),
            ),
            predicted=False,
        ),
    )
}


def _optional(
    name: str, kind: str, meaning: str, minimum: float = 0.0, unit: str = "", maximum: float = math.inf
) -> Column:
    return Column(name, kind, f"{meaning}, or null", required=False, minimum=minimum, maximum=maximum, unit=unit)


_SHORTEST_US, _LONGEST_US = 1e-3, 1e9  # a clock of 1 GHz; a quarter of an hour
_MOST_RANKS = 1024  # of one scale-up domain: more than any that is built (NVL576)


COMMON: tuple[Column, ...] = (
    Column("gpu", "str", "GPU type, as the hardware catalogue names it"),
    Column("num_gpus", "int", "GPUs that took part", minimum=1, maximum=_MOST_RANKS),
    Column("dtype", "str", "precision of the operation", levels=DTYPES),
    Column("latency_us", "float", "median latency", minimum=_SHORTEST_US, maximum=_LONGEST_US, unit="µs"),
    _optional("latency_p10_us", "float", "10th percentile of the latency", _SHORTEST_US, "µs", _LONGEST_US),
    _optional("latency_p90_us", "float", "90th percentile of the latency", _SHORTEST_US, "µs", _LONGEST_US),
    _optional("repeats", "int", "timed repeats", 1),
    _optional("power_watts", "float", "mean board power under the operation", unit="W", maximum=1e5),
    _optional("clock_mhz", "float", "median of the SM clocks read under the operation", unit="MHz", maximum=1e5),
    Column("kernel", "str", "kernel or library path that ran"),
    Column("framework", "str", "vllm, sglang, trtllm, nccl, torch, ..."),
    Column("framework_version", "str", "its version"),
    _optional("driver", "str", "driver version"),
    _optional("torch_version", "str", "PyTorch version"),
    _optional("cuda_version", "str", "CUDA version"),
    Column("source", "str", "who measured it and where it was published"),
    Column(
        "date",
        "str",
        "ISO date (YYYY-MM-DD) of the measurement, or of its retrieval where nothing better is known",
        pattern=r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
    ),
)

# (smaller or equal, larger): pairs of columns that contradict each other in the opposite order.
_ORDERED = (
    ("latency_p10_us", "latency_us"),
    ("latency_us", "latency_p90_us"),
    ("kv_heads", "heads"),
    ("key_heads", "value_heads"),
    ("top_k", "experts"),
)
_LARGEST_INT = 2**53  # above it a float column no longer holds whole numbers exactly
_NULLABLE: dict[str, tuple[object, str]] = {
    "int": (pd.NA, "Int64"),
    "float": (np.nan, "float64"),
    "str": (None, "str"),
}
_REQUIRED = {"int": "int64", "float": "float64", "str": "str"}


def find_operation(name: str) -> Operation:
    """The operation called ``name``.

    Raises:
        UnknownName: there is none.
    """
    if name not in OPERATIONS:
        raise UnknownName("operation", name, OPERATIONS)
    return OPERATIONS[name]


def columns_of(operation: Operation) -> tuple[Column, ...]:
    """All columns of the operation's rows, in the order of its files."""
    return (*COMMON[:3], *operation.shape, *COMMON[3:])


def empty_rows(operation: Operation) -> pd.DataFrame:
    """No rows, with the columns and types that :func:`validate` gives."""
    return pd.DataFrame(
        {
            column.name: pd.Series(dtype=_REQUIRED[column.kind] if column.required else _NULLABLE[column.kind][1])
            for column in columns_of(operation)
        }
    )


def validate(operation: Operation, rows: pd.DataFrame, where: str = "rows") -> pd.DataFrame:
    """``rows`` with exactly the operation's columns, in order and typed, numbered from 0.

    Optional columns that are missing are added as null. ``where`` names the origin in errors. ``rows`` itself
    is not changed.

    Raises:
        DataError: a required column is missing or null (a row without provenance is refused), a column is not
            known or comes twice (a unit in the wrong column must not pass silently), a value is out of range,
            or two columns contradict each other. The message names the column and the first offending row.
    """
    known = {column.name: column for column in columns_of(operation)}
    strangers = [str(name) for name in rows.columns if name not in known]
    if strangers:
        raise DataError(
            f"{where}: column {shown(strangers[0])} is not a column of operation {operation.name}",
            f"known: {', '.join(known)} (times in microseconds, sizes in bytes)",
        )
    if not rows.columns.is_unique:
        twice = rows.columns[rows.columns.duplicated()][0]
        raise DataError(f"{where}: column {twice!r} comes twice", "give each column once")
    rows = rows.reset_index(drop=True)
    out: dict[str, pd.Series] = {}
    for column in known.values():
        if column.name in rows.columns:
            out[column.name] = _typed(column, rows[column.name], where)
        elif column.required:
            raise DataError(
                f"{where}: column {column.name!r} is missing", f"every row needs it; it is: {column.meaning}"
            )
        else:
            null, dtype = _NULLABLE[column.kind]
            out[column.name] = pd.Series(null, index=rows.index, dtype=dtype)
    for low, high in _ORDERED:
        if low in out and high in out:
            crossed = (out[low] > out[high]).fillna(False)
            _refuse(where, known[low], out[low], crossed, f"is above {high}")
    return pd.DataFrame(out, index=rows.index, copy=False)


def _typed(column: Column, values: pd.Series, where: str) -> pd.Series:
    return _text(column, values, where) if column.kind == "str" else _number(column, values, where)


def _text(column: Column, values: pd.Series, where: str) -> pd.Series:
    # Text columns hold few different values over many rows: each is judged once.
    typed = values
    if values.dtype != "str":
        typed = values.astype("object").where(values.notna(), None).astype("str")
    different = pd.Series(typed.unique(), dtype="str")
    blank = different.isna() | (different.str.strip() == "")
    if blank.any():
        empty = typed.isin(different[blank]) | typed.isna()
        _refuse(where, column, values, empty & column.required, "is empty")
        typed = typed.where(~empty, None)
    named = different[~blank]
    if column.levels:
        strange = typed.isin(named[~named.isin(column.levels)])
        _refuse(where, column, typed, strange, f"is not one of {', '.join(column.levels)}")
    if column.pattern:
        strange = typed.isin(named[~named.str.fullmatch(column.pattern)])
        _refuse(where, column, typed, strange, "has not the form it must have")
    return typed


def _number(column: Column, values: pd.Series, where: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    if pd.api.types.is_bool_dtype(numbers.dtype):
        numbers = numbers.astype("Int64")
    missing = numbers.isna()
    if missing.any():
        _refuse(where, column, values, missing & (column.required | values.notna()), "is not a number")
    plain = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    _refuse(where, column, values, np.isinf(plain), "is not finite")
    _refuse(where, column, values, plain < column.minimum, f"is below {column.minimum:g}")
    _refuse(where, column, values, plain > column.maximum, f"is above {column.maximum:g}")
    if column.kind == "float":
        return pd.Series(plain, index=values.index, copy=False)
    if not pd.api.types.is_integer_dtype(numbers.dtype):
        _refuse(where, column, values, ~np.isnan(plain) & (plain % 1 != 0), "is not a whole number")
    _refuse(where, column, values, plain > _LARGEST_INT, "is too large")
    return numbers.astype("int64") if column.required else numbers.astype("Int64")


def _refuse(where: str, column: Column, values: pd.Series, bad: pd.Series | np.ndarray, why: str) -> None:
    positions = np.flatnonzero(np.asarray(bad, dtype=bool))
    if len(positions):
        first = int(positions[0])
        value = values.iloc[first]
        plain = value.item() if isinstance(value, np.generic) else value
        if plain is pd.NA or plain != plain:
            plain = None  # a gap
        unit = f" ({column.unit})" if column.unit else ""
        raise DataError(
            f"{where}: row {first} (counted from 0), column {column.name!r}: {shown(plain)} {why}"
            + (f" ({len(positions):,} such rows)" if len(positions) > 1 else ""),
            f"correct or remove it; {column.name} is: {column.meaning}{unit}",
        )


def merge_rows(operation: Operation, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows of the validated ``tables``; where two have the same key, the one in the later table wins.

    Within one table the later row wins.
    """
    filled = [table for table in tables if len(table)]
    if not filled:
        return empty_rows(operation)
    rows = pd.concat(filled, ignore_index=True) if len(filled) > 1 else filled[0]
    repeated = rows.duplicated(operation.key, keep="last").to_numpy()
    return (rows[~repeated] if repeated.any() else rows).reset_index(drop=True)
