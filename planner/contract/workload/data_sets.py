"""How long the requests of public data sets are (``data_sets.yaml``): a workload's lengths by the name of their set."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from planner.contract.words import folded
from planner.contract.workload.lengths import Recorded
from profiles.errors import InputError, UnknownName
from profiles.shipped import shipped
from profiles.values import shown

AS_GIVEN = "none of it"
"""What part of a data set a rate is of."""


class DataSet(BaseModel):
    """Requests that stand for all of a data set, each for as many as the others; ``longest``: prompt and output of the
    longest, which is not among them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    words: tuple[str, ...]
    requests: int = Field(gt=0)
    source: str
    read: dt.date
    sent: str
    longest: tuple[int, int]
    isl: tuple[int, ...]
    osl: tuple[int, ...]

    @model_validator(mode="after")
    def _joint(self) -> DataSet:
        if len(self.isl) != len(self.osl) or min(*self.isl, *self.osl) < 1:
            raise ValueError(f"{self.title}: lengths are not those of requests")
        return self


@lru_cache(maxsize=1)
def data_sets() -> dict[str, DataSet]:
    """By name."""
    path = Path(__file__).parent / "data_sets.yaml"
    return shipped(path, lambda document: {name: DataSet.model_validate(each) for name, each in document.items()})


def data_set_meant(text: str) -> str | None:
    """The name of the data set that ``text`` is a word or a path of (``ShareGPT_V3_…split.json``); None: of none."""
    word = folded(Path(text.strip()).name.removesuffix(".jsonl").removesuffix(".json").removesuffix(".csv"))
    return next((name for name, each in data_sets().items() if word == name or word in each.words), None)


def lengths_of(text: str, isl: int | None, osl: int | None, max_len: int | None) -> dict[str, Any]:
    """Fields of a workload whose lengths are those of the data set called ``text``.

    Args:
        isl, osl: means that they are scaled to; None: their own.
        max_len: longest request that is served; None: the longest of the set.

    Raises:
        UnknownName: no set is called so.
        InputError: a mean is no length, or ``max_len`` is less than every request has.
    """
    for field, mean in (("isl", isl), ("osl", osl)):
        if mean is not None and mean < 1:
            raise InputError(
                f"workload: {field}: {mean} should be greater than 0",
                "give the mean that lengths are scaled to, or leave it out for those of the data set",
            )
    name = data_set_meant(text)
    if name is None:
        raise UnknownName("data set", text, data_sets())
    each = data_sets()[name]
    factors = [1.0 if mean is None else mean * len(own) / sum(own) for mean, own in ((isl, each.isl), (osl, each.osl))]
    pairs = [_scaled(pair, factors) for pair in zip(each.isl, each.osl, strict=True)]
    served = [pair for pair in pairs if max_len is None or sum(pair) <= max_len]
    if not served:
        raise InputError(
            f"workload: max_len={max_len} is less than every request of {shown(name)} has",
            f"give at least {max(map(sum, pairs))} to serve them all",
        )
    served.sort(key=sum)
    prompts, outputs = (tuple(column) for column in zip(*served, strict=True))
    recorded = Recorded(
        name=each.title,
        requests=each.requests,
        seconds=0.0,
        rate_of=AS_GIVEN,
        refused_share=1 - len(served) / len(pairs),
        isl=prompts,
        osl=outputs,
    )
    most = sum(_scaled(each.longest, factors)) if max_len is None else max_len
    return {"isl": _mean(prompts), "osl": _mean(outputs), "recorded": recorded, "max_len": max(most, sum(served[-1]))}


def _scaled(pair: tuple[int, int], factors: Sequence[float]) -> tuple[int, int]:
    """Prompt and output of a request, so many times as long."""
    isl, osl = (max(round(tokens * factor), 1) for tokens, factor in zip(pair, factors, strict=True))
    return isl, osl


def _mean(lengths: tuple[int, ...]) -> int:
    return max(round(sum(lengths) / len(lengths)), 1)
