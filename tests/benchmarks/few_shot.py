"""What errors look like before a row is measured: ``python -m tests.benchmarks.few_shot [--op gemm]``.

Learns the priors of :mod:`costmodels.kernels.error_process` and writes ``costmodels/kernels/few_shot.yaml``.

``unseen``: each GPU of the shipped pack is held out, a forest fitted to the others, and the errors on a sample of its
rows are taken; one prior is fitted to all held-out GPUs together (maximum marginal likelihood of the Student-t
process, so that a GPU with large errors does not drown the others).
``repeat``: bf16 GEMMs of vLLM and TensorRT-LLM on the same GPU type are the same cuBLAS kernels, measured twice by
different hands; their ratio is what another run of a measured type looks like. Only GEMMs were measured twice like
that, so the other operations take its sizes (marked ``from: gemm``), each at most what another GPU type shows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize
from scipy.special import digamma, gammaln

from costmodels.estimates import SIGMAS
from costmodels.kernels.cost_model import MODEL_VERSION
from costmodels.kernels.error_process import SIZES, Points, Prior, coordinates, distance, matern, points
from costmodels.kernels.features import base_us
from costmodels.kernels.forest import Forest
from costmodels.kernels.kernel_models import coded, error_partitions, hardware_of
from costmodels.operations.registry import families
from costmodels.operations.roofline import Hardware
from profiles.hardware import find_gpu
from profiles.store import ProfileStore, shipped_pack
from tests.benchmarks.kernels import Data

Floats = NDArray[np.float64]
SAMPLE_ROWS = 300  # of each held-out GPU
FRAMEWORK = "vllm"
PATH = Path(__file__).parents[2] / "costmodels" / "kernels" / "few_shot.yaml"
HEADER = """\
# What the errors of the shipped forests look like before a row of a machine is measured
# (costmodels/kernels/error_process.py): standard deviations in natural log, length scales in log2 of the coordinate,
# degrees of freedom of their size.
# growth and claim: per unit of the standard deviation that the model claims of its own answer.
# unseen: of a GPU type without rows. repeat: of another machine of a measured type.
"""

START = {
    "offset": 0.1,
    "partition": 0.1,
    "shared": 0.15,
    "local": 0.15,
    "noise": 0.05,
    "growth": 5.0,
    "claim": 0.5,
    "degrees": 4.0,
}
"""Where the search starts and what weak log-normal priors (factor e either way) are centred on."""
START_LENGTH = 4.0
_WEIGHT = 1.0


def held_out(data: Data, hidden: Collection[str], tested: str, most: int = SAMPLE_ROWS) -> tuple[Points, Floats]:
    """Errors of a forest that saw nothing of the GPUs ``hidden``, on rows of one of them."""
    index = [data.hardware.names.index(name) for name in hidden]
    model, _ = data.fit(np.flatnonzero(~np.isin(data.rows.gpu, index)))
    rows = np.flatnonzero(data.rows.gpu == data.hardware.names.index(tested))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    return errors_at(data, model, rows)


def errors_at(data: Data, model: Forest, rows: NDArray[np.int64]) -> tuple[Points, Floats]:
    """(the rows of one GPU as points, what ``model`` gets wrong there)."""
    columns = {name: values[rows] for name, values in data.rows.columns.items()}
    ratio, spread = model.raw(data.features[rows])
    down, up = model.interval(spread)
    own = Hardware.of([find_gpu(data.hardware.names[int(data.rows.gpu[rows[0]])])])
    p = points(
        data.kernel.name,
        columns,
        own,
        error_partitions(columns),
        ratio,
        (down + up) / (2 * SIGMAS),
        np.zeros(len(rows), bool),
    )
    return p, data.target[rows] - ratio


def fit(operation: str, samples: Sequence[tuple[Points, Floats]], steps: int = 80) -> Prior:
    """The prior under which all ``samples`` (one machine each) are likeliest."""
    names = list(START)
    start = np.log([*START.values(), *[START_LENGTH] * len(coordinates(operation))])

    def objective(log_theta: Floats) -> tuple[float, Floats]:
        value = 0.5 * _WEIGHT * float(((log_theta - start) ** 2).sum())
        slope = _WEIGHT * (log_theta - start)
        for p, r in samples:
            one, its_slope = _misfit(p, r, np.exp(log_theta))
            value, slope = value + one, slope + its_slope
        return value, slope

    bounds = [(s - 4.0, s + 4.0) for s in start]
    bounds[names.index("degrees")] = (np.log(2.0), np.log(30.0))  # below 2, the variance has no mean
    found = np.exp(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x)
    figures = dict(zip(names, found, strict=False))
    degrees = float(figures.pop("degrees"))
    return Prior(**{k: float(v) for k, v in figures.items()}, lengths=found[len(names) :], degrees=degrees)


def _misfit(p: Points, r: Floats, theta: Floats) -> tuple[float, Floats]:
    """Negative log density of a multivariate t (scale matrix K, ν degrees) at ``r``, and its slope in log θ."""
    offset, partition, shared, local, noise, growth, claim, degrees = theta[:8]
    lengths, n = theta[8:], len(r)
    same = (p.partition[:, None] == p.partition[None, :]).astype(float)
    d = distance(p.place, p.place, lengths)
    amplitude = 1 + growth * p.claimed
    both = np.outer(amplitude, amplitude)
    near = matern(d) * both
    weight = shared**2 + local**2 * same
    k = offset**2 + partition**2 * same + weight * near
    k[np.diag_indices(n)] += noise**2 + (claim * p.claimed) ** 2
    factor = cholesky(k, lower=True)
    alpha = cho_solve((factor, True), r)
    inverse = cho_solve((factor, True), np.eye(n))
    q = float(r @ alpha)
    value = np.log(np.diag(factor)).sum() + (degrees + n) / 2 * np.log1p(q / degrees) + n / 2 * np.log(degrees)
    value += gammaln(degrees / 2) - gammaln((degrees + n) / 2)
    g = 0.5 * (inverse - (degrees + n) / (degrees + q) * np.outer(alpha, alpha))  # d value / d K
    slope = np.zeros(len(theta))
    slope[0] = 2 * offset**2 * g.sum()
    slope[1] = 2 * partition**2 * (g * same).sum()
    slope[2] = 2 * shared**2 * (g * near).sum()
    slope[3] = 2 * local**2 * (g * near * same).sum()
    slope[4] = 2 * noise**2 * np.trace(g)
    grown = p.claimed / amplitude
    slope[5] = growth * (g * weight * near * (grown[:, None] + grown[None, :])).sum()
    slope[6] = 2 * (np.diag(g) * (claim * p.claimed) ** 2).sum()
    slope[7] = degrees * (
        0.5 * (np.log1p(q / degrees) + digamma(degrees / 2) - digamma((degrees + n) / 2) + n / degrees)
        - (degrees + n) / 2 * q / degrees**2 / (1 + q / degrees)
    )
    common = g * weight * both * 3.0 * np.exp(-np.sqrt(3.0) * d)
    for j, length in enumerate(lengths):
        x = p.place[:, j] / length
        slope[8 + j] = (common * (x[:, None] - x[None, :]) ** 2).sum()
    return float(value), slope


def unseen(data: Data, hidden: Collection[str] = ()) -> Prior:
    """The prior of a GPU type without rows. GPUs in ``hidden`` are neither fitted to nor held out: what is learnt knows
    nothing of them."""
    return fit(data.kernel.name, samples_of(data, hidden))


def samples_of(data: Data, hidden: Collection[str] = ()) -> list[tuple[Points, Floats]]:
    """What :func:`unseen` is fitted to: each GPU held out that has rows."""
    names = [name for name in data.hardware.names if name not in hidden]
    samples = [held_out(data, {*hidden, name}, name) for name in names]
    return [sample for sample in samples if len(sample[1])]


def repeat(store: ProfileStore, hidden: Collection[str] = ()) -> Prior:
    """The prior of another machine of a measured type, from bf16 GEMMs that two frameworks measured."""
    hardware = hardware_of(store, "gemm")
    samples = []
    for name in (n for n in hardware.names if n not in hidden):
        tables = [store.query("gemm", gpu=name, framework=f) for f in ("vllm", "trtllm")]
        both = tables[0].merge(tables[1], on=["gpu", "num_gpus", "dtype", "m", "n", "k"], suffixes=("", "_again"))
        both = both[both["dtype"] == "bf16"]
        both = both.sample(min(len(both), SAMPLE_ROWS), random_state=0)
        q, own = coded("gemm", both), Hardware.of([find_gpu(name)])
        first, again = (both[c].to_numpy(dtype=np.float64) for c in ("latency_us", "latency_us_again"))
        ratio = np.log(first / base_us(families().kernel("gemm"), q, np.zeros(len(q["m"]), np.int64), own))
        p = points("gemm", q, own, error_partitions(q), ratio, np.zeros(len(both)), np.ones(len(both), bool))
        samples.append((p, np.log(again / first)))
    # Measured rows claim nothing. Between them, a forest that has seen the GPU is calibrated: its claim is scatter.
    return replace(fit("gemm", samples), growth=0.0, claim=1.0)


def borrowed(repeat: Prior, unseen: Prior, claimed: float) -> Prior:
    """``repeat`` of another operation for that of ``unseen``, whose forests claim a standard deviation of ``claimed``
    in the median: what is near goes together by as much more there."""
    grown = {"shared": 1 + unseen.growth * claimed, "local": 1 + unseen.growth * claimed}
    sizes = ("offset", "partition", "shared", "local", "noise")
    least = {name: min(getattr(repeat, name), getattr(unseen, name) * grown.get(name, 1.0)) for name in sizes}
    return replace(repeat, **least, lengths=unseen.lengths)


def as_figures(operation: str, prior: Prior) -> dict[str, Any]:
    """The inverse of :func:`costmodels.kernels.error_process.as_prior`, rounded."""
    out: dict[str, Any] = {name: float(f"{getattr(prior, name):.3g}") for name in SIZES}
    out["degrees"] = float(f"{prior.degrees:.3g}")
    pairs: Sequence[tuple[str, float]] = list(zip(coordinates(operation), prior.lengths, strict=True))
    return {**out, "lengths": {name: float(f"{length:.3g}") for name, length in pairs}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", action="append", choices=list(families().kernels))
    operations: list[str] = parser.parse_args().op or list(families().kernels)
    store = shipped_pack()
    again = repeat(store)
    print("repeat", as_figures("gemm", again), flush=True)
    document: dict[str, Any] = {}
    if PATH.exists():
        document = yaml.safe_load(PATH.read_text(encoding="utf-8")) or {}
    document["fitted_on"] = {
        "command": "python -m tests.benchmarks.few_shot",
        "pack_hash": store.manifest.content_hash,
        "model_version": MODEL_VERSION,
        "framework": FRAMEWORK,
        "in_sample": "all GPUs of the pack; tests/benchmarks/sampling.py fits its own without the GPU that it hides",
    }
    for operation in operations:
        if not hardware_of(store, operation).names:
            print(operation, "has no rows; figures_of names whose figures hold", flush=True)
            continue
        started = time.process_time()
        samples = samples_of(Data.of(store, operation, FRAMEWORK))
        prior = fit(operation, samples)
        claimed = float(np.median(np.concatenate([p.claimed for p, _ in samples])))
        of_operation = again if operation == "gemm" else borrowed(again, prior, claimed)
        document[operation] = {
            "unseen": as_figures(operation, prior),
            "repeat": {"from": "gemm", **as_figures(operation, of_operation)},
        }
        print(
            operation,
            document[operation]["unseen"],
            f"claimed {claimed:.3f}",
            f"{time.process_time() - started:.0f} CPU-s",
            flush=True,
        )
        # After each operation: a run takes a quarter of an hour.
        PATH.write_text(HEADER + yaml.safe_dump(document, sort_keys=False, width=110), encoding="utf-8")
    print(PATH)


if __name__ == "__main__":
    main()
