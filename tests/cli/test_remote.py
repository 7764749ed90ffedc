"""The commands that ask an API: what they print, what they do, and how they end, against a real installation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.kit import Installation

ADD = ("--type", "ADD", "--payload", '{"a": 1, "b": 2}')


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("cli"))
    yield installation
    installation.processes.end()


def test_a_task_is_submitted_waited_for_and_shown(there: Installation) -> None:
    """The id alone on the first line, the result below it; then the task is in the list, with its run and its log."""
    done = there.run("tasks", "submit", "Ädd", *ADD, "--priority", "high", "--wait")
    task, result = done.stdout.splitlines()
    assert (done.returncode, json.loads(result), done.stderr) == (0, {"sum": 3}, "")
    listed = there.run("tasks", "list", "--type", "ADD", "--status", "completed").stdout.splitlines()
    assert listed[0].split()[:2] == ["ID", "STATUS"]
    [row] = [line for line in listed if line.startswith(task)]
    assert row.split()[1:4] == ["COMPLETED", "HIGH", "1"]
    assert row.endswith("Ädd")
    shown = there.run("tasks", "show", task).stdout
    assert re.search(r"^payload +\{\"a\": 1, \"b\": 2\}$", shown, re.MULTILINE)
    assert "SUCCEEDED" in shown or "COMPLETED" in shown
    log = there.run("tasks", "logs", task).stdout
    assert re.fullmatch(r"\S+Z  INFO     adding  \{\"a\": 1\}\n", log)
    assert "\t" not in shown + log + "".join(listed)


def test_json_is_one_document(there: Installation) -> None:
    """With the names of the API: a task, a list of them, a log."""
    task = json.loads(there.run("tasks", "submit", "j", *ADD, "--wait", "--json").stdout)
    assert (task["status"], task["result"], task["maxRetries"]) == ("COMPLETED", {"sum": 3}, 3)
    shown = json.loads(there.run("tasks", "show", task["id"], "--json").stdout)
    assert (shown["payload"], len(shown["runs"])) == ({"a": 1, "b": 2}, 1)
    assert task["id"] in [t["id"] for t in json.loads(there.run("tasks", "list", "--json").stdout)]
    assert [
        line["message"] for line in json.loads(there.run("tasks", "logs", task["id"], "--json").stdout)
    ] == ["adding"]
    assert json.loads(there.run("tasks", "list", "--type", "NONE", "--json").stdout) == []


def test_watch_and_follow_end_with_the_task(there: Installation) -> None:
    """JSON lines; the last is the end, and the exit status says which it was."""
    task = there.run("tasks", "submit", "w", *ADD).stdout.strip()
    watched = there.run("tasks", "watch", task, "--json")
    lines = [json.loads(line) for line in watched.stdout.splitlines()]
    assert (watched.returncode, lines[-1]["id"], lines[-1]["status"]) == (0, task, "COMPLETED")
    followed = there.run("tasks", "logs", task, "--follow", "--json")
    assert [json.loads(line)["message"] for line in followed.stdout.splitlines()] == ["adding"]
    bad = there.run("tasks", "submit", "w", "--type", "BAD").stdout.strip()
    assert there.run("tasks", "watch", bad).returncode == 5


@pytest.mark.parametrize("json_", [False, True])
def test_a_task_that_fails_makes_the_status_5(there: Installation, json_: bool) -> None:
    """Why is on standard error."""
    done = there.run("tasks", "submit", "b", "--type", "BAD", "--wait", *(["--json"] if json_ else []))
    assert done.returncode == 5
    assert re.fullmatch(r"taskmill: task \S+ failed: no such thing\n", done.stderr)
    if json_:
        assert json.loads(done.stdout)["status"] == "FAILED"


def test_a_task_is_cancelled_and_run_again(there: Installation) -> None:
    """Several at once; one that is not there stops no other, and makes the status 4. Waiting has an end: 6."""
    late = there.run("tasks", "submit", "s", "--type", "SLOW", "--wait", "--timeout", "1s")
    assert (late.returncode, late.stderr.count("\n")) == (6, 1)
    task = late.stdout.strip()
    other = there.run("tasks", "submit", "s", *ADD, "--at", "1d").stdout.strip()
    done = there.run("tasks", "cancel", task, str(uuid.uuid4()), other)
    assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (4, 2, 1)
    assert f"{other}  CANCELLED" in done.stdout
    again = there.run("tasks", "retry", other, "--json")
    assert json.loads(again.stdout)[0]["status"] in ("PENDING", "QUEUED")
    assert there.run("tasks", "retry", str(uuid.uuid4())).returncode == 4


def test_a_file_of_tasks(there: Installation, tmp_path: Path) -> None:
    """An id a line, in batches; from standard input too, and waited for: each with its end."""
    file = tmp_path / "tasks.jsonl"
    line = {"title": "f", "type": "NOBODY", "queue": "file", "scheduledAt": "2099-01-01T00:00:00Z"}
    file.write_text("\n".join([json.dumps(line)] * 1500) + "\n\n")
    done = there.run("tasks", "submit", "--file", str(file))
    assert (done.returncode, len(set(done.stdout.split()))) == (0, 1500)
    queues = {q["name"]: q for q in json.loads(there.run("queues", "--json").stdout)}
    assert queues["file"]["pending"] == 1500
    lines = "".join(
        json.dumps({"title": "f", "type": t, "payload": {"a": 1, "b": 1}}) + "\n" for t in ("ADD", "BAD")
    )
    done = there.run("tasks", "submit", "--file", "-", "--wait", "--json", input=lines)
    ends = json.loads(done.stdout)
    assert [(end["status"], end["result"]) for end in ends] == [("COMPLETED", {"sum": 2}), ("FAILED", None)]
    assert done.returncode == 5


def test_schedules(there: Installation) -> None:
    """Made, listed, changed, previewed in words, run, paused, deleted: by name or id."""
    plan = ("--timezone", "Europe/Berlin", "--type", "ADD", "--payload", '{"a": 1, "b": 1}', "--ends", "900d")
    task = there.run("schedules", "create", "nightly", "30 2 * * *", *plan).stdout.strip()
    assert re.search(rf"^{task}  active .* nightly ", there.run("schedules", "list").stdout, re.MULTILINE)
    assert there.run("schedules", "create", "nightly", "* * * * *").returncode == 1
    changed = json.loads(
        there.run(
            "schedules", "update", "nightly", "--type", "", "--overlap", "cancel-running", "--json"
        ).stdout
    )
    assert (changed["id"], changed["type"], changed["overlap"]) == (task, None, "CANCEL_RUNNING")
    fires = json.loads(there.run("schedules", "next", task, "--count", "3", "--json").stdout)
    assert len(fires) == 3
    assert uuid.UUID(there.run("schedules", "run", "nightly").stdout.strip())
    assert there.run("schedules", "pause", "nightly").stdout == "nightly paused\n"
    shown = there.run("schedules", "show", "nightly").stdout
    assert re.search(r"^state +paused$", shown, re.MULTILINE)
    assert "RUN_NOW" in shown
    assert there.run("schedules", "resume", "nightly").returncode == 0
    assert there.run("schedules", "delete", "nightly").stdout == "nightly deleted\n"
    assert there.run("schedules", "show", "nightly").returncode == 4


def test_keys_and_users(there: Installation) -> None:
    """A key alone on standard output, and what it may; what is revoked is refused. The last ADMIN stays."""
    made = there.run("keys", "create", "ci", "--queues", "a,b", "--expires", "30d")
    key = made.stdout.strip()
    assert key.startswith("tm_")
    assert there.run("tasks", "submit", "x", "--queue", "a", "--api-key", key).returncode == 0
    refused = there.run("tasks", "submit", "x", "--queue", "c", "--api-key", key)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert key[:11] in there.run("keys", "list").stdout
    assert there.run("keys", "revoke", key[:11]).returncode == 0
    assert [k["name"] for k in json.loads(there.run("keys", "list", "--json").stdout) if k["revokedAt"]] == [
        "ci"
    ]
    there.ask(
        "mutation($i: RegisterInput!) { register(input: $i) { user { id } } }",
        i={"email": "bob@x.example", "password": "a password", "name": "Bob"},
    )
    assert "bob@x.example" in there.run("users", "list").stdout
    assert there.run("users", "set-role", "BOB@x.example", "worker").stdout == "bob@x.example is WORKER\n"
    assert there.run("users", "disable", "bob@x.example").stdout == "bob@x.example is disabled\n"
    assert there.run("users", "enable", "bob@x.example").stdout == "bob@x.example is active\n"
    assert there.run("users", "disable", "admin@x.example").returncode == 1
    assert there.run("users", "disable", "none@x.example").returncode == 4


def test_workers_and_queues(there: Installation) -> None:
    """The worker of this installation, and what it knows."""
    [worker] = json.loads(there.run("workers", "--json").stdout)
    assert "ADD" in worker["types"]
    assert there.run("workers").stdout.splitlines()[0].split()[:3] == ["NAME", "BUSY", "VERSION"]
    assert there.run("queues").stdout.splitlines()[0].split()[:2] == ["QUEUE", "WORKERS"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ("tasks list --api-url http://127.0.0.1:1", 3, "cannot be reached"),
        ("tasks watch --api-url http://127.0.0.1:1", 3, "cannot be reached"),
        ("tasks submit x --api-url http://127.0.0.1:1", 3, "cannot be reached"),
        ("tasks list --api-key tm_aaaaaaaa_bbbbbbbbbbbb", 1, "TASKMILL_API_KEY"),
        ("tasks list --api-url ftp://x", 2, "--api-url"),
        ("tasks list --api-url http://u:geheim@127.0.0.1", 2, "--api-url"),
        ("tasks list --api-key geheim", 2, "--api-key"),
        ("tasks show 01a20f67-7f2a-7031-a4f3-df2cfe3daaaa", 4, "no task"),
        ("tasks show nonsense", 4, "no task"),
        ("tasks logs 01a20f67-7f2a-7031-a4f3-df2cfe3daaaa", 4, "no task"),
        ("tasks watch 01a20f67-7f2a-7031-a4f3-df2cfe3daaaa", 4, "no task"),
        ("tasks submit x --max-retries 1e9", 2, "--max-retries"),
        ("tasks list --limit 0", 2, "--limit"),
        ("tasks list --limit -1", 2, "--limit"),
        ("tasks list --status DONE", 2, "--status"),
        ("tasks submit", 2, "TITLE"),
        ("tasks submit x --file y", 2, "--file"),
        ("tasks submit --file y --type T", 2, "--file"),
        ("tasks submit x --timeout 5s", 2, "--wait"),
        ("tasks submit x --priority URGENT", 2, "--priority"),
        ("tasks submit x --at tomorrow", 2, "--at"),
        ("tasks submit x --at 2026-12-24T09:00:00", 2, "--at"),
        ("tasks submit x --payload {", 2, "--payload"),
        ("tasks submit x --payload []", 2, "--payload"),
        ("tasks submit x --payload", 2, "--payload"),
        ('tasks submit x --payload {"n":NaN}', 2, "--payload"),
        ("schedules next x --count 51", 2, "--count"),
        ("schedules update x", 2, "change"),
        ("schedules create x nonsense", 1, "cron"),
        ("keys create x --role BOSS", 2, "--role"),
        ("keys create x --expires never", 2, "--expires"),
        ("tasks nonsense", 2, "nonsense"),
        ("completion tcsh", 2, "FISH"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_a_status(
    there: Installation, arguments: str, status: int, says: str
) -> None:
    """Row 82: it names what is wrong, shows no secret, and never a traceback."""
    done = there.run(*arguments.split())
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (status, 1, ""), done.stderr
    assert says in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(there: Installation, shell: str, tmp_path: Path) -> None:
    """It knows the commands, and the shell can read it, where there is that shell."""
    done = there.run("completion", shell)
    assert done.returncode == 0
    assert "set-role" in done.stdout
    assert "max-retries" in done.stdout
    if program := shutil.which(shell):
        (tmp_path / "it").write_text(done.stdout)
        subprocess.run([program, "-n", str(tmp_path / "it")], check=True, timeout=30)
