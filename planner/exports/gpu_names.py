"""What platforms call GPUs (``gpu_names.yaml``)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from profiles.errors import Unsupported
from profiles.shipped import shipped

_FILE = Path(__file__).parent / "gpu_names.yaml"


@cache
def _names() -> dict[str, dict[str, str]]:
    return shipped(_FILE, lambda document: {name: dict(each["names"]) for name, each in document.items()})


def gpu_name(gpu: str, platform: str) -> str:
    """What a platform calls a GPU of the catalogue.

    Raises:
        Unsupported: it has no name for it.
    """
    known = _names()[platform]
    if gpu not in known:
        raise Unsupported(f"{platform} has no name for {gpu}", f"it knows {', '.join(sorted(known))}")
    return known[gpu]
