"""What the API counts of itself: operations, errors, their time; and that no client makes the series many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from taskmill.api.feed import Dropped, Ended
from taskmill.api.meter import CODES, begin
from taskmill.api.options import ApiOptions, LimitOptions
from taskmill.api.schema.build import build_schema
from taskmill.errors import Unauthenticated, Unavailable
from taskmill.runtime.probes import Probes
from taskmill.tasks import cancel, read
from tests.api.kit import Api, running
from tests.api.test_live import following, stream
from tests.support import wait_until

UPDATES = "subscription($id: ID) { taskUpdated(taskId: $id) { id } }"


class Seen:
    """What an API has counted since this was made."""

    def __init__(self, api: Api) -> None:
        self._probes = api.mill.probes
        self._before = self._values()

    def requests(self) -> dict[tuple[str, str], float]:
        """How many operations, by name and outcome."""
        return {(labels[0], labels[1]): n for labels, n in self._new("api_requests_total").items()}

    def errors(self) -> dict[str, float]:
        return {labels[0]: n for labels, n in self._new("api_errors_total").items()}

    def timed(self) -> dict[str, float]:
        """How many operations of each name have a time."""
        return {labels[0]: n for labels, n in self._new("api_request_seconds_count").items()}

    def _new(self, name: str) -> dict[tuple[str, ...], float]:
        after = self._values()
        return {
            key[1:]: n - self._before.get(key, 0)
            for key, n in after.items()
            if key[0] == name and n != self._before.get(key, 0)
        }

    def _values(self) -> dict[tuple[str, ...], float]:
        return {
            (sample.name, *sample.labels.values()): sample.value
            for metric in self._probes.registry.collect()
            if metric.name.startswith("api_")
            for sample in metric.samples
        }


@pytest.fixture
async def seen(api: Api) -> Seen:
    return Seen(api)


async def test_an_operation_is_counted_by_its_field_and_timed(api: Api, seen: Seen) -> None:
    """Whatever its document calls it: an alias and an operation name are the client's."""
    await api.ok("query Mine { who: me { id } }")
    assert seen.requests() == {("me", "ok"): 1}
    assert (seen.timed(), seen.errors()) == ({"me": 1}, {})


def test_every_code_and_every_outcome_starts_at_zero() -> None:
    """So that a rate sees the first error, and the first failure beside the successes: a share of both."""
    probes = Probes()
    begin(probes, build_schema(introspection=False)._schema)
    value = probes.registry.get_sample_value
    assert {value("api_errors_total", {"code": code}) for code in CODES} == {0}
    for operation in ("me", "createTask", "taskUpdated", "other"):
        for outcome in ("ok", "refused", "failed"):
            assert value("api_requests_total", {"operation": operation, "outcome": outcome}) == 0


async def test_an_api_begins_with_them(api: Api) -> None:
    """Before its first request."""
    assert 'operation="retryTask",outcome="failed"} 0.0' in (await api.http.get("/metrics")).text


async def test_what_is_refused_is_the_callers_fault(api: Api, seen: Seen) -> None:
    """Without a login, and for a task that is not there."""
    await api.fails("{ me { id } }", token="")
    await api.fails('mutation { cancelTask(id: "nope") { id } }')
    assert seen.requests() == {("me", "refused"): 1, ("cancelTask", "refused"): 1}
    assert seen.errors() == {"UNAUTHENTICATED": 1, "NOT_FOUND": 1}


async def test_what_fails_is_ours(api: Api, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of the database, and a bug."""
    for error in (Unavailable("away"), ValueError("a bug")):

        def broken(*_: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(read, "task", broken)
        with capture_logs():
            await api.call('{ task(id: "00000000-0000-7000-8000-000000000000") { id } }')
    assert seen.requests()["task", "failed"] == 2
    assert seen.errors() == {"UNAVAILABLE": 1, "INTERNAL": 1}


async def test_an_operation_that_takes_too_long_has_failed(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TIMEOUT, though it never had a result."""

    async def waiting(*_: Any) -> Any:
        await asyncio.sleep(10)

    monkeypatch.setattr(cancel, "cancel", waiting)
    async with running(store_url, options=ApiOptions(development=True, request_timeout=0.1)) as api:
        await api.register("ann")
        seen = Seen(api)
        await api.fails('mutation { cancelTask(id: "00000000-0000-7000-8000-000000000000") { id } }')
        assert (seen.requests(), seen.errors()) == ({("cancelTask", "failed"): 1}, {"TIMEOUT": 1})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", "BAD_REQUEST"),
        (b'{"query":"query a{me{id}}","operationName":"c"}', "BAD_REQUEST"),
        (b'{"query":"{"}', "GRAPHQL_PARSE_FAILED"),
        (b'{"query":"{ nothing }"}', "GRAPHQL_VALIDATION_FAILED"),
        (b'{"query":"{ me { id } __typename }"}', None),
        (b'{"query":"{ ...F } fragment F on Query { me { id } }"}', None),
    ],
    ids=["no operation", "no such operation", "no document", "no such field", "two fields", "a fragment"],
)
async def test_what_is_not_one_field_is_other(api: Api, seen: Seen, body: bytes, code: str | None) -> None:
    """Each is counted once, by whoever refused it."""
    await api.post(body)
    outcome = "ok" if code is None else "refused"
    assert seen.requests() == {("other", outcome): 1}
    assert seen.errors() == ({} if code is None else {code: 1})


async def test_what_http_refuses_is_counted(api: Api, seen: Seen) -> None:
    """Another host, another method, another path."""
    await api.http.get("/graphql")
    await api.http.get("/elsewhere")
    assert seen.requests()["other", "refused"] == 2
    assert seen.errors() == {"BAD_REQUEST": 1, "NOT_FOUND": 1}


async def test_health_and_metrics_are_no_operations(api: Api, seen: Seen) -> None:
    """Probes come all the time: they would hide what clients see."""
    await api.http.get("/health")
    await api.http.get("/metrics")
    assert seen.requests() == {}


async def test_a_subscription_counts_when_it_ends_and_has_no_time(api: Api, seen: Seen) -> None:
    """However many events it had."""
    async with api.socket() as socket:
        await socket.subscribe(UPDATES)
        await wait_until(lambda: api.feed.following == 1)
        await api.create()
        await socket.next()
        assert ("taskUpdated", "ok") not in seen.requests()
    await wait_until(lambda: seen.requests().get(("taskUpdated", "ok")) == 1)
    assert (seen.timed().get("taskUpdated", 0), seen.errors()) == (0, {})


@pytest.mark.parametrize(
    ("end", "outcome", "errors"),
    [
        (Dropped("It reads too slowly."), "refused", {"UNAVAILABLE": 1}),
        (Ended("The server stops."), "ok", {}),
        (Unauthenticated("The login has ended."), "refused", {"UNAUTHENTICATED": 1}),
        (Unavailable("No answer."), "failed", {"UNAVAILABLE": 1}),
    ],
    ids=["too slow", "a stop", "no login any more", "an outage"],
)
@pytest.mark.parametrize("over", ["websocket", "sse"])
async def test_how_a_subscription_ends(
    api: Api, seen: Seen, over: str, end: Any, outcome: str, errors: dict[str, int]
) -> None:
    """Alike over both: a slow reader is no failure of ours, nor is a restart."""
    async with AsyncExitStack() as stack:
        if over == "sse":
            events = await stack.enter_async_context(stream(api, "subscription { taskUpdated { id } }"))
        else:
            socket = await stack.enter_async_context(api.socket())
            await socket.subscribe("subscription { taskUpdated { id } }")
        await following(api)
        [client] = api.feed._clients
        client.end(end)
        if over == "sse":
            assert (await anext(events))["errors"][0]["extensions"]["code"] == end.code
        await wait_until(lambda: sum(seen.requests().values()) == 1)
    assert (seen.requests(), seen.errors()) == ({("taskUpdated", outcome): 1}, errors)


async def test_an_error_on_a_socket_counts_once(api: Api, seen: Seen) -> None:
    """Though a stream's last result is looked at twice."""
    async with api.socket() as socket:
        await socket.subscribe('mutation { cancelTask(id: "nope") { id } }', id="2")
        while (await socket.receive())["id"] != "2":
            pass
        await wait_until(lambda: ("cancelTask", "refused") in seen.requests())
    assert seen.errors() == {"NOT_FOUND": 1}


async def test_calls_over_a_limit_are_counted(store_url: str) -> None:
    """Over HTTP and on a WebSocket."""
    limits = LimitOptions(anonymous=2)
    async with running(store_url, options=ApiOptions(development=True, limits=limits)) as api:
        seen = Seen(api)
        async with api.socket(init={}) as socket:
            await socket.subscribe("{ me { id } }", id="1")
            await socket.receive()
            await socket.subscribe("{ me { id } }", id="2")
            await wait_until(lambda: seen.errors().get("RATE_LIMITED") == 1)
        await api.call("{ me { id } }", token="")
        assert seen.errors()["RATE_LIMITED"] == 2
        assert seen.requests() == {("me", "refused"): 1, ("other", "refused"): 2}


async def test_no_client_makes_the_series_many(api: Api, seen: Seen) -> None:
    """1,000 operation names, fields, aliases, types of GraphQL, hosts and paths: as many series as the schema has fields."""
    bodies = [
        body
        for n in range(0, 1000, 20)
        for body in (
            _operation(
                f"query n{n}", (f"a{m}: me {{ id }}" for m in range(n, n + 20)), operationName=f"n{n}"
            ),
            {"query": f"{{ field{n} }}"},
            {"query": f"{{ me {{ id ... on T{n} {{ x }} }} }}"},
        )
    ]
    async with api.socket() as socket:
        for body in bodies:
            await socket.send({"id": "1", "type": "subscribe", "payload": body})
            while (await socket.receive())["type"] not in ("complete", "error"):
                pass
    for n in range(20):
        await api.post(bodies[n])
        await api.http.get(f"/path{n}", headers={"Host": f"host{n}"})
    schema = build_schema(introspection=True)._schema
    roots = [schema.query_type, schema.mutation_type, schema.subscription_type]
    fields = {name for root in roots if root is not None for name in root.fields}
    assert {operation for operation, _ in seen.requests()} <= fields | {"other"}
    assert set(seen.errors()) <= CODES
    assert sum(seen.requests().values()) == len(bodies) + 40


def _operation(head: str, fields: Iterator[str], **more: str) -> dict[str, str]:
    return {"query": f"{head} {{ {' '.join(fields)} }}", **more}
