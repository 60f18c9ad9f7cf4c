"""Routed experts behind an all-to-all: every GPU works on what was sent to it, and on nothing else.

What decides is local, slots and tokens of a GPU: 288 slots on 72 GPUs are read as 256 on 64, four each. Rows are
measured at powers of two of both, and what lies between is taken between them (:func:`ask_wide_experts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.operations.exchanges import BALANCES, LOW_LATENCY, ONE_SIDED, TWO_SIDED, priced_as
from costmodels.operations.kernel import Kernel
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import LayerStep
from costmodels.operations.roofline import (
    ROUTING_SKEW,
    WEIGHT_BYTES,
    Columns,
    Hardware,
    Work,
    code,
    element_bytes,
    floats,
)
from costmodels.operations.shape_features import Features, logs, waves
from profiles.measurements import DTYPES
from profiles.shipped import shipped


def expected_active(experts: Floats, top_k: Floats, tokens: Floats) -> Floats:
    """Experts of ``experts`` that at least one of ``tokens`` uniformly routed tokens reaches, in
    expectation."""
    return experts * -np.expm1(tokens * np.log1p(-np.minimum(top_k / experts, 1 - 1e-12)))


def reached(places: Floats, top_k: Floats) -> Floats:
    """Of ``places`` of equal size, those in which a token's ``top_k`` experts lie, in expectation."""
    return places * -np.expm1(top_k * np.log1p(-1 / np.maximum(places, 1 + 1e-9)))


def _work(q: Columns) -> Work:
    tokens, hidden, top_k, slots, width = floats(q, "tokens", "hidden", "top_k", "slots", "intermediate")
    pairs = tokens * top_k
    active = slots * -np.expm1(-pairs / slots)
    weights = active * 3 * hidden * width * element_bytes(q)
    moved = weights + pairs * (2 * hidden + 3 * width) * 2
    return Work.local(2 * pairs * 3 * hidden * width, moved)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    tokens, top_k, slots, width = floats(q, "tokens", "top_k", "slots", "intermediate")
    rows = tokens * top_k / slots
    count, used = waves(slots * np.ceil(rows / 64) * np.ceil(width / 64), hw, gpu)
    return {
        **logs(q, "tokens", "hidden", "intermediate", "top_k", "slots"),
        "rows_per_slot": np.log2(rows),
        "kind": q["kind"].astype(np.float64),
        "skew": ROUTING_SKEW[q["routing"].astype(np.int64)],
        "waves": count,
        "used": used,
    }


WIDE_MOE = Kernel(
    name="wide_moe",
    part="moe",
    factor="",
    work=_work,
    features=_features,
    group=("hidden", "intermediate", "top_k", "slots"),
    range=("tokens", "hidden", "intermediate", "slots"),
    near={"tokens": 2.0, "slots": 2.0, "routing": 4.0},
    alike=("hidden", "intermediate", "top_k"),
    along="slots",
    apart=4,  # Blackwell was measured with 16 and 64 slots, not 32
    figures_of="moe",
)


MOST_MASKED = 128
"""Tokens of a GPU up to which masked products are measured. Beyond, times stay (reading the weights is what they take)
until there are :data:`FREE_ROWS`, and grow from there with what is computed."""

COMPUTED = 0.7
"""Of the time that one expert takes for :data:`MOST_MASKED` tokens, what is in proportion to them: twice what it takes
longer than for half of them, DeepSeek's 0.68 on H100, 0.71 on H200 and 0.77 on B200. (A line through both falls where a
forest has to answer.)"""

FREE_ROWS = 80
"""Rows of an expert, in the mean of a GPU's, from which its products take longer than reading its weights: as tokens
lie with EPLB, the busiest have three times as many, and weights hide some 250 (arithmetic ÷ bandwidth in 8 bits since
Hopper). Of rows alone: those of 2 to 16 slots with 64 to 256 rows each take longer (power_law_0.6; H100, B200, GB200)
by what falls by 0.68 with every doubling of slots, which for 32 slots is what this makes of 120 and of 210 rows. Spread
evenly it is 145."""


MASKED_IN = "fp8_block"
"""The precision of masked rows. Others take as much of their time as of their bytes: what they read, and the rate of
their tensor cores, go alike (DeepSeek-R1 in nvfp4 on 32 GB200 and GB300, 10 runs: 16 % too slow by a forest that has
seen other kernels in 4 bits)."""


@dataclass(frozen=True)
class BalanceFacts:
    """See ``expert_balance.yaml``, which has the sources. By how experts are balanced: the skew of the rows that answer
    for each kind of grouped products, the busiest GPU's share of the exchange ÷ the mean, and the busiest GPU's load ÷
    the mean that both stand for."""

    routing: Ints  # [BALANCES, kinds]
    busiest: Floats
    leaves: Floats


_KINDS = ("contiguous", "masked", "grouped")


@cache
def balance_facts() -> BalanceFacts:
    def parse(document: dict[str, Any]) -> BalanceFacts:
        entries = [document[name] for name in BALANCES]
        return BalanceFacts(
            np.array([[code("routing", entry["routing"][kind]) for kind in _KINDS] for entry in entries]),
            np.array([float(entry["busiest"]) for entry in entries]),
            np.array([float(entry["leaves"]) for entry in entries]),
        )

    return shipped(Path(__file__).parent / "expert_balance.yaml", parse)


def _kinds(exchange: Ints) -> Ints:
    like = priced_as(exchange)
    first = np.where(like == LOW_LATENCY, _KINDS.index("masked"), _KINDS.index("contiguous"))
    return np.where((like == ONE_SIDED) | (like == TWO_SIDED), _KINDS.index("grouped"), first)


def busiest_share(layouts: Layouts, routing: str) -> Floats:
    """The busiest GPU's part of an exchange ÷ the mean, [n]."""
    if routing == "balanced":
        return np.ones(len(layouts))
    return np.asarray(balance_facts().busiest[layouts.eplb])


def ask_wide_experts(
    step: LayerStep, count: float, when: NDArray[np.bool_], tokens: Floats, slots: Floats, **shape: object
) -> None:
    """Asks for the experts of ``tokens`` of each GPU on ``slots`` of it, [n]. The skew is that of rows which fit how
    experts are balanced; tokens that spread evenly leave none."""
    layouts = step.split.layouts
    routing = balance_facts().routing[layouts.eplb, _kinds(layouts.exchange)]
    if step.routing == "balanced":
        routing = np.full(len(layouts), code("routing", "balanced"))
    for share, columns in wide_questions(layouts.exchange, routing, tokens, slots, shape):
        step.work.ask(WIDE_MOE, count * share, when & (share != 0), **columns)


def wide_questions(
    exchange: Ints, routing: Ints, tokens: Floats, slots: Floats, shape: Mapping[str, object]
) -> Iterator[tuple[Floats, dict[str, object]]]:
    """What the experts of ``tokens`` of a GPU on ``slots`` of it, [n], are made of: each part's share and its columns.
    Between the powers of two that are measured, times are as if they were straight lines.

    Args:
        exchange, routing: shape [n], codes; the exchange decides which grouped products run.
        shape: ``dtype`` (a code), ``hidden``, ``intermediate`` and ``top_k``.
    """
    kinds, masked = _kinds(exchange), priced_as(exchange) == LOW_LATENCY
    coded = np.array([code("kind", name) for name in _KINDS])[kinds]
    inside = np.where(masked, np.minimum(tokens, MOST_MASKED), tokens)
    uneven = (kinds == _KINDS.index("contiguous")) & (routing != code("routing", "balanced"))
    corners = [(many, share, slots, routing) for many, share in _drawn(between_powers(inside), uneven)]
    free = np.maximum(FREE_ROWS * slots / np.asarray(shape["top_k"], np.float64), MOST_MASKED)
    beyond = np.where(masked, np.maximum(tokens - free, 0.0), 0.0) * COMPUTED / MOST_MASKED
    if beyond.any():  # what one expert more or less has to do is all arithmetic there
        even = np.full(len(kinds), code("routing", "balanced"))
        corners.append((np.full(len(kinds), MOST_MASKED), beyond, np.ones(len(kinds)), even))
    own = DTYPES[int(str(shape["dtype"]))]
    dtype = np.where(masked, code("dtype", MASKED_IN), code("dtype", own))
    each = np.where(masked, WEIGHT_BYTES[own] / WEIGHT_BYTES[MASKED_IN], 1.0)
    for many, many_share, places, skew in corners:
        for held, held_share in between_powers(places):
            columns = {**shape, "dtype": dtype, "tokens": many, "slots": held, "kind": coded, "routing": skew}
            yield many_share * held_share * each, columns


Corner = tuple[Ints, Floats]

DRAWS = (1024, 16384)
"""Tokens of a GPU from which contiguous products take as long as there are tokens, and up to which rows go."""


def _drawn(corners: tuple[Corner, Corner], uneven: NDArray[np.bool_]) -> list[Corner]:
    """``corners``, with rows of twice and half as many tokens where rows are ``uneven``, [n]: each of those is one
    draw of skewed experts (ratios to balanced ones jump by a tenth between sizes), and times are proportional."""
    out: list[Corner] = []
    for many, share in corners:
        mean = uneven & (many >= DRAWS[0])
        beside = mean & (many < DRAWS[1])
        each = np.where(mean, share / np.where(beside, 3.0, 2.0), share)
        out += [(many, each), (many // 2, np.where(mean, 2 * each, 0.0)), (2 * many, np.where(beside, each / 2, 0.0))]
    return out


def between_powers(values: Floats, most: Floats | float = 2.0**40) -> tuple[Corner, Corner]:
    """((power of two below, its weight), (the one above, its weight)) of straight lines between them, [n] each; above
    ``most``, a power of two itself, the line before it goes on."""
    below = np.exp2(np.floor(np.log2(np.clip(values, 1.0, most))))
    below = np.where(np.asarray(values) > most, np.minimum(below, most / 2), below)
    above = np.maximum(values, 1.0) / below - 1
    return (below.astype(np.int64), 1 - above), (2 * below.astype(np.int64), above)
