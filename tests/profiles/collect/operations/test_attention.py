"""Every attention path computes what the row says, against a masked softmax in fp32."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from attention_cases import CASES, WINDOW, agrees, reference

from profiles.collect.devices import Device
from profiles.collect.operations import mla
from profiles.collect.operations.attention import Attention, choose, kernels
from profiles.collect.operations.attention_problem import Kernel, Operands, Problem, allocate
from profiles.collect.operations.engine_kernels import FlashAttention, FlashInfer, library
from profiles.collect.operations.mla import FlashInferMla, Mla, MlaBmm
from profiles.collect.operations.sdpa import HAS_GQA, Sdpa
from profiles.collect.points import Point
from profiles.errors import Unsupported

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("problem", CASES.values(), ids=CASES)
def test_torchs_attention_on_a_cpu_is_right(cpu: Device, problem: Problem) -> None:
    kernel, operands, run = choose(cpu, problem, kernels(cpu, problem))
    agrees(problem, operands, run())
    assert kernel.name == ("sdpa_math" if problem.value_dim != problem.head_dim else "sdpa_flash")


def test_a_window_over_all_keys_is_no_window() -> None:
    def window(tokens: int) -> int:
        shape = {"batch": 1, "query_tokens": 4, "prefix_tokens": 4, "heads": 2, "kv_heads": 2, "head_dim": 16}
        point = Point("attention_prefill", "bf16", {**shape, "window_tokens": tokens, "kv_dtype": "bf16"})
        return Attention(decode=False).problem(point).window_tokens

    assert (window(8), window(7)) == (0, 7)


def _prefill(**changes: int | str) -> Point:
    shape: dict[str, int | str] = {"batch": 2, "query_tokens": 8, "prefix_tokens": 0, "heads": 8, "kv_heads": 2}
    return Point(
        "attention_prefill",
        "bf16",
        {**shape, "head_dim": 64, "window_tokens": 0, "kv_dtype": "bf16", **changes},
    )


def test_the_kernels_name_says_what_ran_and_how(cpu: Device) -> None:
    prefill = Attention(decode=False)
    assert prefill.prepare(cpu, _prefill(kv_heads=8)).kernel == "sdpa_flash"
    assert prefill.prepare(cpu, _prefill(kv_heads=8, prefix_tokens=32)).kernel == "sdpa_flash_mask"
    grouped = "sdpa_flash" if HAS_GQA else "sdpa_flash_expanded_kv"
    assert prefill.prepare(cpu, _prefill()).kernel == grouped


def test_a_window_is_not_done_by_masking(cpu: Device) -> None:
    reason = Attention(decode=False).unsupported(cpu, _prefill(prefix_tokens=32, window_tokens=16))
    assert reason == "SDPA has no sliding window: a mask would do the full work"


def test_a_cache_of_another_precision_is_not_replaced(cpu: Device, hopper: Device) -> None:
    assert "not fp8" in str(Attention(decode=False).unsupported(cpu, _prefill(kv_dtype="fp8")))
    assert "flashinfer is not installed" in str(Attention(decode=False).unsupported(hopper, _prefill(kv_dtype="fp8")))


def test_heads_that_cannot_share_are_refused(cpu: Device) -> None:
    assert "8 query heads cannot share 3" in str(Attention(decode=False).unsupported(cpu, _prefill(kv_heads=3)))


def test_a_cache_that_does_not_fit_is_refused_before_it_is_made(cpu: Device) -> None:
    with pytest.raises(Unsupported, match=r"KV cache 13,743,895,347,200 bytes\): [\d,]+ bytes are needed"):
        Attention(decode=False).prepare(cpu, _prefill(batch=200, prefix_tokens=2**27 - 8))


def test_kernels_are_tried_in_order_and_all_reasons_told(cpu: Device) -> None:
    class Broken(Sdpa):
        name = "broken"

        def __init__(self) -> None:
            super().__init__("math")
            self.name = "broken"

        def build(self, device: Device, problem: Problem, operands: Operands) -> Any:
            raise TypeError("got an unexpected keyword argument 'softcap'\nand more")

    problem = CASES["grouped heads"]
    kernel, _, _ = choose(cpu, problem, (Broken(), Sdpa("flash")))
    assert kernel.name == "sdpa_flash"
    with pytest.raises(Unsupported, match=r"broken: TypeError: got an unexpected keyword argument 'softcap'$"):
        choose(cpu, problem, (Broken(),))


def test_gpus_prefer_engines_kernels_then_torchs_best(hopper: Device, ampere: Device) -> None:
    def names(device: Device, problem: Problem) -> list[str]:
        return [kernel.name for kernel in kernels(device, problem)]

    prefill, decode = CASES["whole prompt"], CASES["decode"]
    assert names(hopper, prefill)[:5] == [
        "flash_attn_3",
        "flashinfer_paged",
        "flash_attn_2",
        "sdpa_cudnn",
        "sdpa_flash",
    ]
    assert names(hopper, decode)[3] == "sdpa_flash"
    assert names(ampere, prefill)[3] == "sdpa_flash"
    assert "sdpa_math" not in names(ampere, prefill)


def test_a_missing_library_is_a_reason(hopper: Device) -> None:
    problem = dataclasses.replace(CASES["half precision"], head_dim=64, value_dim=64)
    assert str(FlashInfer().reason(hopper, problem)).startswith("flashinfer is not installed")
    assert str(FlashAttention(2).reason(hopper, problem)).startswith("flash_attn is not installed")


# ------------------------------------------------------------------ the engines' libraries, by stand-ins of their API


def _attend(q: Any, k: Any, v: Any, window: int, causal: bool) -> Any:
    """[tokens, heads, dim] of one sequence."""
    problem = Problem(
        1, len(q), len(k), q.shape[1], k.shape[1], q.shape[2], v.shape[2], max(window + 1, 0), "fp32", "fp32"
    )
    assert causal or len(q) == 1
    return reference(problem, q[None], k[None], v[None])[0]


class _Paged:
    """FlashInfer's wrappers as documented: plan(page table, sizes), run(query, (key pages, value pages))."""

    def __init__(self, workspace: Any, kv_layout: str, *, use_tensor_cores: bool = False) -> None:
        assert workspace.dtype == torch.uint8
        assert kv_layout == "NHD"

    def _sequences(self, starts: Any, numbers: Any, last: Any, page: int) -> Iterator[tuple[Any, int]]:
        for index in range(len(last)):
            pages = numbers[starts[index] : starts[index + 1]]
            yield pages, (len(pages) - 1) * page + int(last[index])

    def run(self, q: Any, cache: Any) -> Any:
        starts, numbers, last, (heads, kv_heads, dim, page), options = self._planned
        queries = options.get("queries", torch.arange(len(last) + 1))
        outputs = []
        for index, (pages, length) in enumerate(self._sequences(starts, numbers, last, page)):
            k, v = (part.float()[pages.long()].reshape(-1, kv_heads, dim)[:length] for part in cache)
            mine = q[queries[index] : queries[index + 1]]
            outputs.append(_attend(mine, k, v, options["window_left"], causal=True))
        assert q.shape[1:] == (heads, dim)
        assert cache[0].dtype == options["kv_data_type"]
        return torch.cat(outputs)


class _PagedDecode(_Paged):
    def plan(self, starts: Any, numbers: Any, last: Any, *sizes: int, **options: Any) -> None:
        self._planned = (starts, numbers, last, sizes, options)


class _PagedPrefill(_Paged):
    def plan(self, queries: Any, starts: Any, numbers: Any, last: Any, *sizes: int, **options: Any) -> None:
        assert options.pop("causal")
        self._planned = (starts, numbers, last, sizes, {**options, "queries": queries})


class _LatentDecode:
    def __init__(self, workspace: Any) -> None: ...

    def plan(
        self, queries, starts, numbers, lengths, heads, latent, rope, page, causal, scale, q_type, kv_type
    ) -> None:  # type: ignore[no-untyped-def]
        assert (latent, rope, causal) == (512, 64, False)
        assert scale == pytest.approx(192**-0.5)
        self._planned = starts, numbers, lengths, scale

    def run(self, latent: Any, rope: Any, keys: Any, key_rope: Any) -> Any:
        starts, numbers, lengths, scale = self._planned
        outputs = []
        for index, length in enumerate(lengths):
            pages = numbers[starts[index] : starts[index + 1]].long()
            c, r = (part[pages].flatten(0, 1)[:length].float() for part in (keys, key_rope))
            scores = (latent[index].float() @ c.T + rope[index].float() @ r.T) * scale
            outputs.append(scores.softmax(-1) @ c)
        return torch.stack(outputs)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand-ins for flashinfer and flash_attn that compute in fp32."""
    infer: Any = types.ModuleType("flashinfer")
    infer.BatchDecodeWithPagedKVCacheWrapper = _PagedDecode
    infer.BatchPrefillWithPagedKVCacheWrapper = _PagedPrefill
    infer.__version__ = "0.0-stand-in"
    latent: Any = types.ModuleType("flashinfer.mla")
    latent.BatchMLAPagedAttentionWrapper = _LatentDecode
    flash: Any = types.ModuleType("flash_attn")
    flash.__version__ = "0.0-stand-in"
    flash.flash_attn_func = lambda q, k, v, causal, window_size: torch.stack(
        [_attend(*each, window_size[0], causal) for each in zip(q, k, v, strict=True)]
    )

    def with_cache(q: Any, k: Any, v: Any, cache_seqlens: Any, causal: bool, window_size: Any) -> Any:
        each = zip(q, k, v, cache_seqlens, strict=True)
        return torch.stack([_attend(a, b[:n], c[:n], window_size[0], causal) for a, b, c, n in each])

    flash.flash_attn_with_kvcache = with_cache
    for module in (infer, latent, flash):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize("problem", [*CASES.values(), WINDOW], ids=[*CASES, "window"])
@pytest.mark.parametrize("kernel", [FlashInfer(), FlashAttention(2)], ids=lambda kernel: kernel.name)
def test_engines_kernels_are_called_as_documented(cpu: Device, kernel: Kernel, problem: Problem) -> None:
    capable = dataclasses.replace(cpu, capability=(9, 0))
    problem = dataclasses.replace(problem, dtype="bf16", kv_dtype="bf16")
    if kernel.reason(capable, problem) is not None:
        assert problem.value_dim != problem.head_dim
        return
    _, operands, run = choose(capable, problem, (kernel,))
    agrees(problem, operands, run())


@pytest.mark.usefixtures("engines")
def test_flashinfer_reads_a_cache_in_fp8(cpu: Device) -> None:
    capable = dataclasses.replace(cpu, capability=(9, 0))
    problem = dataclasses.replace(CASES["decode, grouped heads"], dtype="bf16", kv_dtype="fp8")
    _, operands, run = choose(capable, problem, (FlashInfer(),))
    assert operands.k.dtype == torch.float8_e4m3fn
    agrees(problem, operands, run())


@pytest.mark.usefixtures("engines")
def test_latent_decode_is_attention_over_the_shared_latent(cpu: Device) -> None:
    capable = dataclasses.replace(cpu, capability=(9, 0))
    point = Point("mla_decode", "bf16", {"batch": 2, "context_tokens": 21, "heads": 4, "kv_dtype": "bf16"})
    problem = Mla(decode=True).problem(point)
    _, operands, run = choose(capable, problem, (FlashInferMla(),))
    keys = operands.k[:, :21, 0].float()
    scores = torch.einsum("bhd,bjd->bhj", operands.q[:, 0].float(), keys) / 192**0.5
    expected = scores.softmax(-1) @ keys[..., :512]
    torch.testing.assert_close(run()[:, 0].float(), expected, rtol=3e-2, atol=3e-2)


def test_latent_decode_without_flashinfer_has_a_reason(hopper: Device) -> None:
    point = Point("mla_decode", "bf16", {"batch": 2, "context_tokens": 21, "heads": 4, "kv_dtype": "bf16"})
    assert "flashinfer.mla is not installed" in str(Mla(decode=True).unsupported(hopper, point))


def test_latent_prefill_is_ordinary_attention_192_and_128_wide(cpu: Device) -> None:
    shape = {"batch": 1, "query_tokens": 5, "prefix_tokens": 3, "heads": 2, "kv_dtype": "fp32"}
    benchmark = Mla(decode=False)
    problem = benchmark.problem(Point("mla_prefill", "fp32", shape))
    assert (problem.head_dim, problem.value_dim, problem.kv_heads) == (192, 128, 2)
    assert benchmark.prepare(cpu, Point("mla_prefill", "fp32", shape)).run().shape[-1] == 128


@pytest.mark.parametrize(("kind", "width"), [("pre", 512), ("post", 128)])
def test_the_latents_product_is_one_a_head(monkeypatch: pytest.MonkeyPatch, cpu: Device, kind: str, width: int) -> None:
    made: list[Any] = []
    normal = mla.normal
    monkeypatch.setattr(mla, "normal", lambda *a, **o: made.append(normal(*a, **o)) or made[-1])
    result = MlaBmm().prepare(cpu, Point("mla_bmm", "fp32", {"kind": kind, "tokens": 5, "heads": 3})).run()
    x, weights = made
    torch.testing.assert_close(result, torch.einsum("thi,hio->hto", x, weights), rtol=1e-4, atol=1e-4)
    assert result.shape == (3, 5, width)


def test_operands_are_laid_out_as_asked(cpu: Device) -> None:
    problem = CASES["decode, grouped heads"]
    operands = allocate(cpu, problem, heads_first=True, page_tokens=1, extra_bytes=0)
    assert operands.k.shape == (3, 40, 2, 16)
    assert operands.k.transpose(1, 2).is_contiguous()
    paged = allocate(cpu, problem, heads_first=False, page_tokens=16, extra_bytes=0)
    assert paged.k.shape == (3, 48, 2, 16)
