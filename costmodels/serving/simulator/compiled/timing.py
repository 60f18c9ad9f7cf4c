"""How long the steps of attention ranks in lock step take: the slowest sets the time, the experts see everyone's
tokens (``everyone``: that a rank brings to them on average). What the parts are says
:mod:`costmodels.serving.simulator.step_table`."""

from __future__ import annotations

import math

import numpy as np

from costmodels.native.compiling import compiled
from costmodels.serving.simulator.compiled.state import ENDLESS, Array, Curve, Spec, State

Line = tuple[float, float, int]
"""Decode steps that get longer evenly: µs of the first, by how much each is longer than the one before, and for how
many steps that holds."""


@compiled
def _knot(x: Array, at: float) -> int:
    """The last knot that is not beyond ``at``, or the first."""
    return max(int(np.searchsorted(x, at, side="right")) - 1, 0)


@compiled
def _segment(x: Array, at: float) -> int:
    """The segment between knots that holds ``at``; the outermost ones go on beyond the knots."""
    return min(_knot(x, at), len(x) - 2)


@compiled
def _along(x: Array, y: Array, at: float) -> float:
    i = _segment(x, at)
    return float(y[i] + (y[i + 1] - y[i]) * (at - x[i]) / (x[i + 1] - x[i]))


@compiled
def _chunk_us(curve: Curve, chunk: int, prefix: float) -> float:
    p, x = curve.prefixes, curve.chunks
    i, j = _segment(p, prefix), _segment(x, chunk)
    w, v = (prefix - p[i]) / (p[i + 1] - p[i]), (chunk - x[j]) / (x[j + 1] - x[j])
    low = curve.chunk[j, i] + w * (curve.chunk[j, i + 1] - curve.chunk[j, i])
    high = curve.chunk[j + 1, i] + w * (curve.chunk[j + 1, i + 1] - curve.chunk[j + 1, i])
    return float(low + v * (high - low))


@compiled
def _at_contexts(curve: Curve, size: int, context: float) -> tuple[float, float, int]:
    """A step of ``size`` decodes at a mean context, its slope there, and the knot below it."""
    x, c = curve.decodes, curve.contexts
    j = _segment(x, size)
    w = (size - x[j]) / (x[j + 1] - x[j])
    base = _along(curve.alone_knots, curve.alone, size)
    i = _knot(c, context)
    k = min(i, len(c) - 2)
    here = base + curve.decode[j, k] + w * (curve.decode[j + 1, k] - curve.decode[j, k])
    there = base + curve.decode[j, k + 1] + w * (curve.decode[j + 1, k + 1] - curve.decode[j, k + 1])
    slope = (there - here) / (c[k + 1] - c[k])
    return (here if i == k else there) + slope * (context - c[i]), slope, i


@compiled
def _experts_us(curve: Curve, everyone: float, tokens: float, chunks: int) -> float:
    """What experts take more when each rank brings ``everyone`` tokens than when all bring ``tokens``."""
    if curve.expert.shape[1] == 0:
        return 0.0
    return _along(curve.tokens, curve.expert[chunks], everyone) - _along(curve.tokens, curve.expert[chunks], tokens)


@compiled
def padded(spec: Spec, count: int) -> int:
    """The size that a batch of so many decodes runs at."""
    if count > spec.graph_most:
        return count
    return int(spec.graph_sizes[np.searchsorted(spec.graph_sizes, count)])


@compiled
def step_us(spec: Spec, curve: Curve, s: State, slot: int, everyone: float) -> float:
    """One rank's step: its chunks, and the slot's decodes where they take part."""
    rank = slot // spec.stages
    total, tokens, count, context, chunks = 0.0, 0, 0, 0.0, s.ranks[rank].chunks
    if s.ranks[rank].decodes:
        count, context = s.slots[slot].count, s.slots[slot].context
    single = chunks > 0
    for i in range(chunks):
        single &= s.cut[rank, i].tokens == 1
    if single:
        # The last token of a prompt that the cache holds is one query, as that of a sequence that decodes.
        added = 0
        for i in range(chunks):
            added += s.cut[rank, i].prefix + 1
        count, context, chunks = count + chunks, context + added, 0
    size = 0
    if count:
        size = count if chunks else padded(spec, count)
        tokens = size * spec.queries
        total = _at_contexts(curve, size, context / size)[0] * spec.drafted + count * spec.sequence_us
    if chunks:
        if count:
            alone = _along(curve.alone_knots, curve.alone, size)
            attention = _at_contexts(curve, size, context / size)[0] - alone
            total += (curve.beside - 1) * attention
            total += _along(curve.decodes, curve.mixed, size) - alone
        for i in range(chunks):
            total += _chunk_us(curve, s.cut[rank, i].tokens, s.cut[rank, i].prefix)
            tokens += s.cut[rank, i].tokens
        total += _along(curve.tokens, curve.linear, tokens) - (chunks - 1) * curve.chunk[0, 0]
        total += chunks * spec.sequence_us
    if curve.expert.shape[1]:
        total += _experts_us(curve, everyone, tokens, 1 if chunks else 0)
    return float(total * spec.factor)


@compiled
def _line(spec: Spec, curve: Curve, s: State, slot: int, everyone: float, ahead: int) -> Line:
    """One rank's decodes from ``ahead`` steps after theirs, up to the next knot of their context."""
    count = s.slots[slot].count
    size = padded(spec, count)
    gained = count * spec.gain
    context = (s.slots[slot].context + ahead * gained) / size
    value, slope, i = _at_contexts(curve, size, context)
    knots, steps = curve.contexts, ENDLESS
    if i + 1 < len(knots):
        steps = math.ceil((knots[i + 1] - context) * size / gained)
    drafted = spec.factor * spec.drafted
    grows = gained / size * drafted
    first = value * drafted + count * spec.sequence_us * spec.factor
    if curve.expert.shape[1]:
        first += _experts_us(curve, everyone, size * spec.queries, 0) * spec.factor
    return first, slope * grows, steps


@compiled
def decode_line(spec: Spec, curve: Curve, s: State, number: int, everyone: float, ahead: int) -> Line:
    """Steps of nothing but the decodes of a micro-batch."""
    first, rise, steps, ranks = -np.inf, 0.0, ENDLESS, 0
    for rank in range(spec.ranks):
        slot = rank * spec.stages + number
        if s.slots[slot].count:
            own, its, holds = _line(spec, curve, s, slot, everyone, ahead)
            steps = min(steps, holds)
            ranks += 1
            if own > first or (own == first and its > rise):
                first, rise = own, its
    if ranks > 1:  # for how many steps the slowest stays that
        for rank in range(spec.ranks):
            slot = rank * spec.stages + number
            if s.slots[slot].count:
                own, its, _ = _line(spec, curve, s, slot, everyone, ahead)
                if its > rise:
                    steps = min(steps, int((first - own) / (its - rise)) + 1)
    return first, rise, steps


@compiled
def _total(first: float, rise: float, steps: int) -> float:
    return steps * first + rise * (steps * (steps - 1) / 2)


@compiled
def steps_within(first: float, rise: float, until: float, most: int) -> int:
    """The fewest steps, of at most ``most``, that take at least ``until``: steps of ``first``, ``first + rise``, …"""
    half = first - rise / 2
    root = half * half + 2 * rise * until
    guess = until / first if rise == 0 or root < 0 else 2 * until / (half + math.sqrt(root))
    steps = int(min(max(math.ceil(min(guess, 1e15)), 1), most))
    while steps > 1 and _total(first, rise, steps - 1) >= until:
        steps -= 1
    while steps < most and _total(first, rise, steps) < until:
        steps += 1
    return steps
