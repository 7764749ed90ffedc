"""The wheel: what `pip install taskmill` puts on another machine runs there, without a checkout."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx2
import pytest

from scripts import lock
from taskmill import __version__
from tests.support import ROOT, Processes, clean_environment, free_port, wait_until_sync

PACKAGE = ROOT / "src" / "taskmill"
PASSWORD = "a password for tests"
DONE = "query { tasks(status: COMPLETED, limit: 10) { title } }"


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


def build(tree: Path, kind: str, into: Path) -> Path:
    """With the backend of pyproject.toml as it is installed here: nothing is fetched."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(into)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    [made] = into.iterdir()
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    return Built(build(ROOT, "wheel", folder / "wheel"), build(ROOT, "sdist", folder / "sdist"))


def test_the_wheel_is_the_package_and_nothing_else(built: Built) -> None:
    """Every file of src/taskmill is in it: the migrations, the Lua scripts and the page too; no test, no tool."""
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {".py", ".lua", ".html", ".typed"} == {path.suffix or path.name for path in files}
    about = f"taskmill-{__version__}.dist-info/"
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.startswith(about)}
    assert names == {str(path.relative_to(PACKAGE.parent)) for path in files}


def test_the_sdist_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    """To the byte: who builds from source gets what others install."""
    with tarfile.open(built.sdist) as sdist:
        sdist.extractall(tmp_path, filter="data")
    again = build(tmp_path / f"taskmill-{__version__}", "wheel", tmp_path / "again")
    assert digest(again) == digest(built.wheel)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.timeout(150)
def test_it_runs_outside_the_checkout(built: Built, processes: Processes, tmp_path: Path) -> None:
    """Installed beside the packages of the lock, and no others, it says its version, migrates, and carries out a task."""
    taskmill = str(install(built.wheel, tmp_path / "venv"))
    env = {"PORT": str(free_port()), "TASKMILL_DATA": str(tmp_path / "data"), "TASKMILL_BCRYPT_ROUNDS": "4"}
    assert output([taskmill, "--version"], tmp_path, env).strip() == __version__
    assert "brought up to date" in output([taskmill, "migrate"], tmp_path, env)
    up = processes.start([taskmill, "up"], env=env)
    base = f"http://127.0.0.1:{env['PORT']}"
    up.wait_for_output("taskmill is up", 40)
    assert "<html" in httpx2.get(f"{base}/graphql", headers={"Accept": "text/html"}, trust_env=False).text
    given = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"}
    entered = ask(base, "mutation($i: RegisterInput!) { register(input: $i) { accessToken } }", {"i": given})
    token = entered["register"]["accessToken"]
    ask(base, 'mutation { createTask(input: {title: "outside"}) { id } }', {}, token)
    wait_until_sync(lambda: ask(base, DONE, {}, token)["tasks"] == [{"title": "outside"}], 30)
    assert up.stop() == 0


def install(wheel: Path, venv: Path) -> Path:
    """Its `taskmill`, in a new environment; the packages of requirements.lock are links to those that run this test."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=50)
    here = Path(sysconfig.get_path("purelib"))
    there = Path(sysconfig.get_path("purelib", "venv", {"base": str(venv), "platbase": str(venv)}))
    for top in sorted({file.parts[0] for name in lock.pins(lock.RUN) for file in files_of(name)}):
        if (here / top).exists() and not (there / top).exists():
            (there / top).symlink_to(here / top)
    uv = Path(sysconfig.get_path("scripts"), "uv")
    command = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--python",
        venv / "bin/python",
        wheel,
    ]
    subprocess.run([str(part) for part in command], check=True, timeout=50)
    return venv / "bin" / "taskmill"


def files_of(name: str) -> list[metadata.PackagePath]:
    """Below site-packages; none of a package that another Python or platform needs."""
    try:
        return [file for file in metadata.files(name) or [] if file.parts[0] not in ("..", "__pycache__")]
    except metadata.PackageNotFoundError:
        return []


def output(command: list[str], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(base: str, query: str, variables: dict[str, object], token: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx2.post(
        f"{base}/graphql", json={"query": query, "variables": variables}, headers=headers, trust_env=False
    ).json()
    assert "errors" not in answer, answer
    return answer["data"]
