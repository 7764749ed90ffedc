"""The journal: one append-only row for each transaction that changed tasks.

Counts, live updates and the record that the fault checker reads come from it, off the hot path. A row's `changes` is
msgpack: a list of arrays in the order of `Change`'s fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.state import Verb
from taskmill.sql.dialect import db_now
from taskmill.sql.hot import Hot, run_last
from taskmill.sql.schema import journal


class Change(msgspec.Struct, frozen=True, array_like=True):
    """What one transaction did to one task. Numbers are Status and Priority values.

    `source` None: the task is new. `target` None: it was deleted. Equal ones: a title, progress or cancel request.
    """

    task: bytes
    user: bytes
    queue: str
    priority_before: int
    priority_after: int
    source: int | None
    target: int | None
    fence: int


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Change])
_INSERT: Final = Hot(
    sa.insert(journal).values(at=db_now(), verb=sa.bindparam("v"), folded=0, changes=sa.bindparam("c"))
)
_INSERT_IF: Final = Hot(
    sa.insert(journal).from_select(
        ["at", "verb", "folded", "changes"],
        sa.select(
            db_now(),
            sa.bindparam("v", type_=sa.String()),
            # NULL is refused there (1048).
            sa.case((sa.func.row_count() == sa.bindparam("n", type_=sa.Integer()), 0), else_=None),
            sa.bindparam("c", type_=sa.LargeBinary()),
        ),
    )
)
ROWS_PER_ENTRY: Final = 1000


def append(connection: Connection, verb: Verb, changes: Sequence[Change]) -> None:
    """Write what this transaction changed, as part of it: the last thing that it does. Nothing when it changed nothing."""
    for start in range(0, len(changes), ROWS_PER_ENTRY):
        part = changes[start : start + ROWS_PER_ENTRY]
        run_last(connection, _INSERT, {"v": verb.value, "c": _encoder.encode(part)})


def append_if(connection: Connection, verb: Verb, changes: Sequence[Change], matched: int) -> None:
    """As `append`, for at most ROWS_PER_ENTRY changes, if the statement put off before it matched so many rows. If it did
    not, the commit fails with 1048 and nothing is written. Only where statements travel in packets."""
    values = {"v": verb.value, "c": _encoder.encode(list(changes)), "n": matched}
    run_last(connection, _INSERT_IF, values)


def decode(blob: bytes) -> list[Change]:
    """The changes of one journal row."""
    return _decoder.decode(blob)


def tally(changes: Iterable[Change]) -> dict[tuple[bytes, str, int, int], int]:
    """What changes do to the counts: (user, queue, priority, status) → plus or minus n. Zeros are left out."""
    sums: dict[tuple[bytes, str, int, int], int] = {}
    for c in changes:
        if c.source is not None:
            key = (c.user, c.queue, c.priority_before, c.source)
            sums[key] = sums.get(key, 0) - 1
        if c.target is not None:
            key = (c.user, c.queue, c.priority_after, c.target)
            sums[key] = sums.get(key, 0) + 1
    return {key: n for key, n in sums.items() if n}
