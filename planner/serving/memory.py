"""``plan memory``: whether an engine starts, with how much cache, which part takes what, and which option makes it fit.

Nothing is timed here, so that the answer comes at once: no measurement and no forest is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from costmodels.models.architecture import Architecture
from costmodels.operations.layouts import DEGREES, Layouts
from costmodels.serving.cache_pages import Pages, layer_caches
from costmodels.serving.frameworks.framework import Framework, find_framework
from costmodels.serving.memory import GIB, Loaded, Memory, StepLimits, engine_memory, exchange_buffer_bytes
from costmodels.serving.recipe import Recipe, Started
from costmodels.step.memory import kv_bytes_per_sequence, state_bytes_per_sequence
from planner.contract.models import architecture_of, drafting_with
from planner.contract.provenance import unmeasured
from planner.contract.words import precision_on
from planner.contract.workload.workload import Workload
from planner.serving.configuration import MemoryRequest
from planner.serving.images import counted
from planner.serving.layouts import completed, degrees_of, refused_on_nodes
from planner.serving.memory_document import GpuMemory, Largest, MemoryDocument
from planner.serving.wide_experts import WIDE_FIELDS, EngineMachines, wide_asked, with_experts
from profiles.errors import InputError
from profiles.hardware import SHIPPED, Catalogue, Gpu, find_fabric


def memory(request: MemoryRequest, catalogue: Catalogue = SHIPPED) -> MemoryDocument:
    """The memory of the engine that is asked for.

    Raises:
        UnknownName, InputError, Unsupported: a model, GPU, release, precision or layout that is not known, or that
            contradicts itself.
    """
    engine = _Engine.of(request, catalogue)
    reasons = tuple(engine.refusals())
    parts, framework = engine.parts("first"), engine.framework
    length, cache = engine.started.max_model_len, float(engine.parts("tightest").kv_bytes[0])
    per_token = engine.sequence_bytes(length) / length
    loaded = engine.loaded
    state = float(state_bytes_per_sequence(loaded.model, loaded.precision, engine.layouts, drafting=loaded.drafting)[0])
    return MemoryDocument(
        starts=not reasons,
        reasons=reasons,
        framework=framework.name,
        version=framework.release.version,
        memory=GpuMemory(
            weights_bytes=round(float(parts.weights_bytes[0])),
            activation_bytes=round(float(parts.activation_bytes[0])),
            graph_bytes=round(float(parts.graph_bytes[0])),
            other_bytes=round(float(parts.other_bytes[0])),
            kv_cache_bytes=round(float(parts.kv_bytes[0])),
            kv_bytes_per_token=per_token,
            kv_cache_tokens=int(max(cache, 0.0) // per_token),
            logged_kv_tokens=engine.logged_tokens,
            kv_cache_sequences=int(max(cache, 0.0) // state) if state else None,
        ),
        largest=Largest(
            context_tokens=engine.longest(),
            concurrency=round(engine.requests(length), 2),
            workload_requests=None if engine.work is None else round(engine.requests(engine.held_tokens), 2),
        ),
        notes=tuple(filter(None, engine.notes(catalogue, bool(reasons)))),
        provenance=unmeasured(),
    ).sealed()


def _buffers_exceeded(model: Architecture, started: Started, layouts: Layouts) -> str:
    """What to know where more sequences were asked for than low-latency buffers hold; "": nothing."""
    held, said = int(layouts.dispatch_tokens[0]) * int(layouts.tp[0]), "max_num_seqs" not in started.assumed
    if not (layouts.low_latency[0] and said and started.max_num_seqs > held):
        return ""
    fits = 2 ** math.ceil(math.log2(-(-started.max_num_seqs // int(layouts.tp[0]))))
    gib = float(exchange_buffer_bytes(model, replace(layouts, dispatch_tokens=np.array([fits])))[0]) / 2**30
    return (
        f"dispatch_tokens: the exchange's buffers hold {held} of max_num_seqs {started.max_num_seqs}; a step of more "
        f"fails: give max_num_seqs {held}, or dispatch_tokens {fits} ({gib:.1f} GiB of each GPU)"
    )


@dataclass(frozen=True)
class _Engine:
    """What was asked, understood; ``refused``: why no engine is laid out so, empty where one is; ``taken``: what nobody
    said of its experts."""

    loaded: Loaded
    layouts: Layouts
    started: Started
    refused: str
    taken: str = ""
    work: Workload | None = None

    @property
    def held_tokens(self) -> int:
        """Tokens of one of the workload's requests in the cache when it is answered, on average."""
        assert self.work is not None
        return round(self.work.mean_isl + self.work.mean_osl)

    @classmethod
    def of(cls, request: MemoryRequest, catalogue: Catalogue) -> _Engine:
        model = drafting_with(architecture_of(request.model), request.draft_model)
        gpu = catalogue.find_gpu(request.gpu)
        framework = find_framework(request.framework)
        precision, kept = precision_on(framework, gpu, model, request.precision, request.kv_precision)
        layout = completed(model, {name: getattr(request, name) for name in DEGREES})
        if request.num_gpus not in (None, layout.gpus):
            raise InputError(
                f"num_gpus: {request.num_gpus} is not tp × pp × dp = {layout.gpus}",
                "correct the degrees or leave num_gpus blank",
            )
        place = catalogue.default_node(gpu)
        node, on = place.gpus, EngineMachines(framework, gpu, place.gpus, find_fabric(place.default_fabric))
        said = {name: str(value) for name in WIDE_FIELDS if (value := getattr(request, name)) is not None}
        layout, taken = with_experts(layout, wide_asked(said), model, on)
        layouts = Layouts.of([degrees_of(layout)])
        cannot = framework.missing_hardware(precision, gpu)
        why = cannot or refused_on_nodes(model, precision, framework, layouts, node)[0]
        started = Recipe(**request.recipe).started(framework, gpu, model)
        if layouts.low_latency[0] and not layout.dispatch_tokens:
            usual = framework.parallelism.dispatch_tokens[0]
            layouts = replace(layouts, dispatch_tokens=np.array([usual]))
            taken.append(f"dispatch_tokens={usual}")
        defaults = f"not given, so: {', '.join(taken)}" if taken else ""
        told = "; ".join(filter(None, (kept, defaults, _buffers_exceeded(model, started, layouts))))
        work = None if request.workload is None else counted(request.workload, model)
        asked = request.draft or request.draft_model is not None
        drafts = asked or (work is not None and work.speculation is not None and model.draft is not None)
        return cls(Loaded(model, precision, framework, gpu, drafts), layouts, started, why or "", told, work)

    @property
    def model(self) -> Architecture:
        return self.loaded.model

    @property
    def framework(self) -> Framework:
        return self.loaded.framework

    @property
    def gpu(self) -> Gpu:
        return self.loaded.gpu

    def parts(self, stage: Literal["first", "tightest"]) -> Memory:
        started = self.started
        budget = np.array([started.max_num_batched_tokens])
        limits = StepLimits(budget, started.max_num_seqs, started.gpu_memory_utilization)
        return engine_memory(self.loaded, self.layouts, limits, stage)

    @cached_property
    def cache(self) -> float:
        """Bytes of cache on the GPU that binds."""
        return float(self.parts("tightest").kv_bytes[0])

    @cached_property
    def pages(self) -> Pages | None:
        """The pool that the cache is kept in; None where the framework, or a model's layers, know none that is
        modelled."""
        caches = layer_caches(self.model, self.loaded.precision, self.layouts, drafting=self.loaded.drafting)
        paged = self.framework.memory.logged_tokens != "plain"
        if not paged or not caches or any(each.token_bytes and each.state_bytes for each in caches):
            return None
        return Pages.of(caches, self.framework.scheduler.block_tokens)

    def sequence_bytes(self, tokens: int) -> float:
        """Cache of one sequence."""
        kept = kv_bytes_per_sequence(
            self.model, self.loaded.precision, self.layouts, float(tokens), drafting=self.loaded.drafting
        )
        return float(kept[0])

    def requests(self, tokens: int) -> float:
        """Requests of that length which fit at once."""
        if self.pages is None:
            return max(self.cache, 0.0) / self.sequence_bytes(tokens)
        return self.pages.requests(self.cache, tokens, self.started.max_num_batched_tokens)

    @property
    def logged_tokens(self) -> int:
        """Tokens of cache as the log counts them."""
        length = self.started.max_model_len
        if self.pages is None or self.framework.memory.logged_tokens == "requests":
            return int(self.requests(length) * length)
        return self.pages.logged_tokens(self.cache)

    def longest(self) -> int:
        """The longest request that fits alone."""
        most, budget = self.model.max_context_tokens, self.started.max_num_batched_tokens
        if self.pages is not None:
            return self.pages.longest(self.cache, most, budget)
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.requests(middle) >= 1 else (low, middle - 1)
        return low

    def refusals(self) -> Iterator[str]:
        """Why the engine does not start, or does not admit what it is asked to hold."""
        if self.refused:
            yield self.refused
            return
        if self.work is not None and self.work.longest_tokens > self.started.max_model_len:
            yield (
                f"max_model_len={self.started.max_model_len:,} is less than the {self.work.longest_tokens:,} tokens of "
                "the workload's longest request"
            )
        yield from self._step_refusals()
        parts, facts = self.parts("tightest"), self.framework.memory
        share, visible = self.started.gpu_memory_utilization, self.gpu.visible_memory_bytes
        free = self.gpu.memory_bytes - float(parts.context_bytes[0])
        weights, cache = float(parts.weights_bytes[0]), self.cache
        if weights > free:
            yield f"the weights take {_gib(weights)} of each {self.gpu.name}, of which {_gib(free)} are free"
        elif facts.share_of == "gpu" and share * visible > free:
            yield (
                f"a share of {share:g} of {self.gpu.name} is {_gib(share * visible)}, of which {_gib(free)} are free "
                "when the engine starts"
            )
        elif cache <= 0:
            yield (
                f"weights ({_gib(weights)}), activations ({_gib(float(parts.activation_bytes[0]))}) and the rest leave "
                f"no room for a cache within a share of {share:g}: {_gib(-cache)} are lacking"
            )
        elif facts.holds_longest and self.requests(self.started.max_model_len) < 1:
            length = self.started.max_model_len
            yield (
                f"the cache of {_gib(cache)} holds no request of max_model_len={length:,}, which takes "
                f"{_gib(self.sequence_bytes(length))}; the longest that fits has {self.longest():,} tokens"
            )

    def _step_refusals(self) -> Iterator[str]:
        """Why the framework does not take limits that do not fit each other."""
        started = self.started
        budget = started.max_num_batched_tokens
        if not self.framework.scheduler.checks_step:
            return
        if not started.chunked_prefill and budget < started.max_model_len:
            yield (
                f"max_num_batched_tokens={budget:,} is less than max_model_len={started.max_model_len:,}, and prompts "
                "are not cut (chunked prefill is off)"
            )
        if budget < started.max_num_seqs:
            yield f"max_num_batched_tokens={budget:,} is less than max_num_seqs={started.max_num_seqs:,}"

    def notes(self, catalogue: Catalogue, fails: bool) -> Iterator[str]:
        """What a reader should know, empty texts among it."""
        yield self.framework.told(("memory", "defaults"))
        yield self.started.told(self.framework, self.gpu)
        yield self.framework.told_of_weights(self.loaded.precision, self.gpu)
        yield self.taken
        if int(self.layouts.pp[0]) > 1:
            last = float(self.parts("first").kv_bytes[0]) - self.cache
            yield f"bytes are of the first stage; tokens are of the last, which samples and has {_gib(last)} less cache"
        admitted = self.started.max_model_len
        if not fails and admitted < self.longest():
            yield f"the engine admits requests of {admitted:,} tokens at most (max_model_len); longer ones would fit"
        if not fails and self.requests(admitted) < 1:
            yield f"requests of more than {self.longest():,} tokens do not fit into the cache, and are refused"
        if fails and not self.refused:
            found = [words for words, variant in self._ways_out(catalogue) if not any(variant.refusals())]
            yield f"it would start with {', or with '.join(found)}" if found else "no single option makes it start"

    def _ways_out(self, catalogue: Catalogue) -> Iterator[tuple[str, _Engine]]:
        """(one option changed, the engine with it), each a thing to try."""
        flags, started = self.framework.command.flags, self.started

        def recipe(**changes: Any) -> _Engine:
            return replace(self, started=replace(started, **changes))

        budget = started.max_num_batched_tokens
        if any(self._step_refusals()):
            least = max(started.max_num_seqs, 0 if started.chunked_prefill else started.max_model_len)
            yield f"{flags['max_tokens_per_step']} {least}", recipe(max_num_batched_tokens=least)
            if not started.chunked_prefill and budget >= started.max_num_seqs:
                yield f"{flags['max_model_len']} {budget}", recipe(max_model_len=budget)
        if (longest := self.longest()) and longest < started.max_model_len:
            yield f"{flags['max_model_len']} {longest}", recipe(max_model_len=longest)
        share, most = started.gpu_memory_utilization, 0.98
        shares = [round(each / 100, 2) for each in range(50, round(most * 100) + 1)]
        around = sorted((each for each in shares if each != share), key=lambda each: (each < share, abs(each - share)))
        fitting = _first(around, lambda each: recipe(gpu_memory_utilization=each))
        if fitting is not None:
            yield f"{flags['memory_fraction']} {fitting:g}", recipe(gpu_memory_utilization=fitting)
        sequences = _first(
            [each for each in (512, 256, 128, 64, 32) if each < started.max_num_seqs],
            lambda each: recipe(max_num_seqs=int(each)),
        )
        if sequences is not None:
            yield f"{flags['max_sequences']} {sequences:g}", recipe(max_num_seqs=int(sequences))
        precision = self.loaded.precision
        if precision.kv != "fp8":
            yield "an fp8 KV cache", replace(self, loaded=replace(self.loaded, precision=replace(precision, kv="fp8")))
        for tp in (2 * int(self.layouts.tp[0]) * 2**i for i in range(4)):
            row = dict(zip(DEGREES, self.layouts.row(0), strict=False)) | {"tp": tp, "ep": 1}
            row["moe_tp"] = tp * row["dp"] if self.model.is_moe else 1
            layouts = Layouts.of([tuple(row.values())])
            node = catalogue.default_node(self.gpu).gpus
            legal = refused_on_nodes(self.model, precision, self.framework, layouts, node)[0] is None
            wider = replace(self, layouts=layouts)
            if tp <= node and legal and not any(wider.refusals()):
                yield f"{flags['tp']} {tp}", wider
                return


def _first(values: list[float] | list[int], variant: Callable[[float], _Engine]) -> float | None:
    """The first value whose engine starts."""
    return next((each for each in values if not any(variant(each).refusals())), None)


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f} GiB"
