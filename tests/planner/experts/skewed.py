"""Generated loads for the balancing tests, and the optimum of small layers by trying everything."""

from __future__ import annotations

import itertools

import numpy as np

from planner.experts.placement import Floats, Loads, Topology


def skewed(experts: int, layers: int = 1, windows: int = 1, seed: int = 0, spread: float = 0.8) -> Loads:
    """Lognormal counts; windows share half of their logarithms."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(1, layers, experts))
    own = rng.normal(size=(windows, layers, experts))
    logs = common if windows == 1 else (common + own) * np.sqrt(0.5)
    counts = np.ceil(1000 * np.exp(spread * logs))
    names = tuple(f"window {w}" for w in range(windows))
    return Loads(counts, np.arange(3, 3 + layers), names, np.full(windows, 1 / windows))


def topology(slots: list[int], speed: list[float] | None = None, gpus_per_node: int | None = None) -> Topology:
    gpu = np.arange(len(slots))
    node = gpu // (gpus_per_node or len(slots))
    return Topology(np.array(slots), node, node, np.ones(len(slots)) if speed is None else np.array(speed))


def optimum(loads: Loads, gpus: Topology, worst: bool = False) -> Floats:
    """Least slowest ÷ mean over the windows, shape [layers], over every placement that fills the slots."""
    experts = loads.experts
    alike = len(set(zip(gpus.slots.tolist(), gpus.speed.tolist(), strict=True))) == 1
    sets = [list(itertools.combinations(range(experts), s)) for s in gpus.slots.tolist()]
    choices = itertools.combinations_with_replacement(sets[0], gpus.gpus) if alike else itertools.product(*sets)
    every = [c for c in choices if len(set().union(*c)) == experts]
    holds = np.zeros((len(every), gpus.gpus, experts))
    for k, choice in enumerate(every):
        for gpu, chosen in enumerate(choice):
            holds[k, gpu, list(chosen)] = 1
    per_copy = holds / holds.sum(axis=1, keepdims=True) / gpus.speed[:, None]
    time = np.einsum("kge,wle->wlkg", per_copy, loads.counts).max(axis=3)
    ratio = time / (loads.counts.sum(axis=2) / gpus.speed.sum())[:, :, None]
    over = ratio.max(axis=0) if worst else np.tensordot(loads.weights, ratio, 1)
    return over.min(axis=1)
