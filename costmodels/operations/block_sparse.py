"""Block-sparse attention: a query sees the best blocks of keys (MiniMax-M3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import BlockSparseAttention
from costmodels.models.precision import Precision
from costmodels.operations.attention import GROUPED_QUERY
from costmodels.operations.family import OperationFamily
from costmodels.operations.layers import Rule, Widths
from costmodels.operations.mixers import MixerKind
from costmodels.operations.phases import best_of_cache, best_of_cache_features, over_cache
from costmodels.operations.questions import LayerStep
from costmodels.operations.roofline import Columns, Work, code, element_bytes, floats

# Measured as a module, for MiniMax-M3's widths only: heads of 128, 16 of them a KV head, the best 16 blocks of 128
# tokens by 4 index heads of 128 against one 16-bit key per token.
_KV_HEADS, _HEAD, _SHARING, _INDEX_HEADS, _INDEX_DIM, _BLOCK, _TOP = 4, 128, 16, 4, 128, 128, 16
_SEEN = _BLOCK * _TOP


def _work(q: Columns, tokens: Floats, keys: Floats, pairs: Floats, seen: Floats) -> Work:
    """``tokens`` new, ``keys`` in the cache of all sequences, of whose ``pairs`` with queries ``seen`` are attended
    to."""
    heads, hidden = floats(q, "heads", "hidden")
    kv_heads, index_heads = np.maximum(heads / _SHARING, 1), np.maximum(heads * _INDEX_HEADS / 64, 1)
    weights = hidden * ((2 * heads + 2 * kv_heads) * _HEAD + (index_heads + 1) * _INDEX_DIM)
    flops = 2 * (tokens * weights + pairs * index_heads * _INDEX_DIM + seen * 2 * heads * _HEAD)
    cached = np.minimum(keys, seen) * 2 * kv_heads * _HEAD * element_bytes(q, "kv_dtype")
    moved = weights * element_bytes(q) + 4 * tokens * hidden + cached + keys * 2 * _INDEX_DIM
    return Work.local(flops, moved)


PREFILL, DECODE = over_cache(
    "block_sparse",
    best_of_cache(_work, _SEEN),
    best_of_cache_features(_SEEN),
    group=("heads", "batch"),
    alike=("hidden",),
    figures_of="dsa",
)


class BlockSparseKind(MixerKind[BlockSparseAttention]):
    """Split as the attention that it is made of; the key of the index is whole on every GPU. Measured as a module,
    projections included."""

    layer = BlockSparseAttention

    def ask(self, step: LayerStep, layer: BlockSparseAttention, count: int) -> None:
        precision = step.split.precision
        step.attend(
            PREFILL,
            DECODE,
            count,
            dtype=code("dtype", precision.attention_qkv),
            kv_dtype=code("kv_dtype", precision.kv),
            heads=np.maximum(layer.heads // step.split.layouts.tp, 1),
            hidden=step.split.hidden,
        )
        step.reduce(count)

    def widths(self, layer: BlockSparseAttention) -> Widths:
        dense = layer.attention
        own = (dense.kv_heads, dense.head_dim, layer.index_heads, layer.index_dim, layer.block_tokens, layer.top_k)
        measured = ((_KV_HEADS, _HEAD, _INDEX_HEADS, _INDEX_DIM, _BLOCK, _TOP),)
        return Widths("block-sparse attention (KV heads, head, indexer, block, blocks)", own, measured)

    def rules(self, layer: BlockSparseAttention, precision: Precision) -> Iterator[Rule]:
        yield from GROUPED_QUERY.rules(layer.attention, precision)


FAMILY = OperationFamily("block_sparse", (PREFILL, DECODE), (BlockSparseKind(),))
