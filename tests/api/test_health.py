"""What monitors, people and browsers find beside /graphql."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from taskmill.api import health
from taskmill.api.options import ApiOptions
from taskmill.errors import IndexUnavailable, Unavailable
from taskmill.index.policy import Evicting
from tests.api.kit import Api, counted, running


@pytest.fixture
async def up(store_url: str) -> Any:
    async with running(store_url, options=ApiOptions(development=True, health_timeout=0.3)) as api:
        yield api


class FakeIndex:
    """An index that answers as it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def health(self) -> dict[str, Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"latency": 0.001, "server": "valkey", "version": "9.1", "warnings": []}


async def get(api: Api, path: str) -> tuple[int, Any]:
    response = await api.http.get(path)
    return response.status_code, response.json()


async def test_no_index(up: Api) -> None:
    """Without an index it works, and says that it is degraded."""
    status, body = await get(up, "/health")
    assert (status, body["status"]) == (200, "degraded")
    assert body["details"]["database"]["status"] == "up"
    assert body["details"]["database"]["latencyMs"] >= 0
    assert body["details"]["queue"]["status"] == "degraded"
    assert (await get(up, "/health/queue"))[0] == 200


async def test_all_well(up: Api) -> None:
    """With both parts answering all is up."""
    up.mill.index = FakeIndex(None)  # type: ignore[assignment]  # health is all that is asked
    status, body = await get(up, "/health")
    assert (status, body["status"]) == (200, "up")
    status, body = await get(up, "/health/queue")
    assert (status, body["status"], body["details"]["server"]) == (200, "up", "valkey")


async def test_index_away(up: Api) -> None:
    """An index that does not answer is degraded: SQL goes on alone. The reason names no host."""
    up.mill.index = FakeIndex(IndexUnavailable("redis://:secret@host"))  # type: ignore[assignment]  # as above
    status, body = await get(up, "/health/queue")
    assert (status, body["status"]) == (200, "degraded")
    assert "secret" not in str(body)


async def test_index_that_may_evict(up: Api) -> None:
    """A server that is refused for its policy is degraded, and the reason says what to set."""
    up.mill.index = FakeIndex(Evicting("maxmemory-policy is allkeys-lru"))  # type: ignore[assignment]  # as above
    status, body = await get(up, "/health/queue")
    assert (status, body["status"]) == (200, "degraded")
    assert body["details"]["reason"] == "maxmemory-policy is allkeys-lru"


async def test_database_away(up: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the database it is down: 503 everywhere."""

    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("no answer")

    monkeypatch.setattr(up.db, "read", away)
    for path in ("/health", "/health/database", "/health/queue"):
        status, body = await get(up, path)
        assert (status, body["status"]) == (503, "down")


@pytest.mark.parametrize("path", ["/live", "/ready"])
async def test_probes_ask_nobody(up: Api, path: str) -> None:
    """An outage of SQL or Redis makes no orchestrator kill processes, or take them out of their Service."""
    with counted() as statements:
        response = await up.http.get(path)
    assert (response.status_code, response.text) == (200, f"{path[1:]}\n")
    assert not statements


async def test_database_slow(up: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that does not come back is given up."""

    async def slow(*_: Any, **__: Any) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(up.db, "read", slow)
    status, body = await get(up, "/health/database")
    assert (status, body["status"]) == (503, "down")


async def test_database_details(up: Api) -> None:
    """The database says what it is."""
    status, body = await get(up, "/health/database")
    assert (status, body["details"]["kind"]) == (200, "sqlite")


async def test_many_ask(up: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask, the parts are asked once a while: an answer holds for a second."""
    monkeypatch.setattr(health, "FRESH", 600.0)
    with counted() as statements:
        answers = await asyncio.gather(*(get(up, path) for path in ["/health", "/health/database"] * 10))
        assert {status for status, _ in answers} == {200}
        await get(up, "/health")
    assert sum(statement.startswith("SELECT") for statement in statements) == 1


async def test_asked_again(up: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that has grown old is not given again."""
    monkeypatch.setattr(health, "FRESH", 0.0)
    assert (await get(up, "/health/database"))[0] == 200
    with counted() as statements:
        assert (await get(up, "/health/database"))[0] == 200
    assert statements


async def test_metrics(up: Api) -> None:
    """/metrics counts what was created, by priority."""
    await up.register("user")
    await up.create(priority="HIGH")
    response = await up.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'tasks_created_total{priority="HIGH"} 1.0' in response.text


class TestPage:
    async def test_development(self, up: Api) -> None:
        """In development a browser gets a page that needs no network, and / leads there."""
        response = await up.http.get("/", headers={"Accept": "text/html"}, follow_redirects=True)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/html")
        assert not re.search(r"""(src|href)=["']?https?:""", response.text)
        policy = response.headers["content-security-policy"]
        assert "unsafe-inline" not in policy
        assert "default-src 'none'" in policy

    async def test_production(self, store_url: str) -> None:
        """In production there is none."""
        async with running(store_url, options=ApiOptions(development=False)) as api:
            assert (await api.http.get("/graphql", headers={"Accept": "text/html"})).status_code == 405
            assert (await api.http.get("/")).status_code == 404

    async def test_examples(self, up: Api) -> None:
        """Every document that the page offers runs."""
        page = (await up.http.get("/graphql", headers={"Accept": "text/html"})).text
        examples = dict(re.findall(r'^  "([\w ]+)": `(.*?)`,$', page, re.DOTALL | re.MULTILINE))
        assert len(examples) == 9
        up.token = (await up.ok(examples.pop("Register")))["register"]["accessToken"]
        task_id = (await up.ok(examples.pop("Create a task")))["createTask"]["id"]
        examples.pop("Follow tasks")
        for name in ("Login", "Tasks", "One task", "Cancel", "Retry", "Statistics"):
            query = examples.pop(name)
            await up.ok(query, **({"id": task_id} if "$id" in query else {}))
        assert not examples
