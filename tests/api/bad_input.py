"""RELIABILITY.md part 4, rows 39 to 62 and what a worker may say wrong, as data: what is sent, and what answers it."""

from __future__ import annotations

import base64
import pickle
from dataclasses import dataclass
from typing import Any, Final, cast

from taskmill.model.task import PAYLOAD_LIMIT
from tests.api.test_errors import ABSENT_IDS
from tests.api.test_schedules import BAD as BAD_SCHEDULES
from tests.api.test_work import FENCES, WRONG_CLAIMS

INPUT, TOO_LARGE, CONFLICT, MISSING, TAKEN = (
    "BAD_USER_INPUT",
    "PAYLOAD_TOO_LARGE",
    "CONFLICT",
    "NOT_FOUND",
    "",
)
INVALID: Final = "GRAPHQL_VALIDATION_FAILED"

TASK: Final = "mutation($i: CreateTaskInput!) { createTask(input: $i) { id } }"
MANY: Final = "mutation($i: [CreateTaskInput!]!) { createTasks(inputs: $i) { id } }"
UPDATE: Final = "mutation($id: ID!, $i: UpdateTaskInput!) { updateTask(id: $id, input: $i) { id } }"
VERB: Final = "mutation($id: ID!) { %s(id: $id) { status } }"
ONE: Final = "query($id: ID!) { task(id: $id) { id } }"
LIST: Final = "query($s: String, $q: String, $l: Int! = 20, $a: ID) { tasks(type: $s, queue: $q, limit: $l, after: $a) { id } }"
SCHEDULE: Final = "mutation($i: CreateScheduleInput!) { createSchedule(input: $i) { id } }"
RUN: Final = "mutation($i: CompleteTaskInput!) { completeTask(input: $i) { state } }"
CLAIM: Final = "mutation($i: ClaimTasksInput!) { claimTasks(input: $i) { tasks { id } } }"


@dataclass(frozen=True)
class Bad:
    """One request, and the code of its only error (TAKEN: there is none); `says`: how the message begins.

    `@name` in the variables is a task of tests/api/service.py. Every one is HTTP 200 to a client of plain JSON.
    """

    row: int
    name: str
    query: str
    variables: dict[str, Any]
    code: str = INPUT
    says: str = ""
    by: str = "user"

    def __str__(self) -> str:
        return f"{self.row} {self.name}"[:60]


def short(value: object) -> str:
    return ascii(value)[:40]


def task(row: int, says: str, *given: dict[str, Any], code: str = INPUT) -> list[Bad]:
    """createTask, with each of these."""
    return [Bad(row, short(g), TASK, {"i": {"title": "t", **g}}, code, says) for g in given]


def fields(row: int, field: str, *values: object, code: str = INPUT, says: str | None = None) -> list[Bad]:
    """createTask, with each of these values of a field, which the message names."""
    return task(row, f"{field}:" if says is None else says, *({field: v} for v in values), code=code)


def many(name: str, inputs: list[dict[str, Any]], says: str, code: str = INPUT) -> Bad:
    return Bad(51, name, MANY, {"i": inputs}, code, says)


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


def verbs(row: int, verb: str, code: str, *names: str, says: str = "") -> list[Bad]:
    return [Bad(row, f"{verb} {name}", VERB % verb, {"id": f"@{name}"}, code, says) for name in names]


def literal(row: int, given: str, code: str) -> Bad:
    """The value stands in the document."""
    return Bad(
        row, given[:40], f'mutation {{ createTask(input: {{title: "t", {given}}}) {{ id }} }}', {}, code
    )


def listed(row: int, code: str = INPUT, says: str = "", **arguments: Any) -> Bad:
    return Bad(row, short(arguments), LIST, arguments, code, says)


TIMES: Final[tuple[Any, ...]] = (
    "2095-12-10T09:00:00", "2095-12-10", "tomorrow", "", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z",
    "10000-01-01T00:00:00Z", "9999-12-31T23:59:59-01:00", "2095-12-10T09:00:60Z", "2095-12-10T09:00:00+99:99",
    "2095-02-30T09:00:00Z", "2095-W50-1T09:00:00Z", 1733821200, True, "9" * 10_000, {}, [],
)  # fmt: skip
TYPES: Final = ("", "x" * 101, "x" * 10_000, "../x", "a b", "🦊", "a\n", "a\x00", "\x1b[31m", " a", "-a")
QUEUES: Final = ("", "x" * 65, "{q}", "a:b", "a*", "a\n", "a\r\nSET x y", "tm:{0}:queue", "..", "ä", "a/b")
INERT: Final[tuple[dict[str, Any], ...]] = (
    {"__class__": "os.system", "__reduce__": ["os.system", ["true"]]},
    {"py/object": "os.system", "$ref": "file:///etc/passwd", "$type": "System.Diagnostics.Process"},
    {
        "pickle": base64.b64encode(pickle.dumps({1, 2})).decode(),
        "yaml": "!!python/object/apply:os.system [true]",
    },
    {"__proto__": {"admin": True}, "constructor": {"prototype": {}}, "{{7*7}}": "${jndi:ldap://x}"},
)

EMPTY_CHANGES: Final[tuple[dict[str, Any], ...]] = (
    {}, {"title": None}, {"title": ""}, {"priority": None}, {"payload": []}, {"description": "\x00"},
)  # fmt: skip
NO_IDS: Final[tuple[Any, ...]] = ({}, [], 1.5, True, None)

TASKS: Final = [
    *fields(0, "title", "", "  ", "x" * 256, "a\nb", "a\x1b[31m", "a\x00"),
    *fields(0, "description", "x" * 10_001, "a\x00b"),
    *fields(39, "type", *TYPES),
    *task(39, "type:", *({"payload": {"type": t}} for t in TYPES)),
    *(listed(39, says="type:", s=t) for t in ("", "../x", "a b")),
    *fields(40, "type", "NOBODY_KNOWS_IT", code=TAKEN),
    *fields(41, "payload", [], "text", 1, True, nested(33), {"a": [[[nested(30)]]]}),
    *fields(41, "payload", {"a": "x" * PAYLOAD_LIMIT}, {"a": "é" * (PAYLOAD_LIMIT // 2)}, code=TOO_LARGE),
    *fields(41, "payload", {str(n): "" for n in range(50_000)}, code=TOO_LARGE),
    *(literal(41, f"payload: {text}", code) for text, code in (
        ("{a: 1e999}", INPUT), ("{a: HIGH}", INPUT), ("{a: " + "9" * 5000 + "}", INVALID),
    )),
    *fields(43, "payload", *INERT, code=TAKEN),
    *fields(44, "priority", -1, 10**9, 1.5, "high", "", "HIGH ", True, ["HIGH"], {}, says="Variable '$i'"),
    *(literal(44, f"priority: {text}", INVALID) for text in ("-1", "1000000000", "1.5", '"HIGH"', "high", "true")),
    *fields(45, "scheduledAt", "2001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", code=TAKEN),
    *fields(46, "scheduledAt", *TIMES, says="Variable '$i'"),
    *(literal(46, f'scheduledAt: "{t}"', INPUT) for t in TIMES if isinstance(t, str)),
    *fields(47, "maxRetries", -1, 1001, 10**6),
    *fields(47, "maxRetries", 2**31, 1.5, "3", True, says="Variable '$i'"),
    *fields(47, "maxRetries", 0, 1000, code=TAKEN),
    many("none", [], "inputs:"),
    many("one too many", [{"title": "t"}] * 1001, "inputs:"),
    many("one of a thousand", [{"title": "t"}] * 999 + [{"title": ""}], "inputs[999].title:"),
    many("a retry count", [{"title": "t"}, {"title": "t", "maxRetries": -1}], "inputs[1].maxRetries:"),
    many("a large payload", [{"title": "t"}, {"title": "t", "payload": {"a": "x" * PAYLOAD_LIMIT}}], "inputs[1].payload:", TOO_LARGE),
    *fields(59, "queue", *QUEUES),
    *(listed(59, says="queue:", q=q) for q in ("{x}", "a*", "")),
    *(Bad(0, f"update {short(g)}", UPDATE, {"id": "@queued", "i": g}, INPUT) for g in EMPTY_CHANGES),
]  # fmt: skip

STATES: Final = [
    *(Bad(52, f"{verb} {short(i)}", VERB % verb, {"id": i}, MISSING) for verb in ("cancelTask", "retryTask")
      for i in (*ABSENT_IDS, "@foreign", "@absent", "%", "\x00")),
    *(Bad(52, f"update {short(i)}", UPDATE, {"id": i, "i": {"title": "x"}}, MISSING) for i in (*ABSENT_IDS, "@foreign", "@absent")),
    *(Bad(52, f"show {short(i)}", ONE, {"id": i}, TAKEN) for i in (*ABSENT_IDS, "@foreign", "@absent")),
    *(Bad(52, f"id {short(i)}", ONE, {"id": i}, INPUT, "Variable '$id'") for i in NO_IDS),
    *verbs(53, "cancelTask", CONFLICT, "completed", says="The task is COMPLETED"),
    *verbs(53, "cancelTask", TAKEN, "cancelled", "cancelling", "cancelling"),
    *verbs(53, "cancelTask", MISSING, "foreign", "absent"),
    *(row for state in ("processing", "completed", "queued", "pending")
      for row in verbs(54, "retryTask", CONFLICT, state, says=f"The task is {state.upper()}")),
    *(Bad(54, f"update {s}", UPDATE, {"id": f"@{s}", "i": {"title": "x"}}, CONFLICT) for s in ("processing", "completed", "failed", "cancelled")),
    *verbs(53, "cancelTask", TAKEN, "failed"),
    *(listed(55, says="limit:", l=limit) for limit in (-1, 0, 101, 10**9)),
    *(listed(55, says="Variable '$l'", l=limit) for limit in (2**31, 1.5, "10", None)),
    *(listed(55, says="after:", a=after) for after in ("garbage", "", "'; DROP TABLE tasks; --", "x" * 10_000)),
    *(listed(55, TAKEN, a=after) for after in ("@foreign", "@absent")),
    *(listed(56, says="type:", s=pattern) for pattern in ("%", "(a+)+$", "_%", "%" * 10_000)),
    Bad(56, "an unknown filter", "{ tasks(ids: [1]) { id } }", {}, INVALID),
    Bad(56, "an unknown column", '{ tasks(sort: "password_hash") { id } }', {}, INVALID),
]  # fmt: skip

# What the schema does not have is refused as such: nothing is taken and then left aside.
NOT_THERE: Final = [
    *fields(48, "idempotencyKey", "", "abc", "x" * 129, says="Variable '$i'"),
    *fields(58, "tags", {"a": "b"}, ["a"], says="Variable '$i'"),
    *fields(58, "metadata", {"__proto__": "x" * 1_000_000}, says="Variable '$i'"),
    *fields(47, "timeout", 0, 1, 10**9, says="Variable '$i'"),
    Bad(57, "a search", '{ tasks(search: "%%%%") { id } }', {}, INVALID),
    Bad(75, "a tenant", '{ tasks(tenant: "other") { id } }', {}, INVALID),
]

SCHEDULES: Final = [
    Bad(60 if "cron" in given else 61 if "timezone" in given else 0, short(given), SCHEDULE, {"i": {"name": "s", "cron": "* * * * *", **given}}, INPUT, begins)
    for given, begins in BAD_SCHEDULES
]  # fmt: skip

WORKERS: Final = [
    *(Bad(76, f"fence {short(fence)}", RUN, {"i": {"worker": "@boot", "id": "@processing", "fence": fence}}, code, by="worker")
      for fence, code in FENCES),
    *(Bad(79, short(wrong), CLAIM, {"i": {"worker": "@boot", **wrong}}, INPUT, by="worker") for wrong in cast("list[dict[str, Any]]", WRONG_CLAIMS)),
    Bad(74, "a user claims", CLAIM, {"i": {"worker": "@boot"}}, "FORBIDDEN"),
    Bad(74, "a worker looks", ONE, {"id": "@queued"}, "FORBIDDEN", by="worker"),
    Bad(74, "a user lists users", "{ users { id } }", {}, "FORBIDDEN"),
    Bad(74, "a key changes a password", 'mutation { changePassword(input: {currentPassword: "securepassword", newPassword: "anotherpassword"}) { accessToken } }', {}, "FORBIDDEN", by="key"),
    Bad(74, "nobody asks", "{ me { id } }", {}, "UNAUTHENTICATED", by="nobody"),
]  # fmt: skip

ROWS: Final = [*TASKS, *STATES, *NOT_THERE, *SCHEDULES]
"""WORKERS have tests of their own (test_work.py); they are here for those who send everything."""
