"""Step times of one configuration as a fast scalar function of the batch.

A step's time is, but for the rounding of kernels to waves and tiles, a sum over what each part depends on:

    without chunks:  T = B(decodes) + D(decodes, context) + X(expert tokens) − X(tokens)
    with:  T = L(tokens) + d · D(decodes, context) + Σ A(chunk, prefix) + M(decodes) + X′(expert tokens) − X′(tokens)

B is a step of that many sequences at the shortest context, D what attention over longer ones adds; L is everything that
sees tokens alone (weights, exchanges, host), A what a prompt's chunk adds (attention, and the K and V that latent
attention rebuilds), d by what factor attention is slower in steps with chunks than in those without, M what decodes add
to one beside D (logits, host), X and X′ the experts and their exchanges, which see the tokens of all attention ranks,
in steps without chunks and with them. Each is
tabulated from :meth:`ServedModel.step` on a grid, for many configurations in one call, and interpolated with plain
arithmetic: a simulator asks for one step at a time.
D and A are bilinear between the knots, as attention's bytes are, and nearly its FLOPs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NotRequired, TypedDict, Unpack

import numpy as np

from costmodels.estimates import Estimates, Floats, Ints
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.serving.served_model import ServedModel
from costmodels.serving.step import StepTimes

End = Literal["value", "low", "high"]

_TOKENS = (1, 2, 3, *(base * 2**k for k in range(14) for base in (4, 5, 6, 7)))
_DECODES = (1, 4, 16, 32, 64, 128, 192, 256, 512, 1024, 2048)
_CONTEXTS = (1, 512, 2048, 8192, 32768, 131072)
_CHUNKS = (1, *(base * 2**k for k in range(4, 15) for base in (2, 3)))
_PREFIXES = (0, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

_MIXED = 64
"""Tokens of the chunk in the steps that show what mixing costs by itself."""

_CANDIDATES = 20_000
"""Steps asked for at once: enough to spread the cost of a call, few enough to stay within the caches."""


class StepCurve:
    """Times of one configuration, µs; ``curve.step_us(...)`` for any batch. Beyond the grid the outermost
    slope continues.

    Attributes:
        contexts: the knots of :meth:`decode_line`, ascending.
        queries: tokens of each decoding sequence in a step.
        beside: what attention over longer contexts adds to a step with chunks ÷ what it adds to one without.
    """

    __slots__ = (
        "_expert_memo",
        "_linear_memo",
        "_lines",
        "alone",
        "alone_knots",
        "beside",
        "chunk",
        "chunks",
        "contexts",
        "decode",
        "decodes",
        "expert",
        "linear",
        "mixed",
        "prefixes",
        "queries",
        "tokens",
    )

    def __init__(
        self,
        grid: Grid,
        linear: Floats,
        alone: Floats,
        decode: Floats,
        chunk: Floats,
        expert: Floats | None,
        mixed: Floats,
        beside: float = 1.0,
    ) -> None:
        self.contexts = list(grid.contexts)
        self.mixed: list[float] = mixed.tolist()
        self.beside = beside
        self.queries = grid.queries
        self.tokens, self.decodes = list(grid.tokens), list(grid.decodes)
        self.chunks, self.prefixes = list(grid.chunks), list(grid.prefixes)
        self.linear: list[float] = linear.tolist()
        self.alone_knots = list(grid.alone)
        self.alone: list[float] = alone.tolist()
        self.decode: list[list[float]] = decode.tolist()
        self.chunk: list[list[float]] = chunk.tolist()
        self.expert: list[list[float]] | None = (
            None if expert is None else expert.tolist()
        )  # decodes alone, with chunks
        self._expert_memo: tuple[dict[float, float], dict[float, float]] = ({}, {})
        self._lines: dict[int, tuple[list[float], list[float]]] = {}
        self._linear_memo: dict[float, float] = {}

    def slower(self, plain: float, prompts: float) -> StepCurve:
        """The same with steps without chunks ``plain`` times as long, and those with chunks ``prompts`` times."""
        out = copy(self)
        out.alone, out.decode = [plain * each for each in self.alone], [[plain * b for b in a] for a in self.decode]
        out.linear, out.mixed = ([prompts * each for each in values] for values in (self.linear, self.mixed))
        out.chunk = [[prompts * each for each in row] for row in self.chunk]
        out.beside = self.beside * prompts / plain
        if self.expert is not None:
            by = zip((plain, prompts), self.expert, strict=True)
            out.expert = [[factor * each for each in row] for factor, row in by]
        out._expert_memo, out._lines, out._linear_memo = ({}, {}), {}, {}
        return out

    @property
    def has_experts(self) -> bool:
        """Whether the experts see the tokens of other ranks too."""
        return self.expert is not None

    @property
    def chunk_floor_us(self) -> float:
        """What the chunks of one step share: their kernels' launches."""
        return self.chunk[0][0]

    def linear_us(self, tokens: float) -> float:
        """What depends on the tokens alone of a step with chunks."""
        known = self._linear_memo.get(tokens)
        if known is None:
            known = self._linear_memo[tokens] = _along(self.tokens, self.linear, tokens)
        return known

    def experts_beside_us(self, everyone: float, tokens: float, *, chunks: bool) -> float:
        """What experts and their exchanges take more when each rank brings ``everyone`` tokens on average than when
        all bring as many as this one, ``tokens``, in steps with or without ``chunks``; zero with one attention rank,
        which is alone with its tokens."""
        if self.expert is None:
            return 0.0
        memo = self._expert_memo[chunks]
        for asked in (everyone, tokens):
            if asked not in memo:
                memo[asked] = _along(self.tokens, self.expert[chunks], asked)
        return memo[everyone] - memo[tokens]

    def decode_line(self, decodes: int) -> tuple[list[float], list[float]]:
        """(times at the knots :attr:`contexts`, slopes after them) of a step of ``decodes`` sequences and
        nothing else, as a function of their mean context."""
        line = self._lines.get(decodes)
        if line is None:
            x = self.decodes
            i = min(max(bisect_right(x, decodes) - 1, 0), len(x) - 2)
            w = (decodes - x[i]) / (x[i + 1] - x[i])
            base = self.alone_us(decodes)
            here, there = self.decode[i], self.decode[i + 1]
            values = [base + a + w * (b - a) for a, b in zip(here, there, strict=True)]
            c = self.contexts
            slopes = [(values[k + 1] - values[k]) / (c[k + 1] - c[k]) for k in range(len(c) - 1)]
            line = self._lines[decodes] = (values, [*slopes, slopes[-1]])
        return line

    def decode_us(self, decodes: int, context: float) -> float:
        """A step of ``decodes`` sequences of ``context`` tokens on average and nothing else."""
        values, slopes = self.decode_line(decodes)
        i = max(bisect_right(self.contexts, context) - 1, 0)
        return values[i] + slopes[i] * (context - self.contexts[i])

    def alone_us(self, decodes: int) -> float:
        """A step of ``decodes`` sequences of the shortest context and nothing else."""
        return _along(self.alone_knots, self.alone, decodes)

    def mixed_us(self, decodes: int) -> float:
        """What ``decodes`` sequences add to a step with chunks beside their tokens and their attention."""
        return _along(self.decodes, self.mixed, decodes)

    def _beside_us(self, decodes: int, context: float) -> float:
        """What ``decodes`` sequences add to a step with chunks beside their tokens."""
        own = self.decode_us(decodes, context) - self.alone_us(decodes)
        return own * self.beside + self.mixed_us(decodes)

    def chunk_us(self, chunk: int, prefix: float) -> float:
        """What one chunk of ``chunk`` tokens behind ``prefix`` cached ones adds."""
        p = self.prefixes
        i = min(max(bisect_right(p, prefix) - 1, 0), len(p) - 2)
        w = (prefix - p[i]) / (p[i + 1] - p[i])
        x = self.chunks
        j = min(max(bisect_right(x, chunk) - 1, 0), len(x) - 2)
        v = (chunk - x[j]) / (x[j + 1] - x[j])
        here, there = self.chunk[j], self.chunk[j + 1]
        low = here[i] + w * (here[i + 1] - here[i])
        high = there[i] + w * (there[i + 1] - there[i])
        return low + v * (high - low)

    def step_us(
        self,
        decodes: int,
        context: float,
        chunks: Sequence[tuple[int, float]] = (),
        expert_tokens: float | None = None,
    ) -> float:
        """One step.

        Args:
            decodes: sequences that generate a token, of ``context`` tokens in the cache on average.
            chunks: (tokens, tokens already in the cache) of each prompt that is worked on.
            expert_tokens: tokens that each attention rank brings to the experts on average (None: as many as
                this one).
        """
        tokens = decodes * self.queries + sum(chunk for chunk, _ in chunks)
        total = self.decode_us(decodes, context) if decodes and not chunks else 0.0
        if chunks:
            total += self.linear_us(tokens)
            total += self._beside_us(decodes, context) if decodes else 0.0
            # Chunks of one step share their kernels' launches.
            total += sum(self.chunk_us(*chunk) for chunk in chunks) - (len(chunks) - 1) * self.chunk_floor_us
        if expert_tokens is not None:
            total += self.experts_beside_us(expert_tokens, tokens, chunks=bool(chunks))
        return total


@dataclass(frozen=True)
class StepTable:
    """One configuration: ``latency`` through all pipeline stages, ``stage`` of the slowest of them (the same
    object where there is one)."""

    ranks: int  # attention data parallel
    stages: int  # pipeline
    latency: StepCurve
    stage: StepCurve

    def slower(self, plain: float, prompts: float) -> StepTable:
        """With steps without chunks ``plain`` times as long, and those with chunks ``prompts`` times."""
        latency = self.latency.slower(plain, prompts)
        stage = latency if self.stage is self.latency else self.stage.slower(plain, prompts)
        return replace(self, latency=latency, stage=stage)


@dataclass(frozen=True)
class Grid:
    """The knots of the tables, each ascending. ``queries``: tokens of each decoding sequence in a step."""

    tokens: tuple[int, ...]
    decodes: tuple[int, ...]
    contexts: tuple[int, ...]
    chunks: tuple[int, ...]
    prefixes: tuple[int, ...]
    queries: int

    @classmethod
    def up_to(cls, tokens: int, sequences: int, context: int, queries: int, bends: Iterable[int] = ()) -> Grid:
        """Knots for steps of that many tokens and sequences, and sequences of that many tokens; and at the ``bends``,
        contexts at which attention stops to grow."""
        decodes, chunks = _until(_DECODES, sequences), _until(_CHUNKS, max(tokens, _MIXED))
        all_tokens = _until(_TOKENS, max(decodes[-1] * queries + _MIXED, chunks[-1]))
        contexts, prefixes = (tuple(sorted({*knots, *bends})) for knots in (_CONTEXTS, _PREFIXES))
        return cls(all_tokens, decodes, _until(contexts, context), chunks, _until(prefixes, context), queries)

    @property
    def alone(self) -> tuple[int, ...]:
        """Knots of the sequences of steps without chunks."""
        return _until(self.tokens, self.decodes[-1])

    def batches(self, *, experts: bool) -> Batch:
        """Every batch whose time a table needs: L's, B's, D's, A's, the mixed ones, d's, and X's where asked for."""
        rows: list[tuple[int, int, int, int, int, float]] = []
        rows += [(1, tokens, 0, 0, 0, tokens) for tokens in self.tokens]
        shortest = self.contexts[0]
        rows += [(0, 0, 0, b, shortest, b * self.queries) for b in self.alone]
        rows += [
            (0, 0, 0, decodes, context, decodes * self.queries)
            for decodes, context in product(self.decodes, self.contexts)
        ]
        rows += [(1, chunk, prefix, 0, 0, chunk) for chunk, prefix in product(self.chunks, self.prefixes)]
        rows += [(1, _MIXED, 0, b, shortest, _MIXED + b * self.queries) for b in self.decodes]
        rows += [(1, _MIXED, 0, b, self.contexts[-1], _MIXED + b * self.queries) for b in self.decodes[-1:]]
        if experts:
            rows += [(0, 0, 0, 1, 1, tokens) for tokens in self.tokens]
            rows += [(1, 1, 0, 0, 0, tokens) for tokens in self.tokens]
        *whole, expert_tokens = zip(*rows, strict=True)
        prefills, chunk, prefix, decodes, context = (np.array(column, dtype=np.int64) for column in whole)
        shares = np.array(expert_tokens, np.float64)
        return Batch(prefills, chunk, prefix, decodes, context, shares, queries=self.queries)


class Sizes(TypedDict):
    """How far tables go: tokens and sequences of one step of one attention rank, tokens of one sequence; and the tokens
    of each decoding sequence in a step (1; more with speculative decoding)."""

    most_tokens: int
    most_sequences: int
    longest_tokens: int
    queries: NotRequired[int]


def step_tables_at(
    ends: Sequence[End],
    served: ServedModel,
    layouts: Layouts,
    routing: str,
    **sizes: Unpack[Sizes],
) -> list[dict[End, StepTable]]:
    """Tables of every layout at several ends of the prediction's interval; the steps are asked for once."""
    windows = {group.attention.window_tokens for group in served.model.layer_groups} - {0}
    most_tokens, most_sequences, longest = sizes["most_tokens"], sizes["most_sequences"], sizes["longest_tokens"]
    grid = Grid.up_to(most_tokens, most_sequences, longest, sizes.get("queries", 1), windows)
    tables: list[dict[End, StepTable]] = []
    for together in (np.flatnonzero(layouts.dp == 1), np.flatnonzero(layouts.dp > 1)):
        batches = grid.batches(experts=bool(len(together)) and int(layouts.dp[together[0]]) > 1)
        points = len(batches.prefills)
        for chosen in np.array_split(together, -(-len(together) * points // _CANDIDATES) or 1):
            if len(chosen):
                repeated = layouts.take(np.repeat(chosen, points))
                times = served.step(repeated, _tiled(batches, len(chosen)), routing)
                at_ends = [_tables(grid, times, layouts.take(chosen), end) for end in ends]
                tables += [dict(zip(ends, of_layout, strict=True)) for of_layout in zip(*at_ends, strict=True)]
    order = np.argsort(np.concatenate([np.flatnonzero(layouts.dp == 1), np.flatnonzero(layouts.dp > 1)]))
    return [tables[i] for i in order]


def _tables(grid: Grid, times: StepTimes, layouts: Layouts, end: End) -> list[StepTable]:
    """``times`` of every batch of the grid for each layout, [layouts · batches], as tables."""
    n = len(layouts)
    attention = times.parts["attention"] / times.latency.value  # share of the step
    latency = _curves(grid, times.latency, attention, n, end)
    stage = _curves(grid, times.stage, attention, n, end)
    return [
        StepTable(int(layouts.dp[i]), int(layouts.pp[i]), latency[i], stage[i] if layouts.pp[i] > 1 else latency[i])
        for i in range(n)
    ]


def _curves(grid: Grid, times: Estimates, attention: Floats, n: int, end: End) -> list[StepCurve]:
    total: Floats = getattr(times, end).reshape(n, -1)
    sizes = (
        len(grid.tokens),
        len(grid.alone),
        len(grid.decodes) * len(grid.contexts),
        len(grid.chunks) * len(grid.prefixes),
        len(grid.decodes),
        1,
    )
    linear, alone, decode, chunk, mixed, longest, expert = np.split(total, np.cumsum(sizes), axis=1)
    linear = linear * (1 - attention.reshape(n, -1)[:, : sizes[0]])
    at_chunks, at_mixed = (
        _at(grid.tokens, linear, np.array(asked))
        for asked in (grid.chunks, np.array(grid.decodes) * grid.queries + _MIXED)
    )
    decode = decode.reshape(n, len(grid.decodes), -1) - _at(grid.alone, alone, np.array(grid.decodes))[:, :, None]
    chunk = chunk.reshape(n, len(grid.chunks), -1) - at_chunks[:, :, None]
    grown = decode[:, -1, -1] - decode[:, -1, 0]
    beside = np.divide(longest[:, 0] - mixed[:, -1], grown, out=np.ones(n), where=grown > 0)
    mixed = mixed - at_mixed - beside[:, None] * decode[:, :, 0] - chunk[:, [grid.chunks.index(_MIXED)], 0]
    expert = expert.reshape(n, 2, -1)
    return [
        StepCurve(
            grid,
            linear[i],
            alone[i],
            decode[i],
            chunk[i],
            expert[i] if expert.size else None,
            mixed[i],
            float(beside[i]),
        )
        for i in range(n)
    ]


def _until(knots: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The knots below ``most``, and the first that is not (at least two in all)."""
    count = sum(knot < most for knot in knots) + 1
    return knots[: max(count, 2)]


def _tiled(batch: Batch, times: int) -> Batch:
    def tiled(values: np.ndarray) -> np.ndarray:
        return np.tile(values, times)

    return replace(
        batch,
        prefills=tiled(batch.prefills),
        chunk=tiled(batch.chunk),
        prefix=tiled(batch.prefix),
        decodes=tiled(batch.decodes),
        context=tiled(batch.context),
        expert_tokens=tiled(batch.expert_tokens),
    )


def _at(knots: tuple[int, ...], values: Floats, at: Ints) -> Floats:
    """``values`` [n, knots] interpolated at ``at`` [k]: [n, k]. Exact at a knot."""
    return np.array([np.interp(at, knots, row) for row in values])


def _along(x: list[int], y: list[float], at: float) -> float:
    """Piecewise linear; the outermost segments go on beyond the knots."""
    i = min(max(bisect_right(x, at) - 1, 0), len(x) - 2)
    return y[i] + (y[i + 1] - y[i]) * (at - x[i]) / (x[i + 1] - x[i])
