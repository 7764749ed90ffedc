"""The protocol of remote workers over HTTP: what it takes, what it refuses, what the same call does again."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from taskmill.api.identity import Role
from taskmill.api.work import BOOTS, POSTS_OF_ONE, Desk, Who
from taskmill.errors import Conflict, Unavailable
from taskmill.index.wake import LocalBell
from taskmill.model.clock import boottime
from taskmill.model.state import Status, Verb
from taskmill.model.task import (
    LOG_LINES_PER_RUN,
    LOG_MESSAGE_LIMIT,
    PAYLOAD_LIMIT,
    Ended,
    Outcome,
    Registry,
)
from taskmill.runtime.probes import Probes
from taskmill.sql import schema
from taskmill.tasks import remote as tasks_remote
from taskmill.tasks.mill import Mill, TaskOptions
from taskmill.tasks.remote import Brought, Settled
from taskmill.tasks.settle import settle_batch
from tests.api.kit import Api, Socket, every_engine, running
from tests.databases import MigratedStores
from tests.support import wait_until

RUN = "id fence queue type title payload priority attempt maxRetries suspect leaseSeconds"
INPUTS = {
    "claimTasks": ("ClaimTasksInput", f"{{ tasks {{ {RUN} }} waitedSeconds }}"),
    "registerWorker": ("RegisterWorkerInput", "{ leaseSeconds maxRetries }"),
    "deregisterWorker": ("LeaveInput", ""),
    "renewTasks": ("RenewTasksInput", "{ id fence state leaseSeconds }"),
    "completeTask": ("CompleteTaskInput", "{ id fence state }"),
    "failTask": ("FailTaskInput", "{ id fence state }"),
    "releaseTask": ("ReleaseTaskInput", "{ id fence state }"),
    "settleTasks": ("SettleTasksInput", "{ id fence state }"),
    "appendLogs": ("AppendLogsInput", ""),
    "submitTasks": ("SubmitTasksInput", ""),
}
SHOWN = "status attempts result error progress maxRetries runs { outcome error errorType worker traceback }"


class Remote:
    """A remote worker: a boot id, and whose login it uses."""

    def __init__(self, api: Api, token: str) -> None:
        self.api = api
        self.token = token
        self.boot = str(uuid.uuid4())

    def _document(self, call: str) -> str:
        kind, selection = INPUTS[call]
        return f"mutation($i: {kind}!) {{ {call}(input: $i) {selection} }}"

    async def do(self, call: str, **given: Any) -> Any:
        """The answer of a call that succeeds."""
        given = {"worker": self.boot, **given}
        return (await self.api.ok(self._document(call), token=self.token, i=given))[call]

    async def fails(self, call: str, **given: Any) -> str:
        """The code of a call that is refused."""
        given = {"worker": self.boot, **given}
        return (await self.api.fails(self._document(call), token=self.token, i=given))[0]

    async def claim(self, **given: Any) -> list[Any]:
        runs: list[Any] = (await self.do("claimTasks", **given))["tasks"]
        return runs

    async def one(self, **task: Any) -> Any:
        """A task that was made and claimed."""
        await self.api.create(**task)
        [run] = await self.claim(waitSeconds=10)
        return run


def of(run: Any) -> dict[str, Any]:
    return {"id": run["id"], "fence": run["fence"]}


async def task(api: Api, run: Any) -> Any:
    data = await api.ok(f"query($id: ID!) {{ task(id: $id) {{ {SHOWN} }} }}", id=run["id"])
    return data["task"]


@pytest.fixture
async def remote(api: Api) -> Remote:
    return Remote(api, await api.enlist("worker", Role.WORKER))


@pytest.fixture
async def desk(api: Api) -> AsyncIterator[Desk]:
    """One without an API around it."""
    mill = Mill(api.db, None, LocalBell(), TaskOptions(), Probes())
    desk = Desk(mill)
    yield desk
    await desk.close()


# ---- the way of a task ----------------------------------------------------------------------------------------------


@every_engine
async def test_claim_renew_complete(api: Api, remote: Remote) -> None:
    """The way of a task through a remote worker, with its payload and result as they were sent."""
    payload = {"n": 2**60, "text": 'é"\\\n🎉', "deep": [[{}], None, 0.1]}
    run = await remote.one(type="T", title="A title", payload=payload, priority="HIGH", maxRetries=5)
    assert (run["type"], run["title"], run["payload"]) == ("T", "A title", payload)
    assert (run["attempt"], run["maxRetries"], run["suspect"]) == (1, 5, False)
    assert (run["priority"], run["queue"], run["leaseSeconds"]) == ("HIGH", "default", 30.0)
    [lease] = await remote.do("renewTasks", leases=[{**of(run), "progress": 0.25}])
    assert lease == {**of(run), "state": "HELD", "leaseSeconds": 30.0}
    assert (await task(api, run))["progress"] == 0.25
    settled = await remote.do("completeTask", **of(run), result={"done": [1, None, "ü"]})
    assert settled == {**of(run), "state": "RECORDED"}
    after = await task(api, run)
    assert (after["status"], after["result"]) == ("COMPLETED", {"done": [1, None, "ü"]})
    assert after["runs"][0]["worker"] == "remote"


@every_engine
async def test_a_batch_of_outcomes(api: Api, remote: Remote) -> None:
    """Each has its answer; one that is stale stops no other."""
    for n in range(4):
        await api.create(title=str(n))
    runs = sorted(await remote.claim(max=4), key=lambda run: run["title"])
    outcomes = [
        {**of(runs[0]), "ended": "SUCCEEDED", "result": 1},
        {**of(runs[1]), "ended": "FAILED", "message": "no", "retryable": False},
        {**of(runs[2]), "ended": "TIMEOUT", "errorType": "TIMEOUT"},
        {"id": runs[3]["id"], "fence": 9, "ended": "SUCCEEDED"},
    ]
    answers = await remote.do("settleTasks", outcomes=outcomes)
    assert [a["state"] for a in answers] == ["RECORDED"] * 3 + ["STALE"]
    states = [(await task(api, run))["status"] for run in runs]
    assert states == ["COMPLETED", "FAILED", "PENDING", "PROCESSING"]
    assert await remote.do("settleTasks", outcomes=[]) == []


async def test_a_failed_run(api: Api, remote: Remote) -> None:
    """It is tried again after the time that the worker says, with type, message and traceback in its runs."""
    run = await remote.one(type="T")
    await remote.do(
        "failTask",
        **of(run),
        message="no \x1b[31mluck",
        errorType="OSError",
        traceback="at x.js:1",
        after=3600,
    )
    after = await task(api, run)
    assert (after["status"], after["attempts"], after["error"]) == ("PENDING", 1, "no \\x1b[31mluck")
    [ran] = after["runs"]
    assert (ran["outcome"], ran["errorType"], ran["traceback"]) == ("FAILED", "OSError", "at x.js:1")
    assert await remote.claim() == []


async def test_a_drain_spends_no_attempt(api: Api, remote: Remote) -> None:
    """What was given back is there for the next claim at once, as if it had not run."""
    run = await remote.one()
    await remote.do("releaseTask", **of(run))
    [again] = await remote.claim(waitSeconds=10)
    assert (again["id"], again["attempt"], again["fence"]) == (run["id"], 1, 2)


async def test_a_crash_makes_a_suspect(api: Api, remote: Remote) -> None:
    """It comes again when there is room to run it alone, and not before."""
    run = await remote.one()
    await remote.do("releaseTask", **of(run), reason="CRASHED", message="exit 139")
    await api.db.write(  # due at once: promote is the scheduler's
        lambda c: c.execute(sa.update(schema.tasks).values(status=int(Status.QUEUED)))
    )
    assert await remote.claim(suspects=0) == []
    [again] = await remote.claim()
    assert (again["id"], again["suspect"], again["attempt"]) == (run["id"], True, 2)


async def test_a_cancel_is_told(api: Api, remote: Remote) -> None:
    """At once to who listens, and by every renewal; then the run ends CANCELLED, whatever it brought."""
    run = await remote.one()
    query = "query($w: ID!, $s: Float!) { cancelSignals(worker: $w, waitSeconds: $s) { id fence } }"
    listening = asyncio.create_task(api.ok(query, token=remote.token, w=remote.boot, s=20.0))
    await wait_until(lambda: any("worker:" in c for c in _channels(api)), what="it listens")
    await api.ok("mutation($id: ID!) { cancelTask(id: $id) { status } }", id=run["id"])
    assert (await listening)["cancelSignals"] == [of(run)]
    [lease] = await remote.do("renewTasks", leases=[of(run)])
    assert lease["state"] == "CANCELLED"
    await remote.do("completeTask", **of(run), result=1)
    assert (await task(api, run))["status"] == "CANCELLED"


def _channels(api: Api) -> list[str]:
    bell = api.mill.bell
    assert isinstance(bell, LocalBell)
    return [c for c, listeners in bell._listeners.by_channel.items() if len(listeners) > 1]


async def test_what_a_run_says(api: Api, remote: Remote) -> None:
    """Row 80: long lines are cut, terminal sequences and line ends made harmless; a foreign run logs nothing."""
    run, other = await remote.one(), str(uuid.uuid4())
    lines = [
        {**of(run), "message": "hello", "level": "debug", "fields": {"a": 1}, "at": "2026-01-01T00:00:00Z"},
        {**of(run), "message": "x" * 1_000_000},
        {**of(run), "message": "red \x1b[31m\r\nfake line", "level": "ERROR"},
        {**of(run), "message": "z" * 10, "fields": {"k": "v" * 20_000}},
        {"id": other, "fence": 1, "message": "not mine"},
        {"id": run["id"], "fence": 2, "message": "not this run"},
    ]
    assert await remote.do("appendLogs", lines=lines, operationId="a") == 4
    assert await remote.do("appendLogs", lines=lines, operationId="a") == 4
    logs = "query($id: ID!) { task(id: $id) { logs { message level fields } } }"

    async def said() -> Any:
        found = (await api.ok(logs, id=run["id"]))["task"]["logs"]
        return found if len(found) >= 4 else None

    found = await wait_until(said)
    assert [line["level"] for line in found] == ["DEBUG", "INFO", "ERROR", "INFO"]
    assert found[0] == {"message": "hello", "level": "DEBUG", "fields": {"a": 1}}
    assert len(found[1]["message"]) == LOG_MESSAGE_LIMIT
    assert "\x1b" not in found[2]["message"]
    assert "\r" not in found[2]["message"]
    assert list(found[3]["fields"]) == ["cut"]


async def test_the_last_words_of_a_run(api: Api, remote: Remote) -> None:
    """A run's last lines and its outcome are two calls: which of them comes first is all the same. Not for another
    worker, nor when another run has begun."""
    run = await remote.one()
    await remote.do("failTask", **of(run), message="m", after=0)
    line = {**of(run), "message": "the end"}
    assert await remote.do("appendLogs", lines=[line]) == 1
    other = Remote(api, remote.token)
    assert await other.do("appendLogs", lines=[line]) == 0
    await api.db.write(lambda c: c.execute(sa.update(schema.tasks).values(fence=schema.tasks.c.fence + 1)))
    assert await remote.do("appendLogs", lines=[line]) == 0


async def test_a_run_keeps_so_many_lines(api: Api, remote: Remote) -> None:
    """What is beyond is dropped, and the answer says how many were taken."""
    run = await remote.one()
    taken = 0
    for _ in range(3):
        taken += await remote.do("appendLogs", lines=[{**of(run), "message": "x"}] * 400)
    assert taken == LOG_LINES_PER_RUN


async def test_progress_is_coalesced_and_clamped(api: Api, remote: Remote) -> None:
    """Row 80: of many reports in a second the record gets one, and the newest with a later renewal."""
    run = await remote.one()
    began = boottime()
    for n in range(30):
        await remote.do("renewTasks", leases=[{**of(run), "progress": n / 10}])
    assert 1 <= len(await _journal(api, Verb.RENEW)) <= boottime() - began + 1

    async def newest() -> bool:
        await remote.do("renewTasks", leases=[of(run)])
        return bool((await task(api, run))["progress"] == 1.0)

    await wait_until(newest, every=0.1)


async def _journal(api: Api, verb: Verb) -> list[Any]:
    query = sa.select(schema.journal.c.seq).where(schema.journal.c.verb == verb.value)
    return await api.db.read(lambda c: list(c.execute(query)))


async def test_a_run_submits_in_the_name_of_its_user(api: Api, remote: Remote) -> None:
    """The new task is the user's, not the worker's; asked again it is the same one; a stale run submits nothing."""
    run = await remote.one()
    given = {**of(run), "operationId": "s", "inputs": [{"title": "next", "payload": {"a": 1}}]}
    [made] = await remote.do("submitTasks", **given)
    assert await remote.do("submitTasks", **given) == [made]
    seen = await api.ok("query($id: ID!) { task(id: $id) { title payload user { email } } }", id=made)
    assert seen["task"] == {"title": "next", "payload": {"a": 1}, "user": {"email": "user@example.com"}}
    assert await remote.fails("submitTasks", **{**given, "fence": 2, "operationId": "t"}) == "STALE"
    assert (
        await remote.fails("submitTasks", **{**given, "inputs": [], "operationId": "u"}) == "BAD_USER_INPUT"
    )


async def test_what_a_run_submits_is_refused_by_its_place(api: Api, remote: Remote) -> None:
    """One wrong task of many: the error says which, and none is made."""
    run = await remote.one()
    inputs = [{"title": "a"}, {"title": "b", "maxRetries": -1}]
    given = {"worker": remote.boot, **of(run), "inputs": inputs}
    code, message = await api.fails(remote._document("submitTasks"), token=remote.token, i=given)
    assert (code, message.partition(":")[0]) == ("BAD_USER_INPUT", "inputs[1].maxRetries")
    assert (await api.ok("{ taskStats { total } }"))["taskStats"]["total"] == 1


# ---- rows 76 to 79 --------------------------------------------------------------------------------------------------

FENCES = [
    (0, "BAD_USER_INPUT"),
    (-1, "BAD_USER_INPUT"),
    ("1", "BAD_USER_INPUT"),
    (2**40, "BAD_USER_INPUT"),
    (7, "STALE"),
]


@pytest.mark.parametrize(("fence", "code"), FENCES, ids=str)
async def test_a_wrong_fence(api: Api, remote: Remote, fence: Any, code: str) -> None:
    """Row 76: future, negative, a string, too large for an Int. The row stays as it is."""
    run = await remote.one()
    before = await task(api, run)
    for call in ("completeTask", "releaseTask"):
        assert await remote.fails(call, id=run["id"], fence=fence) == code
    assert await remote.fails("failTask", id=run["id"], fence=fence, message="m") == code
    if code == "STALE":
        [lease] = await remote.do("renewTasks", leases=[{"id": run["id"], "fence": fence}])
        assert (lease["state"], lease["leaseSeconds"]) == ("LOST", 0)
    else:
        assert await remote.fails("renewTasks", leases=[{"id": run["id"], "fence": fence}]) == code
    assert await task(api, run) == before


async def test_a_fence_of_the_run_before(api: Api, remote: Remote) -> None:
    """Row 76: it is stale once the task was claimed again."""
    run = await remote.one()
    await remote.do("releaseTask", **of(run))
    [again] = await remote.claim(waitSeconds=10)
    assert again["fence"] == run["fence"] + 1
    assert await remote.fails("completeTask", **of(run)) == "STALE"
    assert (await task(api, run))["status"] == "PROCESSING"


async def test_the_same_twice_in_one_batch(api: Api, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second gets the answer of the first, also when that was stale by the time it was written."""
    await api.create()
    who = _who(b"1" * 16)
    [run] = await desk.claim(who, 1, suspects=0, wait=0.0, op=b"o" * 16, again=False, connected=_there)
    brought = Brought(who.id, run.id, run.fence, Outcome(Ended.SUCCEEDED, "1"), b"s" * 16)
    batch = settle_batch

    async def rescued_before(*given: Any, **more: Any) -> list[bool]:
        await api.db.write(
            lambda c: c.execute(sa.update(schema.tasks).values(fence=schema.tasks.c.fence + 1))
        )
        return await batch(*given, **more)

    monkeypatch.setattr(tasks_remote, "settle_batch", rescued_before)
    assert await desk.settle([brought, brought]) == [Settled.STALE, Settled.STALE]


async def test_an_outcome_that_breaks_a_batch(api: Api, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of many workers are written together: one that cannot be written fails alone."""
    await api.create(), await api.create(), await api.create()
    who = _who(b"1" * 16)
    runs = await desk.claim(who, 3, suspects=0, wait=0.0, op=b"o" * 16, again=False, connected=_there)
    given = [Brought(who.id, r.id, r.fence, Outcome(Ended.SUCCEEDED, "1"), r.id) for r in runs]
    batch = settle_batch

    async def refusing(mill: Any, outcomes: Any, *rest: Any, **more: Any) -> list[bool]:
        if any(claimed.id == runs[1].id for claimed, _ in outcomes):
            raise RuntimeError("a value that nobody can write")
        return await batch(mill, outcomes, *rest, **more)

    monkeypatch.setattr(tasks_remote, "settle_batch", refusing)
    answers = await asyncio.gather(*(desk.settle([b]) for b in given), return_exceptions=True)
    assert [answers[0], type(answers[1]), answers[2]] == [
        [Settled.RECORDED],
        RuntimeError,
        [Settled.RECORDED],
    ]


async def test_complete_twice(api: Api, remote: Remote) -> None:
    """Row 77: with the same operation and result it is the same answer; another result is a CONFLICT."""
    run = await remote.one()
    given = {**of(run), "operationId": "op", "result": {"a": 1}}
    first = await remote.do("completeTask", **given)
    assert await remote.do("completeTask", **given) == first
    assert await remote.fails("completeTask", **{**given, "result": {"a": 2}}) == "CONFLICT"
    assert await remote.fails("failTask", **of(run), message="m") == "CONFLICT"
    assert (await task(api, run))["result"] == {"a": 1}


async def test_a_run_of_another_worker(api: Api, remote: Remote) -> None:
    """Row 78: with the same boot id and another login, with another boot id, of a task that nobody claimed."""
    run = await remote.one()
    thief = Remote(api, await api.enlist("thief", Role.WORKER))
    thief.boot = remote.boot
    second = Remote(api, remote.token)
    queued = await api.create(title="queued")
    for worker in (thief, second):
        assert await worker.fails("completeTask", **of(run)) == "STALE"
        [lease] = await worker.do("renewTasks", leases=[of(run)])
        assert lease["state"] == "LOST"
        assert await worker.do("appendLogs", lines=[{**of(run), "message": "m"}]) == 0
        assert await worker.fails("submitTasks", **of(run), inputs=[{"title": "t"}]) == "STALE"
    assert await remote.fails("completeTask", id=queued["id"], fence=1) == "STALE"
    assert await remote.fails("completeTask", id="no id", fence=1) == "STALE"
    await remote.do("completeTask", **of(run))


WRONG_CLAIMS = [
    {"max": 0},
    {"max": -1},
    {"max": 101},
    {"max": 10**6},
    {"waitSeconds": -1},
    {"waitSeconds": 21},
    {"suspects": -1},
    {"queues": []},
    {"queues": ["no queue!"]},
    {"queues": ["q" * 65]},
    {"queues": [f"q{n}" for n in range(101)]},
    {"types": [f"t{n}" for n in range(201)]},
    {"types": ["no type!"]},
    {"retries": [{"type": "T", "maxRetries": 1001}]},
    {"worker": "no uuid"},
    {"worker": ""},
    {"slots": -1},
    {"name": "n" * 101},
    {"name": "a\nb"},
    {"operationId": ""},
    {"operationId": "o" * 101},
]


@pytest.mark.parametrize("wrong", WRONG_CLAIMS, ids=lambda wrong: str(wrong)[:40])
async def test_a_claim_that_is_refused(api: Api, remote: Remote, wrong: dict[str, Any]) -> None:
    """Row 79: numbers out of bounds, names that are none. Nothing is claimed."""
    await api.create()
    assert await remote.fails("claimTasks", **wrong) == "BAD_USER_INPUT"
    assert len(await remote.claim(max=100)) == 1


async def test_a_queue_that_nobody_uses(api: Api, remote: Remote) -> None:
    """Row 79: it is empty, and that is no error."""
    await api.create()
    assert await remote.claim(queues=["nobody-uses-it"]) == []


WRONG_OUTCOMES = [
    ("completeTask", {"result": "x" * PAYLOAD_LIMIT}, "PAYLOAD_TOO_LARGE"),
    ("completeTask", {"operationId": "o" * 101}, "BAD_USER_INPUT"),
    ("failTask", {"message": "m", "after": -1}, "BAD_USER_INPUT"),
    ("failTask", {"message": "m", "after": 10**9}, "BAD_USER_INPUT"),
    ("releaseTask", {"reason": "LEASE_LOST"}, "BAD_USER_INPUT"),
]


@pytest.mark.parametrize(("call", "wrong", "code"), WRONG_OUTCOMES, ids=lambda value: str(value)[:30])
async def test_an_outcome_that_is_refused(
    api: Api, remote: Remote, call: str, wrong: dict[str, Any], code: str
) -> None:
    """Its run goes on: the worker may bring another one."""
    run = await remote.one()
    assert await remote.fails(call, **of(run), **wrong) == code
    await remote.do("completeTask", **of(run), result=None)


async def test_too_many_at_once(api: Api, remote: Remote) -> None:
    """Lists have bounds, and an outcome that is wrong is named by its place."""
    run = await remote.one()
    assert await remote.fails("renewTasks", leases=[of(run)] * 501) == "BAD_USER_INPUT"
    assert await remote.fails("appendLogs", lines=[{**of(run), "message": "m"}] * 501) == "BAD_USER_INPUT"
    ended = {**of(run), "ended": "SUCCEEDED"}
    assert await remote.fails("settleTasks", outcomes=[ended] * 501) == "BAD_USER_INPUT"
    document = remote._document("settleTasks")
    given = {"worker": remote.boot, "outcomes": [ended, {**ended, "after": -1}]}
    code, message = await api.fails(document, token=remote.token, i=given)
    assert (code, message.partition(":")[0]) == ("BAD_USER_INPUT", "outcomes[1].after")


async def test_log_lines_that_are_refused(api: Api, remote: Remote) -> None:
    """An unknown level, fields that are no object."""
    run = await remote.one()
    for wrong in ({"level": "loud"}, {"fields": [1]}):
        lines = [{**of(run), "message": "m", **wrong}]
        assert await remote.fails("appendLogs", lines=lines) == "BAD_USER_INPUT"


# ---- claims that wait, and answers that were not heard ----------------------------------------------------------------


async def test_a_waiting_claim_is_woken(api: Api, remote: Remote) -> None:
    """It answers as soon as there is a task, and says how long it waited: leases count from there."""
    waiting = asyncio.create_task(remote.do("claimTasks", waitSeconds=20))
    await wait_until(lambda: _waits(api), what="it waits")
    await api.create()
    async with asyncio.timeout(10):
        answer = await waiting
    assert len(answer["tasks"]) == 1
    assert 0 < answer["waitedSeconds"] < 20


def _waits(api: Api) -> bool:
    """Whether a claim waits in the desk now."""
    return any(post.busy and post.waiter is not None for post in api.desk._posts.values())


@every_engine
async def test_a_lost_answer_is_asked_for_again(api: Api, remote: Remote) -> None:
    """The same operation brings the same tasks, at any API process; another one brings others."""
    for n in range(3):
        await api.create(title=str(n))
    first = await remote.claim(max=2, operationId="one")
    assert len(first) == 2
    assert await remote.claim(max=2, operationId="one") == first
    api.desk._posts.clear()  # as another process would know it
    assert await remote.claim(max=2, operationId="one", waitSeconds=5) == first
    assert len(await remote.claim(max=2, operationId="two")) == 1
    assert await remote.claim(max=2, operationId="three", again=True) == []


async def test_who_is_gone_gets_nothing(api: Api, remote: Remote) -> None:
    """A claim whose caller has closed its connection takes no task away from others."""
    async with httpx2.AsyncClient(base_url=api.base, trust_env=False) as http:
        body = {
            "query": remote._document("claimTasks"),
            "variables": {"i": {"worker": remote.boot, "waitSeconds": 20}},
        }
        headers = {"Authorization": f"Bearer {remote.token}"}
        waiting = asyncio.create_task(http.post("/graphql", json=body, headers=headers))
        await wait_until(lambda: _waits(api), what="it waits")
        waiting.cancel()
        await asyncio.wait([waiting])
    await api.create()
    await wait_until(lambda: not _waits(api), what="its claim has ended")
    other = Remote(api, remote.token)
    [run] = await other.claim(waitSeconds=10)
    assert (run["attempt"], run["fence"]) in ((1, 1), (1, 2)), "given back unstarted, or never taken"


async def test_who_goes_while_it_is_answered(api: Api, desk: Desk) -> None:
    """What was claimed for it goes back unstarted, and no attempt is spent."""
    made = await api.create()
    there = iter([True, False])

    async def connected() -> bool:
        return next(there)

    claim = desk.claim(
        _who(b"1" * 16), 1, suspects=0, wait=0.0, op=b"o" * 16, again=False, connected=connected
    )
    assert await claim == []
    after = await task(api, made)
    assert (after["status"], after["attempts"]) == ("QUEUED", 0)
    assert [ran["outcome"] for ran in after["runs"]] == ["RELEASED"]


@pytest.mark.parametrize("sql_engine", ["sqlite", "mysql"], indirect=True)
@pytest.mark.parametrize("first", [True, False], ids=["asked again first", "given back first"])
async def test_who_goes_and_asks_again_elsewhere(api: Api, desk: Desk, first: bool) -> None:
    """A claim was broken off, and the same operation comes to another process: its tasks are the worker's or go back,
    and never both, for then two would run them."""
    made, who, op = await api.create(), _who(b"1" * 16), b"o" * 16
    brought: list[Any] = []

    async def again() -> None:
        brought.extend(
            await api.desk.claim(who, 1, suspects=0, wait=0.0, op=op, again=True, connected=_there)
        )

    there = iter([True, False])

    async def connected() -> bool:
        answer = next(there)
        if first and not answer:
            await again()
        return answer

    assert await desk.claim(who, 1, suspects=0, wait=0.0, op=op, again=False, connected=connected) == []
    if not first:
        await again()
    after = await task(api, made)
    found = (after["status"], after["attempts"], len(brought))
    assert found == (("PROCESSING", 1, 1) if first else ("QUEUED", 0, 0))


async def _there() -> bool:
    return True


async def test_a_claim_that_waits_ends_with_its_key(api: Api) -> None:
    """Revoked meanwhile, it brings nothing any more: what it would bring could not be settled."""
    admin = await api.enlist("admin", Role.ADMIN)
    make = "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key apiKey { id } } }"
    key = (await api.ok(make, token=admin, i={"name": "w", "role": "WORKER"}))["createApiKey"]
    remote = Remote(api, key["key"])
    waiting = asyncio.create_task(remote.claim(waitSeconds=20))
    await wait_until(lambda: _waits(api), what="it waits")
    revoke = "mutation($id: ID!) { revokeApiKey(id: $id) { id } }"
    await api.ok(revoke, token=admin, id=key["apiKey"]["id"])
    await wait_until(lambda: not _waits(api), 15, what="its claim has ended")
    assert await waiting == []
    assert (await task(api, await api.create()))["status"] == "QUEUED"
    assert await remote.fails("claimTasks") == "UNAUTHENTICATED"


async def test_over_a_socket_a_claim_does_not_wait(api: Api, remote: Remote) -> None:
    """Nothing would tell that its caller has gone; without waiting it is answered as by POST."""
    await api.create()
    async with api.socket(token=remote.token) as socket:
        document = f"mutation($i: ClaimTasksInput!) {{ claimTasks(input: $i) {{ tasks {{ {RUN} }} }} }}"
        await socket.subscribe(document, id="1", i={"worker": remote.boot, "waitSeconds": 5})
        refused = await socket.receive()
        assert refused["payload"]["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        await wait_until_complete(socket)
        await socket.subscribe(document, id="2", i={"worker": remote.boot})
        assert len((await socket.next())["claimTasks"]["tasks"]) == 1


async def wait_until_complete(socket: Socket) -> None:
    assert (await socket.receive())["type"] == "complete"


@pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
async def test_calls_may_go_to_any_api_process(
    sql_engine: str, migrated_stores: MigratedStores, tmp_path: Path
) -> None:
    """Claimed at one, its answer lost and asked for at another, renewed there, settled and settled again at either."""
    with migrated_stores.lend(sql_engine, tmp_path) as url:
        async with running(url) as one, running(url) as two:
            await one.register("user")
            first = Remote(one, await one.enlist("worker", Role.WORKER))
            second = Remote(two, first.token)
            second.boot = first.boot
            await one.create()
            runs = await first.claim(operationId="c", waitSeconds=5)
            assert await second.claim(operationId="c") == runs
            [run] = runs
            assert [lease["state"] for lease in await second.do("renewTasks", leases=[of(run)])] == ["HELD"]
            given = {**of(run), "operationId": "s", "inputs": [{"title": "next"}]}
            made = await first.do("submitTasks", **given)
            assert await second.do("submitTasks", **given) == made
            given = {**of(run), "result": 1}
            assert await second.do("completeTask", **given) == await first.do("completeTask", **given)
            assert (await task(one, run))["status"] == "COMPLETED"


async def test_a_newer_claim_ends_the_one_that_waits(api: Api, remote: Remote) -> None:
    """A worker that sends another has given up the first."""
    first = asyncio.create_task(remote.claim(waitSeconds=20))
    await wait_until(lambda: _waits(api), what="it waits")
    async with asyncio.timeout(10):
        assert await remote.claim(waitSeconds=0) == []
        assert await first == []


async def test_a_stopping_process_sends_claims_away(desk: Desk) -> None:
    """Those that wait come back empty, new ones are UNAVAILABLE: other processes answer them."""
    running = asyncio.create_task(desk.run())
    who = _who(b"1" * 16)
    waiting = asyncio.create_task(_claim(desk, who, wait=20.0))
    await wait_until(lambda: any(p.busy and p.waiter for p in desk._posts.values()), what="it waits")
    desk.stop()
    async with asyncio.timeout(10):
        assert await waiting == []
        await running
    with pytest.raises(Unavailable, match="stopping"):
        await _claim(desk, who, wait=0.0)
    assert not desk._posts


async def test_workers_of_one_key_are_bounded(desk: Desk) -> None:
    """A caller that makes a new UUID for each call is told so, and its rows do not fill the table."""
    desk._boots_since = boottime()
    desk._boots[b"1" * 16] = BOOTS - 1
    await desk.register(_who(b"1" * 16, 1))
    with pytest.raises(Conflict, match="UUID"):
        await desk.register(_who(b"1" * 16, 2))
    await desk.register(_who(b"1" * 16, 1))
    await desk.register(_who(b"2" * 16, 3))
    desk._boots_since = -1e9
    await desk.register(_who(b"1" * 16, 2))


def _who(owner: bytes, n: int = 0) -> Who:
    return Who(n.to_bytes(16, "big"), owner, "w", ("default",), Registry())


async def _claim(desk: Desk, who: Who, *, wait: float) -> list[Any]:
    async def connected() -> bool:
        return True

    return list(
        await desk.claim(who, 1, suspects=0, wait=wait, op=b"o" * 16, again=False, connected=connected)
    )


async def test_places_are_bounded(api: Api, desk: Desk) -> None:
    """The one that nobody used for the longest time goes; when all wait, the next one is told so."""
    mine = [_who(b"1" * 16, n) for n in range(POSTS_OF_ONE + 1)]
    for who in mine:
        desk._post(who)
    assert len(desk._posts) == POSTS_OF_ONE
    assert mine[0].id not in desk._posts
    for post in desk._posts.values():
        post.busy = 1
    with pytest.raises(Conflict, match="more slots"):
        desk._post(mine[0])
    desk._post(_who(b"2" * 16, 10**6))
    for post in desk._posts.values():
        post.busy = 0


# ---- who may, and who is seen -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", INPUTS)
async def test_workers_only(api: Api, remote: Remote, call: str) -> None:
    """A USER is FORBIDDEN, nobody is UNAUTHENTICATED: before anything is looked at."""
    run = await remote.one()
    given = {
        "worker": remote.boot,
        **of(run),
        "message": "m",
        "leases": [],
        "outcomes": [],
        "lines": [],
        "inputs": [],
    }
    fields = {
        "claimTasks": [],
        "registerWorker": [],
        "deregisterWorker": [],
        "renewTasks": ["leases"],
        "completeTask": ["id", "fence"],
        "failTask": ["id", "fence", "message"],
        "releaseTask": ["id", "fence"],
        "settleTasks": ["outcomes"],
        "appendLogs": ["lines"],
        "submitTasks": ["id", "fence", "inputs"],
    }[call]
    sent = {name: given[name] for name in ("worker", *fields)}
    assert (await api.fails(remote._document(call), i=sent))[0] == "FORBIDDEN"
    assert (await api.fails(remote._document(call), token="", i=sent))[0] == "UNAUTHENTICATED"


async def test_a_key_that_is_bound_to_queues(api: Api) -> None:
    """It claims from these, and what it claimed is its own; another key of the same user is another worker."""
    admin = await api.enlist("admin", Role.ADMIN)
    make = "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key } }"
    keys = [
        (await api.ok(make, token=admin, i={"name": "w", "role": "WORKER", "queues": ["mail"]}))[
            "createApiKey"
        ]["key"]
        for _ in range(2)
    ]
    bound, other = Remote(api, keys[0]), Remote(api, keys[1])
    other.boot = bound.boot
    await api.create(queue="mail")
    assert await bound.fails("claimTasks") == "FORBIDDEN"
    assert await bound.fails("claimTasks", queues=["mail", "default"]) == "FORBIDDEN"
    [run] = await bound.claim(queues=["mail"])
    assert await other.fails("completeTask", **of(run)) == "STALE"
    assert await bound.fails("submitTasks", **of(run), inputs=[{"title": "t"}]) == "FORBIDDEN"
    await bound.do("completeTask", **of(run))


@every_engine
async def test_workers_and_queues(api: Api, remote: Remote) -> None:
    """An ADMIN sees who lives; whoever works with tasks sees the queues, with the own numbers."""
    await remote.do(
        "registerWorker",
        name="r1",
        host="h1",
        queues=["default", "mail"],
        types=["T", ""],
        slots=4,
        version="9",
    )
    run = await remote.one()
    await api.create(queue="mail")
    admin = await api.enlist("admin", Role.ADMIN)
    workers = "{ workers { id name host queues types slots running version startedAt lastSeen } }"
    assert (await api.fails(workers))[0] == "FORBIDDEN"
    assert (await api.fails(workers, token=remote.token))[0] == "FORBIDDEN"
    [seen] = (await api.ok(workers, token=admin))["workers"]
    assert (seen["queues"], seen["running"]) == (["default"], 1), "the claim told its queue anew"
    queues = "{ queues { name queued processing oldestWaitingAt workers } }"
    assert (await api.fails(queues, token=remote.token))[0] == "FORBIDDEN"
    found = {q["name"]: q for q in (await api.ok(queues))["queues"]}
    assert (found["default"]["processing"], found["default"]["workers"]) == (1, 1)
    assert (found["mail"]["queued"], found["mail"]["workers"]) == (1, 0)
    assert found["mail"]["oldestWaitingAt"] is not None
    assert found["default"]["oldestWaitingAt"] is None
    [theirs] = (await api.ok(queues, token=await api.register("other")))["queues"]
    assert (theirs["name"], theirs["processing"]) == ("default", 0)
    await remote.do("completeTask", **of(run))
    assert await remote.do("deregisterWorker") is True
    assert (await api.ok(workers, token=admin))["workers"] == []


async def test_a_worker_that_only_renews_stays_seen(api: Api, remote: Remote) -> None:
    """With all its slots taken it claims nothing for a long time."""
    run = await remote.one()
    ago = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    await api.db.write(lambda c: c.execute(sa.update(schema.workers).values(last_seen=ago)))
    for worker in list(api.desk._seen._items):
        api.desk._seen.forget(worker)  # as after a quarter of its row's time
    await remote.do("renewTasks", leases=[of(run)])
    [seen] = await api.db.read(lambda c: list(c.execute(sa.select(schema.workers.c.last_seen))))
    assert seen.last_seen > ago


async def test_what_a_type_knows_of_retries(api: Api, remote: Remote) -> None:
    """`retries` holds for tasks that name no number, from their first claim on."""
    await api.create(type="ONCE")
    [run] = await remote.claim(types=["ONCE"], retries=[{"type": "ONCE", "maxRetries": 0}])
    assert run["maxRetries"] == 0
    await remote.do("failTask", **of(run), message="m")
    assert (await task(api, run))["status"] == "FAILED"


async def test_the_largest_answer(api: Api, remote: Remote) -> None:
    """A claim of many large payloads comes through."""
    for _ in range(4):
        await api.create(payload={"x": "y" * (PAYLOAD_LIMIT - 10)})
    runs = await remote.claim(max=100)
    assert len(json.dumps(runs)) > 4 * (PAYLOAD_LIMIT - 10)
