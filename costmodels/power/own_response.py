"""How a user's own GPU answers to its clock (``plan profile collect --clocks``), in the folder of a profile store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from costmodels.power.response import ClockResponse, PhaseResponse, clock_response
from profiles.collect.response import FILE
from profiles.typed_json import StoreFile

_Three = tuple[float, float, float]


class _Phase(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    clocked: Annotated[_Three, Field(description="value, low, high")]
    exponent: _Three

    @model_validator(mode="after")
    def _in_order(self) -> _Phase:
        for name, most in (("clocked", 1.0), ("exponent", 10.0)):
            value, low, high = getattr(self, name)
            if not 0 <= low <= value <= high <= most:
                raise ValueError(f"{name}: {low:g}, {value:g}, {high:g} do not rise within 0 and {most:g}")
        return self


class _Response(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    prefill: _Phase
    decode: _Phase
    source: str
    date: str
    points: tuple[dict[str, float | str | None], ...] = ()


CLOCK_RESPONSES = StoreFile(
    FILE,
    "clock response",
    "measure again with plan profile collect --clocks, or leave the file out",
    TypeAdapter(dict[str, _Response]),
)


def response_of(gpu: str, folders: Iterable[Path]) -> ClockResponse:
    """Of ``gpu``: as the last of these stores' folders measured it, else what ships.

    Raises:
        DataError: a file is broken.
    """
    own = CLOCK_RESPONSES.last_in(folders, lambda entries: entries.get(gpu))
    if own is None:
        return clock_response(gpu)
    return ClockResponse(_phase(own.prefill), _phase(own.decode), measured=True)


def _phase(said: _Phase) -> PhaseResponse:
    return PhaseResponse(said.clocked, said.exponent)
