"""Schedules over GraphQL: every operation, who may use it, and every bad input."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskmill.api.users import Role
from taskmill.model.clock import to_utc
from taskmill.tasks import schedules
from taskmill.upkeep.fire import fire_due
from tests.api.kit import Api, every_engine
from tests.tasks.schedule_kit import EASY, YEARLY, put

FIELDS = """id name cron timezone type title description payload priority queue maxRetries misfire overlap enabled
startsAt endsAt nextFire lastFire waiting declaredBy lastTask { id status scheduledAt }"""
CREATE = "mutation($i: CreateScheduleInput!) { createSchedule(input: $i) { %s } }"
UPDATE = "mutation($id: ID!, $i: UpdateScheduleInput!) { updateSchedule(id: $id, input: $i) { %s } }"
BY_ID = "mutation($id: ID!) { %s(id: $id) { %s } }"
VERBS = ("deleteSchedule", "pauseSchedule", "resumeSchedule", "runScheduleNow")


async def create(api: Api, fields: str = FIELDS, *, token: str | None = None, **given: Any) -> Any:
    new = {"name": "s", "cron": "* * * * *", **given}
    return (await api.ok(CREATE % fields, token=token, i=new))["createSchedule"]


async def update(api: Api, id: str, fields: str = FIELDS, **given: Any) -> Any:
    return (await api.ok(UPDATE % fields, id=id, i=given))["updateSchedule"]


async def do(api: Api, what: str, id: str, fields: str = FIELDS) -> Any:
    return (await api.ok(BY_ID % (what, fields), id=id))[what]


async def get(api: Api, id: str, fields: str = FIELDS, *, token: str | None = None) -> Any:
    return (await api.ok(f"query($id: ID!) {{ schedule(id: $id) {{ {fields} }} }}", token=token, id=id))[
        "schedule"
    ]


async def lapse(api: Api, id: str) -> None:
    """Let one of its times pass."""
    raw = uuid.UUID(id).bytes
    row = await api.db.read(lambda c: schedules.one_schedule(c, raw, None))
    assert row is not None
    now = to_utc(datetime.now(UTC))
    [last] = row.rule().newest(now - timedelta(days=400), now, 1)
    await put(api, raw, next_at=last)  # type: ignore[arg-type]  # it has a `db`


@every_engine
async def test_a_schedule_is_created_fires_and_shows_what_it_made(api: Api) -> None:
    """createSchedule, the scheduler's turn, and then its task, its history and its next fire."""
    given: dict[str, Any] = {
        "type": "T",
        "payload": {"n": 1},
        "priority": "HIGH",
        "queue": "reports",
        "maxRetries": 2,
    }
    made = await create(api, cron=YEARLY, **given)
    assert (made["title"], made["misfire"], made["overlap"], made["enabled"]) == ("s", "ONCE", "ALLOW", True)
    assert (made["payload"], made["timezone"], made["lastTask"]) == ({"n": 1}, "UTC", None)
    assert made["nextFire"] is not None
    await lapse(api, made["id"])
    await fire_due(api.mill, EASY, 1.0)
    after = await get(api, made["id"], f"{FIELDS} history {{ nominalAt at outcome taskId }}")
    [fire] = after["history"]
    assert (fire["outcome"], fire["taskId"]) == ("SUBMITTED", after["lastTask"]["id"])
    assert fire["nominalAt"] == after["lastFire"] == after["lastTask"]["scheduledAt"]
    assert after["nextFire"] > after["lastFire"]
    [task] = (await api.ok("{ tasks { title type payload priority queue maxRetries status } }"))["tasks"]
    assert task == {
        "title": "s", "type": "T", "payload": {"n": 1}, "priority": "HIGH", "queue": "reports", "maxRetries": 2,
        "status": "QUEUED",
    }  # fmt: skip


async def test_each_field_can_be_changed_and_null_clears_what_may_be_none(api: Api) -> None:
    """What is not given stays."""
    made = await create(api)
    given: dict[str, Any] = {
        "name": "n", "cron": "0 9 * * mon", "timezone": "Europe/Berlin", "type": "T", "title": "t",
        "description": "d", "payload": {"a": 1}, "priority": "LOW", "queue": "q", "maxRetries": 7, "misfire": "ALL",
        "overlap": "QUEUE", "enabled": False, "startsAt": "2030-01-01T00:00:00.000Z",
        "endsAt": "2031-01-01T00:00:00.000Z",
    }  # fmt: skip
    after = await update(api, made["id"], **given)
    assert {k: after[k] for k in given} == {**given, "cron": "0 9 * * MON"}
    cleared: dict[str, Any] = dict.fromkeys(("type", "description", "maxRetries", "startsAt", "endsAt"))
    again = await update(api, made["id"], **cleared, payload=None, queue=None)
    assert {k: again[k] for k in cleared} == cleared
    assert (again["payload"], again["queue"], again["name"], again["enabled"]) == ({}, "default", "n", False)


async def test_pause_resume_run_now_and_delete(api: Api) -> None:
    """Each answers with what is then."""
    made = await create(api)
    paused = await do(api, "pauseSchedule", made["id"])
    assert (paused["enabled"], paused["nextFire"]) == (False, None)
    task = await do(api, "runScheduleNow", made["id"], "id title status")
    assert (task["title"], task["status"]) == ("s", "QUEUED")
    after = await get(api, made["id"], "lastTask { id } history { outcome taskId }")
    assert after == {
        "lastTask": {"id": task["id"]},
        "history": [{"outcome": "RUN_NOW", "taskId": task["id"]}],
    }
    resumed = await do(api, "resumeSchedule", made["id"])
    assert resumed["enabled"] is True
    assert resumed["nextFire"] is not None
    assert (await do(api, "deleteSchedule", made["id"]))["name"] == "s"
    assert await get(api, made["id"]) is None
    assert (await api.ok("query($id: ID!) { task(id: $id) { status } }", id=task["id"]))["task"] is not None


async def test_the_next_fires_say_what_the_clocks_do(api: Api) -> None:
    """In UTC, on the wall of the zone, and in words; a paused schedule shows what it would do."""
    made = await create(
        api,
        "nextFires(n: 3) { at local note } nextFire",
        cron="30 2 * * *",
        timezone="Europe/Berlin",
        startsAt="2037-03-28T00:00:00Z",
        endsAt="2037-03-29T12:00:00Z",
        enabled=False,
    )
    assert made["nextFire"] is None
    assert made["nextFires"] == [
        {"at": "2037-03-28T01:30:00.000Z", "local": "2037-03-28T02:30:00+01:00", "note": None},
        {
            "at": "2037-03-29T01:00:00.000Z",
            "local": "2037-03-29T03:00:00+02:00",
            "note": "02:30 does not exist on 2037-03-29 in Europe/Berlin: runs at 03:00",
        },
    ]


async def test_what_does_not_exist_before_the_first_of_the_next_fires_is_told(api: Api) -> None:
    """It is the first one that jumped over it."""
    made = await create(
        api,
        "nextFires(n: 2) { at note }",
        cron="*/30 2 * * *",
        timezone="Europe/Berlin",
        startsAt="2037-03-28T12:00:00Z",
    )
    assert made["nextFires"] == [
        {
            "at": "2037-03-30T00:00:00.000Z",
            "note": "02:00 does not exist on 2037-03-29 in Europe/Berlin: not run",
        },
        {"at": "2037-03-30T00:30:00.000Z", "note": None},
    ]


async def test_the_next_fire_is_the_first_of_the_next_fires(api: Api) -> None:
    """Also the one that is due at this moment."""
    made = await create(api, "nextFire nextFires(n: 50) { at note }", cron="0 9 * * *", timezone="Asia/Tokyo")
    assert made["nextFires"][0]["at"] == made["nextFire"]
    assert len(made["nextFires"]) == 50
    assert {f["note"] for f in made["nextFires"]} == {None}


async def test_a_page_of_schedules(api: Api) -> None:
    """Newest first; each with its payload, user and history."""
    for n in range(3):
        await create(api, name=f"s{n}", payload={"n": n})
    page = "query($after: ID) { schedules(limit: 2, after: $after) { id name payload user { email } history { at } } }"
    first = (await api.ok(page))["schedules"]
    assert [(s["name"], s["payload"], s["user"]["email"]) for s in first] == [
        ("s2", {"n": 2}, "user@example.com"),
        ("s1", {"n": 1}, "user@example.com"),
    ]
    assert [s["name"] for s in (await api.ok(page, after=first[-1]["id"]))["schedules"]] == ["s0"]


# ---- who may -------------------------------------------------------------------------------------------------------


async def test_a_user_sees_and_changes_own_schedules_only_an_admin_all(api: Api) -> None:
    """A foreign one is NOT_FOUND, in the words of an absent one."""
    root = await api.enlist("root", Role.ADMIN)
    ann, bob = await api.register("ann"), await api.register("bob")
    made = await create(api, token=ann)
    assert await get(api, made["id"], token=bob) is None
    assert (await api.ok("{ schedules { id } }", token=bob))["schedules"] == []
    for verb in VERBS:
        foreign = await api.fails(BY_ID % (verb, "id"), token=bob, id=made["id"])
        absent = await api.fails(BY_ID % (verb, "id"), token=bob, id=str(uuid.uuid4()))
        garbage = await api.fails(BY_ID % (verb, "id"), token=bob, id="' OR 1=1")
        assert foreign == absent == garbage == ("NOT_FOUND", "There is no such schedule.")
    foreign = await api.fails(UPDATE % "id", token=bob, id=made["id"], i={"title": "x"})
    assert foreign == ("NOT_FOUND", "There is no such schedule.")
    api.token = root
    assert (await get(api, made["id"]))["name"] == "s"
    assert (await do(api, "pauseSchedule", made["id"]))["enabled"] is False
    task = await do(api, "runScheduleNow", made["id"], "user { email }")
    assert task["user"]["email"] == "ann@example.com"


async def test_schedules_are_for_people(api: Api) -> None:
    """UNAUTHENTICATED without a login, FORBIDDEN for a WORKER."""
    worker = await api.enlist("w", Role.WORKER)
    documents = [BY_ID % (verb, "id") for verb in VERBS] + ["query($id: ID!) { schedule(id: $id) { id } }"]
    for document in documents:
        assert (await api.fails(document, token="", id="x"))[0] == "UNAUTHENTICATED"
        assert (await api.fails(document, token=worker, id="x"))[0] == "FORBIDDEN"
    new = {"name": "s", "cron": "* * * * *"}
    assert (await api.fails(CREATE % "id", token=worker, i=new))[0] == "FORBIDDEN"
    assert (await api.fails("{ schedules { id } }", token=worker))[0] == "FORBIDDEN"


async def test_a_key_bound_to_queues_touches_no_schedule_of_another(api: Api) -> None:
    """Neither makes one, nor moves one there, nor lets one run."""
    data = await api.ok('mutation { createApiKey(input: {name: "k", role: USER, queues: ["mine"]}) { key } }')
    key = data["createApiKey"]["key"]
    theirs, mine = await create(api, name="a"), await create(api, name="b", queue="mine")
    for verb in VERBS:
        assert (await api.fails(BY_ID % (verb, "id"), token=key, id=theirs["id"]))[0] == "FORBIDDEN"
    new = {"name": "s", "cron": "* * * * *"}
    assert (await api.fails(CREATE % "id", token=key, i=new))[0] == "FORBIDDEN"
    moved = await api.fails(UPDATE % "id", token=key, id=mine["id"], i={"queue": "default"})
    assert moved[0] == "FORBIDDEN"
    assert (await api.ok(BY_ID % ("pauseSchedule", "enabled"), token=key, id=mine["id"])) is not None


# ---- bad input (rows 60 to 62) -------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    *(({"cron": cron}, "cron: ") for cron in (
        "* * * * * *", "@every 1ms", "*/0 * * * *", "60 * * * *", "0 0 31 2 *", "5-1 * * * *", "*" * 10_000,
        "1," * 5_000 + "1 * * * *", "", "* * * * \u0000",
    )),
    *(({"timezone": zone}, "timezone: ") for zone in ("Mars/Phobos", "../../etc/passwd", "", "europe/berlin")),
    ({"name": ""}, "name: "), ({"name": "x" * 101}, "name: "), ({"name": "a\u0000b"}, "name: "),
    ({"title": "x" * 256}, "title: "), ({"description": "x" * 10_001}, "description: "),
    ({"payload": [1]}, "payload: "), ({"queue": "{q}"}, "queue: "), ({"type": "a b"}, "type: "),
    ({"maxRetries": -1}, "maxRetries: "), ({"maxRetries": 1001}, "maxRetries: "),
    ({"startsAt": "2031-01-01T00:00:00Z", "endsAt": "2030-01-01T00:00:00Z"}, "endsAt: "),
]  # fmt: skip


@pytest.mark.parametrize(("given", "begins"), BAD, ids=lambda v: str(v)[:40])
async def test_a_bad_value_is_refused_at_creation_and_at_a_change(
    api: Api, given: dict[str, Any], begins: str
) -> None:
    """BAD_USER_INPUT that names the field; nothing is written."""
    made = await create(api, name="good")
    for code, message in (
        await api.fails(CREATE % "id", i={"name": "s", "cron": "* * * * *", **given}),
        await api.fails(UPDATE % "id", id=made["id"], i=given),
    ):
        assert code == "BAD_USER_INPUT"
        assert message.startswith(begins)
        assert len(message) < 300
    assert await get(api, made["id"]) == made
    assert len((await api.ok("{ schedules { id } }"))["schedules"]) == 1


@pytest.mark.parametrize(
    ("document", "variables"),
    [
        ("query($id: ID!) { schedule(id: $id) { nextFires(n: 0) { at } } }", {}),
        ("query($id: ID!) { schedule(id: $id) { nextFires(n: 51) { at } } }", {}),
        ("query($id: ID!) { schedule(id: $id) { history(limit: 101) { at } } }", {}),
        ("{ schedules(limit: 0) { id } }", {}),
        ('{ schedules(after: "x") { id } }', {}),
        (UPDATE % "id", {"i": {}}),
        (UPDATE % "id", {"i": {"cron": None}}),
        (UPDATE % "id", {"i": {"misfire": None}}),
        (UPDATE % "id", {"i": {"misfire": "TWICE"}}),
        (UPDATE % "id", {"i": {"startsAt": "2030-01-01T00:00:00"}}),
    ],
)  # fmt: skip
async def test_a_bad_request_is_refused(api: Api, document: str, variables: dict[str, Any]) -> None:
    """Bounds of lists, nulls where none is taken, unknown values."""
    made = await create(api)
    given = {"id": made["id"]} if "$id" in document else {}
    assert (await api.fails(document, **given, **variables))[0] == "BAD_USER_INPUT"


async def test_a_name_that_is_taken_and_a_quota_that_is_full_are_conflicts(api: Api) -> None:
    """Row 62."""
    await create(api)
    assert (await api.fails(CREATE % "id", i={"name": "s", "cron": "* * * * *"}))[0] == "CONFLICT"
    api.mill.options = type(api.mill.options)(schedules=1)
    code, message = await api.fails(CREATE % "id", i={"name": "other", "cron": "* * * * *"})
    assert (code, "1 is the most" in message) == ("CONFLICT", True)
