"""The REST service: the same requests as the command line, as JSON, and the same documents back, byte for byte.

Each kind of :mod:`planner.kinds` has a route and schemas. It keeps nothing. Jobs, storage, keys and quotas have their
place around :class:`Planner`: whoever takes a request now and answers later replaces that one object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
from planner.contract.documents import Document, checked
from planner.kinds import KINDS, Kind, schema, schema_names
from profiles.errors import DataError
from profiles.hardware import Fabric, Gpu, Node, Price, fabrics, gpus, nodes, on_demand_price
from profiles.store import shipped_pack

DISTRIBUTION = "shardwright"


class Planner:
    """Makes documents beside the event loop, ``at_once`` at a time; the others wait their turn.

    Planning keeps one core busy and takes a few hundred megabytes: more at once would only be slower.
    """

    def __init__(self, at_once: int) -> None:
        self._turns = asyncio.Semaphore(at_once)

    async def document(self, kind: Kind, request: Document) -> bytes:
        """The JSON of the document that answers ``request``.

        Raises:
            ShardwrightError: what the kind's function raises.
        """
        async with self._turns:
            return await run_in_threadpool(lambda: kind.make(request).to_json().encode())


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


def create_app(kinds: Mapping[str, Kind] = KINDS, *, at_once: int = 1) -> FastAPI:
    """The service as an ASGI application (``uvicorn --factory api.rest.app:create_app``).

    Args:
        kinds: what is decided, each at its route.
        at_once: how many documents are made at the same time.
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
    _add_catalogue(app)
    planner = Planner(at_once)
    for kind in kinds.values():
        _add_kind(app, kind, planner)
    for name in schema_names():
        _add_schema(app, name)
    openapi.install(app, kinds)
    return app


def _add_kind(app: FastAPI, kind: Kind, planner: Planner) -> None:
    def understood(body: bytes) -> Document:
        return checked(kind.request, parse_json_body(body, kind.request_name), "request")

    async def make(request: Request) -> Response:
        body = await read_json_body(request)
        asked = await run_in_threadpool(understood, body)
        return Response(await planner.document(kind, asked), media_type="application/json")

    app.add_api_route(
        kind.route,
        make,
        methods=["POST"],
        name=f"make {kind.name}",
        summary=f"Make {kind.title.partition(':')[0]}",
        description=f"{kind.title[0].upper()}{kind.title[1:]}. The same request has the same bytes for an answer, as "
        "long as package and measurements are the same.",
        response_class=Response,
        responses=openapi.kind_responses(),
        tags=["documents"],
    )


def _add_schema(app: FastAPI, name: str) -> None:
    def published() -> dict[str, Any]:
        return schema(name)

    app.add_api_route(
        f"/v1/schemas/{name}",
        published,
        name=f"schema {name}",
        summary=f"JSON Schema: {name}",
        description=f"As `plan schema {name}`.",
        responses=openapi.problems(s500="The server failed, or its data is broken"),
        tags=["schemas"],
    )


def _add_catalogue(app: FastAPI) -> None:
    """What can be looked up: health, models, GPUs."""
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


__all__ = ["Planner", "create_app"]
