"""What the kinds of layers share whose class says of itself what it weighs and keeps
(:mod:`costmodels.models.mixers`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.mixers import Mixer
from costmodels.operations.layers import AttentionKind
from costmodels.operations.questions import Split

M = TypeVar("M", bound=Mixer)


class MixerKind(AttentionKind[M]):
    """A mixer with kernels of its own."""

    def weights_bytes(self, split: Split, layer: M) -> Iterator[Floats | float]:
        for weights in layer.weights(split.hidden):
            element = 2.0 if weights.part == "16-bit" else split.weight_bytes(weights.part)
            yield weights.elements * element / np.minimum(split.layouts.tp, weights.pieces)

    def cache_bytes(self, split: Split, layer: M, count: int, tokens: Floats) -> Floats:
        return count * layer.cache_bytes(tokens, split.layouts.tp, split.kv_bytes)
