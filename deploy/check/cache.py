"""What is fetched or built once for a machine, outside of the tree: whole or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WHOLE = ".whole"
"""Written last: a folder without it is half made, and is made anew."""


def cache() -> Path:
    return Path(os.environ.get("TASKMILL_DEPLOY_CACHE", "/var/tmp/taskmill-deploy"))  # noqa: S108  # nosec B108


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache. `make` fills it when it is not there; it may keep the path, as a venv does."""
    place = cache() / name
    if (place / WHOLE).exists():
        return place
    with one_at_a_time(name):
        if not (place / WHOLE).exists():
            if place.exists():
                shutil.rmtree(place)
            place.mkdir(parents=True)
            make(place)
            (place / WHOLE).touch()
    return place


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """A lock over processes that ends with the one that has it."""
    locks = cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / re.sub(r"[^\w.+-]", "_", name)).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that makes {name}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
