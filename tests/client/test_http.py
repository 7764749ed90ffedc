"""What the client does when an API, or what is before it, does not answer as it should."""

from __future__ import annotations

import pytest

from taskmill.client import Client
from taskmill.client.http import error_of
from taskmill.errors import CommitUnknown, ConfigError, Conflict, RateLimited, TaskmillError, Unavailable
from taskmill.model.backoff import Backoff
from tests.client.kit import DROP, ME, answer, refusal, scripted
from tests.support import free_port

FOUND = answer({"data": {"me": ME}})
TIME = "2026-01-01T00:00:00.000Z"
DONE = {
    "id": "7",
    "title": "t",
    "type": None,
    "queue": "default",
    "status": "COMPLETED",
    "priority": "NORMAL",
    "attempts": 1,
    "maxRetries": 3,
    "progress": 1.0,
    "error": None,
    "createdAt": TIME,
    "updatedAt": TIME,
    "scheduledAt": None,
    "startedAt": TIME,
    "completedAt": TIME,
    "cancelRequestedAt": None,
    "description": None,
    "payload": None,
    "result": 5,
}


@pytest.mark.parametrize(
    "first",
    [DROP, answer(b"Bad Gateway", status=502), refusal("UNAVAILABLE", status=503), refusal("UNAVAILABLE")],
    ids=["dropped", "gateway", "refused", "field"],
)
async def test_a_question_is_asked_again(first: bytes) -> None:
    """A query that got no answer, or an UNAVAILABLE, is sent again within the time limit."""
    async with scripted(first, FOUND) as api, Client(api.url, timeout=10) as client:
        assert (await client.me()).email == ME["email"]
        assert len(api.requests) == 2


@pytest.mark.parametrize("first", [DROP, answer(b"Bad Gateway", status=502)], ids=["dropped", "gateway"])
async def test_what_may_have_been_done_is_not_sent_again(first: bytes) -> None:
    """A mutation without an answer is CommitUnknown at once: a task must not be submitted twice by the client."""
    async with scripted(first, refusal("CONFLICT")) as api, Client(api.url, timeout=10) as client:
        with pytest.raises(CommitUnknown, match="may or may not"):
            await client.create_task("A task")
        assert len(api.requests) == 1


async def test_what_the_api_said_of_a_mutation_is_passed_on() -> None:
    """An UNAVAILABLE that answers a mutation comes out as the API worded it."""
    async with scripted(refusal("UNAVAILABLE", message="later")) as api, Client(api.url) as client:
        with pytest.raises(Unavailable, match="later") as caught:
            await client.create_task("A task")
        assert type(caught.value) is Unavailable


async def test_what_was_refused_for_its_rate_is_sent_when_it_may() -> None:
    """RATE_LIMITED waits for Retry-After and tries again, mutations too: nothing was done."""
    refused = refusal("RATE_LIMITED", status=429, Retry_After="1")
    async with scripted(refused, refusal("CONFLICT")) as api, Client(api.url, timeout=20) as client:
        with pytest.raises(Conflict):
            await client.create_task("A task")
        assert len(api.requests) == 2


async def test_a_rate_limit_beyond_the_time_limit_is_told_at_once() -> None:
    """A Retry-After that the call cannot wait for is RateLimited, and no second request."""
    async with (
        scripted(refusal("RATE_LIMITED", status=429, Retry_After="60")) as api,
        Client(api.url, timeout=5) as client,
    ):
        with pytest.raises(RateLimited) as caught:
            await client.me()
        assert caught.value.retry_after == 60
        assert len(api.requests) == 1


async def test_nobody_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing listens the client tries until its time is up; a mutation too, and then it is known to be not done."""
    # The next try would come after the end of the time, so that no clock decides.
    monkeypatch.setattr("taskmill.client.http.BACKOFF", Backoff(base=1e9, cap=1e9))
    async with Client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unavailable, match="cannot be reached") as caught:
            await client.create_task("A task")
        assert not isinstance(caught.value, CommitUnknown)


async def test_a_wait_sits_out_an_outage() -> None:
    """As long as its timeout allows, however short that of a call is; without one it is as any call."""
    done = answer({"data": {"task": DONE}})
    async with scripted(DROP, DROP, done) as api, Client(api.url, patient=False) as client:
        with pytest.raises(Unavailable, match="did not answer"):
            await client.wait("7", timeout=None)
        assert (await client.wait("7", timeout=60)).result == 5
        assert len(api.requests) == 4


async def test_another_server_is_named_as_such() -> None:
    """An answer that no Taskmill would give says that the URL may be wrong."""
    async with scripted(answer(b"<html>", status=404)) as api, Client(api.url) as client:
        with pytest.raises(TaskmillError, match="is the URL right"):
            await client.me()


async def test_what_cannot_be_read_is_told() -> None:
    """An answer of another form is a TaskmillError that names the place, not a KeyError."""
    async with scripted(answer({"data": {"me": {**ME, "role": 5}}})) as api, Client(api.url) as client:
        with pytest.raises(TaskmillError, match="role"):
            await client.me()


async def test_what_a_newer_api_adds_is_left_aside() -> None:
    """Fields that this version does not know are no error."""
    async with scripted(answer({"data": {"me": {**ME, "more": 5}}})) as api, Client(api.url) as client:
        assert (await client.me()).name == "A"


def test_a_code_without_a_class_keeps_its_name() -> None:
    """A code of a newer API is a TaskmillError with that code; anything else that is no error is INTERNAL."""
    assert error_of([{"message": "m", "extensions": {"code": "NEW"}}]).code == "NEW"
    assert TaskmillError.code == "INTERNAL"
    odds: tuple[object, ...] = ([], [None], None, [{}], "x")
    for odd in odds:
        assert error_of(odd).code == "INTERNAL"


@pytest.mark.parametrize(
    "url",
    ["", "localhost:3000", "ftp://a", "http://", "http://u:p@a", "http://a/?q", "http://a/#f", "http://a:x"],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    """The message says what is expected and repeats nothing: a URL may hold a secret."""
    with pytest.raises(ConfigError, match=r"http://localhost:3000|TASKMILL_API_URL") as caught:
        Client(url)
    assert "u:p" not in str(caught.value)
