"""A real installation for the commands that ask an API, and the commands as processes."""

from __future__ import annotations

import io
import os
import pty
import secrets
import select
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import httpx2
import pytest

from taskmill.cli import main
from tests.support import Process, Processes, clean_environment, free_port

PASSWORD = "a password for tests"
APP = """
import asyncio

from taskmill import Fail, Taskmill

app = Taskmill()


@app.task("ADD")
async def add(ctx, payload: dict):
    ctx.log("info", "adding", a=payload["a"])
    return {"sum": payload["a"] + payload["b"]}


@app.task("BAD")
async def bad(ctx, payload: dict):
    raise Fail("no such thing")


@app.task("SLOW")
async def slow(ctx, payload: dict):
    await asyncio.sleep(60)
"""
REGISTER = "mutation($i: RegisterInput!) { register(input: $i) { accessToken } }"
KEY = "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key } }"


class Installation:
    """`taskmill up` with handlers of its own; its first user is ADMIN, and has a key."""

    def __init__(self, folder: Path) -> None:
        (folder / "cliapp.py").write_text(APP)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes = Processes(folder)
        environment = {
            "PORT": str(self.port),
            "TASKMILL_DATA": str(folder / "data"),
            "TASKMILL_BCRYPT_ROUNDS": "4",
            "TASKMILL_PROCESSES": "1",
            "TASKMILL_DRAIN": "0.1",
            "TASKMILL_INDEX": "none",
        }
        self.up: Process = self.processes.taskmill("up", "--app", "cliapp:app", env=environment)
        self.up.wait_for_output("taskmill is up", 30)
        self.token = self.ask(REGISTER, i={"email": "admin@x.example", "password": PASSWORD, "name": "Ada"})[
            "register"
        ]["accessToken"]
        self.key = self.new_key("ADMIN")

    def ask(self, query: str, **variables: Any) -> Any:
        token = getattr(self, "token", None)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = {"query": query, "variables": variables}
        answer = httpx2.post(f"{self.url}/graphql", json=body, headers=headers, trust_env=False, timeout=20)
        return answer.json()["data"]

    def new_key(self, role: str) -> str:
        made = self.ask(KEY, i={"name": secrets.token_hex(4), "role": role})
        key: str = made["createApiKey"]["key"]
        return key

    def environment(self, **more: str) -> dict[str, str]:
        return {**clean_environment(), "TASKMILL_API_URL": self.url, "TASKMILL_API_KEY": self.key, **more}

    def run(self, *arguments: str, input: str = "", **environment: str) -> Done:
        """The command in this process, away from any terminal."""
        streams = [
            io.TextIOWrapper(io.BytesIO(text), encoding="utf-8") for text in (input.encode(), b"", b"")
        ]
        with (
            mock.patch.dict(os.environ, self.environment(**environment), clear=True),
            mock.patch.object(sys, "stdin", streams[0]),
            redirect_stdout(streams[1]),
            redirect_stderr(streams[2]),
        ):
            status = main(arguments)
        out, err = (_written(stream) for stream in streams[1:])
        return Done(status, out, err)

    def process(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The command as a process, away from any terminal."""
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if "input" not in options else {}
        given |= {"env": self.environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-m", "taskmill", *arguments]
        return subprocess.run(command, text=True, encoding="utf-8", timeout=60, check=False, **given)


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def fork_on_a_terminal() -> tuple[int, int]:
    """`pty.fork`; a bare root without /dev/pts has no terminals to give."""
    try:
        return pty.fork()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here ({error})")


class Screen:
    """A command on a terminal of so many columns."""

    def __init__(self, environment: dict[str, str], columns: int, *arguments: str) -> None:
        self.text = ""
        self.pid, self._terminal = fork_on_a_terminal()
        if self.pid == 0:
            environment = {**environment, "COLUMNS": str(columns), "LINES": "50", "TERM": "xterm-256color"}
            os.execve(sys.executable, [sys.executable, "-m", "taskmill", *arguments], environment)

    def until(self, text: str) -> None:
        """Reads until it shows the text."""
        deadline = time.monotonic() + 30
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            assert self._read(), self.text

    def press_ctrl_c(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def end(self) -> int:
        """The exit status, when it has ended by itself."""
        while self._read():
            pass
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], 30)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"silent for 30 s: {self.text}")
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # Linux: the other end is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)
