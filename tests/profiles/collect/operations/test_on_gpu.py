"""The same checks on a real GPU, with every library that is installed there. Skipped elsewhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from attention_cases import CASES, WINDOW, agrees, reference

from profiles.collect.devices import Device, find_device
from profiles.collect.operations.attention import choose, kernels
from profiles.collect.operations.attention_problem import Problem
from profiles.collect.operations.collective import KINDS, Collective
from profiles.collect.operations.gemm import Gemm
from profiles.collect.operations.moe import Moe, expert_call, make_layer
from profiles.collect.operations.training_attention import TrainingAttention
from profiles.collect.operations.training_linear import TrainingExperts, _grouped, _looped, linear_call, operands
from profiles.collect.points import Point, Settings
from profiles.collect.timing import measure
from profiles.errors import Unsupported
from profiles.operation_tables import LINEAR_KINDS

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def gpu() -> Device:
    return find_device("cuda", index=0)


# Kernels want heads of 64 at least, and 16-bit floats.
_PROBLEMS = {
    name: dataclasses.replace(problem, head_dim=64, value_dim=64, dtype="bf16", kv_dtype="bf16")
    for name, problem in {**CASES, "window": WINDOW}.items()
}
_NAMES = ("flash_attn_3", "flashinfer_paged", "flash_attn_2", "sdpa_cudnn", "sdpa_flash", "sdpa_efficient")


@pytest.mark.parametrize("problem", _PROBLEMS.values(), ids=_PROBLEMS)
@pytest.mark.parametrize("name", [*_NAMES, "aten_flash_window"])
def test_every_attention_kernel_is_right(gpu: Device, problem: Problem, name: str) -> None:
    kernel = next(kernel for kernel in kernels(gpu, problem) if kernel.name == name)
    if reason := kernel.reason(gpu, problem):
        pytest.skip(reason)
    _, operands, run = choose(gpu, problem, (kernel,))
    on_host = dataclasses.replace(operands, q=operands.q.cpu(), k=operands.k.cpu(), v=operands.v.cpu())
    agrees(problem, on_host, run().cpu())


@pytest.mark.parametrize("k", [128, 384, 512, 4096])  # blocks of 128 that are no multiple of 4 among them
@pytest.mark.parametrize(("dtype", "scales"), [("fp8", "tensor"), ("fp8", "row"), ("fp8_block", "tensor")])
def test_scaled_products_are_right(
    monkeypatch: pytest.MonkeyPatch, gpu: Device, dtype: str, scales: Any, k: int
) -> None:
    from profiles.collect.operations import gemm

    benchmark, point = Gemm(scales), Point("gemm", dtype, {"m": 64, "n": 256, "k": k})
    if reason := benchmark.unsupported(gpu, point):
        pytest.skip(reason)
    made: list[Any] = []
    normal = gemm.normal
    monkeypatch.setattr(gemm, "normal", lambda *a, **o: made.append(normal(*a, **o)) or made[-1])
    try:
        result = benchmark.prepare(gpu, point).run().float()
    except Unsupported as error:  # a torch that reads block scales wrongly refuses the right layout
        assert (dtype, k % 512 > 0) == ("fp8_block", True)
        pytest.skip(error.message)
    x, weights = (tensor.float() for tensor in made)
    torch.testing.assert_close(result, x @ weights.T, rtol=3e-2, atol=0.1)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp8"])
def test_experts_are_right(gpu: Device, dtype: str) -> None:
    shape = {"tokens": 200, "hidden": 256, "intermediate": 128, "top_k": 2, "experts": 8, "moe_tp": 1, "moe_ep": 2}
    point = Point("moe", dtype, {**shape, "gated": 1, "routing": "power_law_1.2"})
    if reason := Moe().unsupported(gpu, point):
        pytest.skip(reason)
    layer = make_layer(gpu, point)
    result = expert_call(gpu, dtype, layer)[1]().float()
    expected, start = [], 0
    for expert, load in enumerate(layer.loads):
        gate, up = (layer.x[start : start + load].float() @ layer.up[expert].float().T).chunk(2, dim=-1)
        inner = (torch.nn.functional.silu(gate) * up).to(layer.down.dtype).float()
        expected.append(inner @ layer.down[expert].float().T)
        start += load
    error = result[:start] - torch.cat(expected)  # of single values a rounding to 8 bits may flip, of all it may not
    assert error.norm() < 0.05 * torch.cat(expected).norm()


@pytest.mark.parametrize("kind", LINEAR_KINDS)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_products_of_training_are_right(gpu: Device, dtype: str, kind: str) -> None:
    linear = Point("training_linear", dtype, {"kind": kind, "tokens": 256, "in_features": 128, "out_features": 64})
    a, b, out = operands(gpu, linear, 256, 128, 64)
    call = linear_call(gpu, linear, a, b, out)
    out.zero_()
    call[1]()
    assert_product(kind, a, b, out)
    shape = {"kind": kind, "experts": 4, "rows": 64, "in_features": 128, "out_features": 64}
    experts = Point("training_experts", dtype, shape)
    a, b, out = operands(gpu, experts, 256, 128, 64, experts=4)
    grouped = _grouped(gpu, experts, a, b, out, rows=64)
    assert (grouped is None) == (dtype == "fp16")
    name, run = grouped or _looped(gpu, experts, a, b, out, rows=64)
    out.zero_()
    result = run() if grouped else (run(), out)[1]
    for expert in range(4):
        rows = slice(64 * expert, 64 * expert + 64)
        weights = b[rows] if kind.startswith("weight") else b[expert]
        assert_product(kind, a[rows], weights, result[expert] if kind.startswith("weight") else result[rows])
    timing = measure(gpu, TrainingExperts().prepare(gpu, experts), Settings())
    assert timing.method == "cuda_graph", name


def assert_product(kind: str, a: Any, b: Any, result: Any) -> None:
    a, b = a.float(), b.float()
    expected = a @ b.T if kind == "forward" else a @ b if kind == "data_gradient" else a.T @ b
    assert (result.float() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(("heads", "kv_heads", "qk", "value"), [(8, 8, 64, 64), (8, 2, 128, 128), (4, 4, 192, 128)])
@pytest.mark.parametrize("name", ["flash_attn_3", "flash_attn_2", "sdpa_cudnn", "sdpa_flash", "sdpa_efficient"])
def test_the_backward_pass_of_attention_is_right(
    monkeypatch: pytest.MonkeyPatch, gpu: Device, name: str, heads: int, kv_heads: int, qk: int, value: int
) -> None:
    sizes = {"batch": 2, "query_tokens": 256, "heads": heads, "kv_heads": kv_heads, "head_dim": qk, "value_dim": value}
    benchmark, point = TrainingAttention(), Point("training_attention", "bf16", {"kind": "backward", **sizes})
    problem = benchmark.problem(point)
    kernel = next(kernel for kernel in benchmark.kernels(gpu, point) if kernel.name == name)
    if reason := kernel.reason(gpu, problem):
        pytest.skip(reason)
    drawn: list[Any] = []
    randn_like = torch.randn_like
    monkeypatch.setattr(torch, "randn_like", lambda like: drawn.append(randn_like(like)) or drawn[-1])
    try:
        _, held, run = choose(gpu, problem, (kernel,))
    except Unsupported as error:
        pytest.skip(error.message)
    q, k, v = (t.detach().float().cpu().requires_grad_() for t in (held.q, held.k, held.v))
    output = reference(problem, q, k, v)
    gradient = drawn[-1].float().cpu()
    (expected,) = torch.autograd.grad(output if gradient.shape == output.shape else output.transpose(1, 2), q, gradient)
    result = run().float().cpu()
    result = result if result.shape == expected.shape else result.transpose(1, 2)
    assert (result - expected).norm() < 0.02 * expected.norm()
    assert measure(gpu, benchmark.prepare(gpu, point), Settings()).method == "cuda_graph"


def test_prepared_calls_are_captured_into_graphs(gpu: Device) -> None:
    timing = measure(gpu, Gemm().prepare(gpu, Point("gemm", "bf16", {"m": 64, "n": 4096, "k": 4096})), Settings())
    assert timing.method == "cuda_graph"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_collectives_over_nccl(gpu: Device, kind: str) -> None:
    benchmark = Collective()
    try:
        prepared = benchmark.prepare(gpu, Point("collective", "bf16", {"kind": kind, "message_bytes": 1 << 20}, 2))
        assert prepared.timed is not None
        assert prepared.timed(Settings()).median_us > 0
    finally:
        benchmark.close()
