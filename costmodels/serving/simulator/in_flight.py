"""What the event simulator keeps of steps on their way through the pipeline."""

from __future__ import annotations

from typing import NamedTuple

from costmodels.serving.simulator.scheduler import Chunk, Rank, Slot


class PartOfStep(NamedTuple):
    """One rank's part of a step that is to be taken."""

    rank: Rank
    slot: Slot
    decodes: bool
    chunks: list[Chunk]


class TakenPart(NamedTuple):
    """One rank's part of a step that was taken: decode steps, and the requests whose prompts end with it."""

    rank: Rank
    slot: Slot
    steps: int
    landing: list[int]


class InFlight(NamedTuple):
    """A micro-batch in the pipeline: when it comes out, its slot, what was taken, and whether nothing but tokens comes
    of it."""

    done: float
    number: int
    taken: list[TakenPart]
    quiet: bool


class Turn:
    """The decodes of one micro-batch while the pipeline rotates.

    Attributes:
        slots: of the ranks that decode in it.
        ready: when it can go into the first stage again; ``in_flight``: whether it was in the pipeline at the start.
        to_end: steps until one of its sequences ends.
        latency, stage: µs of its next step, and by how much they rise, for ``straight`` further steps.
        steps: taken.
    """

    __slots__ = (
        "in_flight",
        "latency",
        "latency_rise",
        "number",
        "ready",
        "slots",
        "stage",
        "stage_rise",
        "steps",
        "straight",
        "to_end",
    )

    def __init__(self, number: int, slots: list[Slot], ready: float, in_flight: int) -> None:
        self.number, self.slots, self.ready, self.in_flight = number, slots, ready, in_flight
        self.to_end = min([slot.steps_to_next_end() for slot in slots]) - in_flight
        self.latency = self.latency_rise = self.stage = self.stage_rise = 0.0
        self.straight = self.steps = 0
