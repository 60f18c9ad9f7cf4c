"""Logs: text for people or one JSON object a line, with the request's id; and the audit log of who asked what."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.types import Scope

from api.service_settings import ServiceSettings
from profiles.errors import InputError
from profiles.values import named

request_id: ContextVar[str] = ContextVar("request_id", default="")

access = logging.getLogger("shardwright.access")

_QUIET = {"/livez", "/readyz", "/metrics"}
"""Asked every few seconds by machines: not in the log of requests."""


class JsonLines(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if id_ := request_id.get():
            said["request_id"] = id_
        said |= getattr(record, "fields", {})
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=True)


def configure(settings: ServiceSettings) -> None:
    """Sends the logs of this process to standard error as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.log_format == "json" else plain)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


class Audit:
    """Who asked what, one JSON object a line, appended to a file where there is one, and to the log.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, file: str | None) -> None:
        self._lock = threading.Lock()
        self._file = None
        if file is not None:
            try:
                self._file = Path(file).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
            except OSError as error:
                raise InputError(
                    f"audit_log: {named(file)} cannot be written ({error.strerror})", "name a file elsewhere"
                ) from error

    def write(
        self, scope: Scope, id_: str, status: int, seconds: float, answered: Sequence[tuple[bytes, bytes]]
    ) -> None:
        """One request; ``answered``: the headers of its answer."""
        path = scope["path"]
        if path in _QUIET and status < 400:
            return
        logged = access.isEnabledFor(logging.INFO)
        if self._file is None and not logged:
            return
        key = scope.get("state", {}).get("key")
        fields: dict[str, Any] = {
            "request_id": id_,
            "key": None if key is None else key.id,
            "key_name": None if key is None else key.name,
            "address": (scope.get("client") or ("", 0))[0],
            "method": scope["method"],
            "path": path,
            "status": status,
            "ms": round(seconds * 1e3, 2),
        }
        for name, value in answered:
            if name in (b"location", b"content-location"):
                fields["answer"] = value.decode("latin-1")
        if logged:
            access.info("%s %s %d %.1f ms", scope["method"], path, status, seconds * 1e3, extra={"fields": fields})
        if self._file is not None:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            with self._lock:
                self._file.write(json.dumps({"at": at, **fields}) + "\n")
