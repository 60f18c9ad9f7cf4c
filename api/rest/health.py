"""Whether the service lives, and whether it can work."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from starlette.requests import Request

from api.problems import URN, Problem, problem_of
from api.rest import openapi
from api.rest.problems import respond
from api.rest.service import Service
from api.storage.schema import state
from api.work.answers import PACKAGE
from profiles.errors import DataError, ShardwrightError
from profiles.store import shipped_pack

GOOD_S = 60.0
"""Measurements that were whole are not read again for so long."""


class Pack(BaseModel):
    name: str
    version: str
    hash: str


class Health(BaseModel):
    """What answers, and from which measurements."""

    status: Literal["ok"]
    version: str
    pack: Pack


class Alive(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    """What was looked at; all of it is ok where the status is 200."""

    status: Literal["ok"]
    database: Literal["ok"]
    schema_version: Literal["ok"]
    cost_models: Literal["ok"]


def add(app: FastAPI, service: Service) -> None:
    """``/livez``, ``/readyz`` and ``/healthz``."""
    checked: dict[str, Any] = {}

    @app.get(
        "/livez", summary="Whether the service lives", responses=openapi.problems(s500="It fails"), tags=["service"]
    )
    async def alive() -> Alive:
        return Alive(status="ok")

    @app.get(
        "/readyz",
        summary="Whether it can work",
        response_model=Ready,
        responses=openapi.problems(s500="The server failed", s503="Not yet, or not now: what is missing"),
        tags=["service"],
    )
    async def ready() -> Any:
        """The database is there, its schema is today's, and the workers have learnt and loaded their cost models."""
        missing = await run_in_threadpool(_missing, service)
        return (
            Ready(status="ok", database="ok", schema_version="ok", cost_models="ok")
            if not missing
            else respond(missing)
        )

    @app.get(
        "/healthz",
        summary="Whether plans can be made",
        response_model=Health,
        responses={
            **openapi.usual_problems(),
            **openapi.problems(s503="The measurements cannot be read, or the database is away"),
        },
        tags=["service"],
    )
    async def health(request: Request) -> Any:
        """Every file of the measurements is read and compared with its hash."""
        await service.asker(request, "read")
        if time.monotonic() - checked.get("at", -GOOD_S) < GOOD_S:
            return checked["health"]
        found = await run_in_threadpool(_health)
        if isinstance(found, Health):
            checked.update(at=time.monotonic(), health=found)
        return found


def _missing(service: Service) -> Problem | None:
    planner = service.planner
    if planner.closing.is_set():
        return _not_ready("the service ends")
    try:
        planner.start()
        planner.crew.start()
        if (found := state(planner.database)) != "current":
            return _not_ready(f"the database's schema is {found}")
    except ShardwrightError as error:
        return problem_of(error, 503)
    if not planner.crew.ready:
        return _not_ready("workers are learning or loading their cost models")
    return None


def _not_ready(why: str) -> Problem:
    return Problem(
        type=URN + "not-ready", title="Not ready", status=503, detail=f"readyz: {why}", hint="ask again in a moment"
    )


def _health() -> Any:
    try:
        store = shipped_pack()
        store.verify()
    except DataError as error:
        return respond(problem_of(error, status=503))
    manifest = store.manifest
    pack = Pack(name=manifest.name, version=manifest.version, hash=manifest.content_hash)
    return Health(status="ok", version=version(PACKAGE), pack=pack)
