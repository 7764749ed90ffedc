"""What is shown, to whom, and at what cost."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from taskmill.api.users import Role
from taskmill.model.ids import id_text, new_id, parse_id
from taskmill.sql.schema import logs, runs, tasks, workers
from tests.api.kit import Api, counted, every_engine

LIST = """query($s: TaskStatus, $p: TaskPriority, $t: String, $q: String, $l: Int! = 20, $a: ID) {
    tasks(status: $s, priority: $p, type: $t, queue: $q, limit: $l, after: $a) { id title }
}"""
AT = datetime(2026, 11, 24, 9, 0, 0)


async def titles(api: Api, **variables: Any) -> list[str]:
    return [t["title"] for t in (await api.ok(LIST, **variables))["tasks"]]


@every_engine
class TestPages:
    async def test_walk(self, api: Api) -> None:
        """Page after page brings every task once, newest first, also when the last one seen is gone."""
        for n in range(7):
            await api.create(title=str(n))
        seen: list[str] = []
        after = None
        while page := (await api.ok(LIST, l=3, a=after))["tasks"]:
            seen += [t["title"] for t in page]
            after = page[-1]["id"]
            raw = parse_id(after)
            await api.db.write(lambda c, raw=raw: c.execute(sa.delete(tasks).where(tasks.c.id == raw)))  # type: ignore[misc]
        assert seen == list("6543210")

    async def test_filters(self, api: Api) -> None:
        """Each condition narrows, and all that are given hold together."""
        await api.create(title="a", type="X", queue="q1", priority="HIGH")
        await api.create(title="b", type="X", queue="q2", scheduledAt="2095-01-01T00:00:00Z")
        await api.create(title="c", type="Y", queue="q1")
        assert await titles(api, t="X") == ["b", "a"]
        assert await titles(api, q="q1") == ["c", "a"]
        assert await titles(api, p="HIGH") == ["a"]
        assert await titles(api, s="PENDING") == ["b"]
        assert await titles(api, s="QUEUED") == ["c", "a"]
        assert await titles(api, s="QUEUED", q="q1", t="X", p="HIGH") == ["a"]
        assert await titles(api, s="QUEUED", q="q1", t="X", p="LOW") == []

    async def test_others(self, api: Api) -> None:
        """A USER sees its own tasks and numbers; an ADMIN all."""
        other = await api.register("other")
        mine, theirs = await api.create(title="mine"), await api.create(title="theirs", token=other)
        assert await titles(api) == ["mine"]
        assert (await api.ok("{ taskStats { total } }"))["taskStats"]["total"] == 1
        await api.accounts.set_role("user@example.com", Role.ADMIN)
        api.token = await api.login("user")
        assert await titles(api) == ["theirs", "mine"]
        assert await titles(api, s="QUEUED", a=theirs["id"]) == ["mine"]
        assert (await api.ok("{ taskStats { total queued } }"))["taskStats"] == {"total": 2, "queued": 2}
        cancel = "mutation($id: ID!) { cancelTask(id: $id) { status user { email } } }"
        done = (await api.ok(cancel, id=theirs["id"]))["cancelTask"]
        assert done == {"status": "CANCELLED", "user": {"email": "other@example.com"}}
        assert (await api.ok("query($id: ID!) { task(id: $id) { title } }", id=mine["id"]))["task"]


@every_engine
async def test_numbers(api: Api) -> None:
    """The numbers follow each transition at once, before and after folding."""
    stats = "{ taskStats { total pending queued processing completed failed cancelled } }"
    task = await api.create()
    await api.create(scheduledAt="2095-01-01T00:00:00Z")
    nothing = {"processing": 0, "completed": 0, "failed": 0, "cancelled": 0}
    assert (await api.ok(stats))["taskStats"] == nothing | {"total": 2, "pending": 1, "queued": 1}
    await api.ok("mutation($id: ID!) { cancelTask(id: $id) { id } }", id=task["id"])
    assert (await api.ok(stats))["taskStats"] == nothing | {
        "total": 2,
        "pending": 1,
        "queued": 0,
        "cancelled": 1,
    }


DEEP = """{ tasks(limit: 70) {
    id title description payload result error user { email } logs(limit: 5) { message } runs(limit: 5) { attempt outcome traceback }
} }"""


@every_engine
async def test_statements(api: Api) -> None:
    """A list of 70 tasks with everything on them costs as many statements as a list of one."""

    async def cost() -> int:
        api.accounts._known.clear()
        with counted() as statements:
            found = (await api.ok(DEEP))["tasks"]
        assert all(t["user"] == {"email": "user@example.com"} and t["payload"] == {} for t in found)
        return len([s for s in statements if s.lstrip().upper().startswith(("SELECT", "WITH"))])

    await api.create()
    one = await cost()
    await api.ok(
        "mutation($i: [CreateTaskInput!]!) { createTasks(inputs: $i) { id } }", i=[{"title": "t"}] * 69
    )
    assert await cost() == one
    assert one <= 9


@every_engine
class TestHanging:
    """Logs and runs."""

    async def test_logs(self, api: Api) -> None:
        """Lines come oldest first, `after` goes on behind one."""
        task_id = parse_id((await api.create())["id"])
        rows = [
            {
                "task_id": task_id,
                "id": new_id(),
                "fence": 1,
                "level": "INFO",
                "message": f"line {n}",
                "created_at": AT,
            }
            for n in range(5)
        ]
        await api.db.write(lambda c: c.execute(sa.insert(logs), rows))
        query = "query($id: ID!, $a: ID) { task(id: $id) { logs(limit: 3, after: $a) { id level message createdAt } } }"
        page = (await api.ok(query, id=id_text(task_id or b"")))["task"]["logs"]
        assert [line["message"] for line in page] == ["line 0", "line 1", "line 2"]
        assert page[0]["createdAt"] == "2026-11-24T09:00:00.000Z"
        rest = (await api.ok(query, id=id_text(task_id or b""), a=page[-1]["id"]))["task"]["logs"]
        assert [line["message"] for line in rest] == ["line 3", "line 4"]

    async def test_log_fields(self, api: Api) -> None:
        """What a handler logged beside the message comes as JSON; a line without has null."""
        task_id = parse_id((await api.create())["id"])
        line = {"task_id": task_id, "fence": 1, "level": "INFO", "message": "m", "created_at": AT}
        rows = [line | {"id": new_id(), "fields": text} for text in ('{"video":"abc","n":1}', None)]
        await api.db.write(lambda c: c.execute(sa.insert(logs), rows))
        query = "query($id: ID!) { task(id: $id) { logs { fields } } }"
        found = (await api.ok(query, id=id_text(task_id or b"")))["task"]["logs"]
        assert [line["fields"] for line in found] == [{"video": "abc", "n": 1}, None]

    async def test_runs(self, api: Api) -> None:
        """The failed runs come from their table, the latest from the task's own row; newest first."""
        task_id = parse_id((await api.create())["id"])
        worker = new_id()

        def put(connection: sa.Connection) -> None:
            for fence in (1, 2):
                connection.execute(
                    sa.insert(runs).values(
                        task_id=task_id,
                        fence=fence,
                        attempt=fence,
                        op_id=new_id(),
                        worker="w1",
                        started_at=AT,
                        ended_at=AT,
                        outcome="FAILED",
                        message="no luck",
                        error_type="ValueError",
                        traceback=f"in line {fence}",
                    )
                )
            live = {"name": "w2", "host": "h", "queues": "[]", "types": "[]", "slots": 1, "version": "1"}
            connection.execute(sa.insert(workers).values(boot_id=worker, started_at=AT, last_seen=AT, **live))
            connection.execute(
                sa.update(tasks)
                .where(tasks.c.id == task_id)
                .values(status=3, fence=3, attempts=3, worker_id=worker, started_at=AT)
            )

        await api.db.write(put)
        query = "query($id: ID!, $l: Int! = 20) { task(id: $id) { runs(limit: $l) { attempt outcome error worker startedAt endedAt } } }"
        found = (await api.ok(query, id=id_text(task_id or b"")))["task"]["runs"]
        assert [(r["attempt"], r["outcome"], r["error"], r["worker"]) for r in found] == [
            (3, None, None, "w2"),
            (2, "FAILED", "no luck", "w1"),
            (1, "FAILED", "no luck", "w1"),
        ]
        assert found[0]["endedAt"] is None
        more = "query($id: ID!) { task(id: $id) { runs { errorType traceback } } }"
        told = (await api.ok(more, id=id_text(task_id or b"")))["task"]["runs"]
        assert [(r["errorType"], r["traceback"]) for r in told] == [
            (None, None),
            ("ValueError", "in line 2"),
            ("ValueError", "in line 1"),
        ]
        assert len((await api.ok(query, id=id_text(task_id or b""), l=2))["task"]["runs"]) == 2


async def test_default_retries(api: Api) -> None:
    """maxRetries shows the installation's default until it is known."""
    assert (await api.create(fields="maxRetries"))["maxRetries"] == api.mill.options.policy.max_retries
    assert (await api.create(fields="maxRetries", maxRetries=0))["maxRetries"] == 0
