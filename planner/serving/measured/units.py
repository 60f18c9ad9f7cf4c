"""Units of latencies whose columns say none: by the size of a time per token."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from costmodels.estimates import Floats

SURE = 0.9
"""Share of the values that must lie on one side."""

AT_MOST_S, AT_LEAST_MS = 0.5, 1.0
"""A token takes no second but in an engine that is choked, and no engine makes 2,000 a second for one user."""

FEWEST, MOST = 2.0, 1e5
"""Times of a token that a whole request takes at least and at most."""

_TOKEN = re.compile(r"(?<![a-z0-9])(?:tpot|itl)(?![a-z0-9])|output.token|inter.token", re.ASCII | re.IGNORECASE)
_REQUEST = re.compile(r"(?<![a-z0-9])e2el?(?![a-z0-9])|end.to.end|request.latency", re.ASCII | re.IGNORECASE)


_THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", re.ASCII)


def without_commas(text: str) -> str:
    """``1,146.31`` as 1146.31; other text as it stands."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def units_told(columns: Mapping[str, Floats]) -> dict[str, str]:
    """Column → ``s`` or ``ms``, of those whose unit is plain; ``columns``: latencies without a unit, and their values.

    What a token takes tells the unit of all columns, but of whole requests, which some clients have in seconds beside
    milliseconds (GuideLLM): these must last longer than a few tokens.
    """
    tokens = [values[np.isfinite(values)] for name, values in columns.items() if _TOKEN.search(name)]
    each = np.concatenate(tokens) if tokens else np.empty(0)
    if not each.size:
        return {}
    small, large = (each <= AT_MOST_S).mean() >= SURE, (each >= AT_LEAST_MS).mean() >= SURE
    if not (small or large):
        return {}
    unit, other = ("s", "ms") if small else ("ms", "s")
    out = dict.fromkeys(columns, unit)
    for name in (name for name in columns if _REQUEST.search(name)):
        ratio = float(np.nanmedian(columns[name])) / float(np.median(each))
        if (unit == "ms" and ratio < FEWEST) or (unit == "s" and ratio > MOST):
            out[name] = other
    return out
