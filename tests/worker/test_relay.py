"""What handlers say besides their outcome, when the record does not take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from taskmill.model.task import LogLine, NewTask
from taskmill.worker import relay
from tests.support import wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, Worker, working

TALK = """
    @app.task("TALK")
    async def t(ctx, payload):
        for n in range(payload):
            ctx.log("info", f"line {n}")
            await asyncio.sleep(0)
        return "said"
"""


def dropped(worker: Worker) -> float:
    return float(worker.supervisor._probes.logs_dropped._value.get())


async def test_log_lines_that_cannot_be_written_are_dropped_and_counted(
    source: FakeSource, make_app: MakeApp
) -> None:
    """The run is not touched, and later lines are written."""
    write, failures = source.log, [RuntimeError("a bug"), OSError("no room")]

    async def failing(lines: Sequence[LogLine]) -> None:
        if failures:
            raise failures.pop()
        await write(lines)

    source.log = failing  # type: ignore[method-assign]
    async with working(source, make_app(TALK)) as worker:
        first = source.add("TALK", 1)
        await wait_until(lambda: dropped(worker) == 1)
        second = source.add("TALK", 1)
        await wait_until(lambda: dropped(worker) == 2)
        third = source.add("TALK", 1)
        await wait_until(lambda: [line.task_id for line in source.lines] == [third])
        await wait_until(lambda: len(source.outcomes) == 3)
    assert source.ended(first) == source.ended(second) == source.ended(third) == ["SUCCEEDED"]


async def test_log_lines_without_room_are_dropped_and_counted(
    source: FakeSource, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest wait for a source that is slow; the task ends all the same."""
    monkeypatch.setattr(relay, "LINES", 3)
    async with working(source, make_app(TALK)) as worker:
        monkeypatch.setattr(worker.supervisor._relay, "_arrived", Never())
        task = source.add("TALK", 10)
        await wait_until(lambda: source.ended(task) == ["SUCCEEDED"])
        await wait_until(lambda: dropped(worker) == 7)
    assert [line.message for line in source.lines] == ["line 0", "line 1", "line 2"]


class Never:
    """An event that nobody is woken by: the source takes nothing until the worker stops."""

    def set(self) -> None:
        return


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError("secret"), "the task could not be submitted"), (TimeoutError(), "no answer in 30 s")],
    ids=["bug", "no answer"],
)
async def test_a_submit_that_fails_in_any_way_is_an_error_in_the_handler(
    source: FakeSource, make_app: MakeApp, error: Exception, said: str
) -> None:
    """Unavailable, which says nothing of the inside."""
    app = make_app(
        """
        @app.task("T")
        async def t(ctx, payload):
            try:
                await ctx.submit(title="next")
            except Unavailable as error:
                return error.message
        """
    )

    async def failing(tasks: Sequence[NewTask], run: tuple[bytes, int]) -> Any:
        raise error

    source.submit = failing  # type: ignore[method-assign]
    task = source.add("T")
    async with working(source, app):
        await wait_until(lambda: source.of(task))
    assert source.of(task)[0].result == f'"{said}"'
