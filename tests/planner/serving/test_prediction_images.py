"""Images and notes in tables of configurations."""

from __future__ import annotations

import pandas as pd
import pytest

from costmodels.kernels.cost_model import CostModel
from planner.serving import prediction_table as predicting
from planner.serving.prediction_table import predict
from profiles.store import ProfileStore

GOOD = {
    "model": "Qwen/Qwen3-VL-8B-Instruct",
    "gpu": "H200",
    "framework": "vllm",
    "isl": "1000",
    "osl": "100",
    "concurrency": "8",
}
SEEING = {"images": "2", "image": "1024x1024"}


@pytest.fixture(autouse=True)
def roofline_only(monkeypatch: pytest.MonkeyPatch, bare: ProfileStore) -> None:
    """Every kernel at its roofline: no forest is fitted."""
    monkeypatch.setattr(predicting, "CostModel", lambda gpu, framework, **_: CostModel(gpu, framework, bare))


def asked(*changes: dict[str, str]) -> pd.DataFrame:
    return predict(pd.DataFrame([{**GOOD, **change} for change in changes]).fillna(""))


def test_images_lengthen_the_prompt_and_take_their_encoder() -> None:
    plain, seeing, as_text = asked({}, SEEING, {"isl": "3048"})["ttft_ms_mean"].astype(float)
    assert seeing > as_text > plain


def test_each_row_has_images_of_its_own() -> None:
    together = asked(SEEING, {**SEEING, "image": "512x512"}, {})
    alone = [asked(change)["ttft_ms_mean"].iloc[0] for change in (SEEING, {**SEEING, "image": "512x512"}, {})]
    assert together["ttft_ms_mean"].tolist() == alone


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"images": "2"}, "image is missing beside images"),
        ({"image": "1024x1024"}, "images is missing beside image"),
        ({**SEEING, "image": "1024"}, "image='1024' is not a size"),
        ({**SEEING, "images": "two"}, "images='two' is not a whole number"),
        ({**SEEING, "image": "0x10"}, "width_pixels"),
        ({**SEEING, "images": "-1"}, "count"),
        ({**SEEING, "model": "Qwen/Qwen3-32B"}, "Qwen/Qwen3-32B has no image encoder"),
        ({**SEEING, "model": "ibm-granite/granite-vision-3.3-2b"}, "llava_next"),
    ],
)
def test_images_that_make_no_sense_are_refused_in_their_row(change: dict[str, str], why: str) -> None:
    answer = asked(change, {})
    assert why in answer["error"].iloc[0]
    assert answer["error"].iloc[1] == ""


def test_what_the_reader_of_a_config_says_is_noted() -> None:
    note = asked({"model": "zai-org/GLM-5-Base", "tp": "8"})["note"].iloc[0]
    assert "its config.json is not shipped; read as that of zai-org/GLM-5" in note
