"""What no placement can beat: a lower bound on the time of the slowest GPU of a layer, whatever the copies and wherever
they are.

Suppose every GPU finishes by T. Then, with R slots beyond one per expert:

* the mean: Σ loads ≤ T · Σ speeds;
* a copy shares its GPU with as many other experts as that has slots. The lightest they can be, with the copies that
  remain, is the load of the lightest experts thinned by those copies (greedily, exact because loads per copy are
  convex in copies). What is left of T under them is the largest copy that can be: every expert needs at least its load
  ÷ that many copies, and all together at most R extra;
* j + 1 copies on a GPU leave, under the lightest others, (T − others) ÷ (j + 1) for the smallest of them. So at most j
  copies per GPU are larger, at most j × GPUs in all. An expert either brings its few large copies or is cut smaller
  with more; the fewest extra copies that bring the large ones down to j × GPUs are those of a covering knapsack, of
  which the fractional optimum is a lower bound.

Where one of these fails, T is impossible. The largest T refuted is found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from planner.experts.placement import Floats, Ints

PRECISION = 1e-7
"""Of the bisection, relative; and how little above the mean a refuted time is not worth a bisection."""


def slowest_gpu_bound(
    loads: Floats, slots: Ints, speed: Floats, reached: Floats, *, extra: int | None = None, fill: bool = True
) -> Floats:
    """Lower bound on the slowest GPU's time, shape [layers].

    loads: [layers, experts]; slots, speed: [gpus]; reached: [layers], times of placements that exist, or infinity:
    where the search for a bound ends. extra: copies beyond one per expert, by default what the slots hold;
    ``fill=False``: slots may hold experts other than these.
    """
    out: Floats = loads.sum(axis=1) / speed.sum()
    if extra is None:
        extra = int(slots.sum()) - loads.shape[1]
    for layer in range(len(loads)):
        refuter = _Refuter(np.sort(loads[layer])[::-1], slots, speed, extra, fill)
        low = float(out[layer])
        high = min(float(reached[layer]), float((loads[layer].max() * int(slots.max()) + low) / speed.min()))
        if high <= low * (1 + PRECISION) or not refuter.impossible(low * (1 + PRECISION)):
            continue
        low *= 1 + PRECISION
        if refuter.impossible(high * (1 - PRECISION)):
            low = high * (1 - PRECISION)
        while high > low * (1 + PRECISION):
            middle = (low + high) / 2
            low, high = (middle, high) if refuter.impossible(middle) else (low, middle)
        out[layer] = low
    return out


def window_bounds(counts: Floats, slots: Ints, speed: Floats, reached: Floats) -> Floats:
    """:func:`slowest_gpu_bound` of each window, shape [windows, layers]; counts: [windows, layers, experts]."""
    pairs = zip(counts, reached, strict=True)
    return np.stack([slowest_gpu_bound(window, slots, speed, most) for window, most in pairs])


@dataclass
class _Refuter:
    """One layer; load: [experts], heaviest first; extra: copies beyond one per expert."""

    load: Floats
    slots: Ints
    speed: Floats
    extra: int
    fill: bool
    thinned: dict[int, Floats] = field(default_factory=dict)

    def impossible(self, limit: float) -> bool:
        """Whether no placement finishes by ``limit`` on every GPU."""
        load, gpus, width = self.load, len(self.slots), int(self.slots.max())
        kinds = sorted(set(zip(self.slots.tolist(), (limit * self.speed).tolist(), strict=True)))
        heavy = max(len(load) - (width - 1), 0)
        spare = self.extra
        while True:
            lightest = self._lightest(spare)
            largest = max(work - lightest[s - 1] for s, work in kinds)
            if largest <= 0:
                return bool(load[0] > 0)
            needed = np.maximum(np.ceil(load / largest * (1 - 1e-12)), 1)
            if needed[0] > gpus or needed.sum() - len(load) > self.extra:
                return True
            # Copies that heavy experts must have cannot thin light ones; and no heavy expert, so cut, is lighter.
            left = self.extra - int(needed[:heavy].sum() - heavy)
            if left >= spare or (load[:heavy] / needed[:heavy]).min(initial=np.inf) < load[heavy:].max(initial=0):
                break
            spare = left
        unspent = self.extra - (needed.sum() - len(load))
        return any(
            self._too_many_large(
                max((work - lightest[s - j - 1]) / (j + 1) if s > j else 0.0 for s, work in kinds), j, needed, unspent
            )
            for j in range(1, width)
        )

    def _too_many_large(self, theta: float, j: int, needed: Floats, unspent: float) -> bool:
        """Whether more than j copies per GPU stay larger than ``theta``, however ``unspent`` copies cut experts
        finer than the ``needed`` [experts] copies each."""
        if theta <= 0:
            return False
        large = self.load > needed * theta * (1 + 1e-12)
        surplus = float(needed[large].sum() - np.minimum(self.slots, j).sum())
        if surplus <= 0:
            return False
        fine = np.ceil(self.load[large] / theta * (1 - 1e-12))
        price = np.where(fine > len(self.slots), np.inf, fine - needed[large])
        order = np.argsort(price / needed[large], kind="stable")
        covered, paid = np.cumsum(needed[large][order]), np.cumsum(price[order])
        k = int(np.searchsorted(covered, surplus))
        before, cost = (covered[k - 1], paid[k - 1]) if k else (0.0, 0.0)
        cost += (surplus - before) * (price / needed[large])[order][k]
        return bool(cost > unspent + 1e-9)

    def _lightest(self, spare: int) -> Floats:
        """The least that n distinct experts can add to a GPU when ``spare`` extra copies may thin them, for
        n = 0 … most slots − 1."""
        width = int(self.slots.max())
        if not self.fill:
            return np.zeros(width)
        if spare not in self.thinned:
            light = self.load[len(self.load) - width + 1 :][::-1]  # lightest first
            k = np.arange(1, spare + 1)
            saved = light[:, None] / (k * (k + 1))  # by the copy after the k-th: falls with k, so the largest are legal
            best = [np.sort(saved[:n], axis=None)[::-1][:spare].sum() for n in range(width)]
            self.thinned[spare] = np.concatenate([[0.0], np.cumsum(light)]) - best
        return self.thinned[spare]
