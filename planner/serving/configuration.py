"""One engine as a user names it: what ``plan predict`` and ``plan memory`` are asked about."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from planner.contract.documents import PLAIN_NUMBER, Document, Name
from planner.contract.engine import FrameworkName
from planner.contract.models import DraftAsked, ModelAsked
from planner.contract.options import RELEASE_HELP, Option
from planner.contract.words import exchange_word, folded
from planner.contract.workload.grammar import tokens
from planner.contract.workload.workload import WorkloadOrNone

ENGINE = "One configuration"
RECIPE = "How the engine is started"
PROMPTS = "How prompts are processed"
EXPERTS = "How experts are shared out"


def _folded(value: Any) -> Any:
    return folded(value) if isinstance(value, str) else value


def _exchange(value: Any) -> Any:
    return exchange_word(value) if isinstance(value, str) else value


_FOLDED = BeforeValidator(_folded, json_schema_input_type=str | None)

Count = Annotated[int, Field(gt=0, le=10**8), PLAIN_NUMBER]


def _with_unit(value: Any) -> Any:
    """Tokens as vLLM reads them, ``16k``; others as they are."""
    found = tokens(value) if isinstance(value, str) else None
    return value if found is None else found


Tokens = Annotated[Count, BeforeValidator(_with_unit)]


class RecipeAsked(Document):
    """How an engine is started. What nobody says of that is the release's default."""

    max_num_seqs: Annotated[
        Count | None,
        Field(description="most sequences in one step, of each attention replica"),
        Option(panel=RECIPE, metavar="N"),
    ] = None
    max_num_batched_tokens: Annotated[
        Tokens | None,
        Field(description="most tokens in one step, of each attention replica"),
        Option(panel=RECIPE, metavar="TOKENS"),
    ] = None
    gpu_memory_utilization: Annotated[
        Annotated[float, Field(gt=0, le=1), PLAIN_NUMBER] | None,
        Field(description="share of GPU memory, as the framework means it"),
        Option(panel=RECIPE, metavar="SHARE"),
    ] = None
    max_model_len: Annotated[
        Tokens | None,
        Field(description="longest sequence that is admitted, tokens"),
        Option("Longest sequence that is admitted: 16384, 16k.", RECIPE, metavar="TOKENS"),
    ] = None
    chunked_prefill: Annotated[
        bool | None,
        Field(strict=True, description="whether prompts are cut to what a step has room for"),
        Option(panel=PROMPTS),
    ] = None
    polling_interval: Annotated[
        Count | None,
        Field(
            description="decode steps between two looks at the queue (TensorRT-LLM: timeout_iters of its attention-DP "
            "balance, of an engine with one replica batch_wait_timeout_iters); default: 1"
        ),
        Option(panel=PROMPTS, metavar="STEPS"),
    ] = None
    sampling: Annotated[
        Literal["greedy", "random"] | None,
        Field(description="how tokens are chosen; engines reserve memory for random sampling either way"),
        Option("How tokens are chosen: greedy or random.", PROMPTS, metavar="HOW"),
    ] = None

    @property
    def recipe(self) -> dict[str, Any]:
        """What was said of it, but for the sampling, which changes nothing that is reserved."""
        return {name: getattr(self, name) for name in RECIPE_FIELDS}


RECIPE_FIELDS = tuple(name for name in RecipeAsked.model_fields if name != "sampling")


ExchangeAsked = Annotated[
    Name | None,
    BeforeValidator(_exchange, json_schema_input_type=str | None),
    Field(
        description="how tokens reach their experts: none (all ranks gather all), high_throughput, low_latency, "
        "nvlink_one_sided, nvlink_two_sided, or the framework's word; default: the role's usual one"
    ),
    Option(panel=EXPERTS, metavar="NAME"),
]
RedundantAsked = Annotated[
    Annotated[int, Field(ge=0, le=10**6), PLAIN_NUMBER] | None,
    Field(description="copies of hot experts; experts + redundant must divide by ep. Default: as few as divide"),
    Option("Copies of hot experts; experts + N must divide by ep. Default: as few as do.", EXPERTS, metavar="N"),
]
OverlapAsked = Annotated[
    Literal["none", "two_batch", "single_batch"] | None,
    _FOLDED,
    Field(description="what hides the exchange; default: none"),
    Option("What hides the exchange: none (default), two_batch or single_batch.", EXPERTS),
]
EplbAsked = Annotated[
    Literal["off", "static", "dynamic", "perfect"] | None,
    _FOLDED,
    Field(description="how experts are balanced; default: static where there is an exchange, else off"),
    Option("How experts are balanced: off, static, dynamic or perfect. Default: static with an exchange.", EXPERTS),
]
DispatchTokensAsked = Annotated[
    Count | None,
    Field(description="most tokens of a GPU that low-latency buffers are made for; default: what the load needs"),
    Option(panel=EXPERTS, metavar="N"),
]


DraftModelAsked = Annotated[
    DraftAsked,
    Option("EAGLE or EAGLE-3 head that it drafts with: its config.json, or its folder.", RECIPE, metavar="FILE"),
]


class EngineNamed(Document):
    """One engine: model, GPUs, precision and layout."""

    model: Annotated[ModelAsked, Option("Name (`plan models`).", ENGINE)]
    gpu: Annotated[Name, Field(description="GPU type (`plan gpus`)"), Option(panel=ENGINE)]
    framework: Annotated[FrameworkName, Option(RELEASE_HELP, ENGINE)] = "vllm"
    precision: Annotated[
        Name | None,
        Field(description="of weights; default: as published"),
        Option("Weights. Default: as published.", ENGINE),
    ] = None
    kv_precision: Annotated[
        Name | None,
        Field(description="of the KV cache: bf16 or fp8 (default: what the framework takes for the checkpoint)"),
        Option("KV cache: bf16 or fp8 (default: what the framework takes for the checkpoint).", ENGINE),
    ] = None
    tp: Annotated[Count | None, Field(description="tensor parallel"), Option(panel=ENGINE, metavar="N")] = None
    pp: Annotated[Count | None, Field(description="pipeline stages"), Option(panel=ENGINE, metavar="N")] = None
    dp: Annotated[
        Count | None,
        Field(description="attention data parallel"),
        Option(panel=ENGINE, metavar="N"),
    ] = None
    ep: Annotated[
        Count | None,
        Field(description="expert parallel; ep × moe_tp = tp × dp. Default: 1, or all with dp"),
        Option(panel=ENGINE, metavar="N"),
    ] = None
    moe_tp: Annotated[
        Count | None,
        Field(description="tensor parallel within experts"),
        Option(panel=ENGINE, metavar="N"),
    ] = None
    role: Annotated[
        Literal["aggregated", "prefill", "decode"] | None,
        _FOLDED,
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
        Option(panel=ENGINE, metavar="N"),
    ] = None


class EngineAsked(RecipeAsked, EngineNamed):
    """One engine: model, GPUs, precision and layout, and how it is started. What nobody says of that is the release's
    default."""


class MemoryRequest(EngineAsked):
    """One engine whose memory is asked for."""

    draft: Annotated[
        bool,
        Field(strict=True, description="load the model's draft module too (MTP, EAGLE)"),
        Option(panel=RECIPE),
    ] = False
    draft_model: DraftModelAsked = None
    workload: Annotated[
        WorkloadOrNone,
        Field(description="requests that it is to hold, short form (isl=4000,osl=500) or object; null: the longest"),
        Option(
            "Requests that it is to hold: isl=4000,osl=500, or a trace; their rate plays no part. With draft=…, its "
            "module is loaded.",
            RECIPE,
        ),
    ] = None
