"""The tables. MySQL or MariaDB in production, SQLite embedded; one definition for all.

What each column is for is DESIGN.md part 4. Rules that shape it (SQL.md, each measured): the payload lies beside the hot
row; no unique key but the primary one on `tasks`, no foreign keys, so that it can be partitioned; every index on a
column that changes is paid for at each transition, so `(status, priority, check_at)` is the only one; keys compare
byte by byte (utf8mb4_bin); times are DATETIME(6) in UTC. The trailing `id` of an index costs InnoDB nothing (its
entries carry the primary key anyway) and gives SQLite the same order.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

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
    """16 bytes."""
    return sa.LargeBinary().with_variant(mysql.BINARY(16), "mysql", "mariadb")


def hash_type() -> sa.types.TypeEngine[bytes]:
    """A SHA-256: 32 bytes."""
    return sa.LargeBinary().with_variant(mysql.BINARY(32), "mysql", "mariadb")


def time_type() -> sa.types.TypeEngine[Any]:
    """UTC with microseconds."""
    return sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def text_type() -> sa.types.TypeEngine[str]:
    """Up to 16 MiB. Never TEXT: MariaDB cuts 70,000 bytes to 4,464 there through a joined UPDATE, without a warning."""
    return sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def blob_type() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def small() -> sa.types.TypeEngine[int]:
    return sa.SmallInteger().with_variant(mysql.TINYINT(), "mysql", "mariadb")


def serial() -> sa.types.TypeEngine[int]:
    """A growing number. SQLite gives one only to INTEGER."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("tenant_id", sa.Integer, nullable=False, server_default="1"),
    sa.Column("user_id", id_type(), nullable=False),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("type", sa.String(100)),
    sa.Column("title", sa.String(255), nullable=False),
    sa.Column("description", text_type()),
    sa.Column("status", small(), nullable=False),
    sa.Column("priority", small(), nullable=False),
    sa.Column("result", text_type()),
    sa.Column("error", text_type()),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_retries", sa.Integer),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("suspect", small(), nullable=False, server_default="0"),
    sa.Column("releases", sa.Integer, nullable=False, server_default="0"),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("check_at", time_type(), nullable=False),
    sa.Column("op_id", id_type()),
    sa.Column("worker_id", id_type()),
    sa.Column("scheduled_at", time_type()),
    sa.Column("created_at", time_type(), nullable=False),
    sa.Column("updated_at", time_type(), nullable=False),
    sa.Column("started_at", time_type()),
    sa.Column("completed_at", time_type()),
    sa.Column("progress", sa.Double),
    sa.Column("cancel_requested_at", time_type()),
    sa.Index("ix_tasks_check", "status", "priority", "check_at", "id"),
    sa.Index("ix_tasks_user", "user_id", "id"),
    sa.Index("ix_tasks_type", "type", "id"),
    sa.Index("ix_tasks_queue", "queue", "id"),
    **_OPTIONS,
)

task_payloads = sa.Table(
    "task_payloads",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("payload", text_type(), nullable=False),
    **_OPTIONS,
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("task_id", id_type(), primary_key=True),
    sa.Column("fence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("op_id", id_type(), nullable=False),
    sa.Column("worker", sa.String(100)),
    sa.Column("started_at", time_type()),
    sa.Column("ended_at", time_type(), nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("error_type", sa.String(100)),
    sa.Column("message", text_type()),
    sa.Column("traceback", text_type()),
    **_OPTIONS,
)

logs = sa.Table(
    "logs",
    metadata,
    sa.Column("task_id", id_type(), primary_key=True),
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("level", sa.String(10), nullable=False),
    sa.Column("message", text_type(), nullable=False),
    sa.Column("fields", text_type()),
    sa.Column("created_at", time_type(), nullable=False),
    **_OPTIONS,
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("boot_id", id_type(), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("queues", text_type(), nullable=False),
    sa.Column("types", text_type(), nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("started_at", time_type(), nullable=False),
    sa.Column("last_seen", time_type(), nullable=False),
    # The last claim of a worker that may never have heard its answer: its operation, and the ids one after the other.
    sa.Column("claim_op", id_type()),
    sa.Column("claim_ids", blob_type()),
    **_OPTIONS,
)

journal = sa.Table(
    "journal",
    metadata,
    sa.Column("seq", serial(), primary_key=True, autoincrement=True),
    sa.Column("at", time_type(), nullable=False),
    sa.Column("verb", sa.String(16), nullable=False),
    sa.Column("folded", small(), nullable=False, server_default="0"),
    sa.Column("changes", blob_type(), nullable=False),
    sa.Index("ix_journal_folded", "folded", "seq"),
    sqlite_autoincrement=True,
    **_OPTIONS,
)

counts = sa.Table(
    "counts",
    metadata,
    sa.Column("user_id", id_type(), primary_key=True),
    sa.Column("queue", sa.String(64), primary_key=True),
    sa.Column("priority", small(), primary_key=True, autoincrement=False),
    sa.Column("status", small(), primary_key=True, autoincrement=False),
    sa.Column("n", sa.BigInteger, nullable=False),
    **_OPTIONS,
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", id_type(), primary_key=True),
    sa.Column("email", sa.String(254), nullable=False, unique=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("password_hash", sa.String(255), nullable=False),
    sa.Column("role", small(), nullable=False),
    sa.Column("token_version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_at", time_type(), nullable=False),
    sa.Column("disabled_at", time_type()),
    **_OPTIONS,
)

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

leader = sa.Table(
    "leader",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("holder", id_type(), nullable=False),
    sa.Column("term", sa.BigInteger, nullable=False),
    sa.Column("expires_at", time_type(), nullable=False),
    **_OPTIONS,
)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", text_type(), nullable=False),
    **_OPTIONS,
)
