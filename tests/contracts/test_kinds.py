"""Every kind of decision: schemas, examples, routes, old versions, and a request that answers like its example."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import typer.main

from api.cli.main import application
from api.rest.app import create_app
from planner.contract.documents import checked
from planner.contract.kind import Kind
from planner.contract.provenance import Provenance
from planner.contract.published import digest_of, kind_of, version_of
from planner.kinds import ALIASES, KINDS, answer, example, questions, schema, schema_names
from profiles.errors import InputError, UnknownName

TESTS = Path(__file__).parents[1] / "planner"
OLD = {"serving": TESTS / "serving" / "fixtures", "experts": TESTS / "experts" / "fixtures"}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def call(kinds: dict[str, Kind], path: str, body: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(kinds), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, json=body)

    return asyncio.run(send())


def shortest(text: str) -> float:
    """A number as JavaScript writes it: 1 for 1.0."""
    return int(value) if (value := float(text)).is_integer() else value


class TestKind:
    def test_document_says_kind_version_and_provenance(self, kind: Kind) -> None:
        fields = list(kind.document.model_fields)
        assert fields[:3] == ["kind", "schema_version", "digest"]
        assert fields[-1] == "provenance"
        assert (kind_of(kind.document), version_of(kind.document)) == (kind.name, kind.version)
        assert issubclass(kind.document.model_fields["provenance"].annotation or object, Provenance)

    def test_schemas_are_valid_closed_and_carry_their_own_version(self, kind: Kind) -> None:
        for name, version in ((kind.name, kind.version), (kind.request_name, kind.request_version)):
            published = schema(name)
            jsonschema.Draft202012Validator.check_schema(published)
            assert published["$id"] == f"urn:shardwright:{name}:{version}"
            assert published["additionalProperties"] is False
        assert schema(kind.name)["properties"]["kind"]["const"] == kind.name

    def test_examples_keep_the_schemas_and_read_back(self, kind: Kind) -> None:
        for name in (kind.name, kind.request_name):
            jsonschema.Draft202012Validator(schema(name)).validate(example(name))
        checked(kind.request, example(kind.request_name), "request")
        text = json.dumps(example(kind.name))
        assert json.loads(kind.parse(text).to_json()) == example(kind.name)

    def test_a_document_carries_its_digest_and_an_edit_shows(self, kind: Kind) -> None:
        document = example(kind.name)
        example_file = f"planner/examples/{kind.name}.json"
        assert document["digest"] == digest_of(document), f"{example_file} is not as the program writes it"
        assert not kind.parse(json.dumps(document)).was_edited
        reordered = json.dumps(dict(reversed(document.items())))
        assert not kind.parse(json.dumps(json.loads(reordered, parse_float=shortest))).was_edited, "1 is 1.0"
        edited = {**document, "provenance": {**document["provenance"], "pack": "other"}}
        for changed in (edited, {**document, "digest": None}, {**document, "digest": "0" * 64}):
            assert kind.parse(json.dumps(changed)).was_edited

    def test_a_document_from_before_there_were_digests_opens_sealed(self, kind: Kind) -> None:
        document = {name: value for name, value in example(kind.name).items() if name != "digest"}
        last = next(reversed(kind.older), None)
        if last is None:
            pytest.skip("there were none")
        opened = kind.parse(json.dumps({**document, "schema_version": last}))
        assert not opened.was_edited
        assert kind.parse(json.dumps({**document, "schema_version": last, "digest": "0" * 64})).was_edited

    def test_another_kind_and_another_version_are_refused(self, kind: Kind) -> None:
        for changes, said in (({"kind": "other"}, "of kind 'other'"), ({"schema_version": "99.0"}, "'99.0'")):
            with pytest.raises(InputError, match=said):
                kind.parse(json.dumps({**example(kind.name), **changes}))

    def test_no_request_names_a_file(self, kind: Kind) -> None:
        def types(node: Any) -> Iterator[str]:
            if isinstance(node, dict):
                if isinstance(node.get("format"), str):
                    yield node["format"]
                for value in node.values():
                    yield from types(value)
            elif isinstance(node, list):
                for value in node:
                    yield from types(value)

        assert not {"path", "file-path", "directory-path"} & set(types(schema(kind.request_name)))

    def test_route_takes_the_request_and_answers_with_the_documents_bytes(self, kind: Kind) -> None:
        seen: list[Any] = []
        answer = kind.parse(json.dumps(example(kind.name)))

        def make(request: Any) -> Any:
            seen.append(request)
            return answer

        response = call({kind.name: replace(kind, make=make)}, kind.route, example(kind.request_name))
        assert (response.status_code, response.content) == (200, kind.written(answer))
        assert response.headers["content-type"].startswith(kind.media_type)
        assert seen == [checked(kind.request, example(kind.request_name), "request")]

    def test_route_refuses_what_the_schema_does_not_know(self, kind: Kind) -> None:
        response = call({kind.name: kind}, kind.route, {**example(kind.request_name), "surprise": 1})
        assert response.status_code == 422
        assert response.json()["detail"] == "request: surprise is not known"

    @pytest.mark.slow
    def test_the_example_request_is_answered(self, kind: Kind) -> None:
        made = answer(kind.name, example(kind.request_name))
        assert kind.parse(made.to_json()) == made


def test_python_asks_by_name() -> None:
    asked = example("memory-request")
    assert answer("memory", asked) == KINDS["memory"].make(checked(KINDS["memory"].request, asked, "request"))
    with pytest.raises(InputError, match="services is missing") as missing:
        answer("fleet", {})
    assert missing.value.hint == "`plan schema fleet-request` says what is needed"
    with pytest.raises(UnknownName, match="'memories' is not known"):
        answer("memories", asked)


FORMS = [form for form in questions() if form.form]


@pytest.mark.parametrize("form", FORMS, ids=[form.form for form in FORMS])
class TestForm:
    def test_its_request_has_a_schema_and_an_example(self, form: Kind) -> None:
        asked = form.request_example()
        jsonschema.Draft202012Validator(schema(form.request_name)).validate(asked)
        checked(form.request, asked, "request")
        kind = KINDS[form.name]
        assert kind.asked_by(asked) is form
        for other in (kind, *(each for each in kind.forms if each is not form)):
            assert form.told_by not in other.request.model_fields
            assert kind.asked_by(other.request_example()) is other

    def test_the_kinds_route_takes_it_too(self, form: Kind) -> None:
        seen: list[Any] = []
        answer = form.parse(json.dumps(form.example()))

        def make(request: Any) -> Any:
            seen.append(request)
            return answer

        kind = replace(KINDS[form.name], forms=(replace(form, make=make),))
        response = call({kind.name: kind}, kind.route, form.request_example())
        assert (response.status_code, response.content) == (200, answer.to_json().encode())
        assert seen == [checked(form.request, form.request_example(), "request")]
        response = call({kind.name: kind}, kind.route, {**form.request_example(), "surprise": 1})
        assert response.json()["detail"] == "request: surprise is not known"


@pytest.mark.parametrize("name", OLD)
def test_documents_of_every_version_still_open(name: str) -> None:
    kind = KINDS[name]
    files = sorted(OLD[name].glob("*.json"))
    versions = {json.loads(file.read_text("utf-8"))["schema_version"] for file in files}
    assert versions == {*kind.older, kind.version}, "a fixture of each"
    for file in files:
        opened = kind.parse(file.read_text("utf-8"))
        jsonschema.Draft202012Validator(schema(name)).validate(json.loads(opened.to_json()))


def test_a_placement_of_microseconds_opens_in_milliseconds() -> None:
    text = (OLD["experts"] / "experts-1.0.json").read_text("utf-8")
    old = json.loads(text)
    new = json.loads(KINDS["experts"].parse(text).to_json())
    assert new["prediction"][0]["after"]["total_ms"] == old["prediction"][0]["after"]["total_us"] / 1e3
    assert new["proof"]["balance_gap"] == old["proof"]["gap"]
    assert new["decision"] == old["decision"]
    # The same request today: the old document says all of it but where the measurements are from.
    today = example("experts")
    rounded = ("objective_value", "gap")
    assert [new["proof"].pop(name) for name in rounded] == pytest.approx([today["proof"].pop(name) for name in rounded])
    aside = {"provenance": None, "digest": None}
    assert {**new, **aside} == {**today, **aside}
    assert new["provenance"]["pack"] == "not recorded"


WITHOUT_A_ROUTE = {
    "models": "GET /v1/models",
    "gpus": "GET /v1/gpus",
    "schema": "GET /v1/schemas/NAME",
    "serve": "is the service",
    "keys": "who may ask it",
    "db": "its database",
    "prices": "reads catalogues of prices into a file",
    "calibrate": "keeps a store on the machine that it runs on",
    "profile": "measures and keeps stores on the machine that it runs on",
}
"""Commands that are no question to the service, and why. `profile` stands for all below it."""


def test_every_question_of_the_command_line_has_its_route() -> None:
    def words(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
        yield " ".join(path)
        for name, command in getattr(group, "commands", {}).items():
            yield from words(command, (*path, name))

    asked = {name for name in words(typer.main.get_command(application())) if name.split(" ")[0] not in WITHOUT_A_ROUTE}
    commands = [kind.command for kind in questions()]
    assert asked - {*commands, *WITHOUT_A_ROUTE} == set(), "give the kind its `command`, or say here why it has none"
    assert set(commands) <= asked
    assert len({kind.route for kind in KINDS.values()}) == len(KINDS)


def test_names_from_before_there_were_kinds_stay() -> None:
    assert {name: schema(name) for name in ALIASES} == {
        "plan": schema("serving"),
        "request": schema("serving-request"),
    }
    assert set(KINDS) < set(schema_names())
    with pytest.raises(UnknownName, match="'plans'"):
        schema("plans")
