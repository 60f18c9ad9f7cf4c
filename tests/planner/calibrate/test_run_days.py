"""Of which day a measured run is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from costmodels.serving.calibration_fit.runs import day_of
from planner.calibrate.learning import days_of
from profiles.errors import InputError


def days(dates: list[str]) -> list[float]:
    runs: Any = SimpleNamespace(row=np.arange(len(dates)), days=np.full(len(dates), np.inf))
    return [float(day) for day in days_of(runs, pd.DataFrame({"date": dates}))]


def test_a_day_is_read_however_it_is_stamped_and_a_month_or_nothing_says_none() -> None:
    stamps = ["2026-03-01", "2026/03/01", "20260301-1010", "2026-03-01T10:10:10Z", "1772359810"]
    found = days([*stamps, "2026-03", ""])
    assert [day_of(day).isoformat() for day in found[:5]] == ["2026-03-01"] * 5
    assert np.isinf(found[5:]).all()


def test_what_is_no_day_is_refused() -> None:
    with pytest.raises(InputError, match="date: '03/01/2026' may be 2026-03-01"):
        days(["03/01/2026"])
