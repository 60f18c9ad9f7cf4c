"""How far predictions are from what was measured: errors, bias, and whether intervals hold what they claim."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from costmodels.estimates import COVERAGE, Floats
from planner.contract.words import cell
from planner.serving.campaigns import WHO
from planner.serving.measured.columns import ENDS, Measured
from planner.serving.measured.document import ALL, LeftOut, Score, Scores
from planner.serving.measured.read import not_read
from planner.serving.prediction_table import OPTIONAL, REQUIRED, added_columns
from profiles.errors import InputError

FIELDS = frozenset((*REQUIRED, *OPTIONAL, *WHO))

AGAIN = "the same as a row before, in every column"

WIDTHS = np.geomspace(0.005, 2.5, 200)
"""Half-widths (log) among which the best single one is sought."""


def scores_of(answer: pd.DataFrame, measured: Measured, by: Sequence[str] = ()) -> Scores:
    """Scores of ``answer``, as :func:`planner.serving.prediction_table.predict` made it beside ``measured``.

    Args:
        by: columns of it, each of which cuts the rows anew.

    Raises:
        InputError: there is no such column.
    """
    columns = {name: column if column in answer else name for name, column in written(answer).items()}
    for name in by:
        if name not in answer.columns:
            raise InputError(
                f"--by: there is no column {name}", f"name one of {', '.join(map(str, answer.columns[:12]))}, …"
            )
    errors = answer[columns["error"]].astype(str)
    reasons = Counter(text.partition("; ")[0] for text in errors if text)
    out: list[Score] = []
    anything = np.zeros(len(answer), np.bool_)
    for quantity, truth in measured.values.items():
        if quantity not in columns:
            continue
        ends = ENDS.get(quantity, quantity)
        names = [columns[quantity], *(columns.get(f"{ends}_{end}") for end in ("low", "high"))]
        predicted, low, high = (
            np.full(len(answer), np.nan) if name is None else pd.to_numeric(answer[name], errors="coerce").to_numpy()
            for name in names
        )
        both = np.isfinite(truth) & np.isfinite(predicted)
        anything |= both
        if not both.any():
            continue
        logs = np.log(np.stack([truth, predicted, low, high]))
        single = best_single_score(logs[0, both] - logs[1, both])
        cuts = [(ALL, np.full(len(answer), ALL, dtype=object)), *((name, _groups(answer[name])) for name in by)]
        for column, groups in cuts:
            for group in sorted(set(groups[both])):
                index = both & (groups == group)
                out.append(_score(quantity, column, str(group), logs[:, index], single))
    predicted_rows, again = (errors == "").to_numpy(), int(answer.duplicated().sum())
    return Scores(
        rows=len(answer),
        left_out=tuple(LeftOut(reason=reason, rows=rows) for reason, rows in reasons.most_common()),
        unmeasured=int((predicted_rows & ~anything).sum()),
        scores=tuple(out),
        unread=tuple(LeftOut(reason=reason, rows=cells) for reason, cells in measured.unread),
        assumed=(
            *((LeftOut(reason=f"{AGAIN}, counted again", rows=again),) if again else ()),
            *(LeftOut(reason=text, rows=len(answer)) for text in measured.taken),
            *_assumed(answer[columns["note"]]),
        ),
        not_read=not_read(answer.columns, set(by)),
    )


def _assumed(notes: pd.Series) -> tuple[LeftOut, ...]:
    """Notes that begin with the column that they are of, alike but for their numbers, the first of each kind."""
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}
    for note in notes.astype(str):
        for text in note.split("; "):
            names, colon, _ = text.partition(": ")
            if colon and set(names.split(", ")) <= FIELDS:
                kind = re.sub(r"\d[\d.,]*", "0", text)
                kinds[kind] += 1
                first.setdefault(kind, text)
    return tuple(LeftOut(reason=first[kind], rows=rows) for kind, rows in kinds.most_common())


def written(answer: pd.DataFrame) -> dict[str, str]:
    """The column that each prediction was written to: the one with the longest suffix that is there."""
    given = [name for name in answer.columns if not str(name).endswith("_predicted")]
    own = [str(name) for name in given if f"{name}_predicted" in answer.columns]
    return added_columns(own, beside_measured=True)


def _groups(values: pd.Series) -> np.ndarray:
    return np.array([cell(str(value)) or "–" for value in values], dtype=object)


def interval_score(logs: Floats) -> Floats:
    """Of rows [measured, predicted, low, high], logarithms, [n]."""
    truth, _, low, high = logs
    missed = np.maximum(low - truth, 0.0) + np.maximum(truth - high, 0.0)
    return np.asarray(high - low + 2 / (1 - COVERAGE) * missed)


def best_single_score(errors: Floats) -> float:
    """The least mean interval score of one half-width for all ``errors`` (log, n)."""
    missed = np.maximum(np.abs(errors)[None] - WIDTHS[:, None], 0.0)
    return float((2 * WIDTHS + 2 / (1 - COVERAGE) * missed.mean(axis=1)).min())


def _score(quantity: str, by: str, group: str, logs: Floats, single: float) -> Score:
    truth, predicted, low, high = logs
    ratio = np.expm1(predicted - truth)
    size = np.abs(ratio)
    told = bool(np.isfinite(logs).all())
    score = float(interval_score(logs).mean())

    def pct(value: float) -> float:
        return round(100 * float(value), 1)

    return Score(
        quantity=quantity,
        by=by,
        group=group,
        rows=logs.shape[1],
        mape_pct=pct(size.mean()),
        median_pct=pct(np.median(size)),
        p90_pct=pct(np.quantile(size, 0.9)),
        bias_pct=pct(np.median(ratio)),
        coverage_pct=pct(((low <= truth) & (truth <= high)).mean()) if told else None,
        interval_score=round(score, 4) if told else None,
        against_one_width=round(score / single, 4) if told else None,
    )
