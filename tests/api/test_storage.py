"""What the service keeps: one contract over SQLite, SQLite in memory and PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from api.storage import jobs as queue
from api.storage.database import Database, DatabaseAway, parsed_url
from api.storage.documents import Documents, Filter, Stored, grant, keep
from api.storage.jobs import MOST_CLAIMS, Claimed, Jobs, Question
from api.storage.schema import newest, prepare, state, upgrade, version
from api.storage.tables import METADATA
from api.storage.tables import jobs as table
from profiles.errors import InputError


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    prepare(made)
    yield made
    made.close()


def question(owner: str = "", document: str = "d", **changes: object) -> Question:
    fields = {"rank": 1, "urgency": 3, "quick": False, "profiles": (), "request": b"{}", "kind": "serving"}
    return Question(owner=owner, document=document, **{**fields, **changes})  # type: ignore[arg-type]


def stored(id_: str = "d", content: bytes = b"{}\n", kind: str = "serving", model: str = "m") -> Stored:
    return Stored.of(id_, kind, "1.0", "application/json", content, model)


def claimed(jobs: Jobs, **options: bool) -> Claimed:
    found = jobs.claim("here:1", **options)
    assert found is not None
    return found


# ------------------------------------------------------------------ schema


def test_an_empty_database_gets_its_tables_once(database: Database) -> None:
    assert state(database) == "current"
    assert version(database) == newest()
    assert upgrade(database) == (newest(), newest())


def test_migrations_make_what_the_tables_say(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


@pytest.mark.parametrize(("found", "said"), [("9999", "newer than this program's"), (None, "did not make")])
def test_a_database_of_others_is_refused(database: Database, found: str | None, said: str) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
        if found:
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{found}')")
    for refused in (prepare, upgrade):
        with pytest.raises(InputError, match=said):
            refused(database)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "", "postgresql+asyncpg://x/y", "sqlite+aiosqlite:///x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="database_url"):
        parsed_url(url)


def test_a_password_is_not_shown() -> None:
    assert Database("postgresql://u:secret@h:1/d").shown == "postgresql://u:***@h:1/d"


def test_a_database_that_is_away_says_where(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database " * 1000)
    for url, said in (
        ("postgresql://u:secret@127.0.0.1:1/d", "refused"),
        (f"sqlite:///{tmp_path / 'text.db'}", "not a database"),
        (f"sqlite:///{tmp_path}", "unable to open"),
    ):
        with pytest.raises(DatabaseAway, match=said) as raised:
            prepare(Database(url))
        assert "secret" not in raised.value.message


# ------------------------------------------------------------------ documents


def test_a_document_is_seen_by_whoever_asked(database: Database) -> None:
    documents = Documents(database)
    assert documents.asked("d", "a") is None
    with database.writing() as connection:
        keep(connection, stored(), "a")
        keep(connection, stored(content=b"other"), "a")
    found = documents.find("d", "a")
    assert found is not None
    assert found.content == b"{}\n", "the first answer stays"
    assert documents.find("d", "b") is None
    assert documents.asked("d", "b") == found
    assert documents.find("d", "b") == found


def test_documents_are_listed_in_pages(database: Database) -> None:
    documents = Documents(database)
    with database.writing() as connection:
        for number in range(7):
            keep(connection, stored(f"d{number}", kind="experts" if number == 3 else "serving"), "a")
        grant(connection, "b", "d1")
    seen: list[str] = []
    before = None
    while page := documents.listed("a", Filter(before=before), 3):
        seen += [document.id for _, document in page]
        before = (page[-1][0], page[-1][1].id)
    assert sorted(seen) == [f"d{number}" for number in range(7)]
    assert [document.id for _, document in documents.listed("b", Filter(), 9)] == ["d1"]
    assert [document.id for _, document in documents.listed("a", Filter(kind="experts"), 9)] == ["d3"]
    assert documents.listed("a", Filter(model="other"), 9) == []
    assert documents.listed("a", Filter(since=time.time() + 9), 9) == []


# ------------------------------------------------------------------ jobs


def test_a_job_goes_from_queued_to_done(database: Database) -> None:
    jobs = Jobs(database)
    first, second = jobs.add(question("a", "d")), jobs.add(question("a", "e"))
    shown = jobs.find(second.id, "a")
    assert shown is not None
    assert (shown.state, shown.ahead) == ("queued", 1)
    assert jobs.find(first.id, "b") is None
    work = claimed(jobs)
    assert (work.id, work.document, work.request) == (first.id, "d", b"{}")
    jobs.tell(work.lease, "searching", 40.0)
    shown = jobs.find(first.id, "a")
    assert shown is not None
    assert (shown.state, shown.doing, shown.percent) == ("running", "searching", 40.0)
    assert jobs.done(work.lease, "a", stored("d"))
    assert not jobs.done(work.lease, "a", stored("d")), "only once"
    shown = jobs.find(first.id, "a")
    assert shown is not None
    assert (shown.state, shown.is_over) == ("done", True)
    assert Documents(database).find("d", "a") is not None
    assert jobs.open_for("a", "d") is None
    assert jobs.open_for("a", "e") is not None


def test_a_failed_job_says_why(database: Database) -> None:
    jobs = Jobs(database)
    job = jobs.add(question())
    assert jobs.failed(claimed(jobs).lease, {"title": "No"})
    shown = jobs.find(job.id, "")
    assert shown is not None
    assert (shown.state, shown.problem) == ("failed", {"title": "No"})


def test_a_cancelled_job_has_no_lease_left(database: Database) -> None:
    jobs = Jobs(database)
    job = jobs.add(question())
    work = claimed(jobs)
    assert jobs.held([work.lease]) == jobs.renew([work.lease]) == {work.lease}
    assert not jobs.cancel(job.id, "b")
    assert jobs.cancel(job.id, "")
    assert not jobs.cancel(job.id, "")
    assert jobs.held([work.lease]) == jobs.renew([work.lease]) == set()
    assert not jobs.done(work.lease, "", stored())
    assert Documents(database).find("d", "") is None


def test_a_job_whose_service_died_is_taken_up_again(database: Database) -> None:
    jobs = Jobs(database)
    job = jobs.add(question())
    for _ in range(MOST_CLAIMS):
        old = claimed(jobs)
        assert jobs.take_back({}) == 0
        with database.writing() as connection:
            connection.execute(update(table).values(lease_until=1.0))
        assert jobs.take_back({"title": "gave up"}) == 1
        assert not jobs.done(old.lease, "", stored())
    assert jobs.claim("here") is None
    shown = jobs.find(job.id, "")
    assert shown is not None
    assert shown.problem == {"title": "gave up"}


def test_a_job_that_is_handed_back_is_next_again(database: Database) -> None:
    jobs = Jobs(database)
    jobs.add(question())
    for died, tries in ((False, 0), (True, 1), (True, 2)):
        jobs.hand_back(claimed(jobs).lease, worker_died=died)
        assert claimed(jobs).tries == tries
        with database.writing() as connection:
            connection.execute(update(table).values(state="queued", lease=None))


def test_turns_go_round_the_owners(database: Database) -> None:
    jobs = Jobs(database)
    for number in range(20):
        jobs.add(question("many", f"m{number}"))
    claimed(jobs)
    jobs.add(question("one", "o"))
    assert claimed(jobs).owner == "one", "a long queue of another does not stand before it"
    jobs.add(question("first", "f", rank=0))
    assert claimed(jobs).owner == "first"
    jobs.add(question("many", "urgent", urgency=0))
    assert claimed(jobs).document == "urgent"
    jobs.add(question("late", "q", quick=True))
    assert claimed(jobs, quick_only=True).document == "q"
    assert jobs.claim("here", quick_only=True) is None


def test_no_job_is_claimed_twice(database: Database) -> None:
    jobs = Jobs(database)
    count = 60
    for number in range(count):
        jobs.add(question(f"o{number % 7}", f"d{number}"))
    seen: Counter[str] = Counter()

    def work() -> None:
        while (found := jobs.claim("here")) is not None or jobs.waiting():
            if found is not None:
                seen[found.id] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(seen) == count
    assert set(seen.values()) == {1}


def test_claims_do_not_wait_for_each_other(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("on SQLite one writes at a time")
    jobs = Jobs(database)
    first, second = jobs.add(question("a", "d")), jobs.add(question("a", "e"))
    with database.writing() as held:  # a claim that has not ended
        held.execute(update(table).where(table.c.id == first.id).values(state="running", lease="x"))
        started = time.monotonic()
        assert claimed(jobs).id == second.id
        assert time.monotonic() - started < 1


def test_leases_are_longer_than_the_pauses_between_renewals() -> None:
    assert queue.LEASE_S <= 10, "workers end within 10 s of their service, and the job is taken up again"
