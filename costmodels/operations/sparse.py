"""Sparse attention: an indexer chooses the tokens that a query sees (DeepSeek-V3.2, arXiv:2512.02556 §2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import Indexer, LatentAttention
from costmodels.operations.family import OperationFamily
from costmodels.operations.latent import LATENT_WIDTH, ROPE_WIDTH, LatentKind
from costmodels.operations.layers import Widths
from costmodels.operations.phases import best_of_cache, best_of_cache_features, over_cache
from costmodels.operations.questions import LayerStep, Split
from costmodels.operations.roofline import Columns, Work, code, element_bytes, floats

# Sparse attention is measured as a module, for DeepSeek's latent, index heads of 128 and the best 2048 tokens.
_INDEX_DIM, _INDEX_TOP = 128, 2048
_INDEX_BYTES = _INDEX_DIM + 4  # of one token's key: fp8 and a scale


def _work(q: Columns, tokens: Floats, keys: Floats, pairs: Floats, seen: Floats) -> Work:
    """``tokens`` new, ``keys`` in the cache of all sequences, of whose ``pairs`` with queries ``seen`` are attended to.
    Up to 2048 tokens everything is, so that nothing needs to be scored, and K and V may be rebuilt. On the choice of
    another layer (without ``index_heads``) nothing ever is."""
    heads, hidden, rank, qk, v = floats(q, "heads", "hidden", "q_rank", "qk_dim", "v_dim")
    (index,) = floats(q, "index_heads") if "index_heads" in q else (np.zeros_like(heads),)
    own = np.where(index > 0, 1.0, 0.0)
    down = hidden * (rank + LATENT_WIDTH + ROPE_WIDTH + own * _INDEX_DIM + index)
    up = rank * (heads * qk + index * _INDEX_DIM)
    weights = down + up + heads * (LATENT_WIDTH * (qk - ROPE_WIDTH + v) + v * hidden)
    scored = np.where(pairs > seen, 1.0, 0.0)
    attended = np.where(scored > 0, 2.0 * LATENT_WIDTH + ROPE_WIDTH, qk + v)
    # Scores are multiplied in fp8, twice as fast as 16-bit projections.
    score = np.where(element_bytes(q) > 1, 0.5, 1.0) * scored * index * _INDEX_DIM
    flops = 2 * (tokens * weights + pairs * score + heads * seen * attended)
    latents = np.minimum(keys, seen) * (LATENT_WIDTH + ROPE_WIDTH) * element_bytes(q, "kv_dtype")
    moved = weights * element_bytes(q) + 4 * tokens * hidden + latents + own * scored * keys * _INDEX_BYTES
    return Work.local(flops, moved)


PREFILL, DECODE = over_cache(
    "dsa",
    best_of_cache(_work, _INDEX_TOP),
    best_of_cache_features(_INDEX_TOP),
    group=("heads", "hidden", "batch"),
    alike=("hidden", "index_heads"),
)
SHARED_PREFILL = replace(PREFILL, name="dsa_shared_prefill", alike=("hidden",), figures_of="dsa_prefill")
SHARED_DECODE = replace(DECODE, name="dsa_shared_decode", alike=("hidden",), figures_of="dsa_decode")


class SparseKind(LatentKind):
    """Latent attention with an indexer, which is whole on every GPU. Measured as a module, projections included."""

    def serves(self, layer: object) -> bool:
        return isinstance(layer, LatentAttention) and layer.indexer is not None

    def ask(self, step: LayerStep, layer: LatentAttention, count: int) -> None:
        shape = {
            "dtype": code("dtype", step.split.precision.attention_qkv),
            "kv_dtype": code("kv_dtype", step.split.precision.kv),
            "heads": np.maximum(layer.heads // step.split.layouts.tp, 1),
            "hidden": step.split.hidden,
            "q_rank": layer.q_lora_rank,
            "qk_dim": layer.qk_nope_head_dim + layer.qk_rope_head_dim,
            "v_dim": layer.v_head_dim,
        }
        if _indexer(layer).shared:
            step.attend(SHARED_PREFILL, SHARED_DECODE, count, **shape)
        else:
            step.attend(PREFILL, DECODE, count, **shape, index_heads=_indexer(layer).heads)
        step.reduce(count)

    def weights_bytes(self, split: Split, layer: LatentAttention) -> Iterator[Floats | float]:
        yield from super().weights_bytes(split, layer)
        index = _indexer(layer).parameters(split.hidden, layer.q_lora_rank)
        yield index * split.weight_bytes("attention_qkv")

    def _bytes_per_token(self, layer: LatentAttention, element_bytes: float) -> float:
        return super()._bytes_per_token(layer, element_bytes) + _indexer(layer).cache_bytes_per_token()

    def widths(self, layer: LatentAttention) -> Widths:
        index = _indexer(layer)
        heads = super().widths(layer).widths
        own = (*heads, layer.q_lora_rank, index.heads, index.head_dim, index.top_k)
        deepseek, glm = (128, 64, 128, 512, 1536, 64, 128, 2048), (192, 64, 256, 512, 2048, 32, 128, 2048)
        return Widths("sparse attention (heads, latent, query rank, indexer)", own, (deepseek, glm))


def _indexer(layer: LatentAttention) -> Indexer:
    assert layer.indexer is not None
    return layer.indexer


FAMILY = OperationFamily("sparse", (PREFILL, DECODE, SHARED_PREFILL, SHARED_DECODE), (SparseKind(),))
