"""Grouped products of the routed experts, against one plain product an expert."""

from __future__ import annotations

from typing import Any

import pytest

from profiles.collect.devices import Device
from profiles.collect.operations import moe
from profiles.collect.operations.moe import Layer, Moe, expert_call, make_layer
from profiles.collect.points import Point
from profiles.errors import Unsupported

torch = pytest.importorskip("torch")


def _point(dtype: str = "bf16", **changes: int | str) -> Point:
    shape: dict[str, int | str] = {
        "tokens": 40, "hidden": 64, "intermediate": 32, "top_k": 2, "experts": 8, "moe_tp": 1, "moe_ep": 2, "gated": 1,
        "routing": "power_law_1.2",
    }  # fmt: skip
    return Point("moe", dtype, {**shape, **changes})


def _reference(layer: Layer) -> Any:
    outputs, start = [], 0
    for expert, load in enumerate(layer.loads):
        x = layer.x[start : start + load].float()
        inner = x @ layer.up[expert].float().T
        width = layer.down.shape[-1]
        if layer.gated:
            inner = torch.nn.functional.silu(inner[:, :width]) * inner[:, width:]
        else:
            inner = torch.nn.functional.silu(inner)
        outputs.append(inner @ layer.down[expert].float().T)
        start += load
    return torch.cat(outputs)


@pytest.mark.parametrize("gated", [0, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 5e-2), ("fp32", 1e-4)])
@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "loop"])
def test_skewed_experts_are_computed_right(
    monkeypatch: pytest.MonkeyPatch, cpu: Device, dtype: str, tolerance: float, gated: int, grouped: bool
) -> None:
    if not grouped:
        monkeypatch.setattr(moe, "_grouped_mm", None)
    layer = make_layer(cpu, _point(dtype, gated=gated))
    assert max(layer.loads) > 2 * min(layer.loads)
    kernel, run = expert_call(cpu, dtype, layer)
    torch.testing.assert_close(run().float(), _reference(layer), rtol=tolerance, atol=tolerance)
    if not grouped:
        assert kernel == "expert_loop"


def test_experts_without_tokens_are_passed_over(monkeypatch: pytest.MonkeyPatch, cpu: Device) -> None:
    layer = make_layer(cpu, _point(tokens=1, moe_ep=1))
    assert layer.loads.count(0) == 6
    for grouped in (moe._grouped_mm, None):
        monkeypatch.setattr(moe, "_grouped_mm", grouped)
        _, run = expert_call(cpu, "bf16", layer)
        torch.testing.assert_close(run().float(), _reference(layer), rtol=5e-2, atol=5e-2)


def test_a_refused_grouped_product_falls_back_to_the_loop_and_says_so(
    monkeypatch: pytest.MonkeyPatch, cpu: Device
) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise RuntimeError("torch._grouped_mm is only supported on CUDA devices with compute capability = 9.0")

    monkeypatch.setattr(moe, "_grouped_mm", refuses)
    assert Moe().prepare(cpu, _point()).kernel == "expert_loop"


def test_the_tensor_split_narrows_each_expert(cpu: Device) -> None:
    layer = make_layer(cpu, _point(moe_tp=2, moe_ep=1, routing="balanced"))
    assert layer.up.shape == (8, 2 * 16, 64)
    assert layer.down.shape == (8, 64, 16)
    assert layer.loads == [10] * 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": 6, "moe_ep": 4}, "6 experts cannot be shared out evenly"),
        ({"moe_tp": 3}, "intermediate=32 cannot be split evenly"),
        ({"dtype": "int4"}, "no grouped product in int4"),
        ({"dtype": "fp8"}, "no grouped 8-bit float products"),
    ],
)
def test_what_cannot_be_measured_has_a_reason(cpu: Device, changes: dict[str, Any], said: str) -> None:
    assert said in str(Moe().unsupported(cpu, _point(**changes)))


def test_weights_that_do_not_fit_are_refused_with_their_bytes(cpu: Device) -> None:
    with pytest.raises(Unsupported, match=r"8 experts, 1000000 × 1000000 \([\d,]+ bytes\)"):
        Moe().prepare(cpu, _point(hidden=10**6, intermediate=10**6, moe_ep=1))
