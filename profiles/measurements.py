"""The measurement row: one timed operation on one GPU type, its shape, its latency and where it is from.

Its columns are those of its operation (:mod:`profiles.operation_tables`) and those below, which every row has.
Validation, importers, the store and ``plan profile show`` all read them.
"""

from __future__ import annotations

import math

from profiles.errors import UnknownName
from profiles.operation_tables import DTYPE_MEANINGS, DTYPES, OPERATIONS, Column, Operation

__all__ = [
    "COMMON",
    "DTYPES",
    "DTYPE_MEANINGS",
    "FORMAT_VERSION",
    "OPERATIONS",
    "Column",
    "Operation",
    "columns_of",
    "find_operation",
]

FORMAT_VERSION = 1


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
