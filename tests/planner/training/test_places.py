"""Named layouts whose stages run on GPUs of several types."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from roofline_cost import roofline_links

from costmodels.training.memory import training_memory
from planner.training import machines, named
from planner.training.configuration import read_configuration
from planner.training.places import mean_peak, pool_of_stages, room
from planner.training.prediction import layouts_of, predicted, setting_of
from profiles.errors import InputError
from profiles.hardware import find_gpu

ACROSS = {
    "model": "meta-llama/Llama-3.1-70B", "gpu": "16xA100-SXM-80GB+24xH100-SXM", "tp": "8", "pp": "5",
    "seq_len": "4096", "global_batch": "64", "stage_layers": "10*2|20*3",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _rooflines(monkeypatch: pytest.MonkeyPatch) -> None:
    def links(self: object, gpu: object, per_node: int, fabric: object) -> object:
        return roofline_links(gpu.name, per_node, fabric.name)  # type: ignore[attr-defined]

    monkeypatch.setattr(machines.Machines, "links", links)


def test_the_gpus_that_are_named_say_where_each_stage_runs() -> None:
    read = read_configuration(ACROSS)
    assert [(place.gpu.name, place.stages) for place in read.places] == [("A100-SXM-80GB", 2), ("H100-SXM", 3)]
    assert read.gpus == 40
    assert pool_of_stages(read.places).tolist() == [0, 0, 1, 1, 1]  # type: ignore[union-attr]
    assert len(set(room(read.places).tolist())) == 2
    peaks = [find_gpu(name).peak_flops["bf16"] for name in ("A100-SXM-80GB", "H100-SXM")]
    assert mean_peak(read.places, "bf16") == pytest.approx(0.4 * peaks[0] + 0.6 * peaks[1])


def test_stages_cost_what_they_cost_on_their_own_type_and_every_part_adds_up() -> None:
    def stages(gpu: str) -> np.ndarray:
        answer = predicted([read_configuration(ACROSS | {"gpu": gpu})], machines.Machines())
        assert answer.times is not None
        total = sum(float(part[0]) for part in answer.times.parts.values())
        assert total == pytest.approx(float(answer.times.total.value[0]))
        return answer.times.stages[0]

    mixed, slow, fast = (stages(gpu) for gpu in (ACROSS["gpu"], "40xA100-SXM-80GB", "40xH100-SXM"))
    assert mixed[0] == pytest.approx(slow[0], rel=0.02)  # but for the transfer to its neighbour
    assert mixed[4] == pytest.approx(fast[4], rel=0.02)
    assert mixed[1] > 1.5 * fast[1]


def test_one_stage_that_does_not_fit_on_its_type_does_not_fit() -> None:
    crowded = ACROSS | {"gpu": "16xA100-SXM-40GB+24xH100-SXM", "sharding": "0", "stage_layers": "16*5"}
    read = read_configuration(crowded)
    used = training_memory(setting_of(read), layouts_of([read])).used()[0]
    table = named.predict(pd.DataFrame([crowded, crowded | {"gpu": "40xH100-SXM"}]))
    assert used[0] > read.places[0].gpu.memory_bytes
    assert table["fits"].tolist() == ["false", "true"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gpu": "16xA100-SXM-80GB+H100"}, "does not say how many"),
        ({"gpu": "16xA100-SXM-80GB+24xMI300X"}, "two makers"),
        ({"gpu": "12xA100-SXM-80GB+28xH100-SXM"}, "12 × A100-SXM-80GB do not hold whole stages"),
        ({"gpu": "8xA100-SXM-80GB+24xH100-SXM"}, "32 is not a multiple of tp 8 × pp 5"),
        ({"num_gpus": "80"}, "80 is not the 40 GPUs"),
        ({"gpu": "16xNOPE+24xH100-SXM"}, "'NOPE' is not known"),
        ({"precision": "fp8"}, "fp8 on A100-SXM-80GB"),
    ],
)
def test_what_no_pipeline_runs_on_is_refused_by_name(changed: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        read_configuration(ACROSS | changed)
    column = next(iter(changed)) if "multiple" not in words else "num_gpus"
    assert refused.value.message.startswith(f"{column}:")


def test_a_number_of_gpus_of_one_type_says_the_data_parallelism() -> None:
    assert read_configuration(ACROSS | {"gpu": "80xH100-SXM"}).dp == 2
