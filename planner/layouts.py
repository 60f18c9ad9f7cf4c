"""Which parallel layouts of a model are legal on a pool, and why the others are not.

Every combination of degrees is tried against the rules below in order; the first that refuses it names the reason. The rules
are those of the frameworks (what divides what), of the machine (what fits into a node) and of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.architecture import Architecture, GroupedQueryAttention, MixtureOfExperts
from costmodels.layouts import Layouts
from costmodels.precision import Precision
from costmodels.serving.frameworks import Framework

BLOCK = 128  # width of the scale blocks of fp8_block; a split must not cut through one

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rejected:
    """Layouts refused for one reason; ``example`` is one of them."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Restrictions:
    """What the pool and the user allow."""

    gpus: int
    gpus_per_node: int
    max_tp: int | None = None
    max_pp: int | None = None
    max_engine_gpus: int | None = None
    tp_across_nodes: bool = False


def label(layouts: Layouts, i: int) -> str:
    """A layout in words: ``TP4 PP2``."""
    parts = [f"TP{layouts.tp[i]}"]
    for name, degrees in (("PP", layouts.pp), ("DP", layouts.dp), ("EP", layouts.ep)):
        if degrees[i] > 1:
            parts.append(f"{name}{degrees[i]}")
    return " ".join(parts)


def legal_layouts(
    model: Architecture, precision: Precision, framework: Framework, allowed: Restrictions
) -> tuple[Layouts, list[Rejected], int]:
    """(legal layouts, rejections by reason with the largest first, layouts considered). Memory is judged later."""
    universe = Layouts.of(list(_universe(model, framework, allowed)))
    alive = np.ones(len(universe), dtype=bool)
    rejected = []
    for reason, refuses in _rules(model, precision, allowed):
        bad = alive & refuses(universe)
        if bad.any():
            rejected.append(Rejected(reason, int(bad.sum()), label(universe, int(np.flatnonzero(bad)[0]))))
            alive &= ~bad
    return universe.take(np.flatnonzero(alive)), rejected, len(universe)


def _degrees(limit: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: powers of two and three times them, the sizes that nodes and head counts have."""
    powers = [2**i for i in range(limit.bit_length())]
    return sorted({d for p in powers for d in (p, 3 * p) if d <= limit})


def _universe(
    model: Architecture, framework: Framework, allowed: Restrictions
) -> Iterator[tuple[int, int, int, int, int]]:
    most = allowed.gpus
    for tp in _degrees(most):
        for pp in _degrees(min(most // tp, model.layers)):
            for dp in _degrees(most // (tp * pp)) if model.is_moe else [1]:
                group = tp * dp
                if not model.is_moe:
                    splits = [1]
                elif framework.expert_splits == "any":
                    splits = [d for d in range(1, group + 1) if group % d == 0]
                else:
                    splits = sorted({1, group})
                for ep in splits:
                    yield tp, pp, dp, ep, group // ep


def _rules(
    model: Architecture, precision: Precision, allowed: Restrictions
) -> Iterator[tuple[str, Callable[[Layouts], Mask]]]:
    if allowed.max_tp is not None:
        yield f"tp above --max-tp {allowed.max_tp}", lambda x: x.tp > allowed.max_tp
    if allowed.max_pp is not None:
        yield f"pp above --max-pp {allowed.max_pp}", lambda x: x.pp > allowed.max_pp
    if allowed.max_engine_gpus is not None:
        yield (
            f"engine above --max-engine-gpus {allowed.max_engine_gpus}",
            lambda x: x.gpus > allowed.max_engine_gpus,
        )
    node = min(allowed.gpus_per_node, allowed.gpus)
    if not allowed.tp_across_nodes:
        yield (
            f"tensor-parallel group does not fit into a node of {node} GPUs (--tp-across-nodes allows it)",
            lambda x: x.tp > node,
        )
    yield (
        f"engine of several nodes does not fill them with whole tensor-parallel groups ({node} GPUs a node)",
        lambda x: (x.gpus > node) & (node % x.tp != 0) & (x.tp % node != 0),
    )
    for group in model.layer_groups:
        heads = group.attention.heads
        yield f"{heads} attention heads do not divide by tp", lambda x, heads=heads: heads % x.tp != 0
        if isinstance(group.attention, GroupedQueryAttention):
            kv = group.attention.kv_heads
            yield (
                f"{kv} KV heads neither divide by tp nor replicate evenly over it",
                lambda x, kv=kv: (kv % x.tp != 0) & (x.tp % kv != 0),
            )
        ffn = group.feed_forward
        if isinstance(ffn, MixtureOfExperts):
            yield from _expert_rules(ffn, precision)
        else:
            yield from _dense_rules("feed-forward", ffn.intermediate, precision.dense)


def _dense_rules(what: str, width: int, dtype: str) -> Iterator[tuple[str, Callable[[Layouts], Mask]]]:
    yield f"{what} width {width} does not divide by tp", lambda x: width % x.tp != 0
    if dtype == "fp8_block":
        yield (
            f"{what} width {width} ÷ tp is not a multiple of the {BLOCK}-wide scale blocks",
            lambda x: width // x.tp % BLOCK != 0,
        )


def _expert_rules(ffn: MixtureOfExperts, precision: Precision) -> Iterator[tuple[str, Callable[[Layouts], Mask]]]:
    yield f"{ffn.experts} experts do not divide by ep", lambda x: ffn.experts % x.ep != 0
    yield (
        f"expert width {ffn.intermediate} does not divide by the tensor split of experts",
        lambda x: ffn.intermediate % x.moe_tp != 0,
    )
    if precision.experts == "fp8_block":
        yield (
            f"expert width {ffn.intermediate} ÷ tensor split is not a multiple of the {BLOCK}-wide scale blocks",
            lambda x: ffn.intermediate // x.moe_tp % BLOCK != 0,
        )
    if ffn.shared_intermediate:
        yield from _dense_rules("shared expert", ffn.shared_intermediate, precision.shared_experts)


