"""The REST service: the same request as the command line, as JSON, and the same plan back, byte for byte.

It keeps nothing. Jobs, storage, keys and quotas have their place around :class:`Planner`: whoever takes a
request now and answers later replaces that one object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.rest import openapi, problems
from api.rest.body import parse_json_body, read_json_body
from costmodels.models.registry import RegisteredModel, registered
from planner.serving.document.plan import Plan, schema
from planner.serving.request import PlanRequest, parse_request
from profiles.errors import DataError
from profiles.hardware import Fabric, Gpu, Node, Price, fabrics, gpus, nodes, on_demand_price
from profiles.store import shipped_pack

DISTRIBUTION = "shardwright"

PlanFunction = Callable[[PlanRequest], Plan]


def plan_without_paths(request: PlanRequest) -> Plan:
    """:func:`planner.plan`, for strangers: a model is a bundled name, never a path on this machine."""
    from planner.serving.planning import plan  # deferred: solver and forests take a second to import

    return plan(request, allow_paths=False)


class Planner:
    """Runs the planner beside the event loop, ``at_once`` requests at a time; the others wait their turn.

    Planning keeps one core busy and takes a few hundred megabytes: more at once would only be slower.
    """

    def __init__(self, plan: PlanFunction, at_once: int) -> None:
        self._plan = plan
        self._turns = asyncio.Semaphore(at_once)

    async def document(self, request: PlanRequest) -> bytes:
        """The plan's JSON.

        Raises:
            ShardwrightError: what the planner raises.
        """
        async with self._turns:
            return await run_in_threadpool(self._document, request)

    def _document(self, request: PlanRequest) -> bytes:
        return self._plan(request).to_json().encode()


class Pack(BaseModel):
    name: str
    version: str
    hash: str


class Health(BaseModel):
    """What answers, and from which measurements."""

    status: Literal["ok"]
    version: str
    pack: Pack


class Models(BaseModel):
    models: list[RegisteredModel]


class PricedGpu(Gpu):
    """A GPU type, and the cheapest on-demand price on record."""

    on_demand_price: Price | None


class Hardware(BaseModel):
    """What clusters are made of."""

    gpus: list[PricedGpu]
    nodes: list[Node]
    fabrics: list[Fabric]


def create_app(plan: PlanFunction = plan_without_paths, *, at_once: int = 1) -> FastAPI:
    """The service as an ASGI application (``uvicorn --factory api.rest.app:create_app``).

    Args:
        plan: makes the plan of a request; raises ShardwrightErrors.
        at_once: how many plans are made at the same time.
    """
    # No /docs page: it would load its scripts from somebody else's server.
    app = FastAPI(
        title="Shardwright",
        version=version(DISTRIBUTION),
        description="Decides how a language model is laid out on GPUs, with proof.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    openapi.install(app)
    _add_catalogue(app)
    planner = Planner(plan, at_once)

    @app.post(
        "/v1/plans",
        summary="Make a plan",
        response_class=Response,
        responses=openapi.plan_responses(),
        tags=["plans"],
    )
    async def make_plan(request: Request) -> Response:
        """Which layout, on which GPUs, with what predicted latency and throughput, and why no other. The same
        request has the same bytes for an answer, as long as package and measurements are the same."""
        body = await read_json_body(request)
        asked = await run_in_threadpool(_parse, body)
        return Response(await planner.document(asked), media_type="application/json")

    return app


def _parse(body: bytes) -> PlanRequest:
    return parse_request(parse_json_body(body))


def _add_catalogue(app: FastAPI) -> None:
    """What can be looked up: health, models, GPUs, schemas."""
    broken = openapi.problems(s500="The server failed, or its data is broken")

    @app.get(
        "/healthz",
        summary="Whether plans can be made",
        response_model=Health,
        responses=openapi.problems(s500="The server failed", s503="The measurements cannot be read"),
        tags=["service"],
    )
    def health() -> Any:
        """Every file of the measurements is read and compared with its hash."""
        try:
            store = shipped_pack()
            store.verify()
        except DataError as error:
            return problems.respond(problems.problem_of(error, status=503))
        manifest = store.manifest
        pack = Pack(name=manifest.name, version=manifest.version, hash=manifest.content_hash)
        return Health(status="ok", version=version(DISTRIBUTION), pack=pack)

    @app.get("/v1/models", summary="Models that are known by name", responses=broken, tags=["catalogue"])
    def models() -> Models:
        """As `plan models --json`: sizes are those the model cards give."""
        return Models(models=list(registered()))

    @app.get("/v1/gpus", summary="GPUs, nodes and fabrics", responses=broken, tags=["catalogue"])
    def hardware() -> Hardware:
        """As `plan gpus --json`: dense peak rates, bytes per second in one direction, and who says so."""
        priced = [PricedGpu(**gpu.model_dump(), on_demand_price=on_demand_price(gpu)) for gpu in gpus().values()]
        return Hardware(gpus=priced, nodes=list(nodes().values()), fabrics=list(fabrics().values()))

    @app.get("/v1/schemas/plan", summary="JSON Schema of the plan", responses=broken, tags=["schemas"])
    def plan_schema() -> dict[str, Any]:
        """As `plan schema plan`."""
        return schema("plan")

    @app.get("/v1/schemas/request", summary="JSON Schema of the request", responses=broken, tags=["schemas"])
    def request_schema() -> dict[str, Any]:
        """As `plan schema request`."""
        return schema("request")


__all__ = ["Planner", "create_app", "plan_without_paths"]
