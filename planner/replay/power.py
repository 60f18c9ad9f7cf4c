"""What the GPUs of simulated engines draw over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from costmodels.estimates import Estimates, Floats, Ints
from costmodels.operations.questions import Batch
from costmodels.power.board import SHARES, Activity, idle_loaded_watts, mean_watts, watts_by_window
from costmodels.serving.simulator.outcome import TIMELINE
from costmodels.serving.simulator.step_table import End
from planner.contract.quantities import Interval
from planner.replay.gateway import FleetOutcome, Replay
from planner.replay.planned_engines import PlannedEngine

STRETCHES = 200
"""Of a replay, in each of which engines draw what their mean step does."""

WINDOW_S = 0.25
"""Of the series that is written."""

_SEQUENCES = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
_PROMPT_TOKENS = np.array([16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0])


def watts_over(engines: Sequence[PlannedEngine], replays: Sequence[Replay], edges_us: Floats) -> Floats:
    """Watts of all GPUs in each stretch between ``edges_us`` (k + 1, evenly), [k]: idle with a model loaded, and while
    steps run what these hold in that stretch, prompts and sequences that decode. Engines that were sent nothing
    rest."""
    kinds = {planned.group.id: _Steps.of(planned) for planned in engines}
    width = np.diff(edges_us)
    total = np.zeros(len(width))
    rest = {planned.group.id: len(planned.group.replicas) for planned in engines}
    gpus = {planned.group.id: float(planned.layouts.gpus[0]) for planned in engines}
    for each in replays:
        busy, activity = kinds[each.group.id].over(each, edges_us)
        gpu = kinds[each.group.id].planned.job.served.gpu
        total += gpus[each.group.id] * watts_by_window(gpu, activity, busy, float(width.mean()) / 1e6)
        rest[each.group.id] -= 1
    for planned in engines:
        idle = idle_loaded_watts(planned.job.served.gpu)
        total += max(rest[planned.group.id], 0) * gpus[planned.group.id] * idle
    return total


def windows(engines: Sequence[PlannedEngine], fleet: FleetOutcome) -> Floats:
    """Watts of all GPUs in windows of :data:`WINDOW_S` from the beginning to the last token."""
    many = max(int(np.ceil(fleet.requests.end_us / 1e6 / WINDOW_S)), 1)
    return watts_over(engines, fleet.replays, np.linspace(0.0, many * WINDOW_S * 1e6, many + 1))


def windows_csv(watts: Floats, begins_s: float = 0.0) -> str:
    """``t_s,power_watts``: when each window begins, on the clock of the arrivals, and its mean."""
    rows = (f"{begins_s + i * WINDOW_S:.2f},{each:.1f}\n" for i, each in enumerate(watts))
    return "t_s,power_watts\n" + "".join(rows)


def fleet_watts(engines: Sequence[PlannedEngine], fleets: Mapping[End, FleetOutcome]) -> Interval:
    """Of all GPUs on average over a replay whose arrivals go on to its end: as steps are predicted and at the ends of
    their interval, and as sure as a board's power is known."""
    drawn = {}
    for end, fleet in fleets.items():
        last = float(fleet.requests.arrival_us[-1])
        drawn[end] = float(watts_over(engines, fleet.replays, np.linspace(0.0, last, STRETCHES + 1)).mean())
    low, high = 1.0, 1.0
    for planned in engines:
        each = _Steps.of(planned).drawn
        low = min(low, float((each.low / each.value).min()))
        high = max(high, float((each.high / each.value).max()))
    value = drawn["value"]
    return Interval(value=value, low=min(min(drawn.values()), value * low), high=max(max(drawn.values()), value * high))


@dataclass(frozen=True)
class _Steps:
    """What the steps of an engine group make of its GPUs: those that decode alone by sequences of a rank, [sequences],
    and those that hold a rank's prompt tokens as well, [tokens, sequences]."""

    planned: PlannedEngine
    plain: Activity
    prompts: Activity

    @classmethod
    def of(cls, planned: PlannedEngine) -> _Steps:
        """A prefill engine's steps hold nothing but prompts."""
        job, shape = planned.job, planned.job.shape
        most = planned.group.limits.max_tokens_per_step
        chunks = np.concatenate([[0], np.minimum(_PROMPT_TOKENS, most)]).astype(np.int64)
        chunk, decodes = (each.ravel() for each in np.meshgrid(chunks, _SEQUENCES, indexing="ij"))
        if planned.group.role == "prefill":
            decodes = np.where(chunk == 0, 1, 0)
        nobody, tokens = np.zeros(len(chunk), np.int64), np.maximum(decodes + chunk, 1).astype(np.float64)
        prompts = (chunk > 0).astype(np.int64)
        batch = Batch(prompts, chunk, nobody, decodes, np.full(len(chunk), shape.context), tokens)
        steps = job.served.step(planned.layouts.take(np.zeros(len(chunk), np.int64)), batch, shape.routing)
        many = len(_SEQUENCES)
        plain, first = (Activity.of(steps.take(rows)) for rows in (np.arange(many), np.arange(many, len(chunk))))
        return cls(planned, plain, first)

    @property
    def drawn(self) -> Estimates:
        """Watts of a GPU in every one of these steps."""
        gpu = self.planned.job.served.gpu
        both = self._activity(lambda name: np.concatenate([_part(self.plain, name), _part(self.prompts, name)]))
        return mean_watts(gpu, both, np.ones(len(both.compute)))

    def _activity(self, part: Callable[[str], Floats]) -> Activity:
        """From its parts by name; the board's limit is one."""
        most = np.full(1, self.plain.most_watts.max())
        return Activity(**{name: part(name) for name in SHARES}, hot=part("hot"), most_watts=most)

    def over(self, replay: Replay, edges_us: Floats) -> tuple[Floats, Activity]:
        """(share of each stretch in which steps run, what they do)."""
        at = dict(zip(TIMELINE, replay.outcome.timeline.T, strict=True))
        time, ranks = at["time_us"], float(replay.group.layout.dp)

        def within(of: Floats) -> Floats:
            return np.asarray(np.diff(np.interp(edges_us, time, of)))

        busy, prompt, steps, tokens = (within(at[n]) for n in ("busy_us", "prompt_us", "prompt_steps", "prompt_tokens"))
        # Sequences over the time in which steps run: the mean, not what an edge happens to find.
        held = np.concatenate([[0.0], np.cumsum(at["running"][:-1] * np.diff(time))])
        sequences = np.maximum(within(held) / np.maximum(busy, 1e-9) / ranks, 1.0)
        chunk = tokens / np.maximum(steps, 1e-9) / ranks
        plain, first = (
            self._activity(partial(_between, of, knots, chunk, sequences))
            for of, knots in ((self.plain, np.ones(1)), (self.prompts, _PROMPT_TOKENS))
        )
        width = np.diff(edges_us)
        mixed = Activity.mixed([(plain, np.maximum(busy - prompt, 0.0) + 1e-9), (first, prompt)])
        return np.clip(busy / width, 0.0, 1.0), mixed


def _part(of: Activity, name: str) -> Floats:
    return np.asarray(np.broadcast_to(getattr(of, name), of.compute.shape))


def _between(of: Activity, rows: Floats, row: Floats, sequences: Floats, name: str) -> Floats:
    """A part of it, [rows × sequences], between its knots, both by their logarithm."""
    table = _part(of, name).reshape(len(rows), len(_SEQUENCES))

    def place(knots: Floats, at: Floats) -> tuple[Ints, Floats]:
        along = np.interp(np.log(np.maximum(at, 1e-9)), np.log(knots), np.arange(len(knots)))
        whole = np.minimum(along.astype(np.int64), max(len(knots) - 2, 0))
        return whole, along - whole

    (i, w), (j, v) = place(rows, row), place(_SEQUENCES, sequences)
    low, high = (table[k, j] + v * (table[k, j + 1] - table[k, j]) for k in (i, np.minimum(i + 1, len(table) - 1)))
    return np.asarray(low + w * (high - low))
