"""Workloads: what lengths mean, what is refused, and what a trace tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.contract.workload import lengths
from planner.contract.workload.files import workload_at
from planner.contract.workload.grammar import tokens
from planner.contract.workload.traces import recorded
from planner.contract.workload.workload import Workload, parse_workload
from profiles.errors import InputError

HALVES = "isl=1000,osl=200,spread=0.5-1"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1k", 1000), ("1K", 1024), ("128k", 128_000), ("128K", 131_072), ("1.5k", 1500), ("1m", 10**6), ("1M", 2**20)],
)
def test_units_of_tokens_are_those_of_vllm(text: str, value: int) -> None:
    assert tokens(text) == value
    assert parse_workload(f"isl={text},osl=1").isl == value


def test_the_words_of_the_short_form() -> None:
    assert parse_workload("isl=1k,osl=2,rps=3") == parse_workload("isl=1000,osl=2,rate=3/s")
    assert parse_workload("isl=1k,osl=2,concurrency=64,requests=500").concurrency == 64
    with pytest.raises(InputError, match="rate is given twice"):
        parse_workload("isl=1,osl=2,rate=3,rps=3")


def test_lengths_are_exact_unless_a_spread_is_given() -> None:
    work = parse_workload("isl=1000,osl=200")
    assert {tuple(pair) for pair in np.column_stack(work.drawn(50)).tolist()} == {(1000, 200)}
    assert (work.mean_isl, work.mean_osl, work.longest_tokens, work.varies) == (1000, 200, 1200, False)


def test_a_spread_draws_evenly_between_its_shares() -> None:
    work = parse_workload(HALVES)
    isl, osl = work.drawn(20_000)
    assert (isl.min(), isl.max(), osl.min(), osl.max()) == (500, 1000, 100, 200)
    assert isl.mean() == pytest.approx(work.mean_isl, rel=0.01)
    assert abs(np.corrcoef(isl, osl)[0, 1]) < 0.03
    assert work.longest_tokens == 1200
    assert "between 50 and 100 % of that" in work.told()


@given(st.integers(600, 1200), st.integers(0, 3))
def test_the_share_refused_is_that_of_the_requests_too_long(most: int, seed: int) -> None:
    free = parse_workload(HALVES)
    isl, osl = free.drawn(20_000, seed)
    over = float((isl + osl > most).mean())
    if over > 0.98:
        return
    work = parse_workload(f"{HALVES},max_len={most}")
    assert work.refused_share == pytest.approx(over, abs=0.02)
    served = np.add(*work.drawn(2000, seed))
    assert served.max() <= most
    assert work.mean_isl + work.mean_osl == pytest.approx(served.mean(), rel=0.02)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("isl=10,osl=2,max_len=11", "max_len: 11 tokens is less than every request has, 12 and more"),
        (f"{HALVES},max_len=601", "max_len: 601 tokens refuses"),
        ("isl=10,osl=2,spread=1-0.5", "spread: 1 is more than 0.5"),
        ("isl=10,osl=2,spread=0.5", "spread='0.5' is not two shares"),
        ("isl=10,osl=2,rate=1,concurrency=3", "rate and concurrency: both are given"),
        ("isl=10,osl=2,concurrency=0", "concurrency: 0 should be greater than 0"),
    ],
)
def test_what_contradicts_itself_is_refused(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        parse_workload(text)
    assert caught.value.hint


# ------------------------------------------------------------------ of a trace


def trace(folder: Path, rows: list[tuple[float, int, int]], name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(["arrival_s,isl,osl", *(f"{time},{isl},{osl}" for time, isl, osl in rows)]))
    return path


def test_a_trace_tells_lengths_and_the_rate_of_its_fullest_minute(tmp_path: Path) -> None:
    rows = [(60.0 * minute + i, 100 * (minute + 1), 10) for minute in range(4) for i in range(3 * (minute + 1))]
    trace(tmp_path, rows)
    work = workload_at("trace.csv", tmp_path)
    assert work is not None
    assert work.recorded is not None
    assert (work.isl, work.osl, work.longest_tokens) == (300, 10, 410)
    assert work.rate_rps == pytest.approx(12 / 60)
    assert work.recorded.rate_of == "its fullest minute, 4 of 4"
    assert work.recorded.fullest_second == 1
    quantile = workload_at("trace.csv,rate=p50", tmp_path)
    assert quantile is not None
    assert quantile.rate_rps == pytest.approx(6 / 60)
    mean = workload_at("trace.csv,rate=mean", tmp_path)
    assert mean is not None
    assert mean.rate_rps == pytest.approx(30 / 191)
    assert sorted(zip(*(each.tolist() for each in work.drawn(30)), strict=True)) == sorted(row[1:] for row in rows)


def test_what_a_trace_has_longer_than_max_len_is_refused_and_counted_nowhere_else(tmp_path: Path) -> None:
    trace(tmp_path, [(float(i), 1000 if i % 4 == 0 else 100, 10) for i in range(120)])
    work = workload_at("trace.csv,max_len=500", tmp_path)
    assert work is not None
    assert work.refused_share == pytest.approx(0.25)
    assert (work.isl, work.longest_tokens, work.longest_that_comes) == (100, 500, 110)
    assert work.rate_rps == pytest.approx(45 / 60)
    with pytest.raises(InputError, match="max_len=50 is less than every request"):
        workload_at("trace.csv,max_len=50", tmp_path)


def test_long_traces_are_kept_as_requests_that_stand_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "MOST_LENGTHS", 101)
    rng = np.random.default_rng(0)
    drawn = np.maximum(rng.lognormal(6, 1, 5000), 1).astype(int)
    trace(tmp_path, [(float(i), int(each), 7) for i, each in enumerate(drawn)])
    work = workload_at("trace.csv", tmp_path)
    assert work is not None
    isl, _ = work.drawn(101)
    assert isl.max() == drawn.max()
    for p in (0.1, 0.5, 0.9):
        assert np.quantile(isl, p) == pytest.approx(np.quantile(drawn, p), rel=0.05)


def mooncake(folder: Path, *rows: object) -> Path:
    path = folder / "mooncake.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_prefix_hits_are_estimated_from_hashes(tmp_path: Path) -> None:
    blocks: list[list[int]] = [[1, 2, 3], [1, 2, 4], [9, 1], [1, 2, 4]]
    rows = [
        {"timestamp": 1000 * i, "input_length": 512 * len(ids), "output_length": 5, "hash_ids": ids}
        for i, ids in enumerate(blocks)
    ]
    path = mooncake(tmp_path, *rows)
    found = recorded(path)
    assert found.seen_before is not None
    assert found.seen_before.tolist() == [0, 1024, 0, 1535]  # the last token of a prompt is always computed
    assert found.seconds.tolist() == [0, 1, 2, 3]
    work = workload_at("mooncake.jsonl", tmp_path)
    assert work is not None
    assert work.recorded is not None
    assert work.prefix_hit == pytest.approx((1024 + 1535) / (11 * 512), abs=1e-4)
    assert work.recorded.prefix == "hashes"
    told = workload_at("mooncake.jsonl,prefix_hit=0.2", tmp_path)
    assert told is not None
    assert told.prefix_hit == 0.2


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("[1]", "line 2: a list is not an object"),
        ("{", "line 2: is not JSON"),
        ('{"timestamp": 1, "input_length": 3}', "line 2: output_length '' is not a positive whole number"),
        ('{"timestamp": 1, "input_length": 3, "output_length": true}', "line 2: output_length 'True' is not"),
        ('{"timestamp": 1, "input_length": 3, "output_length": 4, "hash_ids": ["a"]}', "hash_ids a list is not a list"),
    ],
)
def test_lines_that_are_wrong_are_named(tmp_path: Path, row: str, named: str) -> None:
    path = mooncake(tmp_path, {"timestamp": 0, "input_length": 3, "output_length": 4})
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(InputError, match=named):
        recorded(path)


def test_requests_without_output_are_skipped_and_counted_when_asked(tmp_path: Path) -> None:
    path = trace(tmp_path, [(0.0, 5, 0), (1.0, 6, 7), (2.0, 8, 0), (3.0, 9, 1)])
    with pytest.raises(InputError, match="line 2: osl '0'") as caught:
        recorded(path)
    assert "--skip-failed" in caught.value.hint
    found = recorded(path, skip_failed=True)
    assert (found.isl.tolist(), found.skipped, found.seconds.tolist()) == ([6, 9], 2, [0, 2])
    work = workload_at("trace.csv", tmp_path, skip_failed=True)
    assert work is not None
    assert work.recorded is not None
    assert work.recorded.skipped == 2
    with pytest.raises(InputError, match="has no requests with an output"):
        recorded(trace(tmp_path, [(0.0, 5, 0)]), skip_failed=True)


def test_milliseconds_in_a_column_of_seconds_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: arrival_s '1700000000000.0' seconds lie beyond") as caught:
        recorded(trace(tmp_path, [(1.7e12, 5, 1)]))
    assert "timestamp, input_length, output_length" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("trace.csv,isl=5", "isl has no effect beside the trace"),
        ("trace.csv,spread=0.8-1", "spread has no effect"),
        ("trace.csv,rate=often", "rate='often' is not a rate of a trace"),
        ("trace.csv,rate=p101", "rate='p101' is not a rate of a trace"),
        ("none.csv", "cannot be read"),
        ("list.yaml", "not a mapping"),
        ("odd.yaml", "is not known"),
    ],
)
def test_files_that_say_too_much_or_nothing_are_refused(tmp_path: Path, text: str, named: str) -> None:
    trace(tmp_path, [(0.0, 5, 1), (1.0, 5, 1)])
    (tmp_path / "list.yaml").write_text("- isl\n")
    (tmp_path / "odd.yaml").write_text("isl: 1\nosl: 2\nodd: 3\n")
    with pytest.raises(InputError, match=named):
        workload_at(text, tmp_path)


def test_a_moment_has_no_rate(tmp_path: Path) -> None:
    trace(tmp_path, [(0.0, 5, 1), (0.0, 5, 1)])
    with pytest.raises(InputError, match="requests of one moment"):
        workload_at("trace.csv", tmp_path)
    given_rate = workload_at("trace.csv,rate=3", tmp_path)
    assert given_rate is not None
    assert given_rate.rate_rps == 3


def test_a_mapping_says_what_pairs_say(tmp_path: Path) -> None:
    (tmp_path / "load.yaml").write_text("isl: 4k\nosl: 500\nrate: 20\ndraft: 4\nacceptance: 0.7\n")
    assert workload_at("load.yaml", tmp_path) == parse_workload("isl=4k,osl=500,rate=20,draft=4,acceptance=0.7")
    assert workload_at("load.yaml,rate=3", tmp_path) == parse_workload("isl=4k,osl=500,rate=3,draft=4,acceptance=0.7")
    as_document = parse_workload("isl=4k,osl=500,rate=20,spread=0.8-1").model_dump(mode="json")
    (tmp_path / "load.json").write_text(json.dumps(as_document))
    assert workload_at("load.json", tmp_path) == Workload.model_validate(as_document)
    trace(tmp_path, [(0.0, 5, 1), (1.0, 5, 1)])
    (tmp_path / "of_trace.yaml").write_text("trace: trace.csv\nmax_len: 100\n")
    assert workload_at("of_trace.yaml", tmp_path) == workload_at("trace.csv,max_len=100", tmp_path)


def test_pairs_name_no_file() -> None:
    assert workload_at("isl=1,osl=2") is None
    assert workload_at("foo") is None


def test_parts_of_recorded_requests_differ_as_draws_do(tmp_path: Path) -> None:
    """All have the recorded means; of a part they are no surer than those of other requests."""
    rng = np.random.default_rng(0)
    prompts = np.maximum(rng.lognormal(6, 1, 1000), 1).astype(int)
    trace(tmp_path, [(float(i), int(each), 7) for i, each in enumerate(prompts)])
    work = workload_at("trace.csv", tmp_path)
    assert work is not None
    isl, _ = work.drawn(40_000)
    assert isl.mean() == pytest.approx(prompts.mean())
    parts = isl.reshape(40, 1000).mean(axis=1)
    assert parts.std() == pytest.approx(prompts.std() / np.sqrt(1000), rel=0.3)
