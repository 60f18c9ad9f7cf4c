"""The service's settings, gathered: what is given, what the environment says, what files say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.service_settings import ServiceSettings
from api.settings import settings
from api.storage.database import Database
from api.storage.schema import prepare
from planner.contract.documents import checked
from profiles.errors import InputError


def from_settings(given: Mapping[str, Any]) -> ServiceSettings:
    """The service's settings: those ``given``, then what files and the environment say.

    Raises:
        InputError, UnknownName: naming the setting, its value and where that is from.
    """
    found = {n: each for n, each in settings().items() if n in ServiceSettings.model_fields and n not in given}
    for name, each in found.items():  # one by one, so that a message can say where it is from
        try:
            checked(ServiceSettings, {name: each.value, **_partner(name)}, each.source)
        except InputError as error:
            raise InputError(error.message, error.hint, field=name) from error
    fields = {name: each.value for name, each in found.items()} | dict(given)
    return checked(ServiceSettings, fields, "settings")


def _partner(name: str) -> dict[str, str]:
    """What stands beside a setting that is nothing alone."""
    return {"tls_cert": {"tls_key": "-"}, "tls_key": {"tls_cert": "-"}}.get(name, {})


def database_of(url: str | None) -> Database:
    """The database that the settings name, or ``url``. Raises as :func:`from_settings`."""
    return Database(from_settings({} if url is None else {"database_url": url}).database_address)


def opened_database(url: str | None) -> Database:
    """The same, with today's tables; an empty one gets them. Raises as :func:`api.storage.schema.prepare` too."""
    database = database_of(url)
    prepare(database)
    return database
