"""What a kind of layer has to say of itself: a class of :mod:`costmodels.models.architecture`, split over GPUs.

All of a kind's methods are abstract: a kind that leaves one out cannot be made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import LayerStep, Split

Mask = NDArray[np.bool_]
L = TypeVar("L")


class Rule(NamedTuple):
    """What frameworks ask of a layout: which of ``n`` layouts it ``refuses`` (shape [n]), and the ``reason`` to
    give."""

    reason: str
    refuses: Callable[[Layouts], Mask]


class Widths(NamedTuple):
    """Of a layer whose kernels are measured for few ``widths``: what they are of, those it has, those that are
    measured."""

    kind: str
    widths: tuple[int, ...]
    measured: tuple[tuple[int, ...], ...]


class Activations(NamedTuple):
    """Elements that one token takes beside buffers of the model's width.

    Attributes:
        widest: of the layer's widest products and what is made of them, before the tensor split.
        grouped: what the grouped products on one GPU work in, per token of an attention rank's budget, shape [n]; 0:
            none.
    """

    widest: int
    grouped: Floats | float


class LayerKind(ABC, Generic[L]):
    """One kind of layer. ``layer`` is the class of the architecture that it serves."""

    layer: ClassVar[type[Any]]

    def serves(self, layer: object) -> bool:
        """Whether ``layer`` is of this kind."""
        return type(layer) is self.layer

    @abstractmethod
    def ask(self, step: LayerStep, layer: L, count: int) -> None:
        """Adds what one step asks of ``count`` such layers, their exchanges included and their norms excluded."""

    @abstractmethod
    def weights_bytes(self, split: Split, layer: L) -> Iterator[Floats | float]:
        """Bytes of the weights of one layer on one GPU, in parts that add up; shape [n] each, or one for all."""

    @abstractmethod
    def rules(self, layer: L, precision: Precision) -> Iterator[Rule]:
        """What must divide for engines to split such a layer."""


class AttentionKind(LayerKind[L]):
    """Anything that mixes tokens."""

    @abstractmethod
    def cache_bytes(self, split: Split, layer: L, count: int, tokens: Floats) -> Floats:
        """What a sequence of ``tokens`` tokens keeps on one GPU for ``count`` such layers: cache that grows with it,
        and state that does not; shape [n]."""

    @abstractmethod
    def widths(self, layer: L) -> Widths | None:
        """None where any widths are answered."""


class FeedForwardKind(LayerKind[L]):
    """What follows the mixing of tokens in a layer."""

    @abstractmethod
    def activations(self, split: Split, layer: L) -> Activations:
        """What its activations take."""


def heads_divide(heads: int, what: str = "attention heads") -> Rule:
    return Rule(f"{heads} {what} do not divide by tp", lambda x: heads % x.tp != 0)


def replicate_evenly(count: int, what: str) -> Rule:
    """``count`` of ``what`` are split, and copied where the tensor-parallel degree exceeds them."""
    return Rule(
        f"{count} {what} neither divide by tp nor replicate evenly over it",
        lambda x: (count % x.tp != 0) & (x.tp % count != 0),
    )


def whole_blocks(precision: Precision, **heads: tuple[int, int]) -> Iterator[Rule]:
    """Where the projections into (count, width) ``heads`` have scale blocks, a split must not cut through them. (Groups
    along a row, as other formats have, are not cut by a split of the outputs.)"""
    if precision.attention_qkv == "fp8_block":
        block = precision.scale_group("attention_qkv")
        for what, (count, width) in heads.items():
            yield Rule(
                f"{what} heads of width {width} ÷ tp are not a multiple of the {block}-wide scale blocks",
                partial(_cuts_block, count, width, block),
            )


def _cuts_block(heads: int, width: int, block: int, layouts: Layouts) -> Mask:
    """Whether a rank's heads, replicated where tp exceeds them, cut through a scale block. Unsplit weights may end
    in a part of one."""
    cut: Mask = np.maximum(heads // layouts.tp, 1) * width % block != 0
    return cut & (layouts.tp > 1)


def whole_groups(what: str, width: int, precision: Precision, part: str, over: str = "tp") -> Iterator[Rule]:
    """A product whose ``width`` inputs are split ``over`` a degree: the split must not cut through values that share a
    scale. What is not split may end in a part of a group."""
    group, dtype = precision.scale_group(part), precision.of(part)
    if group > 1:
        shared = "scale blocks" if dtype == "fp8_block" else f"scale groups of {dtype}"
        yield Rule(
            f"{what} {width} ÷ {over} is not a multiple of the {group}-wide {shared}",
            partial(_cuts_group, width, group, "moe_tp" if over != "tp" else "tp"),
        )


def output_groups(width: int, precision: Precision) -> Iterator[Rule]:
    """The projection out of attention, whose ``width`` inputs are split with the heads."""
    return whole_groups("attention output of width", width, precision, "attention_output")


def _cuts_group(width: int, group: int, degree: str, layouts: Layouts) -> Mask:
    split: Ints = getattr(layouts, degree)
    cut: Mask = width // split % group != 0
    return cut & (split > 1)
