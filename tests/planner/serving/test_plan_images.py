"""Images in a workload: counted by the model, in every length, and told."""

from __future__ import annotations

import pytest

from costmodels.models.registry import find_architecture
from planner.contract.workload.workload import Workload, parse_workload
from planner.serving.images import counted, prompt_images
from profiles.errors import InputError, Unsupported

SEEING = find_architecture("Qwen/Qwen3-VL-8B-Instruct")  # makes 1,024 tokens of 1024 x 1024
TEXT = "isl=1000,osl=200"
IMAGES = "images=2,image=1024x1024"


def work(more: str = "") -> Workload:
    return counted(parse_workload(f"{TEXT},{IMAGES}{more}"), SEEING)


def test_lengths_include_the_tokens_of_images() -> None:
    some = work()
    assert some.image_tokens == 2048
    assert (some.mean_isl, some.longest_isl, some.longest_tokens, some.shape.isl) == (3048, 3048, 3248, 3048)
    assert set(some.drawn(5)[0].tolist()) == {3048}
    assert some.isl == 1000
    assert "1,000 tokens in, 200 out, beside 2 images of 1024 x 1024 (1,024 tokens each)" in some.told()


def test_text_varies_and_images_do_not() -> None:
    some = work(",spread=0.5-1")
    assert (some.shortest_tokens, some.longest_that_comes) == (500 + 2048 + 100, 1000 + 2048 + 200)
    assert some.drawn(1000)[0].min() >= 2548


def test_counting_twice_is_counting_once() -> None:
    assert counted(work(), SEEING) == work()
    assert counted(parse_workload(TEXT), SEEING) == parse_workload(TEXT)


def test_engines_encode_so_many_images_a_token() -> None:
    found = prompt_images(work(), SEEING)
    assert found is not None
    assert found.per_token == pytest.approx(2 / 3048)
    assert prompt_images(parse_workload(TEXT), SEEING) is None


def test_lengths_are_not_known_before_a_model_has_counted() -> None:
    plain = parse_workload(f"{TEXT},{IMAGES}")
    for asked in ("mean_isl", "longest_tokens", "shape"):
        with pytest.raises(InputError, match=r"2 images of 1024 x 1024 have as many tokens as a model makes of them"):
            getattr(plain, asked)
    with pytest.raises(InputError, match="max_len: 2000 tokens is less than every request has, 3248"):
        counted(parse_workload(f"{TEXT},{IMAGES},max_len=2000"), SEEING)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("images=2", "image is missing beside images"),
        ("image=1024x1024", "images is missing beside image"),
        ("images=2,image=large", "image='large' is not a size"),
        ("images=0,image=10x10", "count"),
        ("images=1,image=10x99999", "height_pixels"),
    ],
)
def test_half_an_image_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_workload(f"{TEXT},{text}")


def test_a_model_that_sees_nothing_refuses_images() -> None:
    with pytest.raises(Unsupported, match="Qwen/Qwen3-32B has no image encoder"):
        counted(parse_workload(f"{TEXT},{IMAGES}"), find_architecture("Qwen/Qwen3-32B"))
