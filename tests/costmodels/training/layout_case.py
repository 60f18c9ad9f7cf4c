"""Layouts for tests, by name."""

from __future__ import annotations

from typing import Any

from costmodels.training.layouts import TrainingLayouts
from costmodels.training.setting import Setting
from planner.training.configuration import read_configuration
from planner.training.prediction import layouts_of, setting_of

GPT = "gpt:hidden=12288,layers=96,heads=96,vocab=51200"


def case(**columns: Any) -> tuple[Setting, TrainingLayouts]:
    """(setting, one layout) of a configuration: columns as in a CSV; defaults a Llama-3.1-8B on 8 H100."""
    told = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100", "seq_len": 4096, "global_batch": 64, **columns}
    configuration = read_configuration({name: str(value) for name, value in told.items()})
    return setting_of(configuration), layouts_of([configuration])
