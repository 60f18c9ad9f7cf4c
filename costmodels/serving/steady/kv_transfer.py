"""The way of a KV cache from the engine that computes it to the one that decodes with it: bytes, links, overlap.

The cache crosses in n pieces (layers, chunks, or 1; Splitwise, arXiv:2311.18677 §4.3; Mooncake, arXiv:2407.00079 §5.2),
each sent when it is computed. Piece i of n leaves at C·i/n, so with prefill time C and transfer time τ the last one
arrives

    exposed = max(τ/n, τ − C·(n − 1)/n)

after the prefill. All GPUs of an attention rank send or receive their parts in parallel; the slower end binds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.connector import KvConnector
from costmodels.serving.served_model import ServedModel


@dataclass(frozen=True)
class Link:
    """What the KV cache crosses, as one GPU sees it: bytes per second in one direction."""

    name: str
    bytes_per_s: float
    latency_us: float
    shared_by_gpus: int = 1

    def seconds_us(self, size_bytes: Floats) -> Floats:
        return np.asarray(self.latency_us + size_bytes / self.bytes_per_s * 1e6)


def cache_bytes(served: ServedModel, isl: int) -> float:
    """KV cache of one prompt, all layers and heads once. Windowed layers send their window only."""
    return float(served.kv_bytes(Layouts.of([(1, 1, 1, 1, 1)]), isl)[0])


def copies(served: ServedModel, layouts: Layouts, isl: int) -> Floats:
    """How often a decode engine receives each byte: GPUs that share KV heads, or latents, each hold their own, [n]."""
    stages = np.ceil(served.model.layers / layouts.pp) / served.model.layers
    own = served.kv_bytes(layouts, isl) / stages * layouts.tp
    return np.asarray(own / cache_bytes(served, isl))


def sent_bytes(served: ServedModel, layouts: Layouts, isl: int, times: Floats | float) -> Floats:
    """What each GPU of a prefill engine's attention rank sends of one prompt, [n]: its part of ``times`` copies."""
    return np.asarray(cache_bytes(served, isl) * times / (layouts.tp * layouts.pp))


def received_bytes(served: ServedModel, layouts: Layouts, isl: int) -> Floats:
    """What each GPU of a decode engine's attention rank receives of one prompt, [n]."""
    return served.kv_bytes(layouts, isl)


def with_queue(time_us: Floats, rate_per_us: Floats) -> tuple[Floats, Floats]:
    """(mean time of a transfer with its wait for others, share of time the link is busy), [n] each: M/D/1 with service
    ``time_us``; infinite where the link cannot carry the rate."""
    busy = rate_per_us * time_us
    wait = busy * time_us / (2 * np.maximum(1 - busy, 1e-12))
    return np.where(busy < 1, time_us + wait, np.inf), busy


def exposed_us(
    transfer_us: Floats, prefill_us: Floats, chunks: Floats, layers: int, kv_connector: KvConnector
) -> Floats:
    """What is left of the transfer when the prefill is over, [n]; see the module's text."""
    pieces = {"layer": np.full(len(chunks), float(layers)), "chunk": np.ceil(chunks), "none": np.ones(len(chunks))}
    n = pieces[kv_connector.overlap]
    return np.asarray(np.maximum(transfer_us / n, transfer_us - prefill_us * (n - 1) / n))
