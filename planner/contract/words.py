"""Words that people paste, understood as ours (``words.yaml``)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from profiles.errors import InputError
from profiles.shipped import shipped
from profiles.values import shown

if TYPE_CHECKING:  # deferred: the words of requests are needed where no model is (--help)
    from costmodels.models.architecture import Architecture
    from costmodels.models.precision import Precision
    from costmodels.serving.frameworks.framework import Framework
    from profiles.hardware import Gpu


class TakenFor(BaseModel):
    """What a name with several meanings is taken for in a table, and why that does no harm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str
    because: str


class Words(BaseModel):
    """The table; its file says what each part is of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precisions: dict[str, tuple[str, ...] | None]
    kv_precisions: dict[str, str]
    metrics: dict[str, Literal["ttft", "tpot", "e2e"]]
    speeds: tuple[str, ...]
    statistics: dict[str, float]
    columns: dict[str, str]
    measured_too: tuple[str, ...]
    of_clients: dict[str, tuple[str, ...]]
    blanks: tuple[str, ...]
    measured: dict[str, dict[Literal["per GPU", "of all GPUs"], tuple[str, ...]]]
    gpus: dict[str, TakenFor]
    machines: tuple[str, ...]
    containers: dict[str, tuple[str, ...]]
    sources: dict[str, str]


@cache
def words() -> Words:
    return shipped(Path(__file__).parent / "words.yaml", Words.model_validate)


def folded(word: str) -> str:
    """As the table spells it."""
    return re.sub(r"[\s-]+", "_", word.strip().casefold())


def exchange_word(word: str) -> str:
    """What experts' tokens are exchanged by, folded; one word for those by which all ranks gather them."""
    return "none" if folded(word) in ("allgather_reducescatter", "allgather", "naive") else folded(word)


def precision_of(model: Architecture, weights: str | None = None, kv: str | None = None) -> Precision:
    """The precision to run ``model`` in, asked for in anybody's words. Raises as :func:`choose_precision`."""
    from costmodels.models.precision import choose_precision

    return choose_precision(model, weights_precision(weights, model), kv and kv_precision(kv))


def precision_on(
    framework: Framework,
    gpu: Gpu,
    model: Architecture,
    weights: str | None = None,
    kv: str | None = None,
    *,
    ran: bool = False,
) -> tuple[Precision, str]:
    """(as :func:`precision_of`, with the cache that the framework keeps where nobody says it; what decides that, for
    the reader, empty where there is nothing to tell). Of engines that ``ran``, fp8 of weights that are published in
    mxfp4 alone is of something else (activations, cache): they are taken as published, and that is told.

    Raises:
        Unsupported: the checkpoint's own cache, which the framework takes, is not modelled; also as
            :func:`precision_of`.
    """
    from costmodels.serving.frameworks.caches import default_cache

    told = ""
    if ran and model.weight_precision == "mxfp4" and weights_precision(weights, model) == "fp8":
        told = f"precision: {shown(weights)} is not of {model.name}'s weights, which are published in mxfp4: taken so"
        weights = None
    found = precision_of(model, weights, kv)
    if kv is not None:
        return found, told
    default = default_cache(framework, model, gpu, found)
    return replace(found, kv=default.precision), "; ".join(filter(None, (told, default.told)))


def weights_word(word: str) -> str:
    """Our word for a precision of weights, whatever the model: ``fp4`` and ``auto`` go by how it is published."""
    found = words().precisions.get(folded(word), (folded(word),))
    return "auto" if found is None else found[0] if len(found) == 1 else folded(word)


def weights_precision(word: str | None, model: Architecture) -> str | None:
    """Our name of a precision of weights, None for "as published"; a word that is not in the table stays as it is.

    Raises:
        InputError: the word says that the checkpoint is quantized, and the model's is not.
    """
    if word is None:
        return None
    known = words().precisions
    found = known.get(folded(word), (folded(word),))
    if not found:
        if found is not None and model.weight_precision in ("bf16", "fp16", "fp32"):
            raise InputError(
                f"precision: {shown(word)} does not say to how many bits, and {model.name} is published in "
                f"{model.weight_precision}",
                "give precision=fp8, int4, nvfp4, ...",
            )
        return None
    return model.weight_precision if model.weight_precision in found else found[0]


def kv_precision(word: str) -> str:
    """Our name of a precision of the KV cache; a word that is not in the table stays as it is."""
    return words().kv_precisions.get(folded(word), folded(word))


_OTHERWISE = {
    "isl": {"workload", "total_input_tokens"},
    "osl": {"workload", "total_output_tokens"},
    "concurrency": {"workload"},
    "rate": {"workload", "concurrency"},
}
"""What is asked → what else says it."""


def columns_of(columns: Collection[str], known: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Ours → the columns of other names that mean it, in their order. What results call what was measured, too, is what
    was asked where no other column says it."""
    given, ours, places = set(columns), set(known), {name: i for i, name in enumerate(words().measured_too)}
    clients = {name for sign, names in words().of_clients.items() if sign in given for name in names}
    found: dict[str, tuple[str, ...]] = {}
    asked = set(given)  # what columns say that hold nothing else
    for name in sorted(columns, key=lambda name: places.get(folded(name), -1)):
        own = words().columns.get(folded(name), folded(name))
        if name in ours or own not in ours or folded(name) in clients:
            continue
        if folded(name) in places:
            if own in asked or (given | set(found)) & _OTHERWISE.get(own, set()):
                continue
        else:
            asked.add(own)
        found[own] = (*found.get(own, ()), name)
    return found


def cell(text: str) -> str:
    """What a cell of a table says; empty where it says that it is blank (``nan``, ``None``)."""
    text = text.strip()
    return "" if text.casefold() in words().blanks else text


DP_ATTENTION = ("dp_attention", "enable_dp_attention", "attention_dp", "enable_attention_dp")
"""Columns that say whether attention is data parallel within the group: InferenceX's, SGLang's and TensorRT-LLM's."""


def attention_is_data_parallel(record: Mapping[str, str]) -> bool:
    """Whether a row says so by a switch."""
    said = {folded(name): value for name, value in record.items()}
    return any(said.get(name, "").strip().casefold() in ("true", "1", "yes") for name in DP_ATTENTION)
