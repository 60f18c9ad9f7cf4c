"""Engines that a table asks about: what each is started with, and what its memory has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.protocol import GENERATIONS, Gate
from costmodels.serving.recipe import Started
from costmodels.serving.served_model import ServedModel
from planner.serving.asked_rows import AskedRow
from profiles.errors import InputError

FULL_MEMORY_FRACTION = 0.95
"""Taken where nobody says a share and the release's own leaves no room: as far as the public recipes go
(``--mem-fraction-static 0.95``, ``--gpu-memory-utilization 0.95``)."""


@dataclass(frozen=True)
class AskedEngine:
    """A row, and what the engine is started with."""

    row: AskedRow
    started: Started

    @classmethod
    def of(cls, row: AskedRow, served: ServedModel) -> AskedEngine:
        """Raises InputError for a recipe that does not serve the row's requests."""
        started = row.recipe.started(served.framework, served.gpu, served.model)
        tokens, prompt = row.workload.longest_tokens, row.workload.isl
        if "max_model_len" not in started.assumed and tokens > started.max_model_len:
            raise InputError(
                f"max_model_len: {started.max_model_len:,} is less than the {tokens:,} tokens of a request",
                "raise it, or leave it out",
            )
        if not started.chunked_prefill and prompt > started.max_num_batched_tokens:
            raise InputError(
                f"chunked_prefill: without it a prompt of {prompt:,} tokens does not fit into a step of "
                f"{started.max_num_batched_tokens:,}",
                "raise max_num_batched_tokens, or leave chunked_prefill out",
            )
        return cls(row, started)

    def told(self, served: ServedModel, raised: bool, running: int) -> Iterator[str]:
        """What its reader should know of the recipe, empty texts among it.

        Args:
            raised: whether :data:`FULL_MEMORY_FRACTION` was taken.
            running: sequences that the whole engine holds at once.
        """
        started, row = self.started, self.row
        yield replace(started, assumed=tuple(name for name in started.assumed if name != "max_model_len")).told(
            served.framework, served.gpu
        )
        if raised:
            yield (
                f"gpu_memory_utilization={FULL_MEMORY_FRACTION:g} is taken: {started.gpu_memory_utilization:g} leaves "
                "no room for a request"
            )
        users = row.workload.concurrency
        if users is not None and users > running:
            yield f"{running:,} of the {users:,} requests are in flight at once, the others wait"
        yield from row.notes
        if row.drafts:
            tokens = served.framework.defaults.draft_tokens
            name = served.framework.full_name
            yield f"spec: {tokens} drafted tokens a step, accepted as in the runs that {name} is calibrated on"
        if row.sampling:
            yield f"sampling={row.sampling}: both ways of sampling are predicted alike"
        if users is None and started.polling_interval > 1:
            yield "polling_interval: not counted where requests arrive at a rate"


def load_of(engines: Sequence[AskedEngine], running: Ints, draft_tokens: int) -> Load:
    """What clients with a fixed number of requests in flight do.

    Args:
        running: sequences that each whole engine holds at once, [n].
        draft_tokens: drafted a step where a row says no more than that the model drafts.
    """
    polled = np.array([engine.started.polling_interval for engine in engines], dtype=np.float64)
    works = [engine.row.workload for engine in engines]
    spreads = np.array([work.spread or (1.0, 1.0) for work in works])
    isl, osl = (np.array([getattr(work, name) for work in works]) for name in ("isl", "osl"))
    plain = Load.of(
        np.array([work.concurrency for work in works]),
        np.maximum(np.rint(isl * spreads[:, 1]), 1).astype(np.int64) + [work.image_tokens for work in works],
        np.maximum(np.rint(osl * spreads[:, 1]), 1).astype(np.int64),
        np.array([engine.started.max_num_batched_tokens for engine in engines]),
        running,
        spreads[:, 0] / spreads[:, 1],
        np.array([work.prefix_hit for work in works]),
    )
    steps = np.where(polled > 1, polled, 0.0)
    rows = [engine.row for engine in engines]
    return replace(
        plain,
        gate=Gate(steps, np.full(len(engines), np.inf), polled > 1),
        drafted=np.array([draft_tokens if row.drafts else 0 for row in rows]),
        outputs=np.array([row.outputs or np.nan for row in rows]),
        generations=np.array([1 if row.burst else GENERATIONS for row in rows]),
    )


@dataclass(frozen=True)
class Room:
    """Per configuration: sequences that the engine admits to the cache of one attention rank (at most its batch),
    tokens of its cache, bytes in use on the fullest GPU, cache of one sequence included, and whether
    :data:`FULL_MEMORY_FRACTION` was taken."""

    layouts: Layouts
    sequences: Ints
    kv_tokens: Ints
    used_bytes: Floats
    raised: NDArray[np.bool_]

    @property
    def running(self) -> Ints:
        """Sequences that each whole engine holds at once, [n]."""
        return self.sequences * self.layouts.dp

    @classmethod
    def of(cls, served: ServedModel, engines: Sequence[AskedEngine]) -> Room:
        layouts = Layouts.of([engine.row.layout for engine in engines])
        isl, osl, longest = (
            np.array([getattr(engine.row.workload, name) for engine in engines], dtype=np.float64)
            for name in ("mean_isl", "mean_osl", "longest_tokens")
        )
        started = [engine.started for engine in engines]
        batch = np.array([each.max_num_seqs for each in started])
        budget = np.array([each.max_num_batched_tokens for each in started])
        share = np.array([each.gpu_memory_utilization for each in started])
        unsaid = np.array(["gpu_memory_utilization" in each.assumed for each in started])
        lengths = served.framework.scheduler.held_tokens(isl, osl)
        each, largest = served.kv_bytes(layouts, lengths), served.kv_bytes(layouts, longest)
        plain = served.memory(layouts, budget, memory_fraction=share, sequences=batch)
        wide = np.maximum(share, FULL_MEMORY_FRACTION)
        full = served.memory(layouts, budget, memory_fraction=wide, sequences=batch)
        short = unsaid & (plain.kv_bytes < largest)
        cache = np.where(short, full.kv_bytes, plain.kv_bytes)
        unused = np.where(short, full.unused_bytes, plain.unused_bytes)
        fits = cache >= largest
        sequences = np.clip(np.floor(cache / np.maximum(each, 1.0)), 1, batch)
        state = served.kv_bytes(layouts, 0.0)
        growing = served.kv_bytes(layouts, 1.0) - state
        per_token = np.maximum(growing + state / lengths, 1e-9)  # the state counts as its share of a mean sequence
        return cls(
            layouts,
            np.where(fits, sequences, 0).astype(np.int64),
            np.maximum(cache / per_token, 0).astype(np.int64),
            served.gpu.memory_bytes - unused - cache + np.maximum(cache, largest),
            short & fits,
        )
