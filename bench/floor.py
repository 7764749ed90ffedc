"""The bare floor: what the driver, the server and Redis can do alone, with nothing of the product around them.

One process, one asyncio loop, one table with one secondary index, the cheapest statements that still are safe: a
reservation in one Lua call, a claim (UPDATE by keys, read back by keys and operation, COMMIT), no-op tasks, a settle
(UPDATE by keys and operation, COMMIT). No fence by row, no journal, no payload table, no leases, no second process.
`slots` tasks are in flight at most; `lanes` share them, each with a connection of its own.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any, Final

from common import ask, connect
from redis.asyncio import Redis

TABLE: Final = """
CREATE TABLE floor_tasks (
    id BINARY(16) NOT NULL PRIMARY KEY, user_id BINARY(16) NOT NULL, queue VARCHAR(64) NOT NULL,
    title VARCHAR(255) NOT NULL, status TINYINT NOT NULL, priority TINYINT NOT NULL, payload MEDIUMTEXT NOT NULL,
    result MEDIUMTEXT, attempts INT NOT NULL DEFAULT 0, fence BIGINT NOT NULL DEFAULT 0, check_at DATETIME(6) NOT NULL,
    op_id BINARY(16), worker_id BINARY(16), created_at DATETIME(6) NOT NULL, started_at DATETIME(6),
    completed_at DATETIME(6), KEY floor_check (status, priority, check_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
"""
QUEUED, PROCESSING, COMPLETED = 2, 3, 4
RESERVE: Final = """
local got = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)
if #got == 0 then return got end
local held = {}
for i, id in ipairs(got) do held[2 * i - 1] = ARGV[2]; held[2 * i] = id end
redis.call('ZADD', KEYS[2], unpack(held))
redis.call('ZREM', KEYS[1], unpack(got))
return got
"""
INSERT_BATCH: Final = 500


async def fill(url: str, redis: Redis, key: str, n: int) -> None:
    """n queued rows, in key order, and their ids in Redis."""
    connection = await connect(url)
    await ask(connection, TABLE)
    user = secrets.token_bytes(16)
    for start in range(0, n, INSERT_BATCH):
        ids = [
            (i + 1).to_bytes(8, "big") + secrets.token_bytes(8)
            for i in range(start, min(n, start + INSERT_BATCH))
        ]
        await insert(connection, ids, user)
        await connection.commit()
        await redis.zadd(key, {id_: start + i for i, id_ in enumerate(ids)})
    await connection.ensure_closed()


async def insert(connection: Any, ids: list[bytes], user: bytes) -> None:
    """One statement of many rows."""
    row = f"(%s, %s, 'default', 'bench', {QUEUED}, 2, '{{}}', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
    columns = "id, user_id, queue, title, status, priority, payload, check_at, created_at"
    values = [v for id_ in ids for v in (id_, user)]
    async with connection.cursor() as cursor:
        await cursor.execute(
            f"INSERT INTO floor_tasks ({columns}) VALUES {', '.join([row] * len(ids))}", values
        )


async def drain(url: str, redis_url: str, prefix: str, n: int, slots: int, lanes: int) -> tuple[float, float]:
    """Seconds from the first reservation to the last commit, and this process's processor time in between."""
    redis = Redis.from_url(redis_url)
    key = f"{prefix}floor"
    await fill(url, redis, key, n)
    connections = [await connect(url) for _ in range(lanes)]
    script = await redis.script_load(RESERVE)
    sizes = [slots // lanes + (i < slots % lanes) for i in range(lanes)]
    began, used = time.perf_counter(), time.process_time()
    done = await asyncio.gather(
        *(_lane(c, redis, script, key, size) for c, size in zip(connections, sizes, strict=True))
    )
    took = time.perf_counter() - began, time.process_time() - used
    for connection in connections:
        await connection.ensure_closed()
    await redis.aclose()
    if sum(done) != n:
        raise AssertionError(f"the floor finished {sum(done)} of {n}")
    return took


async def _lane(connection: Any, redis: Redis, script: str, key: str, size: int) -> int:
    worker = secrets.token_bytes(16)
    done = 0
    async with connection.cursor() as cursor:
        while ids := await redis.evalsha(script, 2, key, key + ":held", size, time.time()):
            ids = sorted(ids)
            op = secrets.token_bytes(16)
            marks = ", ".join(["%s"] * len(ids))
            await cursor.execute(
                f"UPDATE floor_tasks SET status = {PROCESSING}, fence = fence + 1, attempts = attempts + 1, op_id = %s,"
                " worker_id = %s, started_at = UTC_TIMESTAMP(6), check_at = UTC_TIMESTAMP(6) + INTERVAL 30 SECOND"
                f" WHERE id IN ({marks}) AND status + 0 = {QUEUED}",
                [op, worker, *ids],
            )
            await cursor.execute(
                f"SELECT id, fence, payload, attempts FROM floor_tasks WHERE id IN ({marks}) AND op_id = %s",
                [*ids, op],
            )
            mine = [row[0] for row in await cursor.fetchall()]
            await connection.commit()
            await redis.zrem(key + ":held", *ids)
            for _ in mine:
                await _noop()
            await cursor.execute(
                f"UPDATE floor_tasks SET status = {COMPLETED}, result = 'null', completed_at = UTC_TIMESTAMP(6),"
                f" check_at = UTC_TIMESTAMP(6) WHERE id IN ({', '.join(['%s'] * len(mine))}) AND op_id = %s"
                f" AND status + 0 = {PROCESSING}",
                [*mine, op],
            )
            settled = cursor.rowcount
            await connection.commit()
            done += settled
    return done


async def _noop() -> None:
    """The task."""
