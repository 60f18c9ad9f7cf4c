"""The REST service: the same plan as the command line's, and a problem document for everything else."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from service import ASKED, BODY_LIMIT, PLAN, Client, StubPlanner, problem

from api.rest import health
from api.rest.app import create_app
from api.rest.openapi import request_examples
from costmodels.models.registry import registered
from planner.kinds import KINDS, schema, schema_names
from planner.serving.document.plan import SCHEMA_VERSION, Plan, parse_plan
from planner.serving.fleets.request import parse_fleet_request
from planner.serving.request import PlanRequest, parse_request
from profiles.errors import (
    DataError,
    Infeasible,
    InputError,
    LimitReached,
    ShardwrightError,
    UnknownName,
    Unsupported,
)
from profiles.hardware import fabrics, gpus, nodes
from profiles.store import ProfileStore, shipped_pack

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def planner() -> StubPlanner:
    return StubPlanner()


@pytest.fixture
def client(planner: StubPlanner) -> Client:
    return Client(create_app(planner.kinds()))


# ------------------------------------------------------------------ plans


def test_a_plan_is_the_documents_bytes(client: Client) -> None:
    response = client.plan(json=ASKED)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.content == PLAN.to_json().encode()
    assert client.plan(json=ASKED).content == response.content


@pytest.mark.parametrize("content_type", ["application/json", "APPLICATION/JSON; charset=UTF-8"])
def test_the_body_is_read_by_the_one_parser(client: Client, planner: StubPlanner, content_type: str) -> None:
    for example in request_examples(KINDS["serving"]).values():
        content = json.dumps(example["value"])
        assert client.plan(content=content, headers={"Content-Type": content_type}).status_code == 200
        if "services" not in example["value"]:
            assert planner.requests[-1] == parse_request(example["value"])


def test_a_models_path_is_an_unknown_name(client: Client, planner: StubPlanner, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("secret")
    for path in (tmp_path, tmp_path / "config.json"):
        document = problem(client.plan(json={**ASKED, "model": str(path)}), 422, "unknown-name")
        assert document["details"]["field"] == "model"
        assert "path" not in document["hint"]
        assert "secret" not in json.dumps(document)
    assert not planner.requests, "it need not become a job to be refused"


def test_a_clusters_path_is_not_understood(client: Client, planner: StubPlanner, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("pools: [{gpu: H200, gpus: 8}]")
    problem(client.plan(json={**ASKED, "cluster": str(file)}), 422, "input-error")
    assert not planner.requests


@pytest.mark.parametrize("at_once", [1, 2])
def test_plans_are_made_a_few_at_a_time_while_other_requests_are_answered(at_once: int) -> None:
    running, most = 0, 0
    lock, go = threading.Lock(), threading.Event()

    def slow(request: PlanRequest) -> Plan:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert go.wait(10)
        time.sleep(0.02)
        with lock:
            running -= 1
        return PLAN

    def asked(number: int) -> dict[str, str]:
        return {**ASKED, "workload": f"isl={4000 + number},osl=500"}

    async def scenario() -> list[httpx.Response]:
        async with Client(
            create_app({"serving": replace(KINDS["serving"], make=slow)}, at_once=at_once)
        ).open() as client:
            plans = [asyncio.create_task(client.post("/v1/plans", json=asked(n))) for n in range(4)]
            while running < at_once:
                await asyncio.sleep(0.005)
            assert (await client.get("/v1/schemas/plan")).status_code == 200
            assert (await client.post("/v1/plans", json={})).status_code == 422
            go.set()
            return await asyncio.gather(*plans)

    responses = asyncio.run(asyncio.wait_for(scenario(), 20))
    assert [response.status_code for response in responses] == [200] * 4
    assert most == at_once


# ------------------------------------------------------------------ errors


ERRORS: list[tuple[ShardwrightError, int, str]] = [
    (InputError("workload: wrong", "do better", field="workload"), 422, "input-error"),
    (UnknownName("gpu", "H2000", ["H200", "H100"]), 422, "unknown-name"),
    (Unsupported("precision: fp4", "choose another"), 422, "unsupported"),
    (DataError("pack: broken", "reinstall"), 500, "data-error"),
    (Infeasible("slo: ttft_p90 binds", "relax it", binding="ttft_p90", best=1.5), 409, "infeasible"),
    (LimitReached("time_limit_s: passed", "allow more"), 504, "limit-reached"),
    (ShardwrightError("something", "else"), 500, "shardwright-error"),
]


@pytest.mark.parametrize(("error", "status", "kind"), ERRORS, ids=[kind for _, _, kind in ERRORS])
def test_our_errors_are_problem_documents(error: ShardwrightError, status: int, kind: str) -> None:
    document = problem(Client(create_app(StubPlanner(error).kinds())).plan(json=ASKED), status, kind)
    assert document["title"] == error.title
    assert document["detail"] == error.message
    assert document["hint"] == error.hint
    assert document["details"] == error.details


def test_details_that_json_cannot_hold_are_left_out() -> None:
    error = Infeasible("m", "h", good=[1, "a", None], infinite=float("inf"), odd={1, 2}, path=Path("/x"))
    document = problem(Client(create_app(StubPlanner(error).kinds())).plan(json=ASKED), 409, "infeasible")
    assert document["details"] == {"good": [1, "a", None]}


def test_an_unexpected_error_tells_nothing_of_the_inside() -> None:
    response = Client(create_app(StubPlanner(RuntimeError("secret /etc/path")).kinds())).plan(json=ASKED)
    document = problem(response, 500, "internal-error")
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    assert "defect" in document["hint"]


def test_an_error_of_broken_data_is_in_the_servers_log(caplog: pytest.LogCaptureFixture) -> None:
    Client(create_app(StubPlanner(DataError("pack: broken", "reinstall")).kinds())).plan(json=ASKED)
    assert "pack: broken" in caplog.text


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/plans/", "/v1/plan", "/v1/schemas/plan/x", "/docs", "/redoc"])
def test_an_unknown_path_is_a_problem(client: Client, path: str) -> None:
    document = problem(client.get(path), 404, "not-found")
    assert path in document["detail"]
    assert "/openapi.json" in document["hint"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/v1/jobs", "GET"), ("DELETE", "/v1/models", "GET"), ("POST", "/healthz", "GET")],
)
def test_another_method_is_a_problem_that_says_which_is_allowed(
    client: Client, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "it is empty"),
        (b'{"model": ', "expecting value, at column 11"),
        (b"model: x", "expecting value"),
        (b'{"model": "\xff"}', "byte 12 is not valid utf-8"),
        (b"\xef\xbb\xbf{}", "expecting value"),
        (b'{"time_limit_s": NaN}', "NaN is not a number"),
        (b'{"time_limit_s": -Infinity}', "-Infinity is not a number"),
        (b'{"model": "a", "model": "b"}', "key 'model' is given twice"),
        (b"[" * 100_000, "levels of nesting"),
        (b'{"a":' * 100_000, "levels of nesting"),
        (b"9" * 5000, "digits"),
    ],
)
def test_a_body_that_is_not_json_is_a_problem(client: Client, body: bytes, reason: str) -> None:
    response = client.plan(content=body, headers=JSON)
    document = problem(response, 400, "malformed-json")
    assert document["detail"].startswith("body: not valid JSON")
    assert reason in document["detail"]


@pytest.mark.parametrize(
    ("fields", "kind", "detail"),
    [
        ({"cluster": "16xH2000"}, "unknown-name", "cluster GPU: 'H2000' is not known"),
        ({"slo": "ttft=1"}, "input-error", "slo: ttft='1' has no unit"),
        ({"workload": {"isl": 0, "osl": 1}}, "input-error", "request: workload.isl: 0 should be greater than 0"),
        ({"colour": "red"}, "input-error", "request: colour is not known"),
        ({"model": "\ud800"}, "input-error", r"request: model: '\ud800' should be a valid string"),
        ({"\ud800": 1}, "input-error", "request: "),
        ({"max_tp": 10**400}, "input-error", "request: max_tp: a number of more than 80 digits"),
        ({"time_limit_s": 10**400}, "input-error", "request: time_limit_s: a number of more than 80 digits"),
    ],
)
def test_a_request_that_is_wrong_is_a_problem_that_names_the_field(
    client: Client, planner: StubPlanner, fields: dict[str, Any], kind: str, detail: str
) -> None:
    response = client.plan(content=json.dumps({**ASKED, **fields}), headers=JSON)
    document = problem(response, 422, kind)
    assert document["detail"].startswith(detail)
    assert not planner.requests


@pytest.mark.parametrize("body", [[], "text", 5, None, True, {}])
def test_json_that_is_no_request_is_a_problem(client: Client, body: Any) -> None:
    problem(client.plan(content=json.dumps(body), headers=JSON), 422, "input-error")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json2"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_a_body_that_is_not_json_by_its_headers_is_a_problem(client: Client, headers: dict[str, str]) -> None:
    document = problem(client.plan(content=json.dumps(ASKED), headers=headers), 415, "unsupported-media-type")
    assert "application/json" in document["hint"]


def test_a_body_too_large_is_a_problem(client: Client) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 65536 + 1):
            yield b" " * 65536

    for content in (b" " * (BODY_LIMIT + 1), pieces()):  # announced by Content-Length, and not
        document = problem(client.plan(content=content, headers=JSON), 413, "content-too-large")
        assert str(BODY_LIMIT) in document["detail"]
    just_fits = json.dumps(ASKED).encode().ljust(BODY_LIMIT)
    assert client.plan(content=just_fits, headers=JSON).status_code == 200


def test_a_large_body_of_nonsense_is_refused_quickly(client: Client) -> None:
    started = time.process_time()
    problem(client.plan(json={f"k{i}": i for i in range(50_000)}), 422, "input-error")
    problem(client.plan(json={**ASKED, "slo": {"bounds": [{"x": 1}] * 50_000}}), 422, "input-error")
    assert time.process_time() - started < 5


# ------------------------------------------------------------------ what can be looked up


def test_health_names_package_and_measurements(client: Client) -> None:
    pack = shipped_pack().manifest
    document = client.get("/healthz").json()
    assert document["status"] == "ok"
    assert document["version"]
    assert document["pack"] == {"name": pack.name, "version": pack.version, "hash": pack.content_hash}


def test_health_is_a_problem_when_the_measurements_cannot_be_read(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "pack"
    shutil.copytree(shipped_pack().path, broken)
    (broken / "collective.parquet").write_bytes(b"not parquet")
    monkeypatch.setattr(health, "shipped_pack", lambda: ProfileStore(broken))
    assert "collective.parquet" in problem(client.get("/healthz"), 503, "data-error")["detail"]
    (broken / "manifest.json").write_text("{")
    assert "manifest.json" in problem(client.get("/healthz"), 503, "data-error")["detail"]
    shutil.rmtree(broken)
    problem(client.get("/healthz"), 503, "data-error")


def test_models_and_gpus_are_those_of_the_catalogues(client: Client) -> None:
    models = client.get("/v1/models").json()["models"]
    assert [model["name"] for model in models] == [model.name for model in registered()]
    hardware = client.get("/v1/gpus").json()
    assert [gpu["name"] for gpu in hardware["gpus"]] == list(gpus())
    assert [node["name"] for node in hardware["nodes"]] == list(nodes())
    assert [fabric["name"] for fabric in hardware["fabrics"]] == list(fabrics())
    priced = {gpu["name"]: gpu["on_demand_price"] for gpu in hardware["gpus"]}
    assert priced["H200"]["usd_per_gpu_hour"] > 0
    assert priced["H20"] is None


def test_schemas_are_those_of_the_command_line(client: Client) -> None:
    for name in schema_names():
        assert client.get(f"/v1/schemas/{name}").json() == schema(name)
    listed = client.get("/v1/schemas").json()["schemas"]
    assert [each["name"] for each in listed] == list(schema_names())
    for each in listed:
        assert client.get(each["path"]).json()["$id"].endswith(f":{each['schema_version']}")


def test_a_word_like_none_that_is_known_is_told_all_once(client: Client) -> None:
    document = problem(client.plan(json={**ASKED, "disaggregation": "maybe"}), 422, "unknown-name")
    assert document["hint"] == "choose from auto, never, always"


def test_an_unknown_schema_is_told_the_nearest(client: Client) -> None:
    document = problem(client.get("/v1/schemas/serving-reqest"), 404, "not-found")
    assert document["detail"] == "schema: 'serving-reqest' is not known"
    assert document["hint"].startswith("nearest: serving-request, ")
    assert document["hint"].endswith("; GET /v1/schemas lists them")


@pytest.mark.parametrize("path", ["/livez", "/v1/models", "/v1/schemas/plan", "/v1/nothing"])
def test_head_is_get_without_the_body(client: Client, path: str) -> None:
    whole, head = client.get(path), client.request("HEAD", path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.content))


def test_a_hint_names_the_requests_own_schema(client: Client) -> None:
    for body, hint in (
        ({"to": "slurm"}, "says what is needed"),
        ([], "write an object"),
        ({"nope": 1, "plan": {}, "to": "x"}, ""),
    ):
        document = problem(client.request("POST", "/v1/exports", json=body), 422, "input-error")
        assert hint in document["hint"]
    assert (
        "`plan schema export-request`"
        in problem(client.request("POST", "/v1/exports", json=[]), 422, "input-error")["hint"]
    )


@pytest.mark.parametrize("size", ["0", "201", "1_0", "１２", "ten", "1.5", ""])
@pytest.mark.parametrize("path", ["/v1/documents", "/v1/plans", "/v1/jobs"])
def test_the_size_of_a_page_is_a_number_in_digits(client: Client, path: str, size: str) -> None:
    document = problem(client.get(f"{path}?limit={size}"), 422, "input-error")
    assert document["detail"].endswith("is not a whole number from 1 to 200")
    assert client.get(f"{path}?limit=200").status_code == 200


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/documents?kin=memory", "this takes kind, model, since, until, limit, cursor"),
        ("/v1/gpus?x=1", "this takes none in its address"),
    ],
)
def test_a_misspelt_filter_is_not_one_that_is_left_out(client: Client, path: str, said: str) -> None:
    document = problem(client.get(path), 422, "input-error")
    assert document["detail"].endswith(": is no parameter of this")
    assert document["hint"] == said


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"slo": "tpot=soon"}, "/slo"),
        ({"slo": {"bounds": [{"metric": "ttft", "percentile": 50, "limit_ms": -1}]}}, "/slo/bounds/0/limit_ms"),
        ({"workload": "isl=0,osl=1"}, "/workload"),
        ({"model": {"config": {}}}, "/model/name"),
        ({"cluster": {"name": "ours", "pools": [{"gpu": "H200", "gpus": -1}]}}, "/cluster/pools/0/gpus"),
        ({"cluster": {"name": "ours", "pools": [{"gpu": "H9000", "gpus": 1}]}}, "/cluster"),
        ({"cluster": None}, "/cluster"),
        ({"surprise": 1}, "/surprise"),
    ],
)
def test_a_pointer_leads_to_what_is_wrong(client: Client, fields: dict[str, Any], pointer: str) -> None:
    response = client.plan(json={**ASKED, **fields})
    assert (response.status_code, response.json()["pointer"]) == (422, pointer)


@pytest.mark.parametrize("kind", ["export", "simulation"])
def test_what_is_no_document_is_said_of_its_field(client: Client, kind: str) -> None:
    body = {**KINDS[kind].request_example(), "plan": 5}
    document = problem(client.request("POST", KINDS[kind].route, json=body), 422, "input-error")
    assert document["detail"] == "request: plan: 5 is not an object"


# ------------------------------------------------------------------ OpenAPI


def test_openapi_examples_are_valid_and_belong_together(client: Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/plans"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {"short", "objects", "fleet"}
    parse_fleet_request(examples.pop("fleet")["value"])
    requests = {name: parse_request(example["value"]) for name, example in examples.items()}
    answer = operation["responses"]["200"]["content"]["application/json"]["examples"]["short"]["value"]
    made = parse_plan(json.dumps(answer)).request
    assert made.framework.partition("@")[0] == requests["short"].framework
    for field in ("model", "cluster", "slo", "workload", "time_limit_s"):
        assert getattr(made, field) == getattr(requests["short"], field)
    assert made.objective == requests["short"].goal


def test_openapi_documents_every_error_as_a_problem(client: Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    responses = paths["/v1/plans"]["post"]["responses"]
    assert {"200", "202", "400", "409", "413", "415", "422", "500", "503", "504"} <= set(responses)
    for path, operations in paths.items():
        for operation in operations.values():
            assert "500" in operation["responses"], path
            if path not in ("/livez", "/readyz"):
                assert {"401", "403", "429", "503"} <= set(operation["responses"]), path
            for status, response in operation["responses"].items():
                if status >= "400":
                    content = response["content"]["application/problem+json"]
                    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_openapi_has_the_published_schemas(client: Client) -> None:
    components = client.get("/openapi.json").json()["components"]["schemas"]
    # A simulation's request holds a plan as well, which may leave out what has a default.
    for name, published in (("Plan-Output", schema("plan")), ("PlanRequest", schema("request"))):
        text = json.dumps(components[name]).replace("#/components/schemas/", "#/$defs/")
        text = text.replace("-Input", "").replace("-Output", "")  # where request and plan differ
        assert json.loads(text)["properties"] == published["properties"]
    assert KINDS["serving"].example()["schema_version"] == SCHEMA_VERSION
