"""ProfileStore: rows come back as they went in, and no accident to the files passes unnoticed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from profiles.errors import DataError, InputError, UnknownName
from profiles.manifest import MANIFEST
from profiles.measured_rows import empty_rows, merge_rows, validate
from profiles.measurements import FORMAT_VERSION, OPERATIONS
from profiles.store import ProfileStore

MakeRows = Callable[..., pd.DataFrame]
GEMM = OPERATIONS["gemm"]


def new(path: Path, name: str = "test", attribution: str = "Measured by a test.") -> ProfileStore:
    return ProfileStore.create(path, name=name, version="1", attribution=attribution)


def by_key(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(GEMM.key, ignore_index=True)


@pytest.fixture
def store(tmp_path: Path, make_rows: MakeRows) -> ProfileStore:
    """Four GEMM rows: H200 and B200, vllm and sglang."""
    rows = make_rows("gemm", 4, gpu=["H200", "H200", "B200", "B200"], framework=["vllm", "sglang"] * 2, m=[1, 2, 3, 4])
    store = new(tmp_path / "store")
    store.add("gemm", rows)
    return store


# -------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_what_was_added_is_what_is_queried(tmp_path: Path, make_rows: MakeRows, operation: str) -> None:
    rows = make_rows(operation, 1, power_watts=400.5, repeats=20, driver="580.1", latency_p90_us=13.0)
    store = new(tmp_path)
    assert store.add(operation, rows) == 1
    assert_frame_equal(ProfileStore(tmp_path).query(operation), validate(OPERATIONS[operation], rows))


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["H200", "B200"]),
        st.sampled_from(["vllm", "sglang"]),
        st.sampled_from(["bf16", "fp8"]),
        st.integers(1, 3),
        st.floats(1e-3, 1e9),
        st.none() | st.floats(0, 2000),
    ),
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=ROWS, second=ROWS)
def test_adding_in_two_parts_is_adding_once_and_the_last_wins(
    tmp_path_factory: pytest.TempPathFactory,
    make_rows: MakeRows,
    first: list[tuple[object, ...]],
    second: list[tuple[object, ...]],
) -> None:
    def table(rows: list[tuple[object, ...]]) -> pd.DataFrame:
        names = ["gpu", "framework", "dtype", "m", "latency_us", "power_watts"]
        return make_rows("gemm", len(rows), **{n: [row[i] for row in rows] for i, n in enumerate(names)})

    twice, once = (new(tmp_path_factory.mktemp("store")) for _ in range(2))
    twice.add("gemm", table(first))
    twice.add("gemm", table(second))
    once.add("gemm", table(first + second))
    assert_frame_equal(twice.query("gemm"), once.query("gemm"))
    assert twice.manifest.content_hash == once.manifest.content_hash

    last = {row[:4]: row[4:] for row in first + second}
    found = twice.query("gemm")
    assert len(found) == len(last)
    for row in found.itertuples():
        latency, power = last[row.gpu, row.framework, row.dtype, row.m]
        assert row.latency_us == latency
        assert row.power_watts == power or (power is None and pd.isna(row.power_watts))


def test_a_query_takes_one_gpu_and_some_frameworks(store: ProfileStore) -> None:
    assert store.query("gemm", gpu="H200")["m"].tolist() == [2, 1]  # sorted by framework
    assert store.query("gemm", gpu="H200", framework="vllm")["m"].tolist() == [1]
    assert set(store.query("gemm", framework=["vllm", "trtllm"])["m"]) == {1, 3}
    assert store.query("gemm", columns=["m", "gpu"]).columns.tolist() == ["m", "gpu"]
    assert store.query("gemm", framework="vllm", columns=["m"])["m"].tolist() == [3, 1]


def test_texts_can_come_as_categories(store: ProfileStore) -> None:
    rows = store.query("gemm", gpu="H200", framework=["vllm", "sglang"], categories=True)
    assert (rows.dtypes[["gpu", "framework", "dtype", "source"]] == "category").all()
    plain = rows.astype(dict.fromkeys(rows.columns[rows.dtypes == "category"], "str"))
    expected = store.query("gemm", gpu="H200")
    assert plain[GEMM.key].equals(expected[GEMM.key])


def test_a_query_skips_no_row_group_that_holds_an_answer(tmp_path: Path, make_rows: MakeRows) -> None:
    gpus, frameworks = ["A100-SXM-80GB", "B200", "H200"], ["sglang", "trtllm", "vllm"]
    count = 12_000  # nine times that is more than three row groups
    parts = [make_rows("gemm", count, gpu=g, framework=f, m=range(1, count + 1)) for g in gpus for f in frameworks]
    store = new(tmp_path)
    store.add("gemm", pd.concat(parts))
    for gpu in gpus:
        assert len(store.query("gemm", gpu=gpu, columns=["m"])) == 3 * count
        assert len(store.query("gemm", gpu=gpu, framework="trtllm", columns=["m"])) == count
    assert len(store.query("gemm", framework=["sglang", "vllm"], columns=["m"])) == 6 * count


def test_the_values_of_a_column_are_read_without_its_rows(store: ProfileStore) -> None:
    assert store.values("gemm", "framework") == ["sglang", "vllm"]
    assert store.values("gemm", "gpu") == ["B200", "H200"]
    assert store.values("moe", "gpu") == []


@pytest.mark.parametrize(
    "narrowed", [{"gpu": "T4"}, {"framework": "trtllm"}, {"framework": []}, {"framework": iter(())}]
)
def test_a_query_that_nothing_answers_is_empty_and_typed(store: ProfileStore, narrowed: dict[str, object]) -> None:
    assert_frame_equal(store.query("gemm", **narrowed), empty_rows(GEMM))  # type: ignore[arg-type]


def test_an_operation_without_rows_is_empty_and_typed(store: ProfileStore) -> None:
    assert_frame_equal(store.query("moe"), empty_rows(OPERATIONS["moe"]))
    assert store.query("moe", columns=["tokens"]).columns.tolist() == ["tokens"]
    assert store.operations() == ["gemm"]


def test_unknown_operations_and_columns_are_refused(store: ProfileStore) -> None:
    with pytest.raises(UnknownName, match="operation: 'gem' is not known"):
        store.query("gem")
    with pytest.raises(UnknownName, match="column of gemm: 'latency' is not known"):
        store.query("gemm", columns=["latency"])
    with pytest.raises(UnknownName, match="operation"):
        store.add("gem", empty_rows(GEMM))


def test_the_summary_counts_rows(store: ProfileStore, make_rows: MakeRows) -> None:
    store.add("moe", make_rows("moe", 2, tokens=[1, 2], dtype="fp8"))
    assert store.summary().to_numpy().tolist() == [
        ["gemm", "B200", "sglang", "bf16", 1],
        ["gemm", "B200", "vllm", "bf16", 1],
        ["gemm", "H200", "sglang", "bf16", 1],
        ["gemm", "H200", "vllm", "bf16", 1],
        ["moe", "H200", "vllm", "fp8", 2],
    ]
    assert store.summary("moe").to_numpy().tolist() == [["moe", "H200", "vllm", "fp8", 2]]
    assert len(store.summary("collective")) == 0
    with pytest.raises(UnknownName):
        store.summary("gem")
    assert new(store.path / "other").summary().columns.tolist() == store.summary().columns.tolist()


def test_merging_a_store_takes_its_rows_and_keeps_its_attribution(
    store: ProfileStore, tmp_path: Path, make_rows: MakeRows
) -> None:
    other = new(tmp_path / "other", attribution="By NVIDIA, Apache-2.0.")
    other.add("gemm", make_rows("gemm", 2, framework="vllm", m=[1, 9], latency_us=99.0))
    other.add("moe", make_rows("moe", 1))
    expected = merge_rows(GEMM, [store.query("gemm"), other.query("gemm")])
    for _ in range(2):  # merging again changes nothing
        store.merge(other)
        again = ProfileStore(store.path)
        assert_frame_equal(by_key(again.query("gemm")), by_key(expected))
        assert again.operations() == ["gemm", "moe"]
        assert again.manifest.attribution == "Measured by a test. By NVIDIA, Apache-2.0."
        again.verify()


# -------------------------------------------------------------------------------------- making, opening


def test_create_refuses_an_existing_store(store: ProfileStore) -> None:
    with pytest.raises(InputError, match="already holds a store"):
        new(store.path)
    assert len(ProfileStore(store.path).query("gemm")) == 4


def test_create_refuses_a_place_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        new(tmp_path / "file" / "store")


def test_a_folder_without_a_manifest_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json there"):
        ProfileStore(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 1, "na', "not valid JSON"),
        ("", "not valid JSON"),
        ("\udcff", "cannot be read"),
        ("[]", "holds no format_version"),
        ("{}", "holds no format_version"),
        ('{"format_version": 1}', "holds no name"),
        (
            '{"format_version": 1, "name": "a", "version": "1", "attribution": "b", "hashes": null}',
            "holds no hashes",
        ),
    ],
)
def test_a_broken_manifest_is_refused(store: ProfileStore, text: str, message: str) -> None:
    (store.path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message) as caught:
        ProfileStore(store.path)
    assert MANIFEST in caught.value.message
    assert "restore" in caught.value.hint or "UTF-8" in caught.value.hint


def test_a_newer_format_is_refused(store: ProfileStore) -> None:
    manifest = store.path / MANIFEST
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**document, "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(DataError, match=f"format_version {FORMAT_VERSION + 1} is newer") as caught:
        ProfileStore(store.path)
    assert "upgrade" in caught.value.hint


# -------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "missing"])
def test_a_damaged_file_is_refused_by_name(store: ProfileStore, damage: str) -> None:
    file = store.path / "gemm.parquet"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-20] if damage == "truncated" else b"PAR1" + bytes(len(content)))
    for act in (store.verify, lambda: store.query("gemm"), store.summary):
        with pytest.raises(DataError, match=r"gemm\.parquet"):
            act()


def test_a_file_that_lacks_a_column_is_refused(store: ProfileStore) -> None:
    file = store.path / "gemm.parquet"
    pd.read_parquet(file).drop(columns="kernel").to_parquet(file)
    with pytest.raises(DataError, match=r"gemm\.parquet cannot be read .*kernel"):
        store.query("gemm")


def test_a_tampered_row_is_found_by_verify(store: ProfileStore) -> None:
    store.verify()
    file = store.path / "gemm.parquet"
    rows = pd.read_parquet(file)
    rows.loc[0, "latency_us"] = 1.0
    rows.to_parquet(file, index=False)
    with pytest.raises(DataError, match=r"gemm\.parquet is not the file that manifest\.json describes"):
        store.verify()


def test_the_hash_of_a_store_follows_what_else_it_teaches(store: ProfileStore) -> None:
    assert store.content_hash == store.manifest.content_hash
    (store.path / "calibration.json").write_text("{}")
    first = store.content_hash
    (store.path / "calibration.json").write_text('{"vllm": {}}')
    assert len({store.manifest.content_hash, first, store.content_hash}) == 3


def test_the_content_hash_follows_the_rows(store: ProfileStore, make_rows: MakeRows) -> None:
    before = store.manifest.content_hash
    store.add("gemm", make_rows("gemm", 1, m=1, framework="vllm"))  # as it is already
    assert store.manifest.content_hash == before
    store.add("gemm", make_rows("gemm", 1, m=1, framework="vllm", latency_us=1.0))
    assert store.manifest.content_hash != before
    assert ProfileStore(store.path).manifest == store.manifest


# -------------------------------------------------------------------------------------- writers


def test_a_refused_row_leaves_the_store_as_it_was(store: ProfileStore, make_rows: MakeRows) -> None:
    before = {file.name: file.read_bytes() for file in store.path.iterdir()}
    with pytest.raises(DataError, match="row 1"):
        store.add("gemm", make_rows("gemm", 2, latency_us=[1.0, -1.0]))
    assert {file.name: file.read_bytes() for file in store.path.iterdir()} == before


def test_adding_no_rows_writes_nothing(store: ProfileStore) -> None:
    assert store.add("gemm", empty_rows(GEMM)) == 4
    assert store.add("moe", empty_rows(OPERATIONS["moe"])) == 0
    assert sorted(os.listdir(store.path)) == ["gemm.parquet", MANIFEST]


class Killed(BaseException):
    """A writer that dies: nothing after it runs, no clean-up either."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The writer dies just before its ``step``-th rename."""
    steps = iter(range(step))
    rename = os.replace

    def replace(*names: str) -> None:
        if next(steps, None) is None:
            raise Killed
        rename(*names)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize(("step", "arrived"), [(0, False), (1, False), (2, True)])
def test_a_killed_writer_leaves_a_whole_store(
    store: ProfileStore, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, step: int, arrived: bool
) -> None:
    for operation, old in (("gemm", 4), ("moe", 0)):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Killed):
                store.add(operation, make_rows(operation, 1, gpu="L40S"))
        survivor = ProfileStore(store.path)
        survivor.verify()
        assert len(survivor.query(operation)) == old + arrived
        # ... and the next writer finishes the work.
        assert survivor.add(operation, make_rows(operation, 1, gpu="L40S")) == old + 1
        survivor.verify()
        assert not list(store.path.glob("*.part"))


def test_rubbish_in_temporary_files_is_ignored(store: ProfileStore, make_rows: MakeRows) -> None:
    for name in (".gemm.parquet.0a1b2c3d.part", ".manifest.json.0a1b2c3d.part"):
        (store.path / name).write_text("half a file")
    again = ProfileStore(store.path)
    again.verify()
    assert again.add("gemm", make_rows("gemm", 1, gpu="L40S")) == 5


def test_a_full_disk_is_reported_and_leaves_the_old_rows(
    store: ProfileStore, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match=r"gemm\.parquet cannot be written .*No space left"):
            store.add("gemm", make_rows("gemm", 1, gpu="L40S"))
    assert len(store.query("gemm")) == len(ProfileStore(store.path).query("gemm")) == 4
    store.verify()


def test_a_writer_keeps_what_another_wrote_since_it_opened(store: ProfileStore, make_rows: MakeRows) -> None:
    late = ProfileStore(store.path)
    store.add("moe", make_rows("moe", 1))
    late.add("gemm", make_rows("gemm", 1, gpu="L40S"))
    assert ProfileStore(store.path).operations() == ["gemm", "moe"]
