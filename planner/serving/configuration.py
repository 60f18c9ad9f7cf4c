"""One engine as a user names it: what ``plan predict`` and ``plan memory`` are asked about."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document
from planner.contract.engine import FrameworkName
from planner.contract.models import ModelInput
from planner.contract.options import RELEASE_HELP, Option
from planner.contract.words import folded
from planner.contract.workload.workload import Workload, workload_input

ENGINE = "One configuration"
RECIPE = "How the engine is started"
PROMPTS = "How prompts are processed"
EXPERTS = "How experts are shared out"

RECIPE_FIELDS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "max_model_len",
    "chunked_prefill",
    "polling_interval",
)


def _folded(value: Any) -> Any:
    return folded(value) if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
Count = Annotated[int, Field(gt=0, le=10**8), PLAIN_NUMBER]


MaxNumSeqs = Annotated[
    Count | None,
    Field(description="most sequences in one step, of each attention replica"),
    Option("Most sequences in one step, of each attention replica.", RECIPE, metavar="N"),
]
MaxNumBatchedTokens = Annotated[
    Count | None,
    Field(description="most tokens in one step, of each attention replica"),
    Option("Most tokens in one step, of each attention replica.", RECIPE, metavar="N"),
]
GpuMemoryUtilization = Annotated[
    Annotated[float, Field(gt=0, le=1), PLAIN_NUMBER] | None,
    Field(description="share of GPU memory, as the framework means it"),
    Option("Share of GPU memory, as the framework means it.", RECIPE, metavar="SHARE"),
]
MaxModelLen = Annotated[
    Count | None,
    Field(description="longest sequence that is admitted, tokens"),
    Option("Longest sequence that is admitted.", RECIPE, metavar="TOKENS"),
]


ExchangeAsked = Annotated[
    Name | None,
    BeforeValidator(_folded, json_schema_input_type=str | None),
    Field(
        description="how tokens reach their experts: none (all ranks gather all), high_throughput, low_latency, "
        "nvlink_one_sided, nvlink_two_sided, or the framework's word; default: the role's usual one"
    ),
    Option(
        "How tokens reach their experts: none (all ranks gather all), high_throughput, low_latency, "
        "nvlink_one_sided, nvlink_two_sided, or the framework's word. Default: the role's usual one.",
        EXPERTS,
        metavar="NAME",
    ),
]
RedundantAsked = Annotated[
    Annotated[int, Field(ge=0, le=10**6), PLAIN_NUMBER] | None,
    Field(description="copies of hot experts; experts + redundant must divide by ep. Default: as few as divide"),
    Option("Copies of hot experts; experts + N must divide by ep. Default: as few as do.", EXPERTS, metavar="N"),
]
OverlapAsked = Annotated[
    Literal["none", "two_batch", "single_batch"] | None,
    BeforeValidator(_folded, json_schema_input_type=str | None),
    Field(description="what hides the exchange; default: none"),
    Option("What hides the exchange: none (default), two_batch or single_batch.", EXPERTS),
]
EplbAsked = Annotated[
    Literal["off", "static", "dynamic", "perfect"] | None,
    BeforeValidator(_folded, json_schema_input_type=str | None),
    Field(description="how experts are balanced; default: static where there is an exchange, else off"),
    Option("How experts are balanced: off, static, dynamic or perfect. Default: static with an exchange.", EXPERTS),
]
DispatchTokensAsked = Annotated[
    Count | None,
    Field(description="most tokens of a GPU that low-latency buffers are made for; default: what the load needs"),
    Option(
        "Most tokens of a GPU that low-latency buffers are made for. Default: what the load needs.",
        EXPERTS,
        metavar="N",
    ),
]


ChunkedPrefill = Annotated[
    bool | None,
    Field(strict=True, description="whether prompts are cut to what a step has room for"),
    Option("Whether prompts are cut to what a step has room for.", PROMPTS),
]
PollingInterval = Annotated[
    Count | None,
    Field(description="decode steps between two looks at the queue; default: 1"),
    Option("Decode steps between two looks at the queue. Default: 1.", PROMPTS, metavar="STEPS"),
]
Sampling = Annotated[
    Literal["greedy", "random"] | None,
    Field(description="how tokens are chosen; engines reserve memory for random sampling either way"),
    Option("How tokens are chosen: greedy or random.", PROMPTS, metavar="HOW"),
]


class EngineAsked(Document):
    """One engine: model, GPUs, precision and layout, and how it is started. What nobody says of that is the release's
    default."""

    model: Annotated[
        ModelInput,
        Field(description="bundled name (`plan models`), or a config.json as an object"),
        Option("Name (`plan models`).", ENGINE),
    ]
    gpu: Annotated[Name, Field(description="GPU type (`plan gpus`)"), Option("GPU type (`plan gpus`).", ENGINE)]
    framework: Annotated[FrameworkName, Option(RELEASE_HELP, ENGINE)] = "vllm"
    precision: Annotated[
        Name | None,
        Field(description="of weights; default: as published"),
        Option("Weights. Default: as published.", ENGINE),
    ] = None
    kv_precision: Annotated[
        Name | None,
        Field(description="of the KV cache: bf16 (default) or fp8"),
        Option("KV cache: bf16 (default) or fp8.", ENGINE),
    ] = None
    tp: Annotated[
        Count | None, Field(description="tensor parallel"), Option("Tensor parallel.", ENGINE, metavar="N")
    ] = None
    pp: Annotated[
        Count | None, Field(description="pipeline stages"), Option("Pipeline stages.", ENGINE, metavar="N")
    ] = None
    dp: Annotated[
        Count | None,
        Field(description="attention data parallel"),
        Option("Attention data parallel.", ENGINE, metavar="N"),
    ] = None
    ep: Annotated[
        Count | None,
        Field(description="expert parallel; ep × moe_tp = tp × dp. Default: 1, or all with dp"),
        Option("Expert parallel; ep x moe_tp = tp x dp. Default: 1, or all with dp.", ENGINE, metavar="N"),
    ] = None
    moe_tp: Annotated[
        Count | None,
        Field(description="tensor parallel within experts"),
        Option("Tensor parallel within experts.", ENGINE, metavar="N"),
    ] = None
    role: Annotated[
        Literal["aggregated", "prefill", "decode"] | None,
        BeforeValidator(_folded, json_schema_input_type=str | None),
        Field(description="what of requests the engine does; default: aggregated, all of it"),
        Option("What of requests it does: aggregated (all, the default), prefill or decode alone.", EXPERTS),
    ] = None
    exchange: ExchangeAsked = None
    redundant: RedundantAsked = None
    overlap: OverlapAsked = None
    eplb: EplbAsked = None
    dispatch_tokens: DispatchTokensAsked = None
    num_gpus: Annotated[
        Count | None,
        Field(description="of the engine; must be tp × pp × dp"),
        Option("Of the engine; must be tp x pp x dp.", ENGINE, metavar="N"),
    ] = None
    max_num_seqs: MaxNumSeqs = None
    max_num_batched_tokens: MaxNumBatchedTokens = None
    gpu_memory_utilization: GpuMemoryUtilization = None
    max_model_len: MaxModelLen = None
    chunked_prefill: ChunkedPrefill = None
    polling_interval: PollingInterval = None
    sampling: Sampling = None

    @property
    def recipe(self) -> dict[str, Any]:
        """What was said of how the engine is started."""
        return {name: getattr(self, name) for name in RECIPE_FIELDS}


class MemoryRequest(EngineAsked):
    """One engine whose memory is asked for."""

    draft: Annotated[
        bool,
        Field(strict=True, description="load the model's draft module too (MTP, EAGLE)"),
        Option("Load the model's draft module too (MTP, EAGLE).", RECIPE),
    ] = False
    workload: Annotated[
        Workload | None,
        BeforeValidator(workload_input, json_schema_input_type=str | Workload | None),
        Field(description="requests that it is to hold, short form (isl=4000,osl=500) or object; null: the longest"),
        Option(
            "Requests that it is to hold: isl=4000,osl=500, or a trace; their rate plays no part. With draft=…, its "
            "module is loaded.",
            RECIPE,
        ),
    ] = None
