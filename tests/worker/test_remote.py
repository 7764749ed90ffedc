"""RemoteSource: a worker's tasks over HTTP, from a real API, through connections that lose answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import httpx2
import pytest

from taskmill.api.identity import Role
from taskmill.errors import BadUserInput, ConfigError, StartError, TaskmillError, Unavailable
from taskmill.model.clock import boottime
from taskmill.model.ids import id_text, new_id, parse_id
from taskmill.model.state import Priority
from taskmill.model.task import Claimed, Ended, HandlerSpec, NewTask, Outcome, Registry, Renewal
from taskmill.worker import remote
from taskmill.worker.options import WorkerOptions
from taskmill.worker.remote import RemoteOptions, RemoteSource
from taskmill.worker.supervisor import Supervisor
from tests.api.kit import Api, running
from tests.databases import MigratedStores
from tests.support import wait_until
from tests.worker.conftest import MakeApp

DONE = Outcome(Ended.SUCCEEDED, result='{"big":123456789012345678901234567890,"f":1.0}')
REGISTRY = Registry((HandlerSpec("T", max_retries=7), HandlerSpec(None)))


class Line(httpx2.AsyncBaseTransport):
    """A connection with faults: each is a function of a request, asked before it is sent or after it was answered."""

    def __init__(self) -> None:
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)
        self.before: Callable[[str], httpx2.Response | None] = lambda _: None
        self.after: Callable[[str], Any] = lambda _: None
        self.calls: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        document = json.loads(request.content)["query"]
        call = document.partition("{ ")[2].partition("(")[0]
        self.calls.append(call)
        early = self.before(call)
        if early is not None:
            return early
        response = await self._inner.handle_async_request(request)
        await response.aread()
        fault = self.after(call)
        if fault is not None:
            await fault
        return response

    def lose(self, call: str) -> None:
        """The next answer of such a call gets lost on its way."""

        async def gone() -> None:
            raise httpx2.ReadError("connection reset by peer")

        def once(said: str) -> Any:
            if said != call:
                return None
            self.after = lambda _: None
            return gone()

        self.after = once

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.fixture(scope="module")
async def served(
    migrated_stores: MigratedStores, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    """One API for all tests, with a worker's login."""
    with migrated_stores.lend("sqlite", tmp_path_factory.mktemp("remote")) as url:
        async with running(url) as api:
            await api.register("user")
            await api.enlist("worker", Role.WORKER)
            yield api


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
async def source(served: Api, line: Line) -> AsyncIterator[RemoteSource]:
    """A worker of a queue that only this test uses."""
    queue = f"q{new_id().hex()}"
    options = RemoteOptions(served.base, served.tokens["worker"], (queue,), 5, "r1", "1")
    source = RemoteSource(options, rng=Random(1), transport=line)
    await source.connect()
    await source.start(REGISTRY)
    yield source
    line.before, line.after = lambda _: None, lambda _: None
    await source.close()
    await source.disconnect()


async def create(api: Api, source: RemoteSource, n: int = 1, **given: Any) -> list[str]:
    made = [await api.create(queue=source._options.queues[0], type="T", **given) for _ in range(n)]
    return [task["id"] for task in made]


async def seen(api: Api, run: Claimed, fields: str = "status attempts") -> Any:
    data = await api.ok(f"query($id: ID!) {{ task(id: $id) {{ {fields} }} }}", id=id_text(run.id))
    return data["task"]


async def test_the_way_of_a_task(served: Api, source: RemoteSource) -> None:
    """Claim, renew, settle: texts of JSON pass as they are, a lease ends when the API's would."""
    payload = '{"big": 123456789012345678901234567890, "text": "ü"}'
    [task] = await create(served, source, payload=json.loads(payload), priority="HIGH")
    sent = boottime()
    [run] = await source.claim(5, suspects=0, wait=5.0)
    assert (run.id, run.fence, run.attempts, run.type, run.max_retries) == (parse_id(task), 1, 1, "T", 7)
    assert json.loads(run.payload) == json.loads(payload)
    assert sent + 30 <= run.deadline <= boottime() + 30
    renewed = await source.renew([Renewal(run.id, run.fence, 0.5), Renewal(run.id, 9)])
    assert renewed.held == {(run.id, 1)}
    assert renewed.lost == {(run.id, 9)}
    assert sent + 30 <= renewed.deadline <= boottime() + 30
    assert await source.settle([(run, DONE)]) == [True]
    result = (await seen(served, run, "result"))["result"]
    assert result == json.loads(DONE.result or "")


async def test_a_lease_does_not_begin_before_the_claim(served: Api, source: RemoteSource) -> None:
    """What the request waited at the API for work is not taken off the lease."""
    asked = boottime()
    claiming = asyncio.create_task(source.claim(5, suspects=0, wait=20.0))
    await wait_until(lambda: any(post.busy and post.waiter for post in served.desk._posts.values()))
    await asyncio.sleep(0.5)
    await create(served, source)
    [run] = await claiming
    assert asked + 30.5 <= run.deadline <= boottime() + 30


async def test_a_worker_runs_its_app(served: Api, make_app: MakeApp) -> None:
    """The supervisor with this source: results, retries, logs, progress and what a handler submits."""
    app = make_app(
        """
        @app.task("GO")
        async def go(ctx, payload):
            if ctx.attempt == 1:
                raise Retry("not yet", after=0)
            ctx.log("info", "hello", n=1)
            ctx.progress(0.5)
            return await ctx.submit(title="next", type="NEXT", queue=payload["queue"])

        @app.task("NEXT")
        def next_(ctx, payload):
            return "there"
        """
    )
    queue = f"q{new_id().hex()}"
    source = RemoteSource(RemoteOptions(served.base, served.tokens["worker"], (queue,), 5, "app", "1"))
    lease = await source.connect()
    supervisor = Supervisor(source, WorkerOptions(app=app, queues=(queue,), lease=lease))
    work = asyncio.create_task(supervisor.run())
    try:
        made = await served.create(queue=queue, type="GO", payload={"queue": queue})
        fields = "status attempts result runs { outcome worker } logs { message fields }"
        query = f"query($id: ID!) {{ task(id: $id) {{ {fields} }} }}"

        async def retried() -> bool:
            task = (await served.ok(query, id=made["id"]))["task"]
            return bool(task["status"] == "PENDING")

        await wait_until(retried)
        await served.ok(
            "mutation($id: ID!) { updateTask(id: $id, input: {scheduledAt: null}) { id } }", id=made["id"]
        )

        async def done() -> Any:
            task = (await served.ok(query, id=made["id"]))["task"]
            return task if task["status"] == "COMPLETED" and task["logs"] else None

        task = await wait_until(done)
        assert task["logs"] == [{"message": "hello", "fields": {"n": 1}}]
        assert [r["outcome"] for r in task["runs"]] == ["SUCCEEDED", "FAILED"]
        assert {r["worker"] for r in task["runs"]} == {"app"}

        async def followed() -> bool:
            data = await served.ok(query, id=task["result"])
            return bool(data["task"]["result"] == "there")

        await wait_until(followed)
    finally:
        supervisor.stop()
        await asyncio.wait_for(work, 20)
        await source.disconnect()


# ---- answers that are lost ------------------------------------------------------------------------------------------


async def test_a_claim_whose_answer_was_lost(served: Api, source: RemoteSource, line: Line) -> None:
    """The next one asks under the same operation, and gets these tasks: none waits for its lease to run out."""
    tasks = await create(served, source, 2)
    line.lose("claimTasks")
    with pytest.raises(Unavailable, match="reset by peer"):
        await source.claim(5, suspects=0, wait=0.0)
    await create(served, source)
    runs = await source.claim(5, suspects=0, wait=5.0)
    assert sorted(id_text(run.id) for run in runs) == sorted(tasks)
    assert {(run.fence, run.attempts) for run in runs} == {(1, 1)}
    [other] = await source.claim(5, suspects=0, wait=5.0)
    assert other.id not in {run.id for run in runs}


async def test_a_claim_whose_answer_was_lost_and_then_a_halt(
    served: Api, source: RemoteSource, line: Line
) -> None:
    """Nobody asks again: what it brought goes back, without a spent attempt."""
    await create(served, source, 2)
    line.lose("claimTasks")
    with pytest.raises(Unavailable, match="reset by peer"):
        await source.claim(5, suspects=0, wait=0.0)
    await source.halt()
    other = RemoteSource(source._options)
    runs = await other.claim(5, suspects=0, wait=5.0)
    assert [(run.fence, run.attempts) for run in runs] == [(2, 1), (2, 1)]
    await other.disconnect()


async def test_a_settle_whose_answer_was_lost(served: Api, source: RemoteSource, line: Line) -> None:
    """Sent again, all of it is recorded, once; what is stale is told apart."""
    await create(served, source, 3)
    runs = await source.claim(3, suspects=0, wait=5.0)
    failed = Outcome(Ended.FAILED, error_type="E", message="m", traceback="t", retry=False, after=1.5)
    stale = Claimed(**{f: getattr(runs[2], f) for f in Claimed.__slots__} | {"fence": 9})
    batch = [(runs[0], DONE), (runs[1], failed), (stale, DONE)]
    line.lose("settleTasks")
    with pytest.raises(Unavailable):
        await source.settle(batch)
    assert await source.settle(batch) == [True, True, False]
    assert [(await seen(served, run))["status"] for run in runs] == ["COMPLETED", "FAILED", "PROCESSING"]


async def test_a_submit_whose_answer_was_lost(served: Api, source: RemoteSource, line: Line) -> None:
    """It is sent again by itself, and is there once."""
    await create(served, source)
    [run] = await source.claim(1, suspects=0, wait=5.0)
    line.lose("submitTasks")
    queue = source._options.queues[0]
    [made] = await source.submit([NewTask(b"", "next", '{"a":1}', queue=queue)], (run.id, run.fence))
    assert line.calls.count("submitTasks") == 2
    [other] = await source.claim(5, suspects=0, wait=5.0)
    assert (other.id, other.title, other.payload) == (made, "next", '{"a":1}')


async def test_a_claim_is_taken_back(served: Api, source: RemoteSource, line: Line) -> None:
    """When poked or halted while its answer is on the way: what it brought comes with another question."""
    [task] = await create(served, source)
    answered = asyncio.Event()

    async def never() -> None:
        answered.set()
        await asyncio.Event().wait()

    line.after = lambda call: never() if call == "claimTasks" and not answered.is_set() else None
    claiming = asyncio.create_task(source.claim(5, suspects=0, wait=20.0))
    async with asyncio.timeout(15):
        await answered.wait()
        source.poke()
        [run] = await claiming
    assert (id_text(run.id), run.fence) == (task, 1)


async def test_a_poke_and_a_halt_end_a_claim_that_waits(
    served: Api, source: RemoteSource, line: Line
) -> None:
    """[] at once; after a halt nothing is claimed, and the API lets others have what comes."""
    for end in (source.poke, source.halt):
        before = line.calls.count("claimTasks")
        claiming = asyncio.create_task(source.claim(5, suspects=0, wait=20.0))
        await wait_until(lambda before=before: line.calls.count("claimTasks") > before)  # type: ignore[misc]
        async with asyncio.timeout(15):
            ended = end()
            if ended is not None:
                await ended
            assert await claiming == []
    assert await source.claim(5, suspects=0, wait=20.0) == []
    [task] = await create(served, source)
    other = RemoteSource(source._options)
    [run] = await other.claim(5, suspects=0, wait=5.0)
    assert (id_text(run.id), run.attempts) == (task, 1)
    await other.disconnect()


# ---- an API that is away, or says no ----------------------------------------------------------------------------------


def answer(status: int, body: Any, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.Response(status, content=content, headers=named)


def error(code: str) -> dict[str, Any]:
    return {"data": None, "errors": [{"message": "said so", "extensions": {"code": code}}]}


AWAY = [
    answer(502, b"<html>Bad Gateway</html>"),
    answer(503, error("UNAVAILABLE")),
    answer(429, error("RATE_LIMITED"), retry_after="0"),
    answer(200, error("TIMEOUT")),
]


@pytest.mark.parametrize("said", AWAY, ids=lambda said: str(said.status_code))
async def test_what_passes_is_unavailable(source: RemoteSource, line: Line, said: httpx2.Response) -> None:
    """A worker tries again, as during an outage of SQL."""
    line.before = lambda _: said
    for call in (
        source.claim(1, suspects=0, wait=0.0),
        source.renew([Renewal(new_id(), 1)]),
        source.settle([(_run(), DONE)]),
    ):
        with pytest.raises(Unavailable):
            await call


async def test_what_does_not_pass_is_an_error(source: RemoteSource, line: Line) -> None:
    """By its code; an answer that is none of Taskmill's says to look at the URL."""
    line.before = lambda _: answer(200, error("BAD_USER_INPUT"))
    with pytest.raises(BadUserInput, match="said so"):
        await source.settle([(_run(), DONE)])
    for said, told in (
        (answer(404, b"not here"), "is the URL right"),
        (answer(200, {"data": None}), "without data"),
    ):
        line.before = lambda _, said=said: said  # type: ignore[misc]
        with pytest.raises(TaskmillError, match=told):
            await source.renew([Renewal(new_id(), 1)])


async def test_what_breaks_the_api(source: RemoteSource, line: Line) -> None:
    """INTERNAL: calls are tried again as in an outage, but outcomes one by one, for one of them may be the reason."""
    line.before = lambda _: answer(500, error("INTERNAL"))
    for call in (source.claim(1, suspects=0, wait=0.0), source.renew([Renewal(new_id(), 1)])):
        with pytest.raises(Unavailable, match="said so"):
            await call
    with pytest.raises(TaskmillError, match="said so") as raised:
        await source.settle([(_run(), DONE)])
    assert not isinstance(raised.value, Unavailable)


async def test_leases_hold_as_long_as_the_api_says(source: RemoteSource, line: Line) -> None:
    """It was restarted with shorter ones: from the next renewal on they count."""
    run = Renewal(new_id(), 1)
    held = {"id": id_text(run.id), "fence": 1, "state": "HELD", "leaseSeconds": 3}
    line.before = lambda _: answer(200, {"data": {"renewTasks": [held]}})
    renewed = await source.renew([run])
    assert renewed.held
    assert renewed.deadline <= boottime() + 3


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "FORBIDDEN", "SOMETHING_NEW"])
async def test_outcomes_are_kept_while_the_key_is_not_taken(
    source: RemoteSource, line: Line, code: str
) -> None:
    """It is no fault of theirs: Unavailable, so that they are sent again, and not taken for results that cannot be kept."""
    line.before = lambda _: answer(200, error(code))
    with pytest.raises(Unavailable, match="said so"):
        await source.settle([(_run(), DONE)])


async def test_who_asks_too_often_keeps_still(source: RemoteSource, line: Line) -> None:
    """For as long as the API says: the next call is not sent before."""
    line.before = lambda _: answer(429, error("RATE_LIMITED"), retry_after="1")
    asked = boottime()
    with pytest.raises(Unavailable):
        await source.settle([(_run(), DONE)])
    calls = len(line.calls)
    line.before = lambda _: None
    await source.settle([(_run(), DONE)])
    assert len(line.calls) == calls + 1
    assert boottime() - asked >= 1.0


@pytest.mark.parametrize("token", ["user", "wrong"])
async def test_a_key_that_is_not_taken(served: Api, token: str) -> None:
    """The worker does not start, and says which setting it is."""
    key = served.tokens.get(token, "tm_wrong000_" + "0" * 43)
    source = RemoteSource(RemoteOptions(served.base, key))
    with pytest.raises(ConfigError, match="TASKMILL_API_KEY"):
        await source.connect()
    await source.disconnect()
    assert key not in repr(source._options)


async def test_an_api_that_is_not_there(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, and not for ever; one that is no Taskmill is told at once."""
    monkeypatch.setattr(remote, "REACH", 0.5)
    source = RemoteSource(RemoteOptions("http://127.0.0.1:9", "key"), transport=line)
    with pytest.raises(StartError, match="TASKMILL_API_URL"):
        await source.connect()
    assert len(line.calls) > 1
    line.before = lambda _: answer(200, b"hello")
    with pytest.raises(StartError, match="is the URL right"):
        await source.connect()
    await source.disconnect()


async def test_a_cancel_comes_at_once(served: Api, source: RemoteSource) -> None:
    """Not only with the next renewal, which tells it too."""
    [task] = await create(served, source)
    [run] = await source.claim(1, suspects=0, wait=5.0)
    listening = asyncio.create_task(source.cancels())
    await wait_until(lambda: served.desk._listening, what="it listens")
    await served.ok("mutation($id: ID!) { cancelTask(id: $id) { status } }", id=task)
    async with asyncio.timeout(15):
        assert await listening == [(run.id, run.fence)]
    assert (await source.renew([Renewal(run.id, run.fence)])).cancelled == {(run.id, run.fence)}


async def test_large_batches_go_in_parts(source: RemoteSource, line: Line) -> None:
    """Bounded by number and by bytes: the API takes bodies of 4 MiB."""
    large = Outcome(Ended.SUCCEEDED, result=json.dumps("x" * 250_000))
    line.calls.clear()
    assert await source.settle([(_run(), large) for _ in range(30)]) == [False] * 30
    assert line.calls == ["settleTasks"] * 3
    line.calls.clear()
    renewed = await source.renew([Renewal(new_id(), 1) for _ in range(1100)])
    assert len(renewed.lost) == 1100
    assert line.calls == ["renewTasks"] * 3


async def test_a_submit_of_a_run_that_is_lost(source: RemoteSource) -> None:
    """STALE, which the handler sees as an error."""
    with pytest.raises(TaskmillError) as caught:
        await source.submit([NewTask(b"", "t", "{}")], (new_id(), 1))
    assert caught.value.code == "STALE"


def _run() -> Claimed:
    return Claimed(
        new_id(), 1, b"", "q", Priority.NORMAL, "T", "t", "{}", 1, None, 0, False, 0, boottime() + 30
    )
