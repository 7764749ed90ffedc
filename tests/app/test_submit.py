"""Submitting a handler's tasks: which way they go, with which options, and what comes back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, assert_type

import pytest

from taskmill import Context, Taskmill
from taskmill.app import Handler, Submitted, link
from taskmill.app.context import entered
from taskmill.errors import InvalidPayload, NotFound, TaskCancelled, TaskFailed, Unavailable
from taskmill.model.ids import new_id
from taskmill.model.port import Draft, Seen, set_connector
from taskmill.model.state import Priority, Status
from tests.app.test_context import Port as RunPort


class Port:
    """A port that remembers. `answers`: what `look` says, one after the other, the last for ever."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.answers: list[Seen | Exception] = []
        self.cancelled: list[str] = []
        self.threads: set[str] = set()
        self.closed = 0

    async def submit(self, drafts: Sequence[Draft]) -> list[str]:
        self.threads.add(threading.current_thread().name)
        self.drafts += drafts
        return [f"id-{len(self.drafts) - len(drafts) + n}" for n in range(1, len(drafts) + 1)]

    async def look(self, id: str) -> Seen:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def cancel(self, id: str) -> None:
        self.cancelled.append(id)

    async def close(self) -> None:
        self.closed += 1

    def itself(self) -> Port:
        return self


@dataclass
class Report:
    n: int


app = Taskmill()


@app.task(queue="media", priority="HIGH", retry_on=(OSError,), timeout=600)
async def process_video(ctx: Context, video_id: str, formats: list[str]) -> Report:
    return Report(len(formats))


@app.task
def count(ctx: Context, payload: dict[str, Any]) -> int:
    return len(payload)


@pytest.fixture
def made() -> Iterator[list[Port]]:
    """The ports that were made, in order; each submit of these tests goes to one of them."""
    ports: list[Port] = []

    def connector() -> Port:
        ports.append(Port())
        return ports[-1]

    before = set_connector(connector)
    yield ports
    set_connector(before)


async def test_submit_makes_a_draft(made: list[Port]) -> None:
    """With the handler's type, queue and priority, and its name as the title."""
    task = await process_video.submit(video_id="abc123", formats=["720p"])
    assert_type(task, Submitted[Report])
    assert (task.id, repr(task)) == ("id-1", "<task id-1>")
    assert made[0].drafts == [
        Draft(
            title="process_video",
            payload='{"video_id":"abc123","formats":["720p"]}',
            type="process_video",
            queue="media",
            priority=Priority.HIGH,
        )
    ]


async def test_options_are_of_the_next_tasks_only(made: list[Port]) -> None:
    """They win over the handler's, which stay as they are."""
    before = datetime.now(UTC).replace(tzinfo=None)
    call = process_video.options(
        title="t", queue="q", priority=Priority.LOW, delay=timedelta(hours=1), max_retries=0, description="d"
    )
    await call.submit("a", [])
    await process_video.submit("a", [])
    first, second = made[0].drafts
    assert (first.title, first.queue, first.priority, first.max_retries) == ("t", "q", Priority.LOW, 0)
    assert first.description == "d"
    assert first.scheduled_at is not None
    assert timedelta(0) <= first.scheduled_at - before - timedelta(hours=1) < timedelta(minutes=5)
    assert (second.title, second.queue, second.scheduled_at) == ("process_video", "media", None)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queue": "no queue"}, "queue 'no queue'"),
        ({"queue": "a:b"}, "queue 'a:b'"),
        ({"priority": "URGENT"}, "priority 'URGENT'"),
        ({"delay": -1}, "delay=-1"),
        ({"delay": float("nan")}, "delay=nan"),
        ({"delay": 1, "scheduled_at": datetime.now(UTC)}, "delay or scheduled_at"),
        ({"scheduled_at": datetime(2030, 1, 1)}, "with a time zone"),
        ({"title": ""}, "title"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"description": "x" * 10_001}, "description"),
    ],
)
def test_wrong_options_are_said_at_once(options: dict[str, Any], text: str) -> None:
    """Where they are written, before any submit."""
    with pytest.raises(ValueError, match=text):
        process_video.options(**options)


async def test_wrong_parameters_are_not_sent(made: list[Port]) -> None:
    """InvalidPayload, and no port was even made."""
    with pytest.raises(InvalidPayload, match=r"formats\[0\]: Expected `str`, got `int`"):
        await process_video.submit(video_id="a", formats=[1])  # type: ignore[list-item]
    assert made == []


async def test_many_tasks_travel_together(made: list[Port]) -> None:
    """In one call of the port; none of them when one is wrong."""
    calls = [{"video_id": str(n), "formats": []} for n in range(3)]
    tasks = await process_video.submit_many(calls)
    assert [task.id for task in tasks] == ["id-1", "id-2", "id-3"]
    assert await process_video.submit_many([]) == []
    with pytest.raises(InvalidPayload):
        await process_video.submit_many([*calls, {}])
    with pytest.raises(ValueError, match="at most 1,000"):
        await process_video.submit_many(calls * 400)
    assert len(made[0].drafts) == 3


async def test_a_handler_of_a_whole_payload(made: list[Port]) -> None:
    """Its payload is given as its one parameter."""
    await count.submit({"a": 1})
    await count.submit(payload={"b": 2})
    assert [json.loads(draft.payload) for draft in made[0].drafts] == [{"a": 1}, {"b": 2}]


# -- in a handler ----------------------------------------------------------------------------------------


async def test_within_a_run_it_goes_to_the_runner(made: list[Port]) -> None:
    """Not to a port of the process: the task is of the user whose task runs."""
    runner = RunPort()
    with entered(Context(runner, new_id(), 1, 1)):
        task = await process_video.submit(video_id="a", formats=[])
        in_thread = await asyncio.to_thread(lambda: process_video.submit_sync(video_id="b", formats=[]))
        with pytest.raises(RuntimeError, match=r"await handler\.submit"):
            process_video.submit_sync(video_id="c", formats=[])
    assert (task.id, in_thread.id, made) == ("an id", "an id", [])
    assert [json.loads(draft.payload)["video_id"] for draft in runner.tasks] == ["a", "b"]


# -- without an event loop -------------------------------------------------------------------------------


def test_submit_sync_needs_no_loop(made: list[Port]) -> None:
    """Many threads share one port, on one loop in a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        tasks = list(pool.map(lambda n: process_video.submit_sync(str(n), []), range(20)))
    assert len({task.id for task in tasks}) == 20
    assert [port.threads for port in made] == [{"taskmill"}]
    made[0].answers = [Seen(tasks[0].id, Status.COMPLETED, '{"n":3}')]
    assert tasks[0].wait_sync(timeout=5) == Report(3)
    assert (tasks[0].status_sync(), tasks[0].look_sync().result) == (Status.COMPLETED, '{"n":3}')
    tasks[0].cancel_sync()
    assert made[0].cancelled == [tasks[0].id]


async def test_submit_sync_in_a_coroutine(made: list[Port]) -> None:
    """Would block its loop: RuntimeError says what to write."""
    with pytest.raises(RuntimeError, match=r"await handler\.submit"):
        process_video.submit_sync("a", [])
    with pytest.raises(RuntimeError, match=r"await task\.wait"):
        process_video.submitted("id").wait_sync()
    assert made == []


@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning"
)  # Python 3.12 and later say that it has threads
def test_a_fork_makes_a_port_of_its_own(made: list[Port]) -> None:
    """The child of a pre-forking server has none of its parent's threads."""
    process_video.submit_sync("parent", [])
    child = os.fork()
    if child == 0:
        # No test runner in here: whatever happens, the process ends.
        signal.alarm(30)
        try:
            process_video.submit_sync("child", [])
            right = len(made) == 2 and len(made[0].drafts) == len(made[1].drafts) == 1
        except BaseException:  # noqa: BLE001
            right = False
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    process_video.submit_sync("parent", [])
    assert len(made[0].drafts) == 2


# -- the life of a port ----------------------------------------------------------------------------------


def test_a_port_is_closed_with_its_loop(made: list[Port]) -> None:
    """Each `asyncio.run` has a port of its own, and nobody needs to close it."""

    async def main() -> None:
        await asyncio.gather(*(process_video.submit(str(n), []) for n in range(3)))

    asyncio.run(main())
    asyncio.run(main())
    gc.collect()
    assert [(len(port.drafts), port.closed) for port in made] == [(3, 1), (3, 1)]


def test_a_loop_that_was_closed_roughly_is_forgotten(made: list[Port]) -> None:
    """Not by `asyncio.run`: its port goes when the next one is made."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(process_video.submit("a", []))
    loop.close()
    asyncio.run(process_video.submit("b", []))
    assert not any(key[0] is loop for key in link._links.ports)
    assert len(made) == 2


async def test_a_port_may_be_closed_before(made: list[Port]) -> None:
    """The next submit makes a new one."""
    await process_video.submit("a", [])
    await app.close()
    await app.close()
    await process_video.submit("a", [])
    assert [port.closed for port in made] == [1, 0]
    await link.close()


async def test_another_connector_gets_another_port(made: list[Port]) -> None:
    """A test kit that steps in, and steps back, in one loop."""
    await process_video.submit("a", [])
    other = Port()
    before = set_connector(lambda: other)
    await process_video.submit("b", [])
    set_connector(before)
    await process_video.submit("c", [])
    assert [json.loads(d.payload)["video_id"] for d in made[0].drafts] == ["a", "c"]
    assert len(other.drafts) == 1


async def test_ports_of_connectors_that_are_gone_do_not_pile_up(made: list[Port]) -> None:
    """A test run sets hundreds of them, and one loop may live through all."""
    ports = [Port() for _ in range(20)]
    for port in ports:
        before = set_connector(partial(Port.itself, port))
        await process_video.submit("a", [])
        set_connector(before)
    await process_video.submit("b", [])
    loop = asyncio.get_running_loop()
    assert len([key for key in link._links.ports if key[0] is loop]) <= link.KEPT + 1
    assert [port.closed for port in ports[:10]] == [1] * 10
    assert ports[-1].closed == 0


# -- wait ------------------------------------------------------------------------------------------------


def seen(status: Status, **more: Any) -> Seen:
    return Seen("id", status, **more)


async def waiting(made: list[Port], *answers: Seen | Exception) -> Submitted[Report]:
    task = await process_video.submit("a", [])
    made[-1].answers = list(answers)
    return task


async def test_wait_brings_the_typed_result(made: list[Port]) -> None:
    """Once it is COMPLETED; an outage in between is sat out."""
    task = await waiting(
        made,
        seen(Status.QUEUED),
        Unavailable("the database does not answer"),
        seen(Status.PROCESSING),
        seen(Status.COMPLETED, result='{"n":2}'),
    )
    report = await task.wait(timeout=30)
    assert_type(report, Report)
    assert report == Report(2)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (seen(Status.FAILED, error="OSError: disk"), TaskFailed, "task id-1 failed: OSError: disk"),
        (seen(Status.FAILED), TaskFailed, "no reason"),
        (seen(Status.CANCELLED), TaskCancelled, "cancelled"),
        (NotFound("no such task"), NotFound, "no such"),
    ],
)
async def test_wait_for_a_task_without_a_result(
    made: list[Port], answer: Seen | Exception, error: type[Exception], text: str
) -> None:
    """The error says how it ended, and names it."""
    task = await waiting(made, answer)
    with pytest.raises(error, match=text) as caught:
        await task.wait(timeout=30)
    if isinstance(caught.value, TaskFailed | TaskCancelled):
        assert caught.value.id == task.id


@pytest.mark.parametrize("answer", [seen(Status.PROCESSING), Unavailable("away")])
async def test_wait_ends_after_its_timeout(made: list[Port], answer: Seen | Exception) -> None:
    """TimeoutError; the task goes on."""
    task = await waiting(made, answer)
    with pytest.raises(TimeoutError, match=r"task id-1 has not ended after 0\.05 s; it goes on"):
        await task.wait(timeout=0.05)


async def test_wait_without_a_timeout_ends_when_nobody_answers(
    made: list[Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute of silence (here none): Unavailable."""
    monkeypatch.setattr("taskmill.app.submitted.PATIENCE", 0.0)
    task = await waiting(made, Unavailable("away"))
    with pytest.raises(Unavailable, match="nobody says how task id-1 is: away"):
        await task.wait()


def test_types_are_kept() -> None:
    """A checker sees what a handler takes and returns: these lines are its test."""
    assert_type(process_video.submitted("id"), Submitted[Report])
    assert_type(count.submitted("id"), Submitted[int])
    plain: Handler[..., Any, int] = count
    call: Callable[..., int] = count
    assert plain(None, {"a": 1}) == call(None, {"a": 1}) == 1
    assert asyncio.run(process_video(None, "a", ["x", "y"])) == Report(2)
