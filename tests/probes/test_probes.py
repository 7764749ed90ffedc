"""The metrics of a process, and the small server that shows them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskmill.errors import StartError
from taskmill.runtime.probes import LABEL_LIMIT, Probes, ProbeServer
from tests.support import wait_until

SEED = {
    "tasks_created_total": {"priority"},
    "tasks_completed_total": set(),
    "tasks_failed_total": set(),
    "tasks_active": set(),
    "queue_size": {"queue", "priority"},
    "task_duration_seconds_bucket": {"type", "le"},
}


def samples(probes: Probes) -> dict[str, set[str]]:
    """Sample name → names of its labels, as a scrape sees them."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(probes.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_the_metrics_of_the_description_have_their_names() -> None:
    """Each metric that SEED.md names is scraped under exactly that name, with its labels."""
    probes = Probes()
    probes.queue_size.labels("default", "HIGH").set(3)
    probes.task_duration_seconds.labels("VIDEO_PROCESSING").observe(0.2)
    found = samples(probes)
    assert {name: found.get(name) for name in SEED} == SEED


def test_every_priority_starts_at_zero() -> None:
    """`tasks_created_total` has all four series before the first task, so that a rate sees the first one."""
    probes = Probes()
    names = ("CRITICAL", "HIGH", "NORMAL", "LOW")
    values = [probes.registry.get_sample_value("tasks_created_total", {"priority": n}) for n in names]
    assert values == [0.0] * 4


def test_every_verb_that_can_be_stale_starts_at_zero() -> None:
    """The first refused write is a step from 0, which a rate sees; from nothing to 1 it would not."""
    probes = Probes()
    values = [
        probes.registry.get_sample_value("stale_writes_total", {"verb": v})
        for v in ("submit", "settle", "renew")
    ]
    assert values == [0.0] * 3


def test_no_series_of_creation_times() -> None:
    """`…_created` series would double the size of a scrape."""
    assert not [name for name in samples(Probes()) if name.endswith("_created")]


def test_the_process_is_measured_too() -> None:
    """Memory and Python version come with it."""
    assert {"process_resident_memory_bytes", "python_info"} <= set(samples(Probes()))


def test_what_only_some_processes_have_is_no_zero_in_the_others() -> None:
    """Slots, leading, the index and the measures of the leader: no value until there is one."""
    names = {"worker_slots", "scheduler_leading", "index_up", "workers_live", "journal_lag_seconds"}
    probes = Probes()
    assert not names & set(samples(probes))
    probes.worker_slots.set(5)
    probes.scheduler_leading.set_function(lambda: True)
    assert {"worker_slots", "scheduler_leading"} <= set(samples(probes))


def test_two_probes_share_nothing() -> None:
    """Each has a registry of its own: tests and embedded processes do not collide."""
    one, two = Probes(), Probes()
    one.tasks_completed.inc()
    assert two.registry.get_sample_value("tasks_completed_total") == 0


@pytest.mark.parametrize("label", ["queue_label", "type_label"])
def test_labels_are_bounded(label: str) -> None:
    """Names that users choose get a label each up to the limit, then "other"; known ones keep theirs."""
    bounded = getattr(Probes(), label)
    names = [f"q{n}" for n in range(1000)]
    labels = [bounded(name) for name in names]
    assert labels == names[:LABEL_LIMIT] + ["other"] * (1000 - LABEL_LIMIT)
    assert bounded("q0") == "q0"


def test_a_task_without_a_type_is_labelled_none() -> None:
    """It takes none of the bounded names."""
    assert Probes().type_label(None) == "none"


# -- the server ------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(reason: str | None = None) -> AsyncIterator[ProbeServer]:
    server = ProbeServer(Probes(), "127.0.0.1", 0, lambda: reason)
    await server.bind()
    task = asyncio.create_task(server.run())
    try:
        yield server
    finally:
        server.stop()
        await asyncio.wait_for(task, 5)


async def ask(server: ProbeServer, head: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to these bytes; (0, b"") when the connection was just closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(head)
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    status, _, body = answer.partition(b"\r\n\r\n")
    return (int(status.split()[1]) if status else 0), body


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("request_head", "status", "inside"),
    [
        (get("/metrics"), 200, b"tasks_completed_total 0.0"),
        (get("/metrics?x=1"), 200, b"tasks_completed_total 0.0"),
        (get("/live"), 200, b"live"),
        (get("/ready"), 200, b"ready"),
        (get("/live", "HEAD"), 200, b""),
        (get("/elsewhere"), 404, b"/metrics"),
        (get("/metrics", "POST"), 405, b"GET"),
        (b"nonsense\r\n\r\n", 400, b""),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 0, b""),
        (b"\xff\xfe\x00 \r\n\r\n", 400, b""),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_each_request_gets_its_answer(request_head: bytes, status: int, inside: bytes) -> None:
    """Known paths, unknown ones, other methods, and what is no HTTP; the server outlives them all."""
    async with serving() as server:
        got, body = await ask(server, request_head)
        assert (got, inside in body) == (status, True)
        assert (await ask(server, get("/live")))[0] == 200


async def test_ready_says_why_not_and_live_stays() -> None:
    """An outage makes a process not ready, never dead."""
    async with serving("SQL does not answer") as server:
        assert await ask(server, get("/ready")) == (503, b"not ready: SQL does not answer\n")
        assert (await ask(server, get("/live")))[0] == 200


async def test_a_silent_client_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that asks nothing is closed after the time-out."""
    monkeypatch.setattr(ProbeServer, "TIMEOUT", 0.05)
    async with serving() as server:
        assert await ask(server, b"GET /li") == (0, b"")


async def test_many_silent_clients_leave_it_bounded() -> None:
    """Connections above the limit are refused, and served again when others have gone."""
    async with serving() as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(ProbeServer.CLIENTS)]
        assert (await ask(server, get("/live")))[0] == 0
        for _, writer in held:
            writer.close()
        await wait_until(lambda: _is_live(server))


async def _is_live(server: ProbeServer) -> bool:
    return (await ask(server, get("/live")))[0] == 200


async def test_a_taken_port_is_one_clear_line() -> None:
    """The start ends with what to do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            StartError, match=rf"127.0.0.1:{port} \(address already in use\): .*--metrics-port"
        ):
            await ProbeServer(Probes(), "127.0.0.1", port, lambda: None).bind()


async def test_a_failing_readiness_check_leaves_the_server_up(capsys: pytest.CaptureFixture[str]) -> None:
    """One bad answer closes one connection."""

    def broken() -> str | None:
        raise ValueError("no idea")

    server = ProbeServer(Probes(), "127.0.0.1", 0, broken)
    await server.bind()
    task = asyncio.create_task(server.run())
    assert await ask(server, get("/ready")) == (0, b"")
    assert (await ask(server, get("/live")))[0] == 200
    server.stop()
    await asyncio.wait_for(task, 5)
    assert "no idea" in capsys.readouterr().out
