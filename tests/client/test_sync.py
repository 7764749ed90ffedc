"""The client without an event loop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from anyio.from_thread import start_blocking_portal

from taskmill.client import Client, NewTask, SyncClient, TaskStatus
from tests.api.kit import PASSWORD, running


@pytest.fixture
def client(store_url: str) -> Iterator[SyncClient]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running(store_url)) as api,
        SyncClient(api.base) as client,
    ):
        client.register("ann@example.com", PASSWORD, "Ann")
        yield client


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
def test_it_does_what_the_client_does(client: SyncClient) -> None:
    """Calls block, lists are walked through, live updates too; from several threads at once."""
    task = client.create_task("A task", payload={"n": 1})
    assert client.task(task.id) == task
    made = client.create_tasks([NewTask(title=f"t{n}", queue="bulk") for n in range(3)])
    assert [t.id for t in client.tasks(queue="bulk")] == [t.id for t in reversed(made)]
    with ThreadPoolExecutor(4) as threads:
        titles = list(threads.map(lambda n: client.create_task(f"by thread {n}").title, range(8)))
    assert titles == [f"by thread {n}" for n in range(8)]
    client.cancel_task(task.id)
    assert [t.status for t in client.watch(task.id)] == [TaskStatus.CANCELLED]
    assert client.wait(task.id).status is TaskStatus.CANCELLED


def test_it_has_every_call() -> None:
    """Whatever the client can, its sync form can."""
    names = {name for name, value in inspect.getmembers(Client, callable) if not name.startswith("_")}
    assert {name for name in names if not hasattr(SyncClient, name)} == set()


def test_closing_twice_is_closing_once() -> None:
    """`close` inside `with` is no error."""
    with SyncClient("http://localhost:1") as client:
        client.close()


async def test_it_does_not_block_a_loop() -> None:
    """In a coroutine it says what to write instead."""
    with SyncClient("http://localhost:1") as client, pytest.raises(RuntimeError, match="await"):
        client.me()
