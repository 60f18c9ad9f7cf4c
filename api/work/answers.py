"""From a request to the bytes that answer it, and the name under which they are found again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from api.problems import Problem, internal, problem_of
from api.storage.documents import Stored
from costmodels.training.models import is_written_out
from planner.contract.documents import Document, checked
from planner.contract.kind import Kind
from planner.contract.models import architecture_of
from planner.contract.progress import percent_of
from planner.contract.published import Published, digest_of
from profiles.errors import ShardwrightError
from profiles.hardware import Catalogue

PACKAGE = "shardwright"


def understood(kind: Kind, fields: object, folders: Sequence[Path] = ()) -> Document:
    """The request in ``fields``; ``folders``: of profile stores, whose GPU types it may name.

    Raises:
        InputError: the first field that is wrong.
    """
    asked = kind.asked_by(fields)
    request = checked(asked.request, fields, "request", _catalogue(tuple(folders)), asked.request_name)
    model = getattr(request, "model", None)
    if isinstance(model, str) and not is_written_out(model):
        architecture_of(model)  # a name that nobody knows need not wait for a worker to say so
    return request


def _catalogue(folders: tuple[Path, ...]) -> Catalogue:
    from profiles.descriptions import catalogue_with

    return catalogue_with(folders)


def identity(kind: Kind, request: Document, profiles: Sequence[str]) -> str:
    """What a request, the measurements and the versions are, in one name: the document's id."""
    asked = {
        "kind": kind.name,
        "schema": [kind.version, kind.request_version],
        "request": request.model_dump(mode="json", warnings=False),
        "profiles": list(profiles),
        "made_by": _made_by(),
    }
    return digest_of(asked)[:32]


@cache
def _made_by() -> list[str]:
    from costmodels.kernels.cost_model import MODEL_VERSION
    from profiles.store import shipped_pack

    return [version(PACKAGE), str(MODEL_VERSION), shipped_pack().manifest.content_hash]


@dataclass(frozen=True)
class Answer:
    """What a worker hands over: a document, or why there is none."""

    content: bytes = b""
    version: str = ""
    media_type: str = ""
    model: str = ""
    problem: Mapping[str, Any] | None = None

    def stored(self, kind: str, id_: str) -> Stored:
        return Stored.of(id_, kind, self.version, self.media_type, self.content, self.model)


Tell = Callable[[str, float | None], None]
"""Called with what is being done, and the percentage where it is known."""


def answer(
    kind: Kind, request: bytes, folders: Sequence[Path], tell: Tell, *, alone: bool = False
) -> tuple[Answer, str]:
    """The answer to a request in JSON, and the traceback of a defect (empty where there was none). ``alone``: the
    kind's function takes nothing beside the request."""
    try:
        fields = json.loads(request)
        kind = kind.asked_by(fields)
        asked = understood(kind, fields, folders)
        beside: dict[str, Any] = {} if alone else {"measured": _stores(folders), "progress": _with_percent(tell)}
        return _written(kind, kind.make(asked, **beside), asked), ""
    except ShardwrightError as error:
        return Answer(problem=problem_of(error, asked=fields).model_dump()), ""
    except MemoryError:
        return Answer(problem=out_of_memory().model_dump()), ""
    except Exception:
        import traceback

        return Answer(problem=internal(f"kind {kind.name}").model_dump()), traceback.format_exc()


def _with_percent(tell: Tell) -> Callable[[str], None]:
    """``tell`` with the percentage that was known last."""
    known: float | None = None

    def progress(text: str) -> None:
        nonlocal known
        said = percent_of(text)
        known = known if said is None else max(said, known or 0.0)
        tell(str(text), known)

    return progress


def _stores(folders: Sequence[Path]) -> list[Any]:
    if not folders:
        return []
    from profiles.store import ProfileStore

    return [ProfileStore(folder) for folder in folders]


def _written(kind: Kind, made: Published, asked: Document) -> Answer:
    return Answer(kind.written(made), kind.version, kind.media_type, model_named(asked))


def model_named(request: Document) -> str:
    """The model that a request is about, for lists."""
    for holder in (request, getattr(request, "plan", None)):
        asked = getattr(holder, "request", holder)
        name = getattr(asked, "model", None)
        name = name if isinstance(name, str) else getattr(name, "name", None)
        if name is not None:
            return str(name).encode("utf-8", "replace").decode().replace("\0", "?")  # text that databases take
    return ""


def out_of_memory() -> Problem:
    return _limit("memory: the job needed more than a worker may have", "ask for less at once, or raise the limit")


def out_of_time(seconds: float) -> Problem:
    return _limit(f"time: the job took longer than {seconds:g} s", "ask for less at once, or raise the limit")


def worker_died(reason: str) -> Problem:
    return Problem(
        type="urn:shardwright:problem:worker-died",
        title="Worker died",
        status=500,
        detail=f"the job's worker ended twice while it ran ({reason})",
        hint="ask for less at once; if it happens again, report it with the request",
    )


def gave_up() -> Problem:
    return Problem(
        type="urn:shardwright:problem:gave-up",
        title="Given up",
        status=500,
        detail="the service ended again and again while the job ran",
        hint="see the service's log, then ask again",
    )


def _limit(detail: str, hint: str) -> Problem:
    return Problem(
        type="urn:shardwright:problem:limit-reached", title="Limit reached", status=504, detail=detail, hint=hint
    )
