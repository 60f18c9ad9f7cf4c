"""Local search over packed experts, all layers at once.

A layer's value is what its slowest GPU takes, ÷ the mean, over the recorded windows (their weighted mean, or the
worst). Descent exchanges one expert, or two at a time, of the slowest GPU of a window with as many of any other GPU,
and takes the best exchange until none helps. A kick then gives one expert a copy more and another a copy less, or
shuffles a few; a layer keeps what it becomes after the next descent if that is better. Layers are independent, so one
pass of numpy works on all of them that are not done.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.experts.placement import Floats, Ints

Singles = NDArray[np.float32]

SMALLEST_GAIN = 1e-6
"""What counts as better, relative to the mean time: above the rounding of single precision, in which exchanges are
compared, and far below anything measurable."""

_SPREAD = 0.01
"""Weight of the squared loads beside the slowest GPU's time where several windows are balanced at once: only orders
exchanges that leave the slowest GPUs as they are."""

_FORBIDDEN = 1e9

_WIDEST_PAIRS = 16
"""Slots of a GPU up to which two experts at a time are exchanged. With more, single exchanges are many enough to
balance, and exchanges of pairs grow with the fourth power of the slots (64 slots: seconds a layer)."""

_PER_PASS = 1.5e4
"""Exchanges that could be looked at in the time that numpy needs to start one pass over them."""


@dataclass(eq=False)
class SwapSearch:
    """Layers under search: what is where, and what it weighs. Changed in place.

    Shapes: weights [windows]; slots, speed [gpus]; counts [windows, layers, experts + 1] (the last is nobody's and
    zero; the mean GPU time of a window and layer is about 1); expert [layers, gpus, width] (``experts`` where a GPU
    has no such slot); copies [layers, experts + 1]; holds [layers, gpus, experts + 1]; item [windows, layers, gpus,
    width], load of a slot; load [windows, layers, gpus].
    """

    weights: Floats
    worst: bool
    slots: Ints
    speed: Floats
    counts: Floats
    expert: Ints
    copies: Ints
    holds: NDArray[np.bool_]
    item: Floats
    load: Floats

    @classmethod
    def start(
        cls, counts: Floats, expert: Ints, slots: Ints, speed: Floats, weights: Floats, worst: bool = False
    ) -> SwapSearch:
        """counts: [windows, layers, experts]; expert: as :func:`planner.experts.pack.pack` returns it."""
        counts = np.concatenate([counts, np.zeros((*counts.shape[:2], 1))], axis=2)
        copies, holds, item = np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0)  # recount's to fill
        search = cls(weights, worst, slots, speed, counts, expert.copy(), copies, holds, item, item)
        search.recount()
        return search

    def recount(self) -> None:
        """Everything that follows from ``expert``."""
        layers, gpus, _ = self.expert.shape
        experts = self.counts.shape[2] - 1
        self.copies = np.zeros((layers, experts + 1), np.int64)
        np.add.at(self.copies, (np.arange(layers)[:, None, None], self.expert), 1)
        self.copies[:, -1] = 1
        self.holds = np.zeros((layers, gpus, experts + 1), np.bool_)
        self.holds[np.arange(layers)[:, None, None], np.arange(gpus)[:, None], self.expert] = True
        share = self.counts / np.maximum(self.copies, 1)
        flat = self.expert.reshape(1, layers, -1)
        self.item = np.take_along_axis(share, flat, axis=2).reshape(-1, *self.expert.shape)
        self.load = self.item.sum(axis=3)

    def value(self) -> Floats:
        """Shape [layers]: slowest GPU's time over the windows."""
        return over_windows(self.slowest(), self.weights, self.worst)

    def slowest(self) -> Floats:
        """Shape [windows, layers]: the time of each window's slowest GPU."""
        return np.asarray((self.load / self.speed).max(axis=2))

    def take(self, rows: Ints) -> SwapSearch:
        """A copy of these layers."""
        return SwapSearch(
            self.weights,
            self.worst,
            self.slots,
            self.speed,
            self.counts[:, rows],
            self.expert[rows],
            self.copies[rows],
            self.holds[rows],
            self.item[:, rows],
            self.load[:, rows],
        )

    def put(self, rows: Ints, other: SwapSearch, which: Ints) -> None:
        """Layers ``which`` of ``other`` become layers ``rows``."""
        self.expert[rows], self.copies[rows], self.holds[rows] = (
            other.expert[which],
            other.copies[which],
            other.holds[which],
        )
        self.item[:, rows], self.load[:, rows] = other.item[:, which], other.load[:, which]

    def exchange(self, rows: Ints, here: Ints, i: Ints, there: Ints, j: Ints) -> None:
        """The experts in slots (here, i) and (there, j) of ``rows`` change places; shapes [rows]."""
        a, b = self.expert[rows, here, i], self.expert[rows, there, j]
        wa, wb = self.item[:, rows, here, i], self.item[:, rows, there, j]
        self.expert[rows, here, i], self.expert[rows, there, j] = b, a
        self.item[:, rows, here, i], self.item[:, rows, there, j] = wb, wa
        self.load[:, rows, here] += wb - wa
        self.load[:, rows, there] += wa - wb
        self.holds[rows, here, a] = self.holds[rows, there, b] = False
        self.holds[rows, here, b] = self.holds[rows, there, a] = True


def over_windows(time: Floats, weights: Floats, worst: bool) -> Floats:
    """[windows, ...] → [...]."""
    return time.max(axis=0) if worst else np.tensordot(weights, time, 1)


@dataclass
class Budget:
    """How long to search: exchanges still to be looked at (the same on every machine), and a wall-clock ``deadline``
    (of :func:`time.perf_counter`)."""

    exchanges: float
    deadline: float = np.inf

    @property
    def late(self) -> bool:
        return time.perf_counter() > self.deadline


def improve(search: SwapSearch, target: Floats, rng: np.random.Generator, budget: Budget) -> None:
    """Kicks and descends layers whose value is above ``target`` [layers] until the budget is spent. No layer gets
    worse; all should have descended before."""
    while budget.exchanges > 0 and not budget.late:
        rows = np.flatnonzero(search.value() > target)
        if not len(rows):
            return
        trial = search.take(rows)
        kick(trial, rng)
        descend(trial, target[rows], budget)
        kept = np.flatnonzero(trial.value() <= search.value()[rows])  # equals too: they lead elsewhere
        search.put(rows[kept], trial, kept)


def descend(search: SwapSearch, target: Floats, budget: Budget) -> None:
    """Best exchanges until none helps a layer or its value is at most ``target`` [layers]."""
    windows, layers, gpus = search.load.shape
    width = search.expert.shape[2]
    failures = np.zeros(layers, np.int64)  # windows in a row whose slowest GPU nothing helped
    window = np.zeros(layers, np.int64)
    while not budget.late:
        rows = np.flatnonzero((failures < windows) & (search.value() > target))
        if not len(rows):
            return
        times = search.load[:, rows] / search.speed
        hot = times[window[rows], np.arange(len(rows))].argmax(axis=1)
        helped = np.zeros(len(rows), np.bool_)
        for size in range(1, min(width, 2 if width <= _WIDEST_PAIRS else 1) + 1):
            again = np.flatnonzero(~helped)
            if len(again):
                helped[again] = _exchange_best(search, rows[again], hot[again], times[:, again], size)
                parts = math.comb(width, size)
                budget.exchanges -= _PER_PASS + windows * len(again) * gpus * parts * parts
        failures[rows] = np.where(helped, 0, failures[rows] + 1)
        window[rows] = (window[rows] + 1) % windows


def _exchange_best(search: SwapSearch, rows: Ints, hot: Ints, times: Floats, size: int) -> NDArray[np.bool_]:
    """Exchanges ``size`` experts of GPU ``hot`` [rows] for as many of the best other GPU, where that helps; says where.
    times: [windows, rows, gpus]."""
    there, i, j, after, legal = best_exchange(search, rows, hot, times, size)
    if len(times) == 1:
        each = np.arange(len(rows))
        gain = times[0, each, hot] - np.maximum(after[0, each, hot], after[0, each, there])
    else:
        gain = potential(search, times) - potential(search, after)
    helps = legal & (gain > SMALLEST_GAIN)
    for a, b in zip(i[helps].T, j[helps].T, strict=True):
        search.exchange(rows[helps], hot[helps], a, there[helps], b)
    return np.asarray(helps)


def best_exchange(
    search: SwapSearch, rows: Ints, hot: Ints, times: Floats, size: int = 1
) -> tuple[Ints, Ints, Ints, Floats, NDArray[np.bool_]]:
    """The best partner of GPU ``hot`` [rows]; slots given and got, [rows, size] each; the times after, [windows, rows,
    gpus]; and whether there is any exchange at all [rows]."""
    each, gpus = np.arange(len(rows)), len(search.speed)
    parts = np.array(list(itertools.combinations(range(search.expert.shape[2]), size)))
    cost = _costs(search, rows, hot, times, parts)
    cost[each, hot] = np.inf
    there, i, j = np.unravel_index(cost.reshape(len(rows), -1).argmin(axis=1), (gpus, len(parts), len(parts)))
    # Single precision chose; the caller decides in double.
    given = search.item[:, rows[:, None], hot[:, None], parts[i]].sum(axis=2)
    got = search.item[:, rows[:, None], there[:, None], parts[j]].sum(axis=2)
    after = times.copy()
    after[:, each, hot] += (got - given) / search.speed[hot]
    after[:, each, there] += (given - got) / search.speed[there]
    return there, parts[i], parts[j], after, cost[each, there, i, j] < _FORBIDDEN / 2


def potential(search: SwapSearch, times: Floats) -> Floats:
    """What a step has to lower: the value, and a little of the squared times, which order steps that leave the slowest
    GPUs as they are; times: [windows, ..., gpus] → [...]."""
    squares = np.tensordot(search.weights, (times * times) @ search.speed.astype(times.dtype), 1)
    return over_windows(times.max(axis=-1), search.weights, search.worst) + _SPREAD * squares


def _costs(search: SwapSearch, rows: Ints, hot: Ints, times: Floats, parts: Ints) -> Singles:
    """Of giving part i of GPU ``hot`` [rows] to each GPU for its part j: the slower of the two, or with several windows
    :func:`potential` less what does not change. Shape [rows, gpus, parts, parts]; parts: [parts, size]."""
    windows, gpus = len(times), len(search.speed)
    each, nobody = np.arange(len(rows)), search.counts.shape[2] - 1
    expert = search.expert[rows]
    # Experts that both GPUs hold stay where they are (an exchange would put two copies on one), as do missing slots.
    mine = search.holds[rows[:, None, None], np.arange(gpus)[:, None], expert[each, hot][:, None, :]]
    mine |= (expert[each, hot] == nobody)[:, None, :]
    theirs = search.holds[rows[:, None, None], hot[:, None, None], expert] | (expert == nobody)
    mine, theirs = np.any(mine[..., parts], axis=-1), np.any(theirs[..., parts], axis=-1)
    here_speed, there_speed = search.speed[hot][:, None, None], search.speed[:, None]
    cost: Singles = np.zeros((), np.float32)
    spread: Singles = cost
    for w in range(windows):
        # Times of both GPUs are outer sums over what is given and what is got, [rows, gpus, parts] each.
        give = np.where(mine, 3 * _FORBIDDEN, search.item[w, rows, hot][:, parts].sum(axis=-1)[:, None, :])
        get = np.where(theirs, _FORBIDDEN, search.item[w][rows][..., parts].sum(axis=-1))
        here = _outer((search.load[w, rows, hot][:, None, None] - give) / here_speed, get / here_speed)
        there = _outer((search.load[w][rows][:, :, None] + give) / there_speed, -get / there_speed)
        if windows == 1:
            return np.maximum(here, there, out=here)
        weight = np.float32(search.weights[w])
        slower = np.maximum(here, there)
        np.maximum(slower, _rest(times[w], hot)[:, :, None, None], out=slower)
        cost = np.asarray(np.maximum(cost, slower) if search.worst else cost + weight * slower)
        here *= here
        here *= here_speed[..., None].astype(np.float32)
        there *= there
        there *= there_speed[..., None].astype(np.float32)
        here += there
        here -= (times[w] ** 2 * search.speed + (times[w, each, hot] ** 2 * search.speed[hot])[:, None]).astype(
            np.float32
        )[..., None, None]
        spread = spread + np.float32(_SPREAD * weight) * here
    return np.asarray(cost + spread)


def _outer(a: Floats, b: Floats) -> Singles:
    """a[..., i] + b[..., j], shape [..., i, j]."""
    left, right = a.astype(np.float32, order="C"), b.astype(np.float32, order="C")
    return np.asarray(left[..., :, None] + right[..., None, :])


def _rest(times: Floats, hot: Ints) -> Singles:
    """Slowest GPU besides ``hot`` [rows] and each other one, shape [rows, gpus]; times: [rows, gpus]."""
    each = np.arange(len(hot))
    others = times.copy()
    others[each, hot] = -np.inf
    first = others.argmax(axis=1)
    out = np.repeat(others[each, first][:, None], times.shape[1], axis=1)
    others[each, first] = -np.inf
    out[each, first] = others.max(axis=1)
    return np.asarray(np.maximum(out, 0.0).astype(np.float32))


def kick(search: SwapSearch, rng: np.random.Generator) -> None:
    """None to three copies of light experts become copies of heavy ones, drawn at random by their loads per copy, and
    up to four pairs of experts of random GPUs change places."""
    layers, gpus, _ = search.expert.shape
    each = np.arange(layers)
    for _ in range(rng.integers(4)):
        _shift_copy(search, rng)
    for _ in range(rng.integers(5)):
        here, there = rng.integers(gpus, size=(2, layers))
        i, j = rng.integers(search.slots[here]), rng.integers(search.slots[there])
        legal = ~search.holds[each, here, search.expert[each, there, j]]
        legal &= ~search.holds[each, there, search.expert[each, here, i]]
        rows = np.flatnonzero(legal)
        search.exchange(rows, here[rows], i[rows], there[rows], j[rows])


def _shift_copy(search: SwapSearch, rng: np.random.Generator) -> None:
    """A random copy of a light expert becomes one of a heavy expert, where that can be."""
    layers, gpus, _ = search.expert.shape
    each = np.arange(layers)
    load = over_windows(search.counts, search.weights, search.worst)[:, :-1]
    load = np.maximum(load, load.max(axis=1, keepdims=True) * 1e-9)
    copies = search.copies[:, :-1]
    noise = rng.gumbel(size=(2, *load.shape))
    up = np.where(copies < gpus, np.log(load / copies) + noise[0], -np.inf).argmax(axis=1)
    down = np.where(copies > 1, noise[1] - np.log(load / np.maximum(copies - 1, 1)), -np.inf).argmax(axis=1)
    free = search.holds[each, :, down] & ~search.holds[each, :, up]
    legal = (copies[each, up] < gpus) & (copies[each, down] > 1) & (up != down) & free.any(axis=1)
    gpu = np.where(free, rng.random(free.shape), -1.0).argmax(axis=1)
    slot = (search.expert[each, gpu] == down[:, None]).argmax(axis=1)
    rows = np.flatnonzero(legal)
    search.expert[rows, gpu[rows], slot[rows]] = up[rows]
    search.recount()
