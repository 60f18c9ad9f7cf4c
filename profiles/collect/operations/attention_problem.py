"""An attention call independent of who computes it: its sizes, its operands, and what a kernel has to declare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from profiles.collect.operations.tensors import normal, require
from profiles.collect.operations.work import ELEMENT_BYTES

if TYPE_CHECKING:
    from profiles.collect.devices import Device


@dataclass(frozen=True)
class Problem:
    """Causal attention of the last ``query_tokens`` of ``keys`` tokens, for ``batch`` sequences.

    Query i (1 = first) sees key j where j ≤ keys - query_tokens + i, and no further back than ``window_tokens`` keys,
    itself included; 0: no limit. A window that reaches over all keys is no window: give it as 0.
    """

    batch: int
    query_tokens: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window_tokens: int
    dtype: str
    kv_dtype: str

    @property
    def prefix_tokens(self) -> int:
        return self.keys - self.query_tokens

    @property
    def decode(self) -> bool:
        return self.query_tokens == 1

    @property
    def kv_bytes(self) -> int:
        width = self.head_dim + self.value_dim
        return self.batch * self.keys * self.kv_heads * width * ELEMENT_BYTES[self.kv_dtype]

    @property
    def operand_bytes(self) -> int:
        """Queries, KV cache and output."""
        queries = self.batch * self.query_tokens * self.heads * (self.head_dim + self.value_dim)
        return self.kv_bytes + queries * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Operands:
    """q [batch, query_tokens, heads, head_dim], k and v [batch, ≥ keys, kv_heads, dim]: the axes in this order,
    whichever comes first in memory. Keys past ``Problem.keys`` fill the last page and are not attended to."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


Run = Callable[[], torch.Tensor]


class Kernel(Protocol):
    """One library path for attention.

    Attributes:
        name: the library path; :meth:`label` adds how it is used here.
        framework: of the row's column.
        heads_first: the KV cache lies [batch, kv_heads, tokens, dim] in memory, not [batch, tokens, kv_heads, dim].
        page_tokens: the cache is padded to a multiple of this.
    """

    name: str
    framework: str
    heads_first: bool
    page_tokens: int

    def label(self, device: Device, problem: Problem) -> str:
        """What the row's ``kernel`` column says: the name, and what is not as an engine would do it."""
        ...

    def reason(self, device: Device, problem: Problem) -> str | None:
        """Why it cannot compute ``problem`` on ``device``, or None. Allocates nothing."""
        ...

    def extra_bytes(self, device: Device, problem: Problem) -> int:
        """Memory beside the operands."""
        ...

    def build(self, device: Device, problem: Problem, operands: Operands) -> Run:
        """The call; its result is the output [batch, query_tokens, heads, value_dim] or any view of it."""
        ...

    def version(self) -> str: ...


def allocate(device: Device, problem: Problem, heads_first: bool, page_tokens: int, extra_bytes: int) -> Operands:
    """Random operands in the layout that a kernel wants.

    Raises:
        Unsupported: they would not fit; the message names the bytes.
    """
    what = (
        f"attention of {problem.batch} × {problem.query_tokens:,} queries over {problem.keys:,} tokens "
        f"(KV cache {problem.kv_bytes:,} bytes)"
    )
    needed = problem.operand_bytes + extra_bytes
    if problem.kv_dtype.startswith("fp8"):
        needed += problem.kv_bytes  # k or v in bf16 before it is rounded
    require(device, needed, what)
    keys = -(-problem.keys // page_tokens) * page_tokens

    def tensor(dtype: str, tokens: int, heads: int, dim: int) -> torch.Tensor:
        if heads_first:
            return normal(device, dtype, problem.batch, heads, tokens, dim).transpose(1, 2)
        return normal(device, dtype, problem.batch, tokens, heads, dim)

    return Operands(
        tensor(problem.dtype, problem.query_tokens, problem.heads, problem.head_dim),
        tensor(problem.kv_dtype, keys, problem.kv_heads, problem.head_dim),
        tensor(problem.kv_dtype, keys, problem.kv_heads, problem.value_dim),
    )
