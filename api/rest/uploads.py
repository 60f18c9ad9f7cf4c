"""Uploads: measurement rows and recorded requests, which later requests choose by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from api.rest import openapi
from api.rest.body import check_identity, read_body
from api.rest.problems import RefusedError
from api.rest.service import Service, when
from api.storage.uploads import Family, Upload
from api.work.shelf import GROWTH, Checked, check_name, checked_profile, checked_trace
from profiles.errors import UnknownName


class Uploaded(BaseModel):
    """A version of an upload."""

    id: str
    name: str
    version: int = Field(description="choose it as NAME@VERSION; NAME alone is the newest")
    digest: str
    about: dict[str, Any] = Field(description="rows by operation and GPUs, or requests and seconds")
    created_at: datetime | None


class UploadList(BaseModel):
    uploads: list[Uploaded]


_FEWER = "send fewer rows at a time, or raise --upload-limit-mib"
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def add(app: FastAPI, service: Service) -> None:
    """``/v1/profiles`` and ``/v1/traces``."""
    settings = service.settings
    most = int(settings.upload_limit_mib * 2**20)
    usual = openapi.usual_problems(
        s400="The body broke off",
        s408="The body did not come in time",
        s413="The body is too large",
        s415="The body is coded",
        s422="What is wrong with the name or with the rows",
    )

    def made(family: Family) -> dict[str, Any]:
        """What the routes that take uploads are told alike."""
        links = {"upload": openapi.link(f"get_{family}", name="$response.body#/name")}
        return {
            "response_class": Response,
            "status_code": 201,
            "responses": {201: {"description": "Stored", "model": Uploaded, "links": links}, **usual},
            "tags": ["uploads"],
            "openapi_extra": _BODY,
        }

    async def stored(request: Request, family: Family, name: str, check: Callable[[bytes], Checked]) -> Response:
        asker = await service.asker(request, "upload")
        check_name(name)
        check_identity(request)
        body = await read_body(request, most, settings.body_timeout, _FEWER)

        def keep() -> Upload:
            found = check(body)
            return service.planner.uploads.add(asker.owner, family, name, found.content, found.about)

        upload = await run_in_threadpool(keep)
        location = {"Location": f"/v1/{family}/{upload.name}"}
        return Response(_entry(upload).model_dump_json() + "\n", 201, location, "application/json")

    @app.post(
        "/v1/profiles",
        name="upload profiles",
        summary="Upload measurement rows",
        **made("profiles"),
    )
    async def profile(
        request: Request,
        name: Annotated[str, Query(max_length=200)],
        operation: Annotated[str | None, Query(max_length=64, description="of all rows; default: column op")] = None,
    ) -> Response:
        """A Parquet file or a CSV, as `plan profile show` prints rows. Requests name it in `profiles`: it is laid over
        the measurements that ship."""
        return await stored(
            request, "profiles", name, lambda body: checked_profile(body, name, operation, GROWTH * most)
        )

    @app.post(
        "/v1/traces",
        name="upload traces",
        summary="Upload recorded requests",
        **made("traces"),
    )
    async def trace(request: Request, name: Annotated[str, Query(max_length=200)]) -> Response:
        """CSV or JSON lines, as `plan simulate --trace` reads. A simulation names it in `trace`."""
        return await stored(request, "traces", name, lambda body: checked_trace(body, name))

    families: tuple[Family, ...] = ("profiles", "traces")
    for family in families:
        _add_list(app, service, family)


def _add_list(app: FastAPI, service: Service, family: Family) -> None:
    usual = openapi.usual_problems()

    async def listed(request: Request) -> Any:
        asker = await service.asker(request, "read")
        found = await run_in_threadpool(service.planner.uploads.listed, asker.owner, family)
        return UploadList(uploads=[_entry(each) for each in found])

    async def one(request: Request, name: str) -> Any:
        asker = await service.asker(request, "read")
        try:
            found = await run_in_threadpool(service.planner.shelf.named, asker.owner, family, name, "name")
        except UnknownName as error:  # in a request it would be a wrong field; here it is the address
            raise RefusedError(404, "not-found", "Not found", f"{family}: {error.message}", error.hint) from error
        return _entry(found)

    app.add_api_route(
        f"/v1/{family}",
        listed,
        methods=["GET"],
        name=f"list {family}",
        summary=f"Your {family}",
        response_model=UploadList,
        responses=usual,
        tags=["uploads"],
    )
    app.add_api_route(
        f"/v1/{family}/{{name}}",
        one,
        methods=["GET"],
        name=f"get {family}",
        summary="An upload: NAME, or NAME@VERSION",
        response_model=Uploaded,
        responses=openapi.usual_problems(s404="There is no such upload, or it is someone else's"),
        tags=["uploads"],
    )


def _entry(upload: Upload) -> Uploaded:
    return Uploaded(
        id=upload.id,
        name=upload.name,
        version=upload.version,
        digest=upload.digest,
        about=dict(upload.about),
        created_at=when(upload.created),
    )
