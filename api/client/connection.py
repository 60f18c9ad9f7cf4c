"""The client of the service. Needs httpx and the documents' classes, no solver and no
cost model.

    with Client("http://127.0.0.1:8000", key="sw_…") as service:
        plan = service.ask("serving", {"model": "Qwen/Qwen3-32B", "cluster": "16xH200", …})
        job = service.submit("training", {…})
        for now in job.events():
            print(now["state"], now["doing"])
        print(job.result().decision)
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from planner.contract.documents import Document
from planner.contract.kind import Kind
from planner.contract.published import Published
from planner.kinds import KINDS
from profiles.errors import ShardwrightError, UnknownName

ENDED = ("done", "failed", "cancelled")
PATIENCE_S = 25.0
"""A request waits so long at the service before it asks again: gateways cut what is silent for longer."""

AWAY_S = 60.0
"""A service that is being restarted, or whose database is, may be away so long while a job is waited for."""


class ServiceProblem(ShardwrightError):
    """What the service refused: ``message`` and ``hint`` as it says them.

    Attributes:
        status: of HTTP. problem: the whole problem document.
    """

    title = "The service refused"

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail", "")), str(problem.get("hint", "")), **problem.get("details", {}))
        self.problem = dict(problem)
        self.status = int(problem.get("status", 0))


class ServiceAway(ShardwrightError):
    """Nobody answers at the address, or not in time."""

    title = "The service is away"


class JobCancelled(ServiceProblem):
    """The job was stopped."""

    title = "Job cancelled"


class Client:
    """A connection to the service.

    Args:
        url: where it listens.
        key: an API key; default: $SHARDWRIGHT_KEY, a variable of the client alone.
        timeout: seconds for an answer to a single request.
        ca: a file of certificates (PEM) that the service's own is trusted by; default: those that httpx knows.
        transport: of httpx, for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 60.0,
        ca: Path | str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        key = key or os.environ.get("SHARDWRIGHT_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        trusted = True if ca is None else ssl.create_default_context(cafile=str(ca))
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, verify=trusted, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ---------------------------------------------------------------- questions

    def ask(
        self,
        kind: str,
        request: Document | Mapping[str, Any],
        *,
        profiles: tuple[str, ...] = (),
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The document that answers ``request``, however long it takes.

        Args:
            kind: as `plan schema` names it: serving, experts, training, …
            profiles: names of uploaded measurements.
            timeout: seconds after which TimeoutError is raised; the job goes on.

        Raises:
            ServiceProblem: the service refused, or found that nothing satisfies the request.
            ServiceAway: it cannot be reached, or went away and did not come back.
            TimeoutError: ``timeout`` passed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        patience = PATIENCE_S if timeout is None else min(PATIENCE_S, timeout)
        answer = self._post(_kind(kind), request, profiles, f"wait={patience:.0f}", idempotency_key)
        if answer.status_code == 200:
            return _read(_kind(kind), answer.content)
        return JobHandle(self, answer.json()["id"]).result(None if deadline is None else deadline - time.monotonic())

    def submit(
        self,
        kind: str,
        request: Document | Mapping[str, Any],
        *,
        profiles: tuple[str, ...] = (),
        idempotency_key: str | None = None,
    ) -> JobHandle:
        """The job that answers ``request``; one that has ended where the answer was stored. Raises ServiceProblem."""
        answer = self._post(_kind(kind), request, profiles, "respond-async", idempotency_key)
        if answer.status_code == 200:
            return JobHandle(self, "", answer.headers["content-location"])
        return JobHandle(self, answer.json()["id"])

    def job(self, id_: str) -> JobHandle:
        """A job that was submitted before, by its id: of another run of your program, say."""
        return JobHandle(self, id_)

    def jobs(self, state: str | None = None) -> Iterator[dict[str, Any]]:
        """Your jobs as they stand, the newest first; ``state``: queued, running, done, failed or cancelled."""
        return self._pages("/v1/jobs", "jobs", {"state": state})

    def _post(
        self,
        kind: Kind,
        request: Document | Mapping[str, Any],
        profiles: tuple[str, ...],
        prefer: str,
        idempotency_key: str | None,
    ) -> httpx.Response:
        fields = request.model_dump(mode="json") if isinstance(request, Document) else dict(request)
        if profiles:
            fields["profiles"] = list(profiles)
        headers = {"Prefer": prefer, "Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return self._sent("POST", kind.route, content=json.dumps(fields), headers=headers)

    # ---------------------------------------------------------------- what is there

    def documents(self, *, kind: str | None = None, model: str | None = None) -> Iterator[dict[str, Any]]:
        """Entries of your documents, the newest first."""
        return self._pages("/v1/documents", "documents", {"kind": kind, "model": model})

    def _pages(self, path: str, name: str, filters: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
        asked = {name: value for name, value in filters.items() if value is not None}
        while True:
            page = self._sent("GET", path, params=asked).json()
            yield from page[name]
            if page["next_cursor"] is None:
                return
            asked["cursor"] = page["next_cursor"]

    def document(self, path: str) -> Any:
        """A document by its path, or its id; of an export the bytes of its archive."""
        answer = self._sent("GET", _place(path))
        if answer.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return answer.content
        return _read(_kind(answer.json()["kind"]), answer.content)

    def content(self, path: str) -> bytes:
        """The bytes of a document: the same as the command line's --json."""
        return self._sent("GET", _place(path)).content

    def explanation(self, path: str) -> str:
        """What `--explain` prints of a document."""
        return self._sent("GET", f"{_place(path)}/explanation").text

    def upload_profile(self, name: str, rows: Path | bytes, operation: str | None = None) -> dict[str, Any]:
        """Stores measurement rows (Parquet or CSV) as the next version of ``name``."""
        asked = {"name": name, **({"operation": operation} if operation else {})}
        content = rows.read_bytes() if isinstance(rows, Path) else rows
        uploaded: dict[str, Any] = self._sent("POST", "/v1/profiles", params=asked, content=content).json()
        return uploaded

    def upload_trace(self, name: str, requests: Path | bytes) -> dict[str, Any]:
        """Stores recorded requests as the next version of ``name``."""
        content = requests.read_bytes() if isinstance(requests, Path) else requests
        uploaded: dict[str, Any] = self._sent("POST", "/v1/traces", params={"name": name}, content=content).json()
        return uploaded

    def _sent(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._away(error) from error
        if answer.is_success:
            return answer
        raise _problem(answer)

    def _away(self, error: httpx.TransportError) -> ServiceAway:
        told = str(error) or type(error).__name__
        return ServiceAway(
            f"{self._http.base_url}: cannot be reached ({told})", "is the service up, and this its address?"
        )


class JobHandle:
    """A question that takes long.

    Attributes:
        id: empty where the answer was stored already.
    """

    def __init__(self, client: Client, id_: str, path: str | None = None) -> None:
        self._client, self.id, self._path = client, id_, path

    def status(self) -> dict[str, Any]:
        """State, what it is doing, how far it is, and the result's path or the problem."""
        if not self.id:
            return {"id": "", "state": "done", "result": self._path, "problem": None, "doing": "", "percent": 100.0}
        found: dict[str, Any] = self._client._sent("GET", f"/v1/jobs/{self.id}").json()
        return found

    def cancel(self) -> None:
        """Stops it within a second."""
        if self.id:
            self._client._sent("DELETE", f"/v1/jobs/{self.id}")

    def events(self) -> Iterator[dict[str, Any]]:
        """Its status as it changes, until it has ended; a connection that breaks is opened again.

        Raises:
            ServiceProblem: there is no such job; ServiceAway: the service went away and did not come back.
        """
        last: dict[str, Any] = {"state": "done"} if not self.id else {}
        patience = _Patience()
        while last.get("state") not in ENDED:
            try:
                with self._client._http.stream("GET", f"/v1/jobs/{self.id}/events") as stream:
                    if not stream.is_success:
                        stream.read()
                        raise _problem(stream)
                    for line in stream.iter_lines():
                        patience = _Patience()
                        if line.startswith("data: ") and (now := json.loads(line.removeprefix("data: "))) != last:
                            last = now
                            yield last
                if last.get("state") not in ENDED:  # cut, as gateways do, perhaps at once
                    time.sleep(0.5)
            except httpx.TransportError as error:
                patience.wait(self._client._away(error))
            except ServiceProblem as error:
                patience.wait(error)

    def result(self, timeout: float | None = None) -> Any:
        """The document, once it is there: jobs outlive their service, and it may be away for :data:`AWAY_S`.

        Raises:
            ServiceProblem: it failed; JobCancelled: it was stopped; TimeoutError: ``timeout`` seconds passed;
            ServiceAway: the service went away and did not come back.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, patience = 0.1, _Patience()
        now: dict[str, Any] = {}
        while True:
            try:
                now, patience = self.status(), _Patience()
            except (ServiceAway, ServiceProblem) as error:
                patience.wait(error)
            if now.get("state") in ENDED:
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {self.id}: {now.get('state', 'unknown')} after {timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
        if now["state"] == "done":
            return _patiently(lambda: self._client.document(now["result"]))
        if now["state"] == "cancelled":
            raise JobCancelled({"detail": f"job {self.id}: was stopped", "hint": "ask again", "status": 410})
        raise ServiceProblem(now["problem"])


class _Patience:
    """With a service that is away: from the first time until :data:`AWAY_S` later."""

    def __init__(self) -> None:
        self._since: float | None = None

    def wait(self, error: ShardwrightError) -> None:
        """Waits a moment. Raises ``error`` where that has no use: it lasts too long, or it is no absence."""
        self._since = self._since or time.monotonic()
        may_come_back = isinstance(error, ServiceAway) or (isinstance(error, ServiceProblem) and error.status == 503)
        if not may_come_back or time.monotonic() - self._since > AWAY_S:
            raise error
        time.sleep(0.5)


def _patiently(ask: Callable[[], Any]) -> Any:
    """What ``ask`` answers, once the service is there to."""
    patience = _Patience()
    while True:
        try:
            return ask()
        except (ServiceAway, ServiceProblem) as error:
            patience.wait(error)


def _place(path: str) -> str:
    return path if path.startswith("/") else f"/v1/documents/{path}"


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise UnknownName("kind", name, KINDS)
    return KINDS[name]


def _read(kind: Kind, content: bytes) -> Published | bytes:
    return kind.parse(content.decode()) if kind.media_type == "application/json" else content


def _problem(answer: httpx.Response) -> ServiceProblem:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or "detail" not in found:
        found = {
            "detail": f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.reason_phrase}",
            "hint": "is this the planner's address?",
            "status": answer.status_code,
        }
    return ServiceProblem(found)
