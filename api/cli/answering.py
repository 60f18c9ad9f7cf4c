"""From an understood request to what is printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.cli.console import page
from api.cli.output import hand_over

if TYPE_CHECKING:
    from planner.contract.published import Published
    from profiles.store import ProfileStore


def answered(kind: str, request: Any, doing: str, measured: Sequence[ProfileStore], *, quiet: bool) -> Any:
    """The document of ``kind`` that answers ``request``, with what is being done told on the way."""
    from api.cli.progress import Reporter
    from planner.kinds import KINDS

    with Reporter(doing, quiet=quiet) as report:
        return KINDS[kind].make(request, measured=measured, progress=report)


def told(made: Published, output: Path | None, *, as_json: bool, show: Callable[..., None], **how: Any) -> None:
    """Hands a document over, and shows people what it says."""
    if hand_over(made.to_json(), output, as_json=as_json):
        with page() as out:
            show(made, out, **how)
