"""A family of operations: what one file of this folder declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from costmodels.operations.kernel import Kernel
from costmodels.operations.layers import LayerKind


@dataclass(frozen=True)
class OperationFamily:
    """``kernels`` that are measured and predicted, and the kinds of ``layers`` that are made of them."""

    name: str
    kernels: tuple[Kernel, ...]
    layers: tuple[LayerKind[Any], ...] = ()
