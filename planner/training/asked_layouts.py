"""The answers to requests for training layouts that people name: :mod:`planner.training.layouts` has the documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from planner.contract.models import ModelConfig
from planner.training.layouts import (
    LayoutsRequest,
    TrainingMemories,
    TrainingPredictions,
    memories_of,
    predictions_of,
)
from planner.training.meanings import COLUMNS
from profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from costmodels.training.models import TrainedModel
    from profiles.hardware import Catalogue
    from profiles.store import ProfileStore


def training_predictions(
    request: LayoutsRequest,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> TrainingPredictions:
    """The predictions of ``request``; a layout that cannot be predicted says why in ``error``.

    Raises:
        InputError: two models of one name that differ.
    """
    from planner.training.named import predict

    table, find_model = table_of(request)
    return predictions_of(predict(table, measured=measured, progress=progress, find_model=find_model), measured)


def training_memories(request: LayoutsRequest, catalogue: Catalogue) -> TrainingMemories:
    """What the layouts of ``request`` hold; one that cannot be said of says why in ``error``.

    Raises:
        InputError: two models of one name that differ.
    """
    from planner.training.named import memories

    table, find_model = table_of(request)
    return memories_of(*memories(table, catalogue, find_model=find_model))


def table_of(request: LayoutsRequest) -> tuple[pd.DataFrame, Callable[[str], TrainedModel]]:
    """(the layouts as a table of text; what finds their models, in the request or bundled: no file is read)."""
    import pandas as pd

    from planner.training.request import model_of

    given: dict[str, ModelConfig] = {}
    records = []
    for layout in request.layouts:
        record = {name: _text(value) for name, value in layout if value is not None}
        if isinstance(layout.model, ModelConfig):
            record["model"] = layout.model.name
            if given.setdefault(record["model"], layout.model) != layout.model:
                raise InputError(
                    f"layouts: two models are called {record['model']!r}, and differ", "give each its own name"
                )
        records.append(record)
    table = pd.DataFrame(records).fillna("")
    found: dict[str, TrainedModel] = {}

    def find_model(name: str) -> TrainedModel:
        if name not in found:
            found[name] = model_of(given.get(name, name))
        return found[name]

    return table[[name for name in COLUMNS if name in table.columns]], find_model


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
