"""A store whose runs left out are predicted worse says so, and plans made with it repeat it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from costmodels.serving.calibration_fit.learned import Learned
from costmodels.serving.frameworks.framework import find_framework
from planner.calibrate.learning import Lesson
from planner.serving.report.notes import _calibration_note


def test_calibrations_say_what_got_worse() -> None:
    runs = SimpleNamespace(framework=np.array(["vllm"] * 3), gpu=np.array(["H100-SXM"] * 3), measured=np.ones((4, 3)))
    fitted = find_framework("vllm").fitted
    residuals = {"nothing": np.zeros((4, 3)), "models": np.array([[0.3] * 3, [0.3] * 3, [0.0] * 3, [0.0] * 3])}
    learned = Learned({"vllm": fitted}, cast(Any, runs), residuals)
    lesson = Lesson(learned, (), 3, np.full((4, 3), 0.1))
    assert lesson.doubted.learned.calibrations["vllm"].doubtful == ("ttft",)


@pytest.mark.parametrize("doubtful", [(), ("ttft",), ("tpot", "ttft")])
def test_plans_repeat_it(doubtful: tuple[str, ...]) -> None:
    framework = find_framework("vllm")
    own = framework.fitted.model_copy(update={"doubtful": doubtful, "fitted_on": "12 runs of mine.csv"})
    note = _calibration_note(cast(Any, SimpleNamespace(framework=framework, own_calibration=own)))
    assert "learned from 12 runs of mine.csv" in note
    words = " and ".join(name.upper() for name in doubtful)
    assert (f"{words} is predicted worse with them than before" in note) is bool(doubtful)
