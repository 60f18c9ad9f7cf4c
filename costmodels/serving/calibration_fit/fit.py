"""Fits the constants of all frameworks together to measured runs.

Robust least squares (soft L1) on the logarithms of TTFT and TPOT, means and medians alike. The closed loop is played,
and played again with slower steps of either kind: how each statistic follows is what a fit goes by between two rounds
of playing. Priors hold factors at 1, constants near what they mean, and effects of groups at nothing, where runs say
little (:mod:`costmodels.serving.calibration_fit.constants` and ``effects``). Runs of one model on one GPU type share
their errors: many say little more than a few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.serving.calibration_fit.constants import (
    LEAST,
    MOST,
    NAMES,
    START,
    WIDTH,
    OfRuns,
    constants_of,
    first_ms,
    front_ms,
    play_ms,
    predicted_ms,
    steps_ms,
)
from costmodels.serving.calibration_fit.effects import IN_EFFECT, KINDS, Groups, groups_of
from costmodels.serving.calibration_fit.least import Drawn, least_soft_l1
from costmodels.serving.calibration_fit.rate_play import step_levels
from costmodels.serving.calibration_fit.runs import MeasuredRuns, day_of
from costmodels.serving.frameworks.calibration import Calibration

NOISE = 0.12  # log error from which a run counts linearly, not squared
WEIGHTS = np.array([0.6, 0.6, 1.0, 1.0])  # of TTFT against TPOT: repeats of one configuration differ more in it
PRIOR = 100.0  # squared errors that a prior's half-width is worth: runs of a group share their errors
BALANCE = 0.5  # power of the runs of one model on one GPU type by which each weighs less
SLOWER = 1.06  # of the steps in the plays that say how statistics follow
MOST_FOLLOWED, MOST_AT_RATE = 1.5, 6.0  # powers of them: queues at a rate grow faster than steps, closed loops wait
TOLD = {"NVIDIA": 0.3, "NVIDIA Dynamo": 0.1}
"""Weight of campaigns whose protocol nobody published: lengths and recipes of their rows are inferred."""

ROUNDS, STEPS = 2, 12

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Linear:
    """How the loops follow slower steps, around the steps that they were played with."""

    played: Floats  # log of the statistics without the front end, [4, n]
    by_step: Floats
    by_prompts: Floats
    step: Floats  # log of the steps, [n]
    prompts: Floats

    def take(self, index: Ints) -> Linear:
        return Linear(*(getattr(self, name)[..., index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class FittedEngines:
    """Constants [frameworks, names] and coefficients [4, k] of the groups: steps, steps with prompts, front end,
    layers."""

    frameworks: tuple[str, ...]
    constants: Floats
    coefficients: Floats
    groups: Groups

    def of(self, runs: MeasuredRuns, groups: Groups) -> OfRuns:
        """``groups``: the same, of ``runs``."""
        index = np.array([self.frameworks.index(name) for name in runs.framework])
        effects = (groups.matrix @ each + runs.offset[:, kind] for kind, each in enumerate(self.coefficients))
        return OfRuns(self.constants[index], *effects)


def linear_at(c: OfRuns, runs: MeasuredRuns) -> Linear:
    plain, slow, late = (play_ms(c, runs, by) for by in ((1.0, 1.0), (SLOWER, 1.0), (1.0, SLOWER)))
    most = np.where(runs.closed, MOST_FOLLOWED, MOST_AT_RATE)
    follow = [np.clip(np.log(each / plain) / np.log(SLOWER), 0.0, most) for each in (slow, late)]
    return Linear(np.log(plain), follow[0], follow[1], *_levels(c, runs))


def _levels(c: OfRuns, runs: MeasuredRuns) -> tuple[Floats, Floats]:
    return step_levels(*steps_ms(c, runs))


def linear_ms(c: OfRuns, runs: MeasuredRuns, linear: Linear) -> Floats:
    """log of the statistics [4, n] while the events keep their order."""
    step, prompts = _levels(c, runs)
    logs = linear.played + linear.by_step * (step - linear.step) + linear.by_prompts * (prompts - linear.prompts)
    front = front_ms(c, runs, np.exp(logs[2]))
    return np.stack(
        [np.log(np.exp(logs[0]) + front + first_ms(c, runs)), np.log(np.exp(logs[1]) + front), logs[2], logs[3]]
    )


def weights_of(runs: MeasuredRuns, known: NDArray[np.bool_]) -> Floats:
    """[4, n]."""
    pairs = np.array([f"{m} {g} {f}" for m, g, f in zip(runs.model, runs.gpu, runs.framework, strict=True)])
    _, index, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    weight = counts[index] ** -BALANCE * np.array([TOLD.get(str(name), 1.0) for name in runs.campaign])
    return np.asarray(WEIGHTS[:, None] * np.sqrt(weight / weight[known].mean()) / NOISE)


@dataclass(frozen=True)
class PriorConstants:
    """Where constants [frameworks, names] are drawn to, and in units of their usual half-width how far they may go."""

    frameworks: tuple[str, ...]
    constants: Floats
    freedom: float = 1.0
    weight: float = 1.0  # in units of PRIOR


def nothing_known(runs: MeasuredRuns) -> PriorConstants:
    frameworks = tuple(sorted(set(runs.framework)))
    return PriorConstants(frameworks, np.tile(START, (len(frameworks), 1)))


def adjusted(
    runs: MeasuredRuns,
    linear: Linear,
    prior: PriorConstants,
    known: NDArray[np.bool_],
    start: FittedEngines | None = None,
) -> FittedEngines:
    """The constants that fit the ``known`` runs best while events keep the order of ``linear``."""
    groups = groups_of(runs, known)
    frameworks, k = len(prior.frameworks), len(groups)
    index = np.array([prior.frameworks.index(name) for name in runs.framework])
    present = known[None] & np.isfinite(runs.measured)
    truth, weight = np.log(runs.measured), weights_of(runs, known)
    which = np.nonzero(present)[1]
    widths = np.stack([groups.widths(kind) for kind in range(KINDS)])
    there = np.nonzero(widths)  # (kind, group) of each coefficient
    half = np.concatenate([np.tile(WIDTH * prior.freedom, frameworks), widths[there]])
    center = np.concatenate([prior.constants.ravel(), np.zeros(len(there[0]))])
    size = frameworks * len(NAMES)

    def engines(x: Floats) -> FittedEngines:
        coefficients = np.zeros((KINDS, k))
        coefficients[there] = x[size:]
        return FittedEngines(prior.frameworks, x[:size].reshape(frameworks, -1), coefficients, groups)

    def constants(x: Floats, shift: Floats | None = None) -> OfRuns:
        c = engines(x).of(runs, groups)
        move = np.zeros(KINDS) if shift is None else shift
        return OfRuns(c.values, *(each + by for each, by in zip(c.effects, move, strict=True)))

    def errors(c: OfRuns) -> Floats:
        return np.asarray(((linear_ms(c, runs, linear) - truth) * weight)[present])

    def slopes(x: Floats, here: Floats) -> Floats:
        out = np.zeros((len(here), len(x)))
        c = constants(x)
        for at in range(len(NAMES)):
            moved = c.values.copy()
            moved[:, at] += 1e-5 * WIDTH[at]
            slope = (errors(OfRuns(moved, *c.effects)) - here) / (1e-5 * WIDTH[at])
            for f in range(frameworks):
                out[:, f * len(NAMES) + at] = np.where(index[which] == f, slope, 0.0)
        for kind in range(KINDS):
            slope = (errors(constants(x, 1e-5 * np.eye(KINDS)[kind])) - here) / 1e-5
            out[:, size + np.flatnonzero(there[0] == kind)] = (
                slope[:, None] * groups.matrix[np.ix_(which, there[1][there[0] == kind])]
            )
        return out

    bounds = (
        np.concatenate([np.tile(LEAST, frameworks), np.full(len(there[0]), -2.0)]) - 1e-9,
        np.concatenate([np.tile(MOST, frameworks), np.full(len(there[0]), 2.0)]) + 1e-9,
    )
    first = center.copy() if start is None else np.concatenate([start.constants.ravel(), np.zeros(len(there[0]))])
    drawn = Drawn(center, half / np.sqrt(PRIOR * prior.weight), *bounds)
    found = least_soft_l1(lambda x: errors(constants(x)), slopes, first, drawn, STEPS)
    return engines(found)


def fit(runs: MeasuredRuns, prior: PriorConstants, progress: Progress = lambda _: None) -> tuple[FittedEngines, Linear]:
    """The constants of all ``runs``, and how their loops follow."""
    everything = np.ones(len(runs), np.bool_)
    groups = groups_of(runs, everything)
    fitted = FittedEngines(prior.frameworks, prior.constants, np.zeros((KINDS, len(groups))), groups)
    for turn in range(ROUNDS):
        progress(f"playing {len(runs):,} loops, round {turn + 1} of {ROUNDS}")
        linear = linear_at(fitted.of(runs, groups), runs)
        fitted = adjusted(runs, linear, prior, everything, fitted)
    return fitted, linear_at(fitted.of(runs, groups), runs)


def held_out(
    runs: MeasuredRuns,
    prior: PriorConstants,
    linear: Linear,
    folds: Mapping[str, NDArray[np.bool_]],
    start: FittedEngines,
) -> dict[str, Floats]:
    """log(measured ÷ predicted) [4, n] of the runs of each fold with constants fitted to the others, NaN elsewhere."""
    out = {}
    for name, held in folds.items():
        logs = np.full(runs.measured.shape, np.nan)
        if (~held).any() and held.any():
            fitted = adjusted(runs, linear, prior, ~held, start)
            index = np.flatnonzero(held)
            part = runs.take(index)
            groups = Groups(fitted.groups.matrix[index], fitted.groups.group, fitted.groups.key, fitted.groups.day)
            logs[:, index] = np.log(part.measured / predicted_ms(fitted.of(part, groups), part))
        out[name] = logs
    return out


SHIPPED_FREEDOM = 0.2
"""How far a user's runs may move what many others said, in units of a prior's usual half-width."""

OWN_WEIGHTS = (0.025, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of priors beside a user's runs: that by which runs left out are predicted best. Many runs that differ as one from the
shipped constants ask for little of it, a few that scatter for much."""


CHANCE = 0.5
"""Of the standard error of a difference between two weights, what is taken for none."""


def beside(runs: MeasuredRuns, known: Mapping[str, Calibration]) -> tuple[MeasuredRuns, PriorConstants]:
    """Runs that come beside the ``known`` calibrations, and their prior: those constants, with little freedom. What is
    particular of the runs is for the effects of their GPU types, releases and campaigns to say, beside those known."""
    frameworks = tuple(sorted(set(map(str, runs.framework))))
    each = zip(runs.framework, runs.gpu, runs.generation, runs.vendor, runs.days, runs.kind, strict=True)
    offset = np.array(
        [
            known[str(name)].effects.at((gpu, generation, vendor), day_of(day) if np.isfinite(day) else None, kind)
            for name, gpu, generation, vendor, day, kind in each
        ]
    )
    offset = offset / IN_EFFECT
    prior = PriorConstants(frameworks, np.stack([constants_of(known[name]) for name in frameworks]), SHIPPED_FREEDOM)
    return replace(runs, offset=offset), prior


def weighed(runs: MeasuredRuns, prior: PriorConstants) -> PriorConstants:
    """``prior`` with the largest of :data:`OWN_WEIGHTS` by which every fifth run in turn is predicted from the others
    as well as by the best of them, but for :data:`CHANCE`, while events keep the order of the prior's."""
    everything = groups_of(runs, np.ones(len(runs), np.bool_))
    stood = FittedEngines(prior.frameworks, prior.constants, np.zeros((KINDS, len(everything))), everything)
    linear = linear_at(stood.of(runs, everything), runs)

    def left_out(weight: float) -> Floats:
        asked, errors = replace(prior, weight=weight), np.full(runs.measured.shape, np.nan)
        for held in fifths(runs):
            fitted = adjusted(runs, linear, asked, ~held)
            logs = np.log(runs.measured) - linear_ms(fitted.of(runs, fitted.groups), runs, linear)
            errors[:, held] = np.abs(logs[:, held])
        return np.asarray(np.nanmean(errors, axis=0))  # every run has some

    errors = np.stack([left_out(weight) for weight in OWN_WEIGHTS])
    more = errors - errors[errors.mean(axis=1).argmin()]
    as_good = more.mean(axis=1) <= CHANCE * more.std(axis=1) / np.sqrt(len(runs))
    return replace(prior, weight=max(w for w, good in zip(OWN_WEIGHTS, as_good, strict=True) if good))


def fifths(runs: MeasuredRuns) -> list[NDArray[np.bool_]]:
    """Every fifth run, in turn."""
    return [np.arange(len(runs)) % 5 == turn for turn in range(5)]


def as_known(runs: MeasuredRuns, known: Mapping[str, Calibration]) -> Floats:
    """log(measured ÷ predicted) [4, n] with the ``known`` calibrations (``runs`` with their offsets)."""
    values = np.stack([constants_of(known[str(name)]) for name in runs.framework])
    c = OfRuns(values, *runs.offset.T)
    return np.asarray(np.log(runs.measured / predicted_ms(c, runs)))
