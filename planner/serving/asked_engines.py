"""Engines that a table asks about: what each is started with, and what its memory has room for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.operations.layouts import COLUMNS, DEGREES, Layouts
from costmodels.operations.wide_moe import balance_facts
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.protocol import GENERATIONS, Gate
from costmodels.serving.memory import exchange_buffer_bytes
from costmodels.serving.recipe import Started
from costmodels.serving.served_model import ServedModel
from planner.serving.asked_rows import AskedRow
from profiles.errors import InputError

_SAMPLING = {
    "greedy": "no time for choosing tokens beside the step's own",
    "random": "top-k and top-p take their time for every running sequence",
}

FULL_MEMORY_FRACTION = 0.95
"""Taken where nobody says a share and the release's own leaves no room: as far as the public recipes go
(``--mem-fraction-static 0.95``, ``--gpu-memory-utilization 0.95``)."""

LEAST_CONTEXT = 4096
"""Tokens of the shortest context that engines of chat models are started with (``--max-model-len`` of the public
recipes): a cache with room for less is none that anybody measured, or would keep."""

FILLED = 0.9
"""Of a step's tokens, that waiting prompts must fill before an engine lets them in early: the
``batch_wait_max_tokens_ratio`` of the public recipes that set ``batch_wait_timeout_iters``."""

OVERFLOWS = (
    "where answers outgrow the cache, `plan simulate` plays the requests that are put back and begun again, and "
    "tokens take up to twice as long there"
)
"""Llama-3.1-8B and Qwen3-32B on one H100, 64 to 512 users: TPOT here ÷ there 0.47 to 0.95 (vLLM, SGLang)."""


@dataclass(frozen=True)
class AskedEngine:
    """A row, and what the engine is started with."""

    row: AskedRow
    started: Started
    waits_for_ranks: bool = False
    """Whether its looks at the queue wait until there is a prompt for each attention replica."""

    @classmethod
    def of(cls, row: AskedRow, served: ServedModel) -> AskedEngine:
        """Raises InputError for a recipe that does not serve the row's requests."""
        started = row.recipe.started(served.framework, served.gpu, served.model)
        work = row.workload
        tokens, prompt = work.longest_tokens, work.isl if work.recorded is None else work.longest_isl
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
        if row.wide.role != "aggregated" and row.workload.concurrency is None:
            raise InputError(
                "rate: what a prefill or decode engine alone does is asked at a batch",
                "give concurrency, the requests in it at once, or leave role out",
            )
        if row.wide.role == "decode":
            started = _decoding(row, started)
        return cls(with_buffers(row, started, served), started, served.framework.scheduler.polls_for_ranks)

    @property
    def least_context(self) -> int:
        """Tokens that its cache holds at least, if it was started with what suits it: the longest request's, and no
        less than anybody starts an engine with."""
        return max(self.row.workload.longest_tokens, min(LEAST_CONTEXT, self.started.max_model_len))

    def told(self, served: ServedModel, share: float, running: int) -> Iterator[str]:
        """What its reader should know of the recipe, empty texts among it.

        Args:
            share: of memory that was taken in the place of the framework's own; 0: that.
            running: sequences that the whole engine holds at once.
        """
        started, row = self.started, self.row
        yield replace(started, assumed=tuple(name for name in started.assumed if name != "max_model_len")).told(
            served.framework, served.gpu
        )
        if share:
            own = started.gpu_memory_utilization
            why = (
                f"leaves no room for a context of {self.least_context:,} tokens"
                if share > own
                else "promises the cache what the engine needs beside it"
            )
            yield f"gpu_memory_utilization={share:.2g} is taken: {own:g} {why}"
        users = row.workload.concurrency
        if users is not None and users > running:
            yield f"{running:,} of the {users:,} requests are in flight at once, the others wait"
            if running < started.max_num_seqs * row.layout[2] and served.framework.scheduler.reserve_share < 1:
                yield OVERFLOWS
        yield from row.notes
        if served.early_launch:
            yield f"{served.early_launch}=1 is taken to be set, so that kernels start early"
        if served.busier is not None:
            yield _of_loads(served.busier, Layouts.of([row.layout]))
        if row.drafts:
            tokens = row.drafted(served.framework.defaults.draft_tokens)
            name = served.framework.full_name
            yield f"spec: {tokens} drafted tokens a step, accepted as in the runs that {name} is calibrated on"
        if row.sampling:
            yield f"sampling={row.sampling}: {_SAMPLING[row.sampling]}"
        if (users is None or row.plays_alone) and started.polling_interval > 1:
            yield "polling_interval: not counted where requests arrive at a rate, or are of drawn lengths"
        elif self.waits_for_ranks and started.polling_interval > 1 and row.layout[DEGREES.index("dp")] == 1:
            yield (
                f"polling_interval: {served.framework.full_name} waits so many steps for prompts that fill "
                f"{FILLED:.0%} of one (batch_wait_timeout_iters)"
            )


def _of_loads(busier: Callable[[Layouts], Floats], layouts: Layouts) -> str:
    """What recorded loads of experts do to an engine."""
    if not layouts.wide[0]:
        return "expert-loads: not counted, as all ranks gather all tokens; routing says how uneven experts are"
    mean = float(busier(layouts)[0] * balance_facts().leaves[layouts.eplb[0]])
    return f"expert-loads: leave {mean:.2f} times the mean to the busiest GPU"


def _decoding(row: AskedRow, started: Started) -> Started:
    """A decode engine's batch is what decodes, and no step holds prompts."""
    batch = started.max_num_seqs
    if "max_num_seqs" in started.assumed and row.workload.concurrency is not None:
        batch = max(-(-row.workload.concurrency // row.layout[DEGREES.index("dp")]), 1)
    tokens = started.max_num_batched_tokens
    if "max_num_batched_tokens" in started.assumed:
        tokens = batch * row.workload.shape.queries
    return replace(started, max_num_seqs=batch, max_num_batched_tokens=tokens)


def with_buffers(row: AskedRow, started: Started, served: ServedModel) -> AskedRow:
    """``row`` with the tokens that a low-latency exchange has buffers for, where there is one: what was said, or as few
    as hold the batch.

    Raises:
        InputError: they do not hold it.
    """
    layouts = Layouts.of([row.layout])
    if not layouts.low_latency[0]:
        return row
    usual, most = served.framework.parallelism.dispatch_tokens
    place, tp = COLUMNS.index("dispatch_tokens"), int(layouts.tp[0])
    users, dp = row.workload.concurrency, int(layouts.dp[0])
    sequences = started.max_num_seqs if users is None else min(-(-users // dp), started.max_num_seqs)
    needed = -(-sequences * row.workload.shape.queries // tp)
    limit = row.layout[place]
    if needed > (limit or most) and row.wide.role == "decode":
        fits = 2 ** math.ceil(math.log2(needed))
        asked = Layouts.of([(*row.layout[:place], fits)])
        gib = float(exchange_buffer_bytes(served.model, asked)[0]) / 2**30
        raise InputError(
            f"dispatch_tokens: {needed} tokens of a GPU ({sequences} sequences × {row.workload.shape.queries}) are "
            f"more than the {limit or most} that the exchange has buffers for",
            f"lower the concurrency to {(limit or most) * tp // row.workload.shape.queries * dp}"
            + (f", or give dispatch_tokens={fits} ({gib:.1f} GiB of each GPU)" if fits <= most else ""),
        )
    if served.framework.buffers_of_step:
        return _with_buffers_of_step(row, started, served)
    if limit:
        return row
    tokens = min(max(2 ** math.ceil(math.log2(max(needed, 1))), usual), most)
    told = (*row.notes, f"not given, so: dispatch_tokens={tokens}")
    return replace(row, layout=(*row.layout[:place], tokens), notes=told)


def _with_buffers_of_step(row: AskedRow, started: Started, served: ServedModel) -> AskedRow:
    """The same where buffers are made for all tokens that a step may have, whatever else is said."""
    place = COLUMNS.index("dispatch_tokens")
    step, most = started.max_num_batched_tokens, row.layout[place] or served.framework.parallelism.dispatch_tokens[1]
    tp = int(Layouts.of([row.layout]).tp[0])
    layout = (*row.layout[:place], -(-step // tp))
    if layout[place] > most:
        gib = float(exchange_buffer_bytes(served.model, Layouts.of([layout]))[0]) / 2**30
        raise InputError(
            f"max_num_batched_tokens: {step} tokens of a step are more than the {most} of a GPU that the exchange is "
            f"to have buffers for; {served.framework.title} makes them for whole steps ({gib:.1f} GiB of each GPU)",
            f"give max_num_batched_tokens={most * tp} or less",
        )
    told = (*row.notes, f"{served.framework.title} makes the exchange's buffers for max_num_batched_tokens")
    return replace(row, layout=layout, notes=told)


def load_of(engines: Sequence[AskedEngine], running: Ints, draft_tokens: int) -> Load:
    """What clients with a fixed number of requests in flight do.

    Args:
        running: sequences that each whole engine holds at once, [n].
        draft_tokens: drafted a step where a row says no more than that the model drafts.
    """
    polled = np.array([engine.started.polling_interval for engine in engines], dtype=np.float64)
    ranks = np.array([engine.row.layout[DEGREES.index("dp")] for engine in engines])
    waiting = np.array([engine.waits_for_ranks for engine in engines])
    # Requests that come one by one to ranks at random are one for each after ranks · (1 + 1/2 + … + 1/ranks).
    collected = np.array([count * np.sum(1 / np.arange(1, count + 1)) for count in ranks.tolist()])
    filling = waiting & (ranks == 1)
    works = [engine.row.workload for engine in engines]
    spreads = np.array([work.shares for work in works])
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
    collected = np.where(filling, FILLED * plain.token_budget / np.maximum(plain.mean_isl, 1), collected)
    rows = [engine.row for engine in engines]
    return replace(
        plain,
        gate=Gate(steps, np.where(waiting, collected, np.inf), (polled > 1) & ~filling),
        drafted=np.array([row.drafted(draft_tokens) for row in rows]),
        outputs=np.array([row.outputs or np.nan for row in rows]),
        generations=np.array([_generations(row) for row in rows]),
        cold=np.array([row.cold for row in rows]),
    )


def _generations(row: AskedRow) -> int:
    """Requests that each client sends, one after the other."""
    work = row.workload
    if row.burst:
        return 1
    if work.requests is None or not work.concurrency:
        return GENERATIONS
    return min(max(round(work.requests / work.concurrency), 1), GENERATIONS)


def _below(share: float) -> Floats:
    """Shares of memory below ``share``, the largest first."""
    return np.arange(np.floor(share * 20) / 20, 0.5, -0.05)


@dataclass(frozen=True)
class Room:
    """Per configuration: sequences that the engine admits to the cache of one attention rank (at most its batch),
    tokens of its cache, bytes in use on the fullest GPU, cache of one sequence included, and the share of memory that
    was taken where nobody said one and the framework's own holds no context (0: not so): :data:`FULL_MEMORY_FRACTION`,
    or, where none holds a request, the largest below its own that leaves what the engine needs beside the cache."""

    layouts: Layouts
    sequences: Ints
    kv_tokens: Ints
    used_bytes: Floats
    taken: Floats

    @property
    def running(self) -> Ints:
        """Sequences that each whole engine holds at once, [n]."""
        return self.sequences * self.layouts.dp

    def refusal(self, i: int, engine: AskedEngine, served: ServedModel) -> str:
        """Why the memory of the ``i``-th holds no request, and the way out."""
        gpu, what = served.gpu, f"{served.model.name} in {served.precision.weights}"
        share, layout = engine.started.gpu_memory_utilization, self.layouts.take(np.array([i]))
        for less in _below(share):
            smaller = replace(engine, started=replace(engine.started, gpu_memory_utilization=float(less), assumed=()))
            if less < share and Room.of(served, [smaller]).sequences[0] >= 1:
                buffers = float(exchange_buffer_bytes(served.model, layout)[0]) / 1e9
                beside = f", {buffers:,.1f} GB of them its exchange's buffers" if buffers else ""
                return (
                    f"memory: with gpu_memory_utilization={share:g} the cache of {what} is promised what the engine "
                    f"needs beside it on each {gpu.name}{beside}; give gpu_memory_utilization={less:.2g}"
                )
        return (
            f"memory: {what} and a sequence of {engine.row.workload.longest_tokens:,} tokens need "
            f"{self.used_bytes[i] / 1e9:,.0f} GB of each {gpu.name}, which has {gpu.memory_bytes / 1e9:,.0f}; "
            f"use more GPUs{', fewer redundant experts' if layout.redundant[0] else ''} or a smaller precision"
        )

    def told_of_state(self, i: int, engine: AskedEngine, served: ServedModel) -> str:
        """What the cache of the ``i``-th holds of a model that keeps a state of each sequence alone; "" of others."""
        layout, work = self.layouts.take(np.array([i])), engine.row.workload
        if not (state := served.state_bytes(layout)):
            return ""
        held = float(served.framework.scheduler.held_tokens(work.mean_isl, work.mean_osl))
        return (
            f"kv_tokens: of requests of this length: the cache holds the states of {int(self.kv_tokens[i] // held):,} "
            f"sequences, {state / 2**20:,.1f} MiB each, whatever their length"
        )

    @classmethod
    def of(cls, served: ServedModel, engines: Sequence[AskedEngine]) -> Room:
        layouts = Layouts.of([engine.row.layout for engine in engines])
        isl, osl, longest = (
            np.array([getattr(engine.row.workload, name) for engine in engines], dtype=np.float64)
            for name in ("mean_isl", "mean_osl", "longest_tokens")
        )
        context = np.array([engine.least_context for engine in engines], dtype=np.float64)
        started = [engine.started for engine in engines]
        batch = np.array([each.max_num_seqs for each in started])
        budget = np.array([each.max_num_batched_tokens for each in started])
        share = np.array([each.gpu_memory_utilization for each in started])
        unsaid = np.array(["gpu_memory_utilization" in each.assumed for each in started])
        lengths = served.framework.scheduler.held_tokens(isl, osl)
        each, largest = served.kv_bytes(layouts, lengths), served.kv_bytes(layouts, longest)
        taken = np.zeros(len(engines))
        memory = served.memory(layouts, budget, memory_fraction=share, sequences=batch)
        cache, unused = memory.kv_bytes, memory.unused_bytes
        full = np.maximum(share, FULL_MEMORY_FRACTION)
        tight = unsaid & (cache < served.kv_bytes(layouts, context))
        if tight.any():
            memory = served.memory(layouts, budget, memory_fraction=full, sequences=batch)
            more = tight & (memory.kv_bytes > cache)
            taken = np.where(more, full, taken)
            # where none holds a request, what is told is of the fullest memory
            told = more | (tight & (cache < largest))
            cache, unused = np.where(told, memory.kv_bytes, cache), np.where(told, memory.unused_bytes, unused)
        for other in (np.minimum(share, less) for less in _below(float(share.max()))):
            short = unsaid & (cache < largest)
            if not short.any():
                break
            memory = served.memory(layouts, budget, memory_fraction=other, sequences=batch)
            holds = short & (memory.kv_bytes >= largest)
            taken = np.where(holds, other, taken)
            cache, unused = np.where(holds, memory.kv_bytes, cache), np.where(holds, memory.unused_bytes, unused)
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
            taken,
        )
