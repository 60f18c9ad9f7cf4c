"""The queue: jobs are rows, and whoever runs one holds a lease on it.

A lease is a random name that ends after a while unless it is renewed; only its holder can end the job. Taking one is
``FOR UPDATE SKIP LOCKED`` on PostgreSQL and the one writing transaction on SQLite, so no job is run by two and no
instance waits for another.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, func, or_, select, update

from api.storage.database import Database
from api.storage.documents import Stored, keep
from api.storage.tables import jobs

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")

LEASE_S = 10.0
"""A job whose service was killed is taken up again after this."""

MOST_TRIES = 2
"""Of a job whose worker died."""

MOST_CLAIMS = 8
"""Of a job whose service ended while it ran: restarts are not its fault, but may be."""


@dataclass(frozen=True)
class Question:
    """What a job answers."""

    owner: str
    kind: str
    document: str
    request: bytes
    profiles: tuple[str, ...]
    quick: bool
    rank: int
    urgency: int


@dataclass(frozen=True)
class Job:
    """A job as it stands; ``ahead``: how many wait before it."""

    id: str
    number: int
    owner: str
    kind: str
    document: str
    state: State
    doing: str
    percent: float | None
    tries: int
    created: float
    started: float | None
    ended: float | None
    problem: dict[str, Any] | None
    ahead: int | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Claimed:
    """A job that its holder may run."""

    id: str
    lease: str
    owner: str
    kind: str
    document: str
    request: bytes
    profiles: tuple[str, ...]
    tries: int


_SHOWN = ("id", "number", "owner", "kind", "document", "state", "doing", "percent", "tries", "created", "started")
_COLUMNS = [jobs.c[name] for name in (*_SHOWN, "ended", "problem", "rank")]
_FREE = {"lease": None, "lease_until": None, "worker": None, "doing": "", "percent": None}


class Jobs:
    """The jobs of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---------------------------------------------------------------- who asks

    def waiting(self) -> int:
        """How many are queued."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.count()).where(jobs.c.state == "queued")).scalar_one())

    def queue_now(self) -> tuple[int, float, int]:
        """(jobs that wait, seconds that the oldest has waited, jobs that run), of all instances."""
        with self._database.reading() as connection:
            waiting, oldest = connection.execute(
                select(func.count(), func.min(jobs.c.created)).where(jobs.c.state == "queued")
            ).one()
            running = connection.execute(select(func.count()).where(jobs.c.state == "running")).scalar_one()
        return int(waiting), 0.0 if oldest is None else max(time.time() - oldest, 0.0), int(running)

    def asked_since(self, owner: str, since: float) -> tuple[int, float]:
        """(jobs of an owner since a time, when the first of them was made)."""
        query = select(func.count(), func.min(jobs.c.created)).where(jobs.c.owner == owner, jobs.c.created >= since)
        with self._database.reading() as connection:
            count, first = connection.execute(query).one()
        return int(count), since if first is None else float(first)

    def add(self, asked: Question) -> Job:
        """A new job, queued."""
        with self._database.writing() as connection:
            row = connection.execute(
                jobs.insert()
                .values(
                    id=secrets.token_hex(16),
                    owner=asked.owner,
                    kind=asked.kind,
                    document=asked.document,
                    request=asked.request,
                    profiles=json.dumps(asked.profiles),
                    state="queued",
                    quick=int(asked.quick),
                    rank=asked.rank,
                    urgency=asked.urgency,
                    created=time.time(),
                )
                .returning(*_COLUMNS)
            ).one()
        return _job(row)

    def open_for(self, owner: str, document: str) -> Job | None:
        """The owner's job that is already on its way to a document."""
        query = select(*_COLUMNS).where(jobs.c.owner == owner, jobs.c.document == document)
        with self._database.reading() as connection:
            row = connection.execute(query.where(jobs.c.state.in_(("queued", "running"))).limit(1)).one_or_none()
        return None if row is None else _job(row)

    def find(self, id_: str, owner: str) -> Job | None:
        """A job of ``owner``, with its place in the queue."""
        with self._database.reading() as connection:
            row = connection.execute(select(*_COLUMNS).where(jobs.c.id == id_, jobs.c.owner == owner)).one_or_none()
            if row is None:
                return None
            ahead = None
            if row.state == "queued":
                sooner = or_(jobs.c.rank < row.rank, and_(jobs.c.rank == row.rank, jobs.c.number < row.number))
                ahead = connection.execute(select(func.count()).where(jobs.c.state == "queued", sooner)).scalar_one()
        return _job(row, ahead)

    def listed(self, owner: str, state: str | None, before: int | None, most: int) -> list[Job]:
        """Jobs of ``owner``, the newest first; ``before``: number of the last one of the page before."""
        query = select(*_COLUMNS).where(jobs.c.owner == owner)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if before is not None:
            query = query.where(jobs.c.number < before)
        with self._database.reading() as connection:
            return [_job(row) for row in connection.execute(query.order_by(jobs.c.number.desc()).limit(most))]

    def cancel(self, id_: str, owner: str) -> bool:
        """Ends a job that has not ended; its worker's lease is gone with it. False where there was nothing to end."""
        with self._database.writing() as connection:
            return bool(
                connection.execute(
                    update(jobs)
                    .where(jobs.c.id == id_, jobs.c.owner == owner, jobs.c.state.in_(("queued", "running")))
                    .values(**{**_FREE, "state": "cancelled", "ended": time.time(), "request": b""})
                ).rowcount
            )

    # ---------------------------------------------------------------- who works

    def claim(self, worker: str, *, quick_only: bool = False) -> Claimed | None:
        """The next job, by class of key, then the key with the fewest running, then the one that waited longest since
        its last job began; of a key's own the most urgent, then the oldest."""
        wanted = [jobs.c.state == "queued"]
        if quick_only:
            wanted.append(jobs.c.quick == 1)
        with self._database.reading() as connection:  # most looks find nothing, and need not hold up who writes
            if connection.execute(select(jobs.c.id).where(*wanted).limit(1)).one_or_none() is None:
                return None
        with self._database.writing() as connection:
            for owner in _in_turn(connection, wanted):
                row = self._taken(connection, worker, [*wanted, jobs.c.owner == owner])
                if row is not None:
                    return Claimed(
                        row.id,
                        row.lease,
                        row.owner,
                        row.kind,
                        row.document,
                        row.request,
                        tuple(json.loads(row.profiles)),
                        row.tries,
                    )
        return None

    def _taken(self, connection: Connection, worker: str, wanted: list[Any]) -> Row[Any] | None:
        first = select(jobs.c.number).where(*wanted).order_by(jobs.c.urgency, jobs.c.number).limit(1)
        if not self._database.is_sqlite:
            first = first.with_for_update(skip_locked=True)
        now = time.time()
        return connection.execute(
            update(jobs)
            .where(jobs.c.number == first.scalar_subquery(), jobs.c.state == "queued")
            .values(
                state="running",
                lease=secrets.token_hex(16),
                lease_until=now + LEASE_S,
                worker=worker[:128],
                started=now,
                claims=jobs.c.claims + 1,
                doing="starting",
            )
            .returning(jobs)
        ).one_or_none()

    def renew(self, leases: Collection[str]) -> set[str]:
        """Holds on to leases; those that still hold."""
        with self._database.writing() as connection:
            rows = connection.execute(
                update(jobs)
                .where(jobs.c.lease.in_(leases), jobs.c.state == "running")
                .values(lease_until=time.time() + LEASE_S)
                .returning(jobs.c.lease)
            )
            return {row.lease for row in rows}

    def held(self, leases: Collection[str]) -> set[str]:
        """Those leases that still hold."""
        with self._database.reading() as connection:
            query = select(jobs.c.lease).where(jobs.c.lease.in_(leases), jobs.c.state == "running")
            return {row.lease for row in connection.execute(query)}

    def tell(self, lease: str, doing: str, percent: float | None) -> None:
        """What a job is doing, and how far it is."""
        with self._database.writing() as connection:
            connection.execute(update(jobs).where(jobs.c.lease == lease).values(doing=doing[:500], percent=percent))

    def done(self, lease: str, owner: str, document: Stored) -> bool:
        """Stores the answer and ends its job, both or neither; False where the lease holds no more."""
        with self._database.writing() as connection:
            if not _end(connection, lease, {"state": "done", "percent": 100.0}):
                return False
            keep(connection, document, owner)
            return True

    def failed(self, lease: str, problem: Mapping[str, Any]) -> bool:
        """Ends a job without an answer; False where the lease holds no more."""
        with self._database.writing() as connection:
            return _end(connection, lease, {"state": "failed", "problem": json.dumps(problem)})

    def hand_back(self, lease: str, *, worker_died: bool = False) -> None:
        """Queues a job again: its worker died of it, or the service ends."""
        change = {"tries": jobs.c.tries + 1} if worker_died else {"claims": jobs.c.claims - 1}
        with self._database.writing() as connection:
            connection.execute(
                update(jobs)
                .where(jobs.c.lease == lease, jobs.c.state == "running")
                .values(**{**_FREE, "state": "queued", "started": None, **change})
            )

    def take_back(self, problem: Mapping[str, Any]) -> int:
        """Queues jobs whose lease ran out; what was taken up :data:`MOST_CLAIMS` times fails with ``problem``. How
        many there were."""
        late = and_(jobs.c.state == "running", jobs.c.lease_until < time.time())
        with self._database.reading() as connection:
            if connection.execute(select(jobs.c.id).where(late).limit(1)).one_or_none() is None:
                return 0
        with self._database.writing() as connection:
            ended = {**_FREE, "state": "failed", "ended": time.time(), "problem": json.dumps(problem), "request": b""}
            again = {**_FREE, "state": "queued", "started": None}
            gone = connection.execute(update(jobs).where(late, jobs.c.claims >= MOST_CLAIMS).values(**ended)).rowcount
            return gone + connection.execute(update(jobs).where(late).values(**again)).rowcount


def _in_turn(connection: Connection, wanted: list[Any]) -> list[str]:
    """Owners of waiting jobs, whose turn it is first."""
    queued = jobs.alias("queued")
    clauses = [queued.c[each.left.name] == each.right for each in wanted]
    running = select(func.count()).where(jobs.c.owner == queued.c.owner, jobs.c.state == "running").scalar_subquery()
    last = select(func.max(jobs.c.started)).where(jobs.c.owner == queued.c.owner).scalar_subquery()
    query = (
        select(queued.c.owner)
        .where(*clauses)
        .group_by(queued.c.owner)
        .order_by(func.min(queued.c.rank), running, func.coalesce(last, 0), func.min(queued.c.number))
    )
    return list(connection.execute(query).scalars())


def _end(connection: Connection, lease: str, values: dict[str, Any]) -> bool:
    over = {**_FREE, "ended": time.time(), "request": b"", **values}
    return bool(
        connection.execute(update(jobs).where(jobs.c.lease == lease, jobs.c.state == "running").values(**over)).rowcount
    )


def _job(row: Row[Any], ahead: int | None = None) -> Job:
    known = {name: getattr(row, name) for name in (*_SHOWN, "ended")}
    return Job(**known, problem=json.loads(row.problem) if row.problem else None, ahead=ahead)
