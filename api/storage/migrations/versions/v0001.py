"""The first schema: documents and who may see them, jobs, keys, uploads, answers by Idempotency-Key."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None
branch_labels = depends_on = None


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("schema_version", sa.String(16), nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False, server_default=""),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "access",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("document", sa.String(64), sa.ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("ix_access_owner_at", "access", ["owner", "at", "document"])
    op.create_index("ix_access_document", "access", ["document"])
    op.create_table(
        "jobs",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("document", sa.String(64), nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("profiles", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("quick", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("urgency", sa.Integer, nullable=False),
        sa.Column("claims", sa.Integer, nullable=False, server_default="0"),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease", sa.String(32)),
        sa.Column("lease_until", sa.Double),
        sa.Column("worker", sa.String(128)),
        sa.Column("doing", sa.Text, nullable=False, server_default=""),
        sa.Column("percent", sa.Double),
        sa.Column("problem", sa.Text),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("ended", sa.Double),
    )
    for name, columns, state in (
        ("ix_jobs_waiting", ["owner", "urgency", "number"], "queued"),
        ("ix_jobs_running", ["owner", "lease_until"], "running"),
    ):
        only = sa.text(f"state = '{state}'")
        op.create_index(name, "jobs", columns, sqlite_where=only, postgresql_where=only)
    op.create_index("ix_jobs_owner_started", "jobs", ["owner", "started"])
    op.create_index("ix_jobs_owner_document", "jobs", ["owner", "document"])
    op.create_index("ix_jobs_ended", "jobs", ["ended"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("rate", sa.String(64)),
        sa.Column("quota", sa.String(64)),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("revoked", sa.Double),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("family", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_index(
        "uq_uploads_owner_family_name_version", "uploads", ["owner", "family", "name", "version"], unique=True
    )
    op.create_table(
        "answers",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(256), primary_key=True),
        sa.Column("asked", sa.String(64), nullable=False),
        sa.Column("job", sa.String(32)),
        sa.Column("document", sa.String(64)),
        sa.Column("created", sa.Double, nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("restore the backup that `plan db backup` made")
