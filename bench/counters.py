"""What a piece of work has cost, by counters: processor time by process, and what MySQL and Redis count themselves.

Wall time says what a machine was busy with; these do not depend on who else waits. The servers must be the benchmark's
own (bench/private.py), since some of their counters know no client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from common import children, cpu
from private import KINDS
from redis.asyncio import Redis

Reading = dict[str, float]

_CLIENTS: Final = ", ".join(f"'{kind}'" for kind in KINDS if kind != "bench")
_STATEMENTS: Final = (
    "SELECT USER, SUM(IF(EVENT_NAME LIKE 'statement/sql/%', COUNT_STAR, 0)),"
    " SUM(IF(EVENT_NAME = 'statement/sql/commit', COUNT_STAR, 0))"
    " FROM performance_schema.events_statements_summary_by_user_by_event_name"
    f" WHERE USER IN ({_CLIENTS}) GROUP BY USER"
)
_BYTES: Final = (
    "SELECT VARIABLE_NAME, SUM(VARIABLE_VALUE) FROM performance_schema.status_by_user"
    f" WHERE USER IN ({_CLIENTS}) AND VARIABLE_NAME IN ('Bytes_received', 'Bytes_sent') GROUP BY VARIABLE_NAME"
)
_INNODB: Final = {
    "Innodb_rows_inserted": "rows inserted",
    "Innodb_rows_updated": "rows updated",
    "Innodb_rows_deleted": "rows deleted",
    "Innodb_rows_read": "rows read",
    "Innodb_os_log_fsyncs": "redo fsyncs",
    "Innodb_os_log_written": "redo bytes",
    "Innodb_data_written": "InnoDB bytes",
}
_BINLOG: Final = (
    # COUNT_MISC: what is no read and no write; of a file that is written to and stays open, its fsyncs.
    "SELECT COUNT_MISC, SUM_NUMBER_OF_BYTES_WRITE FROM performance_schema.file_summary_by_event_name"
    " WHERE EVENT_NAME = 'wait/io/file/sql/binlog'"
)
OUR_COMMANDS: Final = ("evalsha", "eval", "publish")
"""What our processes send; commands that run inside of a script are part of it."""


@dataclass
class Spent:
    """The cost of one piece of work; filled at its end. `n`: how many tasks it was."""

    n: float = 1.0
    cost: Reading = field(default_factory=dict)
    more: Reading = field(default_factory=dict)
    """What the work itself has measured."""

    def each(self, name: str) -> float:
        return self.cost.get(name, 0.0) / self.n


class Meter:
    """`processes`: a name → the ids of its processes now."""

    def __init__(
        self, connection: Any, redis: Redis | None, processes: Mapping[str, Callable[[], list[int]]]
    ) -> None:
        self._connection = connection
        self._redis = redis
        self._processes = processes

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[Spent]:
        """What is spent inside of it. What reading costs the servers is not their work: their clocks are read within."""
        spent = Spent()
        before = await self.counters() | self.clocks()
        yield spent
        after = self.clocks() | await self.counters()
        spent.cost = {name: value - before.get(name, 0.0) for name, value in after.items()} | spent.more

    def clocks(self) -> Reading:
        """Seconds of processor time, so far."""
        return {f"cpu {name}": sum(map(cpu, pids())) for name, pids in self._processes.items()}

    async def counters(self) -> Reading:
        found: Reading = {}
        for user, statements, commits in await self._rows(_STATEMENTS):
            found[f"statements {user}"] = float(statements)
            found["statements"] = found.get("statements", 0.0) + float(statements)
            found["commits"] = found.get("commits", 0.0) + float(commits)
        for name, value in await self._rows(_BYTES):
            found["to MySQL" if name == "Bytes_received" else "from MySQL"] = float(value)
        names = ", ".join(f"'{name}'" for name in _INNODB)
        for name, value in await self._rows(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})"):
            found[_INNODB[name]] = float(value)
        for syncs, written in await self._rows(_BINLOG):
            found["binlog fsyncs"], found["binlog bytes"] = float(syncs), float(written)
        return found | (await self._of_redis() if self._redis else {})

    async def connections(self) -> Reading:
        """To MySQL, that are open now, of each kind of process."""
        rows = await self._rows(
            f"SELECT USER, CURRENT_CONNECTIONS FROM performance_schema.users WHERE USER IN ({_CLIENTS})"
        )
        return {f"connections of {user}": float(n) for user, n in rows}

    async def _of_redis(self) -> Reading:
        assert self._redis is not None
        commands = await self._redis.info("commandstats")
        stats = await self._redis.info("stats")
        memory = await self._redis.info("memory")
        return {
            "redis calls": sum(
                float(commands.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in OUR_COMMANDS
            ),
            "redis commands": float(stats["total_commands_processed"]),
            "to Redis": float(stats["total_net_input_bytes"]),
            "from Redis": float(stats["total_net_output_bytes"]),
            "redis memory": float(memory["used_memory"]),
        }

    async def _rows(self, statement: str) -> Any:
        async with self._connection.cursor() as cursor:
            await cursor.execute(statement)
            return await cursor.fetchall()


def only(pid: int) -> Callable[[], list[int]]:
    return lambda: [pid]


def runners_of(pid: int) -> Callable[[], list[int]]:
    """A worker's children."""
    return lambda: children(pid)


LEAVES: Final = (
    "SELECT table_name, SUM(stat_value) * @@innodb_page_size FROM mysql.innodb_index_stats"
    " WHERE database_name = DATABASE() AND stat_name = 'n_leaf_pages' GROUP BY table_name"
)
FILES: Final = (
    "SELECT SUBSTRING_INDEX(NAME, '/', -1), FILE_SIZE FROM information_schema.INNODB_TABLESPACES"
    " WHERE NAME LIKE CONCAT(DATABASE(), '/%')"
)


async def sizes(connection: Any, tables: tuple[str, ...]) -> tuple[Reading, Reading]:
    """Bytes of the leaf pages of each table with its indexes, and of its file."""
    async with connection.cursor() as cursor:
        await cursor.execute(f"ANALYZE TABLE {', '.join(tables)}")
        await cursor.fetchall()
        await cursor.execute(LEAVES)
        leaves = {name: float(value) for name, value in await cursor.fetchall()}
        await cursor.execute(FILES)
        files = {name: float(value) for name, value in await cursor.fetchall()}
    return {t: leaves.get(t, 0.0) for t in tables}, {t: files.get(t, 0.0) for t in tables}
