"""Expert counts as engines and people write them, and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costmodels.models.registry import find_architecture
from planner.experts.inputs import read_loads
from planner.experts.model import MoeModel, copy_bytes, moe_model
from profiles.errors import InputError, Unsupported

MODEL = MoeModel("made/up", layers=5, moe_layers=(1, 2, 4), experts=4, top_k=2)
ROWS = np.array([[5.0, 1, 2, 3], [1, 1, 1, 7], [9, 0, 0, 1]])
ALL = np.zeros((5, 4))
ALL[[1, 2, 4]] = ROWS

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return writer


def safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, body = {}, b""
    for name, tensor in tensors.items():
        data = tensor.astype("<i8").tobytes()
        header[name] = {"dtype": "I64", "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


# ------------------------------------------------------------------ what is accepted


@pytest.mark.parametrize("table", [ALL, ROWS], ids=["all hidden layers", "MoE layers alone"])
@pytest.mark.parametrize("kind", ["json", "bare", "npy"])
def test_a_table_has_a_row_for_each_hidden_layer_or_for_each_moe_layer(
    write: Write, table: np.ndarray, kind: str
) -> None:
    content = {"json": {"logical_count": table.tolist()}, "bare": table.tolist(), "npy": table}[kind]
    path = write("monday.npy" if kind == "npy" else "monday.json", content)
    loads = read_loads([path], MODEL)
    assert np.array_equal(loads.counts, ROWS[None])
    assert loads.layer_index.tolist() == [1, 2, 4]
    assert loads.names == ("monday",)


def test_several_windows_come_from_one_file_or_from_several(write: Write) -> None:
    one = write("both.json", {"logical_count": [ALL.tolist(), (2 * ALL).tolist()]})
    many = [write("a.npy", ALL), write("b.npy", 2 * ALL)]
    assert np.array_equal(read_loads([one], MODEL).counts, read_loads(many, MODEL).counts)
    assert read_loads([one], MODEL).names == ("both[0]", "both[1]")
    assert read_loads(many, MODEL).weights.tolist() == [0.5, 0.5]


def test_npz_holds_logical_count_or_one_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", logical_count=ROWS, other=np.zeros(3))
    np.savez(tmp_path / "single.npz", counts=ROWS)
    for name in ("named.npz", "single.npz"):
        assert np.array_equal(read_loads([tmp_path / name], MODEL).counts[0], ROWS)


def test_csv_names_layers_of_the_model_and_leaves_zeros_out(write: Write) -> None:
    lines = [f"{layer},{e},{ROWS[i, e]:g}" for i, layer in enumerate((1, 2, 4)) for e in range(4) if ROWS[i, e]]
    path = write("c.csv", "\n".join(["layer,expert,count", *reversed(lines)]))
    assert np.array_equal(read_loads([path], MODEL).counts[0], ROWS)


def test_csv_may_name_windows(write: Write) -> None:
    lines = [f"{w},{layer},{e},{w}" for w in (1, 2) for layer in (1, 2, 4) for e in range(4)]
    loads = read_loads([write("c.csv", "\n".join(["window,layer,expert,count", *lines]))], MODEL)
    assert loads.counts.shape == (2, 3, 4)
    assert loads.counts[1].max() == 2


def test_passes_of_a_recorder_dump_are_one_window(write: Write) -> None:
    """SGLang's recorder keeps a ring buffer of passes, whose unused rows are zero."""
    passes = np.stack([ALL, np.zeros_like(ALL), ALL])
    loads = read_loads([write("dump.json", {"rank": 0, "logical_count": passes.tolist()})], MODEL)
    assert np.array_equal(loads.counts, 2 * ROWS[None])


def test_a_torch_dump_is_read_as_data(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"rank": 0, "logical_count": torch.tensor(ALL)[None]}, tmp_path / "dump.pt")
    assert np.array_equal(read_loads([tmp_path / "dump.pt"], MODEL).counts[0], ROWS)


def test_a_torch_dump_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"logical_count": Path("/")}, tmp_path / "dump.pt")
    with pytest.raises(InputError, match="torch cannot read it"):
        read_loads([tmp_path / "dump.pt"], MODEL)


def test_without_torch_a_dump_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "dump.pt").write_bytes(b"")
    with pytest.raises(Unsupported, match="torch is needed") as refused:
        read_loads([tmp_path / "dump.pt"], MODEL)
    assert "pip install torch" in refused.value.hint


def test_tensorrt_llm_statistics_are_added_over_ranks_and_iterations(tmp_path: Path) -> None:
    (tmp_path / "meta_info.json").write_text("{}")
    for rank in (0, 1):
        tensors = {f"{iteration}_{layer}": ROWS[i] for iteration in (7, 8) for i, layer in enumerate((1, 2, 4))}
        safetensors(tmp_path / f"rank{rank}.safetensors", tensors)
    (tmp_path / "rank0_raw.safetensors").write_bytes(b"not read")
    loads = read_loads([tmp_path], MODEL)
    assert np.array_equal(loads.counts[0], 4 * ROWS)
    assert loads.names == (tmp_path.name,)


# ------------------------------------------------------------------ what is refused


def changed(value: float, where: tuple[int, int] = (2, 3)) -> np.ndarray:
    table = ALL.copy()
    table[where] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed(np.nan), "layer 2, expert 3 is NaN"),
        (changed(np.inf), "layer 2, expert 3 is infinite"),
        (changed(-3), r"layer 2, expert 3 is negative \(-3\)"),
        (changed(4, (0, 1)), "layer 0 has counts but is dense"),
        (np.where(np.arange(5)[:, None] == 4, 0, ALL), "layer 4 has no token at all"),
        (ALL[:4], "has 4 layers"),
        (ALL[:, :3], "has counts of 3 experts"),
        (ALL[0], "shape \\[4\\]"),
        (ALL[:0], "shape \\[0, 4\\]"),
    ],
)
def test_wrong_counts_are_refused_with_their_place(write: Write, table: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_loads([write("bad.npy", table)], MODEL)


def test_a_mismatch_says_what_the_model_has(write: Write) -> None:
    with pytest.raises(InputError) as refused:
        read_loads([write("bad.npy", ALL[:4])], MODEL)
    assert "3 MoE layers of 5 (2 dense) with 4 experts" in refused.value.hint
    assert "5 rows (dense layers zero) or 3" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"logical_count": [[1, 2', "not valid JSON"),
        ("a.json", '{"logical_count": [[NaN]]}', "NaN is not a number in JSON"),
        ("a.json", {"counts": [[1]]}, "key logical_count is missing"),
        ("a.json", {"kind": "experts", "schema_version": "1.2"}, "a document of kind 'experts', which holds no counts"),
        ("a.json", {"logical_count": [[1, 2], [3]]}, "rows of one length"),
        ("a.json", {"logical_count": "many"}, "table of numbers"),
        ("a.txt", "1 2 3", "'.txt' is not a kind of file"),
        ("a.npy", "not numpy", "numpy cannot read it"),
        ("a.csv", "expert,count\n1,2", "line 1: the header"),
        ("a.csv", "layer,expert,count\n1,2", "line 2 has 2 fields"),
        ("a.csv", "layer,expert,count\n1,x,3", "line 2: '1,x,3' is not numbers"),
        ("a.csv", "layer,expert,count\n1,0,3\n1,0,4", "line 3: layer 1, expert 0 is given twice"),
        ("a.csv", "layer,expert,count\n1,-1,3", "line 2: layer 1, expert -1 is out of range"),
        ("a.csv", "layer,expert,count\n9,0,3", "has layer 9"),
        ("a.csv", "layer,expert,count\n1,0,3\n2,0,1", "has no counts of layer 4"),
        ("a.csv", "layer,expert,count\n", "holds no counts"),
        ("a.csv", "layer,expert,count\n1,9,3", "10 experts"),
    ],
)
def test_files_that_cannot_be_read_are_refused(write: Write, name: str, content: Any, message: str) -> None:
    path = write(name, content)
    with pytest.raises(InputError, match=message) as refused:
        read_loads([path], MODEL)
    assert refused.value.hint


def test_a_missing_file_a_bare_folder_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_loads([tmp_path / "none.json"], MODEL)
    with pytest.raises(InputError, match=r"without meta_info\.json"):
        read_loads([tmp_path], MODEL)
    with pytest.raises(InputError, match="no file"):
        read_loads([], MODEL)


def test_damaged_tensorrt_llm_statistics_are_refused(tmp_path: Path) -> None:
    (tmp_path / "meta_info.json").write_text("{}")
    safetensors(tmp_path / "rank0.safetensors", {"7_1": ROWS[0]})
    whole = (tmp_path / "rank0.safetensors").read_bytes()
    (tmp_path / "rank0.safetensors").write_bytes(whole[:-3])
    with pytest.raises(InputError, match=r"rank0\.safetensors is not a whole"):
        read_loads([tmp_path], MODEL)
    safetensors(tmp_path / "rank0.safetensors", {"seven": ROWS[0]})
    with pytest.raises(InputError, match="'seven' is not iteration_layer"):
        read_loads([tmp_path], MODEL)


# ------------------------------------------------------------------ models


def test_deepseek_has_three_dense_layers_first() -> None:
    model = moe_model(find_architecture("deepseek-ai/DeepSeek-V3"))
    assert (model.layers, len(model.moe_layers), model.moe_layers[0], model.experts, model.top_k) == (61, 58, 3, 256, 8)


def test_experts_of_every_second_layer_keep_their_index() -> None:
    model = moe_model(find_architecture("meta-llama/Llama-4-Maverick-17B-128E-Instruct"))
    assert model.moe_layers == tuple(range(1, 48, 2))


def test_a_dense_model_has_nothing_to_place() -> None:
    with pytest.raises(Unsupported, match="no experts"):
        moe_model(find_architecture("Qwen/Qwen3-32B"))


def test_bytes_of_a_copy_are_those_of_three_matrices() -> None:
    from costmodels.models.precision import choose_precision

    model = find_architecture("deepseek-ai/DeepSeek-V3")
    assert copy_bytes(model, choose_precision(model)) == 3 * 7168 * 2048


def test_dumps_of_single_ranks_are_added_up_and_named_so(write: Write) -> None:
    ranks = [np.where(np.isin(np.arange(4), each), ROWS, 0.0) for each in ((0, 1), (2,), (3,))]
    loads = read_loads([write(f"rank{i}.npy", counts) for i, counts in enumerate(ranks)], MODEL)
    assert np.array_equal(loads.counts, ROWS[None])
    assert loads.names == ("rank0 to rank2 (3 ranks added up)",)


def test_windows_that_share_an_expert_stay_windows(write: Write) -> None:
    loads = read_loads([write("monday.npy", ROWS), write("tuesday.npy", ROWS + 1)], MODEL)
    assert loads.names == ("monday", "tuesday")
