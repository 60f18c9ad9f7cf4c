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

from api.rest import catalogue, documents, health, jobs, openapi, problems, questions
from api.rest.configuration import from_settings
from api.rest.service import Explain, Service
from api.service_settings import ServiceSettings
from api.work.answers import PACKAGE
from api.work.planner import Planner
from planner.kinds import KINDS, Kind


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
    planner = Planner(kinds, settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(planner.start)
        try:
            yield
        finally:
            await run_in_threadpool(planner.close)

    # No /docs page: it would load its scripts from somebody else's server.
    app = FastAPI(
        title="Shardwright",
        version=version(PACKAGE),
        description="Decides how a language model is laid out on GPUs, with proof.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
    )
    service = Service(kinds, settings, planner, explain)
    app.state.service = service
    problems.install(app)
    for part in (health, catalogue):
        part.add(app, service)
    for kind in kinds.values():
        questions.add(app, kind, service)
    documents.add(app, service)
    jobs.add(app, service)
    openapi.install(app, kinds)
    return app


__all__ = ["create_app"]
