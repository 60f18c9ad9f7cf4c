"""The pack that ships: what it must hold, that it is whole, and that its timings are physically possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import DataError, InputError
from profiles.hardware import find_gpu, gpus
from profiles.manifest import MANIFEST
from profiles.packs import build as build_module
from profiles.packs.build import DROPPED, GPUS, LEFT_OUT, NOTICE, build, plausible, round_latency, thin
from profiles.store import ProfileStore, shipped_pack

PACK = shipped_pack()
COUNTS = PACK.summary()
PROMISED = ("A100-SXM-80GB", "H100-SXM", "H200", "B200", "L40S", "RTX-PRO-6000")
ENGINES = ("vllm", "sglang", "trtllm")

# Which of a GPU's peak rates bounds a product of this precision; weight-only precisions multiply in bf16.
RATE = {
    "bf16": "bf16",
    "fp16": "fp16",
    "int8": "int8",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "fp4",
    **dict.fromkeys(("int8_wo", "int4"), "bf16"),
}
TOLERANCE = 1.15  # clocks above the published boost, and rounding

Writer = Callable[..., Path]


def held(operation: str, gpu: str) -> pd.DataFrame:
    return COUNTS[(COUNTS["operation"] == operation) & (COUNTS["gpu"] == gpu)]


# -------------------------------------------------------------------------------------- what it holds


@pytest.mark.parametrize("gpu", PROMISED)
def test_each_promised_gpu_has_gemm_attention_moe_and_collectives(gpu: str) -> None:
    for operation in ("gemm", "attention_prefill", "attention_decode", "moe"):
        implausible = {"trtllm"} if (operation, gpu) == ("attention_decode", "A100-SXM-80GB") else set()
        assert set(ENGINES) - implausible <= set(held(operation, gpu)["framework"]), operation
    nccl = PACK.query("collective", gpu=gpu, framework="nccl")
    assert set(nccl["kind"]) == {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"}
    assert {2, 4, 8} <= set(nccl["num_gpus"])
    assert set(ENGINES) <= set(held("collective", gpu)["framework"])  # their own all-reduce


@pytest.mark.parametrize("gpu", PROMISED)
def test_gemm_is_measured_in_every_precision_that_the_gpu_has(gpu: str) -> None:
    rates = find_gpu(gpu).peak_flops
    wanted = {"bf16"} | ({"fp8"} if "fp8" in rates else set()) | ({"nvfp4"} if "fp4" in rates else set())
    assert wanted <= set(held("gemm", gpu)["dtype"])


@pytest.mark.parametrize("gpu", PROMISED)
@pytest.mark.parametrize("operation", ["attention_prefill", "attention_decode"])
def test_attention_covers_grouped_heads_windows_and_cache_precisions(operation: str, gpu: str) -> None:
    rows = PACK.query(operation, gpu=gpu, columns=["heads", "kv_heads", "window_tokens", "kv_dtype"])
    ratios = set(rows["heads"] // rows["kv_heads"])
    assert {1, 4, 8} <= ratios
    assert "bf16" in set(rows["kv_dtype"])
    assert (rows["window_tokens"] == 0).any()
    # Upstream has no sliding-window timings of A100.
    assert (rows["window_tokens"] > 0).any() == (gpu != "A100-SXM-80GB")
    if "fp8" in find_gpu(gpu).peak_flops:
        assert "fp8" in set(rows["kv_dtype"])


@pytest.mark.parametrize("operation", ["mla_prefill", "mla_decode", "mla_bmm"])
def test_latent_attention_is_measured_on_the_large_gpus(operation: str) -> None:
    measured = set(COUNTS[COUNTS["operation"] == operation]["gpu"])
    assert {"H100-SXM", "H200", "B200"} <= measured


@pytest.mark.parametrize("operation", ["gdn_prefill", "gdn_decode", "dsa_prefill", "dsa_decode"])
def test_linear_and_sparse_attention_are_measured_on_the_large_gpus(operation: str) -> None:
    for gpu in ("H100-SXM", "H200", "B200", "B300", "GB200"):
        assert {"vllm", "sglang"} <= set(held(operation, gpu)["framework"]), gpu


def test_rows_of_a_library_stand_under_its_name_too() -> None:
    """FlashInfer's experts, which SGLang timed: equal where nothing is shared out, and shared out but for the model
    whose router is limited to groups."""
    names = ["gpu", "dtype", "tokens", "hidden", "intermediate", "experts", "moe_tp", "moe_ep", "routing", "latency_us"]
    own = PACK.query("moe", framework="flashinfer", columns=[*names, "kernel"])
    assert set(own["gpu"]) == {"B200", "B300", "GB200"}
    assert set(own["dtype"]) == {"nvfp4", "fp8_block", "mxfp4_fp8"}
    assert own["kernel"].str.contains("flashinfer_trtllm").all()
    shared = own[own["moe_ep"] > 1]
    limited = (shared["experts"] == 256) & (shared["hidden"] == 7168)
    assert len(shared)
    assert not limited.any()
    asked = {"hidden": 7168, "experts": 384, "dtype": "nvfp4", "moe_tp": 8, "moe_ep": 1, "gpu": "B200"}
    rows = [PACK.query("moe", framework=name, columns=names) for name in ("flashinfer", "sglang")]
    alike = [each[np.logical_and.reduce([each[k] == v for k, v in asked.items()])] for each in rows]
    sizes = [each.sort_values(["routing", "tokens"])["latency_us"].to_numpy() for each in alike]
    assert len(sizes[0])
    np.testing.assert_array_equal(*sizes)


def test_only_gpus_of_the_catalogue_and_of_the_build_occur() -> None:
    assert set(COUNTS["gpu"]) <= set(GPUS) <= set(gpus())


# -------------------------------------------------------------------------------------- is it whole


def test_the_files_are_those_of_the_manifest() -> None:
    PACK.verify()
    assert {file.name for file in PACK.path.iterdir()} == {
        *(f"{operation}.parquet" for operation in PACK.operations()),
        MANIFEST,
        "NOTICE",
    }


def test_it_is_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in PACK.path.iterdir()) < 20e6


def test_the_notice_names_the_source_the_licence_and_the_changes() -> None:
    text = (PACK.path / "NOTICE").read_text(encoding="utf-8")
    assert text == NOTICE
    for words in ("NVIDIA CORPORATION & AFFILIATES", "Apache License, Version 2.0", "Changes made"):
        assert words in text
    assert "NVIDIA" in PACK.manifest.attribution
    assert "Apache-2.0" in PACK.manifest.attribution


@pytest.mark.parametrize("operation", PACK.operations())
def test_every_row_says_who_measured_it(operation: str) -> None:
    for column in ("source", "date", "framework_version", "kernel"):
        values = PACK.values(operation, column)
        assert values, column
        assert all(value.strip() for value in values), column
    assert PACK.values(operation, "source") == ["NVIDIA, aiconfigurator-core 0.12.0 on PyPI (Apache-2.0)"]


# -------------------------------------------------------------------------------------- is it possible


def fact(rows: pd.DataFrame, name: str) -> np.ndarray:
    """A fact of each row's GPU."""
    facts = {gpu: getattr(find_gpu(gpu), name) for gpu in rows["gpu"].unique()}
    values: np.ndarray = rows["gpu"].map(facts).to_numpy(dtype=float)
    return values


def test_no_gemm_is_faster_than_the_peak_rate() -> None:
    rows = PACK.query("gemm", columns=["gpu", "framework", "dtype", "m", "n", "k", "latency_us"])
    assert len(rows) > 1_000_000
    pairs = rows[["gpu", "dtype"]].drop_duplicates()
    peak = {(gpu, dtype): find_gpu(gpu).peak_flops[RATE[dtype]] for gpu, dtype in pairs.itertuples(index=False)}
    peaks = np.array([peak[pair] for pair in zip(rows["gpu"], rows["dtype"], strict=True)])
    flops = 2.0 * rows["m"] * rows["n"] * rows["k"]
    too_fast = rows[flops / peaks * 1e6 > TOLERANCE * rows["latency_us"]]
    # Three rows of SGLang 0.5.6 on H100, int8 weights: up to 1.19 of the bf16 peak.
    assert len(too_fast) <= 10
    assert (too_fast["dtype"] == "int8_wo").all()


def test_no_gemm_streams_faster_than_memory() -> None:
    width = {
        "bf16": 2,
        "fp16": 2,
        "int8": 1,
        "int8_wo": 1,
        "fp8": 1,
        "fp8_block": 1,
        "nvfp4": 0.5,
        "int4": 0.5,
    }
    rows = PACK.query("gemm", columns=["gpu", "dtype", "n", "k", "latency_us"])
    weights = rows["n"] * rows["k"] * rows["dtype"].map(width)
    cold = (weights > 2 * fact(rows, "l2_bytes")).to_numpy()
    seconds = weights / fact(rows, "memory_bandwidth_bytes_per_s")
    assert cold.sum() > 100_000
    assert not (cold & (seconds * 1e6 > TOLERANCE * rows["latency_us"])).any()


def test_decode_reads_its_cache_no_faster_than_memory() -> None:
    """Which also shows that heads are one GPU's and the context is whole: either doubled would fail."""
    rows = PACK.query("attention_decode")
    window = rows["window_tokens"].where(rows["window_tokens"] > 0, rows["context_tokens"])
    seen = np.minimum(rows["context_tokens"], window)
    element = rows["kv_dtype"].map({"bf16": 2, "fp8": 1})
    cache = 2.0 * rows["batch"] * seen * rows["kv_heads"] * rows["head_dim"] * element
    fraction = cache / fact(rows, "memory_bandwidth_bytes_per_s") * 1e6 / rows["latency_us"]
    cold = cache > 4 * fact(rows, "l2_bytes")
    assert cold.sum() > 50_000
    broken = rows[cold & (fraction > TOLERANCE)]
    # TensorRT-LLM 1.0.0 on A100 seems to have read half the cache where heads share it.
    assert len(broken) <= 300
    assert set(broken["gpu"]) <= {"A100-SXM-80GB"}
    assert set(broken["framework"]) <= {"trtllm"}
    for gpu in ("H100-SXM", "H200", "B200"):
        assert 0.85 < fraction[cold & (rows["gpu"] == gpu)].max() < TOLERANCE


def test_no_state_of_linear_attention_moves_faster_than_memory() -> None:
    """Which also shows that states are 32 bits wide and read and written once a token: 16 bits would stop at half."""
    rows = PACK.query("gdn_decode")
    moved = 2.0 * rows["batch"] * rows["value_heads"] * 128 * 128 * 4
    fraction = moved / fact(rows, "memory_bandwidth_bytes_per_s") * 1e6 / rows["latency_us"]
    assert fraction.max() < TOLERANCE
    for gpu in ("H100-SXM", "H200", "B200"):
        assert fraction[rows["gpu"] == gpu].max() > 0.75


def test_sparse_attention_reads_its_weights_and_keys_no_faster_than_memory() -> None:
    rows = PACK.query("dsa_decode")
    element = rows["dtype"].map({"bf16": 2, "fp8_block": 1, "nvfp4": 0.5625})
    weights = (
        rows["hidden"] * (rows["q_rank"] + rows["heads"] * rows["v_dim"]) + rows["q_rank"] * 128 * rows["index_heads"]
    )
    keys = np.where(rows["context_tokens"] > 2048, 132.0 * rows["batch"] * rows["context_tokens"], 0.0)
    seconds = (weights * element + keys) / fact(rows, "memory_bandwidth_bytes_per_s")
    assert (seconds * 1e6 / rows["latency_us"]).max() < TOLERANCE


def test_no_attention_is_faster_than_the_peak_rate() -> None:
    rows = PACK.query("attention_prefill")
    query, window = rows["query_tokens"].astype(float), rows["window_tokens"].astype(float)
    window = np.minimum(window.where(window > 0, query), query)
    pairs = window * (window + 1) / 2 + (query - window) * window
    flops = 4 * rows["batch"] * rows["heads"] * rows["head_dim"] * pairs
    rates = {gpu: find_gpu(gpu).peak_flops for gpu in rows["gpu"].unique()}
    best = rows["gpu"].map({gpu: rate.get("fp8", rate["bf16"]) for gpu, rate in rates.items()})
    assert not (flops / best * 1e6 > TOLERANCE * rows["latency_us"]).any()


def test_no_collective_is_faster_than_the_links() -> None:
    """Which also shows that ``message_bytes`` is the full buffer: a rank's part would mean more."""
    rows = PACK.query("collective")
    count = rows["num_gpus"]
    # Bus bandwidth as nccl-tests define it: bytes that each GPU must send.
    factor = rows["kind"].map({"all_reduce": 2}).fillna(1) * (count - 1) / count
    sent = rows["message_bytes"] * factor
    fraction = sent / fact(rows, "scale_up_bytes_per_s") * 1e6 / rows["latency_us"]
    assert fraction.max() < TOLERANCE  # in-switch reduction passes 1 a little
    large = rows["message_bytes"] >= 2**28
    for gpu in ("A100-SXM-80GB", "H100-SXM", "H200", "B200"):
        assert 0.6 < fraction[large & (rows["gpu"] == gpu)].median() < 1


# -------------------------------------------------------------------------------------- how it is built


@given(st.lists(st.floats(1e-3, 1e7), min_size=1))
def test_rounding_keeps_four_digits(latencies: list[float]) -> None:
    exact = pd.Series(latencies)
    rounded = round_latency(exact)
    assert (abs(rounded / exact - 1) <= 5.001e-4).all()
    assert np.allclose(round_latency(rounded), rounded, rtol=1e-12)


def test_thinning_leaves_out_the_listed_points_only(make_rows: Callable[..., pd.DataFrame]) -> None:
    rows = make_rows("gemm", 4, m=[1, 3, 4, 4353])
    assert thin("gemm", rows)["m"].tolist() == [1, 4]
    assert len(thin("collective", make_rows("collective", 2))) == 2
    for operation, columns in DROPPED.items():
        for column, values in columns.items():
            assert not PACK.query(operation, columns=[column])[column].isin(values).any()


def test_implausible_rows_are_left_out(make_rows: Callable[..., pd.DataFrame]) -> None:
    for out in LEFT_OUT:
        assert PACK.query(out.operation).query(out.query).empty, out.why
    rows = make_rows("gemm", 2, dtype=["fp8_block", "bf16"], framework="vllm")
    assert plausible("gemm", rows)["dtype"].tolist() == ["bf16"]
    assert len(plausible("gemm", rows.assign(framework="trtllm"))) == 2


def test_a_pack_is_built_whole_or_not_at_all(
    aic: Writer, aic_gemm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pack"
    pack = build(aic_gemm, out)
    pack.verify()
    assert len(pack.query("gemm")) == 2
    assert sorted(file.name for file in out.iterdir()) == ["NOTICE", "gemm.parquet", MANIFEST]
    first = pack.manifest.content_hash
    assert build(aic_gemm, out).manifest.content_hash == first  # the same again, in place of it

    (broken,) = aic_gemm.glob("**/*.parquet")
    broken.write_bytes(b"PAR1")
    with pytest.raises(DataError):
        build(aic_gemm, out)
    assert ProfileStore(out).manifest.content_hash == first


def test_a_folder_of_other_things_is_not_replaced(aic_gemm: Path, tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="other things than a pack"):
        build(aic_gemm, out)
    assert (out / "thesis.tex").exists()


def test_the_build_command_prints_what_it_built(
    aic_gemm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", "--from", str(aic_gemm), "--out", str(tmp_path / "pack"), "--all-points"]
    monkeypatch.setattr("sys.argv", arguments)
    build_module.main()
    assert capsys.readouterr().out.split()[:3] == ["gemm", "2", "rows"]
