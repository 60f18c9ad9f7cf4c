"""Measured training runs → the constants of training, and what lasting load costs the GPUs that they ran on.

The most probable constants: each run's error, of the size that the shipped spread says, against how far each constant
may be off (``doubt`` in costmodels/training/calibration.yaml; of a GPU's lasting load, its interval). What rows left
out would have said follows from the same equations, linear about that answer.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from costmodels.estimates import SIGMAS, Floats
from costmodels.training.calibration import TrainingCalibration, TrainingConstants, TrainingSpread, doubt
from planner.calibrate.worse import worse
from planner.training.configuration import HardwareNames, TrainingConfiguration
from planner.training.machines import Machines
from planner.training.named import measured_columns, read_layouts
from planner.training.prediction import predicted
from profiles.descriptions import catalogue_with
from profiles.errors import InputError, ShardwrightError
from profiles.hardware import Gpu, LastingLoad
from profiles.store import ProfileStore

FEWEST = 3
"""Runs from which constants are learned."""

_OUTLIER = 1.5  # standard deviations beyond which an error counts linearly
_STEP = 0.02  # of a logarithm, for derivatives
_PRIOR_ROWS = 8.0  # runs that the shipped spread counts as

Classes = tuple[str, ...]


@dataclass(frozen=True)
class TrainingLesson:
    """What training runs taught: ``left_out`` rows by reason, ``errors`` of predicted ÷ measured − 1 in per cent by
    what was held out, and ``moved`` constants with their values before and after."""

    calibration: TrainingCalibration
    date: str
    used: int
    left_out: tuple[tuple[str, int], ...]
    errors: dict[str, dict[str, float]]
    moved: tuple[tuple[str, float, float], ...]
    needs: tuple[str, ...]

    @property
    def worse(self) -> list[dict[str, Any]]:
        """See :func:`planner.calibrate.worse.worse`."""
        return worse(self.errors, "iteration")

    def said(self) -> dict[str, Any]:
        return {
            "used": self.used,
            "left_out": [{"reason": reason, "rows": count} for reason, count in self.left_out],
            "errors": self.errors,
            "worse": self.worse,
            "moved": [{"constant": name, "before": before, "after": after} for name, before, after in self.moved],
            "needs": list(self.needs),
        }


@dataclass(frozen=True)
class _Runs:
    """``n`` measured runs, in the order of their groups."""

    groups: list[list[TrainingConfiguration]]
    measured_s: Floats

    @property
    def flat(self) -> list[TrainingConfiguration]:
        return [each for group in self.groups for each in group]

    @property
    def gpus(self) -> dict[str, Gpu]:
        return {each.gpu.name: each.gpu for each in self.flat}

    def logs(self, machines: Machines) -> Floats:
        """log(predicted ÷ measured), shape [n]."""
        values = []
        for group in self.groups:
            times = predicted(group, machines).times
            assert times is not None
            values.append(times.total.value / 1e6)
        return np.log(np.concatenate(values) / self.measured_s)


def calibrate_training(
    table: pd.DataFrame,
    *,
    measured: Sequence[ProfileStore] = (),
    said: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> TrainingLesson:
    """The constants of the machines and frameworks in ``table``, columns as `plan train predict --measured` reads them.

    Args:
        measured: profile stores laid over the shipped pack.
        said: the files that they are from.

    Raises:
        InputError: no iteration was measured, or fewer than :data:`FEWEST` runs can be used.
    """
    machines = Machines(measured, progress)
    runs, left = _usable(table, machines, measured)
    start = machines.calibration
    names, before, sigma = _unknowns(start, runs)
    noise = np.array([getattr(start.spread, each) for each in _classes(runs)]) / SIGMAS

    def equations(point: Floats) -> Floats:
        return np.concatenate((residuals(point), (point - before) / sigma))

    def residuals(point: Floats) -> Floats:
        return np.asarray(runs.logs(machines.calibrated(_under(start, names, point))) / noise)

    progress(f"{len(names)} constants, from {len(noise):,} runs")

    def slopes_at(point: Floats) -> Floats:
        return np.vstack((_slopes(residuals, point, residuals(point)), np.diag(1 / sigma)))

    upper = np.array([_most(name) for name in names])
    fit = least_squares(
        equations,
        np.minimum(before, upper - 1e-6),
        jac=slopes_at,
        bounds=(-np.inf, upper),
        loss="huber",
        f_scale=_OUTLIER,
        max_nfev=8,
        xtol=1e-3,
        ftol=1e-4,
    )
    n = len(noise)
    errors = residuals(fit.x)
    slopes = _slopes(residuals, fit.x, errors)  # fit.jac is scaled by the loss
    held = {"before": runs.logs(machines), "nothing": errors * noise}
    for name, labels in _folds(runs).items():
        held[name] = _held_out(errors, slopes, fit.x, (before, sigma), labels) * noise
    sure = np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes + np.diag(sigma**-2.0))))
    today = dt.datetime.now(dt.UTC).date().isoformat()
    told = {name: _told(logs) for name, logs in held.items()}
    doubtful = "; runs left out are predicted worse with them than before" if worse(told, "iteration") else ""
    calibration = _under(start, names, fit.x, sure).model_copy(
        update={
            "spread": _spread(start.spread, _classes(runs), held["rows"]),
            "learned_from": (f"{n:,} {'run' if n == 1 else 'runs'} of {said} ({today})" if said else today) + doubtful,
        }
    )
    moved = tuple(
        (_shown(name), round(float(np.exp(a)), 3), round(float(np.exp(b)), 3))
        for name, a, b in zip(names, before, fit.x, strict=True)
    )
    return TrainingLesson(calibration, today, n, left, told, moved, _needs(runs))


# ------------------------------------------------------------------ the runs


def _usable(
    table: pd.DataFrame, machines: Machines, measured: Sequence[ProfileStore]
) -> tuple[_Runs, tuple[tuple[str, int], ...]]:
    table, truth = measured_columns(table)
    if "iteration_s" not in truth:
        raise InputError("iteration_s: no column has it", "give the measured seconds of an iteration (or s_iter)")
    seconds = truth["iteration_s"]
    groups, wrong = read_layouts(table, HardwareNames(catalogue_with(store.path for store in measured)))
    reasons = Counter(error.line.partition("; ")[0] for error in wrong.values())
    kept: list[list[TrainingConfiguration]] = []
    values: list[float] = []
    for rows in groups:
        known = [(index, each) for index, each in rows if np.isfinite(seconds[index])]
        reasons["no measured iteration"] += len(rows) - len(known)
        if known and len(known[0][1].places) > 1:
            reasons["gpu: a pipeline across GPU types does not say which of them took how long"] += len(known)
            continue
        if not known:
            continue
        try:
            predicted([each for _, each in known], machines)
        except ShardwrightError as error:
            reasons[error.message] += len(known)
            continue
        kept.append([each for _, each in known])
        values += [float(seconds[index]) for index, _ in known]
    left = tuple((reason, count) for reason, count in reasons.most_common() if count)
    if len(values) < FEWEST:
        raise InputError(
            f"runs: {len(values)} training runs are too few ({FEWEST})",
            f"{left[0][1]} of them: {left[0][0]}" if left else "give more runs",
        )
    return _Runs(kept, np.array(values)), left


def _classes(runs: _Runs) -> Classes:
    """Of each run, which of :class:`TrainingSpread` its error is of."""
    return tuple(
        "experts" if each.model.experts is not None else "fp8" if each.precision not in ("bf16", "fp16") else "dense"
        for each in runs.flat
    )


def _folds(runs: _Runs) -> dict[str, list[Any]]:
    """Labels of the runs that are held out together; of models and GPU types only where there are several."""
    models, gpus = [each.model.name for each in runs.flat], [each.gpu.name for each in runs.flat]
    out: dict[str, list[Any]] = {"rows": [index % min(5, len(models)) for index in range(len(models))]}
    if len(set(models)) > 1:
        out["model"] = models
    if len(set(gpus)) > 1:
        out["gpu"] = gpus
    return out


def _needs(runs: _Runs) -> tuple[str, ...]:
    out = []
    if len({each.model.name for each in runs.flat}) == 1:
        out.append("one model: a second model says what is the machine's and what the model's")
    if all(each.gpus <= each.places[0].gpus_per_node for each in runs.flat):
        out.append("one node: runs over several say what the fabric reaches")
    return tuple(out)


# ------------------------------------------------------------------ the unknowns


def _unknowns(start: TrainingCalibration, runs: _Runs) -> tuple[tuple[str, ...], Floats, Floats]:
    """(names, where they stand, how far they may be off), logarithms: the constants that any of the runs depends on,
    and the lasting load of each GPU type."""
    constants = [
        name for name in TrainingConstants.model_fields if name != "expert_overhead" or "experts" in _classes(runs)
    ]
    loads = {name: start.load(gpu) for name, gpu in runs.gpus.items()}
    names = (*constants, *loads)
    at = [getattr(start.constants, name) for name in constants] + [load.factor for load in loads.values()]
    off = [getattr(doubt(), name) for name in constants]
    off += [max(float(np.log(load.high / load.low)) / 2 / SIGMAS, 0.03) for load in loads.values()]
    return names, np.log(at), np.array(off)


def _shown(name: str) -> str:
    return name if name in TrainingConstants.model_fields else f"lasting_load of {name}"


def _most(name: str) -> float:
    """Logarithm of what a constant is at most, as its type says: shares end at one."""
    field = TrainingConstants.model_fields.get(name)
    ends = [each.le for each in field.metadata if hasattr(each, "le")] if field is not None else []
    return float(np.log(min(ends, default=np.inf)))


def _under(
    start: TrainingCalibration, names: Sequence[str], point: Floats, sure: Floats | None = None
) -> TrainingCalibration:
    """``start`` with the unknowns at ``point``; ``sure``: the standard deviation of each."""
    width = np.zeros(len(names)) if sure is None else SIGMAS * sure
    constants, loads = {}, dict(start.lasting_load)
    for name, value, half in zip(names, point.tolist(), width.tolist(), strict=True):
        if name in TrainingConstants.model_fields:
            constants[name] = float(np.exp(value))
        else:
            ends = (float(np.exp(value + end)) for end in (0.0, -half, half))
            loads[name] = LastingLoad(**dict(zip(("factor", "low", "high"), ends, strict=True)))
    return start.model_copy(update={"constants": start.constants.model_copy(update=constants), "lasting_load": loads})


def _slopes(residuals: Callable[[Floats], Floats], point: Floats, here: Floats) -> Floats:
    """Derivatives of the residuals, shape [n, unknowns]; towards lower values, which shares always have."""
    return np.stack([(here - residuals(point - _STEP * unit)) / _STEP for unit in np.eye(len(point))], axis=1)


def _held_out(
    errors: Floats, slopes: Floats, point: Floats, prior: tuple[Floats, Floats], labels: Sequence[Any]
) -> Floats:
    """The residuals with each label's runs left out of the fit in turn, linear about ``point``, shape [n]."""
    out = np.empty_like(errors)
    before, sigma = prior
    for label in dict.fromkeys(labels):
        away = np.array([each == label for each in labels])
        rest = ~away

        def linear(move: Floats, rest: np.ndarray = rest) -> Floats:
            return np.concatenate((errors[rest] + slopes[rest] @ move, (point + move - before) / sigma))

        move = least_squares(linear, np.zeros(len(point)), loss="huber", f_scale=_OUTLIER).x
        out[away] = errors[away] + slopes[away] @ move
    return out


def _spread(shipped: TrainingSpread, classes: Classes, held_out: Floats) -> TrainingSpread:
    """Of each class, what four in five runs left out lie within, beside the shipped figure, as if of a few runs."""
    update = {}
    for name in set(classes):
        mine = np.abs(held_out[np.array([each == name for each in classes])])
        parts = (_PRIOR_ROWS * getattr(shipped, name) ** 2, len(mine) * np.quantile(mine, 0.8) ** 2)
        update[name] = float(np.sqrt(sum(parts) / (_PRIOR_ROWS + len(mine))))
    return shipped.model_copy(update=update)


def _told(logs: Floats) -> dict[str, float]:
    ratio = 100 * np.expm1(logs)
    return {
        "mape": round(float(np.abs(ratio).mean()), 1),
        "median": round(float(np.median(np.abs(ratio))), 1),
        "bias": round(float(ratio.mean()), 1),  # as `plan train predict --measured` has it
    }
