"""Jobs: what becomes of questions that take long."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.problems import Problem
from api.rest import cursors, openapi
from api.rest.cursors import PageSize
from api.rest.events import event_stream
from api.rest.problems import not_found
from api.rest.service import Service, checked_id, job_fields
from api.storage.jobs import Job
from api.work.planner import Asker

MEDIA = "application/json"


class JobStatus(BaseModel):
    """How a question that takes long stands."""

    id: str
    kind: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    doing: str = Field(description="what it is doing, in words; empty where it is not running")
    percent: float | None = Field(description="how far it is, where that is known")
    position: int | None = Field(description="in the queue, 1 is next; turns between keys may put it sooner")
    result: str | None = Field(description="path of the document, once it is done")
    problem: Problem | None = Field(description="why it failed")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class JobList(BaseModel):
    jobs: list[JobStatus]
    next_cursor: str | None = Field(description="of the next page; null on the last")


def respond_job(service: Service, job: Job, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A job as a response, with where to look for it."""
    content = JobStatus(**job_fields(service, job)).model_dump_json()
    about = {"Cache-Control": "no-store", **(headers or {})}
    if status == 202:
        about |= {"Location": f"/v1/jobs/{job.id}", "Retry-After": "1"}
    return Response(content + "\n", status, about, MEDIA)


def add(app: FastAPI, service: Service) -> None:
    """The routes below ``/v1/jobs``."""
    planner = service.planner
    usual = openapi.usual_problems(s404="There is no such job, or it is someone else's")

    of_one = {**usual, 200: {"description": "How it stands", "links": openapi.OF_A_JOB}}
    first = {
        name: each | {"parameters": {"id": "$response.body#/jobs/0/id"}} for name, each in openapi.OF_A_JOB.items()
    }

    async def found(request: Request, id_: str, *, cancel: bool = False) -> tuple[Job, Asker]:
        """A job of whoever asks, and them."""
        asker = await service.asker(request, "plan" if cancel else "read")
        look = planner.cancel if cancel else planner.jobs.find
        job = await run_in_threadpool(look, checked_id("job", id_), asker.owner)
        if job is None:
            raise not_found("job", id_)
        return job, asker

    @app.get(
        "/v1/jobs",
        name="list jobs",
        summary="Your jobs",
        response_model=JobList,
        responses={**openapi.usual_problems(), 200: {"description": "A page of them", "links": first}},
        tags=["jobs"],
    )
    async def listed(
        request: Request,
        state: Annotated[Literal["queued", "running", "done", "failed", "cancelled"] | None, Query()] = None,
        limit: PageSize = 50,
        cursor: Annotated[str | None, Query(max_length=1024)] = None,
    ) -> Any:
        """The newest first."""
        asker = await service.asker(request, "read")
        under = [state]
        before = cursors.read(cursor, under, int)
        found = await run_in_threadpool(planner.jobs.listed, asker.owner, state, before, limit + 1)
        more = cursors.write(found[limit - 1].number, under) if len(found) > limit else None
        return {"jobs": [job_fields(service, job) for job in found[:limit]], "next_cursor": more}

    @app.get(
        "/v1/jobs/{id}",
        name="get job",
        summary="How a job stands",
        response_model=JobStatus,
        responses=of_one,
        tags=["jobs"],
    )
    async def status(request: Request, id: str) -> Any:
        job, _ = await found(request, id)
        return respond_job(service, job)

    @app.delete(
        "/v1/jobs/{id}",
        name="cancel job",
        summary="Stop a job",
        response_model=JobStatus,
        responses=of_one,
        tags=["jobs"],
    )
    async def cancel(request: Request, id: str) -> Any:
        """Stops it within a second, solver and all. One that has ended stays as it is."""
        job, _ = await found(request, id, cancel=True)
        return respond_job(service, job)

    @app.get(
        "/v1/jobs/{id}/events",
        name="follow job",
        summary="The same as it changes",
        response_class=Response,
        responses={
            200: {
                "description": "Server-sent events named `job`, each with what GET /v1/jobs/{id} says, until it ended",
                "content": {"text/event-stream": {}},
            },
            **usual,
        },
        tags=["jobs"],
    )
    async def events(request: Request, id: str) -> Response:
        job, asker = await found(request, id)
        return event_stream(planner, job, asker, lambda each: JobStatus(**job_fields(service, each)).model_dump_json())
