"""What is known of a serving framework, part by part; its YAML file has the values and sources."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from costmodels.serving.frameworks.history import Release
from profiles.hardware import Gpu


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Facts):
    """Batch limits and memory with which the planner starts engines."""

    token_budgets: tuple[int, ...] = Field(min_length=1)  # most tokens in one step: values the planner tries
    max_sequences: int = Field(gt=0)
    memory_fraction: float = Field(gt=0, le=1)
    max_model_len: int | None = None  # longest sequence that engines admit; None: as long as the workload's


EngineRole = Literal["aggregated", "prefill", "decode"]


class ExchangeWay(Facts):
    """A way in which tokens reach their experts, as the framework has it.

    Attributes:
        backend: its own word; ``mode``: the one beside it, where there is one; ``also``: its earlier ones.
        since: the first release that has it, or may (the one after the last that is known not to); "": all have.
        roles: of engines that run it; ``usual``: that run it when nothing is said, from ``usual_from`` GPUs on, on
            GPUs of ``usual_capability`` or more, of which a node or NVLink domain has ``usual_domain`` or more.
        vendors, from_capability: of GPUs on which it runs.
        across: kinds of fabric over which it works beyond one node (or NVLink domain); none: within one alone.
        attention_dp: whether it needs attention data parallelism.
        above_top_k: whether fewer GPUs than experts per token gather instead.
        before: the first release that has it no more; "": all have.
        overlaps: what may hide it; None: all that the framework has.
    """

    backend: str
    mode: str = ""
    also: tuple[str, ...] = ()
    since: str = ""
    roles: tuple[EngineRole, ...]
    usual: tuple[EngineRole, ...] = ()
    usual_from: int = 8
    usual_capability: float = 0.0
    usual_domain: int = 0
    vendors: tuple[str, ...] = ("nvidia",)
    from_capability: float = 9.0
    across: tuple[str, ...] = ("infiniband", "roce", "efa")
    attention_dp: bool = False
    above_top_k: bool = False
    before: str = ""
    overlaps: tuple[str, ...] | None = None

    def runs_on(self, gpu: Gpu) -> bool:
        fast = gpu.compute_capability is None or gpu.compute_capability >= self.from_capability
        return gpu.vendor in self.vendors and (fast or gpu.vendor != "nvidia")


class Parallelism(Facts):
    """Which layouts the framework has words for, and where it puts their ranks.

    Attributes:
        expert_splits: whether experts are shared out over all GPUs of a stage or none, or any divisor of them.
        tensor_and_data_parallel_attention: whether attention replicas may have several GPUs each.
        scatters_attention_replicas: whether the attention replicas of a stage lie pipeline stages apart, so that they
            are on more nodes than they fill.
        group_holds_replicas: whether its own words for tensor parallelism count all GPUs of the attention replicas.
        exchanges: by our name (``costmodels/operations/exchanges.yaml``), how tokens may reach their experts other than
            that all ranks gather them all; each needs the experts shared out over the whole group, as all of them do.
        unpriced: exchanges that it has and that are refused, by its own word: why.
        overlaps: what may hide an exchange.
        copies_need_balancer: whether copies of experts are refused without a balancer.
        dispatch_tokens: most tokens of a GPU that low-latency buffers are made for: when nothing is said, and at most.
        buffers_of_step_from: the first release that makes them for as many tokens as a step may have; "": none does.
        whole_experts: types of models whose experts are shared out over all GPUs of a stage or none, though those of
            others need not be.
        no_exchange: types of models whose experts no exchange reaches: all ranks gather.
        drafts_in_stages: whether engines that answer draft where they have several pipeline stages.
    """

    expert_splits: Literal["all_or_nothing", "any"]
    tensor_and_data_parallel_attention: bool
    scatters_attention_replicas: bool
    group_holds_replicas: bool = False
    exchanges: dict[str, ExchangeWay] = {}
    unpriced: dict[str, str] = {}
    overlaps: tuple[str, ...] = ()
    copies_need_balancer: bool = False
    dispatch_tokens: tuple[int, int] = (128, 1024)
    buffers_of_step_from: str = ""
    whole_experts: tuple[str, ...] = ()
    no_exchange: tuple[str, ...] = ()
    drafts_in_stages: bool = True

    def exchanges_called(self, word: str) -> list[str]:
        """Our names of what it, or we, call ``word`` (several: a backend with modes of its own for each role)."""
        if word in self.exchanges:
            return [word]
        return [name for name, each in self.exchanges.items() if word in (each.backend.casefold(), *each.also)]

    def overlaps_of(self, exchange: str) -> tuple[str, ...]:
        """What may hide an exchange."""
        own = self.exchanges[exchange].overlaps
        return self.overlaps if own is None else own

    def usual_exchanges(self, role: EngineRole, gpu: Gpu, gpus: int, domain: int) -> Iterator[str]:
        """What engines of ``role`` that share experts out over ``gpus`` of a type, ``domain`` of them in a node, take
        when nothing is said: the first that reaches; where there is none, they gather."""
        for name, each in self.exchanges.items():
            new = (gpu.compute_capability or each.usual_capability) >= each.usual_capability
            enough = gpus >= each.usual_from and domain >= each.usual_domain
            if role in each.usual and enough and new and each.runs_on(gpu):
                yield name


class SlowExperts(Facts):
    """Experts whose layers take a constant more (``block_experts_us_per_layer`` of the calibration)."""

    generation: str  # of GPUs
    before: str  # the first release that does without


class OneProcess(Facts):
    """Releases whose scheduler, detokenizer and output share a process and a thread with the steps."""

    before: str  # the first release that does without
    us_per_sequence: float = Field(ge=0)  # of a step, for each running sequence, beside the calibration's


class Reach(Facts):
    """In which releases and on which GPUs something holds."""

    from_capability: float = 0.0  # CUDA compute capability from which it holds
    below_capability: float | None = None  # … and below which
    from_release: str = ""  # of the framework, from which it holds; "": all
    before_release: str = ""  # … and before which

    def holds_at(self, release: Release) -> bool:
        early = self.from_release and release.older_than(self.from_release)
        late = self.before_release and not release.older_than(self.before_release)
        return not (early or late)

    def holds_on(self, gpu: Gpu) -> bool:
        capability = gpu.compute_capability or 0.0
        if self.below_capability is not None and not 0 < capability < self.below_capability:
            return False
        return capability >= self.from_capability


class UnhiddenDrafting(Reach):
    """Releases in which the host draws up a step that drafts while the GPUs wait, and attention is data parallel."""

    step_us: float = Field(gt=0)  # what each step takes more


class TunedFirst(Reach):
    """Releases that tune kernels when prompts first fill a step's budget, so that all who sent them wait."""

    wait_s: dict[str, float]  # by precision of weights

    def wait_us(self, release: Release, gpu: Gpu, weights: str) -> float:
        """What they wait under a release, on a GPU, for a model in a precision; 0: nothing."""
        return 1e6 * self.wait_s.get(weights, 0.0) if self.holds_at(release) and self.holds_on(gpu) else 0.0


class LaunchedSingly(Facts):
    """Steps with prompts of models with experts whose kernels the host launches one by one, outside of any graph.

    A layer that keeps a state (gated delta networks) counts as :attr:`states_count`: it has more, and smaller, kernels.
    """

    graphs_from: dict[str, str]  # by vendor of GPUs, the first release whose graphs hold them
    states_count: float = Field(ge=1)
    host_us: dict[str, float]  # by vendor, how long the host takes for a layer at least

    def layers_and_us(self, release: Release, gpu: Gpu, layers: int, states: int) -> tuple[int, float]:
        """Layers launched so, of ``layers`` of which some keep ``states``, and the least that a step with prompts takes
        for it, µs."""
        graphs = self.graphs_from.get(gpu.vendor)
        held = graphs is not None and not release.older_than(graphs)
        counted = 0 if held else round(layers + (self.states_count - 1) * states)
        return counted, counted * self.host_us.get(gpu.vendor, 0.0)


class EarlyLaunch(Reach):
    """Kernels that start before the last has ended (programmatic dependent launch): of models whose guide sets a
    variable of the environment, in the releases where that has to be set."""

    variable: str
    model_types: frozenset[str]


class ExpertsIn(Reach):
    """Experts in a precision."""

    precision: str
    attention_replicas: Literal["one", "many", "any"] = "any"

    def holds(self, gpu: Gpu, precision: str, release: Release, *, replicas: bool) -> bool:
        alike = self.precision == precision and self.attention_replicas in ("any", "many" if replicas else "one")
        return alike and self.holds_at(release) and self.holds_on(gpu)


class ExpertBackend(ExpertsIn):
    """Which of its kernels for experts an engine must be told to run: those that its rows, or a stand-in's, are of."""

    backend: str


class Capabilities(Facts):
    """What the framework runs, and on which GPUs.

    Attributes:
        vendors: whose GPUs (``other``: CPUs that a user describes).
        least_cuda_capability: CUDA compute capability from which it runs.
        precisions: of checkpoints that it loads, or makes while loading.
        caches: by type of model, the precisions in which the KV cache of such models can be kept, the default first.
        own_caches: by what wrote a checkpoint, the formats of the KV cache that it may ask for and gets where nothing
            else is said (format of :class:`costmodels.models.architecture.CacheScheme`).
        sparse_caches_in_8_bits_from: CUDA compute capability from which models with sparse attention get 8 bits where
            nothing is said; None: nowhere.
        shared_experts_beside: tokens of a step up to which, in CUDA graphs on NVIDIA's GPUs, shared experts run in a
            stream beside routed ones; 0: after them.
        expert_backends: kernels for experts that its command names, the first that holds; none: its own choice.
        compiles_at_first: models of which kernels are compiled or tuned when their shapes first come (``first`` of the
            calibration).
        launched_singly: of models with experts, kernels launched one by one for prompts; None: graphs hold them.
        unhidden_drafting: what steps that draft take more where the host is not hidden; None: it is, or nobody knows.
        tuned_first: what prompts that first fill a step wait for; None: nothing beside that.
        slow_experts: whose kernels take longer in steps without prompts than their rows say.
        early_launch: kernels that start before the last has ended; None: none.
        gathers_in: by precision of experts, bytes of an element in which attention ranks gather tokens; else 16 bits.
        weight_only: of these, weights that a GPU without tensor cores for them multiplies in 16 bits, and the CUDA
            compute capability from which the framework has kernels for that.
    """

    vendors: frozenset[Literal["nvidia", "amd", "intel", "other"]]
    least_cuda_capability: float
    precisions: frozenset[str]
    weight_only: dict[str, float] = {}
    slow_fp8_block_experts: SlowExperts | None = None
    one_process: OneProcess | None = None
    unhidden_drafting: UnhiddenDrafting | None = None
    compiles_at_first: Literal["none", "all", "latent_attention"] = "none"
    tuned_first: TunedFirst | None = None
    launched_singly: LaunchedSingly | None = None
    caches: dict[str, tuple[str, ...]] = {}
    own_caches: dict[Literal["modelopt", "compressed-tensors"], tuple[str, ...]] = {}
    sparse_caches_in_8_bits_from: float | None = None
    shared_experts_beside: int = 0
    expert_backends: tuple[ExpertBackend, ...] = ()
    slow_experts: tuple[ExpertsIn, ...] = ()
    early_launch: EarlyLaunch | None = None
    gathers_in: dict[str, float] = {}

    def launched_early(self, gpu: Gpu, model_type: str) -> EarlyLaunch | None:
        """How kernels of such a model start before the last has ended; None: they do not."""
        early = self.early_launch
        return early if early and model_type in early.model_types and early.holds_on(gpu) else None

    def expert_backend(self, gpu: Gpu, precision: str, release: Release, *, replicas: bool) -> str:
        """What its command names for experts in ``precision``; "": nothing."""
        found = (
            each.backend for each in self.expert_backends if each.holds(gpu, precision, release, replicas=replicas)
        )
        return next(found, "")

    def weight_only_on(self, gpu: Gpu) -> frozenset[str]:
        """Precisions whose weights the framework can multiply in 16 bits on ``gpu``."""
        capability = gpu.compute_capability or 0.0
        return frozenset(name for name, least in self.weight_only.items() if capability >= least)


class BatchDefault(Facts):
    """Batch limits that an engine takes when nothing is said, on GPUs of a size; None: it works them out itself."""

    from_memory_gib: float = 0.0
    but_not: tuple[str, ...] = ()  # words of GPU names to which it does not apply
    max_num_batched_tokens: int | None
    max_num_seqs: int | None


class Defaults(Facts):
    """What an engine takes when nothing is said, in vLLM's words.

    Attributes:
        gpu_memory_utilization: share of the GPU (of what weights leave free: TensorRT-LLM); None: worked out.
        chunked_prefill: whether prompts are cut.
        batch: the first that applies to the GPU.
        draft_tokens: drafted a step by the model's own module in the runs that constants are fitted to.
    """

    gpu_memory_utilization: float | None = Field(gt=0, le=1)
    chunked_prefill: bool
    batch: tuple[BatchDefault, ...] = Field(min_length=1)
    draft_tokens: int = Field(gt=0)

    def on(self, gpu: Gpu) -> BatchDefault:
        """The batch limits of engines on ``gpu``."""
        gib = gpu.memory_bytes / 2**30
        for batch in self.batch:
            if gib >= batch.from_memory_gib and not any(word in gpu.name for word in batch.but_not):
                return batch
        raise ValueError(f"defaults.batch: nothing applies to {gpu.name}")


class ByNeighbours(Facts):
    """GiB on a GPU: of an engine of one, of one that splits layers or experts with others, of a pipeline stage of
    one."""

    alone: float = Field(ge=0)
    split: float = Field(ge=0)
    stage: float = Field(ge=0)


class Graphs(Facts):
    """GiB that captured graphs take: at all, for each layer of the GPU, and more where layers have experts."""

    start_gib: float = Field(ge=0)
    gib_per_layer: float = Field(ge=0)
    experts_gib: float = Field(ge=0)


class MemoryBudget(Facts):
    """What an engine takes beside weights and cache, and what the share of memory that it may use is a share of.

    Attributes:
        share_of: all that a process sees (``gpu``: what the engine takes in all); what is free at the start
            (``weights_and_cache``: these two, the rest lies in what is left); what the rest leaves free (``free``: the
            cache alone).
        graphs_within_budget: whether graphs are taken off before the cache is sized (of ``gpu``).
        logit_bytes: of one logit, in the sampler's copies beside the logits themselves; for each sequence of the
            largest batch, whatever the tensor split: ranks gather them.
        logit_rows_per_multiprocessor: rows of fp32 logits that each multiprocessor has as scratch.
        hidden_copies: buffers as wide as the model that live at the widest product of a layer.
        expert_workspaces_held: whether what grouped products work in stays beside the sampler.
        torch_gib: what libraries take through the engine's allocator.
        outside_torch_gib: what they take beside it: of the budget.
        context_gib: what a process holds before it loads a model: not of the budget.
        holds_longest: whether an engine refuses to start whose cache holds no sequence of the longest length.
        padding: precision of experts → the multiple that the model's width is padded to.
        logged_tokens: how the log counts tokens of the cache: ``pages`` (as if every layer kept whole sequences, in
            pages that kinds of layers share), ``requests`` (of the longest length that fit, times that length), or
            ``plain`` (bytes ÷ those of a token in all layers).
    """

    share_of: Literal["gpu", "weights_and_cache", "free"]
    graphs_within_budget: bool
    logit_bytes: float = Field(ge=0)
    logit_rows_per_multiprocessor: float = Field(ge=0)
    hidden_copies: float = Field(ge=0)
    expert_workspaces_held: bool
    torch_gib: float = Field(ge=0)
    outside_torch_gib: ByNeighbours
    context_gib: ByNeighbours
    graphs: Graphs
    holds_longest: bool
    padding: dict[str, int] = {}
    logged_tokens: Literal["pages", "requests", "plain"]


class DriftWidths(Facts):
    """Half-widths of log(measured ÷ predicted) that 80 % of runs stay within."""

    ttft: float = Field(ge=0)
    tpot: float = Field(ge=0)
    e2e: float = Field(ge=0)


class Drift(DriftWidths):
    """How far runs of a release lie from those of others, which is added to the intervals of one from which the
    constants have no runs: once, and beside it by the root of the months to the nearest release that they have runs of
    (each month adds an independent error), as ``monthly`` has it by the GPU's vendor, or ``earlier`` than all runs."""

    monthly: dict[str, DriftWidths]

    def width(self, latency: str, times: int, months: float, walk: str) -> float:
        """The half-width that is added: so many ``times`` that of a release, and of months as of ``walk``."""
        worst = max(self.monthly.values(), key=lambda each: each.tpot)
        monthly = getattr(self.monthly.get(walk, worst), latency)
        return math.sqrt(times * getattr(self, latency) ** 2 + months * monthly**2)


class CommandLine(Facts):
    """How the framework spells what a plan decides; a launcher knows the meaning.

    Attributes:
        checked_on: the day on which the names were compared with the sources.
        program: argument vector up to the model.
        port: what the server listens on unless told otherwise.
        flags: one per decision; None: the framework has no such flag (a model that is positional).
        kv: our KV precision → the framework's word.
        quantize: weight precision that the framework makes while loading a 16-bit checkpoint → its word. Any other
            conversion needs a checkpoint that was quantised beforehand.
    """

    checked_on: dt.date
    program: tuple[str, ...] = Field(min_length=1)
    port: int
    flags: dict[str, str | None]
    kv: dict[str, str]
    quantize: dict[str, str]


class Switch(Facts):
    """An option of how experts are reached or balanced, which says one of our fields by its values.

    Attributes:
        field: ours.
        values: the option's → our word; null: it says nothing of the field.
        within: the word of the field within which the option alone counts (SGLang's modes of DeepEP); null: any.
    """

    field: str
    values: dict[str, str | None]
    within: str | None = None


class TimedBeside(Facts):
    """A kernel that rows of products time with each: µs of its launch, and bytes that it moves of an element of the
    activations."""

    launch_us: float
    bytes_per_element: float


class StandIn(Reach):
    """Which measured rows speak for an operation in a precision, where a framework runs it by default otherwise than
    the pack timed it under its name."""

    operation: Literal["gemm", "moe"]
    precision: str  # of dense layers, or of experts
    one_attention_replica: bool = False  # holds for engines whose attention is not data parallel alone
    of_busiest: bool = False  # rows of experts that are shared out time the GPU with most tokens
    measured_as: str
    measured_under: str
    beside: TimedBeside | None = None  # what its rows time, too
    why: str
    source: str
