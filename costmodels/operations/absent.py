"""Layers without one of their halves: nothing is asked, stored or split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import NoFeedForward
from costmodels.models.mixers import NoMixer
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.layers import Activations, AttentionKind, FeedForwardKind, Rule
from costmodels.operations.questions import LayerStep, Split


class NoMixerKind(AttentionKind[NoMixer]):
    """A feed-forward block alone."""

    layer = NoMixer

    def ask(self, step: LayerStep, layer: NoMixer, count: int) -> None:
        return

    def weights_bytes(self, split: Split, layer: NoMixer) -> Iterator[Floats | float]:
        return iter(())

    def cache_bytes(self, split: Split, layer: NoMixer, count: int, tokens: Floats) -> Floats:
        return np.zeros(len(split.layouts))

    def widths(self, layer: NoMixer) -> None:
        return None

    def rules(self, layer: NoMixer, precision: Precision) -> Iterator[Rule]:
        return iter(())


class NoFeedForwardKind(FeedForwardKind[NoFeedForward]):
    """A mixer alone."""

    layer = NoFeedForward

    def ask(self, step: LayerStep, layer: NoFeedForward, count: int) -> None:
        return

    def weights_bytes(self, split: Split, layer: NoFeedForward) -> Iterator[Floats | float]:
        return iter(())

    def activations(self, split: Split, layer: NoFeedForward) -> Activations:
        return Activations(0, 0.0)

    def rules(self, layer: NoFeedForward, precision: Precision) -> Iterator[Rule]:
        return iter(())


FAMILY = OperationFamily("absent", (), (NoMixerKind(), NoFeedForwardKind()))
