"""Importers: units, which rows are kept, and what each refuses. The files are written by the tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from importing import VIDUR, read
from pandas.testing import assert_frame_equal

from profiles.errors import DataError, InputError, UnknownName
from profiles.importers import Importer, aiconfigurator, check_options, find_importer, importers
from profiles.measured_rows import validate
from profiles.measurements import OPERATIONS

Writer = Callable[..., Path]

SAMPLES = {"aiconfigurator": ("aic_gemm",), "collect": ("own_journal",), "vidur": ("vidur_mlp", "vidur_all_reduce")}
"""Fixtures that write a small sample of each format: a file, or several of one folder."""


def aic_rows(source: Path, **options: str) -> pd.DataFrame:
    (rows,) = read(aiconfigurator.IMPORTER, source, **options).values()
    return rows


# -------------------------------------------------------------------------------------- every format


class TestEveryImporter:
    """What any format promises, on its own little sample."""

    @pytest.fixture(params=list(importers()))
    def importer(self, request: pytest.FixtureRequest) -> Importer:
        return find_importer(request.param)

    @pytest.fixture
    def source(self, importer: Importer, request: pytest.FixtureRequest) -> Path:
        fixtures = SAMPLES.get(importer.name)
        assert fixtures, f"no sample of {importer.name}: name the fixtures that write it in SAMPLES"
        written: list[Path] = [request.getfixturevalue(name) for name in fixtures]
        return written[0].parent if len(written) > 1 else written[0]

    @pytest.fixture
    def options(self, importer: Importer) -> dict[str, str]:
        return VIDUR if importer.name == "vidur" else {}

    def test_yields_rows_of_known_operations(self, importer: Importer, source: Path, options: dict[str, str]) -> None:
        tables = read(importer, source, **options)
        assert tables
        for operation, rows in tables.items():
            assert len(rows)
            assert_frame_equal(validate(OPERATIONS[operation], rows), rows)
            assert not rows.duplicated(OPERATIONS[operation].key).any()

    def test_every_row_says_where_it_is_from(self, importer: Importer, source: Path, options: dict[str, str]) -> None:
        for rows in read(importer, source, **options).values():
            for column in ("gpu", "kernel", "framework", "framework_version", "source", "date"):
                assert rows[column].str.strip().ne("").all()

    def test_reading_twice_gives_the_same(self, importer: Importer, source: Path, options: dict[str, str]) -> None:
        first, second = (read(importer, source, **options) for _ in range(2))
        for operation, rows in first.items():
            assert_frame_equal(rows, second[operation])

    def test_an_option_that_it_does_not_know_is_refused(
        self, importer: Importer, source: Path, options: dict[str, str]
    ) -> None:
        with pytest.raises(UnknownName, match=f"{importer.name} option: 'gpus' is not known") as caught:
            read(importer, source, gpus="H200", **options)
        assert all(option in caught.value.hint for option in importer.options)

    def test_a_place_without_data_is_refused(self, importer: Importer, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        options = VIDUR if importer.name == "vidur" else {}
        for source in (empty, tmp_path / "nowhere"):
            with pytest.raises((InputError, DataError), match=str(source)):
                read(importer, source, **options)

    def test_it_says_what_it_reads_and_what_its_options_mean(self, importer: Importer) -> None:
        assert importer.reads
        assert all(importer.options.values())


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UnknownName, match="format: 'vidurr' is not known") as caught:
        find_importer("vidurr")
    assert "vidur" in caught.value.hint


def test_known_options_pass() -> None:
    check_options("x", {"a": "1"}, {"a": "meaning", "b": "meaning"})


# ----------------------------------------------------------------------------- aiconfigurator: units

ATTENTION = {
    "attn_dtype": "bfloat16",
    "kv_cache_dtype": "fp8",
    "batch_size": 4,
    "num_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "window_size": 128,
    "beam_width": 1,
}
COLLECTIVE = {"num_gpus": 8, "message_size": 1024}


def test_milliseconds_become_microseconds(aic_gemm: Path) -> None:
    rows = aic_rows(aic_gemm).set_index("dtype")
    assert rows["latency_us"].to_dict() == pytest.approx({"bf16": 2.0, "fp8": 3.0})
    assert rows.loc["fp8", ["gpu", "m", "n", "k", "num_gpus"]].tolist() == ["H200", 2, 4096, 512, 1]
    assert rows["framework_version"].unique().tolist() == ["0.24.0"]


def test_decode_attends_to_isl_and_step(aic: Writer) -> None:
    table = {**ATTENTION, "isl": 1, "step": [1, 127], "latency": [0.01, 0.02]}
    rows = aic_rows(aic("h200_sxm/attention/vllm/0.24.0/generation_attention_perf", table))
    assert rows["context_tokens"].tolist() == [2, 128]
    shape = ["batch", "heads", "kv_heads", "head_dim", "window_tokens", "kv_dtype", "dtype"]
    assert rows.loc[0, shape].tolist() == [4, 8, 1, 64, 128, "fp8", "bf16"]


def test_prefill_has_step_tokens_before_it(aic: Writer) -> None:
    table = {**ATTENTION, "isl": 512, "step": [0, 256], "latency": 0.01}
    rows = aic_rows(aic("h200_sxm/attention/vllm/0.24.0/context_attention_perf", table))
    assert rows[["query_tokens", "prefix_tokens"]].to_numpy().tolist() == [[512, 0], [512, 256]]


def test_attention_tables_without_width_and_window_mean_128_and_full(aic: Writer) -> None:
    table = {**ATTENTION, "isl": 1, "step": 1, "latency": [0.01]}
    del table["head_dim"], table["window_size"]
    rows = aic_rows(aic("h200_sxm/attention/vllm/0.24.0/generation_attention_perf", table))
    assert rows.loc[0, ["head_dim", "window_tokens"]].tolist() == [128, 0]


def test_messages_are_counted_in_elements(aic: Writer) -> None:
    ops = ["all_reduce", "alltoall", "all_gather", "reduce_scatter"]
    for dtype, size in (("half", 2), ("int8", 1)):
        table = {**COLLECTIVE, "op_name": ops, "nccl_dtype": dtype, "latency": 0.01}
        rows = aic_rows(aic("h200_sxm/comm/nccl/2.29.2/nccl_perf", table))
        assert rows["message_bytes"].unique().tolist() == [1024 * size]
        assert rows["num_gpus"].unique().tolist() == [8]
        assert sorted(rows["kind"]) == ["all_gather", "all_reduce", "all_to_all", "reduce_scatter"]
        assert rows["framework"].unique().tolist() == ["nccl"]


def test_latent_attention_moe_and_power_are_read(aic: Writer) -> None:
    latent = {
        "mla_dtype": "bfloat16",
        "kv_cache_dtype": "fp8",
        "num_heads": 16,
        "batch_size": 2,
        "tp_size": 8,
    }
    aic("b200_sxm/mla/trtllm/1.3.0/generation_mla_perf", {**latent, "isl": 1, "step": 7, "latency": [0.01]})
    aic("b200_sxm/mla/trtllm/1.3.0/context_mla_perf", {**latent, "isl": 64, "step": 0, "latency": [0.01]})
    bmm = {"op_name": ["mla_gen_pre", "mla_gen_post"], "bmm_dtype": "fp8", "num_tokens": 4, "num_heads": 16}
    aic("b200_sxm/mla_bmm/trtllm/1.3.0/mla_bmm_perf", {**bmm, "latency": 0.01})
    moe = {
        "moe_dtype": "w4a8_mxfp4_mxfp8",
        "num_tokens": 32,
        "hidden_size": 2880,
        "inter_size": 1440,
        "topk": 4,
        "num_experts": 128,
        "moe_tp_size": 2,
        "moe_ep_size": 4,
        "distribution": "power_law_1.2",
        "kernel_source": ["trtllm_gated", "trtllm_nongated"],
        "power": 700.0,
        "latency": 0.1,
    }
    tables = read(aiconfigurator.IMPORTER, aic("b200_sxm/moe/trtllm/1.3.0/moe_perf", moe))
    assert tables["mla_decode"].loc[0, ["context_tokens", "heads", "batch"]].tolist() == [8, 16, 2]
    assert tables["mla_prefill"].loc[0, ["query_tokens", "prefix_tokens"]].tolist() == [64, 0]
    assert sorted(tables["mla_bmm"]["kind"]) == ["post", "pre"]
    rows = tables["moe"].set_index("kernel")
    assert rows["gated"].to_dict() == {"trtllm_gated": 1, "trtllm_nongated": 0}
    assert rows["power_watts"].tolist() == [700.0, 700.0]
    assert rows["dtype"].unique().tolist() == ["mxfp4_fp8"]
    assert rows["num_gpus"].unique().tolist() == [1]
    assert tables["mla_decode"]["power_watts"].isna().all()


def test_a_delta_rule_is_timed_with_its_convolution(aic: Writer) -> None:
    kernels = ["causal_conv1d_fn", "chunk_rule", "causal_conv1d_fn", "causal_conv1d_update", "packed", "chunk_rule"]
    table = {
        "kernel_source": kernels,
        "phase": ["context"] * 3 + ["generation"] * 2 + ["context"],
        "batch_size": 2,
        "seq_len": [512, 512, 64, 1, 1, 512],
        "d_conv": 4,
        "num_k_heads": 4,
        "head_k_dim": 128,
        "num_v_heads": 16,
        "head_v_dim": [128, 128, 128, 128, 128, 64],
        "latency": [0.01, 0.05, 0.002, 0.001, 0.004, 9.0],
    }
    tables = read(aiconfigurator.IMPORTER, aic("h200_sxm/linear_attention/vllm/0.24.0/gdn_perf", table))
    prefill, decode = tables["gdn_prefill"], tables["gdn_decode"]
    assert prefill["query_tokens"].tolist() == [512]  # of 64 tokens only the convolution was timed
    assert prefill["latency_us"].tolist() == pytest.approx([60.0])
    assert prefill["kernel"].tolist() == ["causal_conv1d_fn+chunk_rule"]
    assert decode[["batch", "key_heads", "value_heads"]].to_numpy().tolist() == [[2, 4, 16]]
    assert decode["latency_us"].tolist() == pytest.approx([5.0])


def test_sparse_attention_has_the_widths_of_its_architecture(aic: Writer) -> None:
    table = {
        "op_name": ["dsa_context_module"] * 2 + ["dsa_context_module_skip_indexer"],
        "architecture": ["DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM", "GlmMoeDsaForCausalLM"],
        "gemm_type": ["fp8_block", "bfloat16", "bfloat16"],
        "kv_cache_dtype": "fp8",
        "num_heads": 16,
        "batch_size": 2,
        "isl": 1024,
        "step": [0, 128, 256],
        "latency": 1.0,
    }
    aic("h200_sxm/sparse_attention/sglang/0.5.14/dsa_context_module_perf", table)
    decode = {**table, "op_name": "dsa_generation_module", "isl": 1, "step": 4095}
    tables = read(
        aiconfigurator.IMPORTER, aic("h200_sxm/sparse_attention/sglang/0.5.14/dsa_generation_module_perf", decode)
    )
    rows = tables["dsa_prefill"].set_index("dtype")
    assert rows["prefix_tokens"].to_dict() == {"fp8_block": 0, "bf16": 128}
    widths = ["hidden", "q_rank", "qk_dim", "v_dim", "index_heads"]
    assert rows.loc["fp8_block", widths].tolist() == [7168, 1536, 192, 128, 64]
    assert rows.loc["bf16", widths].tolist() == [6144, 2048, 256, 256, 32]
    assert set(tables["dsa_decode"]["context_tokens"]) == {4096}


# ----------------------------------------------------------------------------- aiconfigurator: choices


def gemm(m: list[int], latency: float, dtype: str = "bfloat16", **columns: object) -> dict[str, object]:
    return {"gemm_dtype": dtype, "m": m, "n": 64, "k": 64, "latency": latency, **columns}


def test_an_older_version_fills_in_whole_blocks_only(aic: Writer) -> None:
    aic("h200_sxm/gemm/vllm/0.9.0/gemm_perf", gemm([1, 2, 3], 0.009))
    aic("h200_sxm/gemm/vllm/0.10.0/gemm_perf", gemm([1, 2], 0.010))  # newer, though not in the alphabet
    source = aic("h200_sxm/gemm/vllm/0.8.0/gemm_perf", gemm([4], 0.008, dtype="fp8"))
    rows = aic_rows(source)
    assert rows.groupby("dtype")["framework_version"].unique().map(list).to_dict() == {
        "bf16": ["0.10.0"],  # m = 3 of 0.9.0 does not join its curve
        "fp8": ["0.8.0"],
    }
    assert rows["m"].tolist() == [4, 1, 2]


def test_a_block_of_attention_is_one_cache_precision_width_and_window(aic: Writer) -> None:
    new = {**ATTENTION, "isl": 1, "step": [1], "latency": 0.01}
    aic("h200_sxm/attention/vllm/0.24.0/generation_attention_perf", new)
    old = {**new, "step": [1, 1, 3], "window_size": [128, 0, 0], "latency": 0.02}
    rows = aic_rows(aic("h200_sxm/attention/vllm/0.19.0/generation_attention_perf", old))
    blocks = rows.groupby("window_tokens")["framework_version"].agg(["unique", "size"])
    assert blocks["unique"].map(list).to_dict() == {0: ["0.19.0"], 128: ["0.24.0"]}
    assert blocks["size"].to_dict() == {0: 2, 128: 1}


def test_one_framework_does_not_fill_in_for_another(aic: Writer) -> None:
    aic("h200_sxm/gemm/vllm/0.24.0/gemm_perf", gemm([1], 0.001))
    rows = aic_rows(aic("h200_sxm/gemm/sglang/0.5.14/gemm_perf", gemm([1, 2], 0.002)))
    assert rows.groupby("framework").size().to_dict() == {"sglang": 2, "vllm": 1}


def test_the_kernel_with_most_rows_wins_duplicates(aic: Writer) -> None:
    kernels = ["ordinary", "rare", "ordinary", "rare", "ordinary"]
    table = gemm([1, 1, 2, 3, 4], 0.001, kernel_source=kernels)
    table["latency"] = [0.001, 0.002, 0.003, 0.004, 0.005]
    rows = aic_rows(aic("h200_sxm/gemm/vllm/0.24.0/gemm_perf", table)).set_index("m")
    assert rows["kernel"].to_dict() == {1: "ordinary", 2: "ordinary", 3: "rare", 4: "ordinary"}
    assert rows.loc[1, "latency_us"] == pytest.approx(1.0)


def test_eager_all_reduces_are_left_out(aic: Writer) -> None:
    table = {
        **COLLECTIVE,
        "op_name": "all_reduce",
        "allreduce_dtype": "bfloat16",
        "backend": ["vllm_eager", "vllm_graph"],
        "latency": [0.020, 0.004],
    }
    rows = aic_rows(aic("h200_sxm/comm/vllm/0.24.0/custom_allreduce_perf", table))
    assert rows["latency_us"].tolist() == pytest.approx([4.0])
    assert rows["message_bytes"].tolist() == [2048]


def test_rows_filed_under_another_framework_are_left_out(aic: Writer) -> None:
    table = {**COLLECTIVE, "op_name": "all_reduce", "allreduce_dtype": "bfloat16", "latency": [0.02]}
    aic("h200_sxm/comm/sglang/0.5.6/custom_allreduce_perf", table, framework="TRTLLM", version="1.2.0")
    rows = aic_rows(aic("h200_sxm/comm/vllm/0.22.0/custom_allreduce_perf", table, version="0.14.0"))
    assert rows["framework"].tolist() == ["vllm"]
    assert rows["framework_version"].tolist() == ["0.14.0"]  # as the row says, not the folder


def test_nccl_tables_among_another_frameworks_are_left_out(aic: Writer) -> None:
    table = {**COLLECTIVE, "op_name": "all_reduce", "nccl_dtype": "half", "latency": [0.02]}
    aic("b300_sxm/comm/trtllm/1.3.0/nccl_perf", {**table, "latency": [0.99]}, version="2.29.2")
    rows = aic_rows(aic("b300_sxm/comm/nccl/2.27/nccl_perf", table, version="2.29.2"))
    assert rows["latency_us"].tolist() == pytest.approx([20.0])
    assert rows["framework_version"].tolist() == ["2.29.2"]


def test_options_narrow_what_is_read(aic: Writer) -> None:
    aic("h200_sxm/gemm/vllm/0.24.0/gemm_perf", gemm([1], 0.001))
    aic("h200_sxm/gemm/vllm/0.19.0/gemm_perf", gemm([1], 0.001))
    aic("b200_sxm/gemm/sglang/0.5.14/gemm_perf", gemm([1], 0.001))
    table = {**COLLECTIVE, "op_name": "all_reduce", "nccl_dtype": "half", "latency": [0.02]}
    source = aic("h200_sxm/comm/nccl/2.29.2/nccl_perf", table)
    everything = read(aiconfigurator.IMPORTER, source)
    assert {operation: len(rows) for operation, rows in everything.items()} == {"gemm": 2, "collective": 1}
    assert aic_rows(source, op="gemm", gpu="B200")["gpu"].tolist() == ["B200"]
    assert len(aic_rows(source, op="gemm", gpu="B200, H200")) == 2
    assert aic_rows(source, framework="nccl")["framework"].tolist() == ["nccl"]
    assert aic_rows(source, version="0.19.0")["framework_version"].tolist() == ["0.19.0"]
    assert aic_rows(source, framework="nccl", date="2027-01-01")["date"].tolist() == ["2027-01-01"]


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("gpu", "H2000", "H200"),
        ("op", "gem", "gemm"),
        ("framework", "vlm", "vllm"),
        ("version", "0.24.1", "0.24.0"),
        ("gpu", "H200,", "known"),
    ],
)
def test_an_option_that_names_nothing_is_refused(aic_gemm: Path, option: str, value: str, hint: str) -> None:
    with pytest.raises(UnknownName, match=f"aiconfigurator option {option}") as caught:
        aic_rows(aic_gemm, **{option: value})
    assert hint in caught.value.hint


def test_an_unknown_precision_is_refused_and_a_known_gap_left_out(aic: Writer) -> None:
    source = aic("h200_sxm/gemm/vllm/0.24.0/gemm_perf", gemm([1, 2], 0.001, dtype="fp6"))
    with pytest.raises(DataError, match="precision 'fp6' in column 'gemm_dtype' is not known"):
        aic_rows(source)
    table = gemm([1, 2], 0.001)
    table["gemm_dtype"] = ["w4afp8", "bfloat16"]
    assert aic_rows(aic("h200_sxm/gemm/vllm/0.24.0/gemm_perf", table))["m"].tolist() == [2]


@pytest.mark.parametrize("damage", ["bytes", "column", "value"])
def test_a_broken_table_is_refused_by_name(aic: Writer, damage: str) -> None:
    table = gemm([1, 2], 0.001)
    if damage == "column":
        del table["k"]
    if damage == "value":
        table["latency"] = [0.001, -0.001]
    source = aic("h200_sxm/gemm/vllm/0.24.0/gemm_perf", table)
    if damage == "bytes":
        (file,) = source.glob("**/*.parquet")
        file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"0\.24\.0/gemm_perf\.parquet"):
        aic_rows(source)


def test_the_source_names_the_package_version_where_it_is_stated(aic_gemm: Path) -> None:
    assert "aiconfigurator-core (version not stated)" in aic_rows(aic_gemm)["source"][0]
    (aic_gemm / "aiconfigurator_core-0.12.0.dist-info").mkdir()
    assert aic_rows(aic_gemm)["source"][0] == "NVIDIA, aiconfigurator-core 0.12.0 on PyPI (Apache-2.0)"


@pytest.mark.parametrize("below", ["", "aiconfigurator_core", "aiconfigurator_core/systems"])
def test_the_data_are_found_from_any_folder_above_them(aic_gemm: Path, below: str) -> None:
    data = aic_gemm / "aiconfigurator_core/systems/data"
    assert aiconfigurator.find_data(aic_gemm / below).resolve() == data.resolve()


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="aiconfigurator-core is not installed") as caught:
        read(aiconfigurator.IMPORTER, None)
    assert "shardwright[silicon]" in caught.value.hint
