"""Any document for people, with its reasons: what commands print with ``--explain``, as text."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import yaml
from rich.console import Console

from api.cli.console import WIDTH
from planner.contract.published import Published, kind_of


def _serving(document: Any, out: Console) -> None:
    from api.cli.views.plan import show

    show(document, out, explain=True)


def _experts(document: Any, out: Console) -> None:
    from api.cli.views.experts import show

    show(document, out, written=[])


def _memory(document: Any, out: Console) -> None:
    from api.cli.views.memory import show

    show(document, out)


def _simulation(document: Any, out: Console) -> None:
    from api.cli.views.simulation import show

    show(document, out)


_VIEWS: dict[str, Callable[[Any, Console], None]] = {
    "serving": _serving,
    "experts": _experts,
    "memory": _memory,
    "simulation": _simulation,
}


def explained(document: Published) -> str:
    """The view of a document; of a kind without one, its proof and what its provenance notes."""
    view = _VIEWS.get(kind_of(type(document)))
    if view is None:
        fields = document.model_dump(mode="json")
        said = {name: fields[name] for name in ("decision", "proof", "provenance") if name in fields}
        return yaml.safe_dump(said or fields, sort_keys=False, allow_unicode=True, width=WIDTH)
    held = io.StringIO()
    out = Console(file=held, width=WIDTH, highlight=False, markup=False, emoji=False, soft_wrap=False)
    view(document, out)
    return "".join(f"{line.rstrip()}\n" for line in held.getvalue().splitlines())
