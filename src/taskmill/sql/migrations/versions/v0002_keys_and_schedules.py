"""Keys for programs, cron schedules with what they fired, and the last claim of remote workers.

A frozen copy of sql/schema.py as it was, like v0001; `create_all` skips what exists.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

metadata = sa.MetaData()

_OPTIONS: Any = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}


def id_type() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.BINARY(16), "mysql", "mariadb")


def hash_type() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.BINARY(32), "mysql", "mariadb")


def time_type() -> sa.types.TypeEngine[Any]:
    return sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def text_type() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def blob_type() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def small() -> sa.types.TypeEngine[int]:
    return sa.SmallInteger().with_variant(mysql.TINYINT(), "mysql", "mariadb")


api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("user_id", id_type(), nullable=False),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("role", small(), nullable=False),
    sa.Column("prefix", sa.String(16), nullable=False),
    sa.Column("hash", hash_type(), nullable=False, unique=True),
    sa.Column("queues", text_type()),
    sa.Column("created_at", time_type(), nullable=False),
    sa.Column("expires_at", time_type()),
    sa.Column("last_used_at", time_type()),
    sa.Column("revoked_at", time_type()),
    sa.Index("ix_api_keys_user", "user_id", "id"),
    **_OPTIONS,
)

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("user_id", id_type(), nullable=False),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("cron", sa.String(255), nullable=False),
    sa.Column("timezone", sa.String(64), nullable=False),
    sa.Column("type", sa.String(100)),
    sa.Column("title", sa.String(255), nullable=False),
    sa.Column("description", text_type()),
    sa.Column("payload", text_type(), nullable=False),
    sa.Column("priority", small(), nullable=False),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("max_retries", sa.Integer),
    sa.Column("misfire", small(), nullable=False),
    sa.Column("overlap", small(), nullable=False),
    sa.Column("enabled", small(), nullable=False, server_default="1"),
    sa.Column("starts_at", time_type()),
    sa.Column("ends_at", time_type()),
    sa.Column("next_at", time_type()),
    sa.Column("last_at", time_type()),
    sa.Column("last_task_id", id_type()),
    sa.Column("waiting", sa.Integer, nullable=False, server_default="0"),
    sa.Column("declared", sa.String(200)),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("created_at", time_type(), nullable=False),
    sa.Column("updated_at", time_type(), nullable=False),
    sa.UniqueConstraint("user_id", "name", name="uq_schedules_name"),
    sa.Index("ix_schedules_next", "next_at", "id"),
    sa.Index("ix_schedules_waiting", "waiting", "id"),
    **_OPTIONS,
)

fires = sa.Table(
    "fires",
    metadata,
    sa.Column("schedule_id", id_type(), primary_key=True),
    sa.Column("nominal_at", time_type(), primary_key=True),
    sa.Column("outcome", small(), nullable=False),
    sa.Column("task_id", id_type()),
    sa.Column("at", time_type(), nullable=False),
    sa.Index("ix_fires_at", "at"),
    sa.Index("ix_fires_outcome", "schedule_id", "outcome", "nominal_at"),
    **_OPTIONS,
)


CLAIM: Any = (("claim_op", id_type()), ("claim_ids", blob_type()))
"""Columns of `workers`."""


def upgrade() -> None:
    metadata.create_all(op.get_bind())
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("workers")}
    for name, type_ in CLAIM:
        if name not in known:  # DDL is not transactional on MySQL: an upgrade that broke off is run again
            op.add_column("workers", sa.Column(name, type_))


def downgrade() -> None:
    for name, _ in CLAIM:
        op.drop_column("workers", name)
    metadata.drop_all(op.get_bind())
