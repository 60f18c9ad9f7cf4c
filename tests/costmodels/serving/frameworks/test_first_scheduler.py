"""vLLM's scheduler before V1: prompts first and alone, unless they are cut."""

from __future__ import annotations

import pytest

from costmodels.serving.frameworks.framework import find_framework


@pytest.mark.parametrize(
    ("release", "longest", "latent", "alone"),
    [
        ("0.7.3", 32768, False, True),
        ("0.7.3", 131072, False, False),
        ("0.7.3", 163840, True, True),
        ("0.8.5", 8192, True, False),
        ("0.19.0", 8192, True, False),
    ],
)
def test_prompts_go_first_where_the_release_does_not_cut_them(
    release: str, longest: int, latent: bool, alone: bool
) -> None:
    policy = find_framework(f"vllm@{release}").serving(longest, latent=latent).scheduler
    assert (policy.prefill_first, policy.mixed) == (alone, not alone)


@pytest.mark.parametrize(("release", "alone"), [("0.7.3", True), ("0.8.5", False)])
def test_so_they_do_where_it_is_told_not_to(release: str, alone: bool) -> None:
    engine = find_framework(f"vllm@{release}")
    for told in (engine.serving(131072, latent=False, whole=True), engine.with_prompts(False, None)):
        assert told.serving(131072, latent=False).scheduler.prefill_first == alone


def test_an_engine_that_is_told_to_cut_them_mixes() -> None:
    policy = find_framework("vllm@0.7.3").with_prompts(True, None).serving(8192, latent=False).scheduler
    assert policy.mixed
