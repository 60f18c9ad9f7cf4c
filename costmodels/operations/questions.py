"""What one engine step asks of the cost model: a batch, and the questions that layers make of it.

Vectorised over candidates: every column is an array over the same ``n`` candidates (a layout and a batch
each).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.models.precision import Precision
from costmodels.operations.kernel import Kernel
from costmodels.operations.layouts import Layouts
from costmodels.operations.roofline import WEIGHT_BYTES, code, stored_bytes

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

    def halved(self, which: NDArray[np.bool_]) -> Batch:
        """One of the two halves of the steps ``which``: half of the prompts, of a single one half of its chunk."""
        prompts = -(-self.prefills // 2)
        chunk = -(-self.prefills * self.chunk // np.maximum(2 * prompts, 1))
        prefix = self.prefix + np.where(self.prefills == 1, (self.chunk - chunk) // 2, 0)
        return replace(
            self,
            prefills=np.where(which, prompts, self.prefills),
            chunk=np.where(which, chunk, self.chunk),
            prefix=np.where(which, prefix, self.prefix),
            decodes=np.where(which, -(-self.decodes // 2), self.decodes),
            expert_tokens=np.where(which, self.expert_tokens / 2, self.expert_tokens),
        )

    def verifying(self, queries: int) -> Batch:
        """The same step of sequences that generate one token each, with ``queries`` tokens of each: speculative
        decoding."""
        more = (queries - self.queries) * self.decodes
        return replace(self, expert_tokens=self.expert_tokens + more, queries=queries)


@dataclass(frozen=True)
class Asked:
    """Questions to one operation: ``columns`` of shape [q], the candidate each belongs to, how often it
    occurs per step; ``beside``: whether another stream runs them, beside routed experts."""

    columns: Mapping[str, NDArray[np.generic]]
    candidate: Ints
    count: Floats
    beside: bool = False


@dataclass(frozen=True)
class Exchange:
    """A collective of one candidate, before it is known whether it crosses nodes; shape [e] each.
    ``to_experts``: gathers tokens for routed experts."""

    kind: int
    message_bytes: Floats
    ranks: Ints
    candidate: Ints
    count: Floats
    to_experts: bool = False


@dataclass(frozen=True)
class ExpertExchange:
    """Tokens of each GPU on their way to their experts and back, of ``count`` layers; shape [e] each.

    Attributes:
        kind: of :mod:`costmodels.operations.exchanges`.
        tokens: of each GPU, on average, where each has as many: a busier one has ``busiest`` times as much to do.
        hidden, top_k, experts: of the layer.
        groups, top_groups: of experts, in which a token's may lie.
        ranks: GPUs that share out the experts.
        more_us: of each way, beside the time of its kind.
    """

    kind: Ints
    tokens: Floats
    busiest: Floats
    hidden: int
    top_k: int
    experts: int
    groups: int
    top_groups: int
    ranks: Ints
    candidate: Ints
    count: float
    more_us: Floats | float = 0.0


@dataclass
class StepWork:
    """Everything one step asks for. ``moved_bytes`` and ``small_kernels`` are the elementwise rest, ``uneven`` by how
    much more (log) the GPU with most experts that are asked for has than all have on average; shape [n].
    ``slow_experts``: whose experts take longer than their rows say, [n]. ``beside_tokens``: of a step, up to which what
    is asked ``beside`` routed experts runs so."""

    candidates: int
    asked: dict[str, list[Asked]] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    expert_exchanges: list[ExpertExchange] = field(default_factory=list)
    beside_tokens: int = 0
    moved_bytes: Floats = field(default_factory=lambda: np.zeros(0))
    small_kernels: Floats = field(default_factory=lambda: np.zeros(0))
    uneven: Floats = field(default_factory=lambda: np.zeros(0))
    slow_experts: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        self.moved_bytes = np.zeros(self.candidates)
        self.small_kernels = np.zeros(self.candidates)
        self.uneven = np.zeros(self.candidates)
        self.slow_experts = np.zeros(self.candidates, np.bool_)

    def ask(
        self, kernel: Kernel, count: Floats | float, when: NDArray[np.bool_] | None = None, **columns: object
    ) -> None:
        """Adds one question per candidate for which ``when`` holds (default: all); ``beside=True`` among the columns:
        a stream beside that of routed experts may run it.

        Raises:
            ValueError: ``columns`` are not those of the kernel's table (``num_gpus`` is 1 where it is left out).
        """
        beside = bool(columns.pop("beside", False))
        if {"num_gpus", *columns} != set(kernel.columns):
            strange = sorted({"num_gpus", *columns} ^ set(kernel.columns))
            raise ValueError(f"{kernel.name}: columns given without being its own, or missing: {', '.join(strange)}")
        chosen = np.arange(self.candidates) if when is None else np.flatnonzero(when)
        if not len(chosen):
            return
        full = {name: np.broadcast_to(np.asarray(values), self.candidates)[chosen] for name, values in columns.items()}
        full.setdefault("num_gpus", np.ones(len(chosen), np.int64))
        counts = np.broadcast_to(np.asarray(count, dtype=np.float64), self.candidates)[chosen]
        self.asked.setdefault(kernel.name, []).append(Asked(full, chosen.astype(np.int64), counts, beside))

    def together(self, operation: str) -> tuple[dict[str, NDArray[np.generic]], Ints, Floats]:
        """All that is asked of ``operation``, which is: columns, the candidate of each question and how often."""
        parts = self.asked[operation]
        columns = {
            name: np.concatenate([np.asarray(part.columns[name]) for part in parts]) for name in parts[0].columns
        }
        candidate = np.concatenate([part.candidate for part in parts])
        return columns, candidate, np.concatenate([part.count for part in parts])

    def exchange(
        self, kind: str, message_bytes: Floats, ranks: Ints, count: Floats | float, *, to_experts: bool = False
    ) -> None:
        """Adds one collective per candidate with more than one rank."""
        chosen = np.flatnonzero((ranks > 1) & (message_bytes > 0))
        if len(chosen):
            counts = np.broadcast_to(np.asarray(count, dtype=np.float64), self.candidates)[chosen]
            places = chosen.astype(np.int64)
            self.exchanges.append(
                Exchange(code("kind", kind), message_bytes[chosen], ranks[chosen], places, counts, to_experts)
            )

    def gathered_in(self, element_bytes: float) -> None:
        """Ranks gather tokens for routed experts in so many bytes an element, not as activations are."""
        share = element_bytes / ACTIVATION_BYTES
        self.exchanges = [
            replace(each, message_bytes=each.message_bytes * share) if each.to_experts else each
            for each in self.exchanges
        ]

    def touch(self, moved_bytes: Floats, kernels: float, count: float) -> None:
        """Adds elementwise work: norms, rotary embedding, activation, residual, cache writes."""
        self.moved_bytes += moved_bytes * count
        self.small_kernels += kernels * count

    def require_summed(self, operations: Collection[str]) -> None:
        """Raises LookupError where something is asked for that is none of ``operations``, which parts of a step sum:
        it would cost nothing without a word."""
        forgotten = sorted(set(self.asked) - set(operations))
        if forgotten:
            raise LookupError(f"asked for and summed in no part of a step: {', '.join(forgotten)}")


@dataclass(frozen=True)
class Split:
    """How the layers of one model are split over GPUs.

    Attributes:
        hidden: the model's width.
        precision: of its parts.
        layouts: shape [n].
        padding: precision of a part's weights → the multiple that a framework pads the model's width to in them.
    """

    hidden: int
    precision: Precision
    layouts: Layouts
    padding: Mapping[str, int] = field(default_factory=dict)

    @property
    def kv_bytes(self) -> float:
        """Of one element of the cache."""
        return WEIGHT_BYTES[self.precision.kv]

    def weight_bytes(self, part: str) -> float:
        """Of one weight of ``part``, with its share of a scale."""
        return stored_bytes(self.precision.of(part), self.precision.group)

    def padded_width(self, width: int, part: str) -> float:
        """How much wider the weights of ``part`` are than the model, of ``width``; 1: as wide."""
        multiple = self.padding.get(self.precision.of(part), 1)
        return -(-width // multiple) * multiple / width


@dataclass(frozen=True)
class LayerStep:
    """One step of one attention rank's GPU, to which layers add their ``work``.

    Attributes:
        split: of the model.
        batch: shape [n], as the layouts of ``split``.
        routing: skew of tokens over experts, a value of :data:`costmodels.operations.roofline.CODES`\\ ``["routing"]``.
    """

    split: Split
    batch: Batch
    routing: str
    work: StepWork

    def hidden_bytes(self, tokens: NDArray[np.generic]) -> Floats:
        """Activations of so many tokens at the width of the model."""
        return np.asarray(tokens, dtype=np.float64) * self.split.hidden * ACTIVATION_BYTES

    def attend(self, prefill: Kernel, decode: Kernel, count: float, **shape: object) -> None:
        """Asks for a module in which every token chooses what it sees: the prompts' chunks behind what is cached, and
        each generated token. Drafted ones choose for themselves, like so many more sequences."""
        batch = self.batch
        chunks = {"batch": batch.prefills, "query_tokens": batch.chunk, "prefix_tokens": batch.prefix}
        self.work.ask(prefill, count, batch.prefills > 0, **chunks, **shape)
        sequences = batch.decodes * batch.queries
        self.work.ask(decode, count, batch.decodes > 0, batch=sequences, context_tokens=batch.context, **shape)

    def recur(self, prefill: Kernel, decode: Kernel, count: float, **shape: object) -> None:
        """Asks for a recurrence, whose state stands for all tokens before: neither prefix nor context matters. Each
        drafted token leaves a state of its own until it is accepted, like so many more sequences."""
        batch = self.batch
        self.work.ask(prefill, count, batch.prefills > 0, batch=batch.prefills, query_tokens=batch.chunk, **shape)
        self.work.ask(decode, count, batch.decodes > 0, batch=batch.decodes * batch.queries, **shape)

    def reduce(self, count: float) -> None:
        """The sum over a tensor-parallel group that follows a product split by its inputs."""
        self.work.exchange("all_reduce", self.hidden_bytes(self.batch.tokens), self.split.layouts.tp, count)
