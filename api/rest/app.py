"""The REST service: the same requests as the command line, as JSON, and the same documents back, byte for byte.

Each kind of :mod:`planner.kinds` has its routes and schemas. What is asked, kept and run stands in
:mod:`api.work` and :mod:`api.storage`; here is HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from api.rest import catalogue, documents, health, jobs, openapi, problems, questions, uploads
from api.rest import metrics as measures
from api.rest.configuration import from_settings
from api.rest.edge import Edge
from api.rest.logs import Audit
from api.rest.metrics import Metrics
from api.rest.service import Explain, Service
from api.service_settings import ServiceSettings
from api.work.answers import PACKAGE
from api.work.planner import Planner
from planner.contract.kind import Kind
from planner.kinds import KINDS

_EXPOSED = [
    *("Location", "Content-Location", "ETag", "Retry-After", "X-Request-ID", "Preference-Applied"),
    *("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy"),
]
"""Headers that pages of other origins may read."""


def create_app(
    kinds: Mapping[str, Kind] = KINDS,
    settings: ServiceSettings | None = None,
    *,
    at_once: int | None = None,
    explain: Explain | None = None,
) -> FastAPI:
    """The service as an ASGI application (``uvicorn --factory api.rest.app:create_app``).

    Args:
        kinds: what is decided, each at its route. The registry's are made by processes of their own; those of another
            mapping in threads of this one.
        settings: default: what files and the environment say; beside another mapping, a database in memory.
        at_once: how many documents are made at the same time, in place of the settings' workers.
        explain: a document for people.
    """
    if settings is None:
        in_memory = ServiceSettings(database_url="sqlite://", workers=1, quick_workers=0)
        settings = from_settings({}) if kinds is KINDS else in_memory
    if at_once is not None:
        settings = settings.model_copy(update={"workers": at_once})
    metrics = Metrics()
    planner = Planner(kinds, settings, metrics.heard)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(planner.start)
        planner.crew.start()
        try:
            yield
        finally:
            await run_in_threadpool(planner.close)

    # No /docs page: it would load its scripts from somebody else's server.
    app = FastAPI(
        title="Shardwright",
        version=version(PACKAGE),
        description="Decides how a language model is laid out on GPUs, with proof.",
        openapi_url=None,  # one that asks for a key stands in openapi.install
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
        lifespan=life,
    )
    service = Service(kinds, settings, planner, explain)
    app.state.service = service
    problems.install(app)
    documents.add(app, service)  # what is asked most often stands first: routes are tried in order
    for part in (health, catalogue):
        part.add(app, service)
    for kind in kinds.values():
        questions.add(app, kind, service)
    uploads.add(app, service)
    jobs.add(app, service)
    measures.add(app, service, metrics)
    openapi.install(app, service)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[each.strip() for each in settings.cors_origins.split(",")],
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Prefer", "Priority", "Idempotency-Key", "If-None-Match"],
            expose_headers=_EXPOSED,
        )
    # Around everything, the answer to a failure of ours too.
    audit = Audit(settings.audit_log)
    app.middleware_stack = Edge(app.build_middleware_stack(), metrics, audit, tls=settings.tls_cert is not None)
    return app


__all__ = ["create_app"]
