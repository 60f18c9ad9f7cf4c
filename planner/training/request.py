"""What ``plan train`` is asked: the request document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from planner.contract.clusters import MOST_GPUS, CountedCluster
from planner.contract.documents import PLAIN_NUMBER, WHOLE_NUMBERS, Document, checked
from planner.contract.models import ModelConfig, ModelInput, architecture_of
from planner.contract.options import ASKED, RESTRICTED, Option
from planner.training.meanings import MEANINGS
from profiles.hardware import SHIPPED, Catalogue

if TYPE_CHECKING:
    from costmodels.training.models import TrainedModel

TrainingObjective = Literal["time", "memory", "gpus"]
TrainingPrecision = Literal["bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
TrainingMode = Literal["pretrain", "sft", "lora"]

Sequences = Annotated[int, Field(gt=0, le=10**7), PLAIN_NUMBER]
Tokens = Annotated[int, Field(gt=0, le=10**8), PLAIN_NUMBER]
Degree = Annotated[int, Field(gt=0, le=MOST_GPUS), PLAIN_NUMBER]
Stage = Annotated[int, Field(ge=0, le=3), PLAIN_NUMBER]


def _choices(meaning: str) -> Any:
    return Option(f"{meaning.split('.')[0]}, to choose from. Default: any.", RESTRICTED, metavar="N,M")


Degrees = Annotated[
    Annotated[tuple[Degree, ...], Field(min_length=1)] | None,
    WHOLE_NUMBERS,
    Field(description="to choose from; null: any"),
]


class TrainingRequest(Document):
    """Which layout trains a model fastest (or in least memory, or on fewest GPUs)."""

    model: Annotated[
        ModelInput,
        Field(
            description="bundled name (`plan models`), a config.json as an object, or written out: "
            "gpt:hidden=…,layers=…,heads=…,vocab=… or llama:hidden=…,layers=…,heads=…,kv_heads=…,ffn=…,vocab=…"
        ),
        Option(MEANINGS["model"], ASKED),
    ]
    cluster: Annotated[
        CountedCluster,
        Field(description="short form (128xH100, 16x8xH100, joined by +, a bundled name) or object"),
        Option("128xH100, 16x8xH100 (nodes x GPUs), a YAML file, or a name (`plan gpus --clusters`).", ASKED),
    ]
    global_batch: Annotated[
        Sequences,
        Field(description="sequences of an iteration"),
        Option(panel=ASKED, metavar="N"),
    ]
    seq_len: Annotated[Tokens, Field(description="tokens of a sequence"), Option(panel=ASKED, metavar="N")]
    framework: Annotated[
        str,
        Field(min_length=1, max_length=100, description="name, or name@release"),
        Option("megatron, megatron-deepspeed, torchtitan or deepspeed; @RELEASE.", ASKED),
    ] = "megatron"
    precision: Annotated[TrainingPrecision, Option("Of products: bf16, fp16, fp8, mxfp8 or nvfp4.", ASKED)] = "bf16"
    mode: Annotated[TrainingMode, Option("pretrain, sft or lora.", ASKED)] = "pretrain"
    optimizer: Annotated[
        str, Field(min_length=1, max_length=100), Option("adam, adamw, sgd, muon or adafactor.", ASKED)
    ] = "adam"
    mtp: Annotated[
        int,
        Field(ge=0, le=100, description="multi-token-prediction layers that are trained too"),
        PLAIN_NUMBER,
        Option(panel=ASKED, metavar="N"),
    ] = 0
    objective: Annotated[TrainingObjective, Option("time, memory (of the fullest GPU) or gpus (fewest).", ASKED)] = (
        "time"
    )
    attention: Annotated[
        str | None,
        Field(min_length=1, max_length=100, description="kernel; null: the framework's default"),
        Option(f"{MEANINGS['attention']} Default: the framework's.", ASKED),
    ] = None
    tp: Annotated[Degrees, _choices(MEANINGS["tp"])] = None
    pp: Annotated[Degrees, _choices(MEANINGS["pp"])] = None
    vpp: Annotated[Degrees, _choices(MEANINGS["vpp"])] = None
    dp: Annotated[Degrees, _choices(MEANINGS["dp"])] = None
    cp: Annotated[Degrees, _choices(MEANINGS["cp"])] = None
    ep: Annotated[Degrees, _choices(MEANINGS["ep"])] = None
    moe_tp: Annotated[Degrees, _choices(MEANINGS["moe_tp"])] = None
    micro_batch: Annotated[Degrees, _choices(MEANINGS["micro_batch"])] = None
    sharding: Annotated[
        Annotated[tuple[Stage, ...], Field(min_length=1)] | None,
        WHOLE_NUMBERS,
        Field(description="0 none, 1 optimizer states, 2 and gradients, 3 and weights, to choose from; null: any"),
        Option("0 none, 1 optimizer states, 2 and gradients, 3 and weights. Default: any.", RESTRICTED, metavar="N,M"),
    ] = None
    recompute: Annotated[
        bool,
        Field(strict=True, description="whether activations may be recomputed"),
        Option("Activations may be recomputed.", RESTRICTED),
    ] = True
    uneven: Annotated[
        bool,
        Field(strict=True, description="whether stages may hold different numbers of layers"),
        Option("Stages may hold different numbers of layers.", RESTRICTED),
    ] = True
    tp_across_nodes: Annotated[
        bool,
        Field(strict=True, description="tensor parallelism may span nodes"),
        Option("Tensor parallel may span nodes.", RESTRICTED),
    ] = False
    pp_across_pools: Annotated[
        bool,
        Field(strict=True, description="a pipeline may span pools of several GPU types"),
        Option("Pipelines may span pools of several GPU types.", RESTRICTED),
    ] = True
    time_limit_s: Annotated[
        float,
        Field(gt=0, le=86_400, description="of the search"),
        PLAIN_NUMBER,
        Option("Seconds for the search. Default: 60.", RESTRICTED, name="time_limit", show_default=False),
    ] = 60.0


def parse_training_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> TrainingRequest:
    """A request from a mapping (JSON, YAML or keyword arguments), its GPUs looked up in ``catalogue``.

    Raises:
        InputError: naming the field and the value that are wrong.
    """
    return checked(TrainingRequest, value, "request", catalogue, schema="training-request")


def model_of(model: str | ModelConfig) -> TrainedModel:
    """The model that a request names. No file is read: requests reach services too.

    Raises:
        InputError, UnknownName, Unsupported: naming what is not understood, or not modelled.
    """
    from costmodels.training.models import as_trained, is_written_out, trained_model

    if isinstance(model, str) and is_written_out(model):
        return trained_model(model, allow_paths=False)
    return as_trained(architecture_of(model))
