"""What every operation's roofline is made of: coded columns, bytes of a value, rates of a GPU, work. Vectorised.

The roofline (Williams et al., CACM 52(4), 2009) is the time below which no kernel can go:
max(FLOPs / peak rate, bytes / bandwidth). It is the yardstick of the forests and the answer where nothing
better is known. What an operation's FLOPs and bytes are, its family says (:mod:`costmodels.operations.registry`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from profiles.hardware import Gpu
from profiles.measurements import DTYPES
from profiles.operation_tables import EXCHANGE_KINDS

Columns = Mapping[str, NDArray[np.generic]]
"""Shape columns of ``n`` questions, as :data:`profiles.measurements.OPERATIONS` names them. Text columns
hold codes (see :data:`CODES`)."""

CODES: dict[str, tuple[str, ...]] = {
    "dtype": DTYPES,
    "kv_dtype": DTYPES,
    "kind": (
        *("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "pre", "post", "send_recv"),
        *("contiguous", "masked", "grouped"),
        *EXCHANGE_KINDS,
    ),
    "routing": (
        *("balanced", "power_law_1.01", "power_law_1.2"),
        *("power_law_0.6", "power_law_0.8", "power_law_1.01_eplb", "power_law_1.2_eplb"),
    ),
}
ROUTING_SKEW = np.array([0.0, 1.01, 1.2, 0.6, 0.8, 0.5, 0.55])
"""Exponents; with hot experts copied, those that leave a like spread over GPUs."""

# Bytes of one weight, scales included: fp8_block has one fp32 scale per 128×128 (negligible), nvfp4 one fp8
# scale per 16 values, mxfp4 one 8-bit exponent per 32, int4 (AWQ/GPTQ) one fp16 scale per 128.
WEIGHT_BYTES = dict(
    zip(
        DTYPES,
        (4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5 + 1 / 16, 0.5 + 1 / 32, 0.5 + 1 / 32, 0.5 + 2 / 128),
        strict=True,
    )
)
_ACTIVATION_BYTES = dict(zip(DTYPES, (4, 2, 2, 1, 2, 1, 1, 0.5 + 1 / 16, 2, 1, 2), strict=True))
# The tensor-core rate at which each precision multiplies; where a GPU lacks it, the next in the list.
_RATES = dict(
    zip(
        DTYPES,
        (
            ("tf32", "fp16", "bf16"), ("bf16", "fp16"), ("fp16", "bf16"), ("int8", "bf16", "fp16"), ("bf16", "fp16"),
            ("fp8", "bf16", "fp16"), ("fp8", "bf16", "fp16"), ("fp4", "fp8", "bf16", "fp16"),
            ("bf16", "fp16"), ("fp8", "bf16", "fp16"), ("bf16", "fp16"),
        ),
        strict=True,
    )
)  # fmt: skip


def stored_bytes(dtype: str, group: int = 0) -> float:
    """Of one weight with its share of a scale; ``group``: how many 4-bit integers share one (0: as is usual)."""
    return 0.5 + 2.0 / group if dtype == "int4" and group else WEIGHT_BYTES[dtype]


weight_bytes = np.array([WEIGHT_BYTES[dtype] for dtype in DTYPES])
activation_bytes = np.array([_ACTIVATION_BYTES[dtype] for dtype in DTYPES])


def code(column: str, value: str) -> int:
    """The code of a text value; raises ValueError for one without a code."""
    return CODES[column].index(value)


@dataclass(frozen=True)
class Hardware:
    """GPU facts as arrays, one row per GPU of ``names``: what the formulas need."""

    names: tuple[str, ...]
    peak_flops: Floats  # [gpus, dtypes]
    bandwidth: Floats  # [gpus], bytes/s
    link: Floats  # [gpus], scale-up bytes/s, one direction
    traits: Floats  # [gpus, traits], features of the forests
    trait_names: tuple[str, ...]

    @classmethod
    def of(cls, gpus: Sequence[Gpu]) -> Hardware:
        peaks = np.array(
            [[next(g.peak_flops[r] for r in _RATES[d] if r in g.peak_flops) for d in DTYPES] for g in gpus]
        )
        traits = np.array(
            [
                (
                    g.sm_count,
                    g.boost_clock_mhz / 1e3,
                    g.l2_bytes / 1e6,
                    np.log2(g.memory_bandwidth_bytes_per_s / 1e12),
                    g.compute_capability or 0.0,
                    np.log2(g.scale_up_bytes_per_s / 1e9),
                )
                for g in gpus
            ]
        )
        return cls(
            tuple(g.name for g in gpus),
            peaks,
            np.array([g.memory_bandwidth_bytes_per_s for g in gpus]),
            np.array([g.scale_up_bytes_per_s for g in gpus]),
            traits,
            ("sm_count", "clock", "l2", "bandwidth", "capability", "link"),
        )


@dataclass(frozen=True)
class Work:
    """What one operation has to do, per question: shape [n] each."""

    flops: Floats
    memory_bytes: Floats
    link_bytes: Floats

    @classmethod
    def local(cls, flops: Floats, memory_bytes: Floats) -> Work:
        """Of an operation that sends nothing."""
        return cls(flops, memory_bytes, np.zeros(len(flops)))


def times_us(todo: Work, dtype: NDArray[np.generic], gpu: Ints, hw: Hardware) -> tuple[Floats, Floats]:
    """(compute time, transfer time) of the roofline in µs, shape [n] each; ``gpu`` indexes ``hw``."""
    compute = todo.flops / hw.peak_flops[gpu, dtype.astype(np.int64)] * 1e6
    transfer = np.maximum(todo.memory_bytes / hw.bandwidth[gpu], todo.link_bytes / hw.link[gpu]) * 1e6
    return compute, transfer


def floats(q: Columns, *names: str) -> list[Floats]:
    """The columns ``names`` as numbers to reckon with."""
    return [np.asarray(q[name], dtype=np.float64) for name in names]


def of_dtype(table: Floats, q: Columns, column: str = "dtype") -> Floats:
    """``table`` [dtypes] at each question's precision, shape [n]."""
    return table[q[column].astype(np.int64)]


def element_bytes(q: Columns, column: str = "dtype") -> Floats:
    """Bytes of a stored element (a weight, an entry of the cache) at each question's precision, shape [n]."""
    return of_dtype(weight_bytes, q, column)


def visible_pairs(query: Floats, prefix: Floats, window: Floats) -> Floats:
    """Query–key pairs of causal attention: Σ_{i=1..query} min(prefix + i, window), window 0 meaning no
    limit."""
    limit = np.where(window > 0, window, np.inf)
    growing = np.clip(limit - prefix, 0, query)  # queries that still see everything before them
    full = query - growing
    return growing * prefix + growing * (growing + 1) / 2 + np.where(full > 0, full * np.minimum(limit, 1e18), 0)
