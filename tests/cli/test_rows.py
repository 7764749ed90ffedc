"""RELIABILITY, part 4, rows 83 to 88: what surrounds a command, as real processes. Row 82 is in test_remote and test_commands."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kit import Installation, Screen
from tests.support import clean_environment, wait_until_sync

TRACEBACK = "Traceback"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("rows"))
    installation.run("tasks", "submit", "Ἀθῆναι", "--at", "1d")
    yield installation
    installation.processes.end()


# -- 83, 84: the surroundings that settings describe ------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"PORT=abc\n", 2, "PORT"),
        (b"PORT=\xff\xfe\n", 2, ".env"),
        (b"TASKMILL_API_URL=http://u:geheim@h\n", 2, "TASKMILL_API_URL"),
        (None, 2, ".env"),
    ],
    ids=["wrong type", "no text", "a secret in it", "a directory"],
)
def test_row_83_a_file_of_settings_that_is_wrong(
    there: Installation, content: bytes | None, status: int, says: str, tmp_path: Path
) -> None:
    """It is named, with the key that is wrong; a secret in it is not."""
    file = tmp_path / ".env"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    done = there.run("tasks", "list", TASKMILL_API_URL="")
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (status, 1, "")
    assert says in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize(
    ("command", "environment", "status"),
    [
        ("migrate", {"DATABASE_URL": "mysql://u:geheim@127.0.0.1:1/d"}, 3),
        ("migrate", {"DATABASE_URL": "mysql://u:geheim@"}, 2),
        ("users list", {"DATABASE_URL": "mysql://u:geheim@127.0.0.1:1/d"}, 3),
        ("api", {"REDIS_URL": "redis://:geheim@[::1"}, 2),
    ],
    ids=str,
)
def test_row_84_a_server_that_is_wrong(
    command: str, environment: dict[str, str], status: int, there: Installation
) -> None:
    """One line without its password."""
    done = there.run(*command.split(), **environment)
    assert (done.returncode, done.stderr.strip().count("\n")) == (status, 0), done.stderr
    assert "geheim" not in done.stderr + done.stdout


# -- 85: streams and terminals ---------------------------------------------------------------------------

COMMANDS = [
    "tasks list",
    "tasks list --json",
    "queues",
    "schedules list",
    "completion bash",
    "tasks submit x --help",
]


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- <&- 2>&-"])
def test_row_85_closed_streams(there: Installation, closed: str) -> None:
    """A socket does not take the number of a stream: the command does its work all the same."""
    command = ["sh", "-c", f'exec "{sys.executable}" -m taskmill tasks list {closed}']
    done = subprocess.run(command, env=there.environment(), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_row_85_nobody_reads(there: Installation, command: str) -> None:
    """`| head -1` that has gone: 141, without a word."""
    read, write = os.pipe()
    os.close(read)
    done = there.process(*command.split(), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_row_85_a_full_disk(there: Installation) -> None:
    """One line, and not the status of success."""
    with Path("/dev/full").open("wb") as full:
        done = there.process("tasks", "list", stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert TRACEBACK not in done.stderr


@pytest.mark.parametrize(
    ("encoding", "shown"), [("latin-1", "\\u1f08"), ("ascii", "\\u1f08"), ("utf-8", "Ἀθῆναι")]
)
def test_row_85_a_terminal_without_these_letters(there: Installation, encoding: str, shown: str) -> None:
    """They are written as escapes; JSON stays JSON."""
    environment = there.environment(PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    done = there.process("tasks", "list", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


@pytest.mark.parametrize("columns", [20, 60, 200])
def test_row_85_a_terminal_of_any_width(there: Installation, columns: int) -> None:
    """An id is whole; where there is no room for a table, each thing has its lines. NO_COLOR: none."""
    id_ = there.run("tasks", "list").stdout.splitlines()[1].split()[0]
    screen = Screen(there.environment(NO_COLOR="1"), columns, "tasks", "list")
    assert screen.end() == 0
    assert id_ in screen.text
    assert ("STATUS" in screen.text.splitlines()[0]) == (columns == 200)
    assert "\x1b[3" not in screen.text


# -- 86: what is read ------------------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


SOURCES: dict[str, Any] = {
    "directory": Path.mkdir,
    "nothing": lambda path: None,
    "link to itself": lambda path: path.symlink_to(path.name),
    "no text": lambda path: path.write_bytes(b'{"a": "\xff"}'),
    "empty": lambda path: path.write_bytes(b""),
    "huge": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 34),
    "without end": lambda path: path.symlink_to("/dev/zero"),
    "FIFO": _fifo,
    "deep": lambda path: path.write_text('{"a":' * 100_000),
    "long number": lambda path: path.write_text('{"a":' + "9" * 10_000 + "}"),
}


@pytest.mark.parametrize("what", SOURCES)
@pytest.mark.parametrize("option", ["--payload", "--file"])
def test_row_86_what_cannot_be_read(
    there: Installation, what: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names the option and status 2, whatever it is, without reading more than a limit."""
    monkeypatch.setattr("taskmill.cli.reading.PATIENCE", 0.2)
    SOURCES[what](tmp_path / "it")
    arguments = ["x", "--payload", "@it"] if option == "--payload" else ["--file", "it"]
    done = there.run("tasks", "submit", *arguments)
    if (what, option) == ("empty", "--file"):
        assert done == (0, "", "")  # no lines, no tasks
        return
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.stderr
    assert option in done.stderr
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # it is told in KiB
    assert peak < 4 << 30  # far below the 16 GiB of the file


def test_row_86_what_can_be_read(there: Installation, tmp_path: Path) -> None:
    """A file, standard input, and a FIFO that somebody writes to."""
    (tmp_path / "it").write_text('\ufeff{"a": 1}')
    assert there.run("tasks", "submit", "x", "--payload", "@it", "--at", "1d").returncode == 0
    assert there.run("tasks", "submit", "x", "--payload", "-", "--at", "1d", input='{"a": 1}').returncode == 0
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["sh", "-c", "echo '{}' > fifo"], cwd=tmp_path):
        assert there.run("tasks", "submit", "x", "--payload", "@fifo", "--at", "1d").returncode == 0


# -- 87: Ctrl-C ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("tasks", "submit", "s", "--type", "SLOW", "--wait"), "processing"),
        (("tasks", "submit", "--file", "-"), "submitted"),
        (("users", "create", "x@x.example"), "Password: "),
    ],
    ids=["waiting", "reading", "asking"],
)
@pytest.mark.parametrize("times", [1, 2])
def test_row_87_ctrl_c(there: Installation, arguments: tuple[str, ...], shown: str, times: int) -> None:
    """130, once or twice, without a traceback; the cursor is there again."""
    screen = Screen(there.environment(), 80, *arguments)
    screen.until(shown)
    for _ in range(times):
        screen.press_ctrl_c()
    assert screen.end() == 130
    assert TRACEBACK not in screen.text
    assert screen.text.count("\x1b[?25l") == screen.text.count("\x1b[?25h")


def test_row_87_ctrl_c_while_watching(there: Installation) -> None:
    """It is how a watch without an end ends."""
    watching = subprocess.Popen(
        [sys.executable, "-m", "taskmill", "tasks", "watch"],
        env=there.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watching.stdout is not None
    while not select.select([watching.stdout], [], [], 0.3)[0]:  # it is subscribed at some time
        there.run("tasks", "submit", "seen", "--at", "1d")
    watching.send_signal(signal.SIGINT)
    _, error = watching.communicate(timeout=30)
    assert (watching.returncode, error) == (130, b"")


# -- 88: migrate -----------------------------------------------------------------------------------------


def test_row_88_two_at_once(tmp_path: Path) -> None:
    """The file has one owner: one migrates, the other may be told so; run again, it is up to date."""
    environment = {**clean_environment(), "TASKMILL_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "taskmill", "migrate"]
    both = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    ends = [(one.communicate(timeout=60)[1], one.returncode) for one in both]
    assert 0 in [status for _, status in ends]
    assert all(status in (0, 3) and error.count(b"\n") <= 1 for error, status in ends), ends
    assert (
        subprocess.run(command, env=environment, timeout=60, check=False, capture_output=True).returncode == 0
    )


def test_row_88_killed_half_way(tmp_path: Path) -> None:
    """The next one finishes it."""
    environment = {**clean_environment(), "TASKMILL_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "taskmill", "migrate"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as killed:
        wait_until_sync(lambda: (tmp_path / "data").exists() or killed.poll() is not None, 30)
        killed.kill()
    done = subprocess.run(command, env=environment, timeout=60, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
