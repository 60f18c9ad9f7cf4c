"""Which operations one engine step consists of, under a layout: model + layout + batch → questions to the
kernels.

Vectorised over candidates: every column is an array over the same ``n`` candidates (a layout and a batch
each).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.models.architecture import (
    Architecture,
    DenseFeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    Indexer,
    LatentAttention,
    LayerGroup,
    MixtureOfExperts,
    NoFeedForward,
)
from costmodels.models.mixers import NoMixer
from costmodels.models.precision import Precision, require_timed_layers
from costmodels.operations.layouts import Layouts
from costmodels.operations.roofline import code

ACTIVATION_BYTES = 2  # activations between operators are bf16 in all three frameworks


@dataclass(frozen=True)
class Batch:
    """What each attention rank works on in one step, shape [n] each.

    Attributes:
        prefills: prompts of which a chunk is processed (0: none).
        chunk: tokens of each such chunk.
        prefix: tokens of the prompt that are already in the KV cache.
        decodes: sequences that generate.
        context: mean tokens in the KV cache of those.
        expert_tokens: tokens that enter a MoE layer from this rank on average over the ranks of the group
            (ranks work in lock step, but need not all have a chunk).
        queries: tokens that each generating sequence processes in the step: 1, or with speculative decoding
            the token before and the drafted ones, which are verified together.
    """

    prefills: Ints
    chunk: Ints
    prefix: Ints
    decodes: Ints
    context: Ints
    expert_tokens: Floats
    queries: int = field(default=1, kw_only=True)

    @property
    def tokens(self) -> Ints:
        return self.prefills * self.chunk + self.decodes * self.queries


@dataclass(frozen=True)
class Asked:
    """Questions to one operation: ``columns`` of shape [q], the candidate each belongs to, how often it
    occurs per step."""

    columns: Mapping[str, NDArray[np.generic]]
    candidate: Ints
    count: Floats


@dataclass(frozen=True)
class Exchange:
    """A collective of one candidate, before it is known whether it crosses nodes; shape [e] each."""

    kind: int
    message_bytes: Floats
    ranks: Ints
    candidate: Ints
    count: Floats


@dataclass
class StepWork:
    """Everything one step asks for. ``moved_bytes`` and ``small_kernels`` are the elementwise rest, shape
    [n]."""

    candidates: int
    asked: dict[str, list[Asked]] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    moved_bytes: Floats = field(default_factory=lambda: np.zeros(0))
    small_kernels: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.moved_bytes = np.zeros(self.candidates)
        self.small_kernels = np.zeros(self.candidates)

    def ask(
        self, operation: str, count: Floats | float, when: NDArray[np.bool_] | None = None, **columns: object
    ) -> None:
        """Adds one question per candidate for which ``when`` holds (default: all)."""
        chosen = np.arange(self.candidates) if when is None else np.flatnonzero(when)
        if not len(chosen):
            return
        full = {name: np.broadcast_to(np.asarray(values), self.candidates)[chosen] for name, values in columns.items()}
        full.setdefault("num_gpus", np.ones(len(chosen), np.int64))
        counts = np.broadcast_to(np.asarray(count, dtype=np.float64), self.candidates)[chosen]
        self.asked.setdefault(operation, []).append(Asked(full, chosen.astype(np.int64), counts))

    def exchange(self, kind: str, message_bytes: Floats, ranks: Ints, count: Floats | float) -> None:
        """Adds one collective per candidate with more than one rank."""
        chosen = np.flatnonzero((ranks > 1) & (message_bytes > 0))
        if len(chosen):
            counts = np.broadcast_to(np.asarray(count, dtype=np.float64), self.candidates)[chosen]
            self.exchanges.append(
                Exchange(code("kind", kind), message_bytes[chosen], ranks[chosen], chosen.astype(np.int64), counts)
            )

    def touch(self, moved_bytes: Floats, kernels: float, count: float) -> None:
        """Adds elementwise work: norms, rotary embedding, activation, residual, cache writes."""
        self.moved_bytes += moved_bytes * count
        self.small_kernels += kernels * count


def step_work(model: Architecture, precision: Precision, layouts: Layouts, batch: Batch, routing: str) -> StepWork:
    """The work of one step of one attention rank's GPU, over all layers of the model.

    Args:
        routing: skew of tokens over experts, a value of :data:`costmodels.operations.roofline.CODES`\\ ``["routing"]``.

    Raises:
        Unsupported: layers whose kernels have no times.
    """
    require_timed_layers(model)
    work = StepWork(len(layouts))
    tokens = batch.tokens
    for group in model.layer_groups:
        local, ffn = precision.within(group), group.feed_forward
        if not isinstance(group.attention, NoMixer):
            _attention(work, model, local, layouts, batch, group)
        if isinstance(ffn, MixtureOfExperts):
            _experts(work, model, local, layouts, batch, ffn, group.count, routing)
        elif not isinstance(ffn, NoFeedForward):
            _dense(work, model.hidden, ffn, local.dense, layouts.tp, tokens, group.count)
            work.exchange("all_reduce", _hidden_bytes(model, tokens), layouts.tp, group.count)
        # Each norm adds the residual: it reads and writes both the residual and the activations.
        work.touch(group.norms * 4 * _hidden_bytes(model, tokens), group.norms, group.count)
    _head(work, model, layouts, batch)
    return work


def _hidden_bytes(model: Architecture, tokens: NDArray[np.generic]) -> Floats:
    return np.asarray(tokens, dtype=np.float64) * model.hidden * ACTIVATION_BYTES


def _product(work: StepWork, dtype: str, m: Ints, n: Ints | int, k: Ints | int, count: float) -> None:
    work.ask("gemm", count, m > 0, dtype=code("dtype", dtype), m=m, n=n, k=k)


def _attention(
    work: StepWork,
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    batch: Batch,
    group: LayerGroup,
) -> None:
    attention = group.attention
    if isinstance(attention, GroupedQueryAttention):
        _grouped_query(work, model, precision, layouts, batch, attention, group.count)
    elif isinstance(attention, GatedDeltaNet):
        _delta_net(work, model, precision, layouts, batch, attention, group.count)
    elif isinstance(attention, LatentAttention) and attention.indexer is not None:
        _sparse(work, model, precision, layouts, batch, attention, attention.indexer, group.count)
    elif isinstance(attention, LatentAttention):
        _latent(work, model, precision, layouts, batch, attention, group.count)
    else:
        raise NotImplementedError(f"{type(attention).__name__} asks for nothing")  # require_timed_layers refused it
    work.exchange("all_reduce", _hidden_bytes(model, batch.tokens), layouts.tp, group.count)


def _grouped_query(
    work: StepWork,
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    batch: Batch,
    attention: GroupedQueryAttention,
    count: int,
) -> None:
    heads = attention.heads // layouts.tp
    kv_heads = np.maximum(attention.kv_heads // layouts.tp, 1)  # replicated where tp exceeds them
    query = heads * attention.head_dim * (2 if attention.gated_output else 1)
    width = query + kv_heads * (attention.head_dim + attention.value_head_dim)
    gates = heads if attention.head_gate else 0
    _product(work, precision.attention_qkv, batch.tokens, width + gates, model.hidden, count)
    shape = {
        "dtype": code("dtype", "bf16"),
        "kv_dtype": code("kv_dtype", precision.kv),
        "heads": heads,
        "kv_heads": kv_heads,
        # FLOPs and bytes go by the mean of the two widths.
        "head_dim": (attention.head_dim + attention.value_head_dim) // 2,
    }
    windows = attention.window_tokens
    # A window that no sequence reaches is full attention.
    longest = np.maximum(batch.prefix + batch.chunk, batch.context)
    shape["window_tokens"] = np.where(longest > windows, windows, 0) if windows else 0
    # The queries of a sequence read its cache once, like so many more heads of the same KV head.
    verified = {**shape, "heads": heads * batch.queries}
    work.ask(
        "attention_prefill",
        count,
        batch.prefills > 0,
        batch=batch.prefills,
        query_tokens=batch.chunk,
        prefix_tokens=batch.prefix,
        **shape,
    )
    work.ask(
        "attention_decode",
        count,
        batch.decodes > 0,
        batch=batch.decodes,
        context_tokens=batch.context,
        **verified,
    )
    _product(work, precision.attention_output, batch.tokens, model.hidden, heads * attention.value_head_dim, count)
    # Rotary embedding and the cache write each read and write the q, k, v of the rank.
    work.touch(batch.tokens * width * (2.0 * 2 * ACTIVATION_BYTES), 2, count)


def _latent(
    work: StepWork,
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    batch: Batch,
    attention: LatentAttention,
    count: int,
) -> None:
    heads = np.maximum(attention.heads // layouts.tp, 1)
    qk = attention.qk_nope_head_dim + attention.qk_rope_head_dim
    tokens, dtype = batch.tokens, precision.attention_qkv
    latent = attention.kv_lora_rank + attention.qk_rope_head_dim
    if attention.q_lora_rank:
        _product(work, dtype, tokens, attention.q_lora_rank + latent, model.hidden, count)
        _product(work, dtype, tokens, heads * qk, attention.q_lora_rank, count)
    else:
        _product(work, dtype, tokens, latent, model.hidden, count)
        _product(work, dtype, tokens, heads * qk, model.hidden, count)
    # Prefill rebuilds K and V of everything it attends to; decode absorbs the products into q and the output.
    rebuilt = batch.prefills * (batch.chunk + batch.prefix)
    width = attention.qk_nope_head_dim + attention.v_head_dim
    _product(work, dtype, rebuilt, heads * width, attention.kv_lora_rank, count)
    shape = {"dtype": code("dtype", "bf16"), "kv_dtype": code("kv_dtype", precision.kv), "heads": heads}
    work.ask(
        "mla_prefill",
        count,
        batch.prefills > 0,
        batch=batch.prefills,
        query_tokens=batch.chunk,
        prefix_tokens=batch.prefix,
        **shape,
    )
    decoding = batch.decodes > 0
    for kind in ("pre", "post"):
        work.ask(
            "mla_bmm",
            count,
            decoding,
            dtype=code("dtype", "bf16"),
            kind=code("kind", kind),
            tokens=batch.decodes * batch.queries,
            heads=heads,
        )
    shape["heads"] = heads * batch.queries
    work.ask("mla_decode", count, decoding, batch=batch.decodes, context_tokens=batch.context, **shape)
    _product(work, precision.attention_output, tokens, model.hidden, heads * attention.v_head_dim, count)
    work.touch(tokens * (heads * qk + latent) * (2.0 * 2 * ACTIVATION_BYTES), 3, count)


def _sparse(
    work: StepWork,
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    batch: Batch,
    attention: LatentAttention,
    indexer: Indexer,
    count: int,
) -> None:
    """Measured as a module, projections included; the indexer is not split over GPUs. Drafted tokens choose their own
    keys, like so many more sequences."""
    shape = {
        "dtype": code("dtype", precision.attention_qkv),
        "kv_dtype": code("kv_dtype", precision.kv),
        "heads": np.maximum(attention.heads // layouts.tp, 1),
        "hidden": model.hidden,
        "q_rank": attention.q_lora_rank,
        "qk_dim": attention.qk_nope_head_dim + attention.qk_rope_head_dim,
        "v_dim": attention.v_head_dim,
        "index_heads": indexer.heads,
    }
    work.ask(
        "dsa_prefill",
        count,
        batch.prefills > 0,
        batch=batch.prefills,
        query_tokens=batch.chunk,
        prefix_tokens=batch.prefix,
        **shape,
    )
    sequences = batch.decodes * batch.queries
    work.ask("dsa_decode", count, batch.decodes > 0, batch=sequences, context_tokens=batch.context, **shape)


def _delta_net(
    work: StepWork,
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    batch: Batch,
    attention: GatedDeltaNet,
    count: int,
) -> None:
    """The state stands for all tokens before, so neither prefix nor context is asked for. Each drafted token leaves a
    state of its own until it is accepted, like so many more sequences."""
    key_heads = np.maximum(attention.key_heads // layouts.tp, 1)
    value_heads = np.maximum(attention.value_heads // layouts.tp, 1)
    tokens, values = batch.tokens, value_heads * attention.value_dim
    width = 2 * key_heads * attention.key_dim + 2 * values  # q and k; v and the output gate
    _product(work, precision.attention_qkv, tokens, width, model.hidden, count)
    _product(work, "bf16", tokens, 2 * value_heads, model.hidden, count)  # decay and step of the delta rule
    shape = {"dtype": code("dtype", "bf16"), "key_heads": key_heads, "value_heads": value_heads}
    work.ask("gdn_prefill", count, batch.prefills > 0, batch=batch.prefills, query_tokens=batch.chunk, **shape)
    work.ask("gdn_decode", count, batch.decodes > 0, batch=batch.decodes * batch.queries, **shape)
    _product(work, precision.attention_output, tokens, model.hidden, values, count)
    # Taking the projections apart reads and writes them; the gated norm reads outputs and gate, and writes.
    work.touch(tokens * (2.0 * width + 3.0 * values) * ACTIVATION_BYTES, 2, count)


def _dense(
    work: StepWork, hidden: int, ffn: DenseFeedForward, dtype: str, split: Ints, tokens: Ints, count: float
) -> None:
    width = -(-ffn.intermediate // split)
    matrices = 2 if ffn.gated else 1
    _product(work, dtype, tokens, matrices * width, hidden, count)
    _product(work, dtype, tokens, hidden, width, count)
    elements = (tokens * width * (matrices + 1)).astype(np.float64)
    work.touch(elements * ACTIVATION_BYTES, 1, count)


def _experts(
    work: StepWork,
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    batch: Batch,
    ffn: MixtureOfExperts,
    count: int,
    routing: str,
) -> None:
    tokens, width = batch.tokens, ffn.latent or model.hidden
    everyone = np.maximum(np.rint(batch.expert_tokens * layouts.dp), 1).astype(np.int64)
    _product(work, "bf16", tokens, ffn.experts + ffn.idle_experts, model.hidden, count)
    if ffn.latent:
        _product(work, "bf16", tokens, ffn.latent, model.hidden, count)
        _product(work, "bf16", tokens, model.hidden, ffn.latent, count)
    work.ask(
        "moe",
        count,
        tokens > 0,
        dtype=code("dtype", precision.experts),
        tokens=everyone,
        hidden=width,
        intermediate=ffn.intermediate,
        top_k=ffn.working_top_k,
        experts=ffn.experts,
        moe_tp=layouts.moe_tp,
        moe_ep=layouts.ep,
        gated=int(ffn.gated),
        routing=code("routing", routing),
    )
    if ffn.shared_intermediate:
        shared = DenseFeedForward(ffn.shared_intermediate, ffn.gated)
        _dense(work, model.hidden, shared, precision.shared_experts, layouts.tp, tokens, count)
    scores = (tokens * ffn.experts).astype(np.float64)
    work.touch(scores * 4, 2, count)  # softmax and top-k of the router, fp32
    # With one attention replica the tokens are already on all GPUs of the group, and partial sums are
    # reduced as in a dense layer. With several, all tokens are gathered before and their sums scattered
    # after the experts.
    alone = layouts.dp == 1
    work.exchange("all_reduce", np.where(alone, _hidden_bytes(model, tokens), 0.0), layouts.tp, count)
    gathered = np.where(alone, 0.0, everyone * float(width * ACTIVATION_BYTES))
    for kind in ("all_gather", "reduce_scatter"):
        work.exchange(kind, gathered, layouts.stage_gpus, count)


def _head(work: StepWork, model: Architecture, layouts: Layouts, batch: Batch) -> None:
    sampled = batch.prefills + batch.decodes * batch.queries  # one row of logits per sequence, or per verified token
    vocabulary = -(-model.vocabulary // layouts.tp)
    _product(work, "bf16", sampled, vocabulary, model.hidden, 1)
    logits_bytes = sampled.astype(np.float64) * model.vocabulary * ACTIVATION_BYTES
    work.exchange("all_gather", logits_bytes, layouts.tp, 1)
    work.touch(_hidden_bytes(model, batch.tokens) + sampled * vocabulary * 4.0, 4, 1)
