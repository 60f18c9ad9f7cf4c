"""How many tokens an image is, and what its encoder works on, by each family's image processor (``images.yaml``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costmodels.models.architecture import Architecture
from costmodels.models.vision_tower import VisionTower
from profiles.errors import Unsupported
from profiles.shipped import shipped


@dataclass(frozen=True)
class EncodedImage:
    """One image behind its processor: ``pieces`` (tiles, or the whole) of ``patches`` patches each, between which
    there is no attention, and its ``tokens`` in the prompt."""

    pieces: int
    patches: int
    tokens: int


def encoded_image(model: Architecture, width: int, height: int) -> EncodedImage:
    """What ``model`` makes of an image of ``width`` × ``height`` pixels.

    Raises:
        Unsupported: it has no image encoder, or one whose images are not known to be counted.
    """
    tower = model.vision
    if tower is None:
        raise Unsupported(
            f"images: {model.name} has no image encoder that is read",
            "leave images out, or choose a vision model (Qwen3-VL, Gemma 3, Llama 4, InternVL, Kimi-K2.5 ...)",
            field="images",
        )
    rules = _rules()
    if tower.family not in rules:
        raise Unsupported(
            f"images: how {model.name} ({tower.family}) cuts an image into patches is not known here",
            f"add its tokens to isl yourself; known: {', '.join(rules)}",
            field="images",
        )
    rule = rules[tower.family]
    count = {"scaled": _scaled, "square": _square, "tiles": _tiles}[rule["rule"]]
    return count(rule, tower, width, height)


def _rules() -> dict[str, Mapping[str, Any]]:
    return shipped(Path(__file__).parent / "images.yaml", lambda document: dict(document["images"]))


def _square(rule: Mapping[str, Any], tower: VisionTower, width: int, height: int) -> EncodedImage:
    side = rule["side"] // tower.patch_pixels
    return EncodedImage(1, side * side, (side // tower.merge) ** 2)


def _scaled(rule: Mapping[str, Any], tower: VisionTower, width: int, height: int) -> EncodedImage:
    step = tower.patch_pixels * tower.merge
    columns, rows = _grid(rule, step, width, height)
    return EncodedImage(1, columns * rows * tower.merge**2, columns * rows + rows * rule.get("row_tokens", 0))


def _grid(rule: Mapping[str, Any], step: int, width: int, height: int) -> tuple[int, int]:
    """Columns and rows of ``step``-wide squares."""
    least, most = rule.get("min_pixels", 0), rule.get("max_pixels", math.inf)
    area, rounding = width * height, rule["rounding"]
    if rounding == "fill":
        return _rounded(math.floor, math.sqrt(most / area), step, width, height)
    if rounding == "up":
        shrink = min(math.sqrt(most / area), rule.get("longest_side", math.inf) / max(width, height), 1.0)
        return _rounded(math.ceil, shrink, step, width, height)
    columns, rows = _rounded(round, 1.0, step, width, height)
    if columns * rows * step**2 > most:
        return _rounded(math.floor, math.sqrt(most / area), step, width, height)
    if columns * rows * step**2 < least:
        return _rounded(math.ceil, math.sqrt(least / area), step, width, height)
    return columns, rows


def _rounded(how: Any, scale: float, step: int, width: int, height: int) -> tuple[int, int]:
    return max(how(width * scale / step), 1), max(how(height * scale / step), 1)


def _tiles(rule: Mapping[str, Any], tower: VisionTower, width: int, height: int) -> EncodedImage:
    side, most = rule["side"], rule["most"]
    grids = sorted(
        ((c, r) for c in range(1, most + 1) for r in range(1, most // c + 1)), key=lambda grid: grid[0] * grid[1]
    )
    choose = {"nearest_aspect": _nearest_aspect, "enlarges_least": _enlarges_least}[rule["choice"]]
    columns, rows = choose(grids, side, width, height)
    pieces = columns * rows + (1 if columns * rows > 1 else 0)
    patches = (side // tower.patch_pixels) ** 2
    return EncodedImage(pieces, patches, pieces * (patches // tower.merge**2))


def _nearest_aspect(grids: list[tuple[int, int]], side: int, width: int, height: int) -> tuple[int, int]:
    """Of equally near ones the larger, where the image fills half of it."""
    best = grids[0]
    for grid in grids[1:]:
        gain = abs(width / height - best[0] / best[1]) - abs(width / height - grid[0] / grid[1])
        if gain > 0 or (gain == 0 and width * height > 0.5 * side**2 * grid[0] * grid[1]):
            best = grid
    return best


def _enlarges_least(grids: list[tuple[int, int]], side: int, width: int, height: int) -> tuple[int, int]:
    """Of equal ones the smaller."""
    scales = [min(columns * side / width, rows * side / height) for columns, rows in grids]
    enlarging = [scale for scale in scales if scale >= 1]
    wanted = min(enlarging) if enlarging else max(scales)
    return next(grid for grid, scale in zip(grids, scales, strict=True) if scale == wanted)
