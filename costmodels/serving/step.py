"""How long one engine step takes: the sum of its kernels, its exchanges and the host's share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.architecture import Architecture
from costmodels.communication import Network, across_nodes, exchange_times, point_to_point_us
from costmodels.estimates import ROOFLINE, Estimates, Floats, combine
from costmodels.features import LAUNCH_US
from costmodels.layouts import Layouts
from costmodels.library import CostModel
from costmodels.operators import ACTIVATION_BYTES, Batch, StepWork, step_work
from costmodels.precision import Precision
from costmodels.serving.frameworks import Framework

ELEMENTWISE_SPREAD = 0.4
"""Half-width (log) of the interval of the elementwise rest, which the pack does not time: between perfect fusion and none."""

OVERHEAD_SPREAD = 0.5
"""Half-width (log) of the interval of the host's share, uncalibrated so far."""


@dataclass(frozen=True)
class StepTimes:
    """Step times in µs over ``n`` candidates.

    Attributes:
        latency: through all pipeline stages, shape [n].
        stage: of the slowest stage, which sets the rhythm, shape [n].
        parts: µs of latency by cause (gemm, attention, moe, communication, elementwise, host), shape [n] each.
        flops, moved_bytes: work of one step on one GPU, for utilisation and power, shape [n].
    """

    latency: Estimates
    stage: Estimates
    parts: dict[str, Floats]


PARTS = {
    "gemm": ("gemm", "mla_bmm"),
    "attention": ("attention_prefill", "attention_decode", "mla_prefill", "mla_decode"),
    "moe": ("moe",),
}


def step_times(
    model: Architecture,
    precision: Precision,
    cost: CostModel,
    network: Network,
    framework: Framework,
    layouts: Layouts,
    batch: Batch,
    routing: str,
) -> StepTimes:
    """Times of one step of each candidate (``layouts`` and ``batch`` row by row)."""
    n = len(layouts)
    work = step_work(model, precision, layouts, batch, routing)
    by_part: dict[str, list[Estimates]] = {part: [_kernels(cost, work, op) for op in ops] for part, ops in PARTS.items()}
    by_part["communication"] = [exchange_times(cost, network, work.exchanges, n)]
    by_part["elementwise"] = [_elementwise(cost, work)]
    layers = combine([estimate for estimates in by_part.values() for estimate in estimates])
    hops = np.maximum(layouts.pp - 1, 0).astype(np.float64)
    message = batch.tokens * float(model.hidden * ACTIVATION_BYTES)
    crossing = layouts.gpus > network.gpus_per_node
    link = np.where(
        crossing,
        point_to_point_us(network.fabric, message),
        LAUNCH_US + message / cost.gpu.scale_up_bytes_per_s * 1e6,
    )
    hop = across_nodes(np.where(hops > 0, link, 0.0))
    by_part["communication"].append(hop.scaled(hops))
    host = _spread(np.full(n, framework.step_overhead_us), OVERHEAD_SPREAD)
    by_part["host"] = [host]
    # The slowest stage has ⌈layers ÷ pp⌉ of the layers; the head, in one stage only, is counted as spread over all.
    share = np.ceil(model.layers / layouts.pp) / model.layers
    latency = combine([layers, hop.scaled(hops), host])
    stage = combine([layers.scaled(share), hop, host])
    parts = {part: np.sum([e.value for e in estimates], axis=0) for part, estimates in by_part.items()}
    return StepTimes(latency, stage, parts)


def _kernels(cost: CostModel, work: StepWork, operation: str) -> Estimates:
    asked = work.asked.get(operation)
    if not asked:
        return Estimates.exact(np.zeros(work.candidates))
    names = asked[0].columns
    questions = {name: np.concatenate([np.asarray(part.columns[name]) for part in asked]) for name in names}
    estimates = cost.estimate(operation, questions)
    return estimates.summed(
        np.concatenate([part.candidate for part in asked]),
        np.concatenate([part.count for part in asked]),
        work.candidates,
    )


def _elementwise(cost: CostModel, work: StepWork) -> Estimates:
    time = work.moved_bytes / cost.gpu.memory_bandwidth_bytes_per_s * 1e6 + work.small_kernels * LAUNCH_US
    return _spread(time, ELEMENTWISE_SPREAD)


def _spread(time_us: Floats, half_width: float) -> Estimates:
    n = len(time_us)
    return Estimates(
        time_us,
        time_us * np.exp(-half_width),
        time_us * np.exp(half_width),
        np.full(n, ROOFLINE, np.int8) * 0,  # a formula, not a kernel prediction: it does not weaken the sum's origin
        np.ones(n, np.bool_),
    )
