"""The plan document: its schema, what it refuses, and that plans of old still open."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.contract.published import validated
from planner.kinds import KINDS, schema
from planner.serving.document.plan import SCHEMA_VERSION, Plan, parse_plan, read_plan
from planner.serving.request import PlanRequest, parse_request
from profiles.errors import DataError, InputError
from profiles.values import named

FIXTURES = Path(__file__).parent / "fixtures"
OLDEST = FIXTURES / "plan-1.0.json"
"""Written by ``plan --json`` (README's example). It is never rewritten to suit a later program."""

NEWEST = FIXTURES / f"plan-{SCHEMA_VERSION}.json"
"""As the oldest, of a disaggregated plan."""

TEXT = NEWEST.read_text("utf-8")

MAPS = {"alone", "standard_errors_ms", "step_ms_by_part", "ttft_ms_by_part", "weights", "decode_weights"}
COUNTS = {"engines", "instances", "starting", "lost"}
PERHAPS = {"alone"}  # maps whose numbers may be missing
OPEN = {"config"}  # somebody else's document
"""Properties that are maps with free keys and numbers for values; everything else is closed."""

KEYWORDS = {
    *("$schema", "$id", "$defs", "$ref", "title", "description", "default", "type", "const", "enum", "anyOf"),
    *("pattern", "prefixItems", "properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
    *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


@pytest.fixture
def document() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(TEXT)
    return content


def refused(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_plan(text)
    assert caught.value.hint
    assert caught.value.message.startswith("plan: ")
    return caught.value


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(TEXT)
    change(content)
    return json.dumps(content)


# ------------------------------------------------------------------ schema


@pytest.mark.parametrize("what", ["plan", "request"])
def test_schema_is_valid_draft_2020_12(what: Literal["plan", "request"]) -> None:
    document = schema(what)
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    kind = KINDS["serving"]
    versions = {"plan": f"serving:{SCHEMA_VERSION}", "request": f"serving-request:{kind.request_version}"}
    assert document["$id"] == f"urn:shardwright:{versions[what]}"
    json.dumps(document, allow_nan=False)


def _objects(node: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if node.get("type") == "object" or "properties" in node:
            yield name, node
        for key, value in node.items():
            yield from _objects(value, name if key == "anyOf" else key)
    elif isinstance(node, list):
        for value in node:
            yield from _objects(value, name)


@pytest.mark.parametrize("what", ["plan", "request"])
def test_every_object_of_the_schema_is_closed(what: Literal["plan", "request"]) -> None:
    found = list(_objects(schema(what), what))
    assert len(found) > 4
    for name, node in found:
        if name in OPEN:
            assert node["additionalProperties"] is True
        elif name in MAPS:
            assert node["additionalProperties"] == {"type": "number"}
        elif name in COUNTS:
            assert node["additionalProperties"] == {"type": "integer"}
        elif name in PERHAPS:
            assert node["additionalProperties"] == {"anyOf": [{"type": "number"}, {"type": "null"}]}
        else:
            assert node.get("additionalProperties") is False, name


STATE = {"clock_mhz", "power_cap_watts"}
LEFT_OUT: dict[str, set[str]] = {
    "MemoryParts": {"kv_sequences"},
    "Layout": {"redundant", "exchange", "overlap", "eplb", "dispatch_tokens"},
    "Alternative": {*STATE, "joules_per_output_token"},
    "OperatingPoint": {*STATE, "joules_per_output_token"},
    "EngineGroup": STATE,
    "Alternatives": {"energy"},
    "RequestUnderstood": {"power_cap", "clock", "rows", "budget_watts", "usd_per_kwh"},
    "Prediction": {"electricity_usd_per_hour"},
    "FleetProof": {"rows"},
    "SuppliedPool": {"preference"},
    "ScheduledStep": {"after_losses"},
    "Route": {"decode_weights"},
}
"""Where there is none."""


def test_every_field_of_the_plan_is_always_there() -> None:
    for name, node in _objects(schema("plan"), "plan"):
        if name not in MAPS | COUNTS | OPEN | PERHAPS:
            assert set(node["required"]) == set(node["properties"]) - LEFT_OUT.get(name, set()), name


@pytest.mark.parametrize("what", ["plan", "request"])
def test_schema_holds_no_words_that_json_schema_does_not_know(what: Literal["plan", "request"]) -> None:
    def words(node: Any) -> Iterator[str]:
        if isinstance(node, list):
            for item in node:
                yield from words(item)
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            yield key
            if key in ("properties", "$defs"):
                for item in value.values():
                    yield from words(item)
            elif key not in ("default", "enum", "const", "examples"):
                yield from words(value)

    assert set(words(schema(what))) <= KEYWORDS


@pytest.mark.parametrize(
    "request_",
    [
        {"model": "m", "cluster": "16xH200", "workload": "isl=1,osl=1"},
        {"model": "m", "cluster": "x", "slo": {}, "workload": {"isl": 1, "osl": 1, "rate_rps": None}},
        {"model": "m", "cluster": {"name": "x", "pools": [{"gpu": "H200", "nodes": 1}]}, "workload": ""},
        {"model": "m", "cluster": {"name": "x", "pools": [{"gpu": "H200", "gpus": 1}]}, "workload": "", "max_tp": 2},
    ],
)
def test_request_schema_takes_what_the_parser_takes(request_: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema("request")).validate(request_)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tp": 0},
        {"max_tp": "2"},
        {"max_tp": 100_001},
        {"cluster": {"name": "x", "pools": []}},
        {"cluster": {"name": "x", "pools": [{"gpu": "H200", "gpus": 0}]}},
        {"slo": {"bounds": [{"metric": "ttft", "limit_ms": 0}]}},
        {"workload": {"isl": 1, "osl": 1, "rate_rps": 0}},
        {"workload": {"isl": 1, "osl": True}},
        {"foo": 1},
    ],
)
def test_request_schema_and_parser_refuse_alike(fields: dict[str, Any]) -> None:
    request = {"model": "m", "cluster": "16xH200", "workload": "isl=1,osl=1", **fields}
    assert not jsonschema.Draft202012Validator(schema("request")).is_valid(request)
    with pytest.raises(InputError):
        parse_request(request)


def test_an_understood_request_is_one_that_the_schema_takes() -> None:
    request: PlanRequest = parse_request({"model": "m", "cluster": "16xH200+8xH20", "workload": "isl=1,osl=1"})
    jsonschema.Draft202012Validator(schema("request")).validate(request.model_dump(mode="json"))


# ------------------------------------------------------------------ round trip


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("plan-*.json")), ids=lambda file: file.stem)
def test_plans_of_old_still_open(file: Path) -> None:
    plan = read_plan(file)
    written = json.loads(plan.to_json())
    jsonschema.Draft202012Validator(schema("plan")).validate(written)
    assert plan.decision.engines
    # Later versions only add: what the old one said is still said.
    old = json.loads(file.read_text("utf-8"))
    assert kept(old | {"schema_version": SCHEMA_VERSION, "digest": written["digest"]}, written)


def kept(old: Any, new: Any) -> bool:
    if isinstance(old, dict):
        return all(key in new and kept(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return len(old) == len(new) and all(map(kept, old, new))
    return bool(old == new)


def test_a_plan_of_schema_1_0_says_what_was_so_then() -> None:
    plan = read_plan(OLDEST)
    assert plan.request.disaggregation == "never"
    assert plan.request.workload.prefix_hit == 0
    assert plan.request.workload.speculation is None
    assert plan.proof.compared == ()
    assert plan.prediction.kv_transfer is None
    assert plan.prediction.ttft_ms.p95 is None


def test_the_newest_fixture_is_of_this_schema() -> None:
    document = json.loads(TEXT)
    jsonschema.Draft202012Validator(schema("plan")).validate(document)
    assert {group["role"] for group in document["decision"]["engines"]} == {"prefill", "decode"}


def test_plan_written_again_is_the_same_bytes() -> None:
    plan = parse_plan(TEXT)
    assert plan.to_json() == TEXT
    assert TEXT.endswith("}\n")
    assert validated(plan, parse_plan) == plan


def test_plan_has_the_promised_top_level_keys(document: dict[str, Any]) -> None:
    assert list(document) == [
        *("kind", "schema_version", "digest", "request", "decision", "prediction", "proof"),
        *("alternatives", "provenance"),
    ]


def test_text_that_is_not_ascii_is_written_as_it_is() -> None:
    text = changed(lambda plan: plan["provenance"].update(attribution="© Ünïcode 東京"))
    assert "© Ünïcode 東京" in parse_plan(text).to_json()
    assert parse_plan(parse_plan(text).to_json()) == parse_plan(text)


def test_a_plan_that_breaks_its_own_schema_is_a_defect() -> None:
    plan = parse_plan(TEXT)
    broken = plan.model_copy(update={"proof": plan.proof.model_copy(update={"gap": "none"})})
    with (
        pytest.warns(UserWarning, match="serializer"),
        pytest.raises(DataError, match="failed its own schema") as caught,
    ):
        validated(broken, parse_plan)
    assert caught.value.hint


# ------------------------------------------------------------------ refusals


def test_unknown_keys_are_refused_at_every_level(document: dict[str, Any]) -> None:
    def places(node: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
        if isinstance(node, dict):
            if not MAPS.intersection(map(str, path)):
                yield path
            for key, value in node.items():
                yield from places(value, (*path, key))
        elif isinstance(node, list) and node:
            yield from places(node[0], (*path, 0))

    for path in places(document, ()):
        broken = copy.deepcopy(document)
        node: Any = broken
        for step in path:
            node = node[step]
        node["surprise"] = 1
        where = ".".join(str(step) for step in (*path, "surprise"))
        assert refused(json.dumps(broken)).message == f"plan: {where} is not known"


@pytest.mark.parametrize("version", ["2.0", "10.0", "1.99", "0.9", "", 1, 1.0, None, ["1.0"], {"major": 1}])
def test_another_schema_version_is_refused(version: Any) -> None:
    error = refused(changed(lambda plan: plan.update(schema_version=version)))
    assert "schema_version" in error.message
    assert SCHEMA_VERSION in error.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "plan: not valid JSON"),
        (TEXT[:5000], "plan: not valid JSON"),
        (TEXT[:-3], "plan: not valid JSON"),
        (TEXT + "}", "plan: not valid JSON"),
        ("[" * 100_000, "plan: not valid JSON (more than 64 levels of nesting)"),
        ("9" * 5000, "plan: not valid JSON"),
        ('{"schema_version": "1.0", "schema_version": "1.0"}', "plan: not valid JSON (key 'schema_version' is given"),
        ("[]", "plan: schema_version is missing"),
        ("null", "plan: schema_version is missing"),
        ("{}", "plan: schema_version is missing"),
        ('{"schema_version": "1.0"}', "plan: request is missing"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, message: str) -> None:
    assert refused(text).message.startswith(message)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number: str) -> None:
    text = TEXT.replace('"utilisation": ', f'"utilisation": {number}, "_": ', 1)
    assert text != TEXT
    assert refused(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("16", "plan: decision.gpus_used: '16' should be a valid integer"),
        (True, "plan: decision.gpus_used: true should be a valid integer"),
        (1.5, "plan: decision.gpus_used: 1.5 should be a valid integer"),
        (None, "plan: decision.gpus_used: null should be a valid integer"),
        ([16], "plan: decision.gpus_used: a list should be a valid integer"),
    ],
)
def test_values_of_another_type_are_refused_not_converted(value: Any, message: str) -> None:
    assert refused(changed(lambda plan: plan["decision"].update(gpus_used=value))).message.startswith(message)


def test_missing_fields_are_named() -> None:
    assert refused(changed(lambda plan: plan["proof"].pop("bound"))).message == "plan: proof.bound is missing"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"schema_version": "\xe9"}')
    for path in (tmp_path, tmp_path / "none.json", tmp_path / ("x" * 5000), Path("a\0b"), latin):
        with pytest.raises(InputError, match="cannot be read") as caught:
            read_plan(path)
        assert caught.value.message.startswith(f"plan {named(path)}")
    cut = tmp_path / "cut.json"
    cut.write_text(TEXT[:100])
    with pytest.raises(InputError, match="not valid JSON") as caught:
        read_plan(cut)
    assert str(cut) in caught.value.message


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(TEXT) - 3))
def test_a_plan_cut_off_anywhere_is_refused(length: int) -> None:
    refused(TEXT[:length])


def test_plans_are_equal_to_what_they_were_made_of() -> None:
    plan = parse_plan(TEXT)
    assert Plan(**{name: getattr(plan, name) for name in Plan.model_fields}) == plan
