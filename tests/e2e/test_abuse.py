"""The rule for every row of bad input: sent a hundred times each to one process, it answers alike, lives and does not grow."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.api import bad_input, test_documents, test_http, test_socket, test_tokens
from tests.api.bad_input import Bad
from tests.api.kit import SECRET
from tests.api.service import ENTER, Service, codes, served
from tests.api.test_documents import Case
from tests.api.test_http import Row
from tests.api.wire import QUERY, exchange, request
from tests.databases import MigratedStores
from tests.e2e import wild
from tests.e2e.kit import Client, Site
from tests.support import wait_until

TIMES = 100
AT_ONCE = 8
Probe = Callable[[Service], Awaitable[bool]]
"""Sends one request; whether it was answered as it should be."""


def of_http(row: Row) -> Probe:
    async def send(service: Service) -> bool:
        answer = await exchange(service.port, *row.sent)
        return answer.status in row.statuses and answer.code == row.code

    return send


def of_document(case: Case) -> Probe:
    async def send(service: Service) -> bool:
        headers = {"Authorization": f"Bearer {service.tokens['user']}"}
        answer = await service.http.post("/graphql", json=case.body, headers=headers)
        return answer.status_code in (200, 400) and set(codes(answer)) == {case.code}

    return send


def of_input(row: Bad) -> Probe:
    async def send(service: Service) -> bool:
        answer = await service.post(row.query, row.variables, by=row.by)
        return answer.status_code == 200 and codes(answer) == ([row.code] if row.code else [])

    return send


def of_token(make: test_tokens.Make) -> Probe:
    async def send(service: Service) -> bool:
        credential = f"Bearer {make(service.users['user'])}".encode()
        answer = await exchange(service.port, request(QUERY, b"Authorization: " + credential))
        return (answer.status, answer.code) == (401, "UNAUTHENTICATED")

    return send


def of_login(kind: str, code: str, **given: Any) -> Probe:
    async def send(service: Service) -> bool:
        answer = await service.post(ENTER % (f"{kind.title()}Input", kind), {"i": given}, by="nobody")
        return answer.status_code == 200 and codes(answer) == [code]

    return send


def of_socket(messages: list[Any], close: int) -> Probe:
    async def send(service: Service) -> bool:
        url = f"ws://127.0.0.1:{service.port}/graphql"
        protocols = [Subprotocol("graphql-transport-ws")]
        async with connect(url, subprotocols=protocols, proxy=None, max_queue=None) as connection:
            with suppress(ConnectionClosed):
                for message in messages:
                    known = message == test_socket.INIT
                    sent = {**message, "payload": {"token": service.tokens["user"]}} if known else message
                    await connection.send(json.dumps(sent) if isinstance(sent, dict) else sent)
                while True:
                    await asyncio.wait_for(connection.recv(), 10)
            return connection.close_code == close

    return send


def sample(rows: list[Any], number: Callable[[Any], int], size: Callable[[Any], int]) -> list[Any]:
    """The first of each row of the matrix that is not large: size costs time, and is tested elsewhere."""
    chosen: dict[int, Any] = {}
    for row in rows:
        if size(row) < 10_000:
            chosen.setdefault(number(row), row)
    return list(chosen.values())


def probes() -> dict[str, Probe]:
    found: dict[str, Probe] = {}
    requests = sample(test_http.WHOLE, lambda r: r.number, lambda r: sum(map(len, r.sent)))
    found |= {f"{row.number} {row.name}": of_http(row) for row in requests}
    documents = sample(test_documents.CASES, lambda case: case.row, lambda case: len(case.query))
    found |= {str(case): of_document(case) for case in documents}
    inputs = sample(
        [*bad_input.ROWS, *bad_input.WORKERS], lambda r: r.row, lambda r: len(json.dumps(r.variables))
    )
    found |= {str(row): of_input(row) for row in inputs}
    for row, makes in test_tokens.ROWS.items():
        found |= {f"{row} {name}": of_token(make) for name, make in list(makes.items())[:1]}
    absent = {"email": "absent@example.com", "password": "securepassword"}
    found["64 unknown user"] = of_login("login", "UNAUTHENTICATED", **absent)
    found["64 wrong password"] = of_login(
        "login", "UNAUTHENTICATED", **(absent | {"email": "user@example.com", "password": "wrongpassword"})
    )
    for name in ("subscribe before init", "init twice", "an id twice", "a binary message"):
        found[f"89 {name}"] = of_socket(*test_socket.MISUSED[name])
    return found


@pytest.fixture
async def service(migrated_stores: MigratedStores, tmp_path: Path) -> AsyncIterator[Service]:
    settings = {"JWT_SECRET": SECRET.decode(), "TASKMILL_ALLOWED_HOSTS": "tasks.example.com"}
    with served(migrated_stores, tmp_path, **settings) as (process, port):
        base = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False, timeout=20) as http:
            service = Service(process, port, http)
            await service.furnish()
            yield service


async def send_all(service: Service, times: int) -> Counter[str]:
    """Each `times` times, some at once; how often which one was answered otherwise than it should be."""
    wrong: Counter[str] = Counter()
    waiting = iter([item for item in probes().items() for _ in range(times)])

    async def sender() -> None:
        for name, probe in waiting:
            if not await probe(service):
                wrong[name] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(sender())
    return wrong


@pytest.mark.timeout(180)
async def test_a_hundred_times(service: Service) -> None:
    """A sample of every row: the same answer each time, no 500, no traceback in the log, no memory that stays."""
    assert await send_all(service, 10) == {}
    before = service.resident()
    assert await send_all(service, TIMES - 10) == {}
    service.check()
    assert service.resident() - before < 50
    assert (await service.ok("{ me { id } }"))["me"]


# ---- row 81: what handlers do ---------------------------------------------------------------------------------------


async def test_handlers_that_do_what_none_should(embedded: Site) -> None:
    """Row 81: results that are none and exceptions of every kind fail their run with a bounded, readable error; the worker lives."""
    embedded.start("up", TASKMILL_APP="tests.e2e.wild:app")
    await embedded.ready()
    client = await embedded.client("up")
    kinds = [("RETURNS", what) for what in wild.RETURNED]
    kinds += [(kind, what) for kind in ("RAISES", "RAISES_IN_A_THREAD") for what in wild.RAISED]
    expected = {}
    for kind, what in kinds:
        [task] = await client.create({"what": what}, type=kind)
        expected[task] = "RESULT_INVALID" if kind == "RETURNS" else what
    await client.drained()
    [last] = await client.create({}, type="WELL")
    await wait_until(lambda: ended(client, last), 20, what="the worker goes on")
    found = {}
    for task in expected:
        seen = await client.task(task, "status error attempts runs { errorType traceback }")
        assert (seen["status"], seen["attempts"]) == ("FAILED", 1)
        assert len(seen["error"]) <= 16 * 1024
        assert seen["error"].replace("\n", "").isprintable()
        found[task] = seen["runs"][0]["errorType"]
    assert found == expected
    assert (await client.task(last, "status result")) == {"status": "COMPLETED", "result": "well"}
    await embedded.end()


async def ended(client: Client, task: str) -> bool:
    return await client.status(task) == "COMPLETED"
