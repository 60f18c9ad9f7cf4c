"""What a few measured rows of a machine say of all its other shapes: a Gaussian process over what the model got wrong.

The model's error at a row is r = log measured − log predicted. Over the shapes of one machine, errors go together:
all share an offset (clocks, driver, the catalogue's peaks), those of one precision or kind another, and near shapes
run the same kernel. Hence, for questions x in partition p,

    cov(r, r') = offset² + partition²·[p = p'] + (shared² + local²·[p = p'])·a(x)·a(x')·κ(x, x')
    var(noise) = noise² + (claim·c(x))²,    a(x) = 1 + growth·c(x)

with κ the Matérn kernel of smoothness 3/2 with one length scale per coordinate (Rasmussen & Williams, Gaussian
Processes for Machine Learning, 2006, eq. 4.17 and §5.1), and c(x) the standard deviation that the model claims of its
own answer: where its trees disagree, it errs more, and near shapes err together (an amplitude that depends on the
place keeps the covariance valid: ibid., §4.2.4). The posterior mean corrects the prediction, the posterior
spread says how far it can still be off (ibid., eq. 2.23–2.24).

How large errors are differs between machines more than their pattern does: the whole covariance carries a factor
s² ~ InvGamma(ν/2, ν/2) that the rows themselves estimate, which makes the process a Student-t process (Shah, Wilson &
Ghahramani, AISTATS 2014, eq. 5): the mean is the same, the spread is scaled by (ν + rᵀK⁻¹r) / (ν + n).

Single rows can be far off (a throttled clock, a kernel that is chosen at one shape only: some fp8 GEMMs of the pack
take twice the time of their neighbours), and a Gaussian would bend its whole neighbourhood towards them. Their noise is
taken as Student-t: rows that the others contradict get more of it, by iterative reweighting (Lange, Little & Taylor,
JASA 84, 1989, §3) with the closed-form leave-one-out residuals (Rasmussen & Williams, eq. 5.12).

The other figures are not chosen by hand: :mod:`tests.benchmarks.few_shot` learns them from what the shipped pack's
GPUs look like when each is held out, and writes ``few_shot.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from costmodels.arrays import Rowwise, concatenate_rows
from costmodels.estimates import COVERAGE, Floats, Ints
from costmodels.operations.registry import families
from costmodels.operations.roofline import CODES, ROUTING_SKEW, Columns, Hardware
from profiles.shipped import shipped

MEAN_ROWS = 1000
"""Most rows that the correction is computed from; exact answers use all. The equations grow with the cube of it."""

SPREAD_ROWS = 300
"""Most rows that the spread is computed from (of a question, it grows with the square). Fewer rows can only make it
wider."""

_TAIL_DEGREES = 4.0  # of the noise; the value that Lange et al. recommend where it is not estimated
_REWEIGHTINGS = 4
_BLOCK = 1024  # questions at a time: a block of covariances (8 MB) stays near the caches
SIZES = ("offset", "partition", "shared", "local", "noise", "growth", "claim")


def coordinates(operation: str) -> tuple[str, ...]:
    """The names of the places' coordinates: the shape's sizes (log2), and what the model says of them."""
    kernel = families().kernel(operation)
    sizes = [name for name in kernel.shape_names if name not in CODES or name == "routing"]
    ranks = ["num_gpus"] if kernel.spans_gpus else []
    return (*ranks, *sizes, "roofline", "balance", "ratio")


@dataclass(frozen=True)
class Points(Rowwise):
    """Questions as the process sees them.

    Attributes:
        place: shape [n, d], see :func:`coordinates`; all in log2.
        partition: shape [n], equal where precision and kind are.
        known: shape [n], whether the pack has rows of this GPU type there.
        claimed: shape [n], standard deviation (log) that the model claims of its own answer.
    """

    place: Floats
    partition: Ints
    known: NDArray[np.bool_]
    claimed: Floats

    def __len__(self) -> int:
        return len(self.partition)

    def joined(self, more: Points) -> Points:
        return concatenate_rows([self, more])


def points(
    operation: str,
    q: Columns,
    hardware: Hardware,
    partition: Ints,
    log_ratio: Floats,
    claimed: Floats,
    known: NDArray[np.bool_],
) -> Points:
    """The questions ``q`` to the one GPU of ``hardware``; ``log_ratio``: log of the model's answer ÷ its base."""
    times = families().kernel(operation).times_us(q, np.zeros(len(log_ratio), np.int64), hardware)
    compute, transfer = (np.log2(np.maximum(time, 1e-9)) for time in times)
    columns: dict[str, Floats] = {
        "roofline": np.maximum(compute, transfer),
        "balance": compute - transfer,
        "ratio": log_ratio / np.log(2.0),
    }
    if "routing" in q:
        columns["routing"] = ROUTING_SKEW[q["routing"].astype(np.int64)]
    place = [
        columns[name] if name in columns else np.log2(np.maximum(np.asarray(q[name], dtype=np.float64), 0.5))
        for name in coordinates(operation)
    ]
    return Points(np.column_stack(place), partition, known, claimed)


@dataclass(frozen=True)
class Prior:
    """What errors look like before a row is measured: standard deviations (log), length scales (log2), and how surely
    the size of errors is known (``degrees``, ν)."""

    offset: float
    partition: float
    shared: float
    local: float
    noise: float
    growth: float
    claim: float
    lengths: Floats
    degrees: float

    def covariance(self, a: Points, b: Points) -> Floats:
        """Shape [len(a), len(b)], noise excluded."""
        out = matern(distance(a.place, b.place, self.lengths))
        out *= self._amplitude(a)[:, None]
        out *= self._amplitude(b)
        same = a.partition[:, None] == b.partition
        out *= np.where(same, self.shared**2 + self.local**2, self.shared**2)
        out += np.where(same, self.offset**2 + self.partition**2, self.offset**2)
        return out

    def variance(self, p: Points) -> Floats:
        """The diagonal of the covariance, shape [n]."""
        return self.offset**2 + self.partition**2 + (self.shared**2 + self.local**2) * self._amplitude(p) ** 2

    def scatter(self, p: Points) -> Floats:
        """Variance of what no other row can tell, shape [n]."""
        return self.noise**2 + (self.claim * p.claimed) ** 2

    def _amplitude(self, p: Points) -> Floats:
        return 1.0 + self.growth * p.claimed


def distance(a: Floats, b: Floats, lengths: Floats) -> Floats:
    """Euclidean, in length scales, shape [len(a), len(b)]."""
    x, y = a / lengths, b / lengths
    out: Floats = x @ (-2.0 * y.T)  # in place from here: these arrays are the cost of a prediction
    out += (x * x).sum(axis=1)[:, None]
    out += (y * y).sum(axis=1)
    np.maximum(out, 0.0, out=out)
    np.sqrt(out, out=out)
    return out


def matern(d: Floats) -> Floats:
    """Of smoothness 3/2."""
    scaled: Floats = np.sqrt(3.0) * d
    decay = np.exp(-scaled)
    scaled += 1.0
    scaled *= decay
    return scaled


@dataclass(frozen=True)
class Priors:
    """``unseen``: of a GPU type without rows there. ``repeat``: of another machine of a type that was measured."""

    unseen: Prior
    repeat: Prior

    def _by_kind(self, p: Points) -> tuple[tuple[Prior, NDArray[np.bool_]], ...]:
        return ((self.unseen, ~p.known), (self.repeat, p.known))

    def covariance(self, a: Points, b: Points) -> Floats:
        """Shape [len(a), len(b)]. What is wrong where the pack has rows says nothing of where it has none."""
        if not a.known.any() and not b.known.any():
            return self.unseen.covariance(a, b)
        out = np.zeros((len(a), len(b)))
        for (prior, mine), (_, theirs) in zip(self._by_kind(a), self._by_kind(b), strict=True):
            rows, columns = np.flatnonzero(mine), np.flatnonzero(theirs)
            if len(rows) and len(columns):
                out[np.ix_(rows, columns)] = prior.covariance(a.take(rows), b.take(columns))
        return out

    def variance(self, p: Points) -> Floats:
        return np.where(p.known, self.repeat.variance(p), self.unseen.variance(p))

    def noise(self, p: Points) -> Floats:
        """Variance of what no other row can tell, shape [n]."""
        return np.where(p.known, self.repeat.scatter(p), self.unseen.scatter(p))

    def degrees(self, p: Points) -> float:
        return self.repeat.degrees if len(p) and p.known.all() else self.unseen.degrees

    def widened(self, more: float) -> Priors:
        """With ``more`` (standard deviation, log) in the offset of unseen GPUs."""
        return replace(self, unseen=replace(self.unseen, offset=float(np.hypot(self.unseen.offset, more))))


class ErrorProcess:
    """The posterior after measured rows.

    Args:
        priors: see :func:`priors`.
        rows: the measured rows.
        residual: shape [n], log measured − log predicted.
        seed: which rows are used where there are more than :data:`MEAN_ROWS`.
    """

    def __init__(self, priors: Priors, rows: Points, residual: Floats, seed: int = 0) -> None:
        chosen = np.random.default_rng(seed).permutation(len(residual))[:MEAN_ROWS]
        self._priors = priors
        self._rows, residual = rows.take(chosen), residual[chosen]
        self._few = self._rows.take(np.arange(min(len(chosen), SPREAD_ROWS)))
        from scipy.linalg import (  # deferred, as everywhere here: most plans have no rows of their own
            cho_solve,
            cholesky,
        )

        degrees = priors.degrees(self._rows)
        covariance, noise = priors.covariance(self._rows, self._rows), priors.noise(self._rows)
        trust = np.ones(len(residual))
        for reweightings_left in reversed(range(_REWEIGHTINGS + 1)):
            factor: Floats = cholesky(covariance + np.diag(noise / trust), lower=True)
            self._weights = cho_solve((factor, True), residual)
            scale = (degrees + residual @ self._weights) / (degrees + len(residual))
            if reweightings_left:
                alone = 1.0 / np.diag(cho_solve((factor, True), np.eye(len(residual))))  # variance given the others
                surprise = (self._weights * alone) ** 2 / (scale * (alone - noise / trust + noise))
                trust = np.minimum((_TAIL_DEGREES + 1) / (_TAIL_DEGREES + surprise), 1.0)
        self._few_factor = factor[: len(self._few), : len(self._few)]  # the factor of the leading block is its own
        self.scale = float(np.sqrt(scale))
        self.quantile = float(stdtrit(degrees + len(residual), (1 + COVERAGE) / 2))
        self.rows_used = len(chosen)

    def at(self, p: Points) -> tuple[Floats, Floats]:
        """(mean, half-width of the :data:`COVERAGE` interval) of the error at ``p``, log, shape [n] each."""
        from scipy.linalg import solve_triangular

        mean, spread = np.zeros(len(p)), np.zeros(len(p))
        for start in range(0, len(p), _BLOCK):
            index = np.arange(start, min(start + _BLOCK, len(p)))
            part = p.take(index)
            across = self._priors.covariance(part, self._rows)
            mean[index] = across @ self._weights
            told = solve_triangular(self._few_factor, across[:, : len(self._few)].T, lower=True)
            left = np.maximum(self._priors.variance(part) - (told * told).sum(axis=0), 0.0)
            spread[index] = np.sqrt(left + self._priors.noise(part))
        return mean, spread * self.scale * self.quantile

    def told(self, p: Points) -> Floats:
        """L⁻¹K(rows, p), shape [rows, n]: what is subtracted from prior covariances is the product of two of these."""
        from scipy.linalg import solve_triangular

        out: Floats = solve_triangular(self._few_factor, self._priors.covariance(self._few, p), lower=True)
        return out


def as_prior(operation: str, figures: Any) -> Prior:
    """From a mapping as ``few_shot.yaml`` has it; KeyError, TypeError or ValueError where it is none.

    An operation that goes by another's figures may have coordinates which that one lacks: they take its shortest
    length, with which a row says least of others.
    """
    known = {name: float(length) for name, length in figures["lengths"].items()}
    if families().kernel(operation).figures_of:
        known = dict.fromkeys(coordinates(operation), min(known.values())) | known
    lengths = np.array([known[name] for name in coordinates(operation)])
    sizes = [float(figures[name]) for name in SIZES]
    if min(sizes) < 0 or min(*lengths, float(figures["degrees"]), float(figures["noise"])) <= 0:
        raise ValueError("standard deviations are not negative; noise, lengths and degrees are positive")
    return Prior(**dict(zip(SIZES, sizes, strict=True)), lengths=lengths, degrees=float(figures["degrees"]))


@cache
def priors(operation: str) -> Priors:
    """The figures of ``few_shot.yaml``.

    Raises:
        DataError: the file is missing or broken.
    """

    def parse(document: Any) -> Priors:
        figures = document[families().kernel(operation).figures_in(document)]
        return Priors(*(as_prior(operation, figures[kind]) for kind in ("unseen", "repeat")))

    return shipped(Path(__file__).parent / "few_shot.yaml", parse)


@cache
def fitted_on() -> dict[str, str]:
    """What the figures of ``few_shot.yaml`` were fitted on: ``model_version`` of the forests, ``pack_hash`` of their
    rows. Raises as :func:`priors`."""

    def parse(document: Any) -> dict[str, str]:
        return {name: str(document["fitted_on"][name]) for name in ("model_version", "pack_hash")}

    return shipped(Path(__file__).parent / "few_shot.yaml", parse)
