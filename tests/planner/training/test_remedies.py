"""What would make a layout fit: each remedy, followed word by word, does."""

from __future__ import annotations

import pytest

from planner.training.configuration import read_configuration
from planner.training.places import room
from planner.training.prediction import predicted
from planner.training.remedies import remedies
from planner.training.rules import check

CROWDED = (
    {"model": "meta-llama/Llama-3.1-70B", "tp": "8", "dp": "2", "seq_len": "8192", "global_batch": "8"},
    {"model": "meta-llama/Llama-3.1-405B", "tp": "8", "pp": "16", "seq_len": "8192", "micro_batch": "2"},
    {"model": "meta-llama/Llama-3.1-8B", "dp": "8", "framework": "deepspeed", "seq_len": "8192", "micro_batch": "4"},
    {"model": "Qwen/Qwen3-235B-A22B", "tp": "4", "ep": "8", "dp": "8", "seq_len": "4096", "global_batch": "64"},
    {
        "model": "meta-llama/Llama-3.1-70B", "gpu": "16xA100-SXM-40GB+24xH100", "tp": "8", "pp": "5", "sharding": "0",
        "seq_len": "4096", "global_batch": "64",
    },
)  # fmt: skip


@pytest.mark.parametrize("columns", CROWDED)
def test_what_is_said_to_make_it_fit_does(columns: dict[str, str]) -> None:
    columns = {"gpu": "H100", "global_batch": "64", **columns}
    asked = read_configuration(columns)
    assert not predicted([asked], None).memory.fits(room(asked.places))[0]
    found = remedies(asked)
    assert found
    assert len({each.change for each in found}) == len(found)
    for each in found:
        words = each.change.partition(", on ")[0].split()
        changed = {
            name.removeprefix("--").replace("-", "_"): value
            for name, value in zip(words[::2], words[1::2], strict=True)
        }
        followed = read_configuration(columns | changed)
        check(followed)
        memory = predicted([followed], None).memory
        assert memory.fits(room(followed.places))[0], each.change
        assert memory.used().max() == pytest.approx(each.bytes)
