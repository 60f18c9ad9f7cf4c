"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): rebuilt in prefill, absorbed in decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.models.architecture import LatentAttention
from costmodels.models.precision import Precision
from costmodels.operations.exchanges import HIGH_THROUGHPUT, LOW_LATENCY, priced_as
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.kernel import Kernel
from costmodels.operations.layers import AttentionKind, Rule, Widths, heads_divide, output_groups, whole_blocks
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep, Split
from costmodels.operations.roofline import Columns, Hardware, Work, code, element_bytes, floats, visible_pairs
from costmodels.operations.shape_features import Features, logs, waves
from costmodels.operations.wide_moe import between_powers

# Latent attention is measured for DeepSeek's widths only: q·k over 128+64 and values of 128 when rebuilt
# (prefill), both on the 512+64 latent when absorbed (decode). arXiv:2405.04434, §2.1. Heads of GLM-4.7-Flash's widths
# decode on the same latent; with prompts, and when absorbed, they count as the heads of DeepSeek's that do as much.
QK_WIDTH, V_WIDTH, LATENT_WIDTH, ROPE_WIDTH = 192, 128, 512, 64
NOPE_WIDTH = QK_WIDTH - ROPE_WIDTH
GLM_FLASH = (192, 64, 256, 512)
QUERY_RANK, MODEL_WIDTH = 1536, 7168  # of DeepSeek-V3, whose whole modules are measured


def _prefill_work(q: Columns) -> Work:
    batch, query, prefix, heads = floats(q, "batch", "query_tokens", "prefix_tokens", "heads")
    pairs = visible_pairs(query, prefix, np.zeros_like(query))
    moved = 2 * batch * heads * (query * (QK_WIDTH + V_WIDTH) + (prefix + query) * (QK_WIDTH + V_WIDTH))
    return Work.local(2 * batch * heads * (QK_WIDTH + V_WIDTH) * pairs, moved)


def _decode_work(q: Columns) -> Work:
    batch, context, heads = floats(q, "batch", "context_tokens", "heads")
    width = LATENT_WIDTH + ROPE_WIDTH
    moved = batch * (context * width * element_bytes(q, "kv_dtype") + 2 * heads * (width + LATENT_WIDTH))
    return Work.local(2 * batch * heads * (width + LATENT_WIDTH) * context, moved)


def _absorb_work(q: Columns) -> Work:
    tokens, heads = floats(q, "tokens", "heads")
    weights = heads * V_WIDTH * LATENT_WIDTH * element_bytes(q)
    return Work.local(
        2 * tokens * heads * V_WIDTH * LATENT_WIDTH, weights + 2 * tokens * heads * (V_WIDTH + LATENT_WIDTH)
    )


def _prefill_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, heads = floats(q, "batch", "query_tokens", "heads")
    count, used = waves(batch * heads * np.ceil(query / 128), hw, gpu)
    return {
        **logs(q, "batch", "query_tokens", "prefix_tokens", "heads"),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "waves": count,
        "used": used,
    }


def _decode_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    count, used = waves(np.asarray(q["batch"], dtype=np.float64), hw, gpu)
    return {
        **logs(q, "batch", "context_tokens", "heads"),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "waves": count,
        "used": used,
    }


def _absorb_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    return {**logs(q, "tokens", "heads"), "kind": q["kind"].astype(np.float64)}


def _projections(q: Columns, rows: Floats, rebuilt: Floats) -> tuple[Floats, Floats]:
    """(FLOPs, weights in bytes) of a module's products: queries from their latent, keys and values of ``rebuilt``
    tokens from theirs, the output."""
    (heads,) = floats(q, "heads")
    queries, out = QUERY_RANK * heads * QK_WIDTH, heads * V_WIDTH * MODEL_WIDTH
    up = heads * LATENT_WIDTH * 2 * V_WIDTH
    flops = 2 * (rows * (queries + out) + rebuilt * up)
    return flops, (queries + out + up) * element_bytes(q)


def _module_prefill_work(q: Columns) -> Work:
    batch, query, prefix = floats(q, "batch", "query_tokens", "prefix_tokens")
    flops, weights = _projections(q, batch * query, batch * (query + prefix))
    attention = _prefill_work(q)
    # Attention multiplies in 16 bits, at half the rate of the products in 8.
    rate = 2.0 / np.maximum(element_bytes(q), 1.0)
    moved = weights + attention.memory_bytes + 2 * batch * query * 2 * MODEL_WIDTH
    return Work.local(flops + rate * attention.flops, moved)


def _module_decode_work(q: Columns) -> Work:
    (batch,) = floats(q, "batch")
    flops, weights = _projections(q, batch, batch)
    attention = _decode_work(q)
    rate = 2.0 / np.maximum(element_bytes(q), 1.0)
    return Work.local(flops + rate * attention.flops, weights + attention.memory_bytes)


def _module_prefill_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query = floats(q, "batch", "query_tokens")
    return {**_prefill_features(q, hw, gpu), "tokens": np.log2(batch * query)}


PREFILL = Kernel(
    name="mla_prefill",
    part="attention",
    factor="attention_prefill",
    work=_prefill_work,
    features=_prefill_features,
    group=("heads", "batch"),
    range=("batch", "query_tokens", "prefix_tokens", "heads"),
    near={"batch": 2.0, "query_tokens": 2.0, "heads": 1.0},
)
DECODE = Kernel(
    name="mla_decode",
    part="attention",
    factor="attention_decode",
    work=_decode_work,
    features=_decode_features,
    group=("heads", "batch"),
    range=("batch", "context_tokens", "heads"),
    near={"batch": 2.0, "context_tokens": 2.0, "heads": 1.0},
)
ABSORB = Kernel(
    name="mla_bmm",
    part="gemm",
    factor="gemm",
    work=_absorb_work,
    features=_absorb_features,
    group=("heads",),
    range=("tokens", "heads"),
    near={"tokens": 2.0, "heads": 1.0},
)


MODULE_PREFILL = replace(
    PREFILL,
    name="mla_module_prefill",
    factor="",
    work=_module_prefill_work,
    features=_module_prefill_features,
    figures_of="mla_prefill",
)
MODULE_DECODE = replace(DECODE, name="mla_module_decode", factor="", work=_module_decode_work, figures_of="mla_decode")
MODULE = "fp8_block"
"""The precision of projections in which whole modules are measured."""

MODULE_CACHE = 2.0**18
"""Tokens of cache up to which decoding modules are measured."""

SHOWN_BYTES = 0.5
"""Of what a 16-bit cache has more bytes than an 8-bit one, the share that shows in the time: in rows of attention alone
none does on H100, which multiplies both in 16 bits, and all on B200."""


def _as_wide(heads: Ints, own: int, measured: int) -> Ints:
    """So many heads of the ``measured`` width as do the arithmetic of ``heads`` that are ``own`` wide."""
    return heads if own == measured else -(-heads * own // measured)


class LatentKind(AttentionKind[LatentAttention]):
    """Heads are split, the latent and its cache are whole on every GPU."""

    layer = LatentAttention

    def serves(self, layer: object) -> bool:
        return isinstance(layer, LatentAttention) and layer.indexer is None

    def ask(self, step: LayerStep, layer: LatentAttention, count: int) -> None:
        precision, batch, hidden = step.split.precision, step.batch, step.split.hidden
        heads = np.maximum(layer.heads // step.split.layouts.tp, 1)
        whole = self._as_a_module(step, layer)
        qk = layer.qk_nope_head_dim + layer.qk_rope_head_dim
        tokens, dtype = batch.tokens, precision.attention_qkv
        apart = np.where(whole, 0, tokens)
        latent = layer.kv_lora_rank + layer.qk_rope_head_dim
        if layer.q_lora_rank:
            ask_product(step, dtype, tokens, layer.q_lora_rank + latent, hidden, count)
            ask_product(step, dtype, apart, heads * qk, layer.q_lora_rank, count)
        else:
            ask_product(step, dtype, tokens, latent, hidden, count)
            ask_product(step, dtype, apart, heads * qk, hidden, count)
        # Prefill rebuilds K and V of everything it attends to; decode absorbs the products into q and the output.
        rebuilt = np.where(whole, 0, batch.prefills * (batch.chunk + batch.prefix))
        width = layer.qk_nope_head_dim + layer.v_head_dim
        ask_product(step, dtype, rebuilt, heads * width, layer.kv_lora_rank, count)
        bf16 = code("dtype", "bf16")
        shape = {"dtype": bf16, "kv_dtype": code("kv_dtype", precision.kv)}
        step.work.ask(
            PREFILL,
            count,
            (batch.prefills > 0) & ~whole,
            batch=batch.prefills,
            query_tokens=batch.chunk,
            prefix_tokens=batch.prefix,
            heads=_as_wide(heads, qk + layer.v_head_dim, QK_WIDTH + V_WIDTH),
            **shape,
        )
        decoding, verified = (batch.decodes > 0) & ~whole, batch.decodes * batch.queries
        for kind, own, measured in (
            ("pre", layer.qk_nope_head_dim, NOPE_WIDTH),
            ("post", layer.v_head_dim, V_WIDTH),
        ):
            absorbed = {"dtype": bf16, "kind": code("kind", kind), "tokens": verified}
            step.work.ask(ABSORB, count, decoding, heads=_as_wide(heads, own, measured), **absorbed)
        cached = {"batch": batch.decodes, "context_tokens": batch.context, "heads": heads * batch.queries}
        step.work.ask(DECODE, count, decoding, **cached, **shape)
        if layer.output_gate:
            values = heads * layer.v_head_dim
            ask_product(step, dtype, tokens, values, hidden, count)
            step.work.touch(tokens * values * (3.0 * ACTIVATION_BYTES), 1, count)
        ask_product(step, precision.attention_output, apart, hidden, heads * layer.v_head_dim, count)
        step.work.touch(apart * (heads * qk + latent) * (2.0 * 2 * ACTIVATION_BYTES), 3, count)
        if whole.any():
            self._ask_module(step, whole, heads, count)
        step.reduce(count)

    def _as_a_module(self, step: LayerStep, layer: LatentAttention) -> NDArray[np.bool_]:
        """For which layouts the rows of whole modules answer, [n]: those whose experts are reached as in the runs that
        they were measured for, in DeepSeek-V3's widths and 8 bits. The host launched what was timed: up to 64 sequences
        a module takes 90 to 130 µs, whatever they hold. So does an engine with prompts or without CUDA graphs; steps
        that a graph replays are the sum of their kernels."""
        precision, kinds = step.split.precision, priced_as(step.split.layouts.exchange)
        sizes = (layer.q_lora_rank, step.split.hidden, layer.output_gate, layer.window_tokens)
        measured = sizes == (QUERY_RANK, MODEL_WIDTH, False, 0) and layer.v_head_dim == V_WIDTH
        measured &= precision.attention_qkv == precision.attention_output == MODULE
        launched = (kinds == HIGH_THROUGHPUT) | ((kinds == LOW_LATENCY) & (step.batch.prefills > 0))
        return np.asarray(measured & launched)

    def _ask_module(self, step: LayerStep, whole: NDArray[np.bool_], heads: Ints, count: int) -> None:
        """All but the first projection, timed with a cache of 8 bits: the bytes of a wider one are added. Drafted
        tokens count like so many more sequences."""
        batch, element = step.batch, step.split.kv_bytes
        shape = {"dtype": code("dtype", MODULE), "kv_dtype": code("kv_dtype", "fp8"), "heads": heads}
        prompts = {"batch": batch.prefills, "query_tokens": batch.chunk, "prefix_tokens": batch.prefix}
        step.work.ask(MODULE_PREFILL, count, whole & (batch.prefills > 0), **prompts, **shape)
        decoding = whole & (batch.decodes > 0)
        # Measured at powers of two of sequences and context, as far as a cache held both.
        for sequences, many in between_powers(np.maximum(batch.decodes * batch.queries, 1).astype(np.float64)):
            longest = np.exp2(np.floor(np.log2(MODULE_CACHE / sequences)))
            for context, long in between_powers(np.maximum(batch.context, 1).astype(np.float64), longest):
                asked = {"batch": sequences, "context_tokens": context}
                step.work.ask(MODULE_DECODE, count * many * long, decoding & (many * long != 0), **asked, **shape)
        cached = batch.decodes * batch.context + batch.prefills * batch.prefix
        more = cached * ((LATENT_WIDTH + ROPE_WIDTH) * max(element - 1.0, 0.0) * SHOWN_BYTES)
        step.work.touch(np.where(whole, more, 0.0), 0, count)

    def weights_bytes(self, split: Split, layer: LatentAttention) -> Iterator[Floats | float]:
        hidden, heads = split.hidden, layer.heads / split.layouts.tp
        qkv, out = split.weight_bytes("attention_qkv"), split.weight_bytes("attention_output")
        shared = layer.q_lora_rank + layer.kv_lora_rank + layer.qk_rope_head_dim
        qk = layer.qk_nope_head_dim + layer.qk_rope_head_dim
        rebuilt = layer.kv_lora_rank * (layer.qk_nope_head_dim + layer.v_head_dim)
        per_head = (layer.q_lora_rank or hidden) * qk + rebuilt
        # Decode keeps the absorbed up-projection of K and V a second time, in 16 bits (all three frameworks
        # do).
        yield hidden * shared * qkv + heads * (per_head * qkv + rebuilt * 2.0)
        output = heads * layer.v_head_dim * hidden
        yield output * out + (output * qkv if layer.output_gate else 0.0)

    def cache_bytes(self, split: Split, layer: LatentAttention, count: int, tokens: Floats) -> Floats:
        kept = np.minimum(tokens, layer.window_tokens) if layer.window_tokens else tokens
        return count * (self._bytes_per_token(layer, split.kv_bytes) * kept)

    def _bytes_per_token(self, layer: LatentAttention, element_bytes: float) -> float:
        return layer.kv_elements_per_token() * element_bytes

    def widths(self, layer: LatentAttention) -> Widths:
        heads = (layer.qk_nope_head_dim, layer.qk_rope_head_dim, layer.v_head_dim, layer.kv_lora_rank)
        return Widths("latent attention", heads, ((NOPE_WIDTH, ROPE_WIDTH, V_WIDTH, LATENT_WIDTH), GLM_FLASH))

    def rules(self, layer: LatentAttention, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads)
        yield from whole_blocks(precision, query=(layer.heads, layer.qk_nope_head_dim + layer.qk_rope_head_dim))
        yield from output_groups(layer.heads * layer.v_head_dim, precision)


FAMILY = OperationFamily("latent", (PREFILL, DECODE, ABSORB, MODULE_PREFILL, MODULE_DECODE), (LatentKind(),))
