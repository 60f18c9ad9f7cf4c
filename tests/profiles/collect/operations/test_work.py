"""The harness's formulas are the roofline's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.operations.registry import families
from costmodels.operations.roofline import CODES, code
from profiles.collect.operations.work import work
from profiles.collect.points import Point

_small = st.integers(1, 300)
_float = st.sampled_from(["bf16", "fp16", "fp32"])
_attention = {
    "batch": _small,
    "heads": st.sampled_from([8, 32]),
    "kv_heads": st.sampled_from([1, 8]),
    "head_dim": st.sampled_from([64, 128]),
    "window_tokens": st.one_of(st.just(0), _small),
    "kv_dtype": st.sampled_from(["bf16", "fp8"]),
}
_prefill = {"query_tokens": _small, "prefix_tokens": st.integers(0, 300)}
_mla = {"batch": _small, "heads": _small, "kv_dtype": st.sampled_from(["bf16", "fp8"])}
_SHAPES = {
    "gemm": {"m": _small, "n": _small, "k": _small},
    "attention_prefill": {**_attention, **_prefill},
    "attention_decode": {**_attention, "context_tokens": _small},
    "mla_prefill": {**_mla, **_prefill},
    "mla_decode": {**_mla, "context_tokens": _small},
    "mla_bmm": {"kind": st.sampled_from(["pre", "post"]), "tokens": _small, "heads": _small},
    "moe": {
        "tokens": _small,
        "hidden": _small,
        "intermediate": st.sampled_from([64, 100]),
        "top_k": st.integers(1, 8),
        "experts": st.sampled_from([8, 64]),
        "moe_tp": st.sampled_from([1, 2, 4]),
        "moe_ep": st.sampled_from([1, 2, 8]),
        "gated": st.integers(0, 1),
        "routing": st.sampled_from(["balanced", "power_law_1.2"]),
    },
    "collective": {"kind": st.sampled_from(["all_reduce", "all_to_all"]), "message_bytes": _small},
}


@pytest.mark.parametrize("operation", _SHAPES)
@given(data=st.data())
def test_flops_and_bytes_equal_the_rooflines(operation: str, data: st.DataObject) -> None:
    shape = data.draw(st.fixed_dictionaries(_SHAPES[operation]))
    dtype = data.draw(_float)
    columns = {
        name: np.array([code(name, value) if name in CODES else value])
        for name, value in {**shape, "dtype": dtype, "num_gpus": 2}.items()
    }
    expected = families().kernel(operation).work(columns)
    flops, moved_bytes = work(Point(operation, dtype, shape, num_gpus=2))
    assert flops == pytest.approx(expected.flops[0], rel=1e-12)
    assert moved_bytes == pytest.approx(expected.memory_bytes[0], rel=1e-12)


def test_a_copy_within_a_device_moves_its_bytes_twice() -> None:
    shape = {"kind": "device_to_device", "copied_bytes": 10}
    assert work(Point("memcpy", "int8", shape)) == (0.0, 20.0)
    assert work(Point("memcpy", "int8", {**shape, "kind": "host_to_device"})) == (0.0, 10.0)
