#!/usr/bin/env python3
"""Runs Taskmill from a clone: `python3 dev.py up`, `python3 dev.py test`, … (the Makefile calls nothing else).

Makes .venv from the lock when it has to, then becomes the command. Standard library only, and in the syntax of
Python 3.5: an interpreter that is too old must still be able to read this file, to find a newer one or to say so.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from typing import Any, Dict, Iterator, List

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, ".taskmill.json")
INSTALL_LOG = os.path.join(ROOT, ".venv-install.log")
CONFIG = os.path.join(VENV, "pyvenv.cfg")
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
PYTHON = os.path.join(BIN, "python.exe" if os.name == "nt" else "python")
OLDEST = (3, 11)
NEWER_NAMES = ("python3.14", "python3.13", "python3.12", "python3.11")
LOCKS = {"run": "requirements.lock", "dev": "requirements-dev.lock"}

HELP = """usage: python3 dev.py COMMAND [ARGUMENTS]   (or: make COMMAND, ARGS="…")

  up           run all of Taskmill here (PORT=… TASKMILL_DATA=… are passed on)
  dev          the same, restarting when a source file changes
  test         all tests: SQLite and the embedded Valkey, and the servers that TEST_*_URL name
  test-unit    the tests that need no server and start no process
  test-e2e     the tests that start processes
  coverage     all tests, with line and branch coverage
  check        lint, formatting, types, layers, migrations, reference, security, secrets, locks
  fmt          format and mend what can be mended
  reference    write docs/reference/ anew from the code
  lock         write the locks anew from pyproject.toml (--upgrade: to the newest versions)
  bench        bench/NAME.py: python3 dev.py bench drain
  deploy-check the files of a deployment, with the real programs; stages: static (when none is named), compose, cluster, systemd, all
  docs         the documentation as a site, in dist/docs
  sbom         what the image holds, as CycloneDX JSON
  python       the interpreter of .venv
  install      only make .venv
"""


def say(text: str) -> None:
    sys.stderr.write("dev.py: " + text + "\n")
    sys.stderr.flush()


def stop(text: str) -> SystemExit:
    say(text)
    return SystemExit(1)


# -- the interpreter --------------------------------------------------------------------------------------


def need_new_python() -> None:
    """Becomes a newer interpreter when this one is too old, or ends with the one line that says what to do."""
    if sys.version_info[:2] >= OLDEST:
        return
    for name in NEWER_NAMES:
        found = shutil.which(name)
        # A name on the PATH proves nothing: version managers put a stub there for every version they know.
        if found and works(found):
            replace([found, os.path.abspath(__file__)] + sys.argv[1:])
    raise stop(
        "Taskmill needs Python 3.11 or newer, and {} is {}.{}. Install one (Debian 12: apt install python3 "
        "python3-venv), or name it: make PYTHON=/path/to/python3.12 {}".format(
            sys.executable, sys.version_info[0], sys.version_info[1], " ".join(sys.argv[1:2]) or "up"
        )
    )


def works(python: str) -> bool:
    return can(python, "import sys; sys.exit(sys.version_info[:2] < {!r})".format(OLDEST))


def can(python: str, code: str) -> bool:
    try:
        return (
            subprocess.call([python, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
        )
    except OSError:
        return False


def replace(command: List[str]) -> None:
    """This process becomes the command, so that every signal reaches it; on Windows it waits for it instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":
        raise SystemExit(subprocess.call(command))
    os.execv(command[0], command)


# -- the environment --------------------------------------------------------------------------------------


def install(kind: str) -> None:
    """Brings .venv to the lock of `kind`, "run" or "dev". What the stamp proves is not looked at again."""
    if is_current(kind):
        return
    with one_at_a_time():
        stamp = read_stamp()
        if is_current(kind):
            return
        if stamp.get("kind") == "dev":
            kind = "dev"  # one that has the tools keeps them
        say("installing {} into .venv (once; about half a minute)".format(LOCKS[kind]))
        if stamp and stamp.get("python") == version() and stamp.get("folder") == ROOT and works(PYTHON):
            os.remove(STAMP)  # from here on, until the new stamp, it counts as half made
        else:
            make_venv()
        fill(kind)
        put_project_in()
        wanted = {"kind": kind, "python": version(), "folder": ROOT, "locks": lock_hashes(kind)}
        with open(STAMP + ".new", "w") as file:
            json.dump(wanted, file)
        os.replace(STAMP + ".new", STAMP)


def is_current(kind: str) -> bool:
    stamp = read_stamp()
    return bool(
        stamp.get("python") == version()
        and stamp.get("folder") == ROOT
        and stamp.get("locks", {}).get(kind) == lock_hash(kind)
        and os.path.exists(PYTHON)
    )


def read_stamp() -> Dict[str, Any]:
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def version() -> str:
    return "{}.{}.{}".format(*sys.version_info[:3])


def lock_hash(kind: str) -> str:
    path = os.path.join(ROOT, LOCKS[kind])
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        raise stop("{} is missing: is {} a whole clone?".format(LOCKS[kind], ROOT)) from None


def lock_hashes(kind: str) -> Dict[str, str]:
    """The dev lock contains the other one (make check says so), so it satisfies both."""
    kinds = ["run", "dev"] if kind == "dev" else ["run"]
    return {each: lock_hash(each) for each in kinds}


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two terminals may start at once in a new clone: the second waits for the first."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(os.path.join(ROOT, ".venv-install.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_venv() -> None:
    # Inside an activated .venv, sys.executable is the very thing that is about to be replaced.
    python = str(getattr(sys, "_base_executable", sys.executable))
    uv = shutil.which("uv")
    if not uv and not has_ensurepip():
        raise stop(
            "this Python cannot make virtual environments: install python3-venv (Debian: apt install python3-venv) "
            "or uv, and run this again"
        )
    remove_venv()
    command = [uv, "venv", "--quiet", "--python", python, VENV] if uv else [python, "-m", "venv", VENV]
    run_logged(command, "the virtual environment could not be made.")


def remove_venv() -> None:
    if not os.path.lexists(VENV):
        return
    if not os.path.isdir(VENV) or (os.listdir(VENV) and not os.path.exists(CONFIG)):
        raise stop("{} is not a virtual environment: move it away and run this again".format(VENV))
    say("replacing .venv: it is half made, or of another Python or folder")
    try:
        shutil.rmtree(VENV)
    except OSError as error:
        raise stop("cannot remove .venv ({}): remove it and run this again".format(error)) from None


def has_ensurepip() -> bool:
    try:
        import ensurepip  # noqa: F401  # Debian ships it apart, in python3-venv
    except ImportError:
        return False
    return True


def fill(kind: str) -> None:
    lock = os.path.join(ROOT, LOCKS[kind])
    strict = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", lock]
    uv = shutil.which("uv")
    if uv:
        # Compiled once here, as pip does: where Python may not write bytecode, every start would compile it all again.
        command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", PYTHON] + strict
    else:
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
        command = [PYTHON, "-m", "pip", "install"] + quiet + strict
        if not can(PYTHON, "import pip"):  # uv made .venv, and is gone now
            run_logged([PYTHON, "-m", "ensurepip"], "pip could not be put into .venv.")
    run_logged(command, "the packages could not be installed; is the network there?")


def run_logged(command: List[str], failure: str) -> None:
    """Runs a step of the installation; what it says goes to a file, for the one line that a failure is."""
    with open(INSTALL_LOG, "wb") as log:
        try:
            status = subprocess.call(command, cwd=ROOT, stdout=log, stderr=log)
        except OSError as error:
            raise stop("{} ({}: {})".format(failure, command[0], error)) from None
    if status:
        raise stop("{} Run this again; details: {}".format(failure, INSTALL_LOG))
    os.remove(INSTALL_LOG)


def put_project_in() -> None:
    """src on the path and the `taskmill` command: what an editable install does, without a build or a network."""
    probe = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = subprocess.check_output([PYTHON, "-c", probe], universal_newlines=True).strip()
    with open(os.path.join(packages, "taskmill-src.pth"), "w", encoding="utf-8") as file:
        file.write(os.path.join(ROOT, "src") + "\n")
    # pytest finds the plug-in of taskmill.testing by the entry points of what is installed.
    about = os.path.join(packages, "taskmill-0.dist-info")
    os.makedirs(about, exist_ok=True)
    for name, text in (
        ("METADATA", "Metadata-Version: 2.1\nName: taskmill\nVersion: 0\n"),
        ("entry_points.txt", "[pytest11]\ntaskmill = taskmill.testing.plugin\n"),
    ):
        with open(os.path.join(about, name), "w", encoding="utf-8") as file:
            file.write(text)
    if os.name == "nt":
        return
    script = os.path.join(BIN, "taskmill")
    with open(script, "w", encoding="utf-8") as file:
        file.write('#!/bin/sh\nexec "$(dirname "$0")/python" -m taskmill "$@"\n')
    os.chmod(script, 0o755)  # a script that anyone may run  # nosec B103


# -- the commands -----------------------------------------------------------------------------------------


def tests(selection: List[str], arguments: List[str], coverage: bool) -> List[str]:
    """pytest on two processes; with coverage also when TASKMILL_COVERAGE=1, which is how CI measures `make test`."""
    command = ["-m", "pytest"] + selection
    if not any(argument.startswith(("-n", "--numprocesses", "--pdb")) for argument in arguments):
        # Each takes a half and then what the other has left, so that a module's shared servers start once.
        command += ["-n", "2", "--dist", "worksteal"]
    if coverage or os.environ.get("TASKMILL_COVERAGE") == "1":
        # An absolute path: children measure themselves from working folders of their own.
        command += [
            "--cov=" + os.path.join(ROOT, "src", "taskmill"),
            "--cov-report=term-missing:skip-covered",
        ]
    return command + arguments


def bench(arguments: List[str]) -> List[str]:
    names = sorted(name[:-3] for name in os.listdir(os.path.join(ROOT, "bench")) if name.endswith(".py"))
    if not arguments or arguments[0] not in names:
        raise stop("which one? " + ", ".join("python3 dev.py bench " + name for name in names))
    return ["bench/" + arguments[0] + ".py"] + arguments[1:]


def main(arguments: List[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command in ("help", "-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    need_new_python()
    calls = {
        "up": ("run", ["-m", "taskmill", "up"] + rest),
        "dev": ("run", ["-m", "taskmill", "up", "--reload"] + rest),
        "test": ("dev", tests([], rest, False)),
        "test-unit": ("dev", tests(["-m", "not engine and not e2e"], rest, False)),
        "test-e2e": ("dev", tests(["-m", "e2e"], rest, False)),
        "coverage": ("dev", tests([], rest, True)),
        "check": ("dev", ["scripts/check.py"] + rest),
        "fmt": ("dev", ["scripts/check.py", "--fix"] + rest),
        "reference": ("dev", ["scripts/reference.py"] + rest),
        "lock": ("dev", ["scripts/lock.py"] + rest),
        "bench": ("dev", bench(rest) if command == "bench" else []),
        "deploy-check": ("dev", ["-m", "deploy.check"] + rest),
        "docs": ("dev", ["-m", "deploy.check.tools", "mkdocs", "build", "--strict"] + rest),
        "sbom": ("dev", ["-m", "scripts.sbom"] + rest),
        "python": ("dev", rest),
        "install": ("run", ["-c", ""]),
    }
    if command not in calls:
        sys.stderr.write(HELP)
        raise stop("there is no command {!r}".format(command))
    kind, call = calls[command]
    install(kind)
    if kind == "dev":
        # The tests start hundreds of processes: ours is compiled once too.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if command not in ("up", "dev"):  # these find --app and .env in the working folder
        os.chdir(ROOT)
    replace([PYTHON] + call)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
