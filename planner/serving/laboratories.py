"""Whose figures a row has: of a laboratory whose runs the engines' constants know, of the reader, or of another
laboratory, whose engines and clients nobody here saw (``laboratories.yaml``).

A row that names nobody is the reader's own, of an engine that was started as it says: intervals of such engines hold
what they claim where nothing was fitted to them (``tests/benchmarks/engine.py``), and so do those of plans.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from costmodels.serving.frameworks.calibration import HalfWidths
from planner.serving.campaigns import WHO
from profiles.shipped import shipped


class Laboratories(BaseModel):
    """``known``: patterns of the names of those whose runs the constants know; ``others``: the error that all figures
    of any other one share (log, 80 %)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    known: tuple[str, ...]
    others: HalfWidths
    source: str
    date: dt.date

    def stranger(self, record: Mapping[str, str]) -> str:
        """Who measured a row, where that is none of :attr:`known`; empty where it is, or nobody is named."""
        who = next((text for name in WHO if (text := record.get(name, "").strip())), "")
        known = any(re.fullmatch(each, who, re.IGNORECASE) for each in self.known)
        return "" if known else who


@lru_cache(maxsize=1)
def laboratories() -> Laboratories:
    return shipped(Path(__file__).with_suffix(".yaml"), Laboratories.model_validate)
