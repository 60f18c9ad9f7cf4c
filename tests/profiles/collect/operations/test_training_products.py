"""Products and attention of training, against the same mathematics in 32 bits."""

from __future__ import annotations

from typing import Any

import pytest
from attention_cases import reference

from profiles.collect.devices import Device
from profiles.collect.operations import moe, training_linear
from profiles.collect.operations.attention import choose
from profiles.collect.operations.training_attention import TrainingAttention
from profiles.collect.operations.training_linear import TrainingExperts, TrainingLinear, linear_call, operands
from profiles.collect.operations.work import work
from profiles.collect.points import Point
from profiles.errors import Unsupported
from profiles.operation_tables import LINEAR_KINDS

torch = pytest.importorskip("torch")

LINEAR = {"tokens": 48, "in_features": 64, "out_features": 32}
EXPERTS = {"experts": 4, "rows": 16, "in_features": 64, "out_features": 32}
ATTENTION = {"batch": 2, "query_tokens": 24, "heads": 4, "kv_heads": 4, "head_dim": 16, "value_dim": 16}


def product(kind: str, a: Any, b: Any) -> Any:
    a, b = a.float(), b.float()
    return a @ b.T if kind == "forward" else a @ b if kind == "data_gradient" else a.T @ b


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 3e-2), ("fp32", 1e-4)])
def test_each_kind_is_its_product(cpu: Device, kind: str, dtype: str, tolerance: float) -> None:
    point = Point("training_linear", dtype, {"kind": kind, **LINEAR})
    if TrainingLinear().unsupported(cpu, point):
        assert (dtype, kind) == ("fp32", "weight_gradient_fp32")
        return
    a, b, out = operands(cpu, point, 48, 64, 32)
    kernel, run = linear_call(cpu, point, a, b, out)
    run()
    expected = product(kind, a, b)
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    assert ("+add" in kernel) == (kind == "weight_gradient_fp32")


def test_a_gradient_in_32_bits_is_added_up(cpu: Device) -> None:
    point = Point("training_linear", "bf16", {"kind": "weight_gradient_fp32", **LINEAR})
    a, b, out = operands(cpu, point, 48, 64, 32)
    _, run = linear_call(cpu, point, a, b, out)
    assert out.dtype == torch.float32
    run()
    once = out.clone()
    run()
    torch.testing.assert_close(out, 2 * once)


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "loop"])
def test_experts_are_each_experts_product(
    monkeypatch: pytest.MonkeyPatch, cpu: Device, kind: str, grouped: bool
) -> None:
    if not grouped:
        monkeypatch.setattr(moe, "_grouped_mm", None)
    point = Point("training_experts", "bf16", {"kind": kind, **EXPERTS})
    a, b, out = operands(cpu, point, 64, 64, 32, experts=4)
    if grouped:
        call = training_linear._grouped(cpu, point, a, b, out, rows=16)
        assert call is not None
        out.zero_()  # trying it out has added once
        result = call[1]()
    else:
        call = training_linear._looped(cpu, point, a, b, out, rows=16)
        call[1]()
        result = out
    slices = [slice(16 * expert, 16 * expert + 16) for expert in range(4)]
    if kind in ("forward", "data_gradient"):
        expected = torch.cat([product(kind, a[rows], b[expert]) for expert, rows in enumerate(slices)])
    else:
        expected = torch.stack([product(kind, a[rows], b[rows]) for rows in slices])
    torch.testing.assert_close(result.float(), expected, rtol=3e-2, atol=3e-2 * float(expected.abs().max()))
    assert call[0].startswith("grouped_mm" if grouped else "expert_loop")


@pytest.mark.parametrize(("dtype", "kv_heads"), [("fp32", 4), ("bf16", 4), ("fp32", 2)])
@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_attention_is_what_autograd_says(
    monkeypatch: pytest.MonkeyPatch, cpu: Device, dtype: str, kv_heads: int, kind: str
) -> None:
    benchmark = TrainingAttention()
    point = Point("training_attention", dtype, {"kind": kind, **ATTENTION, "kv_heads": kv_heads})
    problem, candidates = benchmark.problem(point), benchmark.kernels(cpu, point)
    seen: list[Any] = []
    randn_like = torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda like: seen.append(randn_like(like)) or seen[-1])
    _, held, run = choose(cpu, problem, candidates)
    if kind == "forward":
        result = run()
        assert result.requires_grad
        expected = reference(problem, held.q, held.k, held.v).transpose(1, 2)
        torch.testing.assert_close(result.float(), expected.float(), rtol=3e-2, atol=3e-2)
        return
    q, k, v = (t.detach().float().requires_grad_() for t in (held.q, held.k, held.v))
    (expected,) = torch.autograd.grad(reference(problem, q, k, v).transpose(1, 2), q, seen[-1].float())
    for _ in range(2):  # again and again, on the same saved tensors
        torch.testing.assert_close(run().float(), expected.transpose(1, 2), rtol=3e-2, atol=3e-2)


def test_backward_of_equal_widths_is_two_and_a_half_forwards() -> None:
    def flops(kind: str, **changes: int) -> float:
        return work(Point("training_attention", "bf16", {"kind": kind, **ATTENTION, **changes}))[0]

    assert flops("backward") == 2.5 * flops("forward")
    assert flops("backward", value_dim=8) < 2.7 * flops("forward", value_dim=8)


def test_every_kind_multiplies_as_much_and_32_bits_move_more() -> None:
    counted = {kind: work(Point("training_linear", "bf16", {"kind": kind, **LINEAR})) for kind in LINEAR_KINDS}
    assert len({flops for flops, _ in counted.values()}) == 1
    more = counted["weight_gradient_fp32"][1] - counted["weight_gradient"][1]
    assert more == 6 * 64 * 32  # read and written in 32 bits in place of written in 16
    one = work(Point("training_experts", "bf16", {"kind": "forward", **EXPERTS, "experts": 1}))
    four = work(Point("training_experts", "bf16", {"kind": "forward", **EXPERTS}))
    assert four == (4 * one[0], 4 * one[1])


@pytest.mark.parametrize("measured", [TrainingLinear(), TrainingExperts(), TrainingAttention()])
def test_kinds_of_a_shape_follow_each_other(measured: Any, hopper: Device) -> None:
    grid = list(measured.grid(hopper, ("bf16", "fp8")))
    assert len(grid) > 200
    first = [dict(point.shape) for point in grid[:2]]
    assert first[0].pop("kind") == "forward"
    assert first[1].pop("kind") != "forward"
    assert first[0] == first[1]


@pytest.mark.parametrize(
    ("dtype", "kind", "said"),
    [("fp8", "forward", "not in fp8"), ("fp32", "weight_gradient_fp32", "weight_gradient is its name")],
)
def test_what_is_not_measured_has_a_reason(hopper: Device, dtype: str, kind: str, said: str) -> None:
    point = Point("training_linear", dtype, {"kind": kind, **LINEAR})
    assert said in str(TrainingLinear().unsupported(hopper, point))


def test_uneven_heads_and_missing_memory_are_refused(cpu: Device) -> None:
    point = Point("training_attention", "fp32", {"kind": "forward", **ATTENTION, "heads": 6})
    assert "cannot share" in str(TrainingAttention().unsupported(cpu, point))
    point = Point("training_linear", "bf16", {"kind": "forward", **dict.fromkeys(LINEAR, 10**6)})
    with pytest.raises(Unsupported, match="bytes are needed"):
        TrainingLinear().prepare(cpu, point)


def test_flash_attention_has_its_python_node(monkeypatch: pytest.MonkeyPatch, cpu: Device) -> None:
    """A library whose node is Python's own is called through ``apply``."""

    class FlashAttnLike(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any) -> Any:
            return 3 * q

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return 3 * gradient

    from profiles.collect.operations.sdpa import Sdpa

    monkeypatch.setattr(Sdpa, "build", lambda self, device, problem, held: lambda: FlashAttnLike.apply(held.q))
    benchmark = TrainingAttention()
    point = Point("training_attention", "fp32", {"kind": "backward", **ATTENTION})
    _, held, run = choose(cpu, benchmark.problem(point), benchmark.kernels(cpu, point))
    assert run().shape == held.q.shape


def test_the_problem_is_a_whole_prompt() -> None:
    point = Point("training_attention", "bf16", {"kind": "backward", **ATTENTION})
    problem = TrainingAttention().problem(point)
    assert (problem.prefix_tokens, problem.window_tokens, problem.kv_dtype) == (0, 0, "bf16")
