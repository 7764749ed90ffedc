"""Every document that the specification shows works as it stands there."""

from __future__ import annotations

import sqlalchemy as sa

from deploy.check.seed import CANCEL, CREATE, LOGIN, REGISTER, RETRY, SCHEDULE, STATS, TASK, TASKS, UPDATES
from taskmill.model.ids import parse_id
from taskmill.model.state import Status
from taskmill.sql.schema import tasks
from tests.api.kit import Api, every_engine, running

pytestmark = every_engine


async def test_register_and_login(store_url: str) -> None:
    """The documents of register and login answer with a token and the user."""
    async with running(store_url) as api:
        registered = (await api.ok(REGISTER))["register"]
        assert registered["user"] == {
            "id": registered["user"]["id"],
            "email": "user@example.com",
            "name": "John Doe",
            "role": "USER",
        }
        entered = (await api.ok(LOGIN))["login"]
        assert entered["user"] == {"id": registered["user"]["id"], "email": "user@example.com"}
        assert (await api.ok("{ me { email } }", token=entered["accessToken"]))["me"][
            "email"
        ] == "user@example.com"


async def test_create_and_read(api: Api) -> None:
    """A created task is QUEUED, and `task` shows what was given."""
    created = (await api.ok(CREATE))["createTask"]
    assert created["title"] == "Process Video"
    assert (created["status"], created["priority"]) == ("QUEUED", "HIGH")
    assert created["createdAt"].endswith("Z")
    task = (await api.ok(TASK.replace("task-id-here", created["id"])))["task"]
    assert task["payload"] == {"videoId": "abc123", "formats": ["720p", "1080p", "4K"]}
    assert task["description"] == "Convert video to multiple formats"
    assert (task["maxRetries"], task["attempts"], task["logs"], task["result"]) == (3, 0, [], None)


async def test_schedule(api: Api) -> None:
    """A task scheduled for later is PENDING and shows its time in UTC."""
    scheduled = (await api.ok(SCHEDULE))["createTask"]
    assert scheduled["scheduledAt"] == "2095-12-10T09:00:00.000Z"
    task = (await api.ok(TASK.replace("task-id-here", scheduled["id"])))["task"]
    assert task["status"] == "PENDING"


async def test_list(api: Api) -> None:
    """`tasks` shows those in the state asked for, with their user."""
    created, _ = (await api.ok(CREATE))["createTask"], await api.ok(CREATE)
    assert (await api.ok(TASKS))["tasks"] == []
    await put_in(api, created["id"], Status.PROCESSING)
    [task] = (await api.ok(TASKS))["tasks"]
    assert (task["id"], task["user"]) == (created["id"], {"email": "user@example.com"})


async def test_cancel_and_retry(api: Api) -> None:
    """A queued task is cancelled at once, and runs again when it is retried."""
    created = (await api.ok(CREATE))["createTask"]
    cancelled = (await api.ok(CANCEL.replace("task-id-here", created["id"])))["cancelTask"]
    assert cancelled == {"id": created["id"], "status": "CANCELLED"}
    retried = (await api.ok(RETRY.replace("task-id-here", created["id"])))["retryTask"]
    assert retried == {"id": created["id"], "status": "QUEUED", "attempts": 0}


async def test_stats(api: Api) -> None:
    """The numbers count what was just committed."""
    await api.ok(CREATE)
    await api.ok(SCHEDULE)
    expected = {"total": 2, "pending": 1, "processing": 0, "completed": 0, "failed": 0}
    assert (await api.ok(STATS))["taskStats"] == expected


async def test_subscribe(api: Api) -> None:
    """A change of a task arrives over the WebSocket."""
    async with api.socket() as socket:
        await socket.subscribe(UPDATES)
        await subscribed(api)
        created = (await api.ok(CREATE))["createTask"]
        event = (await socket.next())["taskUpdated"]
        assert (event["id"], event["title"], event["status"]) == (created["id"], "Process Video", "QUEUED")


async def put_in(api: Api, task_id: str, status: Status) -> None:
    """Puts the row into a state without the verb: what is tested here is what is shown."""
    raw = parse_id(task_id)
    await api.db.write(
        lambda c: c.execute(sa.update(tasks).where(tasks.c.id == raw).values(status=int(status)))
    )


async def subscribed(api: Api, clients: int = 1) -> None:
    """Returns when that many subscriptions follow the journal."""
    from tests.support import wait_until

    await wait_until(lambda: api.feed.following == clients)
