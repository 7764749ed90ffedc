"""log: what runs said, joined on (id, fence)."""

from __future__ import annotations

from datetime import datetime

from taskmill.model.ids import new_id
from taskmill.model.task import LOG_MESSAGE_LIMIT, LogLine
from taskmill.sql import schema
from taskmill.tasks.log import LogWriter, log
from tests.tasks.kit import FAILED, World

AT = datetime(2026, 1, 2, 3, 4, 5, 678901)


def line(task: bytes, fence: int, message: str = "m", fields: str | None = None) -> LogLine:
    return LogLine(task, fence, "info", message, fields, AT)


async def test_lines_are_kept_as_they_were_said(world: World) -> None:
    """Message, level, fields and time, in the order of writing."""
    [run] = await world.running()
    writer = LogWriter(world.mill)
    await writer.write([line(run.id, 1, f"{n} 🎉", '{"k":1}') for n in range(5)])
    await writer.drain()
    rows = await world.table(schema.logs)
    assert [r.message for r in rows] == [f"{n} 🎉" for n in range(5)]
    assert {(r.level, r.fields, r.created_at, r.fence) for r in rows} == {("info", '{"k":1}', AT, 1)}


async def test_a_stale_run_logs_nothing(world: World) -> None:
    """Lines of an old fence, of a future one and of a task that is gone are left out; the others are written."""
    [old] = await world.running()
    await world.settle((old, FAILED))
    await world.again(old.id)
    lines = [line(old.id, 1, "stale"), line(old.id, 2, "current"), line(old.id, 3), line(new_id(), 1)]
    await world.db.write(lambda c: log(c, [(new_id(), one) for one in lines]))
    assert [r.message for r in await world.table(schema.logs)] == ["current"]


async def test_a_line_is_cut_and_made_storable(world: World) -> None:
    """NUL, half a pair and too long: written, within bounds, and no other line suffers."""
    [run] = await world.running()
    writer = LogWriter(world.mill)
    await writer.write([line(run.id, 1, "\0\ud800" + "x" * 9999), line(run.id, 1, "ok")])
    await writer.drain()
    first, second = await world.table(schema.logs)
    assert first.message.startswith("\\0\\ud800")
    assert len(first.message) <= LOG_MESSAGE_LIMIT + 10
    assert second.message == "ok"
