"""Releases of a framework: which one is meant, which facts hold, and how sure a prediction of it is."""

from __future__ import annotations

import math

import pytest

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.framework import DAYS_OF_MONTH, PREDICTED, find_framework, registry
from costmodels.serving.frameworks.history import Entry, part_at
from profiles.errors import InputError, Unsupported
from profiles.hardware import find_gpu

NEWEST = registry().releases("vllm")[-1]


@pytest.mark.parametrize(
    ("asked", "version"),
    [
        ("vllm", NEWEST.version),
        ("vllm@0.19.0", "0.19.0"),
        ("vLLM@v0.19.0", "0.19.0"),
        ("vllm@0.19", "0.19.1"),  # a series is its newest
        ("vllm@2026-02", "0.16.0"),  # a month is its newest
        ("vllm@2026-02-10", "0.15.1"),  # a day is the newest by then
        ("sglang@0.5.10", "0.5.10"),  # not its post release
        ("sglang@0.5.10.post1", "0.5.10.post1"),
        ("TensorRT-LLM@1.0", "1.0.0"),
    ],
)
def test_a_release_is_found_by_version_series_month_and_day(asked: str, version: str) -> None:
    framework = find_framework(asked)
    assert framework.release.version == version
    assert framework.listed
    assert framework.note == ""
    assert find_framework(framework.spec) == framework


@pytest.mark.parametrize(
    ("asked", "nearest"), [("99.0", NEWEST.version), ("0.12.5", "0.12.0"), ("0.3", "0.6.0"), ("0.19.1.dev3", "0.19.0")]
)
def test_an_unknown_release_is_the_nearest_known_said_and_less_sure(asked: str, nearest: str) -> None:
    framework, known = find_framework(f"vllm@{asked}"), find_framework(f"vllm@{nearest}")
    assert framework.release.version == asked
    assert not framework.listed
    assert f"vLLM {asked} is not a release known here; predicted as {nearest}" in framework.told()
    assert framework.scheduler == known.scheduler
    for name in ("ttft", "tpot", "e2e"):
        wide, narrow = getattr(framework.calibration, name), getattr(known.calibration, name)
        assert wide.low < narrow.low
        assert wide.high > narrow.high


def test_a_candidate_between_releases_with_runs_is_as_sure_as_they_are() -> None:
    rows = {"1.2.0rc6.post2": True, "1.2.0rc6.dev1": False, "1.9.0rc1": False}
    known = find_framework("trtllm@1.1.0").calibration.tpot
    for asked, sure in rows.items():
        framework = find_framework(f"trtllm@{asked}")
        assert not framework.listed
        assert (framework.calibration.tpot == known) is sure


@pytest.mark.parametrize("asked", ["2099-01", "2019-01"])
def test_a_month_without_a_release_says_which_one_it_was_instead(asked: str) -> None:
    framework = find_framework(f"vllm@{asked}")
    assert framework.listed
    assert asked in framework.note
    assert framework.release.version in framework.note


@pytest.mark.parametrize(
    ("asked", "version", "nearest"),
    [
        ("nightly", f"{NEWEST.version}+nightly", NEWEST.version),
        ("latest", f"{NEWEST.version}+latest", NEWEST.version),
        ("a1b2c3d", f"{NEWEST.version}+a1b2c3d", NEWEST.version),
        ("0.19+mine", "0.19+mine", "0.19.1"),  # a build of the newest of the series
        ("rocm/7.0:rocm7.0_vllm_0.12.0_rc1", "0.12.0+rocm7.0.vllm.rc1", "0.12.0"),  # not ROCm's version
        (
            "rocm/7.0:rocm7.0_ubuntu_22.04_vllm_0.10.1_rc1",
            "0.10.1+rocm7.0.ubuntu.22.4.vllm.rc1",
            "0.10.1",
        ),
        ("rocm/vllm:rocm6.3.1_instinct_vllm0.8.3", "0.8.3+rocm6.3.1.instinct.vllm", "0.8.3"),
        ("20260210", "0.15.1+20260210", "0.15.1"),
        ("nightly-2026-02-10", "0.15.1+nightly.2026.2.10", "0.15.1"),
        ("１０.0", f"{NEWEST.version}+0", NEWEST.version),  # digits of another script are none
        ("x" * 150, f"{NEWEST.version}+{'x' * 40}", NEWEST.version),
    ],
)
def test_a_build_is_the_release_its_name_tells_of_else_the_newest_and_less_sure(
    asked: str, version: str, nearest: str
) -> None:
    framework, known = find_framework(f"vllm@{asked}"), find_framework(f"vllm@{nearest}")
    assert framework.release.version == version
    assert not framework.listed
    assert f"vLLM {version} is not a release known here; predicted as {nearest}" in framework.told()
    assert framework.scheduler == known.scheduler
    assert framework.calibration.tpot.high > known.calibration.tpot.high
    assert find_framework(framework.spec) == framework


@pytest.mark.parametrize(
    ("asked", "version"),
    [
        ("vllm@vllm/vllm-openai:v0.11.0", "0.11.0"),
        ("vllm@vllm/vllm-openai:v0.11.0-x86_64", "0.11.0"),
        ("vllm@v0.19.0-cu129", "0.19.0"),
        ("vllm@0.19+cu129", "0.19.1"),  # the newest of the series
        ("sglang@lmsysorg/sglang:v0.5.9-cu129-amd64", "0.5.9"),
        ("sglang@lmsysorg/sglang:v0.5.9-rocm700-mi30x", "0.5.9"),
    ],
)
def test_the_image_of_a_release_is_that_release_whatever_it_was_built_for(asked: str, version: str) -> None:
    framework = find_framework(asked)
    assert (framework.release.version, framework.listed, framework.note) == (version, True, "")


def test_frameworks_are_found_by_the_words_of_result_files() -> None:
    for word in ("trt", "dynamo-trt", "TRT-LLM", "tensorrt_llm"):
        assert find_framework(word).name == "trtllm"
    assert find_framework("dynamo-sglang").name == "sglang"


@pytest.mark.parametrize("asked", ["---", "2026-13", "2026-02-31", "0.19,0.20"])
def test_what_is_no_release_is_refused(asked: str) -> None:
    with pytest.raises(InputError, match="framework: vLLM@") as refused:
        find_framework(f"vllm@{asked}")
    assert refused.value.hint


def test_an_at_without_a_release_is_refused() -> None:
    with pytest.raises(InputError, match="names no release"):
        find_framework("vllm@")


# --- facts ------------------------------------------------------------------------------------------------

ENTRIES = [
    Entry.model_validate({"since": "1.0", "checked": "1.2", "source": "a", "x": 1, "y": 1}),
    Entry.model_validate({"since": "1.5", "source": "b", "y": 2}),
]


@pytest.mark.parametrize(
    ("version", "y", "release", "own"),
    [
        ("0.9", 1, "1.0", False),
        ("1.0", 1, "1.2", True),
        ("1.2.3", 1, "1.2", True),  # of the series that was compared
        ("1.3", 1, "1.2", False),
        ("1.5.0", 2, "1.5", True),
        ("2.0", 2, "1.5", False),
    ],
)
def test_a_fact_holds_from_its_release_on_and_is_own_as_far_as_it_was_compared(
    version: str, y: int, release: str, own: bool
) -> None:
    facts, basis = part_at("part", ENTRIES, version)
    assert facts == {"x": 1, "y": y}
    assert (basis.release, basis.own) == (release, own)


def test_entries_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        part_at("part", ENTRIES[::-1], "1.0")


def test_facts_of_older_releases_are_named() -> None:
    told = find_framework("vllm@0.19.0").told(PREDICTED)
    assert told == "vLLM 0.19.0: limits and scheduler as of 0.11.0"
    assert "overheads as of 0.19.0" in find_framework("vllm").told()


def test_graphs_and_the_share_of_memory_changed_together_in_vllm() -> None:
    before, after = find_framework("vllm@0.19"), find_framework("vllm@0.20")
    assert (before.defaults.gpu_memory_utilization, before.memory.graphs_within_budget) == (0.90, False)
    assert (after.defaults.gpu_memory_utilization, after.memory.graphs_within_budget) == (0.92, True)


@pytest.mark.parametrize(
    ("gpu", "tokens", "sequences"), [("H100", 8192, 1024), ("A100-SXM-80GB", 2048, 256), ("L40S", 2048, 256)]
)
def test_batch_defaults_of_vllm_are_those_of_the_gpu(gpu: str, tokens: int, sequences: int) -> None:
    batch = find_framework("vllm").defaults.on(find_gpu(gpu))
    assert (batch.max_num_batched_tokens, batch.max_num_seqs) == (tokens, sequences)


# --- what runs where --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "model", "gpu", "weight_only"),
    [
        ("vllm", "Qwen3-32B-FP8", "A100-SXM-80GB", ("fp8_block",)),
        ("vllm", "Qwen3-235B-A22B-NVFP4", "H100-SXM", ("nvfp4",)),
        ("sglang", "Qwen3-235B-A22B-NVFP4", "H200", ("nvfp4",)),
        ("vllm", "Qwen3-32B-FP8", "H100-SXM", ()),
        ("vllm", "Qwen3-32B-FP8", "MI300X", ()),
    ],
)
def test_weights_without_tensor_cores_run_in_16_bits_where_the_framework_has_kernels(
    framework: str, model: str, gpu: str, weight_only: tuple[str, ...]
) -> None:
    found, precision = find_framework(framework), choose_precision(find_architecture(model))
    found.check_runs(precision, find_gpu(gpu))
    assert found.weight_only(precision, find_gpu(gpu)) == weight_only
    assert ("16 bits" in found.told_of_weights(precision, find_gpu(gpu))) == bool(weight_only)
    for dtype in weight_only:
        for operation in ("gemm", "moe"):
            stand_in = found.stand_in(operation, find_gpu(gpu), dtype)
            assert stand_in is not None
            assert stand_in.measured_as in ("int8_wo", "int4")


@pytest.mark.parametrize(
    ("framework", "model", "gpu", "why"),
    [
        ("sglang", "Qwen3-32B-FP8", "A100-SXM-80GB", "precision: .* no fp8 tensor cores"),
        ("sglang@0.5.9", "Qwen3-235B-A22B-NVFP4", "H200", "precision: .* no fp4 tensor cores"),
        ("trtllm", "Qwen3-235B-A22B-NVFP4", "H200", "precision: .* no fp4 tensor cores"),
        ("trtllm", "Qwen3-32B", "MI300X", "framework: TensorRT-LLM does not run on MI300X"),
        ("trtllm", "Qwen3-32B", "V100-SXM", "framework: TensorRT-LLM runs from compute capability 8 on"),
    ],
)
def test_what_the_framework_does_not_run_is_refused(framework: str, model: str, gpu: str, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        find_framework(framework).check_runs(choose_precision(find_architecture(model)), find_gpu(gpu))


def test_intervals_widen_by_the_drift_between_releases() -> None:
    known, newer = find_framework("vllm@0.19.0"), find_framework("vllm")
    assert known.calibration == known.fitted == newer.fitted
    last = max(known.fitted.effects.days)
    assert newer.nearest.date is not None
    months = (newer.nearest.date - last).days / DAYS_OF_MONTH
    once, monthly = newer.overheads.tpot, newer.overheads.monthly["nvidia"].tpot
    wide = math.hypot(known.fitted.tpot.high, once, monthly * math.sqrt(months))
    assert newer.calibration.tpot.high == pytest.approx(wide)


def test_the_further_a_release_is_from_runs_the_wider() -> None:
    fitted = find_framework("sglang").fitted

    def high(release: str, vendor: str = "nvidia") -> float:
        return find_framework(f"sglang@{release}").less_sure(fitted, vendor).tpot.high

    assert fitted.tpot.high == high("0.5.9") < high("0.5.13") < high("0.5.23")
    assert high("0.5.9") < high("0.4.6") < high("0.4.2")
    assert high("0.5.23") < high("0.5.23", "amd")  # whose releases differed more
    assert high("0.4.2") == high("0.4.2", "amd")
    assert high("0.5.23", "of a vendor without pairs") == high("0.5.23", "amd")
