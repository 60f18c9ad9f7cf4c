"""Placements that keep a token's next experts near, at any scale: linear assignment swept over the layers, then
exchanges of experts that leave every GPU within its load.

What experts of a layer gain on each GPU is linear in where they go once the layers before and after are held:
gain[e, g] = (Tₗ₋₁ᵀ Sₗ₋₁ A)[e, g] + (Tₗ Sₗ₊₁ Aᵀ)[e, g], with A the closeness of GPUs. So one layer at a time is a
linear assignment: of whole GPUs (:func:`relabel`, which leaves every GPU's load as it was), or of single copies.
After ExFlow (arXiv:2401.08383), which solves it as an integer programme, and MoETuner (arXiv:2502.06643).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from planner.experts.crossings import Distance, shares
from planner.experts.placement import Floats, Ints, Placement, Topology

Bools = NDArray[np.bool_]

_PASSES = 8  # sweeps over all layers, forward and backward in turn; most stop after three
_WORTH = 1e-6  # a pass that gains less than this part of all transitions is the last
_CONTENT = 0.8  # of the closeness found without a limit: with that much left of it, the second search is not run
_SMALL = 1_000_000  # layers × slots²: below, both searches take a fraction of a second
_NEVER = 1e18


@dataclass(frozen=True, eq=False)
class LoadLimit:
    """What exchanges must not exceed. ``counts``: shape [windows, layers, experts]; ``most``: shape [windows,
    layers], load ÷ speed that a GPU may reach."""

    counts: Floats
    most: Floats

    @classmethod
    def near(cls, placement: Placement, counts: Floats, tolerance: float) -> LoadLimit:
        """At most ``tolerance`` above the fullest GPU of ``placement``, per window and layer."""
        return cls(counts, placement.gpu_loads(counts).max(axis=-1) * (1 + tolerance))


class Sweeper:
    """A placement under improvement. ``fence``: shape [gpus]; experts move only between GPUs of the same fence (a
    node, where groups of experts are pinned to nodes)."""

    def __init__(
        self,
        placement: Placement,
        transitions: Floats,
        distance: Distance,
        limit: LoadLimit | None = None,
        fence: Ints | None = None,
    ) -> None:
        self.topology: Topology = placement.topology
        self.experts = placement.experts
        self.at = placement.physical_to_logical.copy()
        self.transitions = transitions
        self.close = distance.closeness(self.topology)
        self.limit = limit
        self.gpu = self.topology.gpu_of_slot
        self.first_slot = np.concatenate([[0], np.cumsum(self.topology.slots)[:-1]])
        fences = np.zeros(self.topology.gpus, np.int64) if fence is None else fence
        self.apart: Bools = fences[:, None] != fences[None, :]
        kind = np.stack([self.topology.slots, self.topology.speed, fences])
        self.unlike: Bools = (kind[:, :, None] != kind[:, None, :]).any(axis=0)
        self.share = shares(placement)
        self.weight = 1.0 / np.maximum(placement.copies(), 1)
        self._base = placement

    @property
    def layers(self) -> int:
        return len(self.at)

    def placement(self) -> Placement:
        return replace(self._base, physical_to_logical=self.at.copy())

    def kept(self) -> float:
        """Total closeness of all transitions: what is maximised."""
        between = np.swapaxes(self.share[:-1], 1, 2) @ self.transitions @ self.share[1:]
        return float((between * self.close).sum())

    def gains(self, layer: int, *, back: bool = True, ahead: bool = True) -> Floats:
        """What each copy of the layer gains on each GPU, shape [slots, gpus]."""
        gain = np.zeros((self.experts, self.topology.gpus))
        if back and layer > 0:
            gain += self.transitions[layer - 1].T @ (self.share[layer - 1] @ self.close)
        if ahead and layer + 1 < self.layers:
            gain += self.transitions[layer] @ (self.share[layer + 1] @ self.close)
        gain *= self.weight[layer][:, None]
        return np.asarray(gain[self.at[layer]])

    def _set(self, layer: int, experts: Ints) -> None:
        self.at[layer] = experts
        share = np.zeros_like(self.share[layer])
        share[experts, self.gpu] = self.weight[layer][experts]  # no two copies of an expert on a GPU
        self.share[layer] = share

    def _settle(self, layer: int, experts: Ints) -> None:
        """Sets the layer, second copies on a GPU first exchanged away; where that fails it stays as it was."""
        if not _distinct(experts, self.gpu, self.experts):
            experts = _separated(experts, self.gpu, self.apart)
            if not _distinct(experts, self.gpu, self.experts):
                return
        self._set(layer, experts)

    # -------------------------------------------------------------- moves of one layer

    def group(self, layer: int) -> None:
        """Experts that the same tokens use next on one GPU, from the heaviest on: likeness is that of the rows of
        D_a^(−½) T D_b^(−½) (Dhillon, KDD 2001, spectral co-clustering)."""
        table = self.transitions[layer]
        rows, columns = table.sum(axis=1), table.sum(axis=0)
        even = np.sqrt(np.outer(rows, columns))
        scaled = np.where(even > 0, table / np.where(even > 0, even, 1.0), 0.0)
        scaled -= even / max(float(table.sum()), 1e-300)  # what chance alone would bring
        like = scaled @ scaled.T
        left = np.bincount(self.at[layer], minlength=self.experts)
        out = np.empty_like(self.at[layer])
        for start, size in zip(self.first_slot, self.topology.slots, strict=True):
            seed = int(np.where(left > 0, rows, -1.0).argmax())
            near = np.where(left > 0, like[seed], -np.inf)
            near[seed] = np.inf
            chosen = np.argsort(-near, kind="stable")[: min(size, int((left > 0).sum()))]
            left[chosen] -= 1
            rest = np.repeat(np.arange(self.experts), left)[: size - len(chosen)]  # copies of fewer experts than slots
            np.subtract.at(left, rest, 1)
            out[start : start + size] = np.concatenate([chosen, rest])
        self._settle(layer, out)

    def relabel(self, layer: int, *, ahead: bool = True) -> None:
        """Permutes GPUs of equal slots and speed, exactly; loads and balance stay as they are."""
        gain = np.add.reduceat(self.gains(layer, ahead=ahead), self.first_slot, axis=0)
        _, to = linear_sum_assignment(np.where(self.unlike, -_NEVER, gain), maximize=True)
        source = np.argsort(to)  # of each GPU's new experts
        blocks = np.split(self.at[layer], self.first_slot[1:])
        self._set(layer, np.concatenate([blocks[g] for g in source]))

    def assign(self, layer: int, *, back: bool = True, ahead: bool = True) -> None:
        """Every copy where it gains most, slots respected and loads not; exact where no expert has copies."""
        gain = self.gains(layer, back=back, ahead=ahead)
        gain = np.where(self.apart[self.gpu], -_NEVER, gain)
        _, slot = linear_sum_assignment(gain[:, self.gpu], maximize=True)
        experts = np.empty_like(self.at[layer])
        experts[slot] = self.at[layer]
        self._settle(layer, experts)

    def exchange(self, layer: int, *, repair: bool = False) -> bool:
        """Exchanges pairs of copies between GPUs, best first, while that gains and no GPU gets fuller than the
        limit. With ``repair``, exchanges first take load off GPUs above the limit, at the least loss. Returns
        whether every GPU is within the limit."""
        while repair and self._round(layer, repair=True):
            pass
        while self._round(layer, repair=False):
            pass
        return self._overload(layer) <= 0

    def _overload(self, layer: int) -> float:
        if self.limit is None:
            return 0.0
        times = self._times(layer)
        return float((times - self.limit.most[:, layer, None] * (1 + 1e-9)).max())

    def _times(self, layer: int) -> Floats:
        assert self.limit is not None
        return np.asarray(self.limit.counts[:, layer] @ self.share[layer] / self.topology.speed)

    def _round(self, layer: int, *, repair: bool) -> bool:
        """One set of exchanges that touch no GPU twice; whether there was any."""
        if repair and self._overload(layer) <= 0:
            return False
        experts, gpu = self.at[layer], self.gpu
        gain = self.gains(layer)
        moved = gain[:, gpu]  # [p, q]: copy p on the GPU of slot q
        own = np.diagonal(moved)
        change = moved + moved.T - own[:, None] - own[None, :]
        holds = self.share[layer] > 0
        allowed = ~(self.apart[gpu][:, gpu] | holds[experts][:, gpu])
        allowed &= allowed.T
        scale = max(float(self.transitions[max(layer - 1, 0) : layer + 1].sum()), 1e-300)
        if self.limit is None:
            score = np.where(allowed, change, -np.inf)
        else:
            times, most = self._times(layer), self.limit.most[:, layer]
            item = self.limit.counts[:, layer][:, experts] * self.weight[layer][experts]
            after = times[:, gpu, None] + (item[:, None, :] - item[:, :, None]) / self.topology.speed[gpu][:, None]
            before = times[:, gpu]
            if repair:
                over = np.maximum(after - most[:, None, None], 0).sum(axis=0)
                was = np.maximum(before - most[:, None], 0).sum(axis=0)
                relief = was[:, None] + was[None, :] - over - over.T
                allowed &= relief > 1e-9 * float(most.sum())
                score = np.where(allowed, change + relief * scale / float(times.sum()), -np.inf)
            else:
                within = (after <= np.maximum(most[:, None], before)[:, :, None] * (1 + 1e-12)).all(axis=0)
                score = np.where(allowed & within & within.T, change, -np.inf)
        least = -np.inf if repair else 1e-9 * scale
        best = np.maximum.reduceat(score, self.first_slot, axis=1)  # per copy and GPU
        rows, columns = np.nonzero(best > least)
        rows, columns = (part[np.argsort(-best[rows, columns], kind="stable")] for part in (rows, columns))
        touched = np.zeros(self.topology.gpus, np.bool_)
        new = experts.copy()
        ends = np.append(self.first_slot[1:], len(gpu))
        for p, g in zip(rows.tolist(), columns.tolist(), strict=True):
            if touched[g] or touched[gpu[p]]:
                continue
            q = int(self.first_slot[g] + score[p, self.first_slot[g] : ends[g]].argmax())
            new[p], new[q] = new[q], new[p]
            touched[g] = touched[gpu[p]] = True
        self._set(layer, new)
        return bool(touched.any())


# ------------------------------------------------------------------ whole placements


def relabelled(placement: Placement, transitions: Floats, distance: Distance, fence: Ints | None = None) -> Placement:
    """``placement`` with GPUs renamed layer by layer: every GPU's load as it was, fewer crossings. On one fast-link
    domain of equal GPUs this is the exact optimum over renamings: renaming all layers from one on alike changes
    nothing but the pair before it, so each pair of layers is an assignment of its own."""
    sweeper = Sweeper(placement, transitions, distance, fence=fence)
    for layer in range(1, sweeper.layers):
        sweeper.relabel(layer, ahead=False)
    _sweep(sweeper, sweeper.relabel)
    return sweeper.placement()


def near(
    balanced: Placement,
    transitions: Floats,
    distance: Distance,
    limit: LoadLimit | None,
    fence: Ints | None = None,
) -> Placement:
    """Few crossings with no GPU above ``limit``, by one of two searches, or the better of both.

    The first starts from groups of experts that the same tokens use, assigns copies layer by layer, and then exchanges
    copies until every GPU is within the limit, where it can. The second starts from ``balanced`` (which is within the
    limit), renames GPUs and exchanges copies: slower and as a rule worse, but sure of the limit; it is run where the
    first misses the limit or gives up much for it, and where it takes no time.
    """
    gathered = None
    if fence is None:
        first = Sweeper(balanced, transitions, distance, limit)
        first.group(0)
        for layer in range(1, first.layers):
            first.assign(layer, ahead=False)
        _sweep(first, first.assign)
        free = first.kept()
        within = [first.exchange(layer, repair=True) for layer in range(first.layers)]
        _sweep(first, first.exchange)
        if all(within):
            gathered = first
            if first.kept() >= _CONTENT * free and first.at.size * first.at.shape[1] > _SMALL:
                return first.placement()
    second = Sweeper(relabelled(balanced, transitions, distance, fence), transitions, distance, limit, fence)
    _sweep(second, second.exchange)
    if gathered is not None and gathered.kept() > second.kept():
        return gathered.placement()
    return second.placement()


def _sweep(sweeper: Sweeper, step: Callable[[int], object]) -> None:
    """``step`` on every layer, forward and backward in turn, until a pass gains next to nothing."""
    kept, worth = sweeper.kept(), _WORTH * float(sweeper.transitions.sum())
    for turn in range(_PASSES):
        layers = range(sweeper.layers)
        for layer in reversed(layers) if turn % 2 == 0 else layers:
            step(layer)
        before, kept = kept, sweeper.kept()
        if kept - before <= worth:
            return


def _distinct(experts: Ints, gpu: Ints, count: int) -> bool:
    key = gpu * count + experts
    return len(np.unique(key)) == len(key)


def _separated(experts: Ints, gpu: Ints, apart: Bools) -> Ints:
    """``experts`` with each second copy on a GPU exchanged for an expert of another GPU that has room for it."""
    out = experts.copy()
    for p in range(len(out)):
        if (out[gpu == gpu[p]] == out[p]).sum() < 2:
            continue
        for q in range(len(out)):
            mine, theirs = out[gpu == gpu[p]], out[gpu == gpu[q]]
            if gpu[q] != gpu[p] and not apart[gpu[p], gpu[q]] and out[q] not in mine and out[p] not in theirs:
                out[p], out[q] = out[q], out[p]
                break
    return out
