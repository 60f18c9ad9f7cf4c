"""What can be looked up: models, GPUs, schemas."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request

from api.rest import openapi
from api.rest.problems import RefusedError
from api.rest.service import Service
from costmodels.models.registry import RegisteredModel, registered
from planner.kinds import ALIASES, questions, schema, schema_names
from profiles.errors import UnknownName
from profiles.hardware import Fabric, Gpu, Node, Price, fabrics, gpus, nodes, on_demand_price


class Models(BaseModel):
    models: list[RegisteredModel]


class PricedGpu(Gpu):
    """A GPU type, and the cheapest on-demand price on record."""

    on_demand_price: Price | None


class SchemaEntry(BaseModel):
    name: str
    schema_version: str
    path: str


class Schemas(BaseModel):
    schemas: list[SchemaEntry]


class Hardware(BaseModel):
    """What clusters are made of."""

    gpus: list[PricedGpu]
    nodes: list[Node]
    fabrics: list[Fabric]


def add(app: FastAPI, service: Service) -> None:
    """The routes of what ships."""

    @app.get(
        "/v1/models", summary="Models that are known by name", responses=openapi.usual_problems(), tags=["catalogue"]
    )
    async def models(request: Request) -> Models:
        """As `plan models --json`: sizes are those the model cards give."""
        await service.asker(request, "read")
        return Models(models=list(registered()))

    @app.get("/v1/gpus", summary="GPUs, nodes and fabrics", responses=openapi.usual_problems(), tags=["catalogue"])
    async def hardware(request: Request) -> Hardware:
        """As `plan gpus --json`: dense peak rates, bytes per second in one direction, and who says so."""
        await service.asker(request, "read")
        priced = [PricedGpu(**gpu.model_dump(), on_demand_price=on_demand_price(gpu)) for gpu in gpus().values()]
        return Hardware(gpus=priced, nodes=list(nodes().values()), fabrics=list(fabrics().values()))

    @app.get("/v1/schemas", summary="JSON Schemas that there are", responses=openapi.usual_problems(), tags=["schemas"])
    async def schemas(request: Request) -> Schemas:
        """Of every kind's document and of what asks for it, each with its version."""
        await service.asker(request, "read")
        known = {each.name: each.version for each in questions()}
        known |= {each.request_name: each.request_version for each in questions()}
        entries = [(name, known[ALIASES.get(name, name)], f"/v1/schemas/{name}") for name in schema_names()]
        return Schemas(schemas=[SchemaEntry(name=name, schema_version=of, path=path) for name, of, path in entries])

    for name in schema_names():
        _add_schema(app, service, name)

    @app.get("/v1/schemas/{name}", include_in_schema=False)
    async def unknown(request: Request, name: str) -> None:
        await service.asker(request, "read")
        known = UnknownName("schema", name[:80], schema_names())
        raise RefusedError(404, "not-found", "Not found", known.message, f"{known.hint}; GET /v1/schemas lists them")


def _add_schema(app: FastAPI, service: Service, name: str) -> None:
    async def published(request: Request) -> dict[str, Any]:
        await service.asker(request, "read")
        return schema(name)

    app.add_api_route(
        f"/v1/schemas/{name}",
        published,
        name=f"schema {name}",
        summary=f"JSON Schema: {name}",
        description=f"As `plan schema {name}`.",
        responses=openapi.usual_problems(),
        tags=["schemas"],
    )
