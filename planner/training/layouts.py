"""``plan train predict`` and ``plan train memory`` as documents: training layouts that are asked about, and what each
takes and holds. :mod:`planner.training.asked_layouts` makes the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from planner.contract.documents import PLAIN_NUMBER, Document, checked
from planner.contract.models import ModelInput
from planner.contract.provenance import Provenance, provenance_fields, unmeasured
from planner.contract.published import Published, Upgrade, parse_published
from planner.training.meanings import ALIASES, COLUMNS, MEANINGS

if TYPE_CHECKING:
    import pandas as pd

    from profiles.store import ProfileStore

MOST_LAYOUTS = 10_000
"""Of one request."""


def _of(name: str) -> Any:
    return Field(description=MEANINGS[name])


Count = Annotated[int, Field(ge=0, le=10**8), PLAIN_NUMBER] | None
Word = Annotated[str, Field(min_length=1, max_length=200)] | None
Long = Annotated[str, Field(min_length=1, max_length=20_000)] | None


class TrainingLayout(Document):
    """One layout; null means the framework's default."""

    model: Annotated[ModelInput | None, _of("model")] = None
    hidden: Annotated[Count, _of("hidden")] = None
    layers: Annotated[Count, _of("layers")] = None
    heads: Annotated[Count, _of("heads")] = None
    kv_heads: Annotated[Count, _of("kv_heads")] = None
    ffn: Annotated[Count, _of("ffn")] = None
    vocab: Annotated[Count, _of("vocab")] = None
    gpu: Annotated[Word, _of("gpu")] = None
    num_gpus: Annotated[Count, _of("num_gpus")] = None
    gpus_per_node: Annotated[Count, _of("gpus_per_node")] = None
    fabric: Annotated[Word, _of("fabric")] = None
    framework: Annotated[Word, _of("framework")] = None
    precision: Annotated[Word, _of("precision")] = None
    seq_len: Annotated[Count, _of("seq_len")] = None
    tp: Annotated[Count, _of("tp")] = None
    pp: Annotated[Count, _of("pp")] = None
    vpp: Annotated[Count, _of("vpp")] = None
    dp: Annotated[Count, _of("dp")] = None
    cp: Annotated[Count, _of("cp")] = None
    ep: Annotated[Count, _of("ep")] = None
    moe_tp: Annotated[Count, _of("moe_tp")] = None
    sharding: Annotated[Count | Word, _of("sharding")] = None
    micro_batch: Annotated[Count, _of("micro_batch")] = None
    global_batch: Annotated[Count, _of("global_batch")] = None
    sequence_parallel: Annotated[bool | None, Field(strict=True), _of("sequence_parallel")] = None
    recompute: Annotated[Word, _of("recompute")] = None
    schedule: Annotated[Word, _of("schedule")] = None
    attention: Annotated[Word, _of("attention")] = None
    mode: Annotated[Word, _of("mode")] = None
    optimizer: Annotated[Word, _of("optimizer")] = None
    mtp: Annotated[Count, _of("mtp")] = None
    stage_layers: Annotated[Long, _of("stage_layers")] = None


class LayoutsRequest(Document):
    """Training layouts to predict, or whose memory is asked for."""

    layouts: Annotated[tuple[TrainingLayout, ...], Field(min_length=1, max_length=MOST_LAYOUTS)]


TrainingCell = int | float | bool | str | None
_Rows = tuple[dict[str, TrainingCell], ...]
_KEPT = "what was given, as it was given, and: "
_HELD = (
    "memory_bytes_per_gpu (fullest rank, allocated) with its 80 % interval _low to _high; "
    "memory_reserved_bytes_per_gpu; fits; error: why there is no answer, empty where there is one; "
    "defaults that were taken"
)


class TrainingScore(Document):
    """Of one quantity, over the rows that were measured and predicted."""

    quantity: str = Field(description="column of the prediction")
    rows: int
    mape_pct: float = Field(description="mean of |predicted ÷ measured − 1|")
    median_pct: float = Field(description="its median")
    p90_pct: float = Field(description="its 90th percentile")
    bias_pct: float = Field(description="mean of predicted ÷ measured − 1")
    coverage_pct: float = Field(description="rows within their 80 % interval")


class TrainingPredictions(Published):
    """A row for each layout."""

    kind: Literal["training-predictions"] = "training-predictions"
    schema_version: Literal["1.0"] = "1.0"
    rows: _Rows = Field(
        description=f"{_KEPT}iteration_s with its 80 % interval _low to _high; tokens_per_s_gpu; model_tflops_gpu; "
        f"mfu; bubble_share and exposed_communication_share of the iteration; how (known from); {_HELD}"
    )
    scores: tuple[TrainingScore, ...] | None = Field(default=None, description="against what was measured")
    provenance: Provenance


class TrainingMemories(Published):
    """A row for each layout, and what every stage of it holds. Nothing is timed."""

    kind: Literal["training-memory"] = "training-memory"
    schema_version: Literal["1.0"] = "1.0"
    rows: _Rows = Field(description=f"{_KEPT}{_HELD}")
    stages: tuple[tuple[dict[str, int], ...], ...] = Field(
        description="of each row, of each stage: stage, and bytes of its fullest GPU by part, allocated, reserved, "
        "of communication buffers and of the driver's context; empty where a row has an error"
    )
    provenance: Provenance


OLDER: dict[str, Upgrade] = {}


def parse_training_predictions(text: str, where: str = "predictions") -> TrainingPredictions:
    """From their JSON. Raises as :func:`planner.contract.published.parse_published`."""
    return parse_published(text, TrainingPredictions, where, OLDER)


def parse_training_memories(text: str, where: str = "memory") -> TrainingMemories:
    """From their JSON. Raises as :func:`planner.contract.published.parse_published`."""
    return parse_published(text, TrainingMemories, where, OLDER)


def parse_layouts_request(value: Mapping[str, Any], schema: str) -> LayoutsRequest:
    """A request from a mapping; ``schema``: what its schema is called, of the two that there are.

    Raises:
        InputError: with the first field that is wrong.
    """
    return checked(LayoutsRequest, value, "request", schema=schema)


# ------------------------------------------------------------------ tables as documents


def predictions_of(
    table: pd.DataFrame, measured: Sequence[ProfileStore] = (), scores: tuple[TrainingScore, ...] | None = None
) -> TrainingPredictions:
    """The document of a table that :func:`planner.training.named.predict` made."""
    from costmodels.kernels.cost_model import cost_model_version
    from profiles.store import shipped_pack

    store = shipped_pack()
    gpus = set(table["gpu"]) if "gpu" in table.columns else set()
    fields = provenance_fields(store, measured, gpus, cost_model_version(store, measured), ())
    return TrainingPredictions(rows=_rows(table), scores=scores, provenance=Provenance(**fields)).sealed()


def memories_of(table: pd.DataFrame, stages: Sequence[Sequence[Mapping[str, int]]]) -> TrainingMemories:
    """The document of what :func:`planner.training.named.memories` made."""
    from planner.training.columns import TIMES

    each = tuple(tuple(dict(stage) for stage in held) for held in stages)
    table = table.drop(columns=[*TIMES, "how"])
    return TrainingMemories(rows=_rows(table), stages=each, provenance=unmeasured()).sealed()


_WORDS = {"model", "gpu", "fabric", "framework", "stage_layers", "error", "defaults", "how"}
"""Columns that hold text whatever it looks like."""


def _rows(table: pd.DataFrame) -> _Rows:
    """Of each row: numbers as numbers, true and false as what they are, blank cells as null (an ``error`` that is none
    stays empty), and columns that are not ours as they are."""
    names = [str(name) for name in table.columns]
    read = [name not in _WORDS and (name == "fits" or ALIASES.get(name, name) in COLUMNS) for name in names]
    return tuple(
        {
            name: _cell(value) if ours else None if value == "" and name != "error" else value
            for name, ours, value in zip(names, read, row, strict=True)
        }
        for row in table.itertuples(index=False, name=None)
    )


def fields_of(layout: Mapping[str, str]) -> dict[str, TrainingCell]:
    """The fields of a :class:`TrainingLayout` of options as they are typed."""
    return {name: text if name in _WORDS else _cell(text) for name, text in layout.items()}


def _cell(value: Any) -> TrainingCell:
    text = str(value).strip()
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else text or None
