"""The settings there are: fields of requests that one repeats, and how commands speak."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from api.service_settings import ServiceSettings
from planner.contract.documents import LONGEST_TEXT, validation_error


def _paths(value: Any) -> Any:
    """One folder, several in a list, or as the environment has them, with the system's separator between."""
    return value.split(os.pathsep) if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]


class _OfRequests(BaseSettings):
    """Settings of one source: a file's values, or else the environment's. Options of the same names say what each is;
    commands take those that they have."""

    model_config = SettingsConfigDict(env_prefix="SHARDWRIGHT_", extra="forbid", frozen=True, env_ignore_empty=True)

    model: Text | None = None
    cluster: Text | None = None
    gpu: Text | None = None
    framework: Text | None = None
    precision: Text | None = None
    kv_precision: Text | None = None
    workload: Text | None = None
    slo: Text | None = None
    objective: Text | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    time_limit: Annotated[float, Field(gt=0)] | None = None
    profiles: Annotated[tuple[Text, ...], NoDecode, BeforeValidator(_paths)] | None = Field(
        default=None, description="folders of profile stores, relative to the file that names them"
    )
    quiet: bool | None = None


Settings: type[_OfRequests] = create_model(
    "Settings",
    __base__=_OfRequests,
    **{  # type: ignore[call-overload]
        name: (Annotated[kind | None, Field()], None)
        for name, kind in get_type_hints(ServiceSettings, include_extras=True).items()
        if name in ServiceSettings.model_fields
    },
)
"""Those, and what the service can be told (:mod:`api.service_settings`)."""


class _OfAFile(Settings):  # type: ignore[valid-type, misc]
    """The same without the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


NAMES = tuple(Settings.model_fields)


def of_environment() -> dict[str, Any]:
    """What the environment sets, by name.

    Raises:
        InputError: naming the setting and its value.
    """
    try:
        return Settings().model_dump(exclude_none=True)
    except ValidationError as error:
        name = str(error.errors(include_url=False)[0]["loc"][0])
        raise validation_error(error, f"${Settings.model_config['env_prefix']}{name.upper()}") from error


def of_file(values: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The settings among ``values`` of a file in ``folder``, which messages call ``where``. Raises as
    :func:`of_environment`."""
    try:
        found: dict[str, Any] = _OfAFile(**values).model_dump(exclude_none=True)
    except ValidationError as error:
        raise validation_error(error, where) from error
    if "profiles" in found:
        found["profiles"] = tuple(str(folder / each) for each in found["profiles"])
    return found
