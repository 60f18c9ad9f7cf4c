"""The image encoder beside a language model, as far as its cost goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VisionTower:
    """The image encoder and the projector behind it, which engines keep in 16 bits beside the language model.

    An image of ``patch_pixels``-wide patches becomes one token for every ``merge`` × ``merge`` of them.

    Attributes:
        gated: whether its feed-forward has three matrices.
        attention: width of its queries; 0: ``hidden``.
        windowed: layers that attend within windows of ``window_patches`` patches only.
        family: the model_type that has it, which says how images are cut (:mod:`costmodels.models.images`).
    """

    parameters: int
    layers: int
    hidden: int
    heads: int
    intermediate: int
    patch_pixels: int
    merge: int = 1
    gated: bool = False
    attention: int = 0
    windowed: int = 0
    window_patches: int = 0
    family: str = ""
