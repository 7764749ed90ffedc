"""The locks: in step with pyproject.toml, and free of the machine that made them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scripts import lock

PIN = "redis==8.1.0 \\"
HASH = "    --hash=sha256:" + "0" * 64


def test_the_locks_are_in_step() -> None:
    """As `make check` asks."""
    assert lock.problems() == []


def test_the_dev_lock_holds_the_versions_of_the_other() -> None:
    """So that a dev install satisfies `up`."""
    assert lock.pins(lock.RUN).items() <= lock.pins(lock.DEV).items()


def test_what_does_not_belong_in_a_lock_is_found(tmp_path: Path) -> None:
    """An index, a folder of this machine, a pin without a hash, other dependencies."""
    path = tmp_path / "a.lock"
    path.write_text(f"# h\n--find-links wheels\n{PIN}\n{HASH}\nanyio==4.16.0 \\\nidna==3.20 \\\n{HASH}\n")
    found = lock.malformed(path, "# other")
    assert len(found) == 3
    assert "other dependencies" in found[0]
    assert "--find-links" in found[1]
    assert "a pin without a hash: anyio" in found[2]


def test_a_new_dependency_changes_the_header() -> None:
    """Otherwise the check could not see it."""
    wanted = lock.Wanted.read()
    more = replace(wanted, run=[*wanted.run, "new>=1"])
    assert more.header(lock.RUN) != wanted.header(lock.RUN)


def test_a_new_tool_changes_the_header_of_the_tools_alone() -> None:
    """The environment for development is not made anew for it."""
    wanted = lock.Wanted.read()
    more = replace(wanted, tools=[*wanted.tools, "new>=1"])
    changed = [path for path in (lock.RUN, lock.DEV, lock.TOOLS) if more.header(path) != wanted.header(path)]
    assert changed == [lock.TOOLS]
