"""The command line: what each command runs with which settings, and how each ends."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskmill.cli import main
from taskmill.cli.reload import Reloader
from taskmill.errors import ConfigError, Conflict, StartError, Unavailable
from tests.cli.kit import fork_on_a_terminal
from tests.support import Processes, clean_environment

Compose = Any  # tests/cli/conftest.py


@pytest.mark.parametrize(
    ("arguments", "service", "expected"),
    [
        ("up", "up", {"port": 3000, "app": None, "concurrency": 5}),
        ("up --app shop:app --port 4000", "up", {"port": 4000, "app": "shop:app"}),
        ("up --concurrency 9 --processes 0 --queues a,b --host ::1", "up", {"concurrency": 9, "queues": ("a", "b")}),
        ("api --host 0.0.0.0 --port=4000", "api", {"host": "0.0.0.0", "port": 4000}),
        ("worker --app a.b:c --concurrency 7 --processes 2", "worker", {"app": "a.b:c", "processes": 2}),
        ("worker --name w1 --metrics-port 9100", "worker", {"worker_name": "w1", "metrics_port": 9100}),
        ("worker --api-url http://h/graphql --api-key tm_12345", "remote_worker", {"api_url": "http://h", "api_key": "tm_12345"}),
        ("scheduler --metrics-port 9101", "scheduler", {"metrics_port": 9101}),
        ("migrate", "migrate", {"port": 3000}),
    ],
)  # fmt: skip
def test_each_command_runs_its_service(
    arguments: str, service: str, expected: dict[str, Any], compose: Compose
) -> None:
    """With the settings that its options say; a service that ended by SIGTERM is status 0."""
    compose.outcome = int(signal.SIGTERM)
    assert main(arguments.split()) == 0
    ((name, settings),) = compose.calls
    assert name == service
    assert {field: getattr(settings, field) for field in expected} == expected


@pytest.mark.parametrize(
    ("environment", "arguments", "service"),
    [
        ({"TASKMILL_API_URL": "http://h"}, "worker", "remote_worker"),
        ({"TASKMILL_API_URL": "http://h", "DATABASE_URL": "mysql://u:p@h/d"}, "worker", "worker"),
        ({"DATABASE_URL": "mysql://u:p@h/d"}, "worker --api-url http://h", "remote_worker"),
        ({"TASKMILL_API_URL": "http://h"}, "scheduler", "scheduler"),
    ],
)
def test_where_a_worker_gets_its_tasks(
    environment: dict[str, str],
    arguments: str,
    service: str,
    compose: Compose,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the record when there is one, else from the API that is named; an option decides."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(arguments.split()) == 0
    assert [name for name, _ in compose.calls] == [service]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, 0),
        (int(signal.SIGTERM), 0),
        (int(signal.SIGINT), 0),
        (KeyboardInterrupt(), 130),
        (ConfigError("DATABASE_URL: wrong"), 2),
        (StartError("port 3000 is in use: PORT=3001 make up"), 3),
        (Unavailable("The database does not answer."), 1),
        (Conflict("taken"), 1),
    ],
    ids=repr,
)
def test_how_a_service_ends(
    outcome: Any, status: int, compose: Compose, capfd: pytest.CaptureFixture[str]
) -> None:
    """Errors are one line on standard error, and never a traceback."""
    compose.outcome = outcome
    assert main(["up"]) == status
    error = capfd.readouterr().err
    assert error == (f"taskmill: {outcome.message}\n" if hasattr(outcome, "message") else "")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("up --concurrency 0", "--concurrency"),
        ("up --concurrency -1", "--concurrency"),
        ("up --concurrency 1e9", "--concurrency"),
        ("up --concurrency 1000000000", "--concurrency"),
        ("worker --concurrency abc", "--concurrency"),
        ("worker --api-url nonsense", "--api-url"),
        ("worker --api-url http://h --api-key short", "--api-key"),
        ("worker --concurrency", "--concurrency"),
        ("worker --metrics-port 65536", "--metrics-port"),
        ("up --app nonsense", "--app"),
        ("up --port http", "--port"),
        ("up --nonsense", "--nonsense"),
        ("up extra", "extra"),
        ("nonsense", "nonsense"),
        ("upp", "up"),
        ("users", ""),
        ("users create", "EMAIL"),
        ("users set-role a@b.example BOSS", "BOSS"),
        ("load-test --tasks 0", "--tasks"),
        ("load-test --concurrency 1e3", "--concurrency"),
        ("load-test --payload {", "--payload"),
        ("load-test --url ftp://localhost", "--url"),
        ("load-test --url http://example.com", "--allow-remote"),
        ("load-test --url http://localhost.example.com:3000", "--allow-remote"),
        ("load-test --url http://127.0.0.1@example.com", "--url"),
        ("load-test --url http://[::1", "--url"),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: str, names: str, compose: Compose, capfd: pytest.CaptureFixture[str]
) -> None:
    """It names the option; the status is 2, and nothing was started. `users` alone shows its help."""
    status = main(arguments.split())
    out, error = capfd.readouterr()
    if arguments == "users":
        assert (status, error) == (0, "")
        assert "set-role" in out
        return
    assert (status, error.count("\n"), compose.calls) == (2, 1, [])
    assert names in error


def test_a_wrong_setting_is_one_line(
    compose: Compose, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is checked as the options are."""
    monkeypatch.setenv("PORT", "x")
    assert main(["api"]) == 2
    assert re.fullmatch(r"taskmill: PORT: expected [^\n]*\n", capfd.readouterr().err)


@pytest.mark.parametrize("arguments", ["up --reload --app a:b", "api --reload", "worker --reload --app a:b"])
def test_reload_is_for_development(
    arguments: str, compose: Compose, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Production refuses to watch files."""
    monkeypatch.setenv("APP_ENV", "production")
    assert main(arguments.split()) == 2
    assert "--reload" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "watched"),
    [
        ("up --reload --app shop_of_test:a", {"shop_of_test", "taskmill"}),
        ("api --reload", {"taskmill"}),
        ("worker --reload --app shop_of_test:a", {"shop_of_test", "taskmill"}),
    ],
)
def test_reload_runs_the_same_command(
    arguments: str, watched: set[str], compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without --reload, as a child; an API is not restarted when handlers change."""
    (tmp_path / "shop_of_test").mkdir()
    (tmp_path / "shop_of_test/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["taskmill", *arguments.split()])
    made: list[tuple[Sequence[str], Sequence[Path]]] = []

    def run(self: Reloader) -> int:
        made.append((self.command, self.folders))
        return 0

    monkeypatch.setattr(Reloader, "run", run)
    assert main(arguments.split()) == 0
    ((command, folders),) = made
    assert command == [sys.executable, "-m", "taskmill", *arguments.replace(" --reload", "").split()]
    assert {folder.name for folder in folders} == watched
    assert compose.calls == []


def test_warnings_are_logged(
    compose: Compose, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped variable is told at the start."""
    monkeypatch.setenv("TASKMILL_LEAES", "3")
    assert main(["up"]) == 0
    assert "did you mean TASKMILL_LEASE?" in capfd.readouterr().out


# -- users -----------------------------------------------------------------------------------------------


TIME = datetime(2026, 11, 24)


class Person(NamedTuple):
    email: str
    name: str
    role: Any
    created_at: datetime
    id: bytes = bytes(16)
    disabled: bool = False


class Accounts:
    def __init__(self) -> None:
        self.made: list[tuple[str, ...]] = []

    async def create(self, email: str, password: str, name: str, role: Any) -> Person:
        self.made.append((email, password, name, role.name))
        return Person(email, name, role, TIME)

    async def set_role(self, email: str, role: Any) -> Person:
        return Person(email, "x", role, TIME)

    async def list(self, *, limit: int, after: bytes | None) -> list[Person]:
        from taskmill.api.users import Role

        return [] if after else [Person("a@b.example", "A\x1b[31m\tB", Role.ADMIN, TIME)]


def test_a_user_is_made_with_a_password_from_standard_input(
    compose: Compose, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, without its line break; a name is what stands before the @."""
    compose.accounts = Accounts()
    monkeypatch.setattr(sys, "stdin", io.StringIO("pass word \r\nmore\n"))
    assert main("users create me@x.example --role admin --password-stdin".split()) == 0
    assert compose.accounts.made == [("me@x.example", "pass word ", "me", "ADMIN")]
    assert capfd.readouterr().out == "created me@x.example (ADMIN)\n"


@pytest.mark.parametrize("arguments", ["", "--password-stdin"])
def test_no_password_is_one_line(
    arguments: str, compose: Compose, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal nobody is asked; an empty line is no password."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert main(["users", "create", "me@x.example", *arguments.split()]) == 2
    assert "--password-stdin" in capfd.readouterr().err
    assert compose.calls == []


def test_a_role_is_set(compose: Compose, capfd: pytest.CaptureFixture[str]) -> None:
    """In any case."""
    compose.accounts = Accounts()
    assert main("users set-role me@x.example worker".split()) == 0
    assert capfd.readouterr().out == "me@x.example is WORKER\n"


def test_users_are_listed_one_a_line(compose: Compose, capfd: pytest.CaptureFixture[str]) -> None:
    """What a user typed cannot make a line or a column of its own."""
    compose.accounts = Accounts()
    assert main(["users", "list"]) == 0
    _, line = capfd.readouterr().out.splitlines()
    nil = "00000000-0000-0000-0000-000000000000"
    assert line == f"{nil}  ADMIN  active  2026-11-24T00:00:00Z  a@b.example  A\\x1b[31m\\tB"


# -- as a process ----------------------------------------------------------------------------------------


def taskmill(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "taskmill", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": clean_environment(), **options}
    return subprocess.run(command, timeout=30, check=False, **options)


def test_version_and_help(processes: Processes) -> None:
    """Both are on standard output; help names every command."""
    assert re.fullmatch(rb"\d+\.\d+\.\d+\n", taskmill("--version").stdout)
    text = taskmill("--help").stdout
    names = b"up api worker scheduler migrate users load-test tasks schedules keys queues workers completion".split()
    assert [name for name in names if not re.search(rb"\b%s\b" % name, text)] == []


def test_help_needs_no_server_modules(processes: Processes) -> None:
    """The command line is quick: SQL, GraphQL, Redis and pydantic are imported by the commands that need them."""
    code = (
        "import sys; from taskmill.cli import main; main(['--help']);"
        "print([m for m in ('sqlalchemy', 'strawberry', 'redis', 'pydantic', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    assert done.stdout.endswith(b"[]\n")


def test_a_password_is_asked_for_without_showing_it(processes: Processes, tmp_path: Path) -> None:
    """Twice, on a terminal; then the user is there."""
    pid, terminal = fork_on_a_terminal()
    if pid == 0:
        command = [sys.executable, "-m", "taskmill", "users", "create", "me@x.example", "--role", "ADMIN"]
        os.execve(sys.executable, command, {**clean_environment(), "TASKMILL_BCRYPT_ROUNDS": "4"})
    shown = b""
    try:
        for prompt in (b"Password: ", b"Again: "):
            while prompt not in shown:
                shown += os.read(terminal, 1024)
            os.write(terminal, b"hunter2hunter2\n")
        while b"created" not in shown:
            shown += os.read(terminal, 1024)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert b"hunter2" not in shown
    assert b"me@x.example (ADMIN)" in shown
    assert status == 0
    listed = taskmill("users", "list", cwd=tmp_path)
    assert b"  ADMIN  active  " in listed.stdout


@pytest.mark.parametrize("how", ["reader gone", "closed"])
def test_a_closed_standard_output_gives_no_traceback(how: str, processes: Processes) -> None:
    """Help into a pipe that nobody reads, or nowhere at all."""
    read, write = os.pipe()
    os.close(read)
    options: dict[str, Any] = {"stdout": write}
    if how == "closed":
        options = {"args": ["sh", "-c", f"exec {sys.executable} -m taskmill --help >&- <&-"]}
        done = subprocess.run(**options, stderr=subprocess.PIPE, timeout=30, check=False)
    else:
        done = taskmill("--help", **options)
    os.close(write)
    assert done.returncode in (0, 141)
    assert done.stderr == b""


@pytest.mark.parametrize(
    "environment",
    [{"COLUMNS": "20"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}],
    ids=str,
)
def test_odd_terminals(environment: dict[str, str], processes: Processes) -> None:
    """Narrow, without UTF-8, without colours: help comes out."""
    done = taskmill("--help", env={**clean_environment(), **environment})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Usage" in done.stdout
