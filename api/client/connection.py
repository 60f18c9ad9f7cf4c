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
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from planner.contract.documents import Document
from planner.contract.published import Published
from planner.kinds import KINDS, Kind
from profiles.errors import ShardwrightError, UnknownName

ENDED = ("done", "failed", "cancelled")
PATIENCE_S = 25.0
"""A request waits so long at the service before it asks again: gateways cut what is silent for longer."""


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


class JobCancelled(ServiceProblem):
    """The job was stopped."""

    title = "Job cancelled"


class Client:
    """A connection to the service.

    Args:
        url: where it listens.
        key: an API key; default: $SHARDWRIGHT_KEY, a variable of the client alone.
        timeout: seconds for an answer to a single request.
        transport: of httpx, for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        key = key or os.environ.get("SHARDWRIGHT_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)

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
        asked = {name: value for name, value in (("kind", kind), ("model", model)) if value is not None}
        cursor: str | None = None
        while True:
            page = self._sent("GET", "/v1/documents", params={**asked, **({"cursor": cursor} if cursor else {})}).json()
            yield from page["documents"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def document(self, path: str) -> Any:
        """A document by its path, or its id."""
        content = self.content(path)
        fields = json.loads(content)
        return _read(_kind(fields["kind"]), content)

    def content(self, path: str) -> bytes:
        """The bytes of a document: the same as the command line's --json."""
        return self._sent("GET", path if path.startswith("/") else f"/v1/documents/{path}").content

    def explanation(self, path: str) -> str:
        """What `--explain` prints of a document."""
        place = path if path.startswith("/") else f"/v1/documents/{path}"
        return self._sent("GET", f"{place}/explanation").text

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
        answer = self._http.request(method, path, **options)
        if answer.is_success:
            return answer
        raise _problem(answer)


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
        """Its status as it changes, until it has ended; a connection that breaks is opened again."""
        last: dict[str, Any] = {"state": "done"} if not self.id else {}
        while last.get("state") not in ENDED:
            try:
                with self._client._http.stream("GET", f"/v1/jobs/{self.id}/events") as stream:
                    if not stream.is_success:
                        stream.read()
                        raise _problem(stream)
                    for line in stream.iter_lines():
                        if line.startswith("data: "):
                            last = json.loads(line.removeprefix("data: "))
                            yield last
            except httpx.TransportError:
                time.sleep(0.5)

    def result(self, timeout: float | None = None) -> Any:
        """The document, once it is there.

        Raises:
            ServiceProblem: it failed; JobCancelled: it was stopped; TimeoutError: ``timeout`` seconds passed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.1
        while (now := self.status())["state"] not in ENDED:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {self.id}: {now['state']} after {timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
        if now["state"] == "done":
            return self._client.document(now["result"])
        if now["state"] == "cancelled":
            raise JobCancelled({"detail": f"job {self.id}: was stopped", "hint": "ask again", "status": 410})
        raise ServiceProblem(now["problem"])


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
