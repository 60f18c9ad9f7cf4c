"""Rows that cannot be right are found beside their like, and those that are judged wrong do not answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from costmodels.kernels.cost_model import CostModel
from costmodels.operations.roofline import code
from profiles.columns import Columns, Texts
from profiles.exclusions import Rows, known_exclusions, listed_in
from profiles.hardware import find_gpu
from profiles.plausibility import Finding, findings
from profiles.store import shipped_pack

TOKENS = (1, 16, 1024, 4096)


def experts(framework: str, dtype: str, factor: float = 1.0, **split: int) -> Iterator[dict[str, object]]:
    """A curve that goes by the work of a GPU, ``factor`` times as long."""
    tp, ep = split.get("moe_tp", 1), split.get("moe_ep", 1)
    for tokens in TOKENS:
        yield {
            "framework": framework,
            "gpu": "H200",
            "dtype": dtype,
            "hidden": 4096,
            "intermediate": 1024,
            "top_k": 8,
            "experts": 128,
            "gated": 1,
            "routing": "balanced",
            "moe_tp": tp,
            "moe_ep": ep,
            "tokens": tokens,
            "latency_us": factor * (200 + tokens) / (tp * ep),
        }


def checked(*curves: Iterator[dict[str, object]]) -> list[Finding]:
    return findings("moe", pd.DataFrame([row for curve in curves for row in curve]))


def test_rows_that_agree_raise_no_doubt() -> None:
    plain = [experts("vllm", "bf16"), experts("vllm", "fp8", 0.6), experts("sglang", "bf16", 1.5)]
    assert checked(*plain, *(experts("vllm", "bf16", moe_ep=ep) for ep in (2, 4, 8))) == []
    assert findings("moe", pd.DataFrame()) == []
    assert findings("attention_decode", pd.DataFrame({"latency_us": [1.0]})) == []


def test_fewer_bytes_must_not_take_longer() -> None:
    (found,) = checked(experts("vllm", "bf16"), experts("vllm", "fp8", 2.2))
    assert (found.where["framework"], found.where["dtype"]) == ("vllm", "fp8")
    assert found.ratio == pytest.approx(2.2)
    assert found.rows == len(TOKENS)
    assert "moe: framework vllm, gpu H200, dtype fp8" in str(found)
    assert "by a factor of 2.2" in str(found)


def test_formats_of_weights_alone_may_take_longer_once_operations_bind() -> None:
    many = [row for row in experts("vllm", "int4", 3.0) if int(str(row["tokens"])) > 16]
    assert checked(experts("vllm", "bf16"), iter(many)) == []
    assert len(checked(experts("vllm", "bf16"), experts("vllm", "int4", 3.0))) == 1


def test_a_framework_far_behind_every_other_is_doubted() -> None:
    others = [experts("vllm", "bf16"), experts("sglang", "bf16", 1.4)]
    (found,) = checked(*others, experts("trtllm", "bf16", 5.6))
    assert found.where["framework"] == "trtllm"
    assert found.ratio == pytest.approx(4.0)


def test_a_split_that_does_less_work_than_those_beside_it_is_doubted() -> None:
    curves = [experts("trtllm", "bf16", 6.0 if ep == 4 else 1.0, moe_ep=ep) for ep in (1, 2, 4, 8)]
    (found,) = checked(*curves)
    assert (found.where["moe_tp"], found.where["moe_ep"]) == (1, 4)
    assert found.ratio == pytest.approx(6.0)


def columns_of(table: pd.DataFrame) -> Columns:
    return {
        str(name): column.to_numpy() if pd.api.types.is_numeric_dtype(column) else Texts.of(column)
        for name, column in table.items()
    }


def test_a_row_is_left_out_where_it_has_all_that_is_listed() -> None:
    table = columns_of(pd.DataFrame([*experts("trtllm", "bf16", moe_ep=4), *experts("trtllm", "bf16", moe_ep=8)]))
    rows = Rows.model_validate({"where": {"framework": "trtllm", "gpu": ["H200"], "dtype": "bf16"}, "splits": [[1, 4]]})
    assert rows.among(table).tolist() == [True] * 4 + [False] * 4
    other = Rows.model_validate({"where": {"framework": "trtllm", "hidden": 5120}})
    assert not other.among(table).any()


def test_what_is_listed_is_in_the_pack_and_does_not_answer() -> None:
    store = shipped_pack()
    for entry in known_exclusions():
        assert entry.store == store.manifest.name
        for rows in entry.rows:
            (framework,), gpus = rows.where["framework"], rows.where["gpu"]
            for gpu in map(str, gpus):
                splits = {"moe_tp", "moe_ep"} if rows.splits else set()
                columns = splits | {name for each in entry.rows for name in each.where}
                there = store.columns(entry.operation, sorted(columns), gpu=gpu, framework=str(framework))
                assert rows.among(there).any(), f"{rows.where} of {gpu} names no row"
                assert listed_in((entry,), there, str(framework), gpu)[rows.among(there)].all()


def test_another_framework_stands_in_where_nothing_is_left_and_the_notes_say_why() -> None:
    cost = CostModel(find_gpu("H200"), "vllm")
    question = {"dtype": "fp8", "routing": "balanced"}
    shape = {"tokens": 16, "hidden": 5120, "intermediate": 8192, "top_k": 1, "experts": 128, "num_gpus": 1, "gated": 1}
    codes = {name: code(name, value) for name, value in question.items()} | shape | {"moe_tp": 8, "moe_ep": 1}
    answer = cost.estimate("moe", {name: np.array([value]) for name, value in codes.items()})
    assert answer.value[0] < 200, "as long as its bytes take, not the 526 µs of the rows left out"
    assert any("measured under trtllm, standing in for vllm" in note for note in cost.notes)
    assert any("are left out: vLLM's experts in per-tensor fp8 take" in note for note in cost.notes)
