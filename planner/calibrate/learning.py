"""Measured serving runs → the constants of the engines that they ran on."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from costmodels.estimates import Floats
from costmodels.serving.calibration_fit.asked import AskedLoops
from costmodels.serving.calibration_fit.fit import OWN_WEIGHTS, as_known, beside, nothing_known, weighed
from costmodels.serving.calibration_fit.learned import Learned, learn
from costmodels.serving.calibration_fit.runs import MeasuredRuns, day_of, runs_of
from costmodels.serving.frameworks.calibration import Effects
from costmodels.serving.frameworks.framework import find_framework
from planner.calibrate.worse import worse
from planner.contract.words import cell
from planner.serving.campaigns import WHO
from planner.serving.dates import day_stamped
from planner.serving.measured.columns import Measured, measured_columns
from planner.serving.measured.scores import AGAIN
from planner.serving.prediction_table import added_columns, predict
from profiles.errors import InputError
from profiles.store import ProfileStore

FEWEST = 8
"""Runs of a framework from which constants are learned."""

_STATISTICS = (("ttft_ms_mean",), ("ttft_ms_p50",), ("tpot_ms_mean",), ("tpot_ms_p50", "itl_ms_p50"))


@dataclass(frozen=True)
class Lesson:
    """What was learned; ``left_out``: rows that were not used, by reason; ``used``: those that were; ``before``:
    log(measured ÷ predicted) [4, n] with the constants that stood before; ``as_they_were``: the runs tell nothing
    beyond chance that those do not."""

    learned: Learned
    left_out: tuple[tuple[str, int], ...]
    used: int
    before: Floats
    as_they_were: bool = False

    @property
    def doubted(self) -> Lesson:
        """The same, its calibrations saying themselves where runs left out are predicted worse: plans repeat it."""
        lost = {name: tuple(sorted({each["what"] for each in told["worse"]})) for name, told in self.said().items()}
        marked = {
            name: each.model_copy(update={"doubtful": lost[name]}) for name, each in self.learned.calibrations.items()
        }
        return replace(self, learned=replace(self.learned, calibrations=marked))

    def said(self) -> dict[str, Any]:
        """By framework: ``runs``, ``errors`` in per cent by what was held out (``before``: the constants that stood),
        which of them got ``worse``, and what ``moved``."""
        out: dict[str, Any] = {}
        runs = self.learned.runs
        for name, calibration in self.learned.calibrations.items():
            mine = runs.framework == name
            logs = {"before": self.before, **self.learned.residuals}
            errors = {held: _errors(values[:, mine]) for held, values in logs.items()}
            moved = []
            for gpu in sorted(set(map(str, runs.gpu[mine]))):
                effect = calibration.effects.gpus[gpu]
                moved.append(
                    f"{gpu}: steps {_factor(effect.step)}, steps with prompts {_factor(effect.prompts)}, "
                    f"front end {_factor(effect.front)} of what the kernels and the framework's constants say"
                )
            lost = [
                each
                for metric in ("ttft", "tpot")
                for each in worse({held: figures[metric] for held, figures in errors.items()}, metric)
            ]
            out[name] = {"runs": int(mine.sum()), "errors": errors, "worse": lost, "moved": moved}
        return out

    def needs(self) -> list[str]:
        """What more runs would tell."""
        runs, out = self.learned.runs, []
        for label, few, what in (
            (runs.model, "one model", "a second model says what is the engine's and what the model's"),
            (runs.load.concurrency, "one concurrency", "runs at 1 and at many users part the front end from the steps"),
            (runs.campaign, "one campaign", "another machine or day says how far repeats are apart"),
        ):
            if len(set(label.tolist())) == 1:
                out.append(f"{few}: {what}")
        if not np.isfinite(runs.measured[:2]).any():
            out.append("no TTFT: the front end stays as shipped")
        if self.as_they_were:
            out.append("beyond chance these runs tell nothing else than the constants that stood, which hardly move")
        return out


def _factor(effect: float) -> str:
    return f"{np.exp(effect):.2f} x"


def _errors(logs: Floats) -> dict[str, dict[str, float] | None]:
    """|predicted ÷ measured − 1| in per cent, means before medians."""
    out: dict[str, dict[str, float] | None] = {}
    for name, at in (("ttft", 0), ("tpot", 2)):
        values = np.where(np.isfinite(logs[at]), logs[at], logs[at + 1])
        ratio = 100 * np.expm1(-values[np.isfinite(values)])
        out[name] = (
            {
                "mape": round(float(np.abs(ratio).mean()), 1),
                "median": round(float(np.median(np.abs(ratio))), 1),
                "bias": round(float(np.median(ratio)), 1),
            }
            if len(ratio)
            else None
        )
    return out


def calibrate(
    table: pd.DataFrame,
    *,
    measured: Sequence[ProfileStore] = (),
    fresh: bool = False,
    said: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> Lesson:
    """The constants of the engines in ``table``, columns as `plan predict --measured` reads them.

    Args:
        measured: profile stores laid over the shipped pack.
        fresh: whether to begin with nothing known, in place of the shipped constants.
        said: what the runs are called.

    Raises:
        InputError: nothing was measured, or of no framework :data:`FEWEST` runs can be used.
    """
    truth = measured_columns(table)
    loops: list[AskedLoops] = []
    answer = predict(table, measured=measured, beside_measured=True, loops=loops, progress=progress)
    errors = answer[added_columns(table.columns, beside_measured=True)["error"]]
    reasons = Counter(text.partition("; ")[0] for text in errors if text)
    statistics = statistics_of(truth, len(table))
    column = next((name for name in WHO if name in table.columns), None)
    campaign = np.full(len(table), "own", dtype=object) if column is None else table[column].to_numpy(dtype=object)
    if not loops:
        raise InputError("runs: none can be used", _first(reasons))
    runs = runs_of(loops, campaign, statistics)
    runs = replace(runs, days=days_of(runs, table))
    told = np.isfinite(runs.measured).any(axis=0)
    single = runs.stages == 1
    again = table.duplicated().to_numpy()[runs.row]
    reasons["neither TTFT nor TPOT is measured"] += int((~told).sum())
    reasons["pipeline stages: their constants are not fitted"] += int((told & ~single).sum())
    reasons[AGAIN] += int((told & single & again).sum())
    told &= ~again
    counts = Counter(runs.framework[told & single])
    enough = np.array([counts[name] >= FEWEST for name in runs.framework], dtype=bool)
    for name, count in counts.items():
        if count < FEWEST:
            reasons[f"{name}: {count} {'run is' if count == 1 else 'runs are'} too few, {FEWEST} are needed"] += count
    use = told & single & enough
    left = tuple((reason, count) for reason, count in reasons.most_common() if count)
    if not use.any():
        raise InputError(
            f"runs: no framework has {FEWEST} that can be used",
            f"give more runs ({_first(reasons)})" if reasons else "give more runs",
        )
    runs = runs.take(np.flatnonzero(use))
    known = {str(name): find_framework(str(name)).fitted for name in set(runs.framework)}
    if fresh:
        prior = nothing_known(runs)
        known = {name: each.model_copy(update={"effects": Effects()}) for name, each in known.items()}
    else:
        runs, prior = beside(runs, known)
        prior = weighed(runs, prior)
    before = as_known(runs, known) if not fresh else np.full(runs.measured.shape, np.nan)
    learned = learn(runs, prior, known, (said, dt.datetime.now(dt.UTC).date().isoformat()), progress)
    return Lesson(learned, left, len(runs), before, as_they_were=prior.weight == max(OWN_WEIGHTS)).doubted


def statistics_of(truth: Measured, rows: int) -> Floats:
    """What a fit goes by, [statistics, rows]."""
    nothing = np.full(rows, np.nan)
    statistics: list[Floats] = []
    for names in _STATISTICS:
        values = nothing
        for name in names:
            values = np.where(np.isfinite(values), values, truth.values.get(name, nothing))
        statistics.append(values)
    return np.stack(statistics)


def days_of(runs: MeasuredRuns, table: pd.DataFrame) -> Floats:
    """Of the releases: none is newer than the day of its run; of a build that has no number, nothing is known where the
    day is not."""
    if "date" not in table.columns:
        return runs.days
    texts = [cell(each) for each in table["date"].iloc[runs.row].astype(str)]
    stamped = {text: day_stamped(text) if text else None for text in set(texts)}
    said = pd.to_datetime(pd.Series([stamped[text] for text in texts]), errors="coerce", format="%Y-%m-%d")
    days = ((said - pd.Timestamp(day_of(0))) / pd.Timedelta(days=1)).to_numpy(np.float64)
    versions = table["version"] if "version" in table.columns else pd.Series("", index=table.index)
    numbered = versions.iloc[runs.row].astype(str).str.contains(r"\d|^\s*$").to_numpy(np.bool_)
    return np.where(numbered, np.fmin(runs.days, days), days)


def _first(reasons: Counter[str]) -> str:
    reason, count = reasons.most_common(1)[0] if reasons else ("the table is empty", 0)
    return f"{count} of them: {reason}"
