"""What an engine takes beyond its kernels, per framework, fitted to measured runs (``calibration.yaml``).

A step of a framework is modelled as

    T = effect(step) · (Σ factor(operation) · kernels(operation) + step + layers · layer) + sequences · sequence
    (with prompts: + prompt_step + layers · prompt_layer inside, an effect of its own, and no less than launches take)

and the time to the first token as what the steps give, plus the request's own way through the front end:

    front = effect(front) · (request + layers · expert_layer + tokens · token + others · queue) + busy · steps · TPOT

=========================== ==================================================================================
factor                      how far kernels overlap, fuse or fall short of what they take alone (0.6 to 1.7)
step, layer                 scheduler, launch and the gap between two steps (50 µs to 3 ms; up to 30 µs a layer)
sequence                    bookkeeping, detokenisation and output of a running sequence (0 to 100 µs)
sampled                     beside it where tokens are sampled: sorting for top-k and top-p (0 to 50 µs; H200: 15 to 18)
block_experts               a layer of experts with scaled blocks of fp8 on Hopper, before the release named (to 500 µs)
uneven_experts              power of the share by which the GPU with most experts to read exceeds the average, where
                            experts are spread whole (0 to 1.5; 0: kernels timed with even routing say it all)
slow_experts                log by which kernels that capabilities name exceed their rows without prompts (0 to 0.8)
early_launch                what a layer gains without prompts where kernels start before the last ended (0 to 30 µs)
prompt_step, prompt_layer   a step that no CUDA graph holds: launches (up to 4 ms; up to 120 µs a layer)
request, token, queue       what a lone request pays: HTTP, tokenisation; and what each other request adds (one process)
expert_layer                beside it, of models with experts whose kernels prompts launch singly (up to 2 ms a layer)
steps                       steps that a request waits for beside others: the one in progress, the one that is prepared,
                            the one that hands its token out, those until waiting requests are looked for (0 to 20;
                            where the interval of looking is told it is played, and these are not counted)
rank_steps                  with attention data parallelism: until every rank has a prompt (0 to 60), or half of the
                            time in which as many requests end: ranks · (1 + 1/2 + … + 1/ranks) · outputs ÷ users
=========================== ==================================================================================

Where a framework compiles or tunes kernels when their shapes first come (SGLang; TensorRT-LLM those of latent
attention's models), the first request of each client waits longer by ``first`` (0 to 6 s; on AMD ``first_on_amd``
times as long, 1 to 12). It is in the means of runs that begin with an engine just started, as those of the public
campaigns do, and in no median of theirs; engines of plans, and of rows that do not say otherwise, are warm.

Effects are logarithms, partially pooled: vendor and model (by shape) over all frameworks; generation, GPU type, model
in a precision and campaign within one; a trend of all releases; and over time a process that remembers half a year: a
release's offset is drawn to its neighbours'. Strangers are told half of the largest campaign's effects. Written by
``plan calibrate`` and ``python -m tests.benchmarks.silicon calibrate`` (the same code), which hold out models, GPU
types, laboratories and dates.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from costmodels.estimates import Floats, Ints
from costmodels.operations.registry import families
from profiles.hardware import Gpu
from profiles.shipped import shipped

Part = Literal["gemm", "attention_prefill", "attention_decode", "moe", "moe_prompts", "communication", "elementwise"]
LATENCIES = ("ttft", "tpot", "e2e")

MEMORY_DAYS = 180.0
"""In which the offset of a release is forgotten by 1 − 1/e."""

TREND_ORIGIN = dt.date(2025, 12, 17)
"""From which the trend of releases is counted."""

OTHER_LAYERS = 0.5
"""Of what a layer of the models with runs takes, what one of another model is taken to: theirs have most kernels."""

TREND_GOES_ON_DAYS = 90
"""After the last release with runs, that the trend is taken to go on for."""

IN_PROGRESS = 0.5  # of the step in progress, what a request that comes at random waits for; it is played
LOADS = (4.0, 32.0, 256.0)
"""Users at which the widths of intervals are known; between them by the logarithm, beyond as at the ends."""

MODEL_KINDS = ("dense", "experts")
"""Kinds of models, whose intervals differ: experts' kernels are further off, and more so where they are new."""

_NO_KERNELS = ("communication", "elementwise")  # have factors, too


class Spread(BaseModel):
    """The 80 % interval of log(measured ÷ predicted) on models and GPU types held out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float

    def scaled(self, factor: float) -> Spread:
        return Spread(low=factor * self.low, high=factor * self.high)

    def drifted(self, half_width: float) -> Spread:
        """Wider by an independent error of ``half_width`` (log, 80 %) on either side."""
        return Spread(low=-math.hypot(min(self.low, 0.0), half_width), high=math.hypot(max(self.high, 0.0), half_width))


class HalfWidths(BaseModel):
    """Half-widths (log, 80 %) of independent errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft: float = Field(default=0.0, ge=0)
    tpot: float = Field(default=0.0, ge=0)
    e2e: float = Field(default=0.0, ge=0)


class Spreads(BaseModel):
    """The 80 % intervals of each latency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft: Spread
    tpot: Spread
    e2e: Spread


class Effect(BaseModel):
    """On the logarithm of a step without prompts, of one with, and of the front end; ``layer_us`` is what each layer of
    a step takes beside that."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: float = 0.0
    prompts: float = 0.0
    front: float = 0.0
    layer_us: float = 0.0

    def __add__(self, other: Effect) -> Effect:
        return Effect(**{name: getattr(self, name) + getattr(other, name) for name in EFFECTS})

    def scaled(self, share: float) -> Effect:
        return Effect(**{name: share * getattr(self, name) for name in EFFECTS})


EFFECTS = tuple(Effect.model_fields)


class Dated(BaseModel):
    """What runs of a GPU type at one time say of their release, beside the effect of the type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    day: dt.date
    effect: Effect


class Effects(BaseModel):
    """What GPU types add to a framework's constants; ``releases``: by GPU type (AMD's by generation), ascending."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vendors: dict[str, Effect] = {}
    generations: dict[str, Effect] = {}
    gpus: dict[str, Effect] = {}
    releases: dict[str, tuple[Dated, ...]] = {}
    models: dict[str, Effect] = {}  # by shape and precision, by shape, and by attention
    layers_of: tuple[str, ...] = ()  # shapes of the models whose runs say what a layer takes
    trends: dict[str, Effect] = {}  # of MEMORY_DAYS, by vendor
    trend_until: dt.date | None = None

    def on(self, gpu: Gpu, day: dt.date | None, kind: str) -> Effect:
        """Of a GPU type at a release's day: its own, or its generation's and vendor's; the releases' is that of the
        neighbours, fading with the time between; and of a kind of model (:func:`model_kind`)."""
        return Effect(**dict(zip(EFFECTS, self.at((gpu.name, gpu.generation, gpu.vendor), day, kind), strict=True)))

    def at(self, gpu: tuple[str, str, str], day: dt.date | None, kind: str) -> tuple[float, ...]:
        """The same by names (GPU type, generation, vendor)."""
        found = self.on_type(*gpu) + self.released(gpu[:2], day) + self.of_model(kind) + self._drift(gpu[2], day)
        share = 1.0 if not self.layers_of or kind.partition(" ")[0] in self.layers_of else OTHER_LAYERS
        return found.step, found.prompts, found.front, share * found.layer_us

    def of_model(self, kind: str) -> Effect:
        """A kind of model's own, or its architecture's in other precisions, or that of models with its attention."""
        own, _, attention = kind.rpartition(" ")
        known = (self.models.get(each) for each in (own, own.partition(" ")[0], attention))
        return next((each for each in known if each is not None), Effect())

    def on_type(self, gpu: str, generation: str, vendor: str) -> Effect:
        """Of a GPU type under any release."""
        if gpu in self.gpus:
            return self.gpus[gpu]
        return self.generations.get(generation, Effect()) + self.vendors.get(vendor, Effect())

    @property
    def days(self) -> list[dt.date]:
        """Of the releases that runs are of."""
        return [each.day for dated in self.releases.values() for each in dated]

    def released(self, gpu: tuple[str, str], day: dt.date | None) -> Effect:
        """Of a release, on a GPU type or on its generation (names)."""
        dated = next((self.releases[name] for name in gpu if name in self.releases), ())
        if day is None or not dated:
            return Effect()
        away = [(day - each.day).days for each in dated]
        before = max((i for i, days in enumerate(away) if days >= 0), default=0)
        after = min(before + (away[before] > 0), len(dated) - 1)
        span = (dated[after].day - dated[before].day).days
        if span > 0:
            share = min(max(away[before] / span, 0.0), 1.0)
            return dated[before].effect.scaled(1 - share) + dated[after].effect.scaled(share)
        return dated[before].effect.scaled(math.exp(-abs(away[before]) / MEMORY_DAYS))

    def _drift(self, vendor: str, day: dt.date | None) -> Effect:
        """How far the trend has come at a release of ``day`` (None: of the last day that it holds for)."""
        if self.trend_until is None:
            return Effect()
        until = self.trend_until if day is None else min(day, self.trend_until)
        return self.trends.get(vendor, Effect()).scaled((until - TREND_ORIGIN).days / MEMORY_DAYS)


def model_kind(layers: int, hidden: int, precision: str, attention: str) -> str:
    """What models have in common whose kernels are off together: shape, precision (of weights) and attention."""
    return f"{layers}x{hidden} {precision} {attention}"


@dataclass(frozen=True)
class Slow:
    """Whether a model has experts in scaled blocks of fp8 that the release is slow with, and kernels compiled when
    their shapes first come; what steps that draft take more where attention is data parallel, each running sequence and
    prompts that first fill a step, µs; whether it has experts; layers whose kernels prompts launch singly, and how
    long that takes, µs; whether kernels of steps without prompts start before the last has ended."""

    block_experts: bool = False
    compiled: bool = False
    drafting_us: float = 0.0
    sequence_us: float = 0.0
    full_us: float = 0.0
    experts: bool = False
    launched: int = 0
    launching_us: float = 0.0
    launched_early: bool = False

    @property
    def kind(self) -> str:
        """Of the model, of :data:`MODEL_KINDS`."""
        return "experts" if self.experts else "dense"


class Calibration(BaseModel):
    """Constants of one framework; the module's docstring has the formulas. Times in µs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factors: dict[Part, float]
    step_us: float
    step_us_per_layer: float
    step_us_per_sequence: float = Field(ge=0)
    prompt_step_us: float = Field(ge=0)
    prompt_step_us_per_layer: float = Field(ge=0)
    request_us: float = Field(ge=0)
    request_us_per_expert_layer: float = Field(default=0.0, ge=0)
    request_us_per_token: float = Field(ge=0)
    request_us_per_concurrent: float = Field(ge=0)
    request_steps: float = Field(ge=0)
    rank_steps: float = Field(default=0.0, ge=0)
    sampled_us_per_sequence: float = Field(default=0.0, ge=0)
    block_experts_us_per_layer: float = Field(default=0.0, ge=0)
    uneven_experts: float = Field(default=0.0, ge=0)
    slow_experts: float = Field(default=0.0, ge=0)
    early_launch_us_per_layer: float = Field(default=0.0, ge=0)
    first_us: float = Field(default=0.0, ge=0)
    first_on_amd: float = Field(default=1.0, ge=1)
    first_full_us: float = 0.0  # resolved: of the release (its capabilities), in no fit, as
    drafting_us: float = 0.0
    launching_us: float = 0.0
    effect: Effect = Effect()  # that holds, of those below
    effects: Effects = Effects()
    acceptance: float = Field(ge=0, lt=1)  # of each drafted token, all of which steps verify, given those before it
    ttft: Spread
    tpot: Spread
    e2e: Spread
    front: Spread = Spread(low=0.0, high=0.0)  # of the front end where steps are at that end of theirs
    at_load: dict[str, tuple[float, ...]] = {}  # by latency: factors of its interval at LOADS users
    on_gpus: dict[str, Spreads] = {}  # those of GPU types with runs of their own
    unknown_gpu: HalfWidths = HalfWidths()  # half-widths (log) that a GPU type without runs adds, independently
    unknown_model: HalfWidths = HalfWidths()
    of_kind: dict[str, tuple[float, ...]] = {}  # by latency: factors of its interval for MODEL_KINDS
    unknown_of_kind: dict[str, dict[Literal["gpu", "model"], HalfWidths]] = {}  # in the place of those two, by kind
    models: tuple[str, ...] = ()  # architectures with runs
    met: bool = False  # resolved: the GPU type and the model both have runs, so that these say what there is to say
    doubtful: tuple[str, ...] = ()  # latencies of own runs left out that are predicted worse with these than before
    rows: int  # distinct measurements behind the constants
    fitted_on: str
    date: str

    def spread_at(self, latency: str, users: Floats) -> tuple[Floats, Floats]:
        """(low, high) of log(measured ÷ predicted) of a latency at so many ``users`` of the engine, shape [n] each."""
        spread: Spread = getattr(self, latency)
        factors = self.at_load.get(latency, (1.0,) * len(LOADS))
        factor = np.interp(np.log(np.maximum(users, 1.0)), np.log(LOADS), factors)
        return factor * spread.low, factor * spread.high

    @property
    def front_ends(self) -> dict[Literal["value", "low", "high"], float]:
        """What the front end is multiplied by at each end of its interval. Between a TTFT with quick steps and a quick
        front end and one with slow ones lie as many runs as between the ends of an interval."""
        return {"value": 1.0, "low": math.exp(min(self.front.low, 0.0)), "high": math.exp(max(self.front.high, 0.0))}

    def widened(self, widths: HalfWidths) -> Calibration:
        """The same constants, less sure by ``widths``."""
        return self.model_copy(update={name: getattr(self, name).drifted(getattr(widths, name)) for name in LATENCIES})

    def resolved(
        self, gpu: Gpu, day: dt.date | None, model: str, kind: str, *, greedy: bool, slow: Slow
    ) -> Calibration:
        """As it holds for a model on a GPU type under a release.

        Args:
            day: of the release.
            kind: of the model (:func:`model_kind`).
            greedy: whether tokens are chosen without sampling.
            slow: with what of the model the framework takes longer.
        """
        own = self.on_gpus.get(gpu.name)
        out = self if own is None else self.model_copy(update={name: getattr(own, name) for name in LATENCIES})
        at = MODEL_KINDS.index(slow.kind)
        kinds = {name: getattr(out, name).scaled(factors[at]) for name, factors in self.of_kind.items()}
        out = out.model_copy(update=kinds)
        unknown = self.unknown_of_kind.get(slow.kind, {})
        if self.rows and gpu.name not in self.on_gpus:
            out = out.widened(unknown.get("gpu", self.unknown_gpu))
        if self.rows and model not in self.models:
            out = out.widened(unknown.get("model", self.unknown_model))
        effect = self.effects.on(gpu, day, kind)
        if gpu.name not in self.effects.gpus and gpu.lasting_load is not None:  # of others, runs say it
            effect = effect + Effect(prompts=math.log(gpu.lasting_load.factor))
        sampled = 0.0 if greedy else self.sampled_us_per_sequence
        blocks = self.block_experts_us_per_layer if slow.block_experts else 0.0
        first_us = self.first_us * (self.first_on_amd if gpu.vendor == "amd" else 1.0)
        return out.model_copy(
            update={
                "effect": effect,
                "met": gpu.name in self.on_gpus and model in self.models,
                "drafting_us": slow.drafting_us,
                "launching_us": slow.launching_us,
                "early_launch_us_per_layer": self.early_launch_us_per_layer if slow.launched_early else 0.0,
                "first_full_us": slow.full_us,
                "first_us": first_us if slow.compiled else 0.0,
                "step_us_per_sequence": self.step_us_per_sequence + sampled + slow.sequence_us,
                "step_us_per_layer": self.step_us_per_layer + blocks,
                "request_us": self.request_us + self.request_us_per_expert_layer * slow.launched,
            }
        )

    def scale(self, prompts: Ints) -> Floats:
        """What the effect multiplies steps with so many ``prompts`` by, shape [n]."""
        return np.exp(np.where(np.asarray(prompts) > 0, self.effect.prompts, self.effect.step))

    def factor(self, operation: str, prompts: Ints) -> Floats:
        """By how much the kernels of ``operation`` (or ``communication``, ``elementwise``) are multiplied in steps
        with so many ``prompts``, shape [n]. Experts have a factor of their own in steps with prompts."""
        part = operation if operation in _NO_KERNELS else families().kernel(operation).factor
        if not part:
            return np.ones(len(prompts))
        plain = np.full(len(prompts), self.factors[part], np.float64)  # type: ignore[index]
        if part == "moe":
            plain = np.where(prompts > 0, self.factors["moe_prompts"], plain)
        return np.asarray(plain * self.scale(prompts))

    def host_us(self, layers: Floats | int, sequences: Ints, prompts: Ints) -> Floats:
        """The host's share of each step, shape [n]; at least zero."""
        plain = self.step_us + layers * self.step_us_per_layer
        first = np.where(np.asarray(prompts) > 0, self.prompt_step_us + layers * self.prompt_step_us_per_layer, 0.0)
        own = self.scale(prompts) * (plain + first)
        return np.maximum(own + self.beside_us(layers, sequences), 0.0)

    def beside_us(self, layers: Floats | int, sequences: Ints) -> Floats:
        """What of it comes beside launching the kernels of a step, shape [n]."""
        return np.asarray(layers * self.effect.layer_us + sequences * self.step_us_per_sequence)

    def front_us(
        self,
        prompt_tokens: Floats,
        concurrency: Floats,
        tpot_us: Floats,
        ranks: Ints | int = 1,
        outputs: Floats | float = math.inf,
        polled: NDArray[np.bool_] | bool = False,
        coming_per_us: Floats | None = None,
    ) -> Floats:
        """What a request waits outside the engine's steps, shape [n].

        Users who all ask again ask at the end of a step, and at first all at once: each finds the others' requests in
        the front end. Of requests that come at random only those are there that come while it is on its way through
        (Little's law), and the step in progress, of which it waits for half, is played.

        Args:
            ranks: attention ranks.
            outputs: mean tokens of an output.
            polled: whether the wait for the engine to look for requests is counted elsewhere.
            coming_per_us: requests that come at random, [n]; None: of ``concurrency`` users.
        """
        others = np.maximum(concurrency - 1, 0.0)
        busy = others / np.maximum(concurrency, 1.0)
        gathered = np.minimum(self.rank_steps, steps_to_gather(ranks, concurrency, outputs))
        own = math.exp(self.effect.front) * (self.request_us + self.request_us_per_token * prompt_tokens)
        there, played = (
            (others, 0.0) if coming_per_us is None else (np.minimum(coming_per_us * own, others), IN_PROGRESS)
        )
        own = own + math.exp(self.effect.front) * self.request_us_per_concurrent * there
        steps = np.where(polled, 0.0, max(self.request_steps - played, 0.0) * busy)
        return np.asarray(own + (steps + np.where(np.asarray(ranks) > 1, gathered, 0.0)) * tpot_us)


def steps_to_gather(ranks: Ints | int, concurrency: Floats, outputs: Floats | float) -> Floats:
    """Steps that a request waits on average until others have ended, and new ones come, for all attention ranks."""
    each = np.maximum(np.asarray(ranks, np.float64), 1.0)
    harmonic = np.log(each) + 0.5772 + 1 / (2 * each)
    return np.asarray(0.5 * each * harmonic * outputs / np.maximum(concurrency, 1.0))


NOTHING = Spread(low=0.0, high=0.0)

NEUTRAL = Calibration(
    factors=dict.fromkeys(get_args(Part), 1.0),
    step_us=0,
    step_us_per_layer=0,
    step_us_per_sequence=0,
    prompt_step_us=0,
    prompt_step_us_per_layer=0,
    request_us=0,
    request_us_per_token=0,
    request_us_per_concurrent=0,
    request_steps=0,
    acceptance=0,
    ttft=NOTHING,
    tpot=NOTHING,
    e2e=NOTHING,
    rows=0,
    fitted_on="nothing: kernels alone",
    date="",
)
"""The kernels alone: what constants are fitted on top of."""


def calibrations(folder: Path) -> dict[str, Calibration]:
    """By framework, as ``calibration.yaml`` in ``folder`` has them.

    Raises:
        DataError: the file is broken.
    """
    return shipped(
        folder / "calibration.yaml",
        lambda document: {name: Calibration(**fields) for name, fields in document.items()},
    )
