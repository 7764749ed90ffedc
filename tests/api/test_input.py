"""What may be given to a task, and what becomes of it. What may not be given is in bad_input.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskmill.model.task import PAYLOAD_LIMIT
from tests.api.kit import Api, every_engine

CREATE = "mutation($i: CreateTaskInput!) { createTask(input: $i) { id title type queue payload scheduledAt status maxRetries description } }"
MANY = "mutation($i: [CreateTaskInput!]!) { createTasks(inputs: $i) { id title } }"
UPDATE = "mutation($id: ID!, $i: UpdateTaskInput!) { updateTask(id: $id, input: $i) { id title description priority payload scheduledAt status } }"


@every_engine
@pytest.mark.parametrize(
    "given",
    [
        {"title": "x" * 255},
        {"title": "🦊" * 255},
        {"description": "🦊" * 10_000},
        {"description": "line\r\nline\tend"},
        {"type": "a" + "b._:-9" * 16 + "xyz"},
        {"queue": "9" + "a._-Z" * 12 + "xyz"},
        {"maxRetries": 0},
        {"maxRetries": 1000},
    ],
    ids=lambda value: str(value)[:30],
)
async def test_bounds_are_taken(api: Api, given: dict[str, Any]) -> None:
    """The largest values that are allowed come back as they were given."""
    task = (await api.ok(CREATE, i={"title": "t", **given}))["createTask"]
    assert {key: task[key] for key in given} == given


class TestType:
    async def test_input_before_payload(self, api: Api) -> None:
        """input.type wins over payload.type."""
        task = await api.create(type="A", payload={"type": "B"})
        assert task["type"] == "A"

    async def test_payload(self, api: Api) -> None:
        """payload.type counts when it is a string."""
        assert (await api.create(payload={"type": "VIDEO_PROCESSING"}))["type"] == "VIDEO_PROCESSING"

    @pytest.mark.parametrize("payload", [{"type": 1}, {"type": None}, {"type": {"a": "b"}}, {}])
    async def test_none(self, api: Api, payload: Any) -> None:
        """Otherwise there is none."""
        assert (await api.create(payload=payload))["type"] is None


PAYLOADS: list[dict[str, Any]] = [
    {"n": 2**53 + 1, "big": 2**70, "negative": -(2**64)},
    {"text": "\u0000 \u2028 🦊 \u202e"},
    {"zero": 0.0, "float": 0.1, "exp": 1e300, "true": True, "null": None, "list": [[], {}, ""]},
    {"__class__": "os.system", "$ref": "#/a", "__proto__": {}},
    {"": "empty key", "a.b": 1, "ключ": "значение"},
]


class TestPayload:
    @every_engine
    @pytest.mark.parametrize("payload", PAYLOADS, ids=lambda value: str(value)[:20])
    async def test_round_trip(self, api: Api, payload: dict[str, Any]) -> None:
        """What goes in as a variable comes out the same: large numbers, any character."""
        assert (await api.create(payload=payload, fields="payload"))["payload"] == payload

    async def test_literal(self, api: Api) -> None:
        """The same values may stand in the document, with variables among them."""
        query = """mutation($v: JSON) { createTask(input: {title: "t", payload: {
            int: 9007199254740993, float: 1.5e3, text: "a\\u0041", yes: true, none: null, list: [1, [2, {a: 3}]], var: $v, absent: $w
        }}) { payload } }"""
        query = query.replace("($v: JSON)", "($v: JSON, $w: JSON)")
        created = await api.ok(query, v={"deep": 2**60})
        assert created["createTask"]["payload"] == {
            "int": 9007199254740993,
            "float": 1500.0,
            "text": "aA",
            "yes": True,
            "none": None,
            "list": [1, [2, {"a": 3}]],
            "var": {"deep": 2**60},
            "absent": None,
        }

    @pytest.mark.parametrize("literal", ["{a: 1, a: 2}", "{a: {b: 1, b: 2}}"])
    async def test_key_twice(self, api: Api, literal: str) -> None:
        """A key that is there twice is refused, and not the last one taken."""
        query = f'mutation {{ createTask(input: {{title: "t", payload: {literal}}}) {{ id }} }}'
        codes = [error["extensions"]["code"] for error in (await api.call(query))["errors"]]
        assert sorted(codes) == ["BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"]

    @every_engine
    async def test_every_byte(self, api: Api) -> None:
        """The text of an object in its canonical form comes back byte by byte: a zero keeps its sign."""
        text = '{"a":-0.0,"b":9007199254740993,"c":"\\u0000 🦊 \u202e é e\u0301","d":[1.5,1e300,""]}'
        shape = {"query": CREATE, "variables": {"i": {"title": "t", "payload": "here"}}}
        body = json.dumps(shape).replace('"here"', text)
        answer = await api.post(body.encode())
        assert f'"payload":{text},'.encode() in answer.content

    @every_engine
    async def test_largest(self, api: Api) -> None:
        """256 KiB are taken, one byte more is PAYLOAD_TOO_LARGE, before the database sees it."""
        room = PAYLOAD_LIMIT - len('{"a":""}')
        task = await api.create(payload={"a": "x" * room}, fields="payload")
        assert len(task["payload"]["a"]) == room
        code, _ = await api.fails(CREATE, i={"title": "t", "payload": {"a": "x" * (room + 1)}})
        assert code == "PAYLOAD_TOO_LARGE"

    async def test_bytes_count(self, api: Api) -> None:
        """The limit is in bytes of UTF-8."""
        code, _ = await api.fails(CREATE, i={"title": "t", "payload": {"a": "é" * (PAYLOAD_LIMIT // 2)}})
        assert code == "PAYLOAD_TOO_LARGE"

    async def test_depth(self, api: Api) -> None:
        """32 levels are taken, 33 not."""

        def nested(levels: int) -> Any:
            return {"a": nested(levels - 1)} if levels else 1

        await api.create(payload=nested(32))
        code, message = await api.fails(CREATE, i={"title": "t", "payload": nested(33)})
        assert (code, message.partition(":")[0]) == ("BAD_USER_INPUT", "payload")

    async def test_default(self, api: Api) -> None:
        """No payload is an empty object."""
        assert (await api.create(fields="payload"))["payload"] == {}
        assert (await api.create(fields="payload", payload=None))["payload"] == {}

    async def test_is_canonical(self, api: Api) -> None:
        """The stored text does not depend on the order of keys."""
        ids = [
            (await api.ok(f'mutation {{ createTask(input: {{title: "t", payload: {p}}}) {{ id }} }}'))
            for p in ("{b: 1, a: {d: 2, c: 3}}", "{a: {c: 3, d: 2}, b: 1}")
        ]
        assert len(ids) == 2
        from taskmill.sql.schema import task_payloads

        texts = await api.db.read(lambda c: list(c.execute(task_payloads.select()).all()))
        assert {row.payload for row in texts} == {'{"a":{"c":3,"d":2},"b":1}'}


class TestTimes:
    @every_engine
    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("2095-12-10T09:00:00Z", "2095-12-10T09:00:00.000Z"),
            ("2095-12-10T09:00:00.123456Z", "2095-12-10T09:00:00.123Z"),
            ("2095-12-10t09:00:00z", "2095-12-10T09:00:00.000Z"),
            ("2095-12-10 09:00+02:00", "2095-12-10T07:00:00.000Z"),
            ("2095-12-10T09:00:00-0530", "2095-12-10T14:30:00.000Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
        ],
    )
    async def test_taken(self, api: Api, given: str, shown: str) -> None:
        """A time with its zone is shown in UTC, and the task waits for it."""
        task = await api.create(scheduledAt=given, fields="scheduledAt status")
        assert task == {"scheduledAt": shown, "status": "PENDING"}

    @pytest.mark.parametrize("given", ["2001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
    async def test_past(self, api: Api, given: str) -> None:
        """A time in the past is now."""
        assert (await api.create(scheduledAt=given))["status"] == "QUEUED"


class TestMany:
    @every_engine
    async def test_in_order(self, api: Api) -> None:
        """createTasks answers in the order given, and pages list them newest first."""
        titles = [f"task {n}" for n in range(30)]
        made = (await api.ok(MANY, i=[{"title": t} for t in titles]))["createTasks"]
        assert [t["title"] for t in made] == titles
        listed = (await api.ok("{ tasks(limit: 100) { title } }"))["tasks"]
        assert [t["title"] for t in listed] == titles[::-1]

    @every_engine
    async def test_thousand(self, api: Api) -> None:
        """A thousand tasks are one transaction."""
        made = (await api.ok(MANY, i=[{"title": f"t{n}", "payload": {"n": n}} for n in range(1000)]))[
            "createTasks"
        ]
        assert len({t["id"] for t in made}) == 1000
        from taskmill.sql.schema import journal

        rows = await api.db.read(lambda c: c.execute(journal.select()).all())
        assert len(rows) == 1
        assert (await api.ok("{ taskStats { total queued } }"))["taskStats"] == {
            "total": 1000,
            "queued": 1000,
        }

    async def test_all_or_nothing(self, api: Api) -> None:
        """One bad item refuses all, and the error names its index and field."""
        inputs: list[dict[str, Any]] = [{"title": "t"} for _ in range(10)]
        inputs[7]["maxRetries"] = -1
        code, message = await api.fails(MANY, i=inputs)
        assert code == "BAD_USER_INPUT"
        assert message.startswith("inputs[7].maxRetries:")
        inputs[7] = {"title": "t", "payload": {"a": "x" * PAYLOAD_LIMIT}}
        code, message = await api.fails(MANY, i=inputs)
        assert (code, message.partition(":")[0]) == ("PAYLOAD_TOO_LARGE", "inputs[7].payload")
        assert (await api.ok("{ tasks { id } }"))["tasks"] == []


class TestUpdate:
    @every_engine
    async def test_what_is_given(self, api: Api) -> None:
        """Given fields change, the others stay."""
        task = await api.create(title="old", description="text", payload={"a": 1}, priority="LOW")
        changed = (await api.ok(UPDATE, id=task["id"], i={"title": "new"}))["updateTask"]
        assert (changed["title"], changed["description"], changed["priority"]) == ("new", "text", "LOW")
        assert changed["payload"] == {"a": 1}
        changed = await api.ok(
            UPDATE, id=task["id"], i={"payload": {"b": 2}, "priority": "CRITICAL", "description": None}
        )
        assert changed["updateTask"]["payload"] == {"b": 2}
        assert changed["updateTask"]["priority"] == "CRITICAL"
        assert changed["updateTask"]["description"] is None

    @every_engine
    async def test_schedule(self, api: Api) -> None:
        """A time ahead makes it wait; null is now."""
        task = await api.create()
        later = (await api.ok(UPDATE, id=task["id"], i={"scheduledAt": "2095-01-01T00:00:00Z"}))["updateTask"]
        assert (later["status"], later["scheduledAt"]) == ("PENDING", "2095-01-01T00:00:00.000Z")
        assert (await api.ok(UPDATE, id=task["id"], i={"title": "x"}))["updateTask"]["status"] == "PENDING"
        now = (await api.ok(UPDATE, id=task["id"], i={"scheduledAt": None}))["updateTask"]
        assert now["status"] == "QUEUED"
