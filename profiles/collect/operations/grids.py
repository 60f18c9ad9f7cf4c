"""The plain grids: shapes of real models (``grid.json``), most useful first. No torch.

Each axis of ``grid.json`` is ordered by use; :func:`diagonal` walks their product so that an early stop leaves a
coarse grid over everything rather than a fine one over a corner. The same points are the active sampler's candidates.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.collect.operations.work import MLA_QK, MLA_VALUE, work
from profiles.collect.points import Point
from profiles.operation_tables import LINEAR_KINDS

if TYPE_CHECKING:
    from profiles.collect.devices import Device

Shape = dict[str, int | str]
FLOATS = ("bf16", "fp16", "fp32")


@functools.cache
def table() -> dict[str, Any]:
    """``grid.json``."""
    content: dict[str, Any] = json.loads((Path(__file__).parent / "grid.json").read_text(encoding="utf-8"))
    return content


def diagonal(*axes: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The product of ``axes``, combinations of early entries before those with any late one."""
    places = itertools.product(*(range(len(axis)) for axis in axes))
    for place in sorted(places, key=lambda place: (sum(place), place)):
        yield tuple(axis[index] for axis, index in zip(axes, place, strict=True))


def points(
    device: Device, operation: str, shapes: Iterable[Shape], dtypes: Sequence[str], num_gpus: int = 1
) -> Iterator[Point]:
    """Each shape once in each of ``dtypes``, without what is too long or too large for ``device``."""
    most = table()["most"]
    memory = min(most["moved_bytes"][device.kind], most["memory_share"] * device.memory_bytes)
    seen: set[str] = set()
    for shape in shapes:
        for dtype in dtypes:
            point = Point(operation, dtype, shape, num_gpus)
            if point.key in seen:
                continue
            seen.add(point.key)
            flops, moved_bytes = work(point)
            if flops <= most["flops"][device.kind] and moved_bytes <= memory:
                yield point


def _unique(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(rows))


def _products() -> list[tuple[int, int]]:
    """(features out, in) of the QKV, output, gate/up and down projections of every dense family at every tensor
    split."""

    def weights(family: dict[str, int], tp: int) -> Iterator[tuple[int, int]]:
        hidden, dim = family["hidden"], family["head_dim"]
        kv_heads = max(family["kv_heads"] // tp, 1)  # fewer than GPUs: engines replicate them
        yield 2 * family["intermediate"] // tp, hidden
        yield hidden, family["intermediate"] // tp
        yield (family["heads"] // tp + 2 * kv_heads) * dim, hidden
        yield hidden, family["heads"] // tp * dim

    return _unique(
        pair
        for family, tp in diagonal(table()["dense"], table()["tensor_parallel"])
        if family["heads"] % tp == 0 and family["intermediate"] % tp == 0
        for pair in weights(family, tp)
    )


def gemm_shapes() -> Iterator[Shape]:
    for m, (n, k) in diagonal(table()["gemm_tokens"], _products()):
        yield {"m": m, "n": n, "k": k}


def _heads() -> list[tuple[int, int, int, int]]:
    """(heads, kv_heads, head_dim, window_tokens) on one GPU of every dense family at every tensor split."""
    return _unique(
        (family["heads"] // tp, max(family["kv_heads"] // tp, 1), family["head_dim"], window)
        for family, tp in diagonal(table()["dense"], table()["tensor_parallel"])
        if family["heads"] % tp == 0
        for window in dict.fromkeys((0, family["window_tokens"]))
    )


def attention_shapes(decode: bool, kv_dtypes: Sequence[str]) -> Iterator[Shape]:
    for tokens, (heads, kv_heads, dim, window), kv in diagonal(_tokens(decode), _heads(), kv_dtypes):
        yield {
            **tokens,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": dim,
            "window_tokens": window,
            "kv_dtype": kv,
        }


def _tokens(decode: bool) -> list[Shape]:
    if decode:
        return [{"batch": b, "context_tokens": c} for b, c in diagonal(*map(_axis, ("decode_batch", "decode_context")))]
    return [
        {"batch": batch, "query_tokens": query, "prefix_tokens": prefix}
        for batch, query, prefix in diagonal(*map(_axis, ("prefill_batch", "prefill_query", "prefill_prefix")))
        if batch * query <= table()["prefill_most_tokens"]
    ]


def _axis(name: str) -> list[int]:
    axis: list[int] = table()[name] if name in table() else table()[f"{name}_tokens"]
    return axis


def mla_shapes(decode: bool, dtype: str) -> Iterator[Shape]:
    """The latent cache is in ``dtype`` too."""
    for tokens, heads in diagonal(_tokens(decode), table()["mla_heads"]):
        yield {**tokens, "heads": heads, "kv_dtype": dtype}


def mla_bmm_shapes() -> Iterator[Shape]:
    for tokens, heads, kind in diagonal(table()["gemm_tokens"], table()["mla_heads"], ["pre", "post"]):
        yield {"kind": kind, "tokens": tokens, "heads": heads}


def moe_shapes() -> Iterator[Shape]:
    axes = (table()["moe_tokens"], table()["moe"], table()["expert_groups"], table()["routing"])
    for tokens, family, (moe_tp, moe_ep), routing in diagonal(*axes):
        if family["experts"] % moe_ep == 0 and family["intermediate"] % (16 * moe_tp) == 0:
            layer = {name: value for name, value in family.items() if name != "model"}
            yield {"tokens": tokens, **layer, "moe_tp": moe_tp, "moe_ep": moe_ep, "routing": routing}


def collective_shapes(kinds: Sequence[str], ranks: int, element_bytes: int) -> Iterator[Shape]:
    """Messages that ``ranks`` can share out evenly: the next multiple above each of the table's."""
    unit = ranks * element_bytes
    for message, kind in diagonal(table()["message_bytes"], kinds):
        yield {"kind": kind, "message_bytes": -(-message // unit) * unit}


def memcpy_shapes(kinds: Sequence[str]) -> Iterator[Shape]:
    for copied, kind in diagonal(table()["copied_bytes"], kinds):
        yield {"kind": kind, "copied_bytes": copied}


# ------------------------------------------------------------------ training: all kinds of a shape one after the other


def training_linear_shapes() -> Iterator[Shape]:
    for tokens, (wide_out, wide_in) in diagonal(table()["training_tokens"], _products()):
        for kind in LINEAR_KINDS:
            yield {"kind": kind, "tokens": tokens, "in_features": wide_in, "out_features": wide_out}


def training_attention_shapes() -> Iterator[Shape]:
    """Of whole sequences, at the heads of every family and at those of latent attention."""
    heads = _unique((heads, kv, dim, dim) for heads, kv, dim, _ in _heads())
    heads[2:2] = [(heads, heads, MLA_QK, MLA_VALUE) for heads in table()["mla_heads"]]
    for batch, query, (count, kv_heads, dim, value) in diagonal(
        *map(_axis, ("training_batch", "training_query")), heads
    ):
        if batch * query <= table()["training_most_tokens"]:
            sizes = {"batch": batch, "query_tokens": query, "heads": count, "kv_heads": kv_heads}
            for kind in ("forward", "backward"):
                yield {"kind": kind, **sizes, "head_dim": dim, "value_dim": value}


def training_experts_shapes() -> Iterator[Shape]:
    """Both products of every family's experts, shared out over a group of GPUs on each of which so many tokens are;
    rows in multiples of 8, which grouped products in 16 bits want."""
    for tokens, family, ranks in diagonal(table()["training_tokens"], table()["moe"], table()["training_expert_ranks"]):
        local = family["experts"] // ranks
        if family["experts"] % ranks or local == 0:
            continue
        rows = tokens * family["top_k"] // local // 8 * 8
        hidden, width = family["hidden"], family["intermediate"]
        for wide_in, wide_out in ((hidden, (1 + family["gated"]) * width), (width, hidden)):
            for kind in LINEAR_KINDS if rows else ():
                sizes = {"experts": local, "rows": rows, "in_features": wide_in, "out_features": wide_out}
                yield {"kind": kind, **sizes}
