"""What engines draw under their load, and what that is by output token: the objective ``energy``, and the clocks that
are chosen where nothing is lost by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from costmodels.arrays import concatenate_rows
from costmodels.estimates import Estimates, Floats
from costmodels.operations.layouts import Layouts
from costmodels.power.board import Activity, idle_loaded_watts, mean_watts
from costmodels.serving.steady.disaggregated import Decoding, Prefilling
from costmodels.serving.step import StepTimes
from planner.serving.engines.protocol import LoadedEngine
from planner.serving.operating_points import Job, OperatingPoints
from profiles.hardware import Gpu


def gpu_watts(gpu: Gpu, steps: list[tuple[StepTimes, Floats]], present: Floats | None = None) -> Estimates:
    """Of one GPU over time that spends these shares (n,) of its steps on these steps (n), [n].

    Args:
        present: requests that the engine holds on average, [n]; it rests while none of them is there (they come at
            random). None: the shares say how long it rests.
    """
    time = [(Activity.of(step), share * step.latency.value) for step, share in steps]
    alone = np.zeros(1) if present is None else np.exp(-present)
    running = np.minimum(np.sum([share for _, share in steps], axis=0), 1.0) * (1 - alone)
    return mean_watts(gpu, Activity.mixed(time), running)


def engine_watts(gpu: Gpu, engine: LoadedEngine, layouts: Layouts) -> Estimates:
    """Of a GPU of one engine under its load, [1]: sequences are whole and its load is not, so it is between two
    concurrencies."""
    present = None if engine.role == "prefill" else np.asarray(engine.concurrency * layouts.dp, np.float64)
    watts = gpu_watts(gpu, [(step, np.array([share])) for step, share in engine.steps], present)
    if engine.less is None:
        return watts
    fewer, share = engine.less
    both = concatenate_rows([watts, engine_watts(gpu, fewer, layouts)])
    return both.summed(np.zeros(2, np.int64), np.array([1 - share, share]), 1)


def points_watts(points: OperatingPoints) -> Floats:
    """Of a GPU of each operating point, [n]."""
    steady, mixed = points.steady, points.steady.mixed_share
    steps = [(steady.decode, 1 - mixed), (steady.mixed, mixed)]
    return gpu_watts(points.job.served.gpu, steps, points.concurrency * points.layouts.dp).value


def prefill_watts(job: Job, engines: Prefilling) -> Floats:
    """Of a GPU of each prefill engine, [n]."""
    return gpu_watts(job.served.gpu, [(engines.steps.full, engines.utilisation)]).value


def decode_watts(job: Job, engines: Decoding) -> Floats:
    """Of a GPU of each decode engine, [n]."""
    steps = [(engines.step, np.ones(len(engines)))]
    return gpu_watts(job.served.gpu, steps, engines.concurrency * engines.layouts.dp).value


def joules_per_token(points: OperatingPoints) -> Floats:
    """Of each operating point, [n]."""
    rate = np.maximum(points.steady.rate_rps.value, 1e-300)
    return np.asarray(points_watts(points) * points.layouts.gpus / rate / points.job.workload.mean_osl)


def points_lines(points: OperatingPoints, rate_rps: Floats) -> tuple[Floats, Floats]:
    """The :func:`lines` of aggregated engines that carry ``rate_rps`` at ``points``, [n] each."""
    chains = [(*points.key(i), int(points.budget[i])) for i in range(len(points))]
    return lines(points.job, points.layouts, points_watts(points), rate_rps, chains)


def lines(job: Job, layouts: Layouts, watts: Floats, rate_rps: Floats, chains: list[Any]) -> tuple[Floats, Floats]:
    """(standing, joules): what engines at points of their load take in a second whatever they are sent, and for each
    request, [n] each, both ÷ the output tokens of one. Watts bend with the load (a step that holds more sequences takes
    less for each), so every point has the line through the one before it in its chain, or through rest: no load that
    the two are around takes more, and any other more than its own line says.

    Args:
        watts: of a GPU.
        chains: what makes points ones of the same engine.
    """
    whole, tokens = watts * layouts.gpus, job.workload.mean_osl
    standing = (idle_loaded_watts(job.served.gpu) * layouts.gpus).astype(np.float64)
    last: dict[Any, int] = {}
    for i in np.argsort(rate_rps, kind="stable").tolist():
        j = last.get(chains[i])
        if j is not None and rate_rps[i] > rate_rps[j]:
            each = (whole[i] - whole[j]) / (rate_rps[i] - rate_rps[j])
            standing[i] = max(standing[j], whole[i] - each * rate_rps[i])
        standing[i] = min(standing[i], whole[i])
        last[chains[i]] = i
    joules = (whole - standing) / np.maximum(rate_rps, 1e-300)
    return np.asarray(standing / tokens), np.asarray(joules / tokens)
