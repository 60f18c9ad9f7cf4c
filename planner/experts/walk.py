"""From a placement in small steps to better ones: what every number of moved copies buys, layer by layer."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from planner.experts.improve import SMALLEST_GAIN, SwapSearch, best_exchange, potential
from planner.experts.placement import Floats, Ints, Placement

STEPS = 150
"""The most steps of a layer."""

DONORS = 2
"""How many of the slowest GPU's experts, heaviest first, are tried for one copy more."""


@dataclass(frozen=True, eq=False)
class Reachable:
    """One placement of one layer: copies moved to get there, its value (slowest ÷ mean), experts [gpus, width]."""

    moves: int
    value: float
    expert: Ints


def by_gpu(placement: Placement) -> Ints:
    """Expert in each slot of each GPU, shape [layers, gpus, most slots of a GPU]; ``experts`` where there is none."""
    slots = placement.topology.slots
    here = np.arange(slots.max()) < slots[:, None]
    out = np.full((placement.layers, *here.shape), placement.experts, np.int64)
    out[:, here] = placement.physical_to_logical
    return out


def held(expert: Ints, experts: int) -> np.ndarray:
    """Whether each GPU holds each expert, shape [..., gpus, experts]; expert: [..., gpus, width]."""
    out = np.zeros((*expert.shape[:-1], experts + 1), np.bool_)
    np.put_along_axis(out, expert, True, axis=-1)
    return out[..., :-1]


def walk(search: SwapSearch, origin: Ints, deadline: float) -> list[list[Reachable]]:
    """Options of each layer, from ``search`` as it is; changes it. origin: [layers, gpus, width], what moves count
    from."""
    experts = search.counts.shape[2] - 1
    before = held(origin, experts)
    out: list[list[Reachable]] = [[] for _ in origin]
    rows = np.arange(len(origin))
    failures = np.zeros(len(origin), np.int64)
    window = np.zeros(len(origin), np.int64)
    for _ in range(STEPS):
        moves = (held(search.expert[rows], experts) & ~before[rows]).sum(axis=(1, 2))
        for row, moved, value in zip(rows.tolist(), moves.tolist(), search.value()[rows].tolist(), strict=True):
            out[row].append(Reachable(moved, value, search.expert[row].copy()))
        while len(rows):
            stepped = _step(search, rows, window[rows])
            failures[rows] = np.where(stepped, 0, failures[rows] + 1)
            window[rows] = (window[rows] + 1) % len(search.weights)
            rows = rows[failures[rows] < len(search.weights)]
            if stepped.any():
                break
        if not len(rows) or time.perf_counter() > deadline:
            break
    return out


def _step(search: SwapSearch, rows: Ints, window: Ints) -> np.ndarray:
    """The exchange or the replacement that helps the slowest GPU of ``window`` [rows] most per moved copy; says where
    one did."""
    each = np.arange(len(rows))
    times = search.load[:, rows] / search.speed
    hot = times[window, each].argmax(axis=1)
    now = potential(search, times)
    there, i, j, after, legal = best_exchange(search, rows, hot, times)
    by_exchange = np.where(legal, now - potential(search, after), 0.0) / 2
    gpu, slot, expert, value = _replacements(search, rows, hot)
    by_replacement = now - value
    swap = (by_exchange >= by_replacement) & (by_exchange > SMALLEST_GAIN)
    replace = ~swap & (by_replacement > SMALLEST_GAIN)
    search.exchange(rows[swap], hot[swap], i[swap, 0], there[swap], j[swap, 0])
    search.expert[rows[replace], gpu[replace], slot[replace]] = expert[replace]
    search.recount()
    return np.asarray(swap | replace)


def _replacements(search: SwapSearch, rows: Ints, hot: Ints) -> tuple[Ints, Ints, Ints, Floats]:
    """The best copy more for an expert of GPU ``hot`` [rows] in place of a spare copy of another: GPU, slot, expert and
    the potential after it (infinite where none can be), shape [rows] each."""
    windows, _, gpus, width = search.item.shape
    each = np.arange(len(rows))[:, None]
    heaviest = np.argsort(-np.tensordot(search.weights, search.item[:, rows, hot], 1), axis=1)[:, :DONORS]
    gaining = np.take_along_axis(search.expert[rows, hot], heaviest, axis=1)  # [rows, donors]
    losing = search.expert[rows].reshape(len(rows), -1)  # [rows, slots]
    gpu = np.repeat(np.arange(gpus), width)
    copies, holds = search.copies[rows], search.holds[rows]
    legal = (copies[each, losing] > 1)[:, None, :] & ~holds[each, :, gaining][:, :, gpu]
    legal &= (gaining < search.counts.shape[2] - 1)[:, :, None] & (gaining[:, :, None] != losing[:, None, :])
    with_gain, with_loss = holds[each, :, gaining], holds[each, :, losing]
    load = np.empty((windows, *legal.shape, gpus), np.float32)
    for w in range(windows):
        counts = search.counts[w, rows]
        k, m = copies[each, gaining], copies[each, losing]
        less = counts[each, gaining] * (1 / (k + 1) - 1 / k)
        spread = counts[each, losing] * (1 / np.maximum(m - 1, 1) - 1 / m)
        base = search.load[w, rows][:, None, :] + less[:, :, None] * with_gain
        load[w] = base[:, :, None, :] + (spread[:, :, None] * with_loss)[:, None, :, :]
        at = np.take_along_axis(load[w], np.broadcast_to(gpu[:, None], (*legal.shape, 1)), axis=3)
        at += (counts[each, gaining] / (k + 1))[:, :, None, None]
        at -= (counts[each, losing] / np.maximum(m - 1, 1))[:, None, :, None]
        np.put_along_axis(load[w], np.broadcast_to(gpu[:, None], (*legal.shape, 1)), at, axis=3)
    value = np.where(legal, potential(search, load / search.speed.astype(np.float32)), np.inf)
    flat = value.reshape(len(rows), -1)
    donor, slot = np.unravel_index(flat.argmin(axis=1), value.shape[1:])
    return gpu[slot], slot % width, gaining[each[:, 0], donor], flat.min(axis=1)


def ending(target: Ints, origin: Ints, kinds: Ints) -> Ints:
    """``target`` [layers, gpus, width] with its GPUs renumbered, among those of one of the ``kinds`` [gpus], so that
    the fewest copies move from ``origin``; experts that stay keep their slots."""
    experts = int(max(target.max(), origin.max()))
    out = np.empty_like(target)
    other = np.where(kinds[:, None] == kinds, 0, -experts - 1)
    for layer, (to, start) in enumerate(zip(target, origin, strict=True)):
        overlap = held(start, experts + 1).astype(float) @ held(to, experts + 1).T
        _, match = linear_sum_assignment(overlap + other, maximize=True)
        out[layer] = _keep_slots(to[match], start)
    return out


def _keep_slots(to: Ints, start: Ints) -> Ints:
    """Experts of each GPU, [gpus, width], those of ``start`` in its slots. ``to`` has no expert twice on a GPU."""
    out = np.empty_like(to)
    for gpu, (new, old) in enumerate(zip(to.tolist(), start.tolist(), strict=True)):
        waiting = list(new)
        row: list[int | None] = []
        for expert in old:
            stays = expert in waiting
            row.append(expert if stays else None)
            if stays:
                waiting.remove(expert)
        out[gpu] = [waiting.pop(0) if expert is None else expert for expert in row]
    return out
