"""The families of operations, and everything that lists them.

A new family is a file of this folder with its ``FAMILY``, a table in :mod:`profiles.operation_tables` for what it has
measured, and the classes of :mod:`costmodels.models.architecture` whose layers it serves; it is named in
:data:`SHIPPED` below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations import (
    absent,
    attention,
    block_sparse,
    collective,
    compressed,
    encoder,
    expert_exchange,
    gemm,
    hyper,
    kimi_delta,
    latent,
    linear,
    moe,
    short_conv,
    sparse,
    state_space,
)
from costmodels.operations.family import OperationFamily
from costmodels.operations.kernel import Kernel
from costmodels.operations.layers import AttentionKind, FeedForwardKind, LayerKind, Rule
from profiles.errors import UnknownName, Unsupported


class Families:
    """Families together.

    Attributes:
        members: the families, in the order in which a step sums them.
        kernels: by operation.
        parts: by part of a step, the operations that layers ask for, in order.

    Raises:
        ValueError: an operation is in two families, or a kernel's description does not fit its table.
    """

    def __init__(self, members: Iterable[OperationFamily]) -> None:
        self.members = tuple(members)
        self.kernels: dict[str, Kernel] = {}
        for family in self.members:
            for kernel in family.kernels:
                if kernel.name in self.kernels:
                    raise ValueError(f"family {family.name}: operation {kernel.name} is in another family too")
                wrong = kernel.missing()
                if wrong:
                    raise ValueError(f"family {family.name}: {'; '.join(wrong)}")
                self.kernels[kernel.name] = kernel
        self.parts = self._parts()
        self.layers: tuple[LayerKind[Any], ...] = tuple(kind for family in self.members for kind in family.layers)

    def extended(self, *more: OperationFamily) -> Families:
        """These families and more."""
        return Families((*self.members, *more))

    def kernel(self, operation: str) -> Kernel:
        """How ``operation`` is modelled.

        Raises:
            UnknownName: it is not.
        """
        if operation not in self.kernels:
            raise UnknownName("operation", operation, self.kernels)
        return self.kernels[operation]

    def _parts(self) -> dict[str, tuple[str, ...]]:
        out: dict[str, tuple[str, ...]] = {}
        for kernel in self.kernels.values():
            if kernel.part != "communication":
                out[kernel.part] = (*out.get(kernel.part, ()), kernel.name)
        return out

    def attention(self, layer: object) -> AttentionKind[Any]:
        """The kind of an attention layer; raises as :meth:`_kind`."""
        kind = self._kind(layer)
        if not isinstance(kind, AttentionKind):
            raise Unsupported(*_unserved(layer, "attention"))
        return kind

    def feed_forward(self, layer: object) -> FeedForwardKind[Any]:
        """The kind of a feed-forward layer; raises as :meth:`_kind`."""
        kind = self._kind(layer)
        if not isinstance(kind, FeedForwardKind):
            raise Unsupported(*_unserved(layer, "feed-forward"))
        return kind

    def _kind(self, layer: object) -> LayerKind[Any]:
        """Raises Unsupported where no family serves ``layer``, ValueError where two do."""
        kinds = [kind for kind in self.layers if kind.serves(layer)]
        if not kinds:
            raise Unsupported(*_unserved(layer, "layer"))
        if len(kinds) > 1:
            names = " and ".join(type(kind).__name__ for kind in kinds)
            raise ValueError(f"{type(layer).__name__} is served twice, by {names}")
        return kinds[0]

    def rules(self, model: Architecture, precision: Precision) -> Iterator[Rule]:
        """What must divide for engines to split ``model``, layer group by layer group."""
        for group in model.layer_groups:
            local = precision.within(group)
            yield from self.attention(group.attention).rules(group.attention, local)
            yield from self.feed_forward(group.feed_forward).rules(group.feed_forward, local)

    def require_measured_widths(self, model: Architecture) -> None:
        """Latent, sparse and linear attention are measured for few widths; others are refused rather than guessed.

        Raises:
            Unsupported: naming the widths that are measured.
        """
        for layer in {group.attention for group in model.layer_groups}:
            found = self.attention(layer).widths(layer)
            if found is not None and found.widths not in found.measured:
                raise Unsupported(
                    f"model: {model.name} has {found.kind} of widths {found.widths}; only "
                    f"{' and '.join(map(str, found.measured))} "
                    f"{'are' if len(found.measured) > 1 else 'is'} measured",
                    "choose a model of these widths; `plan models` lists some",
                )


def _unserved(layer: object, what: str) -> tuple[str, str]:
    return (
        f"model: {type(layer).__name__} is a {what} of which no family of operations knows the cost",
        "choose a model without it; `plan models` lists some",
    )


SHIPPED = Families(
    module.FAMILY
    for module in (
        *(gemm, attention, latent, linear, sparse, compressed, block_sparse, kimi_delta, short_conv, state_space),
        *(hyper, encoder, moe, absent, collective, expert_exchange),
    )
)

_in_use: ContextVar[Families] = ContextVar("operations", default=SHIPPED)


def families() -> Families:
    """The families that this thread of execution reckons with: those that ship, unless :func:`reckoning_with` says
    otherwise."""
    return _in_use.get()


@contextmanager
def reckoning_with(others: Families) -> Iterator[None]:
    """Reckons with ``others`` inside the block, in this context alone: other threads and requests do not see
    them."""
    token = _in_use.set(others)
    try:
        yield
    finally:
        _in_use.reset(token)
