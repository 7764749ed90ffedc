"""Programs that checks call: what they said, or Broken; and how one that runs on is ended."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.check.stage import Broken


def run(
    command: Sequence[str],
    cwd: str | Path | None = None,
    timeout: float = 900,
    env: Mapping[str, str] | None = None,
) -> str:
    """What it printed; Broken with its last words when it failed, takes too long or is not there."""
    shown = " ".join(command)
    done = attempt(command, shown, cwd=cwd, timeout=timeout, env=env)
    if done.returncode:
        raise Broken(f"{shown}: exit {done.returncode}\n{last(done.stdout, 8)}")
    return done.stdout


def attempt(
    command: Sequence[str],
    shown: str,
    *,
    timeout: float,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    given: str = "",
) -> subprocess.CompletedProcess[str]:
    """The same where a failure is an answer too: look at `returncode` and `stdout` (with stderr in it).

    `shown` is its name in a complaint, `given` what it reads.
    """
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=env,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
    except FileNotFoundError:
        raise Broken(f"{command[0]} is missing") from None
    except subprocess.TimeoutExpired:
        raise Broken(f"{shown}: not done after {timeout:.0f} s") from None


def last(text: str, lines: int) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """By SIGTERM, and by SIGKILL when that has not ended it in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
