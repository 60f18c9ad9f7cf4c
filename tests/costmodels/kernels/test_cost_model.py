"""CostModel: forests are fitted once, kept safely, and never answer for measurements that they were not fitted on."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from synthetic import MEASURED_GPUS, UNSEEN_GPU, questions, rows

from costmodels.kernels import cost_model
from costmodels.kernels import on_disk as library
from costmodels.kernels.cost_model import CostModel, unseen_spreads
from costmodels.kernels.kept import keeping
from costmodels.kernels.kernel_models import load_rows
from costmodels.kernels.on_disk import CACHE_VARIABLE, cache_folder
from costmodels.operations.registry import Families, families, reckoning_with
from costmodels.operations.roofline import CODES
from costmodels.origins import ROOFLINE
from profiles.errors import DataError
from profiles.hardware import Catalogue, Gpu, find_gpu
from profiles.store import ProfileStore, shipped_pack

OPERATION = "mla_bmm"
QUESTIONS = questions(OPERATION, 20)


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    """One operation on two GPUs, under vLLM."""
    made = synthetic.empty_store(tmp_path / "store")
    for gpu in MEASURED_GPUS:
        made.add(OPERATION, rows(OPERATION, gpu))
    return made


def answers(store: ProfileStore, gpu: str = "H100-SXM", framework: str = "vllm") -> tuple[list[float], list[str]]:
    """(what a fresh cost model says, the lines of progress it wrote)."""
    lines: list[str] = []
    model = CostModel(find_gpu(gpu), framework, store, lines.append)
    return model.estimate(OPERATION, QUESTIONS).value.tolist(), lines


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "forests").iterdir())


def test_a_forest_is_fitted_once_and_then_read_back_unchanged(store: ProfileStore, cache: Path) -> None:
    first, said = answers(store)
    assert len(said) == 1
    assert OPERATION in said[0]
    again, silent = answers(store)
    assert again == first
    assert silent == []
    assert len(entries(cache)) == 1


def test_one_fit_serves_all_gpus(store: ProfileStore, cache: Path) -> None:
    answers(store)
    for gpu in (*MEASURED_GPUS, UNSEEN_GPU):
        assert answers(store, gpu)[1] == []
    (folder,) = entries(cache)
    assert {file.name for file in folder.iterdir()} == {"forest.npz", "H100-SXM.npz", "H200.npz"}


@pytest.mark.usefixtures("cache")
def test_a_gpu_answers_the_same_whether_fitted_now_or_read_back(store: ProfileStore, tmp_path: Path) -> None:
    fresh = {gpu: answers(store, gpu)[0] for gpu in MEASURED_GPUS}
    assert {gpu: answers(store, gpu)[0] for gpu in MEASURED_GPUS} == fresh
    assert fresh["H100-SXM"] != fresh["H200"]


@pytest.mark.parametrize("file", ["forest.npz", "H100-SXM.npz"])
@pytest.mark.parametrize("damage", ["garbage", "cut short", "gone"])
def test_a_damaged_cache_is_fitted_again(store: ProfileStore, cache: Path, file: str, damage: str) -> None:
    first, _ = answers(store)
    broken = entries(cache)[0] / file
    if damage == "gone":
        broken.unlink()
    else:
        content = broken.read_bytes()
        broken.write_bytes(b"nonsense" if damage == "garbage" else content[: len(content) // 2])
    again, said = answers(store)
    assert again == first
    assert len(said) == 1
    assert answers(store)[1] == []  # and it is whole again


def test_rows_around_a_question_are_read_once(
    store: ProfileStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(*given: Any, **more: Any) -> Any:
        read.append(str(given[1]))
        return load_rows(*given, **more)

    monkeypatch.setattr(cost_model, "load_rows", counted)
    first, _ = answers(store)
    (kept,) = (cache / "rows").iterdir()
    read.clear()
    assert answers(store)[0] == first
    assert read == []
    for damage in (b"nonsense", kept.read_bytes()[:200], b""):
        kept.write_bytes(damage)
        assert answers(store)[0] == first
    assert read == [OPERATION] * 3
    monkeypatch.setattr(library, "_reading", lambda: "another version of the code that reads")
    assert answers(store)[0] == first
    assert len(read) == 4
    assert len(list((cache / "rows").iterdir())) == 2


def test_rows_of_other_codes_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    before = library._reading.__wrapped__()
    monkeypatch.setitem(CODES, "dtype", ("new", *CODES["dtype"]))
    assert library._reading.__wrapped__() != before


def test_a_writer_that_fails_half_way_leaves_nothing(
    store: ProfileStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    first, _ = answers(store)
    assert entries(cache) == []
    monkeypatch.undo()
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    assert answers(store)[0] == first


def test_a_forest_is_put_in_place_whole(store: ProfileStore, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[set[str], bool]] = []
    rename = os.replace

    def watched(source: Path, target: Path) -> None:
        if source.is_dir():
            moves.append(({file.name for file in source.iterdir()}, target.exists()))
        rename(source, target)

    monkeypatch.setattr(os, "replace", watched)
    answers(store)
    assert moves == [({"forest.npz", "H100-SXM.npz", "H200.npz"}, False)]


def test_what_a_killed_writer_left_is_not_read(store: ProfileStore, cache: Path) -> None:
    first, _ = answers(store)
    (folder,) = entries(cache)
    left = folder.with_name(f".{folder.name}.0a1b2c3d.part")
    left.mkdir()
    (left / "forest.npz").write_bytes(b"half a")
    assert answers(store) == (first, [])


def test_a_second_writer_of_the_same_forest_does_no_harm(store: ProfileStore, cache: Path) -> None:
    first, _ = answers(store)
    (folder,) = entries(cache)
    model = CostModel(find_gpu("H100-SXM"), "vllm", store)
    library.write_fitted(folder, library.read_fitted(folder, "H100-SXM", has_rows=True))  # type: ignore[arg-type]
    assert entries(cache) == [folder]
    assert model.estimate(OPERATION, QUESTIONS).value.tolist() == first


@pytest.mark.parametrize("obstacle", ["a file in its place", "no permission"])
def test_a_cache_that_cannot_be_written_costs_time_only(
    store: ProfileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "elsewhere"))
    expected, _ = answers(store)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "closed"))
    if obstacle == "no permission":

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        (tmp_path / "closed").write_text("not a folder")
    for _ in range(2):
        got, said = answers(store)
        assert got == expected
        assert len(said) == 1


def test_a_cache_that_may_not_be_read_costs_time_only(
    store: ProfileStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = answers(store)

    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert answers(store)[0] == expected


def test_new_rows_make_another_forest_and_another_version(store: ProfileStore, cache: Path) -> None:
    before = CostModel(find_gpu("H100-SXM"), "vllm", store).version
    first, _ = answers(store)
    store.add(OPERATION, rows(OPERATION, "H100-SXM", slower=2.0))
    second, said = answers(store)
    assert len(said) == 1
    assert np.median(np.array(second) / first) > 1.5
    assert CostModel(find_gpu("H100-SXM"), "vllm", store).version != before
    assert len(entries(cache)) == 2


@pytest.mark.usefixtures("cache")
def test_a_corrected_fact_of_the_hardware_makes_another_forest(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(store)

    def corrected(catalogue: Catalogue, name: str, field: str = "gpu") -> Gpu:
        gpu = find_gpu(name)
        return gpu.model_copy(update={"memory_bandwidth_bytes_per_s": gpu.memory_bandwidth_bytes_per_s * 1.1})

    monkeypatch.setattr(Catalogue, "find_gpu", corrected)
    assert len(answers(store)[1]) == 1


@pytest.mark.usefixtures("cache")
def test_settings_of_the_fit_make_another_forest(store: ProfileStore) -> None:
    answers(store)
    other = Families(
        dataclasses.replace(
            family,
            kernels=tuple(dataclasses.replace(k, leaf_rows=4) if k.name == OPERATION else k for k in family.kernels),
        )
        for family in families().members
    )
    with reckoning_with(other):
        assert len(answers(store)[1]) == 1


@pytest.mark.usefixtures("cache")
class TestNotes:
    """What the user is told of the measurements behind the answers."""

    def test_own_measurements_need_no_note(self, store: ProfileStore) -> None:
        model = synthetic.cost_model("H100-SXM", store)
        model.estimate(OPERATION, QUESTIONS)
        assert model.notes == ()

    def test_a_stand_in_is_named(self, store: ProfileStore) -> None:
        model = synthetic.cost_model("H100-SXM", store, "sglang")
        model.prepare([OPERATION])
        assert model.notes == ()  # nothing was asked so far
        model.estimate(OPERATION, QUESTIONS)
        (note,) = model.notes
        assert "vllm" in note
        assert "sglang" in note
        assert OPERATION in note

    def test_a_gpu_without_rows_is_named(self, store: ProfileStore) -> None:
        model = synthetic.cost_model(UNSEEN_GPU, store)
        model.estimate(OPERATION, QUESTIONS)
        assert model.notes == (f"{OPERATION} in bf16: no measurements of {UNSEEN_GPU}; predicted from other GPUs",)

    def test_nccl_speaks_for_every_framework(self, tmp_path: Path) -> None:
        made = synthetic.empty_store(tmp_path / "nccl")
        made.add("collective", rows("collective", "H100-SXM"))
        model = synthetic.cost_model("H100-SXM", made, "trtllm")
        model.estimate("collective", questions("collective", 5))
        assert model.notes == ()


@pytest.mark.usefixtures("cache")
def test_rows_that_speak_for_no_framework_leave_the_roofline(tmp_path: Path) -> None:
    made = synthetic.empty_store(tmp_path / "other")
    made.add(OPERATION, rows(OPERATION, "H100-SXM", framework="an engine of our own"))
    got = synthetic.cost_model("H100-SXM", made).estimate(OPERATION, QUESTIONS)
    assert np.all(got.how == ROOFLINE)


def test_the_cache_is_where_the_variable_says_or_the_user_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(CACHE_VARIABLE)
    assert cache_folder().name == "shardwright"


def test_every_operation_has_a_spread_for_unseen_gpus() -> None:
    spreads = unseen_spreads()
    assert set(spreads) == set(families().kernels)
    assert all(0 < spread < 2 for spread in spreads.values())


@pytest.mark.parametrize("content", ["half_width: {gemm: wide}", "half_width: {}", "[1, 2]", "", "{", "\x00"])
def test_a_broken_file_of_spreads_is_a_data_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    (tmp_path / "unseen_gpu.yaml").write_text(content)
    monkeypatch.setattr(cost_model, "__file__", str(tmp_path / "library.py"))
    with pytest.raises(DataError, match=r"unseen_gpu\.yaml"):
        unseen_spreads()


# --- the pack that ships ----------------------------------------------------------------------------------


def shipped(operation: str, gpu: str) -> None:
    """Every row of ``gpu`` is given back, and off the grid there is a forest's answer."""
    store = shipped_pack()
    model = CostModel(find_gpu(gpu), "vllm", store)
    q = questions(operation, 100)
    got = model.estimate(operation, q)
    assert np.isfinite(got.high).all()
    assert np.all((got.low > 0) & (got.low <= got.value) & (got.value <= got.high))
    assert model.version.endswith(store.manifest.content_hash[:12])


@pytest.mark.parametrize("operation", ["collective", "mla_bmm"])
def test_small_operations_of_the_shipped_pack_answer(operation: str) -> None:
    shipped(operation, "H200")


@pytest.mark.slow
@pytest.mark.parametrize("operation", sorted(set(families().kernels) - {"collective", "mla_bmm"}))
def test_large_operations_of_the_shipped_pack_answer(operation: str) -> None:
    shipped(operation, "H200")


class TestKept:
    """Within ``keeping``, what one question loaded answers the next, and nothing that was made from something else."""

    @pytest.fixture
    def loads(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The operations that were loaded, in order."""
        told: list[str] = []
        load = CostModel._load

        def telling(model: CostModel, operation: str) -> object:
            told.append(operation)
            return load(model, operation)

        monkeypatch.setattr(CostModel, "_load", telling)
        return told

    def test_loaded_once_with_the_same_answers(self, store: ProfileStore, loads: list[str]) -> None:
        alone = [answers(store)[0] for _ in range(2)]
        assert len(loads) == 2
        with keeping(4):
            assert [answers(store)[0] for _ in range(3)] == [alone[0]] * 3
        assert len(loads) == 3
        answers(store)
        assert len(loads) == 4

    def test_another_gpu_framework_or_store_is_another(self, store: ProfileStore, tmp_path: Path) -> None:
        other = synthetic.empty_store(tmp_path / "other")
        slower = rows(OPERATION, "H100-SXM")
        other.add(OPERATION, slower.assign(latency_us=slower["latency_us"] * 3))
        asked = [
            (store, "H100-SXM", "vllm"),
            (store, "H200", "vllm"),
            (store, "H100-SXM", "sglang"),
            (other, "H100-SXM", "vllm"),
        ]
        alone = [answers(*each)[0] for each in asked]
        with keeping(8):
            assert [answers(*each)[0] for each in asked * 2] == alone * 2
        assert alone[3] != alone[0]

    def test_rows_laid_over_it_are_another(self, store: ProfileStore, tmp_path: Path) -> None:
        measured = synthetic.empty_store(tmp_path / "measured")
        slower = rows(OPERATION, "H100-SXM")
        measured.add(OPERATION, slower.assign(latency_us=slower["latency_us"] * 3))

        def asked(*over: ProfileStore) -> list[float]:
            return (
                CostModel(find_gpu("H100-SXM"), "vllm", store, measured=over)
                .estimate(OPERATION, QUESTIONS)
                .value.tolist()
            )

        alone = asked(), asked(measured)
        assert alone[0] != alone[1]
        with keeping(8):
            assert (asked(), asked(measured), asked()) == (*alone, alone[0])

    def test_the_oldest_goes(self, store: ProfileStore, loads: list[str]) -> None:
        with keeping(2):
            for gpu in ("H100-SXM", "H200", "H100-SXM", UNSEEN_GPU, "H100-SXM", "H200"):
                answers(store, gpu)
        assert len(loads) == 4
