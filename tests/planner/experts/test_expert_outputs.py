"""A placement as engines read it, and back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from planner.experts.model import MoeModel
from planner.experts.outputs import WRITERS, read_current, written
from planner.experts.placement import Placement, Topology
from profiles.errors import InputError, Unsupported

MODEL = MoeModel("made/up", layers=4, moe_layers=(1, 3), experts=4, top_k=2)
TOPOLOGY = Topology.uniform(3, 2)
ROWS = np.array([[0, 1, 2, 3, 0, 2], [3, 0, 1, 2, 3, 1]])
PLACEMENT = Placement(TOPOLOGY, ROWS, 4, MODEL.layer_index)

SUFFIX = {"sglang": ".json", "trtllm": ".yaml", "vllm-ascend": ".json", "eplb": ".npz"}


def test_sglang_has_a_row_for_every_hidden_layer_and_no_other_key() -> None:
    document = json.loads(written(PLACEMENT, MODEL, "sglang"))
    assert set(document) == {"physical_to_logical_map"}
    trivial = [0, 1, 2, 3, 0, 1]
    assert document["physical_to_logical_map"] == [trivial, ROWS[0].tolist(), trivial, ROWS[1].tolist()]


def test_tensorrt_llm_is_told_the_index_of_each_layer_in_the_model() -> None:
    document = yaml.safe_load(written(PLACEMENT, MODEL, "trtllm"))
    assert document == {
        "num_slots": 6,
        "initial_global_assignments": {1: ROWS[0].tolist(), 3: ROWS[1].tolist()},
        "layer_updates_per_iter": 0,
    }


def test_vllm_ascend_counts_moe_layers_and_lists_devices() -> None:
    document = json.loads(written(PLACEMENT, MODEL, "vllm-ascend"))
    assert document["moe_layer_count"] == 2
    assert [layer["layer_id"] for layer in document["layer_list"]] == [0, 1]
    first = document["layer_list"][0]
    assert first["device_count"] == 3
    assert first["device_list"][1] == {"device_id": 1, "device_expert": [2, 3]}


def test_eplb_arrays_agree_with_each_other() -> None:
    arrays = np.load(io.BytesIO(written(PLACEMENT, MODEL, "eplb")))
    assert np.array_equal(arrays["phy2log"], ROWS)
    assert arrays["logcnt"].tolist() == [[2, 1, 2, 1], [1, 2, 1, 2]]
    assert arrays["log2phy"].shape == (2, 4, 2)
    assert arrays["log2phy"][0].tolist() == [[0, 4], [1, -1], [2, 5], [3, -1]]
    assert arrays["layer_index"].tolist() == [1, 3]


@pytest.mark.parametrize("form", WRITERS)
def test_what_is_written_reads_back(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"placement{SUFFIX[form]}"
    path.write_bytes(written(PLACEMENT, MODEL, form))
    assert np.array_equal(read_current(path, MODEL, TOPOLOGY).physical_to_logical, ROWS)


@pytest.mark.parametrize("form", WRITERS)
def test_no_engine_takes_unequal_slots(form: str) -> None:
    topology = Topology(np.array([2, 3, 1]), TOPOLOGY.node, TOPOLOGY.domain, np.ones(3))
    with pytest.raises(Unsupported, match="equally many slots"):
        written(Placement(topology, ROWS, 4, MODEL.layer_index), MODEL, form)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"physical_to_logical_map": ROWS[:, :4].tolist()}, "2 MoE layers of 4 slots, not 2 of 6"),
        ({"physical_to_logical_map": ROWS[:1].tolist()}, "1 MoE layers of 6 slots, not 2 of 6"),
        (
            {"physical_to_logical_map": [[0, 1, 2, 4, 0, 2], ROWS[1].tolist()]},
            "layer 1, slot 3: expert 4 does not exist",
        ),
        ({"physical_to_logical_map": [[0, 1, 2, 2, 0, 1], ROWS[1].tolist()]}, "expert 3 has no copy in layer 1"),
        ({"physical_to_logical_map": [ROWS[0].tolist(), [3, 3, 1, 2, 0, 1]]}, "layer 3: expert 3 is twice on GPU 0"),
        ({"physical_to_logical_map": [[0, 1], [0]]}, "different numbers of slots"),
        ({"physical_to_logical_map": "all"}, "not a table of expert numbers"),
        ({"physical_to_logical_map": [[0.5, 1, 2, 3, 0, 2]] * 2}, "not a table of expert numbers"),
        ({"something": 1}, "is not a placement"),
        ([1, 2], "is not a placement"),
        ({"layer_list": [{}]}, "is not a placement"),
        ({"initial_global_assignments": {"1": [0]}}, "is not a placement"),
    ],
)
def test_a_current_placement_of_another_shape_is_refused(tmp_path: Path, document: Any, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as refused:
        read_current(path, MODEL, TOPOLOGY)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("name", "content"), [("p.json", "{"), ("p.yaml", "a: ["), ("p.npz", "PK"), ("p.json", "\x00")]
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=r"not valid|damaged"):
        read_current(tmp_path / name, MODEL, TOPOLOGY)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_current(tmp_path / "none.json", MODEL, TOPOLOGY)
