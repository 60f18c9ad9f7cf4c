"""Constants that somebody's own runs taught, beside the shipped ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from costmodels.serving.frameworks.calibration import Slow
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.frameworks.own_calibration import CALIBRATIONS, calibration_in, text_of
from profiles.errors import DataError
from profiles.hardware import find_gpu


def test_the_last_store_that_has_learned_of_a_framework_speaks(tmp_path: Path) -> None:
    shipped = find_framework("vllm").fitted
    for name, us in (("one", 111.0), ("two", 222.0)):
        (tmp_path / name).mkdir()
        text = text_of({"vllm": shipped.model_copy(update={"step_us": us})})
        (tmp_path / name / CALIBRATIONS.name).write_text(text)
    (tmp_path / "three").mkdir()
    folders = [tmp_path / name for name in ("one", "two", "three")]
    found = calibration_in(folders, "vllm")
    assert found is not None
    assert found.step_us == 222.0
    assert calibration_in(folders, "sglang") is None
    assert calibration_in([], "vllm") is None


@pytest.mark.parametrize("text", ["[1]", "{", '{"vllm": {"step_us": 1}}'])
def test_a_broken_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CALIBRATIONS.name).write_text(text)
    with pytest.raises(DataError):
        calibration_in([tmp_path], "vllm")


def test_sampling_costs_and_unknown_things_widen() -> None:
    framework = find_framework("vllm")
    h200, unmet = find_gpu("H200"), find_gpu("L40S")
    model = framework.fitted.models[0]
    known = {"greedy": True, "slow": Slow()}
    greedy = framework.fitted.resolved(h200, None, model, "", **known)
    random = framework.fitted.resolved(h200, None, model, "", greedy=False, slow=Slow())
    assert random.step_us_per_sequence > greedy.step_us_per_sequence
    assert greedy.met
    strange = framework.fitted.resolved(h200, None, "nobody's", "", **known)
    stranger = framework.fitted.resolved(unmet, None, "nobody's", "", **known)
    assert not strange.met
    assert greedy.tpot.high < strange.tpot.high < stranger.tpot.high + 1
    blocks = framework.fitted.resolved(h200, None, model, "", greedy=True, slow=Slow(block_experts=True))
    assert blocks.step_us_per_layer > greedy.step_us_per_layer
