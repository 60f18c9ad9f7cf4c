"""From the journal to the store, and from a bare machine's journal through the importer."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from machines import gemm

from profiles.collect.journal import FILE, Header, Journal
from profiles.collect.points import Outcome, Timing
from profiles.collect.rows import folder_of, open_store
from profiles.errors import DataError, InputError
from profiles.hardware import find_gpu
from profiles.importers import find_importer

H200 = find_gpu("H200")
DEVICE = {
    "kind": "cuda",
    "name": "NVIDIA H200",
    "count": 8,
    "capability": [9, 0],
    "sm_count": H200.sm_count,
    "memory_bytes": H200.memory_bytes,
    "l2_bytes": H200.l2_bytes,
    "facts": {},
}
VERSIONS = {"torch": "2.9", "cuda": "12.8", "driver": None}
HEADER = Header("a test", "2026-11-21", "", DEVICE, VERSIONS)


def measured(m: int, us: float = 10.0) -> Outcome:
    timing = Timing(us, us * 0.9, us * 1.1, 20, 0.01, 1, "cuda_graph")
    return Outcome(
        gemm(m),
        "measured",
        timing=timing,
        kernel="cublas",
        framework="torch",
        framework_version="2.9",
        power_watts=400.0,
        clock_mhz=1900.0,
    )


def test_measured_outcomes_become_rows_and_others_do_not(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(HEADER)
        journal.add(measured(1))
        journal.add(Outcome(gemm(2), "skipped", "no"))
        store = open_store(tmp_path)
        folder_of(journal, store)()
    (row,) = open_store(tmp_path).query("gemm").to_dict("records")
    assert (row["gpu"], row["m"], row["latency_us"], row["latency_p90_us"]) == ("H200", 1, 10.0, 11.0)
    assert (row["kernel"], row["framework"], row["source"], row["date"]) == ("cublas", "torch", "a test", "2026-11-21")
    assert (row["power_watts"], row["clock_mhz"], row["cuda_version"]) == (400.0, 1900.0, "12.8")
    assert pd.isna(row["driver"])


def test_each_fold_adds_what_is_new_and_the_first_of_a_run_all(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        fold = folder_of(journal, open_store(tmp_path))
        journal.begin(HEADER)
        for m in (1, 2):
            journal.add(measured(m))
            fold()
            assert len(open_store(tmp_path).query("gemm")) == m
        journal.add(measured(3))  # and then it is killed
    with Journal(tmp_path) as journal:
        folder_of(journal, open_store(tmp_path))()
    assert sorted(open_store(tmp_path).query("gemm")["m"]) == [1, 2, 3]


def test_of_two_timings_of_a_point_the_later_one_stays(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin(HEADER)
        journal.add(measured(1, 10.0))
        journal.add(measured(1, 20.0))
        folder_of(journal, open_store(tmp_path))()
    assert open_store(tmp_path).query("gemm")["latency_us"].tolist() == [20.0]


def test_a_broken_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="format_version"):
        open_store(tmp_path)


def bare(folder: Path, header: Header = HEADER) -> Path:
    with Journal(folder) as journal:
        journal.begin(header)
        journal.add(measured(1))
    return folder


def test_a_bare_machines_journal_is_imported(tmp_path: Path) -> None:
    importer = find_importer("collect")
    for source in (bare(tmp_path), tmp_path / FILE):
        ((operation, rows),) = importer.read(source, {})
        assert (operation, rows["gpu"].tolist(), rows["source"].tolist()) == ("gemm", ["H200"], ["a test"])
    ((_, rows),) = importer.read(tmp_path, {"source": "somebody"})
    assert rows["source"].tolist() == ["somebody"]


def test_an_unknown_device_is_asked_for_by_its_facts(tmp_path: Path) -> None:
    unknown = Header("a test", "2026-11-21", "", {**DEVICE, "name": "NVIDIA H900"}, VERSIONS)
    with pytest.raises(InputError, match=r"'NVIDIA H900' is not in the catalogue.*peak_flops") as caught:
        list(find_importer("collect").read(bare(tmp_path, unknown), {}))
    assert "gpu_facts" in caught.value.hint


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    read = find_importer("collect").read
    with pytest.raises(InputError, match="nothing to read"):
        list(read(None, {}))
    with pytest.raises(InputError, match="does not exist"):
        list(read(tmp_path, {}))
    with pytest.raises(InputError, match="option"):
        list(read(tmp_path, {"gpu": "H200"}))
