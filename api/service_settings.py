"""What ``plan serve`` can be told: each field is an option, a variable ``SHARDWRIGHT_…`` and a key of
``shardwright.toml``."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from planner.contract.documents import LONGEST_TEXT, Document
from planner.contract.options import Option
from profiles.files import Source
from profiles.values import shown

_WHERE, _WORK, _LIMITS, _WHO, _LOGS = "Where", "Work", "Limits", "Who may ask", "Logs and storage"

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ServiceSettings(Document):
    """Everything that the service can be told."""

    host: Annotated[Text, Option("Address to listen on. Keys are needed unless it is loopback.", _WHERE)] = "127.0.0.1"
    port: Annotated[Annotated[int, Field(ge=1, le=65535)], Option("Port to listen on.", _WHERE)] = 8000
    database_url: Annotated[
        Text | None,
        Option(
            "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME. Default: a file in the user's data folder.",
            _WHERE,
            metavar="URL",
        ),
    ] = None
    database_url_file: Annotated[
        Text | None, Option("A file that holds the address: for secrets that are mounted.", _WHERE, metavar="FILE")
    ] = None
    tls_cert: Annotated[Text | None, Option("Certificate chain (PEM); with --tls-key.", _WHERE, metavar="FILE")] = None
    tls_key: Annotated[Text | None, Option("Its key (PEM).", _WHERE, metavar="FILE")] = None
    workers: Annotated[
        Annotated[int, Field(ge=1, le=1024)] | None,
        Option("Processes that make documents. Default: one a core.", _WORK, metavar="N"),
    ] = None
    quick_workers: Annotated[
        Annotated[int, Field(ge=0, le=1024)], Option("More of them, for what takes about a second only.", _WORK)
    ] = 1
    queue_limit: Annotated[Count, Option("Jobs that may wait; more are refused with 503.", _WORK)] = 1000
    wait: Annotated[Seconds, Option("Seconds that a question waits for its answer before 202.", _WORK)] = 20.0
    job_time_limit: Annotated[
        Annotated[float, Field(gt=0, le=86_400)], Option("Seconds that a job may take.", _LIMITS)
    ] = 3600.0
    job_memory_gib: Annotated[
        Annotated[float, Field(ge=0, le=65_536)], Option("Memory of a worker; 0 for no limit.", _LIMITS)
    ] = 8.0
    recycle: Annotated[Annotated[int, Field(ge=1)], Option("Jobs after which a worker is begun anew.", _WORK)] = 500
    warm: Annotated[bool, Field(description="learn and load the cost models before /readyz says yes")] = True
    grace: Annotated[Seconds, Option("Seconds that running jobs get to end when the service stops.", _WORK)] = 20.0
    # A plan request takes 30 kB at most; counts of 58 layers with 256 experts, 150 kB a recorded workload; the
    # simulation of a day's trace, 30 bytes a request.
    body_limit_mib: Annotated[Annotated[float, Field(gt=0, le=4096)], Option("Of a request's body.", _LIMITS)] = 16.0
    upload_limit_mib: Annotated[
        Annotated[float, Field(gt=0, le=65_536)],
        Option("Of an upload, and of what it unpacks to ten times this.", _LIMITS),
    ] = 64.0
    body_timeout: Annotated[
        Annotated[float, Field(gt=0, le=3600)],
        Option("Seconds in which a request's headers must be there, and then its body.", _LIMITS),
    ] = 60.0
    require_keys: Annotated[bool, Option("Keys are needed on loopback too.", _WHO)] = False
    rate: Annotated[
        Text | None, Option("Requests of a key without a rate of its own: 10/second.", _WHO, metavar="N/TIME")
    ] = None
    quota: Annotated[
        Text | None, Option("Questions of a key without a quota of its own: 1000/day.", _WHO, metavar="N/TIME")
    ] = None
    cors_origins: Annotated[
        Text | None, Option("Origins of pages that may ask, with commas between. Default: none.", _WHO, metavar="URL,…")
    ] = None
    log_format: Annotated[Literal["text", "json"], Option("text or json.", _LOGS)] = "text"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Option("The least that is logged.", _LOGS)] = (
        "info"
    )
    audit_log: Annotated[
        Text | None, Option("A file for who asked what, one JSON object a line.", _LOGS, metavar="FILE")
    ] = None
    keep_days: Annotated[
        Annotated[float, Field(gt=0, le=36_500)] | None,
        Option("Forget documents and jobs after so many days. Default: never.", _LOGS, metavar="DAYS"),
    ] = None
    keep_documents: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Option("Keep so many documents, the newest. Default: all.", _LOGS, metavar="N"),
    ] = None

    @field_validator("rate", "quota")
    @classmethod
    def _a_rate(cls, text: str | None) -> str | None:
        if text is not None:
            parsed_rate(text)
        return text

    @model_validator(mode="after")
    def _together(self) -> ServiceSettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_cert"
            raise ValueError(f"{missing} is missing; give tls_cert and tls_key together")
        if self.database_url is not None and self.database_url_file is not None:
            raise ValueError("database_url and database_url_file are both given; give one of them")
        return self

    @property
    def processes(self) -> int:
        return _cores() if self.workers is None else self.workers

    @property
    def is_loopback(self) -> bool:
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def needs_keys(self) -> bool:
        return self.require_keys or not self.is_loopback

    @property
    def database_address(self) -> str:
        """The database's address, from wherever it is said.

        Raises:
            InputError: the file that holds it cannot be read.
        """
        from api.storage.database import default_url

        if self.database_url_file is not None:
            hint = "name a file with one line: postgresql://USER:PASSWORD@HOST/NAME"
            return Source(Path(self.database_url_file), "database_url_file", hint, 4096).text().strip()
        return self.database_url or default_url()


SECRET = frozenset({"database_url"})
"""Settings that may hold a password."""


def parsed_rate(text: str) -> tuple[int, int]:
    """``10/second`` as (how many, in how many seconds). Raises ValueError."""
    seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
    count, _, unit = text.partition("/")
    if not (count.isascii() and count.isdecimal() and 0 < len(count) < 10 and int(count) and unit in seconds):
        raise ValueError(f"{shown(text)} is not a rate; write for example 10/second, 600/minute, 1000/hour or 5000/day")
    return int(count), seconds[unit]
