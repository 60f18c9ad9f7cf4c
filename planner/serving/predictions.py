"""``plan predict`` as documents: configurations that are asked about, and a row of predictions for each.

The rows are those of :mod:`planner.serving.prediction_table`: what was given, and the columns added there, with numbers
as numbers and null for what is blank."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from planner.contract.deployment import DeploymentDocument
from planner.contract.documents import PLAIN_NUMBER, Document, Name, checked
from planner.contract.models import ModelConfig, architecture_of, drafting_with
from planner.contract.options import Option
from planner.contract.provenance import Provenance, provenance_fields
from planner.contract.published import Published, Upgrade, as_it_is, parse_published
from planner.contract.workload.images import SIZE_PATTERN
from planner.contract.workload.lengths import Tokens
from planner.contract.workload.workload import Workload, WorkloadOrNone, parse_workload, tokens_input
from planner.serving.configuration import ENGINE, Count, DraftModelAsked, EngineAsked
from planner.serving.document.opening import RunningOrNone
from planner.serving.document.plan import Plan
from planner.serving.measured.document import Scores
from profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from costmodels.models.architecture import Architecture
    from profiles.store import ProfileStore

SCHEMA_VERSION: Literal["1.2"] = "1.2"

MOST_CONFIGURATIONS = 10_000
"""Of one request: ten thousand take a minute or two."""


class Configuration(EngineAsked):
    """One engine and its load."""

    clock: Annotated[
        Name | None,
        Field(description="highest SM clock of each GPU, as `nvidia-smi -lgc` locks it: 1400MHz"),
        Option("Highest SM clock of each GPU: 1400MHz. Every step follows it.", ENGINE, metavar="MHZ"),
    ] = None
    power_cap: Annotated[
        Name | None,
        Field(description="board power limit of each GPU, as `nvidia-smi -pl` sets it: 500W"),
        Option("Board power limit of each GPU: 500W. Steps that draw less are left alone.", ENGINE, metavar="WATTS"),
    ] = None
    draft_model: DraftModelAsked = None
    workload: Annotated[
        WorkloadOrNone,
        Field(description="short form (isl=4000,osl=500,concurrency=32) or object; the fields below go before it"),
        Option(
            "The load, as `plan` reads it: isl=4000,osl=500,concurrency=32; spread=0.8-1 for lengths as the public "
            "harnesses draw them, dataset=sharegpt for those of a public data set; or a trace. The options below go "
            "before it; --isl and --osl not beside recorded lengths.",
            ENGINE,
        ),
    ] = None
    isl: Annotated[
        Tokens | None,
        BeforeValidator(tokens_input, json_schema_input_type=int | str | None),
        Field(description="tokens of a prompt"),
        Option("Prompt: 4000, 128k.", ENGINE, metavar="TOKENS", text=True),
    ] = None
    osl: Annotated[
        Tokens | None,
        BeforeValidator(tokens_input, json_schema_input_type=int | str | None),
        Field(description="tokens of an answer"),
        Option("Output.", ENGINE, metavar="TOKENS", text=True),
    ] = None
    concurrency: Annotated[
        Count | None,
        Field(description="requests that the client keeps in flight, of the whole engine"),
        Option(
            "Requests that the client keeps in flight, of the whole engine (a burst, then one for each answered).",
            ENGINE,
            metavar="N",
        ),
    ] = None
    rate: Annotated[
        Annotated[float, Field(gt=0, le=1e8), PLAIN_NUMBER] | None,
        Field(description="instead: requests per second that arrive at random (Poisson)"),
        Option(panel=ENGINE, metavar="RPS"),
    ] = None
    images: Annotated[
        Count | None,
        Field(description="in each prompt, beside isl tokens of text; with image"),
        Option("In each prompt, beside its text; with --image.", ENGINE, metavar="N"),
    ] = None
    image: Annotated[
        Annotated[str, Field(pattern=f"^{SIZE_PATTERN}$")] | None,
        Field(description="width x height of each image, pixels: 1024x1024"),
        Option("Size of each image in pixels, as 1024x1024.", ENGINE, metavar="WxH"),
    ] = None


class PredictionRequest(Document):
    """Configurations to predict, or the engines of a plan or a deployment."""

    configurations: tuple[Configuration, ...] = Field(default=(), max_length=MOST_CONFIGURATIONS)
    plan: Annotated[
        RunningOrNone,
        Field(description="instead: a plan or a deployment, of which each group of engines is predicted"),
    ] = None
    workload: Annotated[
        WorkloadOrNone,
        Field(description="of the whole plan or deployment, which its engines share; null: a plan's own"),
    ] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> PredictionRequest:
        if self.plan is None and self.workload is not None:
            raise ValueError("workload: has no effect without a plan; give each configuration its own")
        if self.plan is not None and self.configurations:
            raise ValueError("configurations: a plan is given too; give one of them")
        if self.plan is None and not self.configurations:
            raise ValueError("configurations: there are none; give one, or a plan")
        return self

    @property
    def asked(self) -> tuple[Configuration, ...]:
        """The configurations; of a plan, one for each group of engines. Raises as :func:`engines_asked`."""
        return self.configurations if self.plan is None else engines_asked(self.plan, self.workload)


SEVERAL = "plan simulate replays each service's requests"
"""The way out where one row cannot say what a fleet's requests see."""


def engines_asked(document: Plan | DeploymentDocument, workload: Workload | None) -> tuple[Configuration, ...]:
    """One engine of each group of a document, under its share of the load.

    Raises:
        InputError: several services; engines that prefill for others, and those; a deployment without a load; engines
            of one role alone at a rate, as they are asked at a batch.
    """
    from planner.serving.document.opening import (
        LENGTHS_HINT,
        check_drafting,
        check_one_load,
        engine_fields,
        running_of,
    )

    check_one_load(document, "plan", SEVERAL)
    work = workload
    if isinstance(document, DeploymentDocument):
        if workload is None:
            raise InputError("workload: a deployment does not say what requests are like", LENGTHS_HINT)
        check_drafting(document, workload)
    elif work is None:
        rate = document.request.workload.rate_rps or document.prediction.request_rate_rps.value
        work = document.request.workload.model_copy(update={"rate_rps": rate, "concurrency": None})
    assert work is not None
    if not work.has_load:
        raise InputError("workload: says no load", "add rate=… (requests/s) or concurrency=… (users at once)")
    asked = []
    together = len({group.role for group in running_of(document).engines}) > 1
    for group in running_of(document).engines:
        if group.role != "aggregated" and together:
            raise InputError(
                f"plan: {group.id} only {'prefills' if group.role == 'prefill' else 'decodes'}: formulas of one engine "
                "do not say what its requests see",
                "predict the whole document, which replays a load against all engines",
            )
        share = sum(replica.weight for replica in group.replicas) / len(group.replicas)
        load: dict[str, float | int] = {}
        if work.rate_rps is not None:
            load["rate_rps"] = work.rate_rps * share
        elif work.concurrency is not None:
            load["concurrency"] = max(round(work.concurrency * share), 1)
        state = {
            "clock": None if group.clock_mhz is None else f"{group.clock_mhz}MHz",
            "power_cap": None if group.power_cap_watts is None else f"{group.power_cap_watts:g}W",
        }
        fields = {**engine_fields(document, group), **state, "workload": work.model_copy(update=load)}
        asked.append(Configuration(**fields))
    return tuple(asked)


Cell = int | float | str | None


class Predictions(Published):
    """A row for each configuration."""

    kind: Literal["predictions"] = "predictions"
    schema_version: Literal["1.2"] = SCHEMA_VERSION
    rows: tuple[dict[str, Cell], ...] = Field(
        description="what was given, as it was given, and: ttft_ms, tpot_ms and e2e_ms, each _mean with its 80 % "
        "interval _low to _high, _p50 of requests with _p50_low to _p50_high, and _p99; itl_ms_p50 and itl_ms_p90, of "
        "the time between tokens; output_tokens_per_s_per_gpu; watts_per_gpu, the mean over time, idle included; all "
        "energy ÷ prompt tokens (joules_per_input_token) and ÷ output tokens (joules_per_output_token); "
        "memory_bytes_per_gpu; kv_tokens of an attention rank; how (known from); release (of the framework); note; "
        "error: why there is no prediction, empty where there is one"
    )
    scores: Scores | None = Field(default=None, description="against what was measured (`--measured`)")
    provenance: Provenance


OLDER: dict[str, Upgrade] = {"1.0": as_it_is, "1.1": as_it_is}
"""Versions that still open."""


def parse_predictions(text: str, where: str = "predictions") -> Predictions:
    """Predictions from their JSON. Raises as :func:`planner.contract.published.parse_published`."""
    return parse_published(text, Predictions, where, OLDER)


def parse_prediction_request(value: Mapping[str, Any]) -> PredictionRequest:
    """A request from a mapping. Raises InputError with the first field that is wrong."""
    return checked(PredictionRequest, value, "request", schema="predictions-request")


def predictions(
    request: PredictionRequest,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> Predictions:
    """The predictions of ``request``; a configuration that cannot be predicted says why in ``error``.

    Raises:
        InputError: two models of one name that differ.
    """
    import pandas as pd

    from planner.serving.prediction_table import predict

    given: dict[str, ModelConfig] = {}
    heads: dict[str, ModelConfig] = {}
    loads: dict[str, Workload] = {}
    records = []
    for configuration in request.asked:
        record = {name: str(value) for name, value in configuration if value is not None}
        if not isinstance(configuration.model, str):
            record["model"] = configuration.model.name
            if given.setdefault(record["model"], configuration.model) != configuration.model:
                raise InputError(
                    f"configurations: two models are called {record['model']!r}, and differ", "give each its own name"
                )
        if isinstance(head := configuration.draft_model, ModelConfig):
            record["draft_model"] = head.name
            if heads.setdefault(head.name, head) != head:
                raise InputError(
                    f"configurations: two draft models are called {head.name!r}, and differ", "give each its own name"
                )
        if configuration.workload is not None:
            record["workload"] = configuration.workload.model_dump_json(exclude_defaults=True)
            loads[record["workload"]] = configuration.workload
        records.append({"concurrency": "", "isl": "", "osl": "", **record})

    def find_model(name: str, head: str) -> Architecture:
        return drafting_with(architecture_of(given.get(name, name)), heads.get(head, head or None))

    def find_workload(text: str) -> Workload:
        return loads.get(text) or parse_workload(text)

    table = predict(
        pd.DataFrame(records).fillna(""),
        measured=measured,
        progress=progress,
        find_model=find_model,
        find_workload=find_workload,
    )
    return document_of(table, measured)


def document_of(
    table: pd.DataFrame, measured: Sequence[ProfileStore] = (), scores: Scores | None = None
) -> Predictions:
    """The document of a table that :func:`planner.serving.prediction_table.predict` made, and its scores."""
    from costmodels.kernels.cost_model import cost_model_version
    from planner.contract.words import columns_of
    from planner.serving.prediction_table import ADDED, OPTIONAL, PREDICTED_PREFIX, PREDICTED_SUFFIX, REQUIRED
    from profiles.store import shipped_pack

    ours = {*ADDED, *REQUIRED, *OPTIONAL} - TEXTS
    columns = [str(name) for name in table.columns]
    numbers = {name for name in columns if _own(name, PREDICTED_PREFIX, PREDICTED_SUFFIX) in ours}
    gpu = "gpu" if "gpu" in columns else columns_of(columns, ["gpu"])["gpu"][0]
    rows = tuple(
        {name: _cell(value) if name in numbers else str(value) for name, value in zip(columns, row, strict=True)}
        for row in table.itertuples(index=False, name=None)
    )
    store = shipped_pack()
    fields = provenance_fields(store, measured, set(table[gpu]), cost_model_version(store, measured), ())
    return Predictions(rows=rows, scores=scores, provenance=Provenance(**fields)).sealed()


def _own(name: str, prefix: str, suffix: str) -> str:
    """The column of ours that ``name`` holds where another of its name was there."""
    return re.sub(f"^({prefix})+|({suffix})+$", "", name)


TEXTS = {
    *(
        "model",
        "draft_model",
        "gpu",
        "framework",
        "version",
        "date",
        "precision",
        "kv_precision",
        "clock",
        "power_cap",
        "workload",
        "image",
    ),
    *("mode", "spec", "spread"),
    *("role", "exchange", "overlap", "eplb", "step_ms_by_part", "tpot_ms_by_part", "ttft_ms_by_part"),
    *("how", "release", "note", "error"),
}
"""Columns that hold no numbers."""


def _cell(text: str) -> Cell:
    """A number as a number, a blank as null, and what is neither as it is: its row says that in ``error``."""
    text = str(text).strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    if value != value or value in (float("inf"), float("-inf")):
        return text
    return int(value) if value.is_integer() and "." not in text and "e" not in text.casefold() else value
