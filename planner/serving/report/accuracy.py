"""What is published of the accuracy that a precision costs. Facts with their source, never a guess."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from profiles.shipped import shipped


class Figure(BaseModel):
    """One published comparison; ``accuracy.yaml`` says what each field means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    weights: tuple[str, ...]
    benchmark: str
    published: float
    converted: float
    source: str
    note: str | None = None


@cache
def figures() -> tuple[Figure, ...]:
    """Every figure on record.

    Raises:
        DataError: the file is broken.
    """
    return shipped(
        Path(__file__).parent / "accuracy.yaml",
        lambda document: tuple(Figure(**entry) for entry in document["figures"]),
    )


def published_accuracy(model: Architecture, precision: Precision) -> str:
    """In words, what ``precision`` is known to cost ``model`` in accuracy."""
    kv = "" if precision.kv == "bf16" else f"; of the {precision.kv} KV cache no published figure is on record"
    if not precision.converted:
        return "as published" + kv
    found = [f for f in figures() if f.model == model.name and precision.weights in f.weights]
    if not found:
        return f"no published figure on record for {precision.weights} weights" + kv
    said = "; ".join(
        f"{f.benchmark} {f.converted:g} against {f.published:g} as published ({f.source}"
        + (f"; {f.note})" if f.note else ")")
        for f in found
    )
    return said + kv
