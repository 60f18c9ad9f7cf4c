"""Attention problems and what their answer is: a masked softmax in fp32."""

from __future__ import annotations

from typing import Any

import pytest

from profiles.collect.operations.attention_problem import Operands, Problem

torch = pytest.importorskip("torch")

CASES = {
    "whole prompt": Problem(2, 12, 12, 4, 4, 16, 16, 0, "fp32", "fp32"),
    "grouped heads": Problem(2, 12, 12, 8, 2, 16, 16, 0, "fp32", "fp32"),
    "prefix": Problem(2, 5, 33, 4, 4, 16, 16, 0, "fp32", "fp32"),
    "prefix, grouped heads": Problem(1, 5, 33, 8, 2, 16, 16, 0, "fp32", "fp32"),
    "decode": Problem(3, 1, 40, 4, 4, 16, 16, 0, "fp32", "fp32"),
    "decode, grouped heads": Problem(3, 1, 40, 8, 2, 16, 16, 0, "fp32", "fp32"),
    "decode, window": Problem(3, 1, 40, 8, 2, 16, 16, 7, "fp32", "fp32"),
    "values narrower": Problem(1, 6, 10, 4, 4, 24, 16, 0, "fp32", "fp32"),
    "half precision": Problem(2, 12, 20, 8, 2, 16, 16, 0, "bf16", "bf16"),
}
WINDOW = Problem(2, 6, 30, 8, 2, 16, 16, 9, "bf16", "bf16")


def reference(problem: Problem, q: Any, k: Any, v: Any) -> Any:
    """[batch, query_tokens, heads, value_dim] in fp32."""
    group = problem.heads // problem.kv_heads
    q = q.float()
    k, v = (t[:, : problem.keys].float().repeat_interleave(group, dim=2) for t in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / problem.head_dim**0.5
    at = torch.arange(problem.query_tokens)[:, None] + problem.prefix_tokens
    key = torch.arange(problem.keys)[None, :]
    hidden = key > at
    if problem.window_tokens:
        hidden = hidden | (key <= at - problem.window_tokens)
    return torch.einsum("bhij,bjhd->bihd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def agrees(problem: Problem, operands: Operands, result: Any) -> None:
    expected = reference(problem, operands.q, operands.k, operands.v)
    if result.shape != expected.shape:  # heads first, or a group's heads stacked as queries
        result = result.reshape(problem.batch, problem.heads, problem.query_tokens, -1).transpose(1, 2)
    tolerance = 1e-4 if problem.kv_dtype == "fp32" else 3e-2
    torch.testing.assert_close(result.float(), expected, rtol=tolerance, atol=tolerance)
