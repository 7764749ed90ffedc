"""A worker of one's own through the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from uuid import uuid4

import pytest

from taskmill.client import Client, Lease, LogLine, NewTask, Outcome, TaskStatus
from taskmill.errors import CommitUnknown, Stale, Unavailable
from tests.api.kit import PASSWORD, running
from tests.client.kit import DROP, SILENCE, answer, scripted

CLAIMED = answer({"data": {"claimTasks": {"tasks": [], "waitedSeconds": 0.0}}})


@pytest.fixture
async def user(store_url: str) -> AsyncIterator[Client]:
    async with running(store_url, first_admin=True) as api, Client(api.base) as client:
        await client.register("ann@example.com", PASSWORD, "Ann")
        yield client


@asynccontextmanager
async def worker_of(user: Client) -> AsyncIterator[tuple[Client, str]]:
    key = await user.create_api_key("worker", "WORKER")
    async with Client(user.endpoint, api_key=key.key) as client:
        yield client, str(uuid4())


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
async def test_the_way_of_a_task(user: Client) -> None:
    """Claim, renew, log, submit, complete: a repeat is the same as once, a fence that is not its own is Stale."""
    made = await user.create_task("A task", type="T", payload={"n": 2**60})
    async with worker_of(user) as (client, worker):
        session = await client.register_worker(worker, name="robot", types=["T", ""], retries={"": 1})
        claims = [
            await client.claim_tasks(worker, wait_seconds=10, operation_id="claim 1", name="robot")
            for _ in "ab"
        ]
        [run], [same] = (claim.tasks for claim in claims)
        assert run == same
        assert (run.id, run.type, run.payload, run.attempt) == (made.id, "T", {"n": 2**60}, 1)
        assert run.lease_seconds == session.lease_seconds
        of = (worker, run.id, run.fence)

        held, lost = await client.renew_tasks(
            worker, [Lease(run.id, run.fence, 0.5), Lease(run.id, run.fence + 1)]
        )
        assert (held.state, lost.state) == ("HELD", "LOST")
        line = LogLine(run.id, run.fence, "half", fields={"n": 1})
        for _ in "ab":
            assert await client.append_logs(worker, [line], operation_id="log 1") == 1
        new = [NewTask(title="a child", queue="other")]
        ids = [await client.submit_tasks(*of, new, operation_id="submit 1") for _ in "ab"]
        assert ids[0] == ids[1]
        assert await client.cancel_signals(worker) == []

        with pytest.raises(Stale):
            await client.complete_task(worker, run.id, run.fence + 1, {"ok": False})
        settled = [await client.complete_task(*of, {"ok": True}) for _ in "ab"]
        assert [one.state for one in settled] == ["RECORDED", "RECORDED"]
        await client.deregister_worker(worker)
    done = await user.wait(made.id)
    assert (done.status, done.result) == (TaskStatus.COMPLETED, {"ok": True})
    assert [(log.message, log.fields) for log in await user.logs(made.id)] == [("half", {"n": 1})]
    assert [task.id async for task in user.tasks(queue="other")] == ids[0]


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
async def test_other_ends_of_runs(user: Client) -> None:
    """A run fails for good, is given back, or is settled among others, where a stale one stops none."""
    made = await user.create_tasks([NewTask(title=f"t{n}") for n in range(3)])
    async with worker_of(user) as (client, worker):
        failed, given_back, ended = (await client.claim_tasks(worker, max=3, wait_seconds=10)).tasks
        await client.fail_task(worker, failed.id, failed.fence, "no", error_type="E", retryable=False)
        await client.release_task(worker, given_back.id, given_back.fence, "DRAIN")
        states = await client.settle_tasks(
            worker,
            [
                Outcome(failed.id, failed.fence + 1, "SUCCEEDED"),
                Outcome(ended.id, ended.fence, "SUCCEEDED", [1]),
            ],
        )
        assert [one.state for one in states] == ["STALE", "RECORDED"]
        with pytest.raises(TypeError, match="slot"):
            await client.claim_tasks(worker, slot=1)  # type: ignore[call-arg]
    found = {task.id: task async for task in user.tasks()}
    assert {failed.id, given_back.id, ended.id} == {task.id for task in made}
    assert (found[failed.id].status, found[failed.id].error) == (TaskStatus.FAILED, "no")
    assert found[given_back.id].attempts == 0
    assert (await user.result(ended.id)) == [1]


async def test_a_claim_is_sent_again_under_its_operation_id_alone() -> None:
    """With one, a lost answer is asked for again; without, it is the caller's to decide."""
    async with scripted(DROP, CLAIMED) as api, Client(api.url, timeout=10) as client:
        assert (await client.claim_tasks("w", operation_id="1")).tasks == []
        first, again = api.requests
        assert first == again
    async with scripted(DROP, CLAIMED) as api, Client(api.url, timeout=10) as client:
        with pytest.raises(CommitUnknown):
            await client.claim_tasks("w")


async def test_a_claim_waits_beside_the_time_out() -> None:
    """An API that was asked to wait has the client's time-out on top of it."""
    async with scripted(SILENCE) as api, Client(api.url, timeout=0.1) as client:
        began = monotonic()
        with pytest.raises(Unavailable, match=r"within 0\.6 s"):
            await client.claim_tasks("w", wait_seconds=0.5, operation_id="1")
        assert monotonic() - began >= 0.5
        assert len(api.requests) == 1
