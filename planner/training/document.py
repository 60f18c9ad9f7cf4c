"""The training plan: what was asked, the layout that was chosen, what it takes and holds, and why nothing is better.

One versioned JSON document, validated on the way out and on the way in. Times are seconds, sizes bytes. It holds no
clock readings: same request, same versions, same bytes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from planner.contract.clusters import Cluster
from planner.contract.documents import Document
from planner.contract.proof import Proof
from planner.contract.provenance import Provenance
from planner.contract.published import Published, Upgrade, parse_published
from planner.contract.quantities import Interval
from planner.contract.sparse import Sparse
from planner.training.request import TrainingMode, TrainingObjective, TrainingPrecision

SCHEMA_VERSION: Literal["1.0"] = "1.0"
KIND: Literal["training"] = "training"


class TrainingUnderstood(Sparse):
    """The request as it was understood, all defaults filled in."""

    SELDOM: ClassVar = ("pp_across_pools",)

    model: str
    parameters: int
    active_parameters: int = Field(description="weights that touch one token")
    cluster: Cluster
    global_batch: int = Field(description="sequences of an iteration")
    seq_len: int
    framework: str = Field(description="name@release")
    precision: TrainingPrecision
    mode: TrainingMode
    optimizer: str
    mtp: int
    objective: TrainingObjective
    attention: str
    restrictions: dict[str, tuple[int, ...]] = Field(description="degrees that alone were allowed")
    recompute: bool
    uneven: bool
    tp_across_nodes: bool
    time_limit_s: float
    pp_across_pools: bool = Field(default=True, description="whether a pipeline might span pools")


class Mesh(Document):
    """Parallel degrees: pp stages of dp × cp × tp GPUs; in layers with experts the GPUs of a stage are folded anew."""

    tp: int
    pp: int
    vpp: int = Field(description="virtual stages of a stage")
    dp: int = Field(description="excludes cp, contains ep")
    cp: int
    ep: int
    moe_tp: int
    gpus: int

    @property
    def label(self) -> str:
        names = (("TP", self.tp), ("PP", self.pp), ("VPP", self.vpp), ("DP", self.dp), ("CP", self.cp), ("EP", self.ep))
        return " ".join(f"{name}{degree}" for name, degree in names if degree > 1) or "one GPU"


class Stage(Sparse):
    """One pipeline stage: a class of ranks that all hold the same."""

    SELDOM: ClassVar = ("pool", "gpu")

    stage: int
    layers: int
    runs: tuple[int, ...] = Field(description="layers of each of its virtual stages, in the order of the model")
    recomputed: int = Field(description="of which recomputed whole in the backward pass")
    first_rank: int
    ranks: int
    first_node: int = Field(description="node within the pool on which its first rank runs")
    last_node: int
    pool: str | None = Field(default=None, description="where stages run in several pools: that of this one")
    gpu: str | None = Field(default=None, description="its GPUs")


class TrainingLaunch(Document):
    """How to start it."""

    framework: str
    arguments: tuple[str, ...] = Field(description="flags of the training script; or of DeepSpeed, its JSON in one")
    notes: tuple[str, ...] = Field(description="what the flags cannot say")


class StageBlock(Document):
    """Neighbouring stages in one of several pools."""

    pool: str
    gpu: str
    gpus_per_node: int
    stages: int
    layers: int
    first_rank: int
    gpus_used: int
    gpus_idle: int


class TrainingDecision(Sparse):
    SELDOM: ClassVar = ("blocks",)

    pool: str = Field(description="joined by + where stages run in several")
    gpu: str = Field(description="joined by + where stages run in several pools")
    gpus_per_node: int = Field(description="of the pool of the first stage")
    mesh: Mesh
    sharding: int = Field(description="0 none, 1 optimizer states, 2 and gradients, 3 and weights")
    micro_batch: int = Field(description="sequences")
    microbatches: int
    sequence_parallel: bool
    schedule: str
    recompute: tuple[str, ...] = Field(description="parts recomputed in every layer that is not recomputed whole")
    attention: str
    rank_order: Literal["tp-cp-dp-pp"] = Field(
        default="tp-cp-dp-pp",
        description="fastest first; rank r runs on GPU r mod gpus_per_node of node r div gpus_per_node of the pool, "
        "in several pools r less the first rank of its block",
    )
    stages: tuple[Stage, ...]
    blocks: tuple[StageBlock, ...] = Field(
        default=(), description="where stages run in several pools: in each, in the order of the pipeline"
    )
    gpus_used: int
    gpus_idle: int
    usd_per_hour: float | None = Field(description="of the GPUs used; null where a price is not known")
    launch: TrainingLaunch


class StageMemory(Document):
    """Bytes of one GPU of a stage at the peak."""

    stage: int
    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    buffers_bytes: float
    activations_bytes: float
    transient_bytes: float = Field(description="of one layer's backward pass, where the peak is there")
    logits_bytes: float = Field(description="of the loss, where the peak is there")
    allocated_bytes: float
    reserved_bytes: float = Field(description="by the framework's allocator, with expandable segments")
    communication_bytes: float
    context_bytes: float
    used_bytes: float = Field(description="of the device, all in all")
    verdict: Literal["fits", "expandable_segments"] = Field(
        description="expandable_segments: fits only with them (PYTORCH_CUDA_ALLOC_CONF)"
    )


class TrainingPrediction(Document):
    iteration_s: Interval
    tokens_per_s_gpu: float = Field(description="of the GPUs used")
    model_tflops_gpu: float
    mfu: float = Field(description="of the dense peak of the precision")
    bubble_share: float
    exposed_communication_share: float
    seconds_by_part: dict[str, float] = Field(description="adds up to the iteration")
    memory_bytes_per_gpu: Interval = Field(description="allocated on the fullest GPU")
    stages: tuple[StageMemory, ...]
    usd_per_billion_tokens: float | None
    how: str = Field(description="weakest origin of the kernels' times")
    inside_measured_range: bool


class TrainingAlternative(Sparse):
    """Another mesh, or the same in other pools, at its best."""

    SELDOM: ClassVar = ("pools",)

    mesh: Mesh
    sharding: int
    micro_batch: int
    schedule: str
    recompute: tuple[str, ...]
    recomputed_layers: int
    iteration_s: float
    memory_bytes_per_gpu: float
    loses_by: float = Field(description="how much slower than the plan, relative")
    pools: tuple[str, ...] = Field(default=(), description="that its stages run in, where the cluster has several")


class TrainingAlternatives(Document):
    ranked: tuple[TrainingAlternative, ...] = Field(description="best first")
    simplest: TrainingAlternative | None = Field(
        description="least machinery within 2 % of the plan; null where the plan itself has least"
    )


class RefusedReason(Document):
    """Layouts that were left out for one reason."""

    reason: str
    count: int
    example: str


class TrainingProof(Proof):
    """Why nothing that was considered is better."""

    combinations: int = Field(description="of degrees, looked at")
    legal: int = Field(description="within the framework's rules")
    bounded: int = Field(description="with sharding and recomputation, whose memory and time were bounded")
    solved: int = Field(description="whose stages were chosen exactly")
    rejected: tuple[RefusedReason, ...]
    binding_constraint: str


class TrainingPlan(Published):
    """The whole document."""

    kind: Literal["training"] = KIND
    schema_version: Literal["1.0"] = SCHEMA_VERSION
    request: TrainingUnderstood
    decision: TrainingDecision
    prediction: TrainingPrediction
    proof: TrainingProof
    alternatives: TrainingAlternatives
    provenance: Provenance


OLDER: dict[str, Upgrade] = {}


def parse_training_plan(text: str, where: str = "training plan") -> TrainingPlan:
    """A training plan from its JSON.

    Raises:
        InputError: not JSON, of another kind or version, or refused by the schema.
    """
    return parse_published(text, TrainingPlan, where, OLDER)
