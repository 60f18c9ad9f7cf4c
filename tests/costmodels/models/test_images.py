"""Tokens of images: figures that the models' own processors give, and models that have none."""

from __future__ import annotations

import pytest

from costmodels.models.images import encoded_image
from costmodels.models.registry import find_architecture
from profiles.errors import Unsupported


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("Qwen/Qwen2-VL-7B-Instruct", (1024, 1024), 37 * 37),
        ("Qwen/Qwen2.5-VL-7B-Instruct", (1920, 1080), 69 * 39),
        ("Qwen/Qwen3-VL-8B-Instruct", (1024, 1024), 32 * 32),
        ("Qwen/Qwen3-VL-8B-Instruct", (100, 100), 64),  # enlarged to 65,536 pixels
        ("Qwen/Qwen3-VL-8B-Instruct", (8192, 8192), 128 * 128),  # shrunk to 16,777,216
        ("google/gemma-3-27b-it", (4000, 100), 256),
        ("google/gemma-4-26B-A4B", (1024, 1024), 16 * 16),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", (1024, 1024), 17 * 144),  # 4 x 4 tiles and the whole
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", (300, 300), 144),
        ("OpenGVLab/InternVL3-8B", (1024, 1024), 10 * 256),  # 3 x 3 tiles and the whole
        ("OpenGVLab/InternVL3-8B", (448, 448), 256),
        ("moonshotai/Kimi-K2.5", (1024, 1024), 37 * 37),
    ],
)
def test_an_image_has_the_tokens_of_its_models_processor(model: str, size: tuple[int, int], tokens: int) -> None:
    assert encoded_image(find_architecture(model), *size).tokens == tokens


def test_every_token_stands_for_a_square_of_patches() -> None:
    tower = find_architecture("Qwen/Qwen3-VL-8B-Instruct").vision
    image = encoded_image(find_architecture("Qwen/Qwen3-VL-8B-Instruct"), 1024, 768)
    assert tower is not None
    assert image.patches == image.tokens * tower.merge**2
    tiled = encoded_image(find_architecture("OpenGVLab/InternVL3-8B"), 1024, 1024)
    assert (tiled.pieces, tiled.patches) == (10, 32 * 32)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B has no image encoder"),
        ("ibm-granite/granite-vision-3.3-2b", r"granite-vision-3\.3-2b \(llava_next\) cuts an image"),
    ],
)
def test_models_whose_images_nobody_counts_are_refused_by_name(model: str, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        encoded_image(find_architecture(model), 1024, 1024)
