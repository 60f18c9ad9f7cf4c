"""What lasting load costs a GPU: a fact of the catalogue, replaced by a user's own rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from costmodels.training.calibration import lasting_load, lasting_load_elsewhere
from profiles.descriptions import catalogue_with
from profiles.hardware import LastingLoad, find_gpu, gpus
from profiles.store import ProfileStore

LAYER = {"tokens": 8192, "hidden": 4096, "intermediate": 14336, "heads": 32, "kv_heads": 8, "head_dim": 128}


def store(folder: Path, *rows: tuple[str, str, str, float]) -> Path:
    frame = pd.DataFrame(
        {
            **LAYER,
            "gpu": gpu,
            "dtype": dtype,
            "state": state,
            "latency_us": us,
            "latency_p10_us": 0.98 * us,
            "latency_p90_us": 1.03 * us,
            "num_gpus": 1,
            "kernel": "cublas_mm+sdpa_cudnn",
            "framework": "torch",
            "framework_version": "2.11.0",
            "source": "a test",
            "date": "2026-11-26",
        }
        for gpu, dtype, state, us in rows
    )
    made = ProfileStore.create(folder, name="own", version="1", attribution="a test")
    made.add("sustained", frame)
    return folder


def test_own_rows_take_the_place_of_what_ships(tmp_path: Path) -> None:
    folder = store(
        tmp_path / "own",
        ("H200", "fp8", "rested", 100.0),
        ("H200", "fp8", "sustained", 103.0),
        ("H200", "bf16", "rested", 200.0),
        ("H200", "bf16", "sustained", 230.0),
    )
    catalogue = catalogue_with([folder])
    own = catalogue.find_gpu("H200").lasting_load
    assert own is not None
    assert own.factor == pytest.approx(1.15), "of 16 bits"
    assert (own.low, own.high) == pytest.approx((1.15 * 0.98 / 1.03, 1.15 * 1.03 / 0.98))
    assert lasting_load(catalogue.find_gpu("H200")) == own
    assert find_gpu("H200").lasting_load != own, "what ships stays as it is"
    assert catalogue.find_gpu("H100") == find_gpu("H100")


def test_one_state_alone_says_nothing(tmp_path: Path) -> None:
    folder = store(tmp_path / "own", ("H200", "bf16", "sustained", 230.0))
    assert catalogue_with([folder]).find_gpu("H200") == find_gpu("H200")


def test_a_type_of_which_nothing_is_known_takes_what_others_say() -> None:
    unknown = [gpu for gpu in gpus().values() if gpu.lasting_load is None]
    assert unknown
    assert lasting_load(unknown[0]) == lasting_load_elsewhere()


def test_the_factor_lies_within_its_interval() -> None:
    with pytest.raises(ValueError, match="low ≤ factor ≤ high"):
        LastingLoad(factor=1.0, low=1.05, high=1.3)
