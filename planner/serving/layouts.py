"""Which parallel layouts of a model are legal on a pool, and why the others are not.

Every combination of degrees is tried against the rules below in order; the first that refuses it names the
reason. The rules are those of the frameworks (what divides what) and of the machine (what fits into a node).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Ints
from costmodels.models.architecture import (
    Architecture,
    Attention,
    BlockSparseAttention,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
    NoFeedForward,
    ParallelMixers,
)
from costmodels.models.mixers import CompressedAttention, KimiDeltaAttention, Mamba, Mamba2, NoMixer
from costmodels.models.precision import Precision
from costmodels.operations.layouts import DEGREES, Layouts
from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import Layout
from planner.launchers import cannot_express

BLOCK = 128  # width of the scale blocks of fp8_block; a split must not cut through one

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rejected:
    """Layouts refused for one reason; ``example`` is one of them. ``of_memory``: they are legal but too big."""

    reason: str
    count: int
    example: str
    of_memory: bool = False


@dataclass(frozen=True)
class Restrictions:
    """What the pool and the user allow."""

    gpus: int
    gpus_per_node: int
    max_tp: int | None = None
    max_pp: int | None = None
    max_engine_gpus: int | None = None
    tp_across_nodes: bool = False


def layout_at(layouts: Layouts, i: int) -> Layout:
    """One of many layouts, as the plan document writes it."""
    return Layout(**dict(zip(DEGREES, layouts.row(i), strict=True)))


def degrees_of(layout: Layout) -> tuple[int, ...]:
    """As a row of :class:`Layouts`."""
    return tuple(getattr(layout, degree) for degree in DEGREES)


def legal_layouts(
    model: Architecture, precision: Precision, framework: Framework, allowed: Restrictions
) -> tuple[Layouts, list[Rejected], int]:
    """(legal layouts, rejections by reason with the largest first, layouts considered). Memory is judged later."""
    universe = Layouts.of(list(_universe(model, framework, allowed)))
    alive = np.ones(len(universe), dtype=bool)
    rejected = []
    for reason, refuses in _rules(model, precision, framework, allowed):
        bad = alive & refuses(universe)
        if bad.any():
            rejected.append(Rejected(reason, int(bad.sum()), layout_at(universe, int(np.flatnonzero(bad)[0])).label))
            alive &= ~bad
    unsaid: dict[str, list[int]] = {}
    for i in np.flatnonzero(alive).tolist():
        why = cannot_express(framework.name, layout_at(universe, i), is_moe=model.is_moe)
        if why is not None:
            unsaid.setdefault(why, []).append(i)
    for why, indices in unsaid.items():
        rejected.append(Rejected(why, len(indices), layout_at(universe, indices[0]).label))
        alive[indices] = False
    return universe.take(np.flatnonzero(alive)), rejected, len(universe)


def _degrees(limit: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: powers of two and three times them, the sizes that nodes and head counts have."""
    powers = [2**i for i in range(limit.bit_length())]
    return sorted({d for p in powers for d in (p, 3 * p) if d <= limit})


@cache
def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


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
                elif framework.parallelism.expert_splits == "any":
                    splits = _divisors(group)
                else:
                    splits = sorted({1, group})
                for ep in splits:
                    yield tp, pp, dp, ep, group // ep


def _rules(
    model: Architecture, precision: Precision, framework: Framework, allowed: Restrictions
) -> Iterator[tuple[str, Callable[[Layouts], Mask]]]:
    limits = (
        ("--max-tp", allowed.max_tp, attrgetter("tp")),
        ("--max-pp", allowed.max_pp, attrgetter("pp")),
        ("--max-engine-gpus", allowed.max_engine_gpus, attrgetter("gpus")),
    )
    for option, most, degree in limits:
        if most is not None:
            yield f"above {option} {most}", partial(_above, degree, most)
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
    # Exchanges within a stage are costed as those of whole nodes, or as those within one.
    yield (
        f"stage of tp × dp GPUs straddles nodes ({node} GPUs a node)",
        lambda x: (x.gpus > node) & (node % x.stage_gpus != 0) & (x.stage_gpus % node != 0),
    )
    if framework.parallelism.scatters_attention_replicas:
        yield (
            f"{framework.full_name} scatters the attention replicas of a stage over more nodes than they fill",
            lambda x: (x.gpus > node) & (x.pp > 1) & (x.dp > 1) & (x.tp % node != 0),
        )
    yield (
        f"engine of several nodes does not fill them evenly ({node} GPUs a node); no framework starts it so",
        lambda x: (x.gpus > node) & (x.gpus % node != 0),
    )
    for group in model.layer_groups:
        local, ffn = precision.within(group), group.feed_forward
        if not isinstance(group.attention, NoMixer):
            yield from _attention_rules(group.attention, local)
        if isinstance(ffn, MixtureOfExperts):
            yield from _expert_rules(ffn, local)
        elif not isinstance(ffn, NoFeedForward):
            yield from _dense_rules("feed-forward", ffn.intermediate, local.dense)


def _above(degree: Callable[[Layouts], Ints], most: int, layouts: Layouts) -> Mask:
    return degree(layouts) > most


def _attention_rules(attention: Attention, precision: Precision) -> Iterator[tuple[str, Callable[[Layouts], Mask]]]:
    if isinstance(attention, ParallelMixers):
        yield from _attention_rules(attention.attention, precision)
        yield from _attention_rules(attention.state_space, precision)
        return
    if isinstance(attention, BlockSparseAttention):
        attention = attention.attention
    heads = attention.heads
    yield f"{heads} {_heads_of(attention)} do not divide by tp", lambda x: heads % x.tp != 0
    widths: dict[str, tuple[int, int]] = {}
    if isinstance(attention, Mamba2):
        groups = attention.groups
        yield (
            f"{groups} Mamba-2 groups neither divide by tp nor replicate evenly over it",
            lambda x: (groups % x.tp != 0) & (x.tp % groups != 0),
        )
    elif isinstance(attention, CompressedAttention):
        outputs = attention.output_groups
        yield f"{outputs} groups of the output projection do not divide by tp", lambda x: outputs % x.tp != 0
    elif isinstance(attention, GroupedQueryAttention):
        kv = attention.kv_heads
        yield (
            f"{kv} KV heads neither divide by tp nor replicate evenly over it",
            lambda x: (kv % x.tp != 0) & (x.tp % kv != 0),
        )
        widths = {"query": (heads, attention.head_dim), "KV": (kv, attention.head_dim)}
    elif isinstance(attention, GatedDeltaNet):
        widths = {
            "key": (attention.key_heads, attention.key_dim),
            "value": (attention.value_heads, attention.value_dim),
        }
    elif isinstance(attention, KimiDeltaAttention):
        widths = {"key": (heads, attention.head_dim)}
    elif isinstance(attention, LatentAttention):
        widths = {"query": (heads, attention.qk_nope_head_dim + attention.qk_rope_head_dim)}
    if precision.attention_qkv == "fp8_block":
        for what, (count, width) in widths.items():
            yield (
                f"{what} heads of width {width} ÷ tp are not a multiple of the {BLOCK}-wide scale blocks",
                partial(_cuts_block, count, width),
            )


def _heads_of(attention: Attention) -> str:
    """What ``heads`` counts."""
    if isinstance(attention, Mamba):
        return "Mamba channels"
    return "Mamba-2 heads" if isinstance(attention, Mamba2) else "attention heads"


def _cuts_block(heads: int, width: int, layouts: Layouts) -> Mask:
    """Whether a rank's heads, replicated where tp exceeds them, cut through a scale block. Unsplit weights may end
    in a part of one."""
    cut: Mask = np.maximum(heads // layouts.tp, 1) * width % BLOCK != 0
    return cut & (layouts.tp > 1)


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
