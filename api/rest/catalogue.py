"""What can be looked up: models, GPUs, schemas."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request

from api.rest import openapi
from api.rest.service import Service
from costmodels.models.registry import RegisteredModel, registered
from planner.kinds import schema, schema_names
from profiles.hardware import Fabric, Gpu, Node, Price, fabrics, gpus, nodes, on_demand_price


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

    for name in schema_names():
        _add_schema(app, service, name)


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
