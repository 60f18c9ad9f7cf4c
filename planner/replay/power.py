"""What the GPUs of simulated engines draw over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from costmodels.estimates import Estimates, Floats
from costmodels.operations.questions import Batch
from costmodels.power.board import Activity, idle_loaded_watts, mean_watts
from costmodels.serving.simulator.step_table import End
from planner.contract.quantities import Interval
from planner.replay.gateway import FleetOutcome, Replay
from planner.replay.planned_engines import PlannedEngine

STRETCHES = 200
"""Of a replay, in each of which engines draw what their mean number of sequences does."""

_SEQUENCES = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512])


def watts_over(engines: Sequence[PlannedEngine], replays: Sequence[Replay], edges_us: Floats) -> Floats:
    """Watts of all GPUs in each stretch between ``edges_us`` (k + 1), [k]: idle with a model loaded, and while steps
    run what as many sequences draw as are running. Engines that were sent nothing rest."""
    kinds = {planned.group.id: _watts_by_sequences(planned) for planned in engines}
    width = np.diff(edges_us)
    total = np.zeros(len(width))
    rest = {planned.group.id: len(planned.group.replicas) for planned in engines}
    gpus = {planned.group.id: float(planned.layouts.gpus[0]) for planned in engines}
    for each in replays:
        time, busy_us, running = each.outcome.timeline.T[:3]
        busy_for = np.diff(np.interp(edges_us, time, busy_us))
        busy = np.clip(busy_for / width, 0.0, 1.0)
        # Sequences over the time in which steps run: the mean, not what an edge happens to find.
        held = np.concatenate([[0.0], np.cumsum(running[:-1] * np.diff(time))])
        mean = np.diff(np.interp(edges_us, time, held)) / np.maximum(busy_for, 1e-9)
        idle, loaded = kinds[each.group.id]
        ranks = float(each.group.layout.dp)
        in_step = np.maximum(mean / ranks, 1.0)
        watts = np.interp(np.log(in_step), np.log(_SEQUENCES), loaded)
        total += gpus[each.group.id] * (idle + busy * (watts - idle))
        rest[each.group.id] -= 1
    for planned in engines:
        total += max(rest[planned.group.id], 0) * gpus[planned.group.id] * kinds[planned.group.id][0]
    return total


def fleet_watts(engines: Sequence[PlannedEngine], fleets: Mapping[End, FleetOutcome]) -> Interval:
    """Of all GPUs on average over a replay whose arrivals go on to its end: as steps are predicted and at the ends of
    their interval, and as sure as a board's power is known."""
    drawn = {}
    for end, fleet in fleets.items():
        last = float(fleet.requests.arrival_us[-1])
        drawn[end] = float(watts_over(engines, fleet.replays, np.linspace(0.0, last, STRETCHES + 1)).mean())
    low, high = 1.0, 1.0
    for planned in engines:
        each = _drawn(planned)[1]
        low = min(low, float((each.low / each.value).min()))
        high = max(high, float((each.high / each.value).max()))
    value = drawn["value"]
    return Interval(value=value, low=min(min(drawn.values()), value * low), high=max(max(drawn.values()), value * high))


def _watts_by_sequences(planned: PlannedEngine) -> tuple[float, Floats]:
    """(Of a GPU with the model loaded, while steps run by :data:`_SEQUENCES` in them)."""
    idle, drawn = _drawn(planned)
    return idle, drawn.value


def _drawn(planned: PlannedEngine) -> tuple[float, Estimates]:
    """The same with its interval; a prefill engine's steps hold a prompt each, others' their share of one for each
    token."""
    job, shape, n = planned.job, planned.job.shape, len(_SEQUENCES)
    nobody, ones = np.zeros(2 * n, np.int64), np.ones(n, np.int64)
    prefill = planned.group.role == "prefill"
    prompts = np.concatenate([0 * ones, ones])
    decodes = 0 * nobody if prefill else np.tile(_SEQUENCES, 2)
    chunk = prompts * min(shape.new_tokens, planned.group.limits.max_tokens_per_step)
    tokens = np.maximum(decodes + chunk, 1).astype(np.float64)
    batch = Batch(prompts, chunk, nobody, np.maximum(decodes, 1 - prompts), np.full(2 * n, shape.context), tokens)
    steps = job.served.step(planned.layouts.take(np.zeros(2 * n, np.int64)), batch, shape.routing)
    plain, first = (Activity.of(steps.take(np.arange(n) + at)) for at in (0, n))
    share = np.minimum(_SEQUENCES / max(shape.decode_steps, 1.0), 1.0)  # of steps that hold a prompt
    share = share * (0.0 if planned.group.role == "decode" else 1.0)
    time = steps.latency.value
    mixed = first if prefill else Activity.mixed([(plain, (1 - share) * time[:n]), (first, share * time[n:])])
    gpu = job.served.gpu
    return idle_loaded_watts(gpu), mean_watts(gpu, mixed, np.ones(n))
