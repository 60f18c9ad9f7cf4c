"""Columns of one table that mean the same: the first is read, the others where it is blank, and they must agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from costmodels.operations.layouts import DEGREES
from planner.contract.words import columns_of, folded, words
from planner.serving.asked_rows import USUAL, drafts_of
from planner.serving.containers import CONTAINER, container_column
from planner.serving.harness_words import SIGNS
from profiles.errors import InputError
from profiles.values import number, shown, whole

if TYPE_CHECKING:
    import pandas as pd

COUNTS = (*DEGREES, "num_gpus")
"""What a run has one of, whatever its columns are called."""

ASKED = ("isl", "osl", "concurrency", "rate", "requests")
"""Counts of which a column of our own name goes before others, which may hold what was measured or a default."""

NAMES = ("model", "gpu", "framework", "version")
MTP = "mtp"
"""Column of how many tokens a model drafts a step, or whether it does."""

SAME = 0.01
"""Share by which two numbers may differ that mean the same, asked or measured."""


def columns_read(table: pd.DataFrame, known: Collection[str]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """(Column → ours, of those that are read by another name; ours → the columns beside the one that is read)."""
    meant: dict[str, str] = {}
    beside: dict[str, tuple[str, ...]] = {}
    for own, (first, *others) in columns_of(table.columns, known).items():
        if own in table.columns:
            beside[own] = (first, *others)
            continue
        meant[first] = own
        if others:
            beside[own] = tuple(others)
    if "spec" in (*table.columns, *meant.values()) and (drafts := _drafts_column(table, meant)):
        beside["spec"] = (*beside.get("spec", ()), drafts)
    meant |= {
        each: folded(each) for each in table.columns if folded(each) in SIGNS and folded(each) not in table.columns
    }
    if CONTAINER not in table.columns and (container := container_column(table)):
        meant[container] = CONTAINER
    return meant, beside


def _drafts_column(table: pd.DataFrame, meant: Mapping[str, str]) -> str | None:
    """The column ``mtp`` of ``table`` where another one is read as ``spec``."""
    return next((each for each in map(str, table.columns) if folded(each) == MTP and each not in meant), None)


def with_drafts(table: pd.DataFrame, meant: Mapping[str, str]) -> pd.DataFrame:
    """``table`` in our columns, whose ``spec`` says ``mtp3`` for the 3 of a column ``mtp``: tokens a step, or where it
    has but 0 and 1, whether the model drafts. It keeps its name beside another column
    of drafts."""
    named = [name for name, own in meant.items() if folded(name) == MTP and own == "spec"]
    column = "spec" if named else _drafts_column(table, meant)
    if column is None:
        return table
    said = table[column].astype(str).str.strip()
    counts = said.map(lambda text: whole(text.removesuffix(".0")))
    switch = not (counts > 1).any()
    words = [
        text if not n else "mtp" if switch else f"mtp{n:g}" for text, n in zip(said, counts.fillna(0), strict=True)
    ]
    return table.assign(**{column: [word.removesuffix(".0") for word in words]})


def agreed(
    record: Mapping[str, str], beside: Mapping[str, tuple[str, ...]], ours: Collection[str], notes: list[str]
) -> dict[str, str]:
    """``record`` with what only columns ``beside`` those that are read say; adds to ``notes`` which name was read.

    Args:
        ours: columns that the table has by our own names.

    Raises:
        InputError: two columns contradict each other.
    """
    out = dict(record)
    for own, names in beside.items():
        for name in names:
            text, read = record.get(name, ""), out.get(own, "")
            if not text or _same(own, read, text):
                continue
            if not read:
                out[own] = text
            elif own == "spec":
                out[own] = _drafting(name, read, text)
            elif own in COUNTS or (own in (*ASKED, "precision") and own not in ours):
                raise InputError(
                    f"{own}, {name}: {shown(read)} and {shown(text)} contradict each other", "keep the one that holds"
                )
            elif own in NAMES:
                notes.append(f"{own}: {shown(read)} is read, not {shown(text)} in {name}")
    return out


def _drafting(name: str, read: str, text: str) -> str:
    """The one of two cells on drafting that says how many tokens a step, where one of them does.

    Raises:
        InputError: they contradict each other; a model that drafts with a head has no ``mtp`` (0).
    """
    said, other = drafts_of(read), drafts_of(text)
    heads = read.casefold().startswith("eagle") and not other
    if not heads and (bool(said) != bool(other) or (USUAL not in (said, other) and said != other)):
        raise InputError(
            f"spec, {name}: {shown(read)} and {shown(text)} contradict each other", "keep the one that holds"
        )
    return text if said == USUAL and not heads else read


def _same(own: str, first: str, second: str) -> bool:
    if own == "precision":
        known = words().precisions
        both = [set(known.get(folded(each), (folded(each),)) or ()) for each in (first, second)]
        return not all(both) or bool(both[0] & both[1])
    numbers = number(first), number(second)
    if numbers[0] is not None and numbers[1] is not None:
        return abs(numbers[0] - numbers[1]) <= SAME * abs(numbers[0])
    return folded(first) == folded(second)
