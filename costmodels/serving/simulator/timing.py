"""How long the steps of one engine take: its table, its policy's padding, its host's overheads."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from costmodels.serving.simulator.engine import Engine
from costmodels.serving.simulator.scheduler import Chunk, Slot
from costmodels.serving.simulator.step_table import StepCurve

ENDLESS = 1 << 60


class Line(NamedTuple):
    """Decode steps that get longer evenly: µs of the first through all stages and in the slowest of them, by how much
    each is longer than the one before, and for how many steps that holds."""

    latency: float
    latency_rise: float
    stage: float
    stage_rise: float
    steps: int


class Timing:
    """Steps of attention ranks in lock step: the slowest sets the time, the experts see everyone's tokens.

    ``everyone`` is the number of tokens that a rank brings to the experts on average.
    """

    def __init__(self, engine: Engine) -> None:
        table = engine.table
        self._latency, self._stage = table.latency, table.stage
        self._one_stage = table.stages == 1
        self._padded = engine.policy.padded
        self._gain = engine.tokens_per_step
        self._drafted = 1 + engine.draft_share
        self._sequence_us = engine.overheads.sequence_us
        self._factor = engine.overheads.step_factor
        self._by_count: dict[int, tuple[int, list[float], list[float], list[float], list[float]]] = {}

    def step_us(self, slot: Slot, chunks: Sequence[Chunk], everyone: float, *, decodes: bool) -> tuple[float, float]:
        """One rank's step of the chunks, and of the slot's ``decodes`` where they take part: µs (through all stages, of
        the slowest)."""
        latency = self._step_us(self._latency, slot, chunks, everyone, decodes)
        return latency, latency if self._one_stage else self._step_us(self._stage, slot, chunks, everyone, decodes)

    def _step_us(self, curve: StepCurve, slot: Slot, chunks: Sequence[Chunk], everyone: float, decodes: bool) -> float:
        total = 0.0
        tokens = 0
        count, context = (slot.count, slot.context) if decodes else (0, 0.0)
        if chunks and all(chunk.tokens == 1 for chunk in chunks):
            # The last token of a prompt that the cache holds is one query, as that of a sequence that decodes.
            count, context = count + len(chunks), context + sum(chunk.prefix + 1 for chunk in chunks)
            chunks = ()
        if count:
            size = count if chunks else self._padded(count)
            tokens = size * curve.queries
            total = curve.decode_us(size, context / size) * self._drafted + count * self._sequence_us
        if chunks:
            if count:
                total += curve.mixed_us(size) - curve.alone_us(size)
            for chunk in chunks:
                total += curve.chunk_us(chunk.tokens, chunk.prefix)
                tokens += chunk.tokens
            total += curve.linear_us(tokens) - (len(chunks) - 1) * curve.chunk_floor_us
            total += len(chunks) * self._sequence_us
        if curve.has_experts:
            total += curve.experts_beside_us(everyone, tokens, chunks=bool(chunks))
        return total * self._factor

    def decode_line(self, slots: Sequence[Slot], everyone: float, ahead: int = 0) -> Line:
        """Steps of nothing but the decodes of ``slots``, one a rank, from ``ahead`` steps after theirs."""
        lines = [self._line(slot, everyone, ahead) for slot in slots]
        if len(lines) == 1:
            return lines[0]
        steps = min([line.steps for line in lines])
        latency, rise, until = _slowest([(line.latency, line.latency_rise) for line in lines])
        if self._one_stage:
            return Line(latency, rise, latency, rise, min(steps, until))
        stage, stage_rise, until_stage = _slowest([(line.stage, line.stage_rise) for line in lines])
        return Line(latency, rise, stage, stage_rise, min(steps, until, until_stage))

    def _line(self, slot: Slot, everyone: float, ahead: int) -> Line:
        """One rank's, up to the next knot of its context."""
        count = slot.count
        known = self._by_count.get(count)
        if known is None:
            size = self._padded(count)
            known = (size, *self._latency.decode_line(size), *self._stage.decode_line(size))
            self._by_count[count] = known
        size, values, slopes, stage_values, stage_slopes = known
        knots = self._latency.contexts
        gained = count * self._gain
        context = (slot.context + ahead * gained) / size
        i = max(bisect_right(knots, context) - 1, 0)
        beyond = context - knots[i]
        steps = math.ceil((knots[i + 1] - context) * size / gained) if i + 1 < len(knots) else ENDLESS
        factor = self._factor
        drafted = factor * self._drafted
        grows = gained / size * drafted
        host = count * self._sequence_us * factor
        latency, rise = (values[i] + slopes[i] * beyond) * drafted + host, slopes[i] * grows
        if self._latency.has_experts:
            tokens = size * self._latency.queries
            latency += self._latency.experts_beside_us(everyone, tokens, chunks=False) * factor
        if self._one_stage:
            return Line(latency, rise, latency, rise, steps)
        stage, stage_rise = (stage_values[i] + stage_slopes[i] * beyond) * drafted + host, stage_slopes[i] * grows
        if self._stage.has_experts:
            stage += self._stage.experts_beside_us(everyone, tokens, chunks=False) * factor
        return Line(latency, rise, stage, stage_rise, steps)


def _slowest(lines: list[tuple[float, float]]) -> tuple[float, float, int]:
    """(first, rise) of the longest of several, and for how many steps it stays that."""
    first, rise = max(lines)
    steps = ENDLESS
    for other, other_rise in lines:
        if other_rise > rise:
            steps = min(steps, int((first - other) / (other_rise - rise)) + 1)
    return first, rise, steps
