"""The service as callers see it: jobs, documents, keys, uploads. In this process, with kinds that answer at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service import ASKED, PLAN, Client, StubPlanner, problem

from api.rest.app import create_app
from api.service_settings import ServiceSettings
from api.storage.keys import SEEN_S, Keys
from api.work.answers import answer
from planner.contract.progress import Step
from planner.kinds import KINDS, example
from planner.serving.document.plan import Plan
from planner.serving.request import PlanRequest
from profiles.errors import Infeasible

ASYNC = {"Prefer": "respond-async"}


class Slow:
    """Plans when it is let."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.count = 0

    def __call__(self, request: PlanRequest) -> Plan:
        self.count += 1
        assert self.go.wait(20)
        return PLAN


def client_of(make: Any = None, **settings: Any) -> Client:
    kinds = StubPlanner().kinds()
    if make is not None:
        kinds["serving"] = replace(KINDS["serving"], make=make)
    given = {"database_url": "sqlite://", "workers": 1, "quick_workers": 0, **settings}
    return Client(create_app(kinds, ServiceSettings(**given)))


@pytest.fixture
def client() -> Iterator[Client]:
    made = client_of()
    yield made
    made.app.state.service.planner.close()


@pytest.fixture
def slow() -> Iterator[tuple[Client, Slow]]:
    make = Slow()
    made = client_of(make, queue_limit=2)
    yield made, make
    make.go.set()
    made.app.state.service.planner.close()


def asked(number: int) -> dict[str, str]:
    return {**ASKED, "workload": f"isl={4000 + number},osl=500"}


def until(client: Client, job: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        found: dict[str, Any] = client.get(job).json()
        if found["state"] == state:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


# ------------------------------------------------------------------ documents


def test_an_answer_is_found_again_by_its_path(client: Client) -> None:
    response = client.plan(json=ASKED)
    path = response.headers["content-location"]
    assert path.startswith("/v1/plans/")
    again = client.get(path)
    assert again.content == response.content
    etag = again.headers["etag"]
    for same in (path, path.replace("/plans/", "/documents/")):
        unchanged = client.request("GET", same, headers={"If-None-Match": f'"x", W/{etag}'})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    problem(client.get(path.replace("/plans/", "/memory/")), 404, "not-found")


def test_documents_are_listed_page_by_page(client: Client) -> None:
    paths = {client.plan(json=asked(n)).headers["content-location"] for n in range(5)}
    client.request("POST", "/v1/memory", json=example("memory-request"))
    seen, cursor = [], ""
    while True:
        page = client.get(f"/v1/documents?limit=2{cursor}").json()
        seen += page["documents"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == 6
    assert seen[0]["kind"] == "memory", "the newest first"
    assert {each["path"] for each in client.get("/v1/plans").json()["documents"]} == paths
    problem(client.get(f"/v1/documents?limit=3&kind=memory{cursor}"), 422, "invalid-cursor")
    problem(client.get("/v1/documents?cursor=%00"), 422, "invalid-cursor")
    problem(client.get("/v1/documents?kind=plans"), 422, "unknown-name")
    problem(client.get("/v1/documents?since=yesterday"), 422, "input-error")


# ------------------------------------------------------------------ jobs


def test_a_long_question_becomes_a_job(slow: tuple[Client, Slow]) -> None:
    client, make = slow
    response = client.plan(json=ASKED, headers=ASYNC)
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "respond-async"
    job = response.headers["location"]
    until(client, job, "running")
    head = client.request("HEAD", f"{job}/events")
    assert head.headers["content-type"].startswith("text/event-stream"), "ends, though the stream would go on"
    assert (head.status_code, head.content) == (200, b"")
    assert client.plan(json=ASKED, headers=ASYNC).headers["location"] == job, "the same question is on its way"
    make.go.set()
    done = until(client, job, "done")
    assert client.get(done["result"]).content == PLAN.to_json().encode()
    assert client.plan(json=ASKED).headers["content-location"] == done["result"]
    assert make.count == 1
    events = client.get(f"{job}/events")
    assert events.headers["content-type"].startswith("text/event-stream")
    assert '"state":"done"' in events.text


def test_only_so_many_jobs_wait(slow: tuple[Client, Slow]) -> None:
    client, _ = slow
    jobs = [client.plan(json=asked(0), headers=ASYNC).headers["location"]]
    until(client, jobs[0], "running")
    jobs += [client.plan(json=asked(n), headers=ASYNC).headers["location"] for n in (1, 2)]
    assert [client.get(job).json()["position"] for job in jobs] == [None, 1, 2]
    full = client.plan(json=asked(3), headers=ASYNC)
    problem(full, 503, "queue-full")
    assert int(full.headers["retry-after"]) > 0
    assert client.request("DELETE", jobs[2]).json()["state"] == "cancelled"
    assert client.plan(json=asked(3), headers=ASYNC).status_code == 202
    assert len(client.get("/v1/jobs?state=queued").json()["jobs"]) == 2


def test_a_job_that_fails_keeps_its_problem() -> None:
    client = client_of(StubPlanner(Infeasible("slo: ttft_p90 binds", "relax it")))
    document = problem(client.plan(json=ASKED), 409, "infeasible")
    jobs = client.get("/v1/jobs").json()["jobs"]
    assert [job["problem"] for job in jobs] == [document]
    assert jobs[0]["state"] == "failed"


def test_a_wrong_preference_or_priority_is_told(client: Client) -> None:
    assert client.plan(json=ASKED, headers={"Prefer": "wait=1000"}).headers["preference-applied"] == "wait=600"
    problem(client.plan(json=ASKED, headers={"Priority": "u=9"}), 422, "input-error")


@pytest.mark.parametrize("path", ["/v1/jobs/x", "/v1/documents/%00", f"/v1/jobs/{'0' * 32}", "/v1/plans/../x"])
def test_an_id_that_is_none_is_not_found(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_an_idempotency_key_has_one_answer(client: Client) -> None:
    key = {"Idempotency-Key": "a-1"}
    first = client.plan(json=ASKED, headers=key)
    assert client.plan(json=ASKED, headers=key).content == first.content
    problem(client.plan(json=asked(1), headers=key), 422, "idempotency-key-reused")
    problem(client.plan(json=ASKED, headers={"Idempotency-Key": "a b"}), 422, "input-error")


# ------------------------------------------------------------------ keys


@pytest.fixture
def locked() -> Iterator[tuple[Client, Keys]]:
    made = client_of(require_keys=True)
    made.app.state.service.planner.start()
    yield made, Keys(made.app.state.service.planner.database)
    made.app.state.service.planner.close()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_nobody_comes_in_without_a_key(locked: tuple[Client, Keys]) -> None:
    client, keys = locked
    for path in (
        "/v1/models",
        "/v1/documents",
        "/healthz",
        "/metrics",
        "/v1/schemas/plan",
        "/v1/gpus",
        "/openapi.json",
    ):
        refused = client.get(path)
        problem(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"].startswith("Bearer")
    assert client.get("/livez").status_code == 200
    key, text = keys.create("reader", ["read"])
    headers = bearer(text)
    assert client.request("GET", "/v1/models", headers=headers).status_code == 200
    problem(client.plan(json=ASKED, headers=headers), 403, "forbidden")
    problem(client.request("GET", "/metrics", headers=headers), 403, "forbidden")
    for wrong in ("Bearer nothing", f"Basic {text}", f"Bearer {text[:-1]}x", "Bearer"):
        problem(client.request("GET", "/v1/models", headers={"Authorization": wrong}), 401, "unauthorized")
    _, rotated = keys.rotate("reader")
    time.sleep(SEEN_S)
    problem(client.request("GET", "/v1/models", headers=headers), 401, "unauthorized")
    assert client.request("GET", "/v1/models", headers=bearer(rotated)).status_code == 200
    keys.revoke(key.id)
    time.sleep(SEEN_S)
    problem(client.request("GET", "/v1/models", headers=bearer(rotated)), 401, "unauthorized")


def test_what_was_made_with_a_key_is_seen_with_it_only(locked: tuple[Client, Keys]) -> None:
    client, keys = locked
    mine, theirs = (bearer(keys.create(name, ["read", "plan"])[1]) for name in ("mine", "theirs"))
    path = client.plan(json=ASKED, headers=mine).headers["content-location"]
    job = client.request("GET", "/v1/jobs", headers=mine).json()["jobs"][0]["id"]
    assert client.request("GET", path, headers=mine).status_code == 200
    for hidden in (path, f"/v1/jobs/{job}", f"/v1/jobs/{job}/events", f"{path}/explanation"):
        problem(client.request("GET", hidden, headers=theirs), 404, "not-found")
    problem(client.request("DELETE", f"/v1/jobs/{job}", headers=theirs), 404, "not-found")
    assert client.request("GET", "/v1/documents", headers=theirs).json()["documents"] == []
    assert client.plan(json=ASKED, headers=theirs).headers["content-location"] == path
    assert client.request("GET", path, headers=theirs).status_code == 200, "whoever asks the same may read it"
    assert len(client.request("GET", "/v1/jobs", headers=theirs).json()["jobs"]) == 0


def test_rates_and_quotas_hold(locked: tuple[Client, Keys]) -> None:
    client, keys = locked
    fast = bearer(keys.create("fast", ["read"], rate="3/minute")[1])
    answers = [client.request("GET", "/v1/models", headers=fast) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    few = bearer(keys.create("few", ["plan"], quota="2/day")[1])
    assert [client.plan(json=asked(n), headers=few).status_code for n in range(3)] == [200, 200, 429]


def test_every_answer_is_guarded_and_named(client: Client) -> None:
    for path in ("/v1/models", "/nowhere", "/livez"):
        answer = client.request("GET", path, headers={"X-Request-ID": "mine-1"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"] == "mine-1"
        assert "access-control-allow-origin" not in answer.headers


def test_metrics_tell_of_requests_jobs_and_workers(client: Client) -> None:
    client.plan(json=ASKED)
    text = client.get("/metrics").text
    assert 'shardwright_http_requests_total{method="POST",route="/v1/plans",status="200"} 1.0' in text
    assert 'shardwright_jobs_ended_total{kind="serving",outcome="done"} 1.0' in text
    assert "shardwright_database_up 1.0" in text
    assert 'shardwright_jobs{state="queued"} 0.0' in text


# ------------------------------------------------------------------ uploads

TRACE = b"arrival_s,isl,osl\n0,100,10\n1.5,200,20\n3,300,30\n"


def test_a_trace_is_uploaded_and_chosen_by_name(client: Client) -> None:
    made = client.request("POST", "/v1/traces?name=monday", content=TRACE)
    assert made.status_code == 201, made.text
    assert made.json()["about"] == {"requests": 3, "seconds": 3.0}
    assert client.request("POST", "/v1/traces?name=monday", content=TRACE).json()["version"] == 1
    assert client.request("POST", "/v1/traces?name=monday", content=TRACE + b"4,1,1\n").json()["version"] == 2
    assert [each["version"] for each in client.get("/v1/traces").json()["uploads"]] == [1, 2]
    ask = {"plan": example("serving"), "trace": "monday@1"}
    assert client.request("POST", "/v1/simulations", json=ask).status_code == 200
    assert "'monday@9'" in problem(client.get("/v1/traces/monday@9"), 404, "not-found")["detail"]
    document = problem(client.request("POST", "/v1/simulations", json={**ask, "trace": "sunday"}), 422, "unknown-name")
    assert document["pointer"] == "/trace"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/traces?name=x", b""),
        ("/v1/traces?name=x", b"\x00\x01\x02"),
        ("/v1/traces?name=x", b"arrival_s,isl,osl\n0,-1,5\n"),
        ("/v1/traces?name=../x", TRACE),
        ("/v1/traces", TRACE),
        ("/v1/profiles?name=x", b""),
        ("/v1/profiles?name=x&operation=gemm", b"PAR1 and then nothing"),
        ("/v1/profiles?name=x&operation=gemm", b"a,b\n1,2\n"),
        ("/v1/profiles?name=x&operation=nothing", b"gpu\nH100\n"),
        ("/v1/profiles?name=x&operation=gemm", b"gpu,m\nH9000,1\n"),
        ("/v1/profiles?name=x", b"gpu,m\nH100,1\n"),
        ("/v1/profiles?name=x", b"op,gpu\n"),
    ],
)
def test_a_broken_upload_is_refused(client: Client, path: str, body: bytes) -> None:
    refused = client.request("POST", path, content=body)
    assert refused.status_code == 422, refused.text
    assert "/tmp" not in refused.text, "no path of ours"
    assert client.get("/v1/profiles").json()["uploads"] == client.get("/v1/traces").json()["uploads"] == []


def test_an_upload_too_large_is_refused() -> None:
    client = client_of(upload_limit_mib=0.001)
    problem(client.request("POST", "/v1/traces?name=x", content=TRACE * 100), 413, "content-too-large")


def test_measurements_are_chosen_by_name(client: Client, tmp_path: Path) -> None:
    from profiles.store import shipped_pack

    rows = shipped_pack().query("gemm", framework="vllm").head(3)
    gpu = str(rows["gpu"].iloc[0])
    made = client.request("POST", "/v1/profiles?name=lab&operation=gemm", content=rows.to_csv(index=False).encode())
    assert made.status_code == 201, made.text
    assert made.json()["about"] == {"rows": {"gemm": 3}, "gpus": [gpu]}
    plain = client.plan(json=ASKED).headers["content-location"]
    measured = client.plan(json={**ASKED, "profiles": ["lab"]})
    assert measured.status_code == 200, measured.text
    assert measured.headers["content-location"] != plain, "other measurements are another question"
    problem(client.plan(json={**ASKED, "profiles": "nobody"}), 422, "unknown-name")
    problem(client.plan(json={**ASKED, "profiles": [1]}), 422, "input-error")
    parquet = tmp_path / "rows.parquet"
    rows.to_parquet(parquet)
    assert (
        client.request("POST", "/v1/profiles?name=lab&operation=gemm", content=parquet.read_bytes()).json()["version"]
        == 1
    ), "the same rows"


def test_progress_says_the_percentage_that_was_known_last() -> None:
    def make(_: Any, /, *, measured: Any = (), progress: Any = None) -> Any:
        for text in ("loading", Step("a third", 1, 3), "on the way", Step("half", 1, 2)):
            progress(text)
        return KINDS["memory"].parse(json.dumps(KINDS["memory"].example()))

    told: list[tuple[str, float | None]] = []
    kind = replace(KINDS["memory"], make=make)
    made, _ = answer(kind, json.dumps(kind.request_example()).encode(), (), lambda *said: told.append(said))
    assert made.problem is None
    third = pytest.approx(100 / 3)
    assert told == [("loading", None), ("a third", third), ("on the way", third), ("half", 50.0)]
