"""The `workers` table: who lives, and which types they know. A hint for tasks of an unknown type, never a lock."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.model.ids import new_op
from taskmill.model.task import Registry
from taskmill.sql.dialect import db_now, from_now
from taskmill.sql.schema import workers

_W: Final = workers.c
DEFAULT: Final = ""
"""How a default handler stands among the types: it takes tasks without one."""


def names(registry: Registry) -> list[str]:
    """The types that it knows, as a worker's row has them: DEFAULT for its default handler."""
    return [*registry.types, *([DEFAULT] if registry.get(None) else [])]


def register(
    connection: Connection,
    boot_id: bytes,
    *,
    name: str,
    host: str,
    queues: Sequence[str],
    types: Sequence[str],
    slots: int,
    version: str,
) -> None:
    """Write or refresh this worker's row."""
    values = {
        "name": name,
        "host": host,
        "queues": json.dumps(list(queues)),
        "types": json.dumps(list(types)),
        "slots": slots,
        "version": version,
    }
    refresh = sa.update(workers).where(_W.boot_id == boot_id).values(last_seen=db_now(), **values)
    if connection.execute(refresh).rowcount:
        return
    row = sa.insert(workers).values(boot_id=boot_id, started_at=db_now(), last_seen=db_now(), **values)
    try:
        with connection.begin_nested():
            connection.execute(row)
    except exc.IntegrityError:  # written meanwhile: a remote worker may speak to two API processes
        connection.execute(refresh)


def touch(connection: Connection, boot_id: bytes) -> None:
    """The worker lives. Without a row nothing happens: it is written again with the next claim."""
    connection.execute(sa.update(workers).where(_W.boot_id == boot_id).values(last_seen=db_now()))


def note_claim(connection: Connection, boot_id: bytes, op: bytes, ids: Sequence[bytes]) -> None:
    """Note what a claim brought, in its transaction: the operation before it is forgotten."""
    connection.execute(
        sa.update(workers).where(_W.boot_id == boot_id).values(claim_op=op, claim_ids=b"".join(ids))
    )


def noted_claim(connection: Connection, boot_id: bytes, op: bytes) -> list[bytes]:
    """The ids that this very operation claimed; [] when it claimed nothing, or is not the last one."""
    query = sa.select(_W.claim_ids).where(_W.boot_id == boot_id, _W.claim_op.in_([op, _asked(op)]))
    return _ids(connection.execute(query).scalar_one_or_none())


def ask_again(connection: Connection, boot_id: bytes, op: bytes) -> list[bytes]:
    """As `noted_claim`, for a caller that will have them: from here on `take_back` refuses."""
    mark = sa.update(workers).where(_W.boot_id == boot_id, _W.claim_op.in_([op, _asked(op)]))
    connection.execute(mark.values(claim_op=_asked(op)))
    return noted_claim(connection, boot_id, op)


def take_back(connection: Connection, boot_id: bytes, op: bytes, ids: Sequence[bytes]) -> bool:
    """Whether what this operation claimed may be given back: nobody has asked for it again, and from here on nobody can.
    The API process that claimed, and the one that is asked again, need not be the same."""
    query = sa.select(_W.claim_op, _W.claim_ids).where(_W.boot_id == boot_id).with_for_update()
    row = connection.execute(query).first()
    if row is None or not set(ids) & set(_ids(row.claim_ids)):
        return True
    if row.claim_op == _asked(op):
        return False
    # Not NULL: that would say that it is no remote worker.
    forget = sa.update(workers).where(_W.boot_id == boot_id)
    connection.execute(forget.values(claim_op=new_op(), claim_ids=None))
    return True


def _asked(op: bytes) -> bytes:
    """How an operation is noted whose tasks were asked for again."""
    return hashlib.sha256(b"again" + op).digest()[:16]


def _ids(noted: bytes | None) -> list[bytes]:
    noted = noted or b""
    return [noted[i : i + 16] for i in range(0, len(noted), 16)]


def leave(connection: Connection, boot_id: bytes) -> None:
    connection.execute(sa.delete(workers).where(_W.boot_id == boot_id))


def known_types(connection: Connection, ttl: float) -> frozenset[tuple[str, str]]:
    """(queue, type) for every type that a worker seen in the last `ttl` seconds knows in a queue it serves; DEFAULT as
    the type when it has a default handler."""
    return frozenset((q, t) for queues, types in _served(connection, ttl) for q in queues for t in types)


def partial_types(connection: Connection, ttl: float) -> dict[str, frozenset[str]]:
    """The types that some live workers of a queue know and others of the same queue do not, by queue."""
    known: dict[str, list[frozenset[str]]] = {}
    for queues, types in _served(connection, ttl):
        for queue in queues:
            known.setdefault(queue, []).append(frozenset(types))
    partial = {q: frozenset.union(*all_) - frozenset.intersection(*all_) for q, all_ in known.items()}
    return {q: types for q, types in partial.items() if types}


def forget_dead(connection: Connection, ttl: float) -> int:
    """Delete the rows of workers not seen for `ttl` seconds; leases live on the task's own row, so nothing hangs on it."""
    return connection.execute(sa.delete(workers).where(_W.last_seen < from_now(-ttl))).rowcount


def queues_of_workers(connection: Connection, ttl: float) -> frozenset[str]:
    """Every queue that a worker seen in the last `ttl` seconds serves."""
    return frozenset(serving(connection, ttl))


def serving(connection: Connection, ttl: float) -> Counter[str]:
    """How many workers seen in the last `ttl` seconds serve each queue."""
    return Counter(q for queues, _ in _served(connection, ttl) for q in queues)


def _served(connection: Connection, ttl: float) -> Iterator[tuple[list[str], list[str]]]:
    """Queues and types of each live worker."""
    query = sa.select(_W.queues, _W.types).where(_W.last_seen > from_now(-ttl)).limit(10_000)
    for row in connection.execute(query):
        yield json.loads(row.queues), json.loads(row.types)


def count_live(connection: Connection, ttl: float) -> int:
    """Workers seen in the last `ttl` seconds."""
    query = sa.select(sa.func.count()).select_from(workers).where(_W.last_seen > from_now(-ttl))
    return int(connection.execute(query).scalar_one())
