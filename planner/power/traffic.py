"""The requests of a replicate-day, server by server: drawn from a trace in blocks, or the reference traffic that ships.

Server i of a row gets the same requests whatever the number of servers, policy or batch: only the seed, the day and the
block of the day decide, so that a stretch of a day can be had without the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from costmodels.estimates import Floats, Ints
from planner.power.again import come_again
from planner.power.drawn import DayOfRequests, Part, merged
from profiles.shipped import shipped

DAY_S = 86_400
BLOCK_S = 600
"""A day is drawn in blocks of this length; longer spans than a trace's are put together from as many."""

LONGEST_SHIFT_S = 1_800
OCTET = 8
"""Servers that draw together."""

Tail = Literal["bounded", "exponential", "heavy"]

Span = tuple[int, int]
"""Seconds of a day, from the first until before the last."""
WHOLE_DAY: Span = (0, DAY_S)


_MOST_SINGLE = 3_000_000
"""Requests of a day that are kept one by one."""

_MERGED_FROM = 3
"""Requests of a server's second, on average, from which on those of a stretch, none of which is followed,
are merged."""


@dataclass(frozen=True)
class Bursts:
    """Spells in which all servers together get more: ``per_day``, mean ``extra`` (share of the rate), ``length_s``,
    ``rise_s`` until it is there."""

    per_day: float
    extra: float
    length_s: float
    rise_s: float


@cache
def reference_facts() -> dict[str, Any]:
    return shipped(Path(__file__).parent / "reference.yaml", dict)


def burst_curve(bursts: Bursts, tail: Tail, draw: np.random.Generator, within: Span = WHOLE_DAY) -> Floats:
    """[seconds of a day, those ``within``] of correlated bursts in units of their mean size, which is exponential,
    uniform up to twice the mean (bounded), or Pareto with exponent 3 (heavy): the same uniforms, another size."""
    first, last = within
    curve = np.zeros(last - first)
    count = int(draw.poisson(bursts.per_day))
    starts, u, lengths = (
        draw.uniform(0, DAY_S, count),
        draw.uniform(size=count),
        draw.exponential(bursts.length_s, count),
    )
    for start, size, length in zip(starts, _sizes(tail, u), lengths, strict=True):
        end = start + length + 2 * bursts.rise_s
        if start >= last or end <= first:
            continue
        t = np.arange(max(int(start), first), min(int(end), last))
        up, down = (t - start + 1) / bursts.rise_s, (end - t) / bursts.rise_s
        curve[t - first] += size * np.clip(np.minimum(up, down), 0.0, 1.0)
    return curve


def _sizes(tail: Tail, u: Floats) -> Floats:
    if tail == "bounded":
        return 2.0 * u
    if tail == "exponential":
        return np.asarray(-np.log1p(-u))
    return np.asarray(2.0 * ((1.0 - u) ** (-1.0 / 3.0) - 1.0))  # Lomax with exponent 3


# ------------------------------------------------------------------ a trace


@dataclass(frozen=True)
class RecordedLoad:
    """A trace: the load of ``today`` servers. Servers beyond them get copies of it, shifted by a few minutes.
    ``weights``: of each server, what it gets ÷ the mean (empty: all alike). ``all_bursts``: of the whole trace, where
    these are a part of its requests."""

    arrival_s: Floats
    isl: Ints
    osl: Ints
    today: int
    name: str = "trace"
    weights: tuple[float, ...] = ()
    all_bursts: Bursts | None = None

    @property
    def mean_lengths(self) -> tuple[float, float]:
        """(prompt, output) tokens."""
        return float(self.isl.mean()), float(self.osl.mean())

    def _servers(self, draw: np.random.Generator, count: int, copy: int = 0) -> Ints:
        """[count] which of today's servers gets a request, or of those that a copy is for."""
        if not self.weights:
            return draw.integers(0, self.today, count) + copy * self.today
        return drawn_by(self.weights[copy * self.today :][: self.today], draw, count) + copy * self.today

    @property
    def span_s(self) -> float:
        return float(self.arrival_s[-1]) if len(self.arrival_s) else 0.0

    @cached_property
    def bursts(self) -> Bursts:
        """Beyond the trace's own: of its rate over 40 s against that over ten minutes, the mean of what exceeds the
        99th percentile."""
        if self.all_bursts is not None:
            return self.all_bursts
        facts = Bursts(**reference_facts()["bursts"])
        seconds = max(int(np.ceil(self.span_s)), 1)
        if seconds < 2 * BLOCK_S:
            return facts
        sums = np.concatenate([[0.0], np.cumsum(np.bincount(self.arrival_s.astype(np.int64), minlength=seconds + 1))])

        def over(window: int) -> Floats:
            at = np.arange(seconds)
            low, high = np.maximum(at - window // 2, 0), np.minimum(at + window // 2, seconds)
            return np.asarray((sums[high] - sums[low]) / np.maximum(high - low, 1))

        ratio = over(40) / np.maximum(over(BLOCK_S), 1e-9) - 1.0
        level = float(np.quantile(ratio, 0.99))
        beyond = ratio[ratio > level] - level
        return Bursts(facts.per_day, float(beyond.mean()) if len(beyond) else 0.0, facts.length_s, facts.rise_s)

    def intensity(self, seed: int, day: int, tail: Tail) -> Floats:
        """[seconds] tokens that come, prompts and outputs, relative."""
        rate = np.concatenate(
            [
                np.take(self._tokens, np.arange(start, start + BLOCK_S) % len(self._tokens))
                for start in self._starts(seed, day)
            ]
        )
        return np.asarray(rate * self._factor(seed, day, tail))

    @cached_property
    def _tokens(self) -> Floats:
        seconds = max(int(np.ceil(self.span_s)), 1)
        second = np.minimum(self.arrival_s.astype(np.int64), seconds - 1)
        return np.asarray(np.bincount(second, self.isl + 10.0 * self.osl, seconds), np.float64)

    def _factor(self, seed: int, day: int, tail: Tail, within: Span = WHOLE_DAY) -> Floats:
        curve = burst_curve(self.bursts, tail, np.random.default_rng((seed, day, 2)), within)
        return np.asarray(1.0 + (0.0 if tail == "bounded" else self.bursts.extra) * curve)

    def _starts(self, seed: int, day: int) -> list[int]:
        """Second of the trace at which each block of the day begins. A trace of a day and more keeps its times of
        day; a shorter one is drawn from anywhere."""
        draw = np.random.default_rng((seed, day, 0))
        span = max(int(np.ceil(self.span_s)), 1)
        blocks = np.arange(DAY_S // BLOCK_S)
        if span >= DAY_S:
            jitter = draw.integers(-BLOCK_S, BLOCK_S + 1, len(blocks)) if span < 2 * DAY_S else 0
            starts = blocks * BLOCK_S + DAY_S * draw.integers(0, span // DAY_S, len(blocks)) + jitter
        else:
            starts = draw.integers(0, span, len(blocks))
        return [int(each) % span for each in starts]

    def requests(self, servers: int, seed: int, day: int, first: int, last: int, tail: Tail) -> Iterator[list[Part]]:
        """Of each block from ``first`` until before ``last``, copy by copy."""
        starts, factor = self._starts(seed, day), self._factor(seed, day, tail, (first * BLOCK_S, last * BLOCK_S))
        span = max(int(np.ceil(self.span_s)), 1)
        shifts = [
            np.random.default_rng((seed, day, 1, copy)).uniform(60.0, max(61.0, min(LONGEST_SHIFT_S, span / 2)))
            if copy
            else 0.0
            for copy in range(-(-servers // self.today))
        ]
        for block in range(first, last):
            beyond = factor[(block - first) * BLOCK_S :][:BLOCK_S] - 1.0
            parts = []
            for copy, shift in enumerate(shifts):
                draw = np.random.default_rng((seed, day, 3, copy, block))
                second, index = self._between((starts[block] + shift) % span, span)
                again = come_again(beyond, second, draw)
                if len(again):
                    second, index = (np.concatenate([each, each[again]]) for each in (second, index))
                server = self._servers(draw, len(index), copy)
                if (copy + 1) * self.today > servers:
                    keep = np.flatnonzero(server < servers)
                    second, server, index = second[keep], server[keep], index[keep]
                isl, osl = (each[index] for each in self._lengths)
                parts.append((second + block * BLOCK_S, server, isl, osl, np.ones(len(index))))
            yield parts

    @cached_property
    def _lengths(self) -> tuple[Floats, Floats]:
        return self.isl.astype(float), self.osl.astype(float)

    def _between(self, start: float, span: int) -> tuple[Ints, Ints]:
        """(second, index) of the requests of a block, the trace's end followed by its beginning."""
        seconds, indices, done = [], [], 0.0
        while done < BLOCK_S:
            take = min(BLOCK_S - done, span - start)
            low, high = np.searchsorted(self.arrival_s, (start, start + take))
            indices.append(np.arange(low, high))
            seconds.append((self.arrival_s[low:high] - start + done).astype(np.int64))
            done, start = done + take, 0.0
        return np.minimum(np.concatenate(seconds), BLOCK_S - 1), np.concatenate(indices)

    def as_recorded(self, seed: int) -> DayOfRequests:
        """The trace once, as it came, on today's servers."""
        draw = np.random.default_rng((seed, 7))
        server, second = self._servers(draw, len(self.isl)), np.floor(self.arrival_s).astype(np.int64)
        return DayOfRequests.of(
            [(second, server, self.isl.astype(float), self.osl.astype(float), np.ones(len(self.isl)))]
        )


# ------------------------------------------------------------------ reference


@dataclass(frozen=True)
class ReferenceLoad:
    """Traffic that ships (``reference.yaml``): mixed prompts, a daily curve, correlated bursts. ``rate_rps``: requests
    per second of one server at the daily peak; ``bursts``: scaled to meet the published rise."""

    rate_rps: float
    bursts: Bursts
    name: str = field(default="reference")
    weights: tuple[float, ...] = ()  # of each server, what it gets ÷ rate_rps; empty: all alike

    @property
    def mean_lengths(self) -> tuple[float, float]:
        return mean_lengths()

    def intensity(self, seed: int, day: int, tail: Tail, within: Span = WHOLE_DAY) -> Floats:
        """[seconds] requests per second of one server."""
        daily, bursts = _curves(seed, day, tail, within)
        return np.asarray(self.rate_rps * daily * (1.0 + self.bursts.extra * bursts))

    def requests(self, servers: int, seed: int, day: int, first: int, last: int, tail: Tail) -> Iterator[list[Part]]:
        """Of each block from ``first`` until before ``last``; every server draws its own."""
        for block in range(first, last):
            begins = block * BLOCK_S
            rate = self.intensity(seed, day, tail, (begins, begins + BLOCK_S))
            expected, parts = np.cumsum(rate, dtype=np.float64), []
            for octet in range(-(-servers // OCTET)):
                draw = np.random.default_rng((seed, day, 1, block, octet))
                mine = self.weights[octet * OCTET :][:OCTET] or (1.0,) * OCTET
                part = _binned(rate, mine, draw) if self.rate_rps > _BINNED_FROM_RPS else _single(expected, mine, draw)
                second, server, isl, osl, count = part
                server = server + octet * OCTET
                keep = server < servers
                parts.append((begins + second[keep], server[keep], isl[keep], osl[keep], count[keep]))
            yield parts


_BINNED_FROM_RPS = 0.7
"""Requests per second of a server from which on those of a second are drawn as one, of their means."""


def drawn_by(weights: tuple[float, ...], draw: np.random.Generator, count: int) -> Ints:
    """[count] indices, as often as their weights say."""
    upto = np.cumsum(weights)
    return np.asarray(np.searchsorted(upto, draw.uniform(0.0, upto[-1], count), side="right"))


def _single(expected: Floats, weights: tuple[float, ...], draw: np.random.Generator) -> Part:
    """Requests of an octet one by one; ``expected``: cumulated number of one server's."""
    total = float(expected[-1])
    alike = len(set(weights)) == 1
    count = int(draw.poisson(sum(weights) * total))
    second = np.searchsorted(expected, draw.uniform(0.0, total, count), side="right")
    server = draw.integers(0, len(weights), count) if alike else drawn_by(weights, draw, count)
    return (np.minimum(second, BLOCK_S - 1), server, *_lengths(count, draw), np.ones(count))


def _binned(rate: Floats, weights: tuple[float, ...], draw: np.random.Generator) -> Part:
    count = draw.poisson(rate[:, None] * np.array(weights)).astype(np.float64)
    second, server = np.nonzero(count)
    count = count[second, server]
    isl, osl = (
        mean + (each - mean) / np.sqrt(count)
        for mean, each in zip(mean_lengths(), _lengths(len(count), draw), strict=True)
    )
    return second, server, isl, osl, count


@lru_cache(maxsize=128)
def _curves(seed: int, day: int, tail: Tail, within: Span) -> tuple[Floats, Floats]:
    """([seconds] daily curve, [seconds] bursts in their mean size) of a day of the reference, of those ``within``."""
    facts = reference_facts()
    draw = np.random.default_rng((seed, day, 0))
    hour = np.arange(*within) / 3600.0
    daily = facts["trough"] + (1 - facts["trough"]) * 0.5 * (1 + np.cos((hour - facts["peak_hour"]) / 12.0 * np.pi))
    daily = daily * draw.uniform(1 - facts["day_to_day"], 1.0)
    return daily.astype(np.float32), burst_curve(Bursts(**facts["bursts"]), tail, draw, within).astype(np.float32)


@cache
def _mix() -> tuple[Floats, Floats, Floats]:
    """(cumulated shares, bounds of prompts, bounds of outputs) of the reference mix."""
    mix = reference_facts()["mix"]
    return (
        np.cumsum([each["share"] for each in mix])[:-1],
        np.array([each["isl"] for each in mix], np.float64),
        np.array([each["osl"] for each in mix], np.float64),
    )


def _lengths(count: int, draw: np.random.Generator) -> tuple[Floats, Floats]:
    """(prompt, output) tokens of the reference mix."""
    shares, isl, osl = _mix()
    u = draw.uniform(size=(3, count))
    which = np.searchsorted(shares, u[0], side="right")
    prompt, output = (low[which] + (high[which] - low[which]) * v for (low, high), v in ((isl.T, u[1]), (osl.T, u[2])))
    return np.floor(prompt), np.floor(output)


def mean_lengths() -> tuple[float, float]:
    """(prompt, output) tokens of the reference mix."""
    mix = reference_facts()["mix"]
    isl, osl = (sum(each["share"] * sum(each[name]) / 2 for each in mix) for name in ("isl", "osl"))
    return float(isl), float(osl)


# ------------------------------------------------------------------ stretches of days

Load = RecordedLoad | ReferenceLoad

WARM_S, SLOT_S = 300, 900
"""A stretch is a slot of the day and what comes before it, so that queues are as full as they would be."""


def whole_day(load: Load, servers: int, seed: int, day: int, tail: Tail = "exponential") -> DayOfRequests:
    """Where there are very many, those of a server's second as one."""
    parts: list[DayOfRequests] = []
    few: list[list[Part]] = []
    total = 0
    for block in load.requests(servers, seed, day, 0, DAY_S // BLOCK_S, tail):
        few.append(block)
        total += sum(len(part[0]) for part in block)
        if total > _MOST_SINGLE:
            parts, few = [*parts, *(merged(each, servers) for each in few)], []
    return DayOfRequests.joined(parts) if parts else DayOfRequests.of(list(chain.from_iterable(few)))


def stretch(load: Load, servers: int, seed: int, day: int, start: int, tail: Tail) -> DayOfRequests:
    """The slot that begins at second ``start`` of a day, seconds counted from :data:`WARM_S` before it."""
    first, last = max(start - WARM_S, 0), start + SLOT_S
    blocks = list(load.requests(servers, seed, day, first // BLOCK_S, -(-last // BLOCK_S), tail))
    parts = list(chain.from_iterable(blocks))
    if sum(len(part[0]) for part in parts) > _MERGED_FROM * len(blocks) * BLOCK_S * servers:
        whole = DayOfRequests.joined([merged(block, servers) for block in blocks])
    else:
        whole = DayOfRequests.of(parts)
    return whole.within(first, last, start - WARM_S)


def busiest(
    load: Load, seed: int, days: range, count: int, tail: Tail, *, window: int = 20, rises: bool = False
) -> list[tuple[int, int]]:
    """(day, second) of the ``count`` slots with the highest intensity over ``window`` seconds, or with its largest
    rises, the highest first."""
    slots = DAY_S // SLOT_S
    scores = np.empty((len(days), slots))
    for row, day in enumerate(days):
        mean = load.intensity(seed, day, tail).reshape(-1, window).mean(axis=1)
        value = np.diff(mean, prepend=mean[:1]) if rises else mean
        scores[row] = value.reshape(slots, -1).max(axis=1)
    best = np.argsort(-scores, axis=None, kind="stable")[:count]
    return [
        (days[int(row)], int(slot) * SLOT_S) for row, slot in zip(*np.unravel_index(best, scores.shape), strict=True)
    ]
