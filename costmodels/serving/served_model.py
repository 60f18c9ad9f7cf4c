"""The noun that predictions of serving are asked about: a model in a precision, on GPUs with their network, under a
framework. Where engines of it are laid out, and what they are asked to serve, comes as arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costmodels.arrays import concatenate_rows, take_rows
from costmodels.estimates import Floats, Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.kernel_models import ROOFLINE_TOLD
from costmodels.kernels.timed_beside import ProductsAlone
from costmodels.models.architecture import Architecture
from costmodels.models.images import EncodedImage
from costmodels.models.precision import Precision
from costmodels.operations.encoder import ask_images
from costmodels.operations.exchanges import OVERLAPS
from costmodels.operations.layouts import DEGREES, Layouts
from costmodels.operations.questions import Batch, LayerStep, Split
from costmodels.power.own_response import response_of
from costmodels.power.response import ClockResponse
from costmodels.power.state import OperatingState
from costmodels.serving.clocked import at_state
from costmodels.serving.frameworks.calibration import Calibration, Slow, model_kind
from costmodels.serving.frameworks.framework import Framework
from costmodels.serving.frameworks.own_calibration import calibration_in
from costmodels.serving.memory import Loaded, Memory, StepLimits, engine_memory
from costmodels.serving.step import StepTimes, step_times
from costmodels.step.communication import Network
from costmodels.step.memory import kv_bytes_per_sequence, state_bytes_per_sequence
from costmodels.step.operators import step_work
from profiles.hardware import Gpu

GEMM_PARTS = ("dense", "attention_qkv", "attention_output", "shared_experts")
"""Parts of a model whose products are plain ones."""

_STOOD_IN: dict[str, tuple[str, ...]] = {"moe": ("experts",), "gemm": GEMM_PARTS}
"""Operations that other rows may speak for, and the parts of a model whose precision decides."""


@dataclass(frozen=True)
class PromptImages:
    """Images in every prompt: ``per_token`` of them for each of its tokens, theirs included. An engine encodes an image
    before the chunk that holds it, and one in the prefix cache not at all: so many come with every computed token."""

    image: EncodedImage
    per_token: float


@dataclass(frozen=True)
class ServedModel:
    """A model in a precision on GPUs of one type under one framework.

    Attributes:
        cost: the kernels' times on the GPU type under the framework.
        network: what the GPUs of an engine communicate over.
        images: that its prompts hold.
        drafting: whether its own draft module is loaded, too.
        greedy: whether tokens are chosen without sampling.
        state: clock and power limit of its GPUs; None: as the driver has them.
        busier: of layouts whose experts an all-to-all reaches, [n]: the busiest GPU's load ÷ that which the rows that
            answer for their balance have; None: as those.
    """

    model: Architecture
    precision: Precision
    framework: Framework
    cost: CostModel
    network: Network
    images: PromptImages | None = None
    drafting: bool = False
    greedy: bool = False
    state: OperatingState | None = None
    busier: Callable[[Layouts], Floats] | None = None

    @cached_property
    def own_calibration(self) -> Calibration | None:
        """What the reader's own runs taught of its framework, where a store has some."""
        return calibration_in([store.path for store in self.cost.measured], self.framework.name)

    @cached_property
    def calibration(self) -> Calibration:
        """What engines of it take beyond their kernels."""
        known, day = self.own_calibration or self.framework.fitted, self.framework.nearest.date
        if day is not None:  # the trend of releases is not followed back beyond those that runs are of
            day = max(day, min(known.effects.days, default=day))
        resolved = known.resolved(self.gpu, day, self.model.name, self.kind, greedy=self.greedy, slow=self.slow)
        return self.framework.less_sure(resolved, self.gpu.vendor)

    @cached_property
    def response(self) -> ClockResponse:
        """How its steps answer to the clock."""
        return response_of(self.gpu.name, [store.path for store in self.cost.measured])

    @property
    def kind(self) -> str:
        """Of the model, as effects of models are known by."""
        return model_kind(self.model.layers, self.model.hidden, self.precision.weights, self.model.attention_family)

    @property
    def slow(self) -> Slow:
        """With what of it the framework takes longer."""
        can = self.framework.capabilities
        slow = can.slow_fp8_block_experts
        blocks = (
            slow is not None
            and self.model.is_moe
            and self.precision.of("experts") == "fp8_block"
            and self.gpu.generation == slow.generation
            and self.framework.release.older_than(slow.before)
        )
        compiled = {"all": True, "latent_attention": self.model.is_latent, "none": False}[can.compiles_at_first]
        drafting, one, release = can.unhidden_drafting, can.one_process, self.framework.release
        tuned = can.tuned_first
        launched, launching_us = (
            can.launched_singly.layers_and_us(release, self.gpu, self.model.layers, self.model.state_layers)
            if can.launched_singly is not None and self.model.is_moe
            else (0, 0.0)
        )
        return Slow(
            blocks,
            compiled,
            drafting.step_us if drafting is not None and drafting.holds_at(release) else 0.0,
            one.us_per_sequence if one is not None and release.older_than(one.before) else 0.0,
            tuned.wait_us(release, self.gpu, self.precision.weights) if tuned is not None else 0.0,
            self.model.is_moe,
            launched,
            launching_us,
            can.launched_early(self.gpu, self.model.model_type) is not None,
        )

    @property
    def early_launch(self) -> str:
        """The variable that must be set for kernels to start before the last has ended; "": none."""
        early = self.framework.capabilities.launched_early(self.gpu, self.model.model_type)
        return early.variable if early and early.holds_at(self.framework.release) else ""

    def slow_experts(self, layouts: Layouts) -> NDArray[np.bool_]:
        """Of which layouts experts take longer than their rows say, [n]: of those that share them out whole, or gather
        tokens for them; an all-to-all has rows of its own."""
        can, release, experts = self.framework.capabilities, self.framework.release, self.precision.of("experts")
        one, many = (
            any(each.holds(self.gpu, experts, release, replicas=replicas) for each in can.slow_experts)
            for replicas in (False, True)
        )
        return np.asarray(np.where(layouts.dp > 1, many, one & (layouts.ep > 1)) & ~layouts.wide)

    @property
    def gpu(self) -> Gpu:
        return self.cost.gpu

    @property
    def loaded(self) -> Loaded:
        """What engines of it load."""
        return Loaded(self.model, self.precision, self.framework, self.gpu, self.drafting)

    @cached_property
    def unmeasured(self) -> tuple[str, ...]:
        """Operations of its steps that no GPU has rows of: the roofline answers for them."""
        one = np.ones(1, np.int64)
        layout, batch = Layouts.of([(1,) * len(DEGREES)]), Batch(one, one, one, one, one, expert_tokens=np.full(1, 2.0))
        asked = step_work(self.model, self.precision, layout, batch, "balanced").asked
        return tuple(operation for operation in asked if not self.cost.is_measured(operation))

    @cached_property
    def _told_apart(self) -> bool:
        """Whether engines with several attention replicas run other kernels than those with one."""
        of = self.precision.of
        return any(
            self.framework.stand_in(name, self.gpu, of(parts[0]), replicas=False)
            is not self.framework.stand_in(name, self.gpu, of(parts[0]), replicas=True)
            for name, parts in _STOOD_IN.items()
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What its users should know: what the reader of its config says, and kernels that nobody measured."""
        bare = self.unmeasured
        told = (f"{' and '.join(bare)}: measured on no GPU; {ROOFLINE_TOLD}",) if bare else ()
        return (*self.model.notes, *told)

    def step(
        self, layouts: Layouts, batch: Batch, routing: str, *, calibration: Calibration | None = None
    ) -> StepTimes:
        """Times of one step of each of ``n`` candidates (``layouts`` and ``batch`` row by row), µs.

        Args:
            routing: how tokens spread over experts.
            calibration: in place of the framework's own (to fit one).
        """
        many = layouts.dp > 1
        if many.any() and not many.all() and self._told_apart:
            rows = [np.flatnonzero(~many), np.flatnonzero(many)]
            apart = [
                self.step(layouts.take(each), take_rows(batch, each), routing, calibration=calibration) for each in rows
            ]
            return concatenate_rows(apart, rows)
        precision, of_busiest = self.precision, False
        row_sources: dict[str, CostModel | ProductsAlone] = {}
        for operation, parts in _STOOD_IN.items():
            entry = self.framework.stand_in(operation, self.gpu, precision.of(parts[0]), replicas=bool(many.any()))
            if entry is not None:
                same = {part: entry.measured_as for part in parts if precision.of(part) == entry.precision}
                precision = replace(precision, **same)  # type: ignore[arg-type]
                answering = self.cost.under(entry.measured_under)
                beside = entry.beside
                row_sources[operation] = (
                    answering
                    if beside is None
                    else ProductsAlone(answering, beside.launch_us, beside.bytes_per_element)
                )
                of_busiest |= entry.of_busiest
        if self.busier is not None and layouts.wide.any():
            batch = replace(batch, expert_tokens=batch.expert_tokens * self.busier(layouts))
        overlapping = layouts.overlap == OVERLAPS.index("two_batch")
        if overlapping.any():
            batch = batch.halved(overlapping)
        work = step_work(self.model, precision, layouts, batch, routing)
        if (gathered := self.framework.capabilities.gathers_in.get(precision.of("experts"))) is not None:
            work.gathered_in(gathered)
        work.slow_experts = self.slow_experts(layouts)
        if of_busiest:
            work.uneven[:] = 0.0
        if self.images is not None and self.model.vision is not None:
            encoding = LayerStep(Split(self.model.hidden, precision, layouts), batch, routing, work)
            count = (batch.prefills * batch.chunk).astype(np.float64) * self.images.per_token
            ask_images(encoding, self.model.vision, self.images.image, count)
        calibration = calibration or self.calibration
        if self.gpu.vendor == "nvidia":
            work.beside_tokens = self.framework.capabilities.shared_experts_beside
        times = step_times(self.model, work, layouts, batch, self.cost, row_sources, self.network, calibration)
        return times if self.state is None else at_state(times, self.gpu, self.state, self.response)

    def memory(
        self,
        layouts: Layouts,
        token_budget: Ints,
        *,
        memory_fraction: Floats | float | None = None,
        sequences: Ints | int | None = None,
    ) -> Memory:
        """Where the memory of each layout's fullest GPU goes, bytes, [n].

        Args:
            token_budget: most tokens in one step, shape [n].
            memory_fraction: share of the GPU that the framework may use (None: its default).
            sequences: most in one step (None: as many as plans allow engines of the framework).
        """
        limits = self.framework.limits
        asked = StepLimits(
            token_budget,
            limits.max_sequences if sequences is None else sequences,
            limits.memory_fraction if memory_fraction is None else memory_fraction,
        )
        return engine_memory(self.loaded, layouts, asked)

    def kv_bytes(self, layouts: Layouts, tokens: Floats | float) -> Floats:
        """KV cache of one sequence of ``tokens`` tokens on each layout's fullest GPU, bytes, [n]."""
        return kv_bytes_per_sequence(self.model, self.precision, layouts, tokens, drafting=self.drafting)

    def kv_bytes_per_token(self, layouts: Layouts, tokens: int) -> Floats:
        """The same ÷ ``tokens``: windows and states make long sequences cheaper by the token, bytes, [n]."""
        return np.asarray(self.kv_bytes(layouts, tokens) / tokens)

    def state_bytes(self, layouts: Layouts) -> float:
        """What is kept of a sequence on a GPU of the first of ``layouts``, where that is the same whatever its length;
        0 where it grows."""
        return float(state_bytes_per_sequence(self.model, self.precision, layouts, drafting=self.drafting)[0])

    def cache_tokens(
        self,
        layouts: Layouts,
        token_budget: Ints,
        tokens: int,
        *,
        memory_fraction: float | None = None,
        sequences: Ints | int | None = None,
    ) -> Floats:
        """Tokens of cache of each attention rank, where sequences have ``tokens`` tokens, [n]; ≤ 0: no room.

        Args:
            token_budget, memory_fraction, sequences: as of :meth:`memory`.
        """
        parts = self.memory(layouts, token_budget, memory_fraction=memory_fraction, sequences=sequences)
        return np.asarray(parts.kv_bytes / self.kv_bytes_per_token(layouts, tokens))
