"""The answer of ``plan memory``: whether an engine starts, and where the memory of its GPUs goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from planner.contract.documents import Document, checked
from planner.contract.provenance import Provenance
from planner.contract.published import Published, Upgrade, parse_published
from planner.contract.sparse import Sparse
from planner.serving.configuration import MemoryRequest

SCHEMA_VERSION: Literal["1.0"] = "1.0"


class GpuMemory(Sparse):
    """Bytes on a GPU; of a pipeline, on one of its first stage, whose figures an engine logs."""

    SELDOM: ClassVar = ("kv_cache_sequences",)

    weights_bytes: int
    activation_bytes: int = Field(description="the most that a step takes over the weights")
    graph_bytes: int = Field(description="captured graphs; whether the share of memory covers them goes by the release")
    other_bytes: int = Field(description="what libraries take beside activations, most of it to communicate")
    kv_cache_bytes: int = Field(description="below 0: so much is lacking")
    kv_bytes_per_token: float = Field(description="of a sequence of max_model_len tokens")
    kv_cache_tokens: int = Field(description="of sequences of that length, that really fit, per attention replica")
    logged_kv_tokens: int = Field(description="as the engine's log counts them")
    kv_cache_sequences: int | None = Field(
        default=None,
        description="sequences that really fit, per attention replica, of a model that keeps a state of each, whatever "
        "its length; left out of others",
    )


class Largest(Document):
    """What fits at most, per attention replica."""

    context_tokens: int = Field(description="of one request alone; 0: none fits")
    concurrency: float = Field(description="requests of max_model_len tokens at once, as the engine's log counts them")
    workload_requests: float | None = Field(
        default=None, description="requests of the workload's mean length that really fit at once; null: none was given"
    )


class MemoryDocument(Published):
    """Whether an engine starts, and where the memory of its GPUs goes."""

    kind: Literal["memory"] = "memory"
    schema_version: Literal["1.0"] = SCHEMA_VERSION
    starts: bool
    reasons: tuple[str, ...] = Field(description="why it does not start; empty where it does")
    framework: str
    version: str = Field(description="of the framework")
    memory: GpuMemory
    largest: Largest
    notes: tuple[str, ...] = Field(description="what was assumed, and which option would make it start")
    provenance: Provenance


OLDER: dict[str, Upgrade] = {}
"""Versions that still open: none."""


def parse_memory(text: str, where: str = "memory") -> MemoryDocument:
    """A document from its JSON. Raises as :func:`planner.contract.published.parse_published`."""
    return parse_published(text, MemoryDocument, where, OLDER)


def parse_memory_request(value: Mapping[str, Any]) -> MemoryRequest:
    """A request from a mapping. Raises InputError with the first field that is wrong."""
    return checked(MemoryRequest, value, "request", schema="memory-request")
