"""How long one layer, and the two ends of the model, take for one micro-batch: by part, forward and backward.

The pack has no backward kernels, and needs few: the two gradients of a product take what the forward product of the
permuted shape takes, the weight gradient besides the traffic of adding it up in 32 bits; fused attention takes a fixed
multiple of its forward; the rest is memory traffic. All of it is slower under sustained load than in the pack's short
bursts, by a factor of the GPU type (``calibration.yaml``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Estimates, Floats, Ints
from costmodels.models.architecture import (
    DenseFeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    MixtureOfExperts,
)
from costmodels.operations.latent import QK_WIDTH, V_WIDTH
from costmodels.operations.registry import families
from costmodels.operations.roofline import code
from costmodels.training.calibration import kernel_ratios
from costmodels.training.exchanges import Links
from costmodels.training.layouts import UNFUSED, TrainingLayouts
from costmodels.training.models import TrainedAttention, TrainedKind
from costmodels.training.own_kernels import (
    ACCUMULATION_BYTES,
    ADDED_UP,
    DATA_GRADIENT,
    FORWARD_PRODUCT,
    IN_16_BITS,
    flash2_slowdown,
    permuted,
    weights_beyond_products,
)
from costmodels.training.questions import Corrected, Questions, Slot
from costmodels.training.setting import Setting, attention_widths

PRODUCTS, WEIGHT_GRADIENTS, ATTENTION, EXPERTS, ELEMENTWISE = range(5)
TENSOR, CONTEXT, DISPATCH = range(5, 8)
PARTS = 8
FORWARD, BACKWARD = 0, 1

_DTYPES = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8", "mxfp8": "fp8", "nvfp4": "nvfp4"}
CAST_BYTES = {"bf16": 0.0, "fp16": 0.0, "fp8": 6.0, "mxfp8": 5.0, "nvfp4": 4.5}
"""Traffic of quantising one element for a product: its 16 bits read (twice where a scale of the tensor is found
first), and written plain and transposed."""


@dataclass(frozen=True)
class LayerTimes:
    """Times in µs for one micro-batch on one rank.

    Attributes:
        parts: shape [parts, 2 passes, kinds, n], exposed times.
        ends: embedding (first stage) and head with loss (last stage), shape [2 ends, 2 passes, n].
        low, high: relative interval of the kernels together, shape [n].
        how, inside: shape [n].
        host_us: least time of a layer and pass, shape [kinds, n].
    """

    parts: Floats
    ends: Floats
    low: Floats
    high: Floats
    how: NDArray[np.int8]
    inside: NDArray[np.bool_]
    host_us: Floats

    @cached_property
    def passes(self) -> Floats:
        """Time of one layer, shape [2 passes, kinds, n], no less than the host needs to launch it."""
        return np.asarray(np.maximum(self.parts.sum(axis=0), self.host_us))

    def take(self, index: NDArray[np.int64]) -> LayerTimes:
        return LayerTimes(
            self.parts[..., index],
            self.ends[..., index],
            self.low[index],
            self.high[index],
            self.how[index],
            self.inside[index],
            self.host_us[:, index],
        )


def layer_times(setting: Setting, links: Links, layouts: TrainingLayouts) -> LayerTimes:
    """Of each layout. Layouts whose layers are alike are asked about once.

    Raises:
        Unsupported: the model has latent or linear attention of widths that are not measured.
    """
    families().require_measured_widths(setting.model.architecture)
    first, back = distinct_layers(setting, layouts)
    return _Layer(setting, links, layouts.take(first)).times().take(back)


def distinct_layers(setting: Setting, layouts: TrainingLayouts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(one layout of each kind of layer that differs, for each layout its place among them)."""
    columns: list[NDArray[Any]] = [
        layouts.tp, layouts.cp, layouts.micro_batch, layouts.ep, layouts.etp, layouts.sequence_parallel,
        layouts.attention,
    ]  # fmt: skip
    if setting.model.experts is not None and setting.host_expert_us:
        columns.append(layouts.vpp > 1)
    key = np.zeros(len(layouts), np.int64)
    for column in columns:
        _, place = np.unique(column, return_inverse=True)
        key = key * (int(place.max(initial=0)) + 1) + place
    _, first, back = np.unique(key, return_index=True, return_inverse=True)
    return first.astype(np.int64), back.reshape(-1).astype(np.int64)


def exposed(exchange_us: Floats, behind_us: Floats, pieces: Floats, hidden_cost: float) -> Floats:
    """What an exchange that runs behind computation in ``pieces`` still costs, µs, shape [n]: what exceeds the
    computation, one piece, and what computation loses to the exchange beside it (``hidden_cost``)."""
    behind = np.minimum(exchange_us, behind_us)
    return np.asarray(np.maximum(exchange_us - behind_us, 0.0) + np.maximum(behind / pieces, behind * hidden_cost))


class _Layer:
    """The questions of one set of layouts whose layers differ."""

    def __init__(self, setting: Setting, links: Links, layouts: TrainingLayouts) -> None:
        self.setting, self.links, self.layouts = setting, links, layouts
        self.model = setting.model.architecture
        self.n = len(layouts)
        self.tokens = setting.tokens(layouts)
        self.tp = layouts.tp.astype(np.float64)
        self.shared = np.where(layouts.sequence_parallel, self.tp, 1.0)
        self.dtype = _DTYPES[setting.precision]
        self.cast = CAST_BYTES[setting.precision]
        self.trains = setting.mode != "lora"
        self.kinds = len(setting.model.kinds)
        self.questions = Questions(self.n, PARTS, self.kinds + 2)  # the two ends are kinds of their own
        self.bytes = np.zeros((2, self.kinds + 2, self.n))  # memory traffic, by pass and kind
        self.exchanged: list[tuple[Slot, Estimates, float]] = []

    # -------------------------------------------------------------- building blocks

    def linear(
        self, kind: int, m: Floats, n: Floats, k: Floats, count: Floats | float = 1.0, dtype: str | None = None
    ) -> None:
        """A linear layer of ``k`` features in and ``n`` out on ``m`` rows: its product and both gradients."""
        dtype, own = dtype or self.dtype, self.links.own
        for name, part, which in self._asked(PRODUCTS, WEIGHT_GRADIENTS):
            known = own.linear(name, m, n, k) if dtype in IN_16_BITS else Corrected()
            self.questions.product(dtype, (part, which, kind), *permuted(name, m, n, k), known.times(count))
            if name == ADDED_UP:
                self.bytes[which, kind] += ACCUMULATION_BYTES * n * k * count * known.ratio
        if dtype == self.dtype:
            self._quantise(kind, m * count, n, k)

    def grouped(self, kind: int, experts: Floats, rows: Floats, n: Floats, k: Floats) -> None:
        """As many linear layers on ``rows`` each, in one call for all of them."""
        own, weights = self.links.own, experts * n * k
        dearer = kernel_ratios().grouped * self.links.constants.expert_overhead
        size, rate = (2.0, "bf16") if self.dtype in IN_16_BITS else (1.0, "fp8")
        beyond = weights_beyond_products(rows, weights, size, own.flops_rate(rate), self.links.memory_rate)
        for name, part, which in self._asked(EXPERTS, EXPERTS):
            known = own.grouped(name, experts, rows, n, k) if self.dtype in IN_16_BITS else Corrected()
            product = permuted(name, experts * rows, n, k)
            self.questions.product(self.dtype, (part, which, kind), *product, known.times(dearer))
            added_up = ACCUMULATION_BYTES * weights if name == ADDED_UP else 0.0
            self.bytes[which, kind] += (beyond + added_up) * known.ratio * self.links.constants.expert_overhead
        self._quantise(kind, experts * rows, n, k)

    def _asked(self, part: int, gradient: int) -> list[tuple[str, int, int]]:
        """(kind of product, part, pass)."""
        each = [(FORWARD_PRODUCT, part, FORWARD), (DATA_GRADIENT, part, BACKWARD), (ADDED_UP, gradient, BACKWARD)]
        return each if self.trains else each[:2]

    def _quantise(self, kind: int, rows: Floats, n: Floats, k: Floats) -> None:
        self.bytes[FORWARD, kind] += self.cast * rows * k
        self.bytes[BACKWARD, kind] += self.cast * rows * n

    def exchange(
        self, slot: Slot, kind: str, message: Floats, ranks: Floats, stride: Floats, count: float = 1.0
    ) -> None:
        self.exchanged.append(
            (slot, self.links.exchange(kind, message, ranks.astype(np.int64), stride.astype(np.int64)), count)
        )

    # -------------------------------------------------------------- a layer

    def times(self) -> LayerTimes:
        for k, kind in enumerate(self.setting.model.kinds):
            self._attention(k, kind.attention)
            self._feed_forward(k, kind)
            self._stream(k, kind)
            self._tensor_exchanges(k, 2 if isinstance(kind.feed_forward, DenseFeedForward) else 1)
        self._ends()
        value, low, high, how, inside = self.questions.answer(self.links.cost)
        factor = self.links.lasting_load.factor
        value *= factor
        value[ELEMENTWISE] += self.bytes / self.links.memory_rate * 1e6
        for slot, estimates, count in self.exchanged:
            value[slot] += estimates.value * count
        kernels = np.maximum(value[:ELEMENTWISE].sum(axis=(0, 1, 2)), 1e-9) / factor
        down, up = low.sum(axis=(0, 1, 2)) / kernels, high.sum(axis=(0, 1, 2)) / kernels
        self._hide_tensor_exchanges(value)
        ends = value.sum(axis=0)[:, self.kinds :].swapaxes(0, 1)
        return LayerTimes(value[:, :, : self.kinds], ends, down, up, how, inside, self._host_us())

    def _host_us(self) -> Floats:
        host = np.full((self.kinds, self.n), float(self.setting.framework.host_us))
        each = self.setting.host_expert_us * np.where(self.layouts.vpp > 1, 2.0, 1.0)
        for k, kind in enumerate(self.setting.model.kinds):
            if isinstance(kind.feed_forward, MixtureOfExperts):
                host[k] += each * np.maximum(kind.feed_forward.experts / self.layouts.ep, 1.0)
        return host

    def _attention(self, k: int, attention: TrainedAttention) -> None:
        hidden, tokens, tp = float(self.model.hidden), self.tokens, self.tp
        if isinstance(attention, GroupedQueryAttention):
            query = attention.heads * attention.head_dim / tp
            kv = np.maximum(attention.kv_heads / tp, 1.0) * attention.head_dim
            gate = query if attention.gated_output else 0.0
            self.linear(k, tokens, query + gate + 2 * kv, np.full(self.n, hidden))
            self.linear(k, tokens, np.full(self.n, hidden), query)
            self._grouped_query(k, attention)
            rotated = query + kv
            biases = 2.0 * tokens * (query + 2 * kv) if attention.bias else 0.0
        elif isinstance(attention, LatentAttention):
            rotated, biases = self._latent(k, attention), 0.0
        else:
            wide, value = (width / tp for width in attention_widths(attention))
            self.linear(k, tokens, wide + value, np.full(self.n, hidden))
            self.linear(k, tokens, np.full(self.n, hidden), value)
            self._delta_rule(k, attention)
            rotated, biases = wide, 0.0
        # Queries and keys are turned (or split off) and written, in both passes.
        for which in (FORWARD, BACKWARD):
            self.bytes[which, k] += 4.0 * tokens * rotated
        self.bytes[BACKWARD, k] += biases

    def _latent(self, k: int, attention: LatentAttention) -> Floats:
        tokens, tp, hidden = self.tokens, self.tp, np.full(self.n, float(self.model.hidden))
        qk = attention.qk_nope_head_dim + attention.qk_rope_head_dim
        latent = attention.kv_lora_rank + attention.qk_rope_head_dim
        # Down projections are whole on every rank; with sequence parallelism each does its share of the tokens.
        rows = tokens / self.shared
        down = attention.q_lora_rank + latent if attention.q_lora_rank else latent
        self.linear(k, rows, np.full(self.n, float(down)), hidden)
        query_in = float(attention.q_lora_rank or self.model.hidden)
        self.linear(k, tokens, attention.heads * qk / tp, np.full(self.n, query_in))
        width = attention.heads * (attention.qk_nope_head_dim + attention.v_head_dim) / tp
        self.linear(k, tokens, width, np.full(self.n, float(attention.kv_lora_rank)))
        self.linear(k, tokens, hidden, attention.heads * attention.v_head_dim / tp)
        heads = np.maximum(attention.heads / tp, 1)
        self._fused(
            "mla_prefill",
            k,
            batch=self.layouts.micro_batch,
            query_tokens=self.setting.sequence,
            prefix_tokens=0,
            heads=heads,
        )
        return np.asarray(attention.heads * qk * 2 / tp)

    def _grouped_query(self, k: int, attention: GroupedQueryAttention) -> None:
        heads = np.maximum(attention.heads / self.tp, 1)
        sequence, window = self.setting.sequence, attention.window_tokens
        unfused = self.layouts.attention == UNFUSED
        if unfused.any():
            self._scores(k, attention, heads, unfused)
        if not unfused.all():
            self._fused(
                "attention_prefill",
                k,
                np.where(unfused, 0.0, 1.0),
                batch=self.layouts.micro_batch,
                query_tokens=sequence,
                prefix_tokens=0,
                heads=heads,
                kv_heads=np.maximum(attention.kv_heads / self.tp, 1),
                head_dim=attention.head_dim,
                window_tokens=window if window < sequence else 0,
            )
        ring = {"message": 4.0 * self.tokens * np.maximum(attention.kv_heads / self.tp, 1) * attention.head_dim}
        self._context_exchange(k, ring["message"])

    def _fused(self, operation: str, k: int, count: Floats | float = 1.0, **columns: object) -> None:
        """Causal attention of whole sequences, of which context parallelism (balanced) leaves each rank its share."""
        kernel, own = self.layouts.attention, self.links.own
        share = count * flash2_slowdown(self.links.cost, kernel) / self.layouts.cp
        shape = {"dtype": code("dtype", "bf16"), "kv_dtype": code("kv_dtype", "bf16"), **columns}
        names = ("batch", "query_tokens", "heads", "kv_heads", "head_dim")
        sizes = [columns[name] for name in names if name in columns]
        sizes += [columns["head_dim"]] if "head_dim" in columns else [columns["heads"], QK_WIDTH, V_WIDTH]
        for which, times in ((FORWARD, 1.0), (BACKWARD, self.links.constants.attention_backward)):
            known = Corrected() if columns.get("window_tokens") else own.attention(which == BACKWARD, kernel, *sizes)
            self.questions.ask(operation, (ATTENTION, which, k), known.times(share * times), **shape)

    def _scores(self, k: int, attention: GroupedQueryAttention, heads: Floats, unfused: NDArray[np.bool_]) -> None:
        """Unfused attention works on the whole square: products of queries and keys and of scores and values, and
        the traffic of softmax (read, write) and dropout (read, write, mask)."""
        sequence, dim = float(self.setting.sequence), float(attention.head_dim)
        rows = self.layouts.micro_batch * heads * sequence
        count = unfused.astype(np.float64)
        for which, wide, narrow in ((FORWARD, 1, 1), (BACKWARD, 1, 3)):
            self.questions.product("bf16", (ATTENTION, which, k), rows, sequence, dim, wide * count)
            self.questions.product("bf16", (ATTENTION, which, k), rows, dim, sequence, narrow * count)
        dropout = 5.0 if self.setting.model.dropout else 0.0
        for which, softmax in ((FORWARD, 4.0), (BACKWARD, 6.0)):
            self.bytes[which, k] += rows * sequence * (softmax + dropout) * count

    def _delta_rule(self, k: int, attention: GatedDeltaNet) -> None:
        heads = {
            "key_heads": np.maximum(attention.key_heads / self.tp, 1),
            "value_heads": np.maximum(attention.value_heads / self.tp, 1),
        }
        shape = {
            "dtype": code("dtype", "bf16"),
            "batch": self.layouts.micro_batch,
            "query_tokens": self.setting.sequence,
        }
        self.questions.ask("gdn_prefill", (ATTENTION, FORWARD, k), 1 / self.layouts.cp, **shape, **heads)
        backward = self.links.constants.attention_backward / self.layouts.cp
        self.questions.ask("gdn_prefill", (ATTENTION, BACKWARD, k), backward, **shape, **heads)

    def _context_exchange(self, k: int, keys_and_values: Floats) -> None:
        """Keys and values go round the ring in the forward, and again with their gradients in the backward pass; each
        turn runs behind the attention of the turn before, so what is left is what exceeds it (ring attention,
        arXiv:2310.01889 §3), settled in :meth:`_hide_tensor_exchanges`."""
        cp = self.layouts.cp.astype(np.float64)
        for which, turns in ((FORWARD, 1.0), (BACKWARD, 2.0)):
            self.exchange((CONTEXT, which, k), "all_gather", keys_and_values * cp, cp, self.tp, turns)

    # -------------------------------------------------------------- feed-forward

    def _feed_forward(self, k: int, kind: TrainedKind) -> None:
        ffn = kind.feed_forward
        if isinstance(ffn, MixtureOfExperts):
            self._experts(k, ffn)
            if ffn.shared_intermediate:
                self._dense(k, DenseFeedForward(ffn.shared_intermediate, ffn.gated))
        else:
            self._dense(k, ffn)

    def _dense(self, k: int, ffn: DenseFeedForward) -> None:
        hidden = np.full(self.n, float(self.model.hidden))
        matrices, width = (2 if ffn.gated else 1), ffn.intermediate / self.tp
        self.linear(k, self.tokens, matrices * width, hidden)
        self.linear(k, self.tokens, hidden, width)
        # The activation reads and writes; backward reads its inputs and a gradient, and writes gradients.
        self.bytes[FORWARD, k] += 2.0 * self.tokens * width * (matrices + 1)
        self.bytes[BACKWARD, k] += 2.0 * self.tokens * width * (2 * matrices + 1 + (1 if ffn.bias else 0))

    def _experts(self, k: int, ffn: MixtureOfExperts) -> None:
        """Local experts as grouped products of the rows that they get when balanced, dearer by ``expert_overhead``."""
        layouts, hidden = self.layouts, np.full(self.n, float(self.model.hidden))
        etp, ep = layouts.etp.astype(np.float64), layouts.ep.astype(np.float64)
        own = self.tokens / self.shared  # tokens that this rank routes
        pairs = own * ffn.top_k * etp  # rows that arrive
        local = np.maximum(ffn.experts / ep, 1.0)
        rows, width = pairs / local, ffn.intermediate / etp
        matrices = 2 if ffn.gated else 1
        self.linear(k, own, np.full(self.n, float(ffn.experts)), hidden, dtype="bf16")
        self.grouped(k, local, rows, matrices * width, hidden)
        self.grouped(k, local, rows, hidden, width)
        self.bytes[FORWARD, k] += 2.0 * pairs * width * (matrices + 1) + 16.0 * own * ffn.experts
        self.bytes[BACKWARD, k] += 2.0 * pairs * width * (2 * matrices + 1) + 16.0 * own * ffn.experts
        if ffn.bias:
            added = self.setting.framework.expert_bias_traffic * pairs * hidden
            self.bytes[FORWARD, k] += 0.4 * added
            self.bytes[BACKWARD, k] += 0.6 * added + 2.0 * pairs * matrices * width
        # Sorting tokens by expert before and after the exchange, each way: read and write.
        for which in (FORWARD, BACKWARD):
            self.bytes[which, k] += 4 * 4.0 * own * ffn.top_k * hidden
            once = self.setting.framework.defaults["dispatcher"] == "flex"
            sent = self.links.dispatch(2.0 * own * hidden, ffn.top_k, layouts.ep, layouts.etp, once_per_node=once)
            self.exchanged.append(((DISPATCH, which, k), sent, 2.0))
            gathered = 2.0 * own * ffn.top_k * hidden * etp
            self.exchange((DISPATCH, which, k), "all_gather", gathered, etp, np.ones(self.n), 1.0)
            self.exchange((DISPATCH, which, k), "reduce_scatter", gathered, etp, np.ones(self.n), 1.0)

    # -------------------------------------------------------------- stream and exchanges

    def _stream(self, k: int, kind: TrainedKind) -> None:
        """Two norms and two residual additions, with dropout's masks where there is dropout: elements read or written
        of the stream, forward 10 or 11, backward 14 or 16."""
        stream = self.tokens * self.model.hidden / self.shared
        masks = 1.0 if self.setting.model.dropout else 0.0
        self.bytes[FORWARD, k] += 2.0 * stream * (10 + masks)
        self.bytes[BACKWARD, k] += 2.0 * stream * (14 + 2 * masks)

    def _tensor_exchanges(self, k: int, blocks: int) -> None:
        """Each block (attention, dense feed-forward) gathers its input and scatters its sums; without sequence
        parallelism both are one reduction to all (Korthikanti et al., figure 5)."""
        message = 2.0 * self.tokens * self.model.hidden
        split = self.layouts.sequence_parallel
        ones = np.ones(self.n)
        for which in (FORWARD, BACKWARD):
            for kind in ("all_gather", "reduce_scatter"):
                self.exchange((TENSOR, which, k), kind, np.where(split, message, 0.0), self.tp, ones, blocks)
            self.exchange((TENSOR, which, k), "all_reduce", np.where(split, 0.0, message), self.tp, ones, blocks)

    def _hide_tensor_exchanges(self, value: Floats) -> None:
        """What runs behind computation leaves its excess, and the first of as many pieces as there are ranks."""
        hidden = self.setting.framework.hidden
        pairs: list[tuple[int, tuple[int, ...], Ints]] = [(CONTEXT, (ATTENTION,), self.layouts.cp)]
        if "tensor" in hidden:
            pairs.append((TENSOR, (PRODUCTS, WEIGHT_GRADIENTS), self.layouts.tp))
        if "experts" in hidden:
            pairs.append((DISPATCH, (EXPERTS, ATTENTION, PRODUCTS), self.layouts.ep))
        for exchange, behind, pieces in pairs:
            for which in (FORWARD, BACKWARD):
                compute = value[list(behind), which].sum(axis=0)
                time = value[exchange, which]
                value[exchange, which] = exposed(
                    time, compute, pieces.astype(np.float64), self.links.constants.hidden_cost
                )

    def _ends(self) -> None:
        first, last = self.kinds, self.kinds + 1
        hidden, tokens = np.full(self.n, float(self.model.hidden)), self.tokens
        stream = tokens * self.model.hidden
        vocabulary = self.setting.vocabulary(self.layouts.tp).astype(np.float64)
        heads = 1 + self.setting.mtp
        self.bytes[FORWARD, first] += 2.0 * stream * 4
        self.bytes[BACKWARD, first] += 2.0 * stream * 4
        self.linear(
            last, tokens, vocabulary, hidden, count=heads, dtype="bf16" if self.setting.precision != "fp16" else "fp16"
        )
        loss = self.setting.framework.loss_traffic * tokens * vocabulary * heads
        self.bytes[FORWARD, last] += loss * 0.7 + 2.0 * stream * 4
        self.bytes[BACKWARD, last] += loss * 0.3 + 2.0 * stream * 6
        message = 2.0 * stream
        ones = np.ones(self.n)
        for which in (FORWARD, BACKWARD):
            self.exchange((TENSOR, which, first), "all_reduce", message, self.tp, ones)
            self.exchange((TENSOR, which, last), "all_gather", message, self.tp, ones)
