"""Whether what runs taught helps runs that it has not seen: it may not, and then says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IN_SAMPLE = ("before", "nothing")
"""Of the ways to hold out, those that hold nothing out."""

Figures = Mapping[str, float]


def worse(errors: Mapping[str, Figures | None], what: str) -> list[dict[str, Any]]:
    """Where the mean error (``mape``) of runs left out is above that of the constants that stood ``before``: of
    ``what``, by what was held out (``left_out``), ``before`` and ``after`` in per cent."""
    stood = errors.get("before")
    if stood is None:
        return []
    return [
        {"left_out": name, "what": what, "before": stood["mape"], "after": figures["mape"]}
        for name, figures in errors.items()
        if name not in IN_SAMPLE and figures is not None and figures["mape"] > stood["mape"]
    ]
