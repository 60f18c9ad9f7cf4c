"""The request: its short forms, its refusals, and what survives a round trip."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.contract.clusters import Cluster, Pool, parse_cluster
from planner.contract.workload.slo import Bound, Slo, parse_slo
from planner.contract.workload.workload import Speculation, Workload, parse_workload
from planner.serving.request import PlanRequest, parse_request
from profiles.errors import InputError
from profiles.values import named

ASKED: dict[str, Any] = {"model": "m", "cluster": "16xH200", "workload": "isl=4000,osl=500"}


def refused(parse: Any, *arguments: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(*arguments)
    error = caught.value
    assert error.message
    assert error.hint
    assert error.http_status == 422
    assert error.exit_code == 2
    assert len(error.message) < 400
    return error


# ------------------------------------------------------------------ slo


@pytest.mark.parametrize(
    ("text", "metric", "percentile", "limit_ms"),
    [
        ("ttft=1s", "ttft", 90, 1000),
        ("tpot=30ms", "tpot", 90, 30),
        ("itl=30ms", "tpot", 90, 30),
        ("e2e=20s", "e2e", 90, 20_000),
        ("e2e=2min", "e2e", 90, 120_000),
        ("tpot=900us", "tpot", 90, 0.9),
        ("tpot=900\u00b5s", "tpot", 90, 0.9),
        ("tpot=900\u03bcs", "tpot", 90, 0.9),
        ("ttft_p99=2s", "ttft", 99, 2000),
        ("ttft_p99.9=2s", "ttft", 99.9, 2000),
        ("itl_p50=.5s", "tpot", 50, 500),
        ("TTFT_P99=1.5S", "ttft", 99, 1500),
        ("ttft = 1 s", "ttft", 90, 1000),
        ("ttft=1e-1s", "ttft", 90, 100),
        ("ttft=0.57s", "ttft", 90, 570),
    ],
)
def test_slo_short_form(text: str, metric: Any, percentile: float, limit_ms: float) -> None:
    assert parse_slo(text).bounds == (Bound(metric=metric, percentile=percentile, limit_ms=limit_ms),)


def test_slo_keeps_several_bounds_in_their_order() -> None:
    slo = parse_slo("ttft=1s, tpot=30ms ,ttft_p99=2s")
    assert [bound.label for bound in slo.bounds] == ["ttft_p90", "tpot_p90", "ttft_p99"]


def test_an_empty_slo_promises_nothing() -> None:
    assert parse_slo("") == parse_slo("  ") == Slo()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo=1s", "slo: 'foo' is not a metric"),
        ("ttft_p=1s", "slo: 'ttft_p' is not a metric"),
        ("ttft_99=1s", "slo: 'ttft_99' is not a metric"),
        ("=1s", "slo: '' is not a metric"),
        ("ttft>1s", "slo: 'ttft>1s' asks for at least, where a promise is of at most"),
        ("ıtl=1ms", "slo: 'ıtl' is not a metric"),
        ("ttft", "slo: ttft has no limit"),
        ("ttft=", "slo: ttft has no limit"),
        ("ttft=1", "slo: ttft='1' has no unit"),
        ("ttft=1h", "slo: ttft='1h' is not a time"),
        ("ttft=-1s", "slo: ttft='-1s' is not a time"),
        ("ttft=nan", "slo: ttft='nan' is not a time"),
        ("ttft=infs", "slo: ttft='infs' is not a time"),
        ("ttft=1_0s", "slo: ttft='1_0s' is not a time"),
        ("ttft=１s", "slo: ttft='１s' is not a time"),
        ("ttft=1mſ", "slo: ttft='1mſ' is not a time"),
        ("ttft=1mın", "slo: ttft='1mın' is not a time"),
        ("ttft=1s;tpot=2s", "slo: ttft='1s;tpot=2s' is not a time"),
        ("ttft=1e9999ms", "slo: ttft='1e9999ms' is not a time"),
        ("ttft=1e400ms", "slo ttft=1e400ms: limit_ms: inf should be a finite number"),
        ("ttft=0s", "slo ttft=0s: limit_ms: 0.0 should be greater than 0"),
        ("ttft_p100=1s", "slo ttft_p100=1s: percentile: 100.0 should be less than 100"),
        ("ttft_p0=1s", "slo ttft_p0=1s: percentile: 0.0 should be greater than 0"),
        ("ttft=1s,ttft_p90=2s", "slo: ttft_p90 is given twice"),
        ("itl=1ms,tpot=2ms", "slo: tpot_p90 is given twice"),
        ("ttft=1s,", "slo: 'ttft=1s,' has a comma too many"),
        ("ttft=1s,,tpot=1s", "slo: 'ttft=1s,,tpot=1s' has a comma too many"),
    ],
)
def test_slo_refuses_naming_field_and_value(text: str, message: str) -> None:
    assert refused(parse_slo, text).message == message
    assert refused(parse_request, {**ASKED, "slo": text}).message == message


def test_slo_tells_percentiles_apart_that_print_alike_in_six_digits() -> None:
    assert len(parse_slo("ttft_p99.99999=1s,ttft_p99.999999=2s").bounds) == 2


UNITS = {"us": "0.001", "µs": "0.001", "ms": "1", "s": "1000", "min": "60000"}


@given(
    st.sampled_from(["ttft", "tpot", "e2e"]),
    st.integers(1, 999).map(lambda n: n / 10),
    st.sampled_from(sorted(UNITS)),
    st.decimals("0.0001", "9999", places=4),
)
def test_slo_text_in_any_unit_means_the_same_time(metric: Any, percentile: float, unit: str, number: Decimal) -> None:
    (bound,) = parse_slo(f"{metric}_p{percentile}={number}{unit}").bounds
    assert bound == Bound(metric=metric, percentile=percentile, limit_ms=float(number * Decimal(UNITS[unit])))


@given(st.floats(1e-9, 1e9), st.sampled_from(["us", "ms", "s"]))
def test_slo_limit_survives_being_written_in_another_unit(limit_ms: float, unit: str) -> None:
    text = f"{Decimal(repr(limit_ms)) / Decimal(UNITS[unit])}{unit}"
    assert parse_slo(f"ttft={text}").bounds[0].limit_ms == limit_ms


# ------------------------------------------------------------------ workload


@pytest.mark.parametrize("rate", ["20", "20.0", "20rps", "20 rps", "20/s", "20 /s", "2e1", "20RPS"])
def test_workload_rate_forms(rate: str) -> None:
    assert parse_workload(f"isl=4000,osl=500,rate={rate}") == Workload(isl=4000, osl=500, rate_rps=20)


def test_workload_routing_and_defaults() -> None:
    assert parse_workload("osl=500, isl=4000") == Workload(isl=4000, osl=500)
    assert parse_workload("isl=1,osl=1,routing=balanced").routing == "balanced"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "workload: isl is missing"),
        ("isl=4000", "workload: osl is missing"),
        ("foo=1", "workload name: 'foo' is not known"),
        ("rate_rps=1", "workload name: 'rate_rps' is not known"),
        ("isl", "workload: isl='' is not a whole number of tokens"),
        ("isl=4g,osl=1", "workload: isl='4g' is not a whole number of tokens"),
        ("isl=1.0001k,osl=1", "workload: isl='1.0001k' is not a whole number of tokens"),
        ("isl=1.5,osl=1", "workload: isl='1.5' is not a whole number of tokens"),
        ("isl=4_000,osl=1", "workload: isl='4_000' is not a whole number of tokens"),
        ("isl=４,osl=1", "workload: isl='４' is not a whole number of tokens"),
        ("isl=0,osl=1", "workload: isl: 0 should be greater than 0"),
        ("isl=1,osl=-1", "workload: osl: -1 should be greater than 0"),
        ("isl=1,osl=10000000000", "workload: osl: 10000000000 should be less than or equal to 1000000000"),
        ("isl=1,osl=1,rate=0", "workload: rate_rps: 0.0 should be greater than 0"),
        ("isl=1,osl=1,rate=-3", "workload: rate_rps: -3.0 should be greater than 0"),
        ("isl=1,osl=1,rate=1e400", "workload: rate_rps: inf should be a finite number"),
        ("isl=1,osl=1,rate=nan", "workload: rate='nan' is not a rate"),
        ("isl=1,osl=1,rate=inf", "workload: rate='inf' is not a rate"),
        ("isl=1,osl=1,rate=20/srps", "workload: rate='20/srps' is not a rate"),
        ("isl=1,osl=1,rate=20/min", "workload: rate='20/min' is not a rate"),
        ("isl=1,osl=1,routing=odd", "workload: routing: 'odd' is not known"),
        ("isl=1,isl=1,osl=1", "workload: isl is given twice"),
        ("isl=1,osl=2,prefix_hit=1.5", "workload: prefix_hit: 1.5 should be less than or equal to 1"),
        ("isl=1,osl=2,prefix_hit=half", "workload: prefix_hit='half' is not a share"),
        ("isl=1,osl=2,draft=4", "workload: acceptance is missing"),
        ("isl=1,osl=2,acceptance=0.5", "workload: draft is missing"),
        ("isl=1,osl=2,draft_cost=0.5", "workload: draft is missing"),
        ("isl=1,osl=2,draft=0,acceptance=0.5", "workload: draft_tokens: 0 should be greater than 0"),
        ("isl=1,osl=2,draft=4,acceptance=1.2", "workload: acceptance: 1.2 should be less than or equal to 1"),
        ("isl=1,osl=2,draft=4,acceptance=0.5,draft_cost=-1", "workload: draft_cost: -1.0 should be greater"),
        ("isl=1,osl=1,rate=1,rate=2", "workload: rate is given twice"),
        ("isl=1,osl=1,", "workload: 'isl=1,osl=1,' has a comma too many"),
    ],
)
def test_workload_refuses_naming_field_and_value(text: str, message: str) -> None:
    assert refused(parse_workload, text).message.startswith(message)
    assert refused(parse_request, {**ASKED, "workload": text}).message.startswith(message)


# ------------------------------------------------------------------ the request


def test_a_field_spelled_wrongly_is_named_before_the_one_that_is_missing_for_it() -> None:
    rest = {name: value for name, value in ASKED.items() if name != "model"}
    for wrong, right in (("modl", "model"), ("headrom", "headroom")):
        error = refused(parse_request, {**rest, wrong: "Qwen/Qwen3-8B"})
        assert error.message == f"request: {wrong} is not known"
        assert error.hint is not None
        assert error.hint.startswith(f"write {right}, if you mean that")
    assert refused(parse_request, rest).message == "request: model is missing"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "request: model: '' should have at least 1 character"),
        ({"model": 5}, "request: model: 5 is neither a name nor an object"),
        ({"model": "\ud800"}, r"request: model: '\ud800' should be a valid string"),
        ({"model": "m" * 5000}, f"request: model: '{'m' * 79}… should have at most 4096 characters"),
        ({"modle": "m"}, "request: modle is not known"),
        ({"x" * 5000: 1}, f"request: {named('x' * 5000)} is not known"),
        ({"slo": None}, "request: slo: null is not an object"),
        ({"slo": 5}, "request: slo: 5 is not an object"),
        ({"slo": {"bounds": [{"limit_ms": 5}]}}, "request: slo.bounds.0.metric is missing"),
        ({"slo": {"bounds": 5}}, "request: slo.bounds: 5 is not a list"),
        (
            {"slo": {"bounds": [{"metric": "ttft", "limit_ms": 5}] * 3}},
            "request: slo: ttft_p90 is given 3 times",
        ),
        (
            {"slo": {"bounds": [{"metric": "ttft", "limit_ms": 5}] * 101}},
            "request: slo.bounds: a list has more than",
        ),
        ({"cluster": 5}, "request: cluster: 5 is not an object"),
        ({"cluster": {}}, "cluster: name is missing"),
        (
            {"cluster": {"name": "x", "pools": [{"gpu": 5, "gpus": 8}]}},
            "cluster: pools.0.gpu: 5 should be a valid",
        ),
        ({"workload": {"isl": 10}}, "request: workload.osl is missing"),
        ({"workload": {"isl": 10, "ols": 5}}, "request: workload.ols is not known"),
        ({"workload": {"isl": True, "osl": 1}}, "request: workload.isl: true is not a number"),
        ({"workload": {"isl": "10", "osl": 1}}, "request: workload.isl: '10' is not a number"),
        ({"max_tp": 0}, "request: max_tp: 0 should be greater than 0"),
        ({"max_pp": "2"}, "request: max_pp: '2' is not a number"),
        ({"max_engine_gpus": 2.5}, "request: max_engine_gpus: 2.5 should be a valid integer"),
        ({"tp_across_nodes": 1}, "request: tp_across_nodes: 1 should be a valid boolean"),
        ({"confidence": 1}, "request: confidence: 1 should be less than 1"),
        ({"confidence": False}, "request: confidence: false is not a number"),
        ({"time_limit_s": 3601}, "request: time_limit_s: 3601 should be less than or equal to 3600"),
        ({"time_limit_s": float("nan")}, "request: time_limit_s: nan should be a finite number"),
        (
            {"time_limit_s": 10**400},
            "request: time_limit_s: a number of more than 80 digits should be a valid",
        ),
        ({"framework": "tgi"}, "framework: 'tgi' is not modelled"),
        ({"framework": "vllm@0.19,0.20"}, "framework: vLLM@'0.19,0.20' is not a release"),
        ({"precision": "fp7"}, "precision: 'fp7' is not known"),
        ({"precision": "bf16,fp7"}, "precision: 'fp7' is not known"),
        ({"precision": ""}, "precision: '' is not known"),
        ({"precision": []}, "request: precision"),
        ({"disaggregation": "maybe"}, "disaggregation: 'maybe' is not known"),
        ({"kv_precision": "fp4"}, "kv_precision: 'fp4' is not known"),
        ({"objective": "speed"}, "objective: 'speed' is not known"),
        ({"objective": "cost"}, "request: objective: cost needs a rate"),
    ],
)
def test_request_refuses_naming_field_and_value(fields: dict[str, Any], message: str) -> None:
    assert refused(parse_request, {**ASKED, **fields}).message.startswith(message)


@pytest.mark.parametrize("missing", sorted(ASKED))
def test_request_names_what_is_missing(missing: str) -> None:
    given_ = {key: value for key, value in ASKED.items() if key != missing}
    assert refused(parse_request, given_).message == f"request: {missing} is missing"


@pytest.mark.parametrize("value", [[], [1], "text", 5, None])
def test_request_that_is_not_an_object_is_refused(value: Any) -> None:
    assert "is not an object" in refused(parse_request, value).message


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_slo, "ttft=" + "9" * 1_000_000 + "x"),
        (parse_slo, "ttft_p" + "9" * 1_000_000 + "x=1s"),
        (parse_slo, "ttft=" + "9" * 4000 + "x"),
        (parse_slo, "ttft=1s," * 100_000),
        (parse_cluster, "9" * 1_000_000 + "xH200"),
        (parse_cluster, "9" * 4000 + "xH200"),
        (parse_cluster, "9" * 2000 + "x" + "9" * 2000 + "xH200"),
        (parse_cluster, "1xH200+" * 100_000),
        (parse_cluster, "1x" + " " * 4000),
        (parse_workload, "isl=" + "9" * 1_000_000),
        (parse_workload, "isl=" + "9" * 4000 + ",osl=1"),
        (parse_workload, "isl=1,osl=1,rate=" + "9" * 4000),
    ],
)
def test_long_text_is_refused_at_once_and_not_repeated(parse: Any, text: str) -> None:
    started = time.process_time()
    refused(parse, text)
    assert time.process_time() - started < 0.5


def test_goal_follows_rate_and_prices() -> None:
    def goal(workload: str, cluster: str = "8xH200", **fields: Any) -> str:
        return parse_request({**ASKED, "workload": workload, "cluster": cluster, **fields}).goal

    assert goal("isl=1,osl=1") == "throughput"
    assert goal("isl=1,osl=1,rate=5") == "cost"
    assert goal("isl=1,osl=1,rate=5", "8xH20") == "gpus"
    assert goal("isl=1,osl=1,rate=5", "8xH20+8xH200") == "gpus"
    assert goal("isl=1,osl=1,rate=5", objective="latency") == "latency"


def test_short_forms_and_objects_are_one_request() -> None:
    short = parse_request({**ASKED, "slo": "ttft=1s", "workload": "isl=4000,osl=500,rate=20"})
    objects = parse_request(
        {
            "model": "m",
            "cluster": {"name": "16xH200", "pools": [{"gpu": "H200", "gpus": 16}]},
            "slo": {"bounds": [{"metric": "ttft", "limit_ms": 1000}]},
            "workload": {"isl": 4000, "osl": 500, "rate_rps": 20},
        }
    )
    assert short == objects
    assert short.model_dump_json() == objects.model_dump_json()


def test_requests_cannot_be_changed() -> None:
    request = parse_request(ASKED)
    with pytest.raises(ValueError, match="frozen"):
        request.model = "other"


def _pools() -> st.SearchStrategy[Pool]:
    return st.builds(
        Pool,
        name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        gpu=st.sampled_from(["H200", "H100-SXM", "B200", "MI300X", "H20"]),
        gpus=st.integers(1, 1000),
        gpus_per_node=st.integers(1, 72),
        fabric=st.sampled_from(["ib-400g", "ib-800g"]),
        usd_per_gpu_hour=st.none() | st.floats(0.01, 100),
        price_source=st.none(),
    )


REQUESTS = st.builds(
    PlanRequest,
    model=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    cluster=st.builds(
        Cluster,
        name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        pools=st.lists(_pools(), min_size=1, max_size=3, unique_by=lambda pool: pool.name).map(tuple),
    ),
    slo=st.builds(
        Slo,
        bounds=st.lists(
            st.builds(
                Bound,
                metric=st.sampled_from(["ttft", "tpot", "e2e"]),
                percentile=st.floats(0.001, 99.999),
                limit_ms=st.floats(1e-6, 1e9),
            ),
            max_size=4,
            unique_by=lambda bound: bound.label,
        ).map(tuple),
    ),
    workload=st.builds(
        Workload,
        isl=st.integers(1, 10**6),
        osl=st.integers(2, 10**6),
        rate_rps=st.floats(1e-6, 1e6),
        routing=st.sampled_from(["balanced", "power_law_1.01"]),
        prefix_hit=st.floats(0, 1),
        speculation=st.none() | st.builds(Speculation, draft_tokens=st.integers(1, 64), acceptance=st.floats(0, 1)),
    ),
    precision=st.sampled_from([None, "fp8", "bf16,fp8", "any"]),
    disaggregation=st.sampled_from(["auto", "never", "always"]),
    objective=st.sampled_from([None, "throughput", "cost", "gpus", "latency"]),
    framework=st.sampled_from(["vllm", "sglang", "trtllm"]),
    confidence=st.floats(0.001, 0.999),
    max_tp=st.none() | st.integers(1, 64),
    tp_across_nodes=st.booleans(),
    time_limit_s=st.floats(0.001, 3600),
)


def test_facts_of_a_workload_are_understood() -> None:
    work = parse_workload("isl=4000,osl=500,prefix_hit=0.5,draft=4,acceptance=0.7,draft_cost=.05")
    assert work.cached_tokens == 2000
    assert work.speculation == Speculation(draft_tokens=4, acceptance=0.7, draft_cost=0.05)
    assert parse_workload("isl=10,osl=2,prefix_hit=1").cached_tokens == 9, "the last token is computed: it yields one"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"slo": "tpot=30ms"}, "tpot with osl=1"),
        ({"workload": "isl=10,osl=1,draft=2,acceptance=0.5"}, "speculation with osl=1"),
        ({"disaggregation": "always"}, "always with osl=1"),
    ],
)
def test_what_needs_a_second_token_is_refused_where_there_is_none(more: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        parse_request({**ASKED, "workload": "isl=10,osl=1", **more})
    assert refused.value.hint


@pytest.mark.parametrize(
    ("value", "meant"),
    [("fp8", ("fp8",)), ("bf16, fp8,bf16", ("bf16", "fp8")), (["any"], ("any",)), (None, None)],
)
def test_precisions_to_choose_from(value: Any, meant: Any) -> None:
    assert parse_request({**ASKED, "precision": value}).precision == meant


@settings(max_examples=60, deadline=None)
@given(REQUESTS)
def test_request_survives_json_with_units_and_prices(request: PlanRequest) -> None:
    back = parse_request(
        json.loads(request.model_dump_json())
    )  # its cluster may say supplies: more fields, at their defaults
    assert back.model_dump(exclude_defaults=True) == request.model_dump(exclude_defaults=True)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([parse_slo, parse_workload, parse_cluster]), st.text(max_size=60))
def test_any_text_is_understood_or_refused_properly(parse: Any, text: str) -> None:
    try:
        parse(text)
    except InputError as error:
        assert error.message  # noqa: PT017
        assert error.hint  # noqa: PT017


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["slo", "workload", "cluster"]),
    st.text("ttftpoisl2_=.,0159e-+xH mMsµμſın/", max_size=30),
)
def test_text_that_is_nearly_right_is_understood_or_refused_properly(field: str, text: str) -> None:
    try:
        parse_request({**ASKED, field: text})
    except InputError as error:
        assert error.hint  # noqa: PT017
