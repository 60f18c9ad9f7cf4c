"""The service's description of itself: OpenAPI 3.1, with the same schemas that ``plan schema`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.problems import MEDIA_TYPE, Problem
from api.rest.service import Service
from planner.contract.kind import Kind

REF = "#/components/schemas/{model}"

MORE_EXAMPLES: dict[str, dict[str, Any]] = {
    "serving": {
        "objects": {
            "summary": "Objects: the cheapest of 16 GPUs that carry 20 requests/s",
            "value": {
                "model": "Qwen/Qwen3-32B",
                "cluster": {"name": "ours", "pools": [{"gpu": "H200", "gpus": 16, "usd_per_gpu_hour": 2.5}]},
                "slo": {"bounds": [{"metric": "ttft", "percentile": 99, "limit_ms": 2000}]},
                "workload": {"isl": 4000, "osl": 500, "rate_rps": 20},
                "objective": "cost",
            },
        },
    },
}
"""Requests beside each kind's own example."""


def request_examples(kind: Kind) -> dict[str, Any]:
    """Requests of a kind as OpenAPI shows them; the answer to ``short`` is the kind's example."""
    short = {"summary": "Short forms, as on the command line", "value": kind.request_example()}
    forms = {form.form: {"summary": form.title, "value": form.request_example()} for form in kind.forms}
    return {"short": short, **MORE_EXAMPLES.get(kind.name, {}), **forms}


def problems(**described: str) -> dict[int | str, dict[str, Any]]:
    """Responses of the given statuses (``s404="..."``), each a problem document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}}}
    return {int(status[1:]): {"description": text, "content": content} for status, text in described.items()}


def usual_problems(**described: str) -> dict[int | str, dict[str, Any]]:
    """:func:`problems`, and those that every route has."""
    usual = {
        "s401": "A key is needed, or the one sent is not known",
        "s403": "The key may not do this",
        "s422": "A parameter cannot be understood",
        "s429": "Too many requests: see Retry-After",
        "s500": "The server failed, or its data is broken",
        "s503": "The database is away: see Retry-After",
    }
    return problems(**{**usual, **described})


def operation_id(route: APIRoute) -> str:
    """``get job`` → ``get_job``: what generated clients call it, and links name."""
    return route.name.replace(" ", "_").replace("-", "_")


def link(to: str, **parameters: str) -> dict[str, Any]:
    """What can be asked next with what was answered: an operation, and where its parameters are in the answer."""
    return {"operationId": to, "parameters": parameters}


OF_A_JOB = {
    "job": link("get_job", id="$response.body#/id"),
    "events": link("follow_job", id="$response.body#/id"),
    "cancel": link("cancel_job", id="$response.body#/id"),
}

ASKING: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string"},
            "example": example,
        }
        for name, text, example in (
            ("Prefer", "`wait=N`: seconds to wait for the document; `respond-async`: a job at once", "wait=60"),
            ("Priority", "`u=0` to `u=7`: the most urgent of your own jobs first", "u=3"),
            ("Idempotency-Key", "the same key gets the first answer again for a day", "5f0c2a"),
        )
    ]
}
"""Headers that a ``POST`` of a kind heeds."""

SECURITY = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `plan keys create`; needed unless the service listens on loopback.",
    }
}


def kind_responses() -> dict[int | str, dict[str, Any]]:
    """What a ``POST`` of a kind may answer."""
    located = {"Location": {"description": "the job", "schema": {"type": "string"}}}
    return {
        200: {"description": "The document: the same bytes as the command line's --json"},
        202: {"description": "It takes longer: a job", "headers": located, "model": None, "links": OF_A_JOB},
        **usual_problems(
            s400="The body is not valid JSON, or broke off",
            s404="The answer was forgotten while it was waited for",
            s408="The body did not come in time",
            s409="No plan can satisfy the request: what binds, and the nearest thing that works",
            s413="The body is too large",
            s415="The body is not JSON by its headers",
            s422="The request cannot be understood, or is outside what is modelled",
            s500="The measurements cannot be read, or the server failed",
            s503="So many jobs wait that no more are taken, or the database is away: see Retry-After",
            s504="A limit was reached before any plan was found",
        ),
    }


def document_responses(kind: Kind | None) -> dict[int | str, dict[str, Any]]:
    """What ``GET`` of a document may answer."""
    etag = {"ETag": {"description": "SHA-256 of the content", "schema": {"type": "string"}}}
    content: dict[str, Any] = {kind.media_type if kind else "application/json": {}}
    return {
        200: {"description": "The document", "headers": etag, "content": content},
        304: {"description": "The client has it: If-None-Match named its ETag"},
    }


def _describe(operation: dict[str, Any], kind: Kind, names: Mapping[Any, Any]) -> None:
    # Only now: FastAPI drops every null from what it is told of a route, and a document without its nulls is none.
    schemas = [names[each.request, "validation"] for each in (kind, *kind.forms)]
    request = {"schema": {"anyOf": schemas} if kind.forms else schemas[0], "examples": request_examples(kind)}
    answer = {
        "schema": names[kind.document, "serialization"],
        "examples": {"short": {"summary": "Like the answer to the short example", "value": kind.example()}},
    }
    operation["requestBody"] = {"required": True, "content": {"application/json": request}}
    operation["responses"]["200"]["content"] = {
        kind.media_type: answer if kind.media_type == "application/json" else {}
    }


def install(app: FastAPI, service: Service) -> None:
    """Makes ``app`` describe requests and documents of all kinds, whose bytes it reads and writes itself."""
    kinds = service.kinds

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            types: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [(Problem, "serialization")]
            for kind in kinds.values():
                types += [(kind.document, "serialization")]
                types += [(each.request, "validation") for each in (kind, *kind.forms)]
            names, definitions = models_json_schema(types, ref_template=REF)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= definitions["$defs"]
            document["components"]["securitySchemes"] = SECURITY
            document["security"] = [{"key": []}, {}]
            for kind in kinds.values():
                _describe(document["paths"][kind.route]["post"], kind, names)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def description(request: Request) -> Response:
        await service.asker(request, "read")
        return JSONResponse(await run_in_threadpool(app.openapi))
