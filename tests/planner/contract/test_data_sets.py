"""Lengths of public data sets: facts that ship, named in a workload."""

from __future__ import annotations

import numpy as np
import pytest

from planner.contract.workload.data_sets import data_set_meant, data_sets
from planner.contract.workload.workload import Workload, parse_workload
from profiles.errors import InputError, UnknownName


def test_each_set_has_its_source_and_lengths_that_are_joint() -> None:
    for name, each in data_sets().items():
        assert len(each.isl) == len(each.osl), name
        assert each.source, name
        assert sum(each.longest) >= max(sum(pair) for pair in zip(each.isl, each.osl, strict=True)), name
        assert data_set_meant(name) == name
    words = [word for each in data_sets().values() for word in each.words]
    assert len(words) == len(set(words))


def test_sharegpt_is_as_vllms_client_sends_it() -> None:
    work = parse_workload("dataset=sharegpt,rate=2")
    assert (work.isl, work.osl) == (222, 199)
    isl, osl = work.drawn(4000)
    assert isl.max() <= 1024
    assert (isl + osl).max() <= work.longest_tokens == 2048
    assert np.corrcoef(isl, osl)[0, 1] < -0.2  # short questions have long answers
    assert np.quantile(osl, 0.05) < 10 < 700 < np.quantile(osl, 0.98)
    assert work.told() == "222 tokens in, 199 out on average, as those of ShareGPT (vLLM's client)"


@pytest.mark.parametrize("text", ["ShareGPT", "share-gpt", "/data/ShareGPT_V3_unfiltered_cleaned_split.json"])
def test_names_and_files_of_a_set_mean_it(text: str) -> None:
    assert data_set_meant(text) == (None if text == "share-gpt" else "sharegpt")


def test_lengths_are_scaled_to_the_means_that_are_given() -> None:
    work = parse_workload("isl=1k,osl=50,dataset=sharegpt")
    assert (work.isl, work.osl) == (1000, pytest.approx(50, abs=1))
    assert work.varies
    assert work.of_data_set


def test_few_requests_are_of_all_lengths() -> None:
    """Of 64 requests the mean is that of the set, not of a lucky draw."""
    work = parse_workload("dataset=sharegpt,concurrency=64")
    for seed in range(3):
        isl, osl = work.drawn(64, seed)
        assert isl.mean() + osl.mean() == pytest.approx(work.isl + work.osl, rel=0.03)


def test_requests_longer_than_max_len_are_refused() -> None:
    work = parse_workload("dataset=azure_code,max_len=2k,rate=1")
    assert 0.3 < work.refused_share < 0.5
    assert work.longest_that_comes <= 2000
    assert work.isl < 1000


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("dataset=sharegtp", UnknownName, "nearest: sharegpt"),
        ("dataset=sharegpt,spread=0.8-1", InputError, "spread: has no effect beside recorded lengths"),
        ("dataset=mooncake,max_len=10", InputError, "max_len=10 is less than every request"),
        ("dataset=", InputError, "dataset='' is not a public data set"),
        ("dataset=sharegpt,isl=0", InputError, "isl: 0 should be greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(text: str, error: type[InputError], match: str) -> None:
    with pytest.raises(error) as raised:
        parse_workload(text)
    assert match in f"{raised.value.message}; {raised.value.hint}"


def test_a_document_keeps_the_lengths() -> None:
    work = parse_workload("dataset=sharegpt,rate=2")
    assert Workload.model_validate(work.model_dump(mode="json")) == work
