"""The part of the plan document that says where the experts of an expert-parallel engine live."""

from __future__ import annotations

from pydantic import Field

from planner.contract.documents import Document


class ExpertBalance(Document):
    """Balancedness under one recorded workload: mean ÷ largest load of a GPU, mean over the MoE layers; 1 is even."""

    window: str
    before: float = Field(description="experts in order over the GPUs, as engines place them by default")
    after: float = Field(description="as placed here")
    bound: float = Field(description="no placement of as many slots exceeds it")


class ExpertPlacement(Document):
    """Which expert is in which slot of one expert-parallel group: the GPUs of one stage of one engine. Slot s is on
    expert-parallel rank s ÷ slots_per_rank, rounded down; where moe_tp > 1, such a rank is moe_tp GPUs that split each
    of its experts. Engines of the group are placed alike, and each pipeline stage holds its own layers' rows."""

    slots_per_rank: int = Field(description="experts of a layer on each of the ep ranks, copies included")
    layer_index: tuple[int, ...] = Field(description="index in the model of each row of the map")
    physical_to_logical_map: tuple[tuple[int, ...], ...] = Field(description="[MoE layers][slots], the expert there")
    balancedness: tuple[ExpertBalance, ...] = Field(description="of each window of the statistics; they weigh alike")
    gap: float = Field(
        description="by how much the load of the fullest GPU could at most shrink, relative; mean over layers"
    )
