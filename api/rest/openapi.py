"""The service's description of itself: OpenAPI 3.1, with the same schemas that ``plan schema`` prints."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.rest.problems import MEDIA_TYPE, Problem
from planner.serving.document.plan import Plan
from planner.serving.request import PlanRequest

REF = "#/components/schemas/{model}"

REQUEST_EXAMPLES: dict[str, dict[str, Any]] = {
    "short": {
        "summary": "Short forms, as on the command line",
        "value": {
            "model": "Qwen/Qwen3-8B",
            "cluster": "1xH200",
            "slo": "ttft=1s,tpot=30ms",
            "workload": "isl=4000,osl=500",
        },
    },
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
}


@cache
def plan_example() -> dict[str, Any]:
    """The answer to the first example request. Written by `plan --model Qwen/Qwen3-8B --cluster 1xH200
    --slo ttft=1s,tpot=30ms --workload isl=4000,osl=500 --json`."""
    document: dict[str, Any] = json.loads((Path(__file__).parent / "plan_example.json").read_text("utf-8"))
    return document


def problems(**described: str) -> dict[int | str, dict[str, Any]]:
    """Responses of the given statuses (``s404="..."``), each a problem document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}}}
    return {int(status[1:]): {"description": text, "content": content} for status, text in described.items()}


def plan_responses() -> dict[int | str, dict[str, Any]]:
    """What ``POST /v1/plans`` may answer."""
    return {
        200: {"description": "The plan: the same bytes as `plan --json`"},
        **problems(
            s400="The body is not valid JSON",
            s409="No plan can satisfy the request: what binds, and the nearest thing that works",
            s413="The body is too large",
            s415="The body is not JSON by its headers",
            s422="The request cannot be understood, or is outside what is modelled",
            s500="The measurements cannot be read, or the server failed",
            s504="A limit was reached before any plan was found",
        ),
    }


def _describe_plans(operation: dict[str, Any]) -> None:
    # Only now: FastAPI drops every null from what it is told of a route, and a plan without its nulls is none.
    request = {"schema": {"$ref": REF.format(model="PlanRequest")}, "examples": REQUEST_EXAMPLES}
    answer = {
        "schema": {"$ref": REF.format(model="Plan")},
        "examples": {"short": {"summary": "The answer to the short example", "value": plan_example()}},
    }
    operation["requestBody"] = {"required": True, "content": {"application/json": request}}
    operation["responses"]["200"]["content"] = {"application/json": answer}


def install(app: FastAPI) -> None:
    """Makes ``app`` describe the request and the plan, whose bytes it reads and writes itself."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _, definitions = models_json_schema(
                [(PlanRequest, "validation"), (Plan, "serialization"), (Problem, "serialization")],
                ref_template=REF,
            )
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= definitions["$defs"]
            _describe_plans(document["paths"]["/v1/plans"]["post"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]
