from __future__ import annotations

import dataclasses
import re

import pytest

from profiles.collect.devices import Device
from profiles.collect.operations.gemm import Gemm
from profiles.collect.points import Point
from profiles.errors import Unsupported

torch = pytest.importorskip("torch")


def _point(dtype: str, m: int = 32, n: int = 48, k: int = 64) -> Point:
    return Point("gemm", dtype, {"m": m, "n": n, "k": k})


def _product(monkeypatch: pytest.MonkeyPatch, device: Device, point: Point, benchmark: Gemm) -> tuple:
    """(result, x, weights) of the prepared call."""
    from profiles.collect.operations import gemm

    made = []

    def kept(*arguments, **options):
        made.append(normal(*arguments, **options))
        return made[-1]

    normal = gemm.normal
    monkeypatch.setattr(gemm, "normal", kept)
    prepared = benchmark.prepare(device, point)
    result = prepared.run()
    return prepared, result.float(), *(tensor.float() for tensor in made)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 2e-2), ("int8", 0), ("fp8", 2e-2)]
)
def test_the_call_is_x_times_weights_transposed(
    monkeypatch: pytest.MonkeyPatch, cpu: Device, dtype: str, tolerance: float
) -> None:
    try:
        prepared, result, x, weights = _product(monkeypatch, cpu, _point(dtype), Gemm())
    except Unsupported as error:
        assert dtype == "fp8"
        pytest.skip(error.message)
    torch.testing.assert_close(result, x @ weights.T, rtol=tolerance, atol=tolerance * float(x.abs().max()))
    assert float(x.std()) > 0.5, "random data, not zeros"
    assert prepared.framework == "torch"


def test_scales_a_row_give_the_same_product(monkeypatch: pytest.MonkeyPatch, cpu: Device) -> None:
    try:
        prepared, result, x, weights = _product(monkeypatch, cpu, _point("fp8"), Gemm("row"))
    except Unsupported as error:
        pytest.skip(error.message)
    torch.testing.assert_close(result, x @ weights.T, rtol=2e-2, atol=0.1)
    assert prepared.kernel == "scaled_mm_row"


@pytest.mark.parametrize(
    ("dtype", "n", "said"),
    [
        ("nvfp4", 64, "torch has no plain product in nvfp4"),
        ("fp8_block", 192, "blocks of 128 need n and k in their multiples"),
        ("fp8", 40, "multiples of 16"),
        ("int8", 36, "multiples of 8"),
    ],
)
def test_what_a_gpu_cannot_do_has_a_reason(hopper: Device, dtype: str, n: int, said: str) -> None:
    reason = Gemm().unsupported(hopper, _point(dtype, n=n, k=128))
    assert reason is not None
    assert said in reason


def test_eight_bit_floats_need_the_hardware(ampere: Device, hopper: Device, cpu: Device) -> None:
    for device in (ampere, cpu):
        assert re.search("no 8-bit float products", str(Gemm().unsupported(device, _point("fp8"))))
    assert Gemm().unsupported(hopper, _point("fp8")) is None
    ada = dataclasses.replace(hopper, capability=(8, 9))
    assert Gemm().unsupported(ada, _point("fp8")) is None
    assert "(9, 0) alone" in str(Gemm().unsupported(ada, _point("fp8_block", n=128, k=128)))


def test_what_does_not_fit_names_the_bytes(cpu: Device) -> None:
    with pytest.raises(Unsupported, match=r"gemm 1000000×1000000×1000000 bf16: [\d,]{17,} bytes are needed"):
        Gemm().prepare(cpu, _point("bf16", 10**6, 10**6, 10**6))
