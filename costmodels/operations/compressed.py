"""Compressed attention: one latent for many tokens (DeepSeek-V4, technical report §2.3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.mixers import CompressedAttention
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.layers import Rule, Widths, heads_divide
from costmodels.operations.mixers import MixerKind
from costmodels.operations.phases import over_cache
from costmodels.operations.questions import LayerStep
from costmodels.operations.roofline import Columns, Work, code, element_bytes, floats, visible_pairs
from costmodels.operations.shape_features import Features, log, logs

# Measured as a module, for DeepSeek-V4's widths: a latent of 512, key and value at once, 64 of them rotated; outputs
# of 8 heads go through 1024; the last 128 tokens are seen as they are; 64 index heads of 128.
_LATENT, _ROPE, _GROUP, _OUTPUT, _WINDOW, _INDEX_HEADS, _INDEX_DIM = 512, 64, 8, 1024, 128, 64, 128
_ENTRY_BYTES = _LATENT + _ROPE + _LATENT // 64  # fp8, the rotated part in 16 bits, scales


def _work(q: Columns, tokens: Floats, keys: Floats, pairs: Floats, near: Floats, chosen: Floats) -> Work:
    """``tokens`` new, ``keys`` of all sequences, ``pairs`` of queries and keys, of which ``near`` lie in the window;
    ``chosen`` pairs of queries and compressed latents are attended to."""
    heads, hidden, rank, ratio, top_k = floats(q, "heads", "hidden", "q_rank", "ratio", "index_top_k")
    indexed, windows = np.where(top_k > 0, 1.0, 0.0), np.where(ratio > 0, 1 / np.maximum(ratio, 1), 0.0)
    overlap = np.where(windows > 0, 1 + indexed, 0.0)  # windows that a compressed latent is made of
    weights = hidden * (rank + _LATENT) + rank * heads * _LATENT + heads * _LATENT * _OUTPUT
    weights += heads / _GROUP * _OUTPUT * hidden + indexed * rank * _INDEX_HEADS * _INDEX_DIM
    wide = 2 * hidden * overlap * (_LATENT + indexed * _INDEX_DIM) + indexed * hidden * _INDEX_HEADS  # in 16 bits
    # Scores are multiplied in fp8, twice as fast as 16-bit projections.
    score = np.where(element_bytes(q) > 1, 0.5, 1.0) * indexed * _INDEX_HEADS * _INDEX_DIM
    flops = 2 * (tokens * (weights + wide) + pairs * windows * score + heads * (near + chosen) * 2 * _LATENT)
    latents = np.minimum(keys, near) + np.minimum(keys * windows, chosen)
    moved = weights * element_bytes(q) + 2 * wide + 4 * tokens * hidden + latents * _ENTRY_BYTES
    return Work.local(flops, moved + indexed * keys * windows * (_INDEX_DIM + 4))


def _prefill_work(q: Columns) -> Work:
    batch, query, prefix, ratio, top_k = floats(q, "batch", "query_tokens", "prefix_tokens", "ratio", "index_top_k")
    limits = np.zeros_like(query), np.full_like(query, _WINDOW), top_k * ratio
    pairs, near, reached = (visible_pairs(query, prefix, limit) for limit in limits)
    chosen = np.where(ratio > 0, reached / np.maximum(ratio, 1), 0.0)
    return _work(q, batch * query, batch * (prefix + query), batch * pairs, batch * near, batch * chosen)


def _decode_work(q: Columns) -> Work:
    batch, context, ratio, top_k = floats(q, "batch", "context_tokens", "ratio", "index_top_k")
    windows = np.where(ratio > 0, context / np.maximum(ratio, 1), 0.0)
    chosen = np.where(top_k > 0, np.minimum(windows, top_k), windows)
    keys = batch * context
    return _work(q, batch, keys, keys, batch * np.minimum(context, _WINDOW), batch * chosen)


def _features(q: Columns, tokens: Floats, keys: Floats) -> Features:
    ratio, top_k = floats(q, "ratio", "index_top_k")
    latents = keys / np.maximum(ratio, 1)
    return {
        **logs(q, "batch", "heads", "hidden"),
        "ratio": log(np.maximum(ratio, 1)),
        "top_k": log(np.maximum(top_k, 1)),
        "tokens": np.log2(tokens),
        "keys": np.log2(keys),
        "beyond": log(np.maximum(latents / np.maximum(top_k, 1), 1.0)),
        "scored": np.log2(tokens * keys),
    }


PREFILL, DECODE = over_cache(
    "compressed",
    (_prefill_work, _decode_work),
    _features,
    group=("heads", "hidden", "batch", "ratio"),
    alike=("hidden", "ratio"),
    figures_of="dsa",
)


class CompressedKind(MixerKind[CompressedAttention]):
    """Heads are split, the latents and their cache are whole on every GPU. Measured as a module, projections
    included."""

    layer = CompressedAttention

    def ask(self, step: LayerStep, layer: CompressedAttention, count: int) -> None:
        step.attend(
            PREFILL,
            DECODE,
            count,
            dtype=code("dtype", step.split.precision.attention_qkv),
            heads=np.maximum(layer.heads // step.split.layouts.tp, 1),
            hidden=step.split.hidden,
            q_rank=layer.q_rank,
            ratio=layer.ratio,
            index_top_k=layer.index_top_k,
        )
        step.reduce(count)

    def widths(self, layer: CompressedAttention) -> Widths:
        group = layer.heads // layer.output_groups
        index = (layer.index_heads, layer.index_dim)
        own = (layer.head_dim, layer.rope_dim, group, layer.output_rank, layer.window_size, *index)
        common = (_LATENT, _ROPE, _GROUP, _OUTPUT, _WINDOW)
        measured = ((*common, 0, 0), (*common, _INDEX_HEADS, _INDEX_DIM))
        return Widths("compressed attention (latent, rotary part, output, window, indexer)", own, measured)

    def rules(self, layer: CompressedAttention, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads)
        yield heads_divide(layer.output_groups, "groups of the output projection")


FAMILY = OperationFamily("compressed", (PREFILL, DECODE), (CompressedKind(),))
