"""The planner behind the service: a question gets the answer that is stored, or a job that makes it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from api.service_settings import ServiceSettings
from api.storage.answers import Answers
from api.storage.database import Database
from api.storage.documents import Documents, Stored
from api.storage.jobs import Job, Jobs, Question
from api.storage.schema import prepare
from api.storage.upkeep import prune
from api.storage.uploads import Uploads
from api.work.answers import identity, understood
from api.work.crew import LOOK_S, Heard, LocalCrew
from api.work.shelf import Shelf
from api.work.slot import InProcess, OwnProcess, Runner
from planner.contract.kind import Kind
from planner.kinds import KINDS
from profiles.errors import InputError, ShardwrightError

logger = logging.getLogger(__name__)

TIDY_S = 3600.0

ALONE_S = 5.0
"""Between looks at a queue that nobody else can see."""

DOCUMENTS = {"plan", "document", "deployment", "current"}
"""Fields of requests that hold a document: its id will do."""

POLL_S = 0.5
"""Between looks at a job that another instance may run."""


@dataclass(frozen=True)
class Asker:
    """Who asks: the id of their key (empty without one), and which turn that gives them."""

    owner: str = ""
    rank: int = 1
    urgency: int = 3


class Planner:
    """Storage and workers of one service. Nothing is opened before :meth:`start`.

    Args:
        kinds: what is decided. The registry's are made by processes; those of another mapping in this one.
    """

    def __init__(self, kinds: Mapping[str, Kind], settings: ServiceSettings, heard: Heard = lambda *_: None) -> None:
        self.kinds, self.settings = kinds, settings
        self._alone = kinds is not KINDS
        self._heard = heard
        self._bells: dict[str, set[Callable[[], None]]] = defaultdict(set)
        self._ringing, self._starting = threading.Lock(), threading.Lock()
        self._started = False
        self.closing = threading.Event()

    def start(self) -> None:
        """Opens the database, once. Workers start with the first job, or when the crew is told to.

        Raises:
            InputError, DatabaseAway: as :func:`api.storage.schema.prepare`.
        """
        with self._starting:
            if self._started:
                return
            self.closing.clear()
            self.database = Database(self.settings.database_address)
            prepare(self.database)
            self.documents, self.jobs = Documents(self.database), Jobs(self.database)
            self.uploads, self.answers = Uploads(self.database), Answers(self.database)
            self.shelf = Shelf(self.uploads)
            self.crew = LocalCrew(
                self.jobs,
                [self._runner() for _ in range(self.settings.processes)],
                [self._runner() for _ in range(self.settings.quick_workers)],
                job_seconds=self.settings.job_time_limit,
                queue_limit=self.settings.queue_limit,
                heard=self._rung,
                look_s=ALONE_S if self._alone else LOOK_S,
                folders_of=lambda job: [self.shelf.folder(id_) for id_ in job.profiles],
            )
            self._started = True
            threading.Thread(target=self._tidy, name="tidy", daemon=True).start()

    def _tidy(self) -> None:
        """Forgets what is older than the settings keep, and old Idempotency-Keys."""
        while not self.closing.wait(TIDY_S):
            try:
                prune(self.database, self.settings.keep_days, self.settings.keep_documents)
            except ShardwrightError as error:
                logger.warning("tidying: %s", error.message)

    @property
    def started(self) -> bool:
        return self._started

    def _runner(self) -> Runner:
        if self._alone:
            return InProcess(self.kinds)
        memory = int(self.settings.job_memory_gib * 2**30)
        return OwnProcess(memory_bytes=memory, recycle=self.settings.recycle, warm=self.settings.warm)

    def close(self) -> None:
        """Lets what runs end for a while, hands back the rest, and closes the database."""
        self.closing.set()
        with self._starting:
            if self._started:
                self.crew.close(self.settings.grace)
                self.database.close()
                self._started = False

    # ---------------------------------------------------------------- questions

    def ask(self, kind: Kind, fields: Any, asker: Asker) -> Stored | Job:
        """The stored answer, or the job that is on its way to it. Beside its own fields a request has ``profiles``, the
        names of uploaded stores, and may name an uploaded trace and stored documents where it would hold them.

        Raises:
            InputError: the request is wrong.
            QueueFull: too many jobs wait.
        """
        kind = kind.asked_by(fields)
        fields, ids = self._put_in(kind, fields, asker)
        request = understood(kind, fields, [self.shelf.folder(id_) for id_ in ids])
        id_ = identity(kind, request, ids)
        stored = self.documents.asked(id_, asker.owner)
        if stored is not None:
            return stored
        open_ = self.jobs.open_for(asker.owner, id_)
        if open_ is not None:
            return open_
        content = json.dumps(fields).encode()
        quick = kind.quick(request)
        question = Question(asker.owner, kind.name, id_, content, ids, quick, asker.rank, asker.urgency)
        self.crew.start()
        return self.crew.admit(question)

    def _put_in(self, kind: Kind, fields: Any, asker: Asker) -> tuple[Any, tuple[str, ...]]:
        """``fields`` with what they name put in, and the ids of the stores."""
        if not isinstance(fields, Mapping):
            return fields, ()
        out = dict(fields)
        given = out.pop("profiles", ()) if "profiles" not in kind.request.model_fields else ()
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names) or len(names) > 16:
            raise InputError("profiles: are not names", 'write "lab", or a list of up to 16', field="profiles")
        ids = tuple(self.shelf.named(asker.owner, "profiles", each, "profiles").id for each in names)
        if isinstance(out.get("trace"), str) and kind.name == "simulation":
            out["trace"] = self.shelf.trace(self.shelf.named(asker.owner, "traces", out["trace"], "trace"))
        for name in DOCUMENTS & set(kind.request.model_fields):
            if isinstance(out.get(name), str) and re.fullmatch("[0-9a-f]{32}", out[name]):
                stored = self.documents.find(out[name], asker.owner)
                if stored is None:
                    raise InputError(
                        f"{name}: {out[name]!r} is no document of yours", "GET /v1/documents lists them", field=name
                    )
                out[name] = json.loads(stored.content)
        return out, ids

    def cancel(self, id_: str, owner: str) -> Job | None:
        """Ends a job; as it then stands. None where the owner has none of this id."""
        if self.jobs.cancel(id_, owner):
            self.crew.drop(id_)
        job = self.jobs.find(id_, owner)
        if job is not None:
            self._rung(id_, job.kind, job.state)
        return job

    # ---------------------------------------------------------------- waiting

    def _rung(self, id_: str, kind: str, outcome: str) -> None:
        self._heard(id_, kind, outcome)
        with self._ringing:
            bells = list(self._bells.get(id_, ()))
        for bell in bells:
            bell()

    @asynccontextmanager
    async def watched(self, id_: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever something becomes of a job here."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def bell() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._ringing:
            self._bells[id_].add(bell)
        try:
            yield changed
        finally:
            with self._ringing:
                self._bells[id_].discard(bell)
                if not self._bells[id_]:
                    del self._bells[id_]
