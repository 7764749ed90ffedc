"""The reference is written from the code."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT


def test_no_page_of_the_reference_is_stale() -> None:
    """`make reference` would change nothing: settings, errors, metrics, schema, roles, states and commands are as the code has them."""
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
