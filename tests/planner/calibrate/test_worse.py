from __future__ import annotations

from planner.calibrate.worse import worse


def test_only_rows_left_out_can_be_worse() -> None:
    errors = {"before": {"mape": 5.0}, "nothing": {"mape": 9.0}, "rows": {"mape": 5.1}, "model": {"mape": 4.9}}
    assert worse(errors, "ttft") == [{"left_out": "rows", "what": "ttft", "before": 5.0, "after": 5.1}]


def test_what_was_not_measured_is_not_worse() -> None:
    assert worse({"before": None, "rows": {"mape": 5.1}}, "ttft") == []
    assert worse({"before": {"mape": 5.0}, "rows": None}, "ttft") == []
    assert worse({"before": {"mape": float("nan")}, "rows": {"mape": 5.1}}, "tpot") == []
