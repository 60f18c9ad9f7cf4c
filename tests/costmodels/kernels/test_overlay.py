"""Measured stores over the pack: exact rows win, forests follow, and other kernels' rows never override."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from synthetic import MEASURED_GPUS, UNSEEN_GPU, questions, rows, truth_us

from costmodels.kernels.cost_model import MODEL_VERSION, CostModel
from costmodels.kernels.kernel_models import MEASURED_NOISE, coded
from costmodels.kernels.overlay import NOISE_FLOOR
from costmodels.kernels.row_sources import same_kernels, sources_of
from costmodels.kernels.validation import taught, validate
from costmodels.operations.registry import families
from costmodels.origins import MEASURED
from profiles.hardware import find_gpu
from profiles.store import ProfileStore

GPU = MEASURED_GPUS[0]


def laid_over(base: ProfileStore, *measured: ProfileStore, gpu: str = GPU, framework: str = "vllm") -> CostModel:
    return CostModel(find_gpu(gpu), framework, base, None, measured)


def store(folder: Path, operation: str, table: pd.DataFrame) -> ProfileStore:
    made = synthetic.empty_store(folder)
    made.add(operation, table)
    return made


def few(operation: str, gpu: str, n: int, framework: str = "torch", slower: float = 1.0, seed: int = 1) -> pd.DataFrame:
    return rows(operation, gpu, framework, slower, seed).sample(n, random_state=seed)


@pytest.mark.parametrize("operation", families().kernels)
def test_without_measured_stores_nothing_changes(synthetic_store: ProfileStore, operation: str) -> None:
    """To the last bit, and with an overlay that has nothing to say of this GPU, too."""
    q = questions(operation, 50)
    for gpu in (GPU, UNSEEN_GPU):
        plain = CostModel(find_gpu(gpu), "vllm", synthetic_store).estimate(operation, q)
        empty = laid_over(synthetic_store, gpu=gpu).estimate(operation, q)
        for part in ("value", "low", "high", "how", "inside"):
            np.testing.assert_array_equal(getattr(plain, part), getattr(empty, part))


def test_a_measured_row_is_given_back_with_its_own_percentiles(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    table = few("gemm", GPU, 6, slower=1.3).reset_index(drop=True)
    table["latency_p10_us"] = table["latency_us"] * [0.9, 0.9, 0.9, 0.999, np.nan, np.nan]
    table["latency_p90_us"] = table["latency_us"] * [1.2, 1.2, 1.2, 1.001, np.nan, np.nan]
    got = laid_over(synthetic_store, store(tmp_path / "m", "gemm", table)).estimate("gemm", coded("gemm", table))
    np.testing.assert_allclose(got.value, table["latency_us"])
    assert np.all(got.how == MEASURED)
    assert np.all(got.inside)
    np.testing.assert_allclose(got.low[:3] / got.value[:3], 0.9)
    np.testing.assert_allclose(got.high[:3] / got.value[:3], 1.2)
    np.testing.assert_allclose(np.log(got.high[3] / got.value[3]), NOISE_FLOOR)
    np.testing.assert_allclose(np.log(got.high[4:] / got.value[4:]), MEASURED_NOISE)


def test_the_last_store_that_has_a_row_wins(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    table = few("gemm", GPU, 10)
    first = store(tmp_path / "1", "gemm", table)
    second = store(tmp_path / "2", "gemm", table.head(4).assign(latency_us=table["latency_us"].head(4) * 1.1))
    got = laid_over(synthetic_store, first, second).estimate("gemm", coded("gemm", table)).value
    np.testing.assert_allclose(got / table["latency_us"], [1.1] * 4 + [1.0] * 6)


def test_a_slower_machine_of_a_known_type_slows_all_its_shapes(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    measured = store(tmp_path / "m", "gemm", few("gemm", GPU, 40, slower=1.15))
    q = questions("gemm", 60, seed=5)
    before, after = (
        model.estimate("gemm", q) for model in (laid_over(synthetic_store), laid_over(synthetic_store, measured))
    )
    assert np.median(after.value / before.value) == pytest.approx(1.15, abs=0.03)


def test_few_rows_of_an_unseen_gpu_anchor_it_and_narrow_the_interval(
    synthetic_store: ProfileStore, tmp_path: Path
) -> None:
    q = questions("gemm", 100, seed=3)
    truth = truth_us("gemm", q, UNSEEN_GPU) * 1.5
    models = [laid_over(synthetic_store, gpu=UNSEEN_GPU)]
    for n in (8, 64):
        measured = store(tmp_path / str(n), "gemm", few("gemm", UNSEEN_GPU, n, slower=1.5))
        models.append(laid_over(synthetic_store, measured, gpu=UNSEEN_GPU))
    answers = [model.estimate("gemm", q) for model in models]
    errors = [float(np.abs(got.value / truth - 1).mean()) for got in answers]
    widths = [float(np.log(got.high / got.low).mean()) for got in answers]
    assert errors[0] > errors[1] >= errors[2] - 0.01
    assert errors[2] < 0.08
    assert widths[0] > widths[1] > widths[2]
    assert (((truth >= answers[2].low) & (truth <= answers[2].high)).mean()) > 0.6


def test_operations_that_were_not_measured_answer_as_before(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    measured = store(tmp_path / "m", "gemm", few("gemm", UNSEEN_GPU, 8))
    q = questions("mla_bmm", 20)
    plain, laid = laid_over(synthetic_store, gpu=UNSEEN_GPU), laid_over(synthetic_store, measured, gpu=UNSEEN_GPU)
    np.testing.assert_array_equal(plain.estimate("mla_bmm", q).value, laid.estimate("mla_bmm", q).value)


def test_rows_of_other_gpus_and_of_operations_without_a_model_do_not_disturb(
    synthetic_store: ProfileStore, tmp_path: Path
) -> None:
    measured = store(tmp_path / "m", "gemm", few("gemm", "L40S", 20, slower=3.0))
    common = few("gemm", GPU, 1).drop(columns=["m", "n", "k"]).assign(dtype="int8")
    measured.add("memcpy", common.assign(kind="device_to_device", copied_bytes=1 << 20))
    q = questions("gemm", 30)
    model = laid_over(synthetic_store, measured)
    np.testing.assert_array_equal(model.estimate("gemm", q).value, laid_over(synthetic_store).estimate("gemm", q).value)
    (entry,) = taught(model)
    assert (entry.operation, entry.unmodelled) == ("memcpy", 1)


class TestWhoSpeaks:
    """Rows of other kernels stand in where there is nothing better, and never override."""

    def test_torch_runs_the_frameworks_own_16_bit_products_and_nccl_its_collectives(self) -> None:
        assert same_kernels("vllm", "torch", "gemm", "bf16")
        assert same_kernels("sglang", "nccl", "collective", "bf16")
        assert not same_kernels("vllm", "torch", "gemm", "fp8")
        assert not same_kernels("vllm", "torch", "attention_decode", "bf16")
        assert all(sources_of(name)[0] == name for name in ("vllm", "an engine of our own"))

    def test_torch_attention_does_not_override_the_framework_s_own(
        self, synthetic_store: ProfileStore, tmp_path: Path
    ) -> None:
        table = few("attention_decode", GPU, 20, slower=2.0)
        model = laid_over(synthetic_store, store(tmp_path / "m", "attention_decode", table))
        q = coded("attention_decode", table)
        np.testing.assert_array_equal(
            model.estimate("attention_decode", q).value,
            laid_over(synthetic_store).estimate("attention_decode", q).value,
        )
        (unused,) = model.overlay("attention_decode").unused
        assert (unused.row_source, unused.rows) == ("torch", 20)
        assert "other kernels than vllm's" in unused.why

    def test_torch_attention_stands_in_where_the_gpu_has_none_and_is_less_sure(
        self, synthetic_store: ProfileStore, tmp_path: Path
    ) -> None:
        table = few("attention_decode", UNSEEN_GPU, 20, slower=2.0)
        model = laid_over(synthetic_store, store(tmp_path / "m", "attention_decode", table), gpu=UNSEEN_GPU)
        got = model.estimate("attention_decode", coded("attention_decode", table))
        np.testing.assert_allclose(got.value, table["latency_us"])
        assert np.all(np.log(got.high / got.value) > 0.29)
        assert "measured under torch, standing in for vllm" in " ".join(model.notes)

    def test_the_framework_s_own_measured_rows_silence_stand_ins(
        self, synthetic_store: ProfileStore, tmp_path: Path
    ) -> None:
        measured = store(tmp_path / "m", "attention_decode", few("attention_decode", UNSEEN_GPU, 10, "vllm"))
        measured.add("attention_decode", few("attention_decode", UNSEEN_GPU, 10, "torch", slower=2.0, seed=7))
        overlay = laid_over(synthetic_store, measured, gpu=UNSEEN_GPU).overlay("attention_decode")
        assert len(overlay) == 10
        assert "vllm speaks for it" in overlay.unused[0].why

    def test_a_stranger_s_rows_and_unknown_kinds_are_left_out_by_name(
        self, synthetic_store: ProfileStore, tmp_path: Path
    ) -> None:
        measured = store(tmp_path / "m", "gemm", few("gemm", GPU, 3, "my engine"))
        measured.add("moe", few("moe", GPU, 4).assign(routing="power_law_0.7"))
        measured.add("collective", few("collective", GPU, 2).assign(dtype="fp32", framework="nccl"))
        model = laid_over(synthetic_store, measured)
        assert "no rows of this framework" in model.overlay("gemm").unused[0].why
        assert model.overlay("moe").unused[0].why == "the cost model does not know its routing"
        assert "16-bit elements" in model.overlay("collective").unused[0].why
        for operation in ("gemm", "moe", "collective"):
            assert len(model.overlay(operation)) == 0
            model.estimate(operation, questions(operation, 5))


def test_a_gpu_without_any_shipped_rows_over_an_empty_pack(bare_store: ProfileStore, tmp_path: Path) -> None:
    """Few rows over the roofline alone: they still anchor it."""
    measured = store(tmp_path / "m", "gemm", few("gemm", "L4", 24))
    q = questions("gemm", 50, seed=3)
    truth = truth_us("gemm", q, "L4")
    before, after = (laid_over(bare_store, *stores, gpu="L4").estimate("gemm", q) for stores in ((), (measured,)))
    assert np.abs(np.log(after.value / truth)).mean() < np.abs(np.log(before.value / truth)).mean()
    assert np.log(after.high / after.low).mean() < np.log(before.high / before.low).mean()


def test_the_version_depends_on_the_measured_stores_in_order(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    stores = [store(tmp_path / str(n), "gemm", few("gemm", GPU, n)) for n in (3, 4)]
    versions = {laid_over(synthetic_store, *chosen).version for chosen in ([], stores[:1], stores, stores[::-1])}
    assert len(versions) == 4
    assert laid_over(synthetic_store).version == f"{MODEL_VERSION}+{synthetic_store.manifest.content_hash[:12]}"


def test_notes_say_how_the_machine_compares(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    model = laid_over(synthetic_store, store(tmp_path / "m", "gemm", few("gemm", GPU, 40, slower=1.2)))
    model.estimate("gemm", questions("gemm", 5))
    (note,) = model.notes
    assert note.startswith("gemm in bf16: 40 measured rows are laid over the pack, ")
    assert "slower in the median" in note


def test_validation_compares_the_same_rows_before_and_after(synthetic_store: ProfileStore, tmp_path: Path) -> None:
    measured = store(tmp_path / "m", "gemm", few("gemm", GPU, 60, slower=1.2))
    measured.add("mla_bmm", few("mla_bmm", UNSEEN_GPU, 5))
    measured.add("mla_bmm", few("mla_bmm", GPU, 5, "vllm"))
    gemm, bmm = validate(laid_over(synthetic_store, measured))
    assert gemm.before is not None
    assert gemm.after is not None
    assert gemm.rows == 60
    assert gemm.before.bias_pct < -10
    assert abs(gemm.after.bias_pct) < 3
    assert gemm.after.mape_pct < gemm.before.mape_pct / 2
    assert gemm.after.coverage_pct > 60
    assert (bmm.operation, bmm.rows, bmm.before, bmm.after) == ("mla_bmm", 5, None, None)
