"""What a document was made from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import Field

from planner.contract.documents import Document

if TYPE_CHECKING:
    from profiles.store import ProfileStore

PACKAGE = "shardwright"

NOT_USED = "not used"
"""In documents that rest on no measurement."""

NOT_RECORDED = "not recorded"
"""In documents of older versions, for what they did not say of the measurements."""


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


def unmeasured(notes: Sequence[str] = ()) -> Provenance:
    """Of a document that no measurement and no cost model has part in."""
    return Provenance(
        package=PACKAGE,
        package_version=version(PACKAGE),
        cost_model_version=NOT_USED,
        pack=NOT_USED,
        pack_version=NOT_USED,
        pack_hash=NOT_USED,
        attribution="",
        notes=tuple(notes),
    )


def provenance_fields(
    store: ProfileStore,
    measured: Sequence[ProfileStore],
    gpus: Collection[str],
    cost_model_version: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    """The fields of a :class:`Provenance`.

    Args:
        store: the pack that was predicted from.
        measured: stores laid over it, the last on top.
        gpus: the GPU types whose rows are counted.
        cost_model_version: as the cost model says it.
    """
    manifest = store.manifest
    return {
        "package": PACKAGE,
        "package_version": version(PACKAGE),
        "cost_model_version": cost_model_version,
        "pack": manifest.name,
        "pack_version": manifest.version,
        "pack_hash": manifest.content_hash,
        "attribution": manifest.attribution,
        "measured": tuple(_measured(each, gpus) for each in measured),
        "notes": tuple(notes),
    }


def _measured(store: ProfileStore, gpus: Collection[str]) -> MeasuredStore:
    counts = store.summary()
    return MeasuredStore(
        name=store.manifest.name,
        version=store.manifest.version,
        hash=store.content_hash,
        rows=int(counts["rows"][counts["gpu"].isin(list(gpus))].sum()),
    )
