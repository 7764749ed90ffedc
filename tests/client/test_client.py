"""The client against a real API over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from taskmill.client import Client, NewTask, TaskStatus
from taskmill.errors import BadUserInput, ConfigError, Conflict, NotFound, Unauthenticated
from tests.api.kit import PASSWORD, Api, running

pytestmark = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


@pytest.fixture
async def api(store_url: str) -> AsyncIterator[Api]:
    async with running(store_url) as api:
        yield api


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client(api.base) as client:
        await client.register("ann@example.com", PASSWORD, "Ann")
        yield client


async def test_login_is_used_from_then_on(api: Api) -> None:
    """After `login` the client asks as that user; a wrong password is Unauthenticated."""
    await api.register("bob")
    async with Client(api.base + "/graphql/") as client:
        with pytest.raises(Unauthenticated):
            await client.me()
        with pytest.raises(Unauthenticated):
            await client.login("bob@example.com", "not the password")
        login = await client.login("bob@example.com", PASSWORD)
        assert await client.me() == login.user
        assert login.access_token not in repr(login)
    async with Client(api.base, token=login.access_token) as other:
        assert (await other.me()).email == "bob@example.com"


async def test_a_task_comes_back_typed(client: Client) -> None:
    """What is submitted is what is read, JSON of any size of number included."""
    payload = {"n": 2**80, "list": [1, None, "ü"]}
    made = await client.create_task("A task", type="VIDEO", payload=payload, priority="HIGH", max_retries=2)
    assert (made.status, made.priority, made.max_retries) == (TaskStatus.QUEUED, "HIGH", 2)
    assert made.payload == payload
    assert made.created_at.tzinfo is not None
    assert await client.task(made.id) == made
    assert await client.task("01890000-0000-7000-8000-000000000000") is None


async def test_wait_ends_with_the_task(client: Client) -> None:
    """`wait` gives the task when it has ended, and a TimeoutError when it has not."""
    task = await client.create_task("A task")
    with pytest.raises(TimeoutError, match=r"has not ended after .* s; it goes on"):
        await client.wait(task.id, timeout=0.1)
    await client.cancel_task(task.id)
    assert (await client.wait(task.id, timeout=10)).status is TaskStatus.CANCELLED
    with pytest.raises(NotFound):
        await client.wait("nothing", timeout=10)


async def test_errors_are_classes(client: Client) -> None:
    """Each code of the API is its class of taskmill.errors, with the API's message and the request's id."""
    with pytest.raises(BadUserInput, match="title") as caught:
        await client.create_task("")
    assert any(note.startswith("request ") for note in caught.value.__notes__)
    task = await client.create_task("A task")
    with pytest.raises(Conflict):
        await client.retry_task(task.id)


@pytest.mark.parametrize("payload", [float("nan"), {"t": "\ud800"}, {"x": object()}, {"x": "y" * 300_000}])
async def test_what_is_not_json_is_not_sent(client: Client, payload: object) -> None:
    """NaN, half a character, an object or too much is BadUserInput that names the payload, before anything is sent."""
    with pytest.raises(BadUserInput, match="payload"):
        await client.create_task("A task", payload=payload)
    assert (await client.stats()).total == 0


async def test_half_a_character_is_no_text(client: Client) -> None:
    """A title that UTF-8 cannot hold is BadUserInput too."""
    with pytest.raises(BadUserInput, match="surrogate"):
        await client.create_task("\ud800")


async def test_a_document_of_ones_own(client: Client) -> None:
    """`execute` is for what no call asks: several things at once, for example."""
    data = await client.execute("query($n: Int!) { me { name } tasks(limit: $n) { id } }", {"n": 5})
    assert data == {"me": {"name": "Ann"}, "tasks": []}


async def test_pages_are_read_as_needed(client: Client) -> None:
    """`tasks` goes through all pages, newest first, and stops at its limit."""
    made = await client.create_tasks([NewTask(title=f"task {n}", queue="bulk") for n in range(230)])
    found = [task.id async for task in client.tasks(queue="bulk")]
    assert found == [task.id for task in reversed(made)]
    assert [task.id async for task in client.tasks(limit=120)] == found[:120]
    assert [task.id async for task in client.tasks(status=TaskStatus.FAILED)] == []


async def test_update_changes_what_is_given(client: Client) -> None:
    """A field that is not given stays as it is; None is a value."""
    task = await client.create_task("A task", description="before", payload={"a": 1})
    task = await client.update_task(task.id, description=None, priority="LOW")
    assert (task.title, task.description, task.priority, task.payload) == ("A task", None, "LOW", {"a": 1})


def test_it_must_know_where(sql_engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL the message names the two ways to give one; what is no URL is refused at once."""
    monkeypatch.delenv("TASKMILL_API_URL", raising=False)
    with pytest.raises(ConfigError, match="TASKMILL_API_URL"):
        Client()
    with pytest.raises(ConfigError, match="http://localhost:3000"):
        Client("localhost:3000")
