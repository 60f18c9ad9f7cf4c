"""The tables. What changes here needs a migration in :mod:`api.storage.migrations`.

Times are seconds since 1970 in UTC, so that both databases compare them alike. Whoever made or may see something is an
``owner``: the id of an API key, or :data:`NOBODY` where none was sent.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

NOBODY = ""
"""The owner of what is asked without a key."""

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts only an INTEGER PRIMARY KEY by itself

documents = Table(
    "documents",
    METADATA,
    Column("id", String(64), primary_key=True, doc="hash of the question: request, measurements, versions"),
    Column("kind", String(64), nullable=False),
    Column("schema_version", String(16), nullable=False),
    Column("media_type", String(64), nullable=False),
    Column("etag", String(64), nullable=False, doc="SHA-256 of the content"),
    Column("model", String(256), nullable=False, server_default="", doc="what is asked about, for lists"),
    Column("content", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
)

access = Table(
    "access",
    METADATA,
    Column("owner", String(64), primary_key=True),
    Column("document", String(64), ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True),
    Column("at", Double, nullable=False),
    Index("ix_access_owner_at", "owner", "at", "document"),
    Index("ix_access_document", "document"),
)

jobs = Table(
    "jobs",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True, doc="the order they came in"),
    Column("id", String(32), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("document", String(64), nullable=False, doc="the id that its answer will have"),
    Column("request", LargeBinary, nullable=False, doc="JSON as it was understood; emptied when it has ended"),
    Column("profiles", Text, nullable=False, doc="JSON: ids of the uploaded stores laid over the pack"),
    Column("state", String(16), nullable=False),
    Column("quick", Integer, nullable=False),
    Column("rank", Integer, nullable=False, doc="class of the key: 0 goes first"),
    Column("urgency", Integer, nullable=False, doc="among the jobs of a key: 0 goes first"),
    Column("claims", Integer, nullable=False, server_default="0", doc="how often a service took it up"),
    Column("tries", Integer, nullable=False, server_default="0", doc="how often its worker died of it"),
    Column("lease", String(32), doc="of the one worker that may end it"),
    Column("lease_until", Double),
    Column("worker", String(128), doc="host and process of the service that runs it"),
    Column("doing", Text, nullable=False, server_default=""),
    Column("percent", Double),
    Column("problem", Text, doc="JSON of the problem document"),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    Index(
        "ix_jobs_waiting",
        "owner",
        "urgency",
        "number",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
    Index(
        "ix_jobs_running",
        "owner",
        "lease_until",
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    Index("ix_jobs_owner_started", "owner", "started"),
    Index("ix_jobs_owner_document", "owner", "document"),
    Index("ix_jobs_ended", "ended"),
)

keys = Table(
    "keys",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("hash", String(64), nullable=False, doc="SHA-256 of the secret, which has 256 bits"),
    Column("scopes", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("rate", String(64), doc="requests: 10/second"),
    Column("quota", String(64), doc="questions: 1000/day"),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
)

uploads = Table(
    "uploads",
    METADATA,
    Column("id", String(64), primary_key=True, doc="hash of owner, family, name and content"),
    Column("owner", String(64), nullable=False),
    Column("family", String(16), nullable=False, doc="profiles or traces"),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("about", Text, nullable=False, doc="JSON: rows, operations, GPUs, requests"),
    Column("content", LargeBinary, nullable=False),
    Column("created", Double, nullable=False),
    Index("uq_uploads_owner_family_name_version", "owner", "family", "name", "version", unique=True),
)

answers = Table(
    "answers",
    METADATA,
    Column("owner", String(64), primary_key=True),
    Column("key", String(256), primary_key=True, doc="Idempotency-Key"),
    Column("asked", String(64), nullable=False, doc="hash of route and body"),
    Column("job", String(32)),
    Column("document", String(64)),
    Column("created", Double, nullable=False),
)

ALL = (documents, access, jobs, keys, uploads, answers)
