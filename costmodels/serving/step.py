"""How long one engine step takes: the sum of its kernels, its exchanges and the host's share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.arrays import Rowwise
from costmodels.estimates import Estimates, Floats, combine
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.features import LAUNCH_US
from costmodels.kernels.timed_beside import ProductsAlone
from costmodels.models.architecture import Architecture
from costmodels.operations.exchanges import HIGH_THROUGHPUT, OVERLAPS, priced_as, spread_of
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import ACTIVATION_BYTES, Batch, StepWork
from costmodels.operations.registry import families
from costmodels.origins import MEASURED
from costmodels.serving.frameworks.calibration import Calibration
from costmodels.step.communication import Network, across_nodes, exchange_times, point_to_point_us
from costmodels.step.expert_exchange import SentExperts, exchange_facts, expert_exchange_times
from costmodels.step.launching import no_earlier
from profiles.hardware import Gpu

ELEMENTWISE_SPREAD = 0.4
"""Half-width (log) of the interval of the elementwise rest, which the pack does not time: between perfect
fusion and none."""


@dataclass(frozen=True)
class StepTimes(Rowwise):
    """Step times in µs over ``n`` candidates.

    Attributes:
        latency: through all pipeline stages, shape [n].
        stage: of the slowest stage, which sets the rhythm, shape [n].
        parts: µs of latency by cause (gemm, attention, moe, communication, elementwise, host), shape [n]
            each.
        compute_us, memory_us: roofline times of all kernels together, shape [n]: how busy tensor cores and
            memory are.
        exchange_us: between GPUs, as far as nothing hides it, shape [n].
        waits_us: what a step of a model with experts takes beyond all kernels and exchanges as measured alone, shape
            [n]: untuned kernels, and GPUs that wait for each other. Without experts it is the host's, and none.
        filled: share of the rows of tensor cores' tiles that hold a token, shape [n].
        hot, most_watts: watts above idle ÷ those at the highest clock, and the board's limit, shape [n].
        uneven: by how much longer (log) the GPU with most experts to read takes than all on average, shape [n].
    """

    latency: Estimates
    stage: Estimates
    parts: dict[str, Floats]
    compute_us: Floats
    memory_us: Floats
    exchange_us: Floats
    waits_us: Floats
    filled: Floats
    hot: Floats
    most_watts: Floats
    uneven: Floats


def step_times(
    model: Architecture,
    work: StepWork,
    layouts: Layouts,
    batch: Batch,
    cost: CostModel,
    row_sources: Mapping[str, CostModel | ProductsAlone],
    network: Network,
    calibration: Calibration,
) -> StepTimes:
    """Times of one step of each candidate (``layouts``, ``batch`` and their ``work`` row by row).

    Args:
        row_sources: by operation, what answers in the place of ``cost``.
    """
    n = len(layouts)
    work.require_summed([operation for operations in families().parts.values() for operation in operations])
    kernels = np.zeros(n)

    def alone(part: Estimates) -> Estimates:
        np.add(kernels, part.value, out=kernels)
        return part

    asked = {
        name: _kernels(row_sources.get(name, cost), work, name) for names in families().parts.values() for name in names
    }
    busy = np.sum([each.bounds for each in asked.values()], axis=0)
    routed = asked["moe"]
    # The GPU with most experts reads more; launches and tails of kernels are as long on all.
    reading = np.divide(routed.bounds[1], routed.alone, out=np.zeros(n), where=routed.alone > 0)
    uneven = np.log1p(np.minimum(reading, 1.0) * np.expm1(work.uneven))
    graphs = (batch.prefills == 0) & ~layouts.wide & (batch.tokens <= work.beside_tokens)
    shared = asked["gemm"]
    hidden = np.where(graphs, np.minimum(shared.waiting, routed.alone), 0.0)
    after = 1 - np.divide(hidden, shared.alone, out=np.zeros(n), where=shared.alone > 0)
    slow = np.where(work.slow_experts & (batch.prefills == 0), calibration.slow_experts, 0.0)
    seen = {"moe": np.exp(calibration.uneven_experts * uneven + slow), "gemm": after}
    by_part: dict[str, list[Estimates]] = {
        part: [
            alone(asked[name].time).scaled(calibration.factor(name, batch.prefills) * seen.get(name, 1.0))
            for name in names
        ]
        for part, names in families().parts.items()
    }
    exchanges = alone(exchange_times(cost, network, work.exchanges, n))
    by_part["communication"] = [exchanges.scaled(calibration.factor("communication", batch.prefills))]
    by_part["elementwise"] = [alone(_elementwise(cost, work)).scaled(calibration.factor("elementwise", batch.prefills))]
    layers = combine([estimate for estimates in by_part.values() for estimate in estimates])
    for part in EXCHANGE_PARTS:
        by_part[part] = [Estimates.exact(np.zeros(n))]
    if work.expert_exchanges:
        sent = expert_exchange_times(cost, network, work.expert_exchanges, n)
        layers, by_part = _with_experts_sent(layers, by_part, sent, layouts)
    if calibration.early_launch_us_per_layer:
        gained = calibration.scale(batch.prefills) * calibration.early_launch_us_per_layer * model.layers
        gained = np.where(batch.prefills == 0, np.minimum(gained, layers.value / 2), 0.0)
        left = 1 - np.divide(gained, layers.value, out=np.zeros(n), where=layers.value > 0)
        layers = layers.scaled(left)
        by_part = {part: [each.scaled(left) for each in estimates] for part, estimates in by_part.items()}
    hops = np.maximum(layouts.pp - 1, 0).astype(np.float64)
    message = batch.tokens.astype(np.float64) * model.hidden * ACTIVATION_BYTES
    crossing = layouts.gpus > network.gpus_per_node
    link = np.where(
        crossing,
        point_to_point_us(network.fabric, message),
        LAUNCH_US + message / cost.gpu.scale_up_bytes_per_s * 1e6,
    )
    hop = across_nodes(np.where(hops > 0, link, 0.0), network.fabric)
    by_part["communication"].append(hop.scaled(hops))
    # Without CUDA graphs the host launches every kernel, as in steps with prompts.
    eager = np.where(priced_as(layouts.exchange) == HIGH_THROUGHPUT, np.maximum(batch.prefills, 1), batch.prefills)
    drafting = (layouts.dp > 1) & (batch.decodes > 0) & (batch.queries > 1)
    waiting = np.where(drafting, calibration.drafting_us, 0.0)
    host = Estimates.exact(calibration.host_us(model.layers, batch.decodes, eager) + waiting)
    # Kernels of a step with prompts that the host launches one by one end no earlier than it has done so.
    launching = np.where(batch.prefills > 0, calibration.launching_us, 0.0)
    launched = np.maximum(layers.value + host.value - calibration.beside_us(model.layers, batch.decodes), 0.0)
    still = Estimates.exact(no_earlier(launched, launching) - launched)
    by_part["host"] = [combine([host, still])]
    # The slowest stage has ⌈layers ÷ pp⌉ of the layers; the head, in one stage only, is counted as spread
    # over all.
    share = np.ceil(model.layers / layouts.pp) / model.layers
    own = Estimates.exact(calibration.host_us(model.layers * share, batch.decodes, eager) + waiting)
    over = _between_nodes(work, network)
    # No run of the calibration hides an exchange, or has one that another stands for.
    further = np.hypot(
        np.where(layouts.overlap != OVERLAPS.index("none"), OVERLAP_SPREAD, 0.0), spread_of(layouts.exchange)
    )
    whole, slowest = [layers, hop.scaled(hops), host, still], [layers.scaled(share), hop, own, still.scaled(share)]
    latency = _calibrated(combine(whole), calibration, over).widened(further)
    stage = _calibrated(combine(slowest), calibration, over).widened(further)
    parts = {part: np.sum([e.value for e in estimates], axis=0) for part, estimates in by_part.items()}
    memory_us = busy[1] + work.moved_bytes / cost.gpu.memory_bandwidth_bytes_per_s * 1e6
    halves = np.where(layouts.overlap == OVERLAPS.index("two_batch"), 2.0, 1.0)  # the work is of one of them
    waits_us = np.where(routed.alone > 0, np.maximum(latency.value - kernels * halves, 0.0), 0.0)
    exchanged = np.maximum(np.sum([parts[name] for name in ("communication", *EXCHANGE_PARTS)], axis=0), 0.0)
    busy_us = busy[0] * halves, memory_us * halves, exchanged, waits_us
    filled = _filled(asked["gemm"].bounds + routed.bounds, cost.gpu)
    hot, most = np.ones(n), np.full(n, np.inf)
    return StepTimes(latency, stage, parts, *busy_us, filled, hot, most, uneven)


TILE_ROWS = 64
"""Of the least tile that Hopper's tensor cores multiply (PTX ISA, wgmma)."""


def _filled(products: Floats, gpu: Gpu) -> Floats:
    """Of the rows of tiles those that hold a token, [n], half with as many as a tile has: tokens for each weight that
    is read, from what products are bound by, [2, n]."""
    at_ridge = max(gpu.peak_flops.get("bf16", 0.0), gpu.peak_flops.get("fp16", 0.0)) / gpu.memory_bandwidth_bytes_per_s
    tokens = at_ridge * products[0] / np.maximum(products[1], 1e-9)
    return np.asarray(tokens / (tokens + TILE_ROWS))


EXCHANGE_PARTS = ("dispatch", "combine", "overlap")
"""Parts of a step that layouts with an exchange of experts have: the last is what is hidden, negative."""

OVERLAP_SPREAD = 0.1
"""Half-width (log) that hiding adds to the interval of a step: not every engine reaches what the law says."""


def _with_experts_sent(
    layers: Estimates, by_part: dict[str, list[Estimates]], sent: SentExperts, layouts: Layouts
) -> tuple[Estimates, dict[str, list[Estimates]]]:
    """(all layers of a step, its parts) with exchanges of experts among them, and what hides them.

    Of two half-batches each computes while the other is sent: twice the longer of both, where products are slower, or
    wait, for what exchanges take of the multiprocessors. One batch hides the way back behind the last of the experts'
    three products.
    """
    two = layouts.overlap == OVERLAPS.index("two_batch")
    one = layouts.overlap == OVERLAPS.index("single_batch")
    computed, moved = layers.value, sent.dispatch.value + sent.combine.value
    together = combine([layers, sent.dispatch, sent.combine])
    computing = computed * np.where(moved > 0, sent.slower, 1.0) + sent.beside
    plain = priced_as(layouts.exchange) == HIGH_THROUGHPUT
    reach = np.where(plain, *(exchange_facts()["reach"][kind] for kind in ("high_throughput", "low_latency")))
    busy = np.maximum(computing, moved) + (1 - reach) * np.minimum(computing, moved)
    experts = np.sum([estimate.value for estimate in by_part["moe"]], axis=0)
    hidden = np.where(one, np.minimum(sent.combine.value, experts / 3), 0.0)
    total = np.where(two, 2 * busy, computed + moved - hidden)
    halves = np.where(two, 2.0, 1.0)
    parts = {name: [each.scaled(halves) for each in estimates] for name, estimates in by_part.items()}
    parts["dispatch"], parts["combine"] = [sent.dispatch.scaled(halves)], [sent.combine.scaled(halves)]
    parts["overlap"] = [Estimates.exact(np.where(two | one, total - halves * together.value, 0.0))]
    scale = np.divide(total, together.value, out=np.ones(len(total)), where=together.value > 0)
    return together.scaled(scale), parts


@dataclass(frozen=True)
class _Kernels:
    """What the kernels of one operation take, µs.

    Attributes:
        time: shape [n].
        bounds: compute and memory time of their rooflines, shape [2, n].
        waiting: of what may run beside other kernels, the time beyond its roofline, shape [n].
    """

    time: Estimates
    bounds: Floats
    waiting: Floats

    @property
    def alone(self) -> Floats:
        return self.time.value


def _kernels(cost: CostModel | ProductsAlone, work: StepWork, operation: str) -> _Kernels:
    asked = work.asked.get(operation)
    n = work.candidates
    if not asked:
        return _Kernels(Estimates.exact(np.zeros(n)), np.zeros((2, n)), np.zeros(n))
    questions, candidate, count = work.together(operation)
    kernel, hardware = families().kernel(operation), cost.kernel(operation).hardware
    rooflines = kernel.times_us(questions, np.zeros(len(candidate), np.int64), hardware)
    bounds = np.stack([np.bincount(candidate, time * count, n).astype(np.float64) for time in rooflines])
    times = cost.estimate(operation, questions)
    beside = np.concatenate([np.full(len(part.candidate), float(part.beside)) for part in asked])
    over = np.maximum(times.value - np.maximum(*rooflines), 0.0)
    waiting = np.bincount(candidate, over * count * beside, n).astype(np.float64)
    return _Kernels(times.summed(candidate, count, n), bounds, waiting)


def _elementwise(cost: CostModel, work: StepWork) -> Estimates:
    time = work.moved_bytes / cost.gpu.memory_bandwidth_bytes_per_s * 1e6 + work.small_kernels * LAUNCH_US
    return _spread(time, ELEMENTWISE_SPREAD)


def _between_nodes(work: StepWork, network: Network) -> NDArray[np.bool_]:
    """Of which candidates a collective goes between nodes, [n]."""
    out = np.zeros(work.candidates, np.bool_)
    for exchange in work.exchanges:
        out[exchange.candidate[exchange.ranks > network.gpus_per_node]] = True
    return out


def _calibrated(estimates: Estimates, calibration: Calibration, over: NDArray[np.bool_]) -> Estimates:
    """With the interval that runs ask for, or the kernels' own where that is wider and no runs are of the model and the
    GPU type, or collectives go ``over`` the fabric, [n], as in none of the runs."""
    low, high = interval(estimates.value, calibration.tpot.low, calibration.tpot.high)
    own = over | (not calibration.met)
    return Estimates(
        estimates.value,
        np.where(own, np.minimum(estimates.low, low), low),
        np.where(own, np.maximum(estimates.high, high), high),
        estimates.how,
        estimates.inside,
    )


def interval(value: Floats, low: Floats | float, high: Floats | float) -> tuple[Floats, Floats]:
    """(low, high) of a prediction, from those of log(measured ÷ predicted); ``value`` lies within."""
    return value * np.exp(np.minimum(low, 0.0)), value * np.exp(np.maximum(high, 0.0))


def _spread(time_us: Floats, half_width: float) -> Estimates:
    n = len(time_us)
    return Estimates(
        time_us,
        time_us * np.exp(-half_width),
        time_us * np.exp(half_width),
        # A formula, not a kernel prediction: it does not weaken the origin of a sum.
        np.full(n, MEASURED, np.int8),
        np.ones(n, np.bool_),
    )
