"""What a store says of itself: the manifest beside its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from profiles.measurements import FORMAT_VERSION
from profiles.whole_files import write_whole

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    ``hashes`` holds the SHA-256 of each operation's file. ``pending`` holds that of a file which a writer was
    about to put in place: there only while it writes, or after it was killed.
    """

    name: str
    version: str
    attribution: str
    hashes: Mapping[str, str]
    pending: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_hash(self) -> str:
        """One hash over all rows: same hash, same predictions."""
        digest = hashlib.sha256()
        for operation in sorted(self.hashes):
            digest.update(f"{operation}:{self.hashes[operation]};".encode())
        return digest.hexdigest()


def hash_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Puts ``manifest`` in place of the one of the store ``folder``. Raises OSError."""
    document: dict[str, object] = {
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "version": manifest.version,
        "attribution": manifest.attribution,
        "hashes": dict(sorted(manifest.hashes.items())),
    }
    if manifest.pending:
        document["pending"] = dict(manifest.pending)
    write_whole(folder / MANIFEST, json.dumps(document, indent=2) + "\n")
