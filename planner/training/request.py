"""What ``plan train`` is asked: the request document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from planner.contract.clusters import MOST_GPUS, Cluster, cluster_input
from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, checked

TrainingObjective = Literal["time", "memory", "gpus"]
PrecisionName = Literal["bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
ModeName = Literal["pretrain", "sft", "lora"]

Sequences = Annotated[int, Field(gt=0, le=10**7), PLAIN_NUMBER]
Tokens = Annotated[int, Field(gt=0, le=10**8), PLAIN_NUMBER]
Degree = Annotated[int, Field(gt=0, le=MOST_GPUS), PLAIN_NUMBER]
Degrees = tuple[Degree, ...] | None
_CHOICES = "allowed; null: all"


class TrainingRequest(Document):
    """Which layout trains a model fastest (or in least memory, or on fewest GPUs)."""

    model: str = Field(
        min_length=1, max_length=LONGEST_TEXT, description="bundled name, or gpt:… or llama:… written out"
    )
    cluster: Annotated[Cluster, BeforeValidator(cluster_input)]
    global_batch: Sequences = Field(description="sequences of an iteration")
    seq_len: Tokens = Field(description="tokens of a sequence")
    framework: str = Field(default="megatron", max_length=100, description="name, or name@release")
    precision: PrecisionName = "bf16"
    mode: ModeName = "pretrain"
    optimizer: str = Field(default="adam", max_length=100)
    mtp: Annotated[int, Field(ge=0, le=100), PLAIN_NUMBER] = Field(
        default=0, description="multi-token-prediction layers that are trained too"
    )
    objective: TrainingObjective = "time"
    attention: str | None = Field(default=None, max_length=100, description="kernel; null: the framework's default")
    tp: Degrees = Field(default=None, description=_CHOICES)
    pp: Degrees = Field(default=None, description=_CHOICES)
    vpp: Degrees = Field(default=None, description=_CHOICES)
    dp: Degrees = Field(default=None, description=_CHOICES)
    cp: Degrees = Field(default=None, description=_CHOICES)
    ep: Degrees = Field(default=None, description=_CHOICES)
    moe_tp: Degrees = Field(default=None, description=_CHOICES)
    micro_batch: Degrees = Field(default=None, description=_CHOICES)
    sharding: tuple[Annotated[int, Field(ge=0, le=3), PLAIN_NUMBER], ...] | None = Field(
        default=None, description=_CHOICES
    )
    recompute: bool = Field(default=True, description="whether activations may be recomputed")
    uneven: bool = Field(default=True, description="whether stages may hold different numbers of layers")
    tp_across_nodes: bool = Field(default=False, description="tensor parallelism may span nodes")
    time_limit_s: Annotated[float, Field(gt=0, le=86_400), PLAIN_NUMBER] = 60.0


def parse_training_request(fields: Any, where: str = "request") -> TrainingRequest:
    """A request from its fields.

    Raises:
        InputError: naming the field and the value that are wrong.
    """
    return checked(TrainingRequest, fields, where)
