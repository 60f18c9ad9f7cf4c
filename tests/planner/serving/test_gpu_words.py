"""GPUs as tables call them: with their number, with the machine of a campaign, with maker and memory."""

from __future__ import annotations

import pandas as pd
import pytest

from planner.serving.gpu_words import gpu_named
from planner.serving.prediction_table import predict
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, find_gpu

RUN = {"model": "Qwen/Qwen3-32B", "framework": "vllm", "isl": "1024", "osl": "512", "concurrency": "32"}


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("8xH100", "H100-SXM", 8),
        ("8 \u00d7 H100 SXM", "H100-SXM", 8),
        ("H100 x8", "H100-SXM", 8),
        ("8 H100", "H100-SXM", 8),
        ("MI355X (8 GPUs)", "MI355X", 8),
        ("HGX H100 8-GPU", "H100-SXM", 8),
        ("b200-nvd", "B200", None),
        ("MI300X8", "MI300X", 8),
        ("MI300X*4", "MI300X", 4),
        ("H100:8", "H100-SXM", 8),
        ("H100 (x8)", "H100-SXM", 8),
        ("8-GPU H100", "H100-SXM", 8),
        ("8xH100 (NVLink)", "H100-SXM", 8),
        ("2 nodes x 8 H100", "H100-SXM", 16),
        ("GB200 NVL72", "GB200", None),
        ("h100-dgxc-slurm", "H100-SXM", None),
        ("H100-PCIe", "H100-PCIe", None),
        ("V100", "V100-SXM", None),
        ("MI250", "MI250X", None),
        ("8x NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX-PRO-6000-Max-Q", 8),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX-PRO-6000-WS", None),
        ("RTX PRO 6000 Blackwell", "RTX-PRO-6000", None),
    ],
)
def test_a_name_may_tell_of_several_gpus_or_of_their_machine(text: str, name: str, count: int | None) -> None:
    found = gpu_named(text, SHIPPED)
    assert (found.gpu.name, found.count) == (name, count)
    assert bool(found.note) == (text in ("V100", "MI250", "RTX PRO 6000 Blackwell"))


@pytest.mark.parametrize("text", ["b200-nvd-foo", "8xH1000", "H100 x", "xH100", "0xH100"])
def test_other_words_stay_unknown(text: str) -> None:
    with pytest.raises(UnknownName, match=text):
        gpu_named(text, SHIPPED)


@pytest.mark.parametrize("text", ["A100 (80)", "A100:40", "H200 (141)", "L4:24", "V100 (32)"])
def test_a_number_that_may_be_gigabytes_is_no_count(text: str) -> None:
    with pytest.raises(InputError, match="GPUs or gigabytes"):
        gpu_named(text, SHIPPED)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AMD MI355X", "MI355X"),
        ("A100 80GB SXM4", "A100-SXM-80GB"),
        ("NVIDIA B200 180GB", "B200"),
        ("RTX 6000 Pro", "RTX-PRO-6000"),
        ("MI300X 192GB", "MI300X"),
    ],
)
def test_maker_and_memory_may_stand_in_any_order(text: str, name: str) -> None:
    assert find_gpu(text).name == name


@pytest.mark.parametrize("text", ["H100 64GB", "MI300X 128GB", "V100", "80GB", "GH200 64GB"])
def test_a_size_that_no_gpu_of_that_name_has_is_not_read_over(text: str) -> None:
    with pytest.raises(UnknownName):
        find_gpu(text)


def test_a_row_that_tells_of_gpus_alone_is_tensor_parallel_over_them() -> None:
    rows = [
        {**RUN, "gpu": "4xH200", "tp": ""},
        {**RUN, "gpu": "H200", "tp": "4"},
        {**RUN, "gpu": "8xH200", "tp": "4"},
    ]
    answer = predict(pd.DataFrame(rows))
    assert (answer["error"] == "").all()
    assert answer["tpot_ms_mean"].nunique() == 1
    assert "tp is not given: 4" in answer["note"][0]
    assert "8xH200 is taken for the machine" in answer["note"][2]
