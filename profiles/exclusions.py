"""Measured rows that do not answer, as data: which, and why."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from profiles.columns import Columns, Texts
from profiles.measurements import columns_of, find_operation
from profiles.shipped import shipped

Value = str | int


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rows(_Fact):
    """``where``: the values that rows have in some columns; ``splits``: of experts, (moe_tp, moe_ep), if not all."""

    where: dict[str, tuple[Value, ...]] = Field(min_length=1)
    splits: tuple[tuple[int, int], ...] = ()

    @field_validator("where", mode="before")
    @classmethod
    def _one_or_several(cls, where: dict[str, object]) -> dict[str, object]:
        return {name: value if isinstance(value, list | tuple) else [value] for name, value in where.items()}

    def may_have(self, column: str, value: str) -> bool:
        """Whether rows with ``value`` in ``column`` may be among them."""
        return value in self.where.get(column, (value,))

    def among(self, rows: Columns, given: frozenset[str] = frozenset()) -> NDArray[np.bool_]:
        """Which of ``rows`` they are, [n]; columns ``given`` have been looked at (:meth:`may_have`)."""
        found = np.ones(len(next(iter(rows.values()))), dtype=bool)
        for name, values in self.where.items():
            if name not in given:
                column = rows[name]
                texts = [str(value) for value in values]
                found &= column.isin(texts) if isinstance(column, Texts) else np.isin(column, values)
        if self.splits:
            one_of = np.zeros(len(found), dtype=bool)
            for tp, ep in self.splits:
                one_of |= (np.asarray(rows["moe_tp"]) == tp) & (np.asarray(rows["moe_ep"]) == ep)
            found &= one_of
        return found


class Excluded(_Fact):
    """Rows of a store that are left out for one reason."""

    store: str  # the name in its manifest
    operation: str
    because: str
    source: str
    rows: tuple[Rows, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _have_columns(self) -> Excluded:
        known = {column.name for column in columns_of(find_operation(self.operation))}
        for name in {name for each in self.rows for name in each.where}:
            if name not in known:
                raise ValueError(f"where: {name!r} is no column of rows of {self.operation}")
        return self


@cache
def known_exclusions() -> tuple[Excluded, ...]:
    """All that the package lists."""
    path = Path(__file__).parent / "packs" / "excluded.yaml"
    return shipped(path, lambda entries: tuple(Excluded.model_validate(entry) for entry in entries))


def exclusions(store: str, operation: str) -> tuple[Excluded, ...]:
    """What is left out of ``operation`` in the store of that name."""
    return tuple(each for each in known_exclusions() if (each.store, each.operation) == (store, operation))


def listed_in(
    excluded: tuple[Excluded, ...], rows: Columns, framework: str, gpu: str | None = None
) -> NDArray[np.bool_]:
    """Which of ``rows``, all of one ``framework`` (and of one ``gpu``, where that is given), are ``excluded``; [n]."""
    given = frozenset({"framework"} if gpu is None else {"framework", "gpu"})
    found = np.zeros(len(next(iter(rows.values()))), dtype=bool)
    for each in (each for entry in excluded for each in entry.rows):
        if each.may_have("framework", framework) and (gpu is None or each.may_have("gpu", gpu)):
            found |= each.among(rows, given)
    return found
