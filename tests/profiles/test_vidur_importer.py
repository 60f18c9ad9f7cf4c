"""The importer of vidur's tables: units, which rows are kept, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from importing import VIDUR, read

from profiles.errors import DataError, InputError, UnknownName
from profiles.importers import vidur


def test_vidur_products_are_one_gpus_share(vidur_mlp: Path) -> None:
    rows = read(vidur.IMPORTER, vidur_mlp, **VIDUR)["gemm"].set_index("kernel")
    shapes = {kernel: (row.m, row.n, row.k) for kernel, row in rows.iterrows()}
    assert shapes == {
        "vidur mlp_up_proj": (128, 2 * 28672 // 4, 8192),  # gate and up in one product
        "vidur mlp_down_proj": (128, 8192, 28672 // 4),
        "vidur attn_pre_proj": (128, (64 + 2 * 8) * 128 // 4, 8192),
        "vidur attn_post_proj": (128, 8192, 8192 // 4),
    }
    assert rows["num_gpus"].unique().tolist() == [1]
    assert rows["dtype"].unique().tolist() == ["fp16"]
    assert rows["gpu"].unique().tolist() == ["A100-SXM-80GB"]  # the canonical name of A100


def test_vidur_milliseconds_become_microseconds_and_repeats_their_median(vidur_mlp: Path) -> None:
    rows = read(vidur.IMPORTER, vidur_mlp, **VIDUR)["gemm"].set_index("kernel")
    assert rows["latency_us"].to_dict() == pytest.approx(
        {
            "vidur mlp_up_proj": 2000.0,
            "vidur mlp_down_proj": 500.0,
            "vidur attn_pre_proj": 250.0,
            "vidur attn_post_proj": 200.0,
        }
    )


@pytest.mark.parametrize("written", [False, "False"])
def test_vidur_up_projection_without_gate_is_single(vidur_mlp: Path, written: object) -> None:
    pd.read_csv(vidur_mlp).assign(use_gated_mlp=written).to_csv(vidur_mlp, index=False)
    rows = read(vidur.IMPORTER, vidur_mlp, **VIDUR)["gemm"].set_index("kernel")
    assert rows.loc["vidur mlp_up_proj", "n"] == 28672 // 4


def test_vidur_rows_without_a_timing_are_gaps(vidur_mlp: Path) -> None:
    table = pd.read_csv(vidur_mlp)
    table["time_stats.attn_pre_proj.median"] = None
    table.drop(columns="time_stats.attn_post_proj.median").to_csv(vidur_mlp, index=False)
    rows = read(vidur.IMPORTER, vidur_mlp, **VIDUR)["gemm"]
    assert sorted(rows["kernel"]) == ["vidur mlp_down_proj", "vidur mlp_up_proj"]


def test_vidur_splits_that_leave_a_fraction_are_refused(vidur_mlp: Path) -> None:
    pd.read_csv(vidur_mlp).assign(num_tensor_parallel_workers=3).to_csv(vidur_mlp, index=False)
    with pytest.raises(DataError, match=r"mlp_up_proj: row 0 .* is not a whole number"):
        read(vidur.IMPORTER, vidur_mlp, **VIDUR)


@pytest.mark.parametrize("column", ["n_embd", "n_kv_head", "use_gated_mlp", "num_tensor_parallel_workers"])
def test_vidur_tables_without_a_column_are_refused(vidur_mlp: Path, column: str) -> None:
    pd.read_csv(vidur_mlp).drop(columns=column).to_csv(vidur_mlp, index=False)
    with pytest.raises(DataError, match=rf"mlp\.csv: column '{column}' is missing"):
        read(vidur.IMPORTER, vidur_mlp, **VIDUR)


def test_vidur_tables_without_a_product_are_refused(vidur_mlp: Path) -> None:
    table = pd.read_csv(vidur_mlp)
    table.drop(columns=[c for c in table if c.startswith("time_stats")]).to_csv(vidur_mlp, index=False)
    with pytest.raises(DataError, match="no time_stats"):
        read(vidur.IMPORTER, vidur_mlp, **VIDUR)


def test_vidur_all_reduces_are_bytes_of_one_node(vidur_all_reduce: Path) -> None:
    rows = read(vidur.IMPORTER, vidur_all_reduce, **VIDUR)["collective"]
    assert rows[["kind", "num_gpus", "message_bytes"]].to_numpy().tolist() == [["all_reduce", 2, 2048]]
    assert rows["latency_us"].tolist() == pytest.approx([20.0])


def test_vidur_all_reduces_between_nodes_only_are_refused(vidur_all_reduce: Path) -> None:
    pd.read_csv(vidur_all_reduce).assign(devices_per_node=1).to_csv(vidur_all_reduce)
    with pytest.raises(InputError, match="every row spans nodes"):
        read(vidur.IMPORTER, vidur_all_reduce, **VIDUR)


def test_vidurs_older_all_reduce_layout_is_refused(vidur_all_reduce: Path) -> None:
    table = pd.read_csv(vidur_all_reduce).drop(columns=["size", "devices_per_node"])
    table.assign(n_embd=4096, num_tokens=8).to_csv(vidur_all_reduce)
    with pytest.raises(DataError, match="column 'size' is missing"):
        read(vidur.IMPORTER, vidur_all_reduce, **VIDUR)


@pytest.mark.parametrize("option", list(VIDUR))
def test_vidur_needs_its_provenance(vidur_mlp: Path, option: str) -> None:
    options = {key: value for key, value in VIDUR.items() if key != option}
    with pytest.raises(InputError, match=f"option {option} is missing"):
        read(vidur.IMPORTER, vidur_mlp, **options)


def test_vidur_refuses_values_that_cannot_be(vidur_mlp: Path) -> None:
    with pytest.raises(InputError, match="'fp8' is not one that vidur measures"):
        read(vidur.IMPORTER, vidur_mlp, **VIDUR, dtype="fp8")
    with pytest.raises(UnknownName, match="'A1000' is not known"):
        read(vidur.IMPORTER, vidur_mlp, **{**VIDUR, "gpu": "A1000"})
    with pytest.raises(DataError, match="'May 2024' has not the form"):
        read(vidur.IMPORTER, vidur_mlp, **{**VIDUR, "date": "May 2024"})
    with pytest.raises(InputError, match="no file or folder given"):
        read(vidur.IMPORTER, None, **VIDUR)


def test_vidur_files_that_are_no_csv_are_refused(vidur_mlp: Path) -> None:
    vidur_mlp.write_bytes(b"\x93NUMPY\xff\x00")
    with pytest.raises(DataError, match=r"mlp\.csv: cannot be read"):
        read(vidur.IMPORTER, vidur_mlp, **VIDUR)
