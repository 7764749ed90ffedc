"""dev.py: from a clone to a running command, and one line that says what to do where that is not possible.

The clones here are small copies with a stub of the package, and an installer that only writes down that it was called.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dev
from tests.support import ROOT, Processes, clean_environment, running, wait_until_sync

STUB = """
import json, os, signal, sys, time
print(json.dumps({"args": sys.argv[1:], "port": os.environ.get("PORT"), "pid": os.getpid()}), flush=True)
if "wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    time.sleep(60)
sys.exit(7 if "fail" in sys.argv else 0)
"""

UV = """#!/bin/sh
echo "$1 $2" >> "$CLONE/uv.calls"
case "$1" in
venv) exec {python} -m venv --without-pip "$CLONE/.venv" ;;
pip) [ ! -e "$CLONE/offline" ] || {{ echo "error: no route to host" >&2; exit 2; }} ;;
esac
"""


class Clone:
    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder = folder
        self.tools = tools
        plain = {key: value for key, value in clean_environment().items() if not key.startswith("COVERAGE")}
        self.env = plain | {"PATH": f"{tools}:/usr/bin:/bin", "CLONE": str(folder)}

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "dev.py", *arguments],
            cwd=self.folder,
            env=self.env | (env or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def tool(self, name: str, script: str) -> Path:
        path = self.tools / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    @property
    def calls(self) -> list[str]:
        """What was asked of the installer."""
        log = self.folder / "uv.calls"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def stamp(self) -> Path:
        return self.folder / ".venv" / ".taskmill.json"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    folder, tools = tmp_path / "a clone", tmp_path / "tools"
    package = folder / "src" / "taskmill"
    package.mkdir(parents=True)
    tools.mkdir()
    shutil.copy(ROOT / "dev.py", folder)
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (folder / lock).write_text("# a lock\n")
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STUB)
    made = Clone(folder, tools)
    made.tool("uv", UV.format(python=sys.executable))
    return made


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a failure; there is no traceback above it."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_reads_as_python_3_5() -> None:
    """An interpreter that is too old must still get as far as saying so."""
    tree = ast.parse((ROOT / "dev.py").read_text(encoding="utf-8"), feature_version=(3, 5))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, newer)] == []


def test_up_installs_runs_and_passes_everything_on(clone: Clone) -> None:
    """Arguments, environment and status go through."""
    done = clone.run("up", "fail", env={"PORT": "3001"})
    assert done.returncode == 7, done.stderr
    said = json.loads(done.stdout)
    assert (said["args"], said["port"]) == (["up", "fail"], "3001")


def test_the_second_start_calls_no_installer(clone: Clone) -> None:
    """What the stamp proves is not looked at again."""
    clone.run("up")
    first = clone.calls
    assert first == ["venv --quiet", "pip install"]
    assert clone.run("up").returncode == 0
    assert clone.calls == first


def test_dev_runs_up_with_reload(clone: Clone) -> None:
    """`make dev` is `up` that restarts on a change."""
    assert json.loads(clone.run("dev").stdout)["args"] == ["up", "--reload"]


def test_a_dev_install_satisfies_up_and_stays_one(clone: Clone) -> None:
    """`make up` after `make test` installs nothing; a new lock keeps the tools."""
    clone.run("python", "-c", "")
    calls = clone.calls
    clone.run("up")
    assert clone.calls == calls
    (clone.folder / "requirements.lock").write_text("# a newer lock\n")
    clone.run("up")
    assert clone.calls == [*calls, "pip install"]
    assert json.loads(clone.stamp.read_text())["kind"] == "dev"


def test_tests_need_more_than_an_install_to_run(clone: Clone) -> None:
    """The tools come when they are needed first, into the same .venv."""
    clone.run("up")
    clone.run("python", "-c", "")
    assert clone.calls == ["venv --quiet", "pip install", "pip install"]


def test_a_moved_clone_gets_a_new_venv(clone: Clone) -> None:
    """A virtual environment holds absolute paths."""
    clone.run("up")
    moved = clone.folder.rename(clone.folder.parent / "moved")
    clone.folder, clone.env["CLONE"] = moved, str(moved)
    assert clone.run("up").returncode == 0
    assert clone.calls.count("venv --quiet") == 2


def test_without_network_one_line_and_the_next_start_begins_anew(clone: Clone) -> None:
    """A failed installation leaves no stamp, so that nothing half made is ever used."""
    (clone.folder / "offline").touch()
    assert "is the network there?" in one_line(clone.run("up"))
    assert not clone.stamp.exists()
    (clone.folder / "offline").unlink()
    assert clone.run("up").returncode == 0
    assert clone.calls == ["venv --quiet", "pip install"] * 2


def test_an_interrupted_installation_is_half_made(clone: Clone) -> None:
    """From the first change on, the old stamp no longer counts."""
    clone.run("up")
    (clone.folder / "requirements.lock").write_text("# a newer lock\n")
    (clone.folder / "offline").touch()
    one_line(clone.run("up"))
    assert not clone.stamp.exists()


def test_a_stranger_s_folder_is_left_alone(clone: Clone) -> None:
    """A .venv that is no virtual environment is not removed."""
    (clone.folder / ".venv").mkdir()
    (clone.folder / ".venv" / "thesis.txt").touch()
    assert "is not a virtual environment: move it away" in one_line(clone.run("up"))
    assert (clone.folder / ".venv" / "thesis.txt").exists()


@pytest.mark.parametrize("text", ["", "[1, 2", "[1, 2]"])
def test_a_broken_stamp_is_no_stamp(clone: Clone, text: str) -> None:
    """Whatever stands in it, it is made anew."""
    clone.run("up")
    clone.stamp.write_text(text)
    assert clone.run("up").returncode == 0
    assert json.loads(clone.stamp.read_text())["kind"] == "run"


def test_without_python3_venv_one_line(clone: Clone) -> None:
    """Debian ships ensurepip apart."""
    (clone.tools / "uv").unlink()
    code = "import sys; sys.modules['ensurepip'] = None; import dev; dev.main(['up'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=clone.folder,
        env=clone.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "apt install python3-venv" in one_line(done)
    assert not (clone.folder / ".venv").exists()


def too_old(clone: Clone) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; import dev; dev.OLDEST = (9, 0); sys.argv = ['dev.py', 'up', 'x']; dev.main(['up', 'x'])"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=clone.folder,
        env=clone.env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_too_old_a_python_becomes_a_newer_one(clone: Clone) -> None:
    """The first on the PATH that works; a version manager's stub does not."""
    clone.tool("python3.14", "#!/bin/sh\nexit 127\n")
    clone.tool("python3.13", '#!/bin/sh\n[ "$1" = -c ] || echo "3.13 runs $(basename "$1") $2 $3"\n')
    done = too_old(clone)
    assert (done.returncode, done.stdout) == (0, "3.13 runs dev.py up x\n")


def test_too_old_a_python_alone_is_one_line(clone: Clone) -> None:
    """With what it is, and what to install."""
    for minor in (11, 12, 13, 14):
        clone.tool(f"python3.{minor}", "#!/bin/sh\nexit 127\n")
    assert "needs Python 3.11 or newer" in one_line(too_old(clone))


def test_an_unknown_command_is_one_line(clone: Clone) -> None:
    """It installs nothing first."""
    assert "there is no command 'upp'" in one_line(clone.run("upp"))
    assert clone.calls == []


def test_sigterm_reaches_the_command(clone: Clone, processes: Processes) -> None:
    """dev.py becomes the command: a signal meets no middleman."""
    process = processes.start([sys.executable, str(clone.folder / "dev.py"), "up", "wait"], env=clone.env)
    assert json.loads(process.wait_for_output("}").splitlines()[-1])["pid"] == process.pid
    assert process.stop() == 0


def test_sigterm_reaches_the_command_through_make(clone: Clone, processes: Processes) -> None:
    """make hands the signal on, and waits."""
    shutil.copy(ROOT / "Makefile", clone.folder)
    command = ["make", "-C", str(clone.folder), "up", "ARGS=wait", f"PYTHON={sys.executable}"]
    process = processes.start(command, env=clone.env)
    said = next(line for line in process.wait_for_output("}").splitlines() if line.startswith("{"))
    process.stop()
    wait_until_sync(lambda: not running(json.loads(said)["pid"]))


def test_ci_measures_the_very_run_that_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """TASKMILL_COVERAGE=1 adds coverage to `make test`."""
    monkeypatch.delenv("TASKMILL_COVERAGE", raising=False)
    assert "--cov" not in str(dev.tests([], [], False))
    monkeypatch.setenv("TASKMILL_COVERAGE", "1")
    assert "--cov" in str(dev.tests([], [], False))
