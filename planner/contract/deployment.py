"""What runs or is to run. A plan's decision is a deployment; ``plan import`` reads one from what somebody runs, as a
document of its own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from planner.contract.clusters import Cluster
from planner.contract.documents import Document
from planner.contract.engine import EngineGroup, FrameworkName
from planner.contract.fleet import ScheduledStep
from planner.contract.provenance import Provenance
from planner.contract.published import Published, Upgrade, parse_published

SCHEMA_VERSION: Literal["1.0"] = "1.0"


class Deployment(Document):
    """Engines, the GPUs that they take, and who serves requests together."""

    engines: tuple[EngineGroup, ...]
    gpus_used: int
    gpus_idle: int
    usd_per_hour: float | None = Field(
        description="what the GPUs cost, of a schedule in the mean and with what is reserved; electricity is beside it "
        "(prediction.electricity_usd_per_hour); null where a price is not known"
    )
    pairs: tuple[tuple[str, str], ...] = Field(
        default=(),
        description="ids of the prefill and decode engines that serve requests together; empty: aggregated engines, "
        "or before schema 1.3, where every prefill engine goes with every decode engine",
    )
    schedule: tuple[ScheduledStep, ...] = Field(
        default=(), description="what runs when, and where requests go; empty: the replicas and their weights, always"
    )


class Assumed(Document):
    """What nobody said of an engine, and its framework takes then."""

    engine: str = Field(description="id of the engine group")
    field: str = Field(description="as the engine's: limits.max_sequences, kv_precision, …")
    value: int | float | str
    source: str = Field(description="who says that the release does so")


class Kept(Document):
    """A flag or variable without a meaning for predictions."""

    engine: str = Field(description="id of the engine group")
    flag: str
    value: str | None = Field(description="null: a switch")


class DeploymentDocument(Deployment, Published):
    """What runs, read from the commands or files that start it."""

    kind: Literal["deployment"] = "deployment"
    schema_version: Literal["1.0"] = SCHEMA_VERSION
    model: str
    config: dict[str, Any] | None = Field(description="the model's config.json, where it is not a bundled one")
    framework: FrameworkName
    cluster: Cluster = Field(description="the GPUs that it runs on")
    draft_tokens: int = Field(description="drafted a step by speculative decoding; 0: none")
    whole_prompts: tuple[str, ...] = Field(
        description="ids of the engine groups that do not cut prompts to what a step has room for"
    )
    read_as: str = Field(description="what it was read from, in words")
    assumed: tuple[Assumed, ...] = Field(description="left to the framework's defaults, as its release has them")
    kept: tuple[Kept, ...] = Field(description="said, and without a meaning for predictions")
    provenance: Provenance


OLDER: dict[str, Upgrade] = {}
"""Versions that still open: none."""


def parse_deployment(text: str, where: str = "deployment") -> DeploymentDocument:
    """A deployment from its JSON. Raises as :func:`planner.contract.published.parse_published`."""
    return parse_published(text, DeploymentDocument, where, OLDER)
