"""Causal attention of whole sequences in training: the forward pass that keeps what the backward pass needs, and that.

The kernels are those of prefill without those that have no backward pass: FlashAttention 3 and 2 where installed, then
torch's cuDNN, flash and memory-efficient. The backward pass is autograd's own node of the output, called by hand: so it
runs on the current stream, and can be captured into a CUDA graph. It gives the gradients of queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from profiles.collect.operations.attention import all_reasons, kernels, prepared
from profiles.collect.operations.attention_problem import Kernel, Operands, Problem, Run
from profiles.collect.operations.engine_kernels import FlashInfer
from profiles.collect.operations.grids import FLOATS, points, training_attention_shapes
from profiles.collect.operations.work import ELEMENT_BYTES
from profiles.collect.points import Point, Prepared
from profiles.errors import Unsupported

if TYPE_CHECKING:
    from profiles.collect.devices import Device


class Trained:
    """``kernel`` as training calls it, forward or backward."""

    def __init__(self, kernel: Kernel, backward: bool) -> None:
        self.kernel, self.backward = kernel, backward
        self.name = kernel.name
        self.framework, self.heads_first, self.page_tokens = kernel.framework, kernel.heads_first, kernel.page_tokens

    def version(self) -> str:
        return self.kernel.version()

    def label(self, device: Device, problem: Problem) -> str:
        return self.kernel.label(device, problem)

    def reason(self, device: Device, problem: Problem) -> str | None:
        return self.kernel.reason(device, problem)

    def extra_bytes(self, device: Device, problem: Problem) -> int:
        """The output and its gradient, the gradients of the operands, and these once more in 32 bits while they are
        summed up."""
        gradients = problem.operand_bytes * (1 + 4 // ELEMENT_BYTES[problem.dtype])
        return self.kernel.extra_bytes(device, problem) * 2 + gradients * (problem.heads // problem.kv_heads)

    def build(self, device: Device, problem: Problem, operands: Operands) -> Run:
        with torch.enable_grad():
            leaves = (tensor.requires_grad_() for tensor in (operands.q, operands.k, operands.v))
            forward = self.kernel.build(device, problem, Operands(*leaves))
            if not self.backward:
                return forward
            output = forward()
        node = output.grad_fn
        if node is None:
            raise Unsupported(f"{self.name} has no backward pass", "another version of the library may have one")
        if not any(name in type(node).__name__ for name in ("ScaledDotProduct", "FlashAttn")):
            raise Unsupported(
                f"{self.name} is composed of other operations ({type(node).__name__})", "try another shape"
            )
        call: Any = getattr(node, "apply", node)  # Python's own nodes are not called themselves
        gradient = torch.randn_like(output)

        def run() -> torch.Tensor:
            with torch.no_grad():
                gradients = call(gradient)
            first: torch.Tensor = gradients[0] if isinstance(gradients, tuple) else gradients
            return first

        return run


class TrainingAttention:
    operation = "training_attention"

    def problem(self, point: Point) -> Problem:
        size = {name: int(value) for name, value in point.shape.items() if name != "kind"}
        query = size.pop("query_tokens")
        return Problem(**size, query_tokens=query, keys=query, window_tokens=0, dtype=point.dtype, kv_dtype=point.dtype)

    def kernels(self, device: Device, point: Point) -> tuple[Kernel, ...]:
        backward = point.shape["kind"] == "backward"
        every = kernels(device, self.problem(point))
        return tuple(Trained(kernel, backward) for kernel in every if not isinstance(kernel, FlashInfer))

    def unsupported(self, device: Device, point: Point) -> str | None:
        problem = self.problem(point)
        if problem.heads % problem.kv_heads:
            return f"{problem.heads} query heads cannot share {problem.kv_heads} key/value heads evenly"
        return all_reasons(device, problem, self.kernels(device, point))

    def prepare(self, device: Device, point: Point) -> Prepared:
        return prepared(device, point, self.problem(point), self.kernels(device, point))

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        dtypes = [dtype for dtype in precisions if dtype in FLOATS]
        for point in points(device, self.operation, training_attention_shapes(), dtypes):
            if self.unsupported(device, point) is None:
                yield point

    def close(self) -> None:
        """Nothing outlives a point."""
