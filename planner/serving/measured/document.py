"""How far predictions are from what was measured, as a document says it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from planner.contract.documents import Document
from planner.contract.sparse import Sparse

ALL = "all"


class Score(Document):
    """Of one quantity, over the rows whose column ``by`` holds ``group``."""

    quantity: str = Field(description="column of the prediction")
    by: str = Field(description="column that cuts the rows; all: none does")
    group: str = Field(description="what that column holds; – where it is blank")
    rows: int = Field(description="measured and predicted")
    mape_pct: float = Field(description="mean of |predicted ÷ measured − 1|")
    median_pct: float = Field(description="its median")
    p90_pct: float = Field(description="its 90th percentile")
    bias_pct: float = Field(description="median of predicted ÷ measured − 1")
    coverage_pct: float | None = Field(description="rows within their 80 % interval; null: it has none")
    interval_score: float | None = Field(
        description="mean over rows of the interval's width and ten times what it misses by, in logarithms"
    )
    against_one_width: float | None = Field(
        description="the same ÷ that of the best single width for all rows of the quantity; below 1 where intervals "
        "know which predictions are sure"
    )


class LeftOut(Document):
    """Rows without a prediction."""

    reason: str
    rows: int


class Scores(Sparse):
    """Predictions against what was measured: of everything, then by each column asked for."""

    SELDOM: ClassVar = ("unread", "assumed", "not_read")

    rows: int = Field(description="of the table")
    left_out: tuple[LeftOut, ...] = Field(description="rows that were not predicted, by reason")
    unmeasured: int = Field(description="predicted rows of which nothing was measured")
    scores: tuple[Score, ...]
    unread: tuple[LeftOut, ...] = Field(
        default=(), description="measured cells that hold no number, and were taken as not measured; rows: of cells"
    )
    assumed: tuple[LeftOut, ...] = Field(
        default=(), description="what rows left unsaid or said otherwise, and was taken; an example of each kind"
    )
    not_read: tuple[str, ...] = Field(default=(), description="columns of which nothing was read")
