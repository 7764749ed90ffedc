"""`make check`: every static check, all of them even when one fails. With --fix: format and mend instead (`make fmt`)."""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sysconfig.get_path("scripts"))

CHECKS = {
    "lint": ["ruff", "check", "--quiet", "."],
    "format": ["ruff", "format", "--check", "--output-format", "concise", "."],
    "types": ["mypy", "--no-error-summary", "--hide-error-context"],
    "layers": ["lint-imports", "--no-logo"],
    "migrations": ["python", "scripts/migrations.py"],
    "reference": ["python", "scripts/reference.py", "--check"],
    "security": [
        "bandit",
        "-q",
        "-c",
        "pyproject.toml",
        "-r",
        "src",
        "scripts",
        "deploy",
        "dev.py",
        "examples",
        "bench",
    ],
    "secrets": ["python", "scripts/secrets.py"],
    "locks": ["python", "scripts/lock.py", "--check"],
}
FIXES = {
    "lint": ["ruff", "check", "--fix", "--quiet", "."],
    "format": ["ruff", "format", "--quiet", "."],
}


def run(name: str, command: list[str]) -> bool:
    """Silent when all is well; else the tool's own words."""
    started = time.monotonic()
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    word = "FAIL" if done.returncode else "ok  "
    print(f"{word} {name} ({time.monotonic() - started:.1f} s)", flush=True)
    if done.returncode:
        # mypy writes every overload of a function out, on lines of a thousand characters.
        print("\n".join(line[:300] for line in done.stdout.splitlines()), flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true")
    chosen = FIXES if parser.parse_args().fix else CHECKS
    results = [run(name, command) for name, command in chosen.items()]
    sys.exit(not all(results))
