"""The pytest plug-in, as a project that has Taskmill installed sees it."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

from tests.support import ROOT, Processes

APP = """
from taskmill import Context, Taskmill

app = Taskmill()


@app.task
async def double(ctx: Context, n: int) -> int:
    return 2 * n
"""
TESTS = """
import jobs


def test_plain(taskmill):
    task = jobs.double.submit_sync(n=4)
    taskmill.assert_submitted(jobs.double, n=4)
    taskmill.drain_sync()
    assert task.wait_sync() == 8


def test_each_has_its_own(taskmill):
    assert taskmill.jobs == []
"""


def run(processes: Processes, *arguments: str) -> str:
    """The output of pytest in the test's folder, with no other plug-in: loading those takes seconds."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "taskmill.testing.plugin",
        "-p",
        "no:cacheprovider",
        "-q",
    ]
    process = processes.start(
        [*command, *arguments], env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, name="pytest"
    )
    process.wait(60)
    return process.output()


def test_the_entry_point_leads_here() -> None:
    """pytest finds the module that is tested here; an environment from before the plug-in has no entry point yet."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert declared == {"taskmill": "taskmill.testing.plugin"}
    installed = [entry.value for entry in entry_points(group="pytest11") if entry.name == "taskmill"]
    assert installed in (list(declared.values()), [])


def test_the_fixture_is_a_bench(processes: Processes, tmp_path: Path) -> None:
    """`taskmill` is a bench of its own for each test, for the app that the ini option names."""
    (tmp_path / "jobs.py").write_text(APP)
    (tmp_path / "test_jobs.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntaskmill_app = jobs:app\n")
    assert "2 passed" in run(processes, "test_jobs.py")


def test_an_app_may_come_from_a_fixture(processes: Processes, tmp_path: Path) -> None:
    """A fixture `taskmill_app` takes the place of the ini option."""
    (tmp_path / "jobs.py").write_text(APP)
    (tmp_path / "test_jobs.py").write_text(TESTS)
    fixture = "import jobs\nimport pytest\n\n\n@pytest.fixture\ndef taskmill_app():\n    return jobs.app\n"
    (tmp_path / "conftest.py").write_text(fixture)
    assert "2 passed" in run(processes, "test_jobs.py")


def test_without_an_app_it_says_what_to_do(processes: Processes, tmp_path: Path) -> None:
    """The error names the ini option and the fixture."""
    (tmp_path / "jobs.py").write_text(APP)
    (tmp_path / "test_jobs.py").write_text(TESTS)
    assert "set taskmill_app = module:attribute" in run(processes, "test_jobs.py")


def test_it_costs_nothing_until_it_is_used(processes: Processes) -> None:
    """Loading the plug-in imports no other part of Taskmill: it is loaded by every pytest run."""
    code = (
        "import sys, taskmill.testing.plugin; "
        "print(sorted(m for m in sys.modules if m.startswith('taskmill')), end='')"
    )
    process = processes.start([sys.executable, "-c", code], name="import")
    process.wait(30)
    assert process.output() == "['taskmill', 'taskmill.testing', 'taskmill.testing.plugin']"
