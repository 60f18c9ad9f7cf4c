"""Attention over K and V of one width for all heads of a group: multi-head, grouped-query, multi-query."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.architecture import GroupedQueryAttention
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.kernel import Kernel
from costmodels.operations.layers import (
    AttentionKind,
    Rule,
    heads_divide,
    output_groups,
    replicate_evenly,
    whole_blocks,
)
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep, Split
from costmodels.operations.roofline import Columns, Hardware, Work, code, element_bytes, floats, visible_pairs
from costmodels.operations.shape_features import Features, log, logs, waves


def _prefill_work(q: Columns) -> Work:
    batch, query, prefix = floats(q, "batch", "query_tokens", "prefix_tokens")
    heads, kv_heads, dim, window = floats(q, "heads", "kv_heads", "head_dim", "window_tokens")
    flops = 4 * batch * heads * dim * visible_pairs(query, prefix, window)
    keys = np.where(window > 0, np.minimum(prefix, window) + query, prefix + query)
    moved = batch * dim * (4 * query * heads + 2 * keys * kv_heads * element_bytes(q, "kv_dtype"))
    return Work.local(flops, moved)


def _decode_work(q: Columns) -> Work:
    batch, context, window = floats(q, "batch", "context_tokens", "window_tokens")
    heads, kv_heads, dim = floats(q, "heads", "kv_heads", "head_dim")
    keys = np.where(window > 0, np.minimum(context, window), context)
    moved = batch * dim * (4 * heads + 2 * keys * kv_heads * element_bytes(q, "kv_dtype"))
    return Work.local(4 * batch * heads * dim * keys, moved)


def _prefill_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, heads = floats(q, "batch", "query_tokens", "heads")
    count, used = waves(batch * heads * np.ceil(query / 128), hw, gpu)
    return {
        **logs(q, "batch", "query_tokens", "prefix_tokens", "heads", "kv_heads", "head_dim", "window_tokens"),
        "group": log(q["heads"]) - log(q["kv_heads"]),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "tokens": np.log2(batch * query),
        "waves": count,
        "used": used,
    }


def _decode_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, kv_heads = floats(q, "batch", "kv_heads")
    count, used = waves(batch * kv_heads, hw, gpu)
    return {
        **logs(q, "batch", "context_tokens", "heads", "kv_heads", "head_dim", "window_tokens"),
        "group": log(q["heads"]) - log(q["kv_heads"]),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "cached": log(q["batch"]) + log(q["context_tokens"]),
        "waves": count,
        "used": used,
    }


_SHAPE = ("heads", "kv_heads", "head_dim", "window_tokens")
_NEAR_SHAPE = {"heads": 1.0, "kv_heads": 1.0, "head_dim": 4.0, "window_tokens": 2.0}

PREFILL = Kernel(
    name="attention_prefill",
    part="attention",
    factor="attention_prefill",
    work=_prefill_work,
    features=_prefill_features,
    group=_SHAPE,
    range=("batch", "query_tokens", "prefix_tokens", "heads", "head_dim"),
    near={"batch": 2.0, "query_tokens": 2.0, **_NEAR_SHAPE},
    cells=("batch", "query_tokens"),
    leaf_rows=5,
)
DECODE = Kernel(
    name="attention_decode",
    part="attention",
    factor="attention_decode",
    work=_decode_work,
    features=_decode_features,
    group=_SHAPE,
    range=("batch", "context_tokens", "heads", "head_dim"),
    near={"batch": 2.0, "context_tokens": 2.0, **_NEAR_SHAPE},
    cells=("batch", "context_tokens"),
    leaf_rows=5,
)


class GroupedQueryKind(AttentionKind[GroupedQueryAttention]):
    """Heads are split; KV heads are copied where the tensor-parallel degree exceeds them."""

    layer = GroupedQueryAttention

    def ask(self, step: LayerStep, layer: GroupedQueryAttention, count: int) -> None:
        precision, tp, batch, hidden = step.split.precision, step.split.layouts.tp, step.batch, step.split.hidden
        heads = layer.heads // tp
        kv_heads = np.maximum(layer.kv_heads // tp, 1)
        query = heads * layer.head_dim * (2 if layer.gated_output else 1)
        width = query + kv_heads * (layer.head_dim + layer.value_head_dim)
        gates = heads if layer.head_gate else 0
        ask_product(step, precision.attention_qkv, batch.tokens, width + gates, hidden, count)
        shape = {
            "dtype": code("dtype", "bf16"),
            "kv_dtype": code("kv_dtype", precision.kv),
            "heads": heads,
            "kv_heads": kv_heads,
            # FLOPs and bytes go by the mean of the two widths.
            "head_dim": (layer.head_dim + layer.value_head_dim) // 2,
        }
        windows = layer.window_tokens
        # A window that no sequence reaches is full attention.
        longest = np.maximum(batch.prefix + batch.chunk, batch.context)
        shape["window_tokens"] = np.where(longest > windows, windows, 0) if windows else 0
        # The queries of a sequence read its cache once, like so many more heads of the same KV head.
        verified = {**shape, "heads": heads * batch.queries}
        step.work.ask(
            PREFILL,
            count,
            batch.prefills > 0,
            batch=batch.prefills,
            query_tokens=batch.chunk,
            prefix_tokens=batch.prefix,
            **shape,
        )
        decoding = batch.decodes > 0
        step.work.ask(DECODE, count, decoding, batch=batch.decodes, context_tokens=batch.context, **verified)
        ask_product(step, precision.attention_output, batch.tokens, hidden, heads * layer.value_head_dim, count)
        # Rotary embedding and the cache write each read and write the q, k, v of the rank.
        step.work.touch(batch.tokens * width * (2.0 * 2 * ACTIVATION_BYTES), 2, count)
        step.reduce(count)

    def weights_bytes(self, split: Split, layer: GroupedQueryAttention) -> Iterator[Floats | float]:
        qkv, out = split.weight_bytes("attention_qkv"), split.weight_bytes("attention_output")
        heads, kv_heads = layer.heads / split.layouts.tp, np.maximum(layer.kv_heads / split.layouts.tp, 1.0)
        query = np.asarray(heads) * (layer.head_dim * (2 if layer.gated_output else 1) + layer.head_gate)
        cached = layer.head_dim + layer.value_head_dim
        yield split.hidden * (query + kv_heads * cached) * qkv + heads * layer.value_head_dim * split.hidden * out

    def cache_bytes(self, split: Split, layer: GroupedQueryAttention, count: int, tokens: Floats) -> Floats:
        if layer.shared_cache:
            return np.zeros(len(split.layouts))
        kept = np.minimum(tokens, layer.window_tokens) if layer.window_tokens else tokens
        kv_heads = np.maximum(layer.kv_heads / split.layouts.tp, 1.0)
        per_token = kv_heads * (layer.head_dim + layer.value_head_dim) * split.kv_bytes
        return np.asarray(count * (per_token * kept))

    def widths(self, layer: GroupedQueryAttention) -> None:
        return None

    def rules(self, layer: GroupedQueryAttention, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads)
        yield replicate_evenly(layer.kv_heads, "KV heads")
        # Key heads of a width of their own may end inside a block, and engines load these on their own: MiMo-V2's on 4
        # ranks (vLLM's recipe; ROCm/ATOM pull request 560, read 2026-11-28).
        if not layer.value_dim:
            yield from whole_blocks(precision, query=(layer.heads, layer.head_dim), KV=(layer.kv_heads, layer.head_dim))
        yield from output_groups(layer.heads * layer.value_head_dim, precision)


GROUPED_QUERY = GroupedQueryKind()
FAMILY = OperationFamily("attention", (PREFILL, DECODE), (GROUPED_QUERY,))
