"""`taskmill probe`: what a container asks itself, against the servers of a worker and of an api."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from taskmill.cli import main
from taskmill.cli.probe import addresses
from taskmill.runtime.probes import Probes, ProbeServer
from tests.support import free_port

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def service(reason: str | None = None) -> AsyncIterator[int]:
    """The port of a process that is not ready for this reason."""
    server = ProbeServer(Probes(), "127.0.0.1", 0, lambda: reason)
    await server.bind()
    running = asyncio.create_task(server.run())
    yield server.port
    server.stop()
    await running


async def probe(*words: str) -> int:
    return await asyncio.to_thread(main, ["probe", *words])


@pytest.mark.parametrize("words", [(), ("live",), ("ready",), ("LIVE",)])
async def test_it_says_what_the_service_says(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Live when nothing is asked; and status 0."""
    async with service() as port:
        monkeypatch.setenv("TASKMILL_METRICS_PORT", str(port))
        assert await probe(*words) == 0
    assert capsys.readouterr().out == f"{words[0].lower() if words else 'live'}\n"


async def test_a_service_that_is_not_ready_is_live(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its reason is the line of the error: an orchestrator shows it."""
    async with service("no database") as port:
        monkeypatch.setenv("TASKMILL_METRICS_PORT", str(port))
        assert await probe("live") == 0
        assert await probe("ready") == 1
    assert capsys.readouterr().err == "taskmill: not ready: no database\n"


async def test_an_api_is_asked_at_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image sets TASKMILL_METRICS_PORT for every process, and an api does not listen there."""
    async with service() as port:
        monkeypatch.setenv("TASKMILL_METRICS_PORT", str(free_port()))
        monkeypatch.setenv("PORT", str(port))
        assert await probe() == 0


@pytest.mark.parametrize("words", [(), ("ready",)])
async def test_nothing_there(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends at once with the status of what is away."""
    port = free_port()
    monkeypatch.setenv("PORT", str(port))
    assert await probe(*words) == 3
    assert capsys.readouterr().err == f"taskmill: nothing listens at 127.0.0.1:{port}\n"


async def test_what_is_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Something else at that port, which closes without a word."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        monkeypatch.setenv("PORT", str(server.sockets[0].getsockname()[1]))
        assert await probe() != 0
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_another_question(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong word is a wrong option."""
    assert await probe("healthy") == 2
    assert "expected one of LIVE, READY" in capsys.readouterr().err


def test_where_it_asks() -> None:
    """As the image sets it; by default; and at an address of its own."""
    image = {"TASKMILL_METRICS_HOST": "0.0.0.0", "TASKMILL_METRICS_PORT": "9464", "TASKMILL_HOST": "::"}
    assert addresses(image) == [("127.0.0.1", 9464), ("::1", 3000)]
    assert addresses({}) == [("127.0.0.1", 3000)]
    assert addresses({"TASKMILL_HOST": "10.0.0.7", "PORT": "80"}) == [("10.0.0.7", 80)]


def test_it_imports_little() -> None:
    """Every container runs it every few seconds: neither options nor settings are loaded for it."""
    code = "import sys; from taskmill.cli import main; main(['probe']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={"PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert {"cyclopts", "pydantic", "structlog", "starlette"} & {*done.stdout.split()} == set()
    assert "taskmill.cli.probe" in done.stdout.split()
