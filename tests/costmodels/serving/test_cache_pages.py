"""Pages of the cache: the tokens and requests that engines log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.cache_pages import LayerCache, Pages, layer_caches
from costmodels.serving.memory import GIB
from tests.benchmarks.memory import Log, logs

ONE_STAGE = [log for log in logs() if log.layouts.pp[0] == 1]


def pages(model: str, layout: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)) -> Pages:
    architecture = find_architecture(model)
    return Pages.of(layer_caches(architecture, choose_precision(architecture), Layouts.of([layout])), 16)


@pytest.mark.parametrize("log", ONE_STAGE, ids=lambda log: f"{log.label} {log.max_model_len}")
def test_a_cache_of_the_logged_bytes_has_the_logged_tokens_and_requests(log: Log) -> None:
    loaded = log.loaded
    pool = Pages.of(layer_caches(loaded.model, loaded.precision, log.layouts), 16)
    cache = log.cache * GIB
    assert pool.logged_tokens(cache) == pytest.approx(log.tokens, rel=1e-3)
    assert pool.requests(cache, log.max_model_len, 8192) == pytest.approx(log.requests, rel=2e-3)


def test_layers_of_a_kind_make_groups_of_as_many_layers() -> None:
    gemma = pages("google/gemma-3-27b-it")
    assert gemma.groups == (6, 1), "52 windowed layers in groups of 10, beside 10 that see all"
    assert gemma.logged_tokens(19.5 * GIB) == pytest.approx(36_560, rel=5e-3)


def test_kinds_of_nearly_as_many_layers_share_the_larger_number() -> None:
    pool = Pages.of([LayerCache(12, 100.0, 0, 0.0), LayerCache(13, 100.0, 128, 0.0)], 16)
    assert pool.groups == (1, 1)
    assert pool.group_bytes == 13 * 16 * 100


def test_a_page_is_as_large_as_a_state() -> None:
    pool = Pages.of([LayerCache(6, 1024.0, 0, 0.0), LayerCache(23, 0.0, 0, 100_000.0)], 16)
    assert pool.block_tokens == (112, 0)
    assert pool.groups == (1, 4)
    assert pool.of_request(1000, 8192) == 9 + 4


def test_windows_hold_the_tokens_of_a_step_too() -> None:
    pool = Pages.of([LayerCache(8, 100.0, 1024, 0.0), LayerCache(8, 100.0, 0, 0.0)], 16)
    assert pool.of_request(100_000, 2048) == -(-(1023 + 2048) // 16) + 1 + 6250
    assert pool.of_request(100, 2048) == 7 + 1 + 7


@pytest.mark.parametrize(
    "model", ["meta-llama/Llama-3.1-8B", "google/gemma-3-27b-it", "Qwen/Qwen3-Next-80B-A3B-Instruct"]
)
def test_the_longest_request_is_the_longest_that_fits(model: str) -> None:
    pool = pages(model)
    for cache in (0.1 * GIB, 1.0 * GIB, 5.0 * GIB):
        longest = pool.longest(cache, 10**6, 8192)
        assert longest == 0 or pool.requests(cache, longest, 8192) >= 1
        assert longest == 10**6 or pool.requests(cache, longest + 1, 8192) < 1


def test_longer_requests_are_fewer() -> None:
    pool = pages("google/gemma-3-27b-it")
    fit = [pool.requests(10 * GIB, tokens, 8192) for tokens in (100, 1000, 10_000, 100_000)]
    assert fit == sorted(fit, reverse=True)


def test_kinds_of_which_nothing_is_kept_are_left_out() -> None:
    kinds = layer_caches(*_asked("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"))
    assert sorted(kind.layers for kind in kinds) == [6, 23], "of 52 layers, 23 have experts alone"


def _asked(model: str) -> Any:
    architecture = find_architecture(model)
    return architecture, choose_precision(architecture), Layouts.of(np.array([(1, 1, 1, 1, 1)]))
