"""In what kind of box rows among several GPUs were measured: what joins the GPUs is a part of such a row."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from profiles.columns import Columns, numbers, texts
from profiles.hardware import Catalogue
from profiles.shipped import shipped


class Box(BaseModel):
    """Rows of a store that were measured in another kind of box than their GPU usually comes in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str  # the name in its manifest
    operation: str
    gpu: str
    num_gpus: tuple[int, ...] = Field(min_length=1)
    joined_by: str  # a topology's name
    because: str
    source: str


@cache
def known_boxes() -> tuple[Box, ...]:
    return shipped(Path(__file__).parent / "packs" / "boxes.yaml", lambda entries: tuple(Box(**box) for box in entries))


def unlike_boxes(store: str, operation: str, catalogue: Catalogue) -> tuple[Box, ...]:
    """The boxes behind rows of ``operation`` in ``store`` that are unlike the nodes in which their GPUs usually come:
    these rows do not answer."""
    found = [box for box in known_boxes() if (box.store, box.operation) == (store, operation)]
    return tuple(box for box in found if _usual(box, catalogue) != box.joined_by)


def measured_in(boxes: tuple[Box, ...], rows: Columns) -> NDArray[np.bool_]:
    """Which of ``rows`` were measured in ``boxes``, shape [n]; they have at least the columns gpu and num_gpus."""
    found = np.zeros(len(rows["gpu"]), dtype=bool)
    for box in boxes:
        found |= texts(rows, "gpu").isin([box.gpu]) & np.isin(numbers(rows, "num_gpus"), box.num_gpus)
    return found


def _usual(box: Box, catalogue: Catalogue) -> str | None:
    topology = catalogue.topology(catalogue.find_gpu(box.gpu))
    return None if topology is None else topology.name
