"""Schedules in real processes: three schedulers that are killed, `up` with an app that declares one, and a deploy."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from taskmill.model.cron import Misfire, Overlap
from taskmill.sql import schema
from taskmill.sql.engine import Database
from taskmill.tasks.schedules import Fired
from tests.support import Process, Processes, free_port, wait_until
from tests.tasks.kit import World
from tests.tasks.schedule_kit import MINUTE, fired, look, make, one_task_per_fire, outcomes, schedule

SCHEDULES, OVERDUE, KILLS = 12, 60, 3

APP = """
from taskmill import Context, Taskmill

app = Taskmill()


@app.cron("0 3 * * *", timezone="Europe/Berlin", name="nightly", payload={"region": "eu"})
@app.task("REPORT")
async def report(ctx: Context, payload: dict) -> dict:
    return {"of": payload["region"]}
"""


@pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
async def test_three_schedulers_killed_again_and_again_make_one_task_a_fire(
    store_url: str, database: Database, processes: Processes
) -> None:
    """SIGKILL in the middle of an hour's missed fires of a dozen schedules: each of their times has its one task."""
    world = World(database)
    made = [
        await make(world, schedule(f"s{n}", misfire=Misfire.ALL, overlap=overlap), overdue=OVERDUE)
        for n, overlap in zip(
            range(SCHEDULES), itertools.cycle((Overlap.ALLOW, Overlap.CANCEL_RUNNING)), strict=False
        )
    ]
    numbers = itertools.count()

    def start() -> Process:
        env = {"DATABASE_URL": store_url, "TASKMILL_INDEX": "none", "TASKMILL_LEADER_TTL": "1"}
        return processes.taskmill("scheduler", env=env, name=f"scheduler-{next(numbers)}")

    async def count() -> int:
        statement = sa.select(sa.func.count()).select_from(schema.fires)
        return int(await world.db.read(lambda c: c.execute(statement).scalar_one()))

    async def leader() -> bytes | None:
        s = sa.select(schema.leader.c.holder)
        return await world.db.read(lambda c: c.execute(s).scalar())

    running = [start() for _ in range(3)]
    for kill in range(KILLS):
        enough = (kill + 1) * SCHEDULES * OVERDUE // (KILLS + 2)

        async def far(enough: int = enough) -> bool:
            return await count() >= enough

        await wait_until(far, 60, every=0.005)
        # One of them leads: in three kills, all those of the beginning go.
        running.pop(0).kill()
        running.append(start())

    async def through() -> bool:
        now = await world.now()
        rows = [await look(world, row.id) for row in made]
        return all(row.next_at is not None and row.next_at > now for row in rows)

    await wait_until(through, 60)
    for row in made:
        assert row.next_at is not None
        rows = await fired(world, row.id)
        assert len(rows) >= OVERDUE
        assert [f.nominal_at for f in rows] == [row.next_at + n * MINUTE for n in range(len(rows))]
        if row.overlap is Overlap.ALLOW:
            assert set(outcomes(rows)) == {Fired.SUBMITTED}
    await one_task_per_fire(world)
    for process in running:
        process.kill()


def write_app(folder: Path, text: str = APP) -> None:
    (folder / "shop.py").write_text(text)


async def test_up_registers_what_the_app_declares_and_runs_it(processes: Processes, tmp_path: Path) -> None:
    """At its start, for everyone with a role to see; runScheduleNow lets it run."""
    write_app(processes.folder)
    port = free_port()
    env = {"PORT": str(port), "TASKMILL_DATA": str(tmp_path / "data"), "TASKMILL_INDEX": "none"}
    env |= {"TASKMILL_BCRYPT_ROUNDS": "4"}
    processes.taskmill("up", "--app", "shop:app", env=env).wait_for_output("schedules", 30)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as http:

        async def call(query: str, token: str = "", **variables: Any) -> Any:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            sent = {"query": query, "variables": variables}
            body = (await http.post("/graphql", json=sent, headers=headers)).json()
            assert "errors" not in body, body["errors"]
            return body["data"]

        given = {"email": "ann@example.com", "password": "a long password", "name": "Ann"}
        register = "mutation($i: RegisterInput!) { register(input: $i) { accessToken } }"
        token = (await call(register, i=given))["register"]["accessToken"]
        [found] = (await call("{ schedules { id name cron timezone declaredBy nextFire } }", token))[
            "schedules"
        ]
        assert (found["name"], found["cron"], found["timezone"]) == ("nightly", "0 3 * * *", "Europe/Berlin")
        assert found["declaredBy"] == "shop:app"
        assert found["nextFire"] is not None
        run = "mutation($id: ID!) { runScheduleNow(id: $id) { id } }"
        task = (await call(run, token, id=found["id"]))["runScheduleNow"]["id"]

        async def result() -> Any:
            query = "query($id: ID!) { task(id: $id) { result } }"
            return (await call(query, token, id=task))["task"]["result"]

        assert await wait_until(result, 20) == {"of": "eu"}


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
def test_schedules_sync_is_a_step_of_a_deploy(sql_engine: str, store_url: str, processes: Processes) -> None:
    """It prints what it did; what is the same stays; what the app no longer declares goes; a broken app changes nothing."""
    env = {"DATABASE_URL": store_url}

    def sync(status: int = 0) -> str:
        process = processes.taskmill("schedules", "sync", "--app", "shop:app", env=env, name="sync")
        assert process.wait(30) == status, process.output()
        return process.output()

    none = "\n".join(line for line in APP.splitlines() if "@app.cron" not in line)
    write_app(processes.folder, none)
    assert sync().strip() == "shop:app declares no schedules"
    two = APP.replace(
        "@app.task", '@app.cron("0 5 * * *", name="early", payload={"region": "eu"})\n@app.task'
    )
    write_app(processes.folder, two)
    assert sorted(sync().splitlines()) == ["created  early", "created  nightly"]
    write_app(processes.folder, APP.replace("0 3 * * *", "0 3 31 2 *"))
    assert "nightly" in sync(2)
    write_app(processes.folder, two.replace("0 3", "0 4"))
    assert sync().splitlines() == ["changed  nightly", "same     early"]
    write_app(processes.folder, none)
    assert sorted(sync().splitlines()) == ["deleted  early", "deleted  nightly"]
