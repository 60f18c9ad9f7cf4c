"""What a document was made from."""

from __future__ import annotations

from pydantic import Field

from planner.contract.documents import Document


class MeasuredStore(Document):
    """A profile store that was laid over the pack."""

    name: str
    version: str
    hash: str
    rows: int = Field(description="of the GPU types of the plan's pools, all operations")


class Provenance(Document):
    package: str
    package_version: str
    cost_model_version: str
    pack: str
    pack_version: str
    pack_hash: str
    attribution: str
    measured: tuple[MeasuredStore, ...] = Field(
        default=(), description="stores laid over the pack, the last on top; plans of schema 1.0 have none"
    )
    notes: tuple[str, ...] = Field(description="what the reader should know of the measurements and assumptions")
